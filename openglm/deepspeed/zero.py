"""deepspeed.zero: what scripts for stage 3 wrap around their models. `initialize` shards here, so there is little to
do."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from openglm.config import require
from openglm.runtime import say


@contextlib.contextmanager
def Init(*_: Any, enabled: bool = True, **__: Any) -> Iterator[None]:
    """The model inside is built whole in each process, and sharded by `initialize`."""
    if enabled:
        say("deepspeed.zero.Init: each process builds the whole model; deepspeed.initialize() shards it")
    yield


@contextlib.contextmanager
def GatheredParameters(params: Any, *_: Any, enabled: bool = True, **__: Any) -> Iterator[None]:
    """Nothing to gather before `initialize`. Raises ValueError for sharded parameters."""
    given = [params] if isinstance(params, torch.Tensor) else list(params)
    sharded = enabled and any(isinstance(parameter, DTensor) for parameter in given)
    way_out = "they are sharded already; read parameter.full_tensor(), or change them before initialize()"
    require(not sharded, "deepspeed.zero.GatheredParameters params", len(given), way_out)
    yield
