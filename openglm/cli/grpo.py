"""`glm grpo`: tune a model by the rewards of its own answers."""

from __future__ import annotations

import tyro

from openglm.cli.options import parse
from openglm.cli.pretrain import open_train, report
from openglm.config import GRPOConfig, PromptsConfig


def run(argv: list[str]) -> int:
    default = GRPOConfig(init_from=tyro.MISSING, train=open_train(), data=PromptsConfig(prompts=tyro.MISSING))
    about = (
        "Tune a model by the rewards of its own answers (--data.prompts FILE.jsonl, --rollout.check arithmetic). "
        "The same command resumes a run."
    )
    config = parse(GRPOConfig, argv, "glm grpo", about, default)
    from openglm.align.online import grpo

    return report(grpo(config))
