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
    """folder of a model, or the name of a bundled model"""
    adapter: str = ""
    """folder of a LoRA or a prefix for this model"""
    blank: str = "___"
    """the text that marks a blank"""
    candidates: int = 16
    """number of fillings to try for each blank; the one that makes the whole text likeliest wins.
    1: take the model's first answer to [MASK]"""
    max_tokens: int = 32
    """maximum length of a filling, in tokens"""
    temperature: float = 0.0
    """0: always take the likeliest; higher values vary more"""
    device: str = "auto"
    """device to run on: auto, cpu, cuda, mps, ..."""
    json: bool = False
    """print one JSON object instead of text.
    It lists the five likeliest fillings of each blank, with their probabilities among the candidates"""


def run(argv: list[str]) -> int:
    options = parse(FillOptions, argv, "glm fill", "Fill the blanks of a text.")
    from openglm.assistant import Assistant

    assistant = Assistant(options.model, adapter=options.adapter or None, device=options.device)
    [fillings] = assistant.fillings(
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
