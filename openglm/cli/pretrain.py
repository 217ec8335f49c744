"""`glm pretrain`: a model by blank infilling, from random weights or those of another."""

from __future__ import annotations

import tyro

from openglm.cli.options import parse, read_toml, take
from openglm.config import DataConfig, PretrainConfig, TrainConfig, require
from openglm.presets import model_preset


def run(argv: list[str]) -> int:
    argv, preset = take(argv, "--preset")
    file = take(argv, "--config")[1]
    table = read_toml(file) if file else {}
    start = take(argv, "--init-from")[1] or table.get("init_from")
    require(not (preset and start), "--preset", preset, f"{start} (init_from) brings its own shape; leave one out")
    if start:
        from openglm.checkpoints.load import network_config

        model = network_config(start)
    else:
        model = model_preset(preset or table.get("preset", "nano"))
    default = PretrainConfig(model=model, data=DataConfig(path=tyro.MISSING), train=open_train())
    about = (
        "Train a model by blank infilling, from scratch or from --init-from. The same command resumes a run, and a "
        "larger --train.steps goes on with a finished one. --preset NAME chooses the shape (default: nano), --model.* "
        "changes it."
    )
    config = parse(PretrainConfig, argv, "glm pretrain", about, default, ignore=("preset",))
    from openglm.train.pretrain import pretrain

    return report(pretrain(config))


def open_train() -> TrainConfig:
    """Training options without the folder, which the user must give."""
    return TrainConfig(out=tyro.MISSING)


def report(result) -> int:
    """One line about how a run ended."""
    from openglm.runtime import say

    say(
        f"trained: {result.model}"
        if result.finished
        else f"stopped at step {result.step}; run the same command to continue"
    )
    return 0
