"""Groups of tasks under one name, with the average that GLM's papers give for them, and the published figures of others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from openglm.evaluation.tasks import AGIEVAL, BIGBENCH_LITE, LANGUAGES

_CLUE = ("c3", "wsc", "cmnli", "drcd", "ocnli", "afqmc", "cmrc")
_FEWCLUE = ("eprstmt", "ocnli", "bustm", "chid", "cluewsc")
_CODE = tuple(f"humaneval-x/{name}" for name in LANGUAGES)
SUITES: Mapping[str, Sequence[str]] = {
    "deck-mmlu": ("mmlu",),
    "deck-scenarios": (
        *("mmlu", "ceval", "cmmlu", "openbookqa", "commonsenseqa", "boolq", "clue/c3", "parables-zh", "idioms"),
        *("logiqa", "piqa", "siqa", "clue/cmnli", "clue/ocnli", "gsm8k", "asdiv"),
    ),
    "deck-exams": tuple(f"agieval/{name}" for name in AGIEVAL),
    "helm": ("mmlu", "boolq", "openbookqa", "commonsenseqa", "crows-pairs", "stereoset", "bbq"),
    "clue": tuple([f"clue/{name}" for name in _CLUE] + [f"fewclue/{name}" for name in _FEWCLUE]),
    "lambada": ("lambada",),
    "bigbench-lite": tuple(f"bigbench/{name}" for name in BIGBENCH_LITE),
    "code": ("humaneval", *_CODE),
}
_CODEGEEX = dict(
    zip(_CODE, ((22.9, 35.9), (17.1, 29.3), (20.0, 30.8), (17.6, 32.2), (14.4, 22.5), (4.3, 18.1)), strict=True)
)
_ERNIE = {
    "clue/c3": (77.5, 54.9), "clue/wsc": (83.9, 81.1), "clue/cmnli": (77.0, 51.7), "clue/drcd": (77.1, 29.5),
    "clue/ocnli": (74.7, 44.6), "clue/afqmc": (71.2, 69.0), "clue/cmrc": (55.7, 16.6),
    "fewclue/eprstmt": (92.5, 88.8), "fewclue/ocnli": (73.8, 53.8), "fewclue/bustm": (77.5, 64.4),
    "fewclue/chid": (90.1, 87.1), "fewclue/cluewsc": (77.4, 53.5),
}  # fmt: skip
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "mmlu": {"GLM-130B": 44.8, "GPT-3 175B": 43.9, "ChatGLM2-6B": 47.9, "GLM-4-9B": 74.7},
    "ceval": {"ChatGLM-6B": 38.9, "ChatGLM2-6B": 51.7, "GLM-4-9B": 77.1},
    "gsm8k": {"ChatGLM-6B": 4.8, "ChatGLM2-6B": 32.4, "GLM-4-9B": 84.0},
    "lambada": {"GLM-130B": 80.2, "GLM-130B, left to right": 75.3, "GLM-10B": 72.4},
    "humaneval": {"CodeGeeX-13B": 22.9, "CodeGeeX2-6B": 35.9},
    **{name: {"GLM-130B": ours, "ERNIE 3.0 Titan 260B": theirs} for name, (ours, theirs) in _ERNIE.items()},
    **{name: {"CodeGeeX-13B": one, "CodeGeeX2-6B": two} for name, (one, two) in _CODEGEEX.items()},
}
"""percent, as GLM-130B's paper (arXiv 2210.02414), the model cards and CodeGeeX2's give them"""


def expand(names: Sequence[str]) -> list[str]:
    """Tasks in place of their suites' names."""
    return list(dict.fromkeys(task for name in names for task in SUITES.get(name, (name,))))


def averages(names: Sequence[str], tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each suite the plain mean over its tasks; BIG-bench-lite's is of (value - chance) / (1 - chance), so that
    guessing is 0. None where a task has no value."""
    found: dict[str, dict[str, Any]] = {}
    for suite in (name for name in names if name in SUITES):
        each = [tasks[name] for name in SUITES[suite]]
        if any(one["value"] is None for one in each):
            found[suite] = {"value": None, "stderr": None}
            continue
        above = suite == "bigbench-lite"
        scales = [1 - one["chance"] if above else 1.0 for one in each]
        values = [(one["value"] - one["chance"] * above) / scale for one, scale in zip(each, scales, strict=True)]
        errors = [one["stderr"] / scale for one, scale in zip(each, scales, strict=True)]
        found[suite] = {"value": sum(values) / len(each), "stderr": math.hypot(*errors) / len(each)}
    return found
