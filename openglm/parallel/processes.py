"""The processes of a run, one a device, and what they tell each other. A run of one process needs no torch.distributed:
every exchange is then the identity.

Ranks are numbered tensor first, then data, then pipeline, so that those who exchange most are neighbours (Megatron-LM).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from openglm.config import ParallelConfig
from openglm.runtime import attempt, choose_device, launched

AXES = ("pipeline", "data", "tensor")
_PATIENCE = timedelta(minutes=10)  # for a process that has stopped taking part in the exchanges


@dataclass(frozen=True)
class Processes:
    """Where this process stands among the others."""

    device: torch.device
    mesh: DeviceMesh | None = None
    """with the dimensions of AXES; None: one process"""

    def size(self, axis: str) -> int:
        return self.mesh[axis].size() if self.mesh else 1

    def rank(self, axis: str) -> int:
        return self.mesh[axis].get_local_rank() if self.mesh else 0

    def shared(self, axis: str) -> DeviceMesh | None:
        """The processes along one axis; None where this one is alone on it."""
        return self.mesh[axis] if self.mesh and self.size(axis) > 1 else None

    @property
    def first(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.mesh is None or dist.get_rank() == 0

    @property
    def counts(self) -> bool:
        """Whether this process reports what its data-parallel group read and lost: the last stage's first process does,
        for it knows the loss."""
        return self.rank("tensor") == 0 and self.rank("pipeline") == self.size("pipeline") - 1

    def sum(self, *numbers: float) -> list[float]:
        """Each number, summed over all processes."""
        if self.mesh is None:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def broadcast(self, produce: Callable[[], Any]) -> Any:
        """What `produce` returns in the first process (something JSON can carry), in all of them. Its ValueError is
        raised in all of them too."""
        if self.mesh is None:
            return produce()
        answer: dict[str, Any] = {}
        if self.first:
            try:
                answer = {"answer": produce()}
            except ValueError as error:
                answer = {"error": str(error)}
        text = json.dumps(answer).encode()
        length = torch.tensor(len(text))
        dist.broadcast(length, 0)
        message = (
            torch.frombuffer(bytearray(text), dtype=torch.uint8)
            if self.first
            else torch.empty(int(length), dtype=torch.uint8)
        )
        dist.broadcast(message, 0)
        answer = json.loads(message.numpy().tobytes())
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["answer"]


def shape(config: ParallelConfig, count: int) -> tuple[int, int, int]:
    """Sizes of the axes for so many processes. Raises ValueError with the numbers that would fit."""
    replica = config.tensor * config.pipeline
    data = config.data or count // replica
    if data * replica == count and data:
        return config.pipeline, data, config.tensor
    wanted = max(data, 1) * replica
    start = (
        f"start them with: torchrun --nproc-per-node {wanted} --no-python glm ..."
        if count == 1
        else f"start {wanted}, or change parallel.data, tensor or pipeline"
    )
    raise ValueError(
        f"parallel.data x tensor x pipeline = {max(data, 1)} x {config.tensor} x {config.pipeline}: needs {wanted} "
        f"processes and there are {count}; {start}"
    )


@contextmanager
def processes(config: ParallelConfig, device: str) -> Iterator[Processes]:
    """This process among those that torchrun started; alone, if it started none. Raises ValueError where they do not
    fit `config` or do not find each other."""
    count, local = launched()
    sizes = shape(config, count)
    chosen = choose_device(device)
    if count == 1:
        yield Processes(chosen)
        return
    if chosen.type != "cpu":
        chosen = torch.device(chosen.type, local % torch.accelerator.device_count())
        torch.accelerator.set_device_index(chosen.index)
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(
        logging.ERROR
    )  # its advice on the order of reductions does not concern users
    ours = not dist.is_initialized()
    if ours:
        _join(chosen)
    try:
        yield Processes(chosen, init_device_mesh(chosen.type, sizes, mesh_dim_names=AXES))
    finally:
        if ours:
            dist.destroy_process_group()


def _join(device: torch.device) -> None:
    backend = dist.get_default_backend_for_device(device)
    try:
        store, rank, count = next(dist.rendezvous("env://", timeout=_PATIENCE))
        # torchrun (2.13) keeps one store over its restarts, with the addresses of processes that are gone.
        store = dist.PrefixStore(f"attempt-{attempt()}", store)
        dist.init_process_group(
            "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:{backend}",
            store=store,
            rank=rank,
            world_size=count,
            timeout=_PATIENCE,
        )
    except (RuntimeError, ValueError) as error:  # torch's network errors are RuntimeErrors
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"parallel: the other processes cannot be reached ({reason}); check --rdzv-endpoint, the network and "
            "that all nodes were started"
        ) from error


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that processes share; each of them must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_shard(tensor: Tensor, parameter: Tensor) -> Tensor:
    """What this process holds of a whole tensor that is cut as `parameter` is: by tensor parallelism first, what is
    left by data parallelism."""
    if not isinstance(parameter, DTensor):
        return tensor
    mesh = parameter.device_mesh
    for axis in ("tensor", "data"):
        if axis in mesh.mesh_dim_names:
            dimension = mesh.mesh_dim_names.index(axis)
            if (dim := getattr(parameter.placements[dimension], "dim", None)) is not None:
                pieces = tensor.chunk(mesh.size(dimension), dim)
                rank = mesh.get_local_rank(dimension)
                tensor = pieces[rank] if rank < len(pieces) else tensor.narrow(dim, 0, 0)
    return tensor


def align_gradient(parameter: Tensor) -> None:
    """Cut a gradient as its parameter is: that of a lookup in a table cut over the vocabulary comes whole."""
    gradient = parameter.grad
    if isinstance(gradient, DTensor) and gradient.placements != parameter.placements:
        parameter.grad = gradient.redistribute(placements=parameter.placements)


def copies(parameter: Tensor, group: Processes) -> float:
    """How many processes of one pipeline stage hold each number of a parameter."""
    shards = 1
    if isinstance(parameter, DTensor):
        for dimension, placement in enumerate(parameter.placements):
            shards *= parameter.device_mesh.size(dimension) if getattr(placement, "dim", None) is not None else 1
    return group.size("data") * group.size("tensor") / shards
