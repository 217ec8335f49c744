"""`glm dpo`: tune a model to prefer the better answer of each pair."""

from __future__ import annotations

import tyro

from openglm.cli.options import parse
from openglm.cli.pretrain import open_train, report
from openglm.config import DPOConfig, PairsConfig


def run(argv: list[str]) -> int:
    default = DPOConfig(init_from=tyro.MISSING, train=open_train(), data=PairsConfig(pairs=tyro.MISSING))
    about = (
        "Tune a model to prefer the better of two answers (--data.pairs FILE.jsonl with prompt, chosen, rejected). "
        "The same command resumes a run."
    )
    config = parse(DPOConfig, argv, "glm dpo", about, default)
    from openglm.align.pairs import dpo

    return report(dpo(config))
