"""`glm sft`: tune a model on conversations."""

from __future__ import annotations

import tyro

from openglm.cli.options import parse
from openglm.cli.pretrain import open_train, report
from openglm.config import DataConfig, SFTConfig


def run(argv: list[str]) -> int:
    default = SFTConfig(init_from=tyro.MISSING, train=open_train(), data=DataConfig())
    about = "Tune a model on conversations (--data.dialogues NAME FILE.jsonl); only the assistant's words are trained. The same command resumes a run."
    config = parse(SFTConfig, argv, "glm sft", about, default)
    from openglm.train.sft import sft

    return report(sft(config))
