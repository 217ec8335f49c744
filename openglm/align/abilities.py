"""A short measure of what a model could do before it was tuned: plain text and blanks, the same for every model.

`passages.py` holds the texts: too few to rank models by, enough to see one of them forget.
"""

import math
import re
from collections.abc import Iterator, Sequence

from openglm.align.passages import PASSAGES
from openglm.engine.engine import Engine
from openglm.engine.filling import Filler
from openglm.engine.params import SamplingParams

_BLANK = re.compile(r"\[(.+?)\]")
_MOST_CHARACTERS = 1 << 16
Given = tuple[Sequence[int], Sequence[int]]
"""ids of a prompt, and of what is to follow"""


def abilities(engine: Engine) -> dict[str, float]:
    """Bits per byte, lower is better: `text` of plain text read from left to right; `blanks` of words that were cut out
    of it, with both sides in view, for models that fill [MASK]."""
    filler = Filler(engine.tokenizer, engine.model.config, _MOST_CHARACTERS)
    room = engine.context - len(filler.start)
    texts = [engine.tokenizer.encode(_BLANK.sub(r"\1", text))[:room] for text in PASSAGES]
    found = {"text": bits_per_byte(engine, [(filler.start, ids) for ids in texts])}
    if filler.both_sides:
        found["blanks"] = bits_per_byte(engine, list(_blanks(filler, engine.context)))
    return found


def bits_per_byte(engine: Engine, given: Sequence[Given]) -> float:
    """What the model needs to tell what follows the prompts."""
    forced = [SamplingParams(forced=tuple(ids), logprobs=0, ignore_eos=True) for _, ids in given]
    results = engine.generate([prompt for prompt, _ in given], forced)
    for result in results:
        assert not result.error, result.error
    nats = -sum(sum(token.logprob for token in result.logprobs) for result in results)
    return nats / math.log(2) / sum(len(engine.tokenizer.decode_bytes(ids)) for _, ids in given)


def _blanks(filler: Filler, context: int) -> Iterator[Given]:
    """Texts with a blank, and the word that was cut out; not where its tokens go on beyond its borders."""
    encode = filler.tokenizer.encode
    for text in PASSAGES:
        for match in _BLANK.finditer(text):
            before, after = (_BLANK.sub(r"\1", part) for part in (text[: match.start()], text[match.end() :]))
            left, both = encode(filler.tokenizer.border(before)[0]), encode(before + match[1])
            word = both[len(left) :]
            prompt, _ = filler.infill_prompt(before, after, context - len(word))
            if word and both[: len(left)] == left:
                yield prompt, word
