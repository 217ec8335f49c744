"""A tokenizer as `transformers` reads it: `tokenizer.json` of the `tokenizers` library, its settings and a chat
template, with the same ids, special tokens and chat form as ours."""

import json
from operator import itemgetter
from pathlib import Path
from typing import Any

from openglm.config import require
from openglm.files import write_file
from openglm.text.beside import SETTINGS, Added
from openglm.text.bpe import BpeTokenizer, joins
from openglm.text.formats import Format, RoleTurns, Rounds
from openglm.text.sentencepiece import SentencePieceTokenizer
from openglm.text.tokenizer import Tokenizer


def write_library_files(folder: Path, tokenizer: Tokenizer) -> None:
    """Into a converted folder. Raises ValueError where the library has no form for the vocabulary."""
    text, decoder = library_json(tokenizer), {}
    for row in _rows(tokenizer).values():
        decoder[row.pop("id")] = row
    name_of = {number: name for name, number in tokenizer.special.items()}
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "openglm_format": tokenizer.format.name,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "eos_token": name_of[tokenizer.stop[0]],
        "pad_token": name_of[tokenizer.tokens.pad],
        "model_max_length": tokenizer.format.sampling.max_length,
        "chat_template": chat_template(tokenizer.format) or None,
        "added_tokens_decoder": decoder,
    }
    write_file(folder / "tokenizer.json", text)
    write_file(folder / SETTINGS, json.dumps(settings, ensure_ascii=False, indent=1) + "\n")


def library_json(tokenizer: Tokenizer) -> str:
    """The `tokenizer.json`, with special tokens matched in texts and put in front of them, as other programs expect.

    Raises ValueError for a vocabulary that the library cannot hold.
    """
    rows = _rows(tokenizer)
    layout, head = _layout(tokenizer), tokenizer.format.frame.head
    # In the vocabulary too, for the library numbers anew what it does not find there.
    layout["model"]["vocab"] |= {name: row["id"] for name, row in rows.items()}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    before = [{"SpecialToken": {"id": name, "type_id": 0}} for name in head]
    framed = {"single": [*before, first], "pair": [*before, first, second]}
    names = {name: {"id": name, "ids": [tokenizer.special[name]], "tokens": [name]} for name in head}
    processor = {"type": "TemplateProcessing", **framed, "special_tokens": names} if head else None
    layout |= {"added_tokens": sorted(rows.values(), key=itemgetter("id")), "post_processor": processor}
    return json.dumps(layout, ensure_ascii=False)


def _rows(tokenizer: Tokenizer) -> dict[str, Added]:
    """Special and added tokens by content."""
    rows: dict[str, Added] = {}
    for name, number in tokenizer.special.items():
        sides = dict.fromkeys(("lstrip", "rstrip"), tokenizer.strips)
        rows[name] = {"id": number, "content": name, "special": name not in tokenizer.shown, **sides}
        rows[name] |= {"single_word": name.isalnum(), "normalized": False}  # "sop" is no part of "philosophy"
    return rows | {name: dict(token) for name, token in tokenizer.added_tokens.items()}


def _layout(tokenizer: Tokenizer) -> dict[str, Any]:
    """All but the special tokens."""
    if isinstance(tokenizer, BpeTokenizer):
        return tokenizer.layout()
    assert isinstance(tokenizer, SentencePieceTokenizer)
    pieces, numbers = tokenizer.pieces, range(tokenizer.pieces.get_piece_size())
    ranked = all(pieces.get_score(number).is_integer() for number in numbers)  # scores of unigram models are logarithms
    plain = tokenizer.offset == 0 and pieces.normalize("ﬁ  x") == "▁ﬁ▁▁x"
    require(
        ranked and plain,
        "tokenizer",
        tokenizer.format.name,
        "`tokenizers` has no form for this vocabulary; convert to openglm",
    )
    vocabulary = {pieces.id_to_piece(number): number for number in numbers}
    odd = {*tokenizer.special.values(), *filter(pieces.is_byte, numbers)}
    merges = joins({name: number for name, number in vocabulary.items() if number not in odd})
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges, "unk_token": "<unk>"}
    return {
        "version": "1.0",
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]},
        "model": {**model, "byte_fallback": True, "fuse_unk": True},
    }


def chat_template(format: Format) -> str:
    """A conversation without tools as our renderer writes it; "" for a form that has none."""
    turns = format.turns
    if isinstance(turns, Rounds) and not turns.bare:
        return _rounds_template(turns)
    if not isinstance(turns, RoleTurns):
        return ""
    role, content = "message['role']", "message['content']"
    if turns.thinks:
        content = f"({content}.split('</think>')[-1].strip() if {role} == 'assistant' else {content})"
    gap = "\n" if turns.joined else "\n "  # SentencePiece puts a space before a content that is a text of its own
    turn = f"<|{{{{ 'observation' if {role} == 'tool' else {role} }}}}|>{gap}{{{{ {content} }}}}"
    opening = f"<|assistant|>{turns.opening}"
    return f"{''.join(turns.head)}{{% for message in messages %}}{turn}{{% endfor %}}{{% if add_generation_prompt %}}{opening}{{% endif %}}"


def _rounds_template(turns: Rounds) -> str:
    """Questions stand at even places; the system message before the last of them."""
    said, last = "{{ message['content'] }}", "loop.index0 // 2 == (said | length - 1) // 2"
    number, system = f"{{{{ loop.index0 // 2 + {turns.first} }}}}", f"{{% if {last} %}}{{{{ system }}}}{{% endif %}}"
    question = f"[Round {number}]{turns.gap}问：{system}{said}{turns.gap}答："
    answer = f"{{% if loop.last %}} {said}{turns.end}{{% else %}}{said}{turns.gap}{{% endif %}}"
    return (
        "{% set has = messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] if has else '' %}"
        f"{{% set said = messages[1:] if has else messages %}}{''.join(turns.head)}{{% for message in said %}}"
        f"{{% if loop.index0 % 2 == 0 %}}{question}{{% else %}}{answer}{{% endif %}}{{% endfor %}}"
    )
