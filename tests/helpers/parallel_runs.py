"""Trains the tiny network in several layouts, one after another; started by torchrun.

    torchrun --nproc-per-node 4 parallel_runs.py FOLDER '{"name": {"parallel": {...}, "model": {...}, "optimizer": {...}, "train": {...}, "stability": {...}, "bad": [60]}, ...}'

The first process writes FOLDER/name/losses.json. A run that refuses its options leaves FOLDER/name.error.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.tiny_runs import MODEL, Poisoned, Rows, options
from openglm.config import OptimizerConfig, ParallelConfig, RunConfig, StabilityConfig
from openglm.train.loop import train
from openglm.train.run import Run


def run(
    folder: Path,
    name: str,
    parallel: dict,
    model: dict,
    optimizer: dict,
    train_options: dict,
    stability: dict,
    bad: list,
) -> None:
    losses: dict[int, list[float]] = {}

    def on_step(step: int, record: dict) -> None:
        losses[step] = [record["loss"], record["grad_norm"]]

    first = not dist.is_initialized() or dist.get_rank() == 0
    try:
        config = RunConfig(
            train=options(folder / name, **train_options),
            optimizer=OptimizerConfig(**{"lr": 1e-3, **optimizer}),
            parallel=ParallelConfig(**parallel),
            stability=StabilityConfig(**stability),
        )
        train(
            Run(
                config=config,
                model=replace(MODEL, **model),
                rows=Poisoned(*bad),
                heldout={"heldout": Rows(9)},
                on_step=on_step,
            )
        )
        if first:
            (folder / name / "losses.json").write_text(json.dumps(losses))
    except ValueError as error:
        if first:
            (folder / f"{name}.error").write_text(str(error))


def main() -> None:
    torch.set_num_threads(1)
    folder, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
    import os

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        dist.init_process_group("gloo")
    for name, run_options in runs.items():
        run(
            folder,
            name,
            *(run_options.get(part, {}) for part in ("parallel", "model", "optimizer", "train", "stability", "bad")),
        )
    if dist.is_initialized():
        dist.destroy_process_group()


main()
