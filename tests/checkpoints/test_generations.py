"""Generation, stop tokens and chat form of a folder are decided once, from tokenizer and configuration together."""

import json
import shutil

import pytest
from helpers.tokenizer_files import GOLDEN, ranks_of, tiktoken_file

from openglm.checkpoints.load import network_and_tokenizer, network_config
from openglm.cli.main import main
from openglm.text import load_tokenizer

LATER = json.loads((GOLDEN / "chatglm3_6b/checkpoint/config.json").read_text())
# What is left of a published folder after tuning. The tables have other sizes than the published ones.
FOLDERS = {
    "ChatGLM3-32k, roles among the added tokens": (
        "chatglm3-6b",
        dict(seq_length=32768, rope_ratio=50, padded_vocab_size=65040),
        {"tokenizer_config.json": {"additional_special_tokens": ["<|user|>", "<|observation|>"]}},
    ),
    "ChatGLM3-32k, its ends in the generation's file": (
        "chatglm3-6b",
        dict(seq_length=32768, rope_ratio=50, padded_vocab_size=65024),
        {"generation_config.json": {"eos_token_id": [2, 64795, 64797]}},
    ),
    "ChatGLM3, its ends in the configuration": (
        "chatglm3-6b",
        dict(seq_length=32768, padded_vocab_size=64798, eos_token_id=[2, 64795, 64797]),
        {},
    ),
    "ChatGLM3, a template": (
        "chatglm3-6b",
        dict(seq_length=32768, padded_vocab_size=65536),
        {"chat_template.jinja": "{% for m in messages %}<|{{ m.role }}|>{% endfor %}<|assistant|>"},
    ),
    "ChatGLM2, its code": (
        "chatglm2-6b",
        dict(seq_length=32768, padded_vocab_size=65040),
        {"tokenization_chatglm.py": "raise SystemExit"},
    ),
    "ChatGLM2, a name": ("chatglm2-6b", dict(seq_length=32768), {"tokenizer_config.json": {"name": "codegeex2-6b"}}),
}


def folder_of(tmp_path, config: dict, files: dict, tokenizer: bytes = b""):
    folder = tmp_path / "m"
    folder.mkdir()
    for name, content in {"config.json": {**LATER, **config}, **files}.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    if tokenizer:
        (folder / "tokenizer.model").write_bytes(tokenizer)
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_tuned_folders_keep_their_generation(name, tmp_path):
    generation, config, files = FOLDERS[name]
    folder = folder_of(tmp_path, {"padded_vocab_size": 65024, **config}, files)
    stop = network_config(folder).tokens.stop
    assert set(stop) == ({2, 64795, 64797} if generation == "chatglm3-6b" else {2})


@pytest.mark.parametrize("name", [name for name in FOLDERS if "its ends" not in name])  # those are published ids
def test_tokenizer_and_network_agree(name, tmp_path):
    generation, config, files = FOLDERS[name]
    content = (GOLDEN / "sp_tokenizers/tokenizer.model").read_bytes()
    folder = folder_of(tmp_path, {**config, "padded_vocab_size": 1024}, files, content)
    shape, tokenizer = network_and_tokenizer(folder)
    assert tokenizer.format.name == generation and shape.tokens.stop == tokenizer.stop
    ends = ("</s>", "<|user|>", "<|observation|>") if generation == "chatglm3-6b" else ("</s>",)
    assert set(shape.tokens.stop) == {tokenizer.special[end] for end in ends}
    assert shape.tokens.gmask == tokenizer.special["[gMASK]"]


def test_answers_stop_where_any_of_the_files_says(toy, tmp_path):
    """GLM-4 whose table was resized, with one end of answers in each file."""
    ranks = ranks_of(load_tokenizer(toy))
    files = {"generation_config.json": {"eos_token_id": [len(ranks) + 7]}}
    config = dict(padded_vocab_size=1010, vocab_size=1010, eos_token_id=len(ranks) + 5)
    shape, theirs = network_and_tokenizer(folder_of(tmp_path, config, files, tiktoken_file(ranks)))
    assert theirs.format.name == "glm-4" and theirs.rows == 1010
    assert set(shape.tokens.stop) == {len(ranks) + place for place in (0, 5, 7, 9)}


@pytest.mark.parametrize("rows", [151343, 151554, 152064])
def test_glm4_with_resized_rows_stops(rows, tmp_path):
    shape = network_config(folder_of(tmp_path, dict(padded_vocab_size=rows, eos_token_id=151329, rope_ratio=500), {}))
    assert set(shape.tokens.stop) == {151329, 151336, 151338} and shape.rope_theta == 5e6


UNCLEAR = dict(seq_length=32768, rope_ratio=50, padded_vocab_size=1024)


def test_what_stays_unclear_is_refused_with_the_option_that_decides(tmp_path):
    """A long ChatGLM2 divides positions, a long ChatGLM3 multiplies the base: a guess would be silently wrong."""
    folder = folder_of(tmp_path, UNCLEAR, {}, (GOLDEN / "sp_tokenizers/tokenizer.model").read_bytes())
    for call in (network_config, load_tokenizer, network_and_tokenizer):
        with pytest.raises(ValueError, match="--format chatglm2 or --format chatglm3") as error:
            call(folder)
        assert "\n" not in str(error.value)
    shape, tokenizer = network_and_tokenizer(folder, "chatglm3")
    assert shape.rope_theta == 500_000 and "<|user|>" in tokenizer.special and len(shape.tokens.stop) == 3
    with pytest.raises(ValueError, match=r"config\.rope_ratio = 50: ChatGLM2 divides"):
        network_and_tokenizer(folder, "chatglm2")
    with pytest.raises(ValueError, match="format = 'gpt': choose one of chatglm2, chatglm3, glm4"):
        load_tokenizer(folder, "gpt")


@pytest.mark.parametrize("verb", [["chat", "M", "--prompt", "x"], ["convert", "M", "out"]])
def test_the_option_is_on_the_command_line(verb, tmp_path, capsys):
    folder = folder_of(tmp_path, UNCLEAR, {}, (GOLDEN / "sp_tokenizers/tokenizer.model").read_bytes())
    words = [str(folder) if word == "M" else word for word in verb]
    assert main(words) == 1 and "--format chatglm3" in capsys.readouterr().err
    assert main([*words, "--format", "chatglm3"]) == 1
    assert "--format" not in capsys.readouterr().err  # now it is the weights that are missing


@pytest.mark.parametrize("rows, ends", [(700, 2), (1024, 900)])
def test_a_wrong_tokenizer_beside_a_model_is_named(rows, ends, tmp_path, capsys):
    """One with more tokens than the model has rows, and one without the token that ends the model's answers."""
    config = dict(seq_length=8192, padded_vocab_size=rows, eos_token_id=[2, ends])
    folder = folder_of(tmp_path, config, {}, (GOLDEN / "sp_tokenizers/tokenizer.model").read_bytes())
    shutil.copy(GOLDEN / "chatglm3_6b/checkpoint/model-00001-of-00003.safetensors", folder / "model.safetensors")
    data = tmp_path / "d.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    sft = ["sft", "--init-from", str(folder), "--data.dialogues", "d", str(data), "--train.out", str(tmp_path / "o")]
    for argv in (["chat", str(folder), "--prompt", "x"], [*sft, "--train.steps", "1"]):
        assert main(argv) == 1
        said = capsys.readouterr().err
        assert "belongs to another model" in said and "Traceback" not in said and len(said.splitlines()) == 1
