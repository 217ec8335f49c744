"""Runs that train an adapter over a tiny model. As a script, started by torchrun:

torchrun --nproc-per-node 2 adapter_runs.py BASE FOLDER '{"name": {"adapter": "lora"}, ...}'    trains in FOLDER/name
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.families import network
from helpers.tiny_runs import MODEL, Rows, options
from openglm.checkpoints.native import save_model
from openglm.config import DataConfig, LoraConfig, OptimizerConfig, ParallelConfig, PrefixConfig, SFTConfig
from openglm.train.adapters import Adapter
from openglm.train.loop import train
from openglm.train.run import Run

ALL = LoraConfig(rank=4, alpha=6, targets=("all",))
SHORT = PrefixConfig(length=3)


def base_model(folder: Path, model=MODEL) -> Path:
    return save_model(folder, network(model), None)


def run_adapter(base, out, *, on_step=None, parallel=None, lora=ALL, prefix=SHORT, model=MODEL, **changes):
    """changes: options of SFTConfig, or else of its training run."""
    of_run = {name: changes.pop(name) for name in ("adapter", "quantize") if name in changes}
    config = SFTConfig(
        init_from=str(base),
        train=options(out, **changes),
        data=DataConfig(),
        optimizer=OptimizerConfig(lr=1e-2),
        parallel=ParallelConfig(**(parallel or {})),
        lora=lora,
        prefix=prefix,
        **of_run,
    )
    return train(
        Run(
            config=config,
            model=model,
            rows=Rows(),
            heldout={"heldout": Rows(9)},
            adapter=Adapter(config, str(base)),
            init_from=str(base),
            on_step=on_step,
        )
    )


def main() -> None:
    torch.set_num_threads(1)
    base, folder, runs = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        dist.init_process_group("gloo")
    for name, changes in runs.items():
        run_adapter(base, folder / name, **changes)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
