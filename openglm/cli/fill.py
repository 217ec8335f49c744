"""`glm fill`: blank infilling from the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from openglm.cli.options import parse


@dataclass
class FillOptions:
    """Fill the blanks of a text: glm fill '床前___月光'."""

    text: Annotated[str, tyro.conf.Positional]
    """text with one or more blanks"""
    model: str = "nano"
    """folder of a model, or the name of one that ships with the package"""
    blank: str = "___"
    """what stands where words are missing"""
    candidates: int = 16
    """fillings tried for each blank; the one that makes the whole text likeliest is taken. 1: the model's own
    [MASK], untested"""
    max_tokens: int = 32
    """longest filling, in tokens"""
    temperature: float = 0.0
    """0 always takes the likeliest token; higher is more varied"""
    device: str = "auto"
    """auto, cpu, cuda, mps, ..."""
    json: bool = False
    """print one JSON object instead of text, with the five likeliest fillings of each blank; their probabilities are
    among the candidates"""


def run(argv: list[str]) -> int:
    options = parse(FillOptions, argv, "glm fill", "Fill the blanks of a text.")
    from openglm.assistant import Assistant

    [fillings] = Assistant(options.model, device=options.device).fillings(
        [options.text],
        options.blank,
        candidates=options.candidates,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
    )
    pieces = options.text.split(options.blank)
    whole = pieces[0] + "".join(filling.text + piece for filling, piece in zip(fillings, pieces[1:], strict=True))
    if not options.json:
        print(whole)
        return 0
    choices = [[{"text": one.text, "probability": one.probability} for one in filling.choices] for filling in fillings]
    answer = {"text": whole, "fillings": [filling.text for filling in fillings], "choices": choices}
    print(json.dumps(answer, ensure_ascii=False))
    return 0
