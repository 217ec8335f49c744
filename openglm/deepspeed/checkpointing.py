"""deepspeed.checkpointing: activations that are computed again in the backward pass, and random numbers that differ
between model-parallel processes.

torch.utils.checkpoint does the work. What it does not know of is the tracker: a second random state for parts that each
model-parallel process holds alone, while all others must draw the same dropout. Recomputation puts that state back too.
Names and seeds are those of Megatron-LM and DeepSpeed.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from openglm.config import require
from openglm.deepspeed import config
from openglm.deepspeed.groups import model_parallel
from openglm.runtime import choose_device

MODEL_PARALLEL = "model-parallel-rng"
_OFFSET = 2718  # between the seeds of the common and the model-parallel state


class RandomTracker:
    """Named random states of the device, each in use only inside its `fork()`."""

    def __init__(self) -> None:
        self.states: dict[str, Tensor] = {}

    def reset(self) -> None:
        self.states.clear()

    def get_states(self) -> dict[str, Tensor]:
        return dict(self.states)

    def set_states(self, states: dict[str, Tensor]) -> None:
        self.states = dict(states)

    def add(self, name: str, seed: int) -> None:
        require(name not in self.states, "name", name, "this random state exists already; call reset() first")
        with _state_of_its_own():
            torch.manual_seed(seed)
            self.states[name] = _random().get_rng_state()

    @contextlib.contextmanager
    def fork(self, name: str = MODEL_PARALLEL) -> Iterator[None]:
        require(
            name in self.states, "name", name, "no such random state; call model_parallel_cuda_manual_seed(seed) first"
        )
        with _state_of_its_own():
            _random().set_rng_state(self.states[name])
            try:
                yield
            finally:
                self.states[name] = _random().get_rng_state()


def _random() -> Any:
    """The module that keeps the device's random state."""
    device = choose_device()
    return torch.random if device.type == "cpu" else torch.get_device_module(device)


@contextlib.contextmanager
def _state_of_its_own() -> Iterator[None]:
    outside = _random().get_rng_state()
    try:
        yield
    finally:
        _random().set_rng_state(outside)


_tracker = RandomTracker()
_configured: dict[str, Any] = {}  # "mpu", once configure() was called


def get_cuda_rng_tracker() -> RandomTracker:
    return _tracker


def model_parallel_cuda_manual_seed(seed: int) -> None:
    """The common state from `seed`, the tracked one from a seed of each model-parallel process."""
    _, rank = model_parallel(_configured.get("mpu"))
    _tracker.reset()
    torch.manual_seed(seed)
    _tracker.add(MODEL_PARALLEL, seed + _OFFSET + rank)


def configure(mpu_: Any, deepspeed_config: Any = None, **options: Any) -> None:
    """Check the section `activation_checkpointing`; `options` are its keys, under the names DeepSpeed's function gives
    them. Only hints are left of it."""
    if deepspeed_config is not None:
        config.section(config.load(deepspeed_config), "activation_checkpointing.")
    for name, value in options.items():
        require(
            name == "num_checkpoints" or not value,
            f"deepspeed.checkpointing.configure {name}",
            value,
            "not supported; leave it out",
        )
    _configured["mpu"] = mpu_


def is_configured() -> bool:
    return "mpu" in _configured


def reset() -> None:
    """DeepSpeed frees its buffers here; torch keeps none."""


def checkpoint(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), whose activations are made again when the backward pass needs them."""
    return recompute(function, *args, use_reentrant=False, context_fn=_tracked)


def _tracked() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """Contexts of the forward pass and of its repetition, which starts from the tracker as it is now."""
    before = _tracker.get_states()

    @contextlib.contextmanager
    def again() -> Iterator[None]:
        now = _tracker.get_states()
        _tracker.set_states(before)
        try:
            yield
        finally:
            _tracker.set_states(now)

    return contextlib.nullcontext(), again()
