"""A small tokenizer of every published kind, as folders that `load_tokenizer` opens."""

import base64
import io
import json
from pathlib import Path

import sentencepiece

from helpers.text_samples import TEXTS
from openglm.checkpoints.library import library_json
from openglm.text.bpe import GLM4_SPECIAL, BpeTokenizer, bpe_of_ranks, byte_of_character
from openglm.text.formats import FORMATS
from openglm.text.thinking import MARKS

GOLDEN = Path(__file__).parent.parent / "golden"
ROLES = ("chatglm3-6b", "glm-4", "glm-4-0414", "glm-z1", "openglm")
ROUNDS = ("chatglm-6b", "chatglm-6b-first", "chatglm2-6b")
THINKING = ("glm-4.5", "glm-4.7", "glm-5.1", "glm-5.2", "glm-5.3")
"""Each with what tells its chat template from the others'."""
TEMPLATES = dict(
    zip(
        THINKING,
        (
            "<arg_key> </think> /nothink",
            "<arg_key> </think>",
            "<arg_key> </think> defer_loading",
            "<arg_key> </think> defer_loading Reasoning Effort",
            "<arg_key> </think> defer_loading Reasoning Effort {% set x = clear_thinking is defined else false %}",
        ),
        strict=True,
    )
)
Z1_TEMPLATE = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content.split('</think>')[-1].strip() }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n<think>{% endif %}"
)
BASE = ("glm-10b", "glm-130b", "glm-10b-chinese")
KINDS = (*ROLES[:-1], *THINKING, *ROUNDS, *BASE)


def sentencepiece_model(**options) -> bytes:
    """A unigram model of this room's sample texts, with icetk's normalization and line end."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line.replace("\n", "<n>") for line in TEXTS]),
        model_writer=model,
        vocab_size=600,
        model_type="unigram",
        normalization_rule_name="nmt_nfkc",
        user_defined_symbols=["<n>"],
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    return model.getvalue()


def ranks_of(tokenizer) -> dict[bytes, int]:
    """The text tokens of one of our tokenizers as a tiktoken vocabulary."""
    first = len(tokenizer.special)
    return {tokenizer.decode_bytes([number]): number - first for number in range(first, tokenizer.vocab_size)}


def tiktoken_file(ranks) -> bytes:
    return b"".join(base64.b64encode(token) + f" {number}\n".encode() for token, number in ranks.items())


def huggingface_file(ranks, format="glm-4", marks=()) -> bytes:
    """marks: tokens of their own that are no special ones, as GLM-4.5's tokenizer has them."""
    bpe, vocabulary = bpe_of_ranks(ranks)
    special = {name: len(vocabulary) + i for i, name in enumerate([*GLM4_SPECIAL, *marks])}
    return library_json(BpeTokenizer({}, bpe, vocabulary, special, FORMATS[format])).encode()


def gpt2_files(tokenizer) -> dict[str, bytes]:
    """GLM-10B's two files with a token for each byte; special tokens are left to follow."""
    character_of = {byte: character for character, byte in byte_of_character().items()}
    names = ["".join(map(character_of.__getitem__, token)) for token in ranks_of(tokenizer)]
    merges = [("".join(pair)) for pair in ("t h", "th e", "Ġ the", "i n", "ä ½")]
    names = list(dict.fromkeys([*names, "th", "the", "Ġthe", "in", "ä½"]))
    return {
        "vocab.json": json.dumps({name: i for i, name in enumerate(names)}).encode(),
        "merges.txt": "#version: 0.2\n{}\n".format("\n".join(merges)).encode(),
    }


def make_folders(folder: Path, tokenizer) -> dict[str, Path]:
    ranks = ranks_of(tokenizer)
    shared, bare = GOLDEN / "sp_tokenizers", sentencepiece_model()
    config = {"model_type": "chatglm", "architectures": ["ChatGLMModel"]}
    contents = {
        "chatglm-6b": {
            "ice_text.model": (shared / "ice_text.model").read_bytes(),
            "config.json": {**config, "vocab_size": 130528},
        },
        "chatglm-6b-first": {"ice_text.model": bare, "config.json": {**config, "vocab_size": 150528}},
        "glm-130b": {"ice_text.model": bare},
        "chatglm2-6b": {
            "tokenizer.model": (shared / "tokenizer.model").read_bytes(),
            "tokenizer_config.json": {"name_or_path": "THUDM/chatglm2-6b"},
            "config.json": config,
        },
        "chatglm3-6b": {
            "tokenizer.model": (shared / "tokenizer.model").read_bytes(),
            "tokenization_chatglm.py": 'special = ["<|assistant|>"]',
            "config.json": config,
        },
        "glm-4": {"tokenizer.model": tiktoken_file(ranks), "config.json": config},
        "glm-4-0414": {"tokenizer.json": huggingface_file(ranks), "config.json": {"model_type": "glm4"}},
        "glm-z1": {
            "tokenizer.json": huggingface_file(ranks),
            "config.json": {"model_type": "glm4"},
            "chat_template.jinja": Z1_TEMPLATE,
        },
        **{
            kind: {"tokenizer.json": huggingface_file(ranks, kind, MARKS), "chat_template.jinja": TEMPLATES[kind]}
            for kind in THINKING
        },
        "glm-10b": gpt2_files(tokenizer),
        "glm-10b-chinese": {"cog-pretrain.model": sentencepiece_model(byte_fallback=True)},
    }
    for kind, files in contents.items():
        (folder / kind).mkdir()
        for name, content in files.items():
            (folder / kind / name).write_bytes(
                content
                if isinstance(content, bytes)
                else content.encode()
                if isinstance(content, str)
                else json.dumps(content).encode()
            )
    return {kind: folder / kind for kind in contents}
