"""`glm reward`: a model that scores answers, learnt from pairs."""

from __future__ import annotations

import tyro

from openglm.cli.options import parse
from openglm.cli.pretrain import open_train, report
from openglm.config import PairsConfig, RewardConfig


def run(argv: list[str]) -> int:
    default = RewardConfig(init_from=tyro.MISSING, train=open_train(), data=PairsConfig(pairs=tyro.MISSING))
    about = (
        "Teach a model to score answers from pairs of a better and a worse one (--data.pairs FILE.jsonl). "
        "The same command resumes a run."
    )
    config = parse(RewardConfig, argv, "glm reward", about, default)
    from openglm.align.pairs import reward

    return report(reward(config))
