"""DeepSpeed's interface on PyTorch's own sharding: `import openglm.deepspeed as deepspeed` is the one line to change.

ZeRO 1 to 3 are FSDP2's fully_shard, stage 0 its replicate. What is honoured and what refused: docs/deepspeed.md.
"""

import argparse
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from openglm.config import require
from openglm.deepspeed import checkpointing, comm, config, zero
from openglm.deepspeed.engine import Engine
from openglm.deepspeed.groups import init_distributed

__all__ = ["Engine", "add_config_arguments", "checkpointing", "comm", "init_distributed", "initialize", "zero"]
__version__ = version = "0.19.8"  # of the DeepSpeed whose behaviour this follows; scripts ask for it


def initialize(
    args: Any = None,
    model: nn.Module | None = None,
    optimizer: Any = None,
    model_parameters: Any = None,
    training_data: Dataset | None = None,
    lr_scheduler: Any = None,
    distributed_port: int | None = None,
    mpu: Any = None,
    dist_init_required: bool | None = None,
    collate_fn: Any = None,
    config: str | dict[str, Any] | None = None,
    mesh_param: Any = None,
    config_params: str | dict[str, Any] | None = None,
) -> tuple[Engine, torch.optim.Optimizer | None, DataLoader | None, Any]:
    """(engine, optimizer, loader of `training_data`, schedule). `model` is sharded in place: its parameters are other
    objects afterwards.

    optimizer, lr_scheduler: objects, or functions of the parameter groups and of the optimizer, in place of what the
    configuration says.
    Raises ValueError that names the key or argument that is not supported.
    """
    require(model is not None, "model", model, "deepspeed.initialize needs one")
    require(mesh_param is None, "mesh_param", mesh_param, "not supported; give an mpu")
    values = _configuration(args, config if config is not None else config_params)
    init_distributed()
    engine = Engine(args, model, model_parameters, mpu, values, optimizer, lr_scheduler)
    loader = None
    if training_data is not None:
        sampler = DistributedSampler(training_data, engine.dp_world_size, engine.dp_rank)
        loader = DataLoader(
            training_data, engine.train_micro_batch_size_per_gpu(), sampler=sampler, collate_fn=collate_fn
        )
    return engine, engine.optimizer, loader, engine.lr_scheduler


def __getattr__(name: str) -> Any:
    raise AttributeError(f"openglm.deepspeed has no {name!r}; it has {', '.join(__all__)} (docs/deepspeed.md)")


def _configuration(args: Any, given: str | dict[str, Any] | None) -> dict[str, Any]:
    from_args = getattr(args, "deepspeed_config", None)
    require(
        given is None or from_args is None,
        "deepspeed_config",
        from_args,
        "initialize() was given a configuration too; choose one",
    )
    chosen = from_args if given is None else given
    require(
        chosen is not None, "deepspeed_config", None, "missing; give --deepspeed_config FILE or initialize(config=...)"
    )
    assert chosen is not None
    return config.load(chosen)


def add_config_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options that DeepSpeed adds to a script's command line."""
    group = parser.add_argument_group("DeepSpeed")
    group.add_argument("--deepspeed", action="store_true", help="for the script's own use")
    group.add_argument("--deepspeed_config", help="JSON file of DeepSpeed's options")
    return parser
