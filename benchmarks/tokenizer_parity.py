"""Published tokenizers with added tokens against their originals, id by id, on random texts.

ChatGLM2's file: `sentencepiece` with the published code's rules (a text is cut at added tokens, what lies between is a
text of its own, "[gMASK] sop" in front). GLM-4's file: `transformers`' own conversion of it, with tokens added and saved
by `transformers`. Special tokens' names stand in the texts too: there the parts of `encode_parts` are compared.

    python benchmarks/tokenizer_parity.py --chatglm2 DIR/tokenizer.model --glm4 DIR/tokenizer.model --texts 20000
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from openglm.text import Tokenizer, load_tokenizer

ADDED = ["<color>", "新词元", "</color>", "naïve word", "CamelCase", "<col"]
BLANKS = [" ", "  ", "\n", "\t", "\r\n", " " * 9, "　", "\u200b", "▁"]
RANGES = [(0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x400, 0x500), (0x600, 0x700), (0x3040, 0x3100)]
RANGES += [(0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFF00, 0xFFEF), (0x1F300, 0x1FAFF), (0x20000, 0x20100), (1, 0x20)]


def random_texts(tokenizer: Tokenizer, special: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Tokens of the vocabulary, characters of many scripts, white space, added tokens and names of special ones."""
    rng = random.Random(seed)

    def piece() -> str:
        kind = rng.random()
        if kind < 0.5:
            return tokenizer.decode([rng.randrange(tokenizer.vocab_size)]).replace("\ufffd", "")
        if kind < 0.7:
            low, high = rng.choice(RANGES)
            return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 6)))
        if kind < 0.82:
            return rng.choice(BLANKS)
        return rng.choice(ADDED) if kind < 0.95 else rng.choice(special)

    return ["".join(piece() for _ in range(rng.randrange(25))) for _ in range(count)]


def parts_of(text: str, names: dict[str, int]) -> list[str | int]:
    """The text cut at these names, which become ids."""
    pattern = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    pieces = re.split(f"({pattern})", text)
    return [names[piece] if place % 2 else piece for place, piece in enumerate(pieces) if piece]


def compare(name: str, texts: Sequence[str], ours: Callable, theirs: Callable) -> int:
    """Print how many texts differ; returns that number."""
    differing = [text for text in texts if ours(text) != theirs(text)]
    tokens = sum(len(theirs(text)) for text in texts[:1000])
    print(f"{name}: {len(differing)} of {len(texts):,} texts differ ({tokens:,} tokens in the first 1,000)", flush=True)
    for text in differing[:3]:
        print(f"  {text!r}\n    ours   {ours(text)}\n    theirs {theirs(text)}", flush=True)
    return len(differing)


def chatglm2(path: Path, count: int) -> int:
    """Both generations that share the file."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    size, wrong = pieces.get_piece_size(), 0
    names = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]
    roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    frame = [size + 1, size + 3]  # [gMASK] sop
    for generation, specials in (("chatglm2", 5), ("chatglm3", 9)):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(path, folder)
            added = {name: size + specials + place for place, name in enumerate(ADDED)}
            (Path(folder) / "added_tokens.json").write_text(json.dumps(added))
            tokenizer = load_tokenizer(folder, generation)

        def original(text: str, added: dict[str, int] = added) -> list[int]:
            row = [*frame]
            for part in parts_of(text, added):
                row += pieces.encode(part) if isinstance(part, str) else [part]
            return row

        texts = random_texts(tokenizer, [*names, *roles, "</s>", "<0x0A>"], count)
        wrong += compare(f"{generation}, sentencepiece", texts, tokenizer.prompt, original)
        decoded = sum(tokenizer.decode(original(text)[2:]) != text.replace("▁", " ") for text in texts)
        print(f"{generation}: {decoded} of {count:,} texts do not come back", flush=True)
        wrong += decoded
    return wrong


def glm4(path: Path, count: int) -> int:
    """A folder as `transformers` saves it, and GLM-4's own file beside `added_tokens.json`."""
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    from openglm.text.bpe import _GLM4_PIECES, GLM4_SPECIAL

    converter = TikTokenConverter(str(path), pattern=_GLM4_PIECES, extra_special_tokens=list(GLM4_SPECIAL))
    theirs = PreTrainedTokenizerFast(tokenizer_object=converter.converted())
    theirs.add_tokens(ADDED)
    opened = {}
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        opened["saved by transformers"] = load_tokenizer(folder)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(path, folder)
        added = {name: number for name, number in theirs.get_added_vocab().items() if name in ADDED}
        (Path(folder) / "added_tokens.json").write_text(json.dumps(added))
        opened["tokenizer.model and added_tokens.json"] = load_tokenizer(folder)
    wrong = 0
    for name, tokenizer in opened.items():
        texts = random_texts(tokenizer, GLM4_SPECIAL, count)

        def ours(text: str, tokenizer: Tokenizer = tokenizer) -> list[int]:
            return tokenizer.encode_parts(parts_of(text, tokenizer.special))

        wrong += compare(f"glm4, {name}", texts, ours, lambda text: theirs.encode(text, add_special_tokens=False))
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chatglm2", type=Path, help="tokenizer.model of ChatGLM2 and ChatGLM3")
    parser.add_argument("--glm4", type=Path, help="tokenizer.model of GLM-4")
    parser.add_argument("--texts", type=int, default=20_000)
    given = parser.parse_args()
    wrong = chatglm2(given.chatglm2, given.texts) if given.chatglm2 else 0
    wrong += glm4(given.glm4, given.texts) if given.glm4 else 0
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
