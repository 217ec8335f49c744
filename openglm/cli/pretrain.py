"""`glm pretrain`: a model from random weights by blank infilling."""

from __future__ import annotations

import tyro

from openglm.cli.options import parse, read_toml, take
from openglm.config import DataConfig, PretrainConfig, TrainConfig
from openglm.presets import model_preset


def run(argv: list[str]) -> int:
    argv, preset = take(argv, "--preset")
    if preset is None:
        _, file = take(argv, "--config")
        preset = read_toml(file).get("preset", "nano") if file else "nano"
    default = PretrainConfig(model=model_preset(preset), data=DataConfig(path=tyro.MISSING), train=open_train())
    about = "Train a model from scratch by blank infilling. The same command resumes a run. --preset NAME chooses the shape (default: nano), --model.* changes it."
    config = parse(PretrainConfig, argv, "glm pretrain", about, default, ignore=("preset",))
    from openglm.train.pretrain import pretrain

    return report(pretrain(config))


def open_train() -> TrainConfig:
    """Training options without the folder and length, which the user must give."""
    train = TrainConfig(out="", steps=1)
    object.__setattr__(train, "out", tyro.MISSING)
    object.__setattr__(train, "steps", tyro.MISSING)
    return train


def report(result) -> int:
    """One line about how a run ended."""
    from openglm.runtime import say

    say(
        f"trained: {result.model}"
        if result.finished
        else f"stopped at step {result.step}; run the same command to continue"
    )
    return 0
