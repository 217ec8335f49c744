"""What the engine needs of a network, and the runner that fulfils it with torch on any device.

A runner owns the keys and values; whoever calls it owns the numbers of the blocks they lie in. It decides nothing: what
to compute, in which blocks and for whom is all in the `Step`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openglm.config import EngineConfig
from openglm.engine.paged import PagedCache
from openglm.engine.step import Step
from openglm.kernels.library import Choice
from openglm.model.adapters import Lora, Prefix
from openglm.model.transformer import Transformer


class Runner(Protocol):
    """What the engine needs of a network."""

    def run(self, step: Step) -> Tensor:
        """Logits [R, V] in float32; keys and values of all new tokens are stored."""
        ...

    def go_on(self, step: Step, choices: list[Choice], uniforms: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Tokens [steps, B] of sequences that go on by themselves, none where this runner cannot: each step has the one
        token of each sequence that the step before chose. It ends early behind a token of a choice's `ends`, and before
        logits that are no numbers. uniforms [steps, B] float64: the random numbers to choose with; positions
        [steps, 2, B] int32."""
        ...

    def store(self, prefix: Prefix, table: np.ndarray, start: int) -> None:
        """Put the virtual tokens from `start` on at the head of a sequence whose blocks are `table`."""
        ...


class TorchRunner:
    """Runs `model/transformer.py` itself, on whatever device its weights lie: all new tokens as one row, attention
    sequence by sequence."""

    def __init__(
        self, model: Transformer, config: EngineConfig, blocks: int, adapters: Sequence[Prefix | Lora | None] = (None,)
    ) -> None:
        self.model, self.adapters = model, adapters
        stored = model.dtype if config.kv_dtype == "auto" else getattr(torch, config.kv_dtype)
        self.cache = PagedCache(model.config, blocks, config.block_size, model.device, model.dtype, stored)
        self.forward = self._compiled() if config.compile else model
        self.active: list[tuple[Lora, Tensor]] = []  # the adapters of the step that runs, and the tokens they are for
        changed = {name for adapter in adapters if isinstance(adapter, Lora) for name in adapter.names}
        for name, layer in model.named_modules():
            if name in changed:
                layer.register_forward_hook(partial(self._add, name))

    @torch.inference_mode()
    def run(self, step: Step) -> Tensor:
        ids, positions, wanted = (
            torch.from_numpy(a).to(self.model.device) for a in (step.ids, step.positions, step.wanted)
        )
        self.cache.prepare(step)
        owner = np.repeat(step.adapters, step.new)
        self.active = [
            (self.adapters[n], torch.from_numpy(np.flatnonzero(owner == n)).to(ids.device))
            for n in np.unique(step.adapters)
            if isinstance(self.adapters[n], Lora)
        ]
        try:
            hidden = self.forward(ids[None], positions[None], None, self.cache)
        finally:
            self.active = []
        return self.model.project(hidden[0, wanted]).float()

    def go_on(self, step: Step, choices: list[Choice], uniforms: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return np.empty((0, len(choices)), np.int32)

    @torch.inference_mode()
    def store(self, prefix: Prefix, table: np.ndarray, start: int) -> None:
        self.cache.store(prefix.keys[:, :, start:], prefix.values[:, :, start:], table, start)

    def _compiled(self) -> Callable[..., Tensor]:
        """The network fused between its attentions, which stay as they are: their shapes change with every step."""
        # One compilation for all layers, though each knows its number.
        torch._dynamo.config.allow_unspec_int_on_nn_module = True
        self.cache.attend = torch.compiler.disable(self.cache.attend)  # type: ignore[method-assign]  # of this one only
        return torch.compile(self.model, dynamic=True)

    def _add(self, name: str, layer: nn.Module, inputs: tuple[Tensor], output_1TO: Tensor) -> Tensor:
        """What the adapters of this step add to one layer's output."""
        for lora, rows in self.active:
            if name in lora.names:
                down, up = lora.pair(name)
                output_1TO[:, rows] += F.linear(F.linear(inputs[0][:, rows], down), up)
        return output_1TO
