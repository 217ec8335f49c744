"""Which processes share what: the groups of an `mpu` (Megatron-LM's module of that name, or an object with its
functions), or all processes as one."""

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from openglm.config import require
from openglm.runtime import choose_device, launched


def init_distributed(
    dist_backend: str | None = None,
    auto_mpi_discovery: bool = True,
    distributed_port: int | None = None,
    verbose: bool = True,
    timeout: timedelta | None = None,
    init_method: str | None = None,
    dist_init_required: bool | None = None,
    config: Any = None,
    rank: int = -1,
    world_size: int = -1,
) -> None:
    """Meet the processes that torchrun started (or `init_method` names), unless that has happened; a process that was
    started alone becomes a group of one.

    Options that DeepSpeed needs for MPI and for launchers of its own are taken and have no effect.
    """
    if dist.is_initialized():
        return
    backend = dist_backend or dist.get_default_backend_for_device(choose_device())
    options: dict[str, Any] = {"timeout": timeout} if timeout else {}
    if launched()[0] == 1 and init_method is None:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, **options)
    else:
        dist.init_process_group(backend, init_method=init_method, rank=rank, world_size=world_size, **options)


def own_device(args: Any) -> torch.device:
    """The accelerator of this process (--local_rank, or torchrun's number), or the CPU."""
    device = choose_device()
    if device.type == "cpu":
        return device
    local = getattr(args, "local_rank", None)
    index = launched()[1] if local is None or local < 0 else local
    torch.accelerator.set_device_index(index)
    return torch.device(device.type, index)


def data_parallel(mpu: Any) -> dist.ProcessGroup:
    """The processes whose gradients are averaged."""
    return _ask(mpu, "get_data_parallel_group") if mpu is not None else dist.group.WORLD


def model_parallel(mpu: Any) -> tuple[dist.ProcessGroup | None, int]:
    """The processes that hold one model together, and this one's number among them; (None, 0): one holds it all."""
    if mpu is None:
        return None, 0
    group = _ask(mpu, "get_model_parallel_group", "get_tensor_model_parallel_group")
    return group, dist.get_rank(group)


def _ask(mpu: Any, *names: str) -> dist.ProcessGroup:
    found = [name for name in names if hasattr(mpu, name)]
    require(bool(found), "mpu", type(mpu).__name__, f"has no {names[0]}()")
    return getattr(mpu, found[0])()
