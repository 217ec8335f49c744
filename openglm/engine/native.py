"""The runner on the CPU kernels: walks the modules of `model/transformer.py` once, writes down what they do as a list
of operations, and runs that list for each step.

The network is defined there alone; what it can hold that the kernels cannot is refused with a reason, and the torch
runner serves.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from openglm.config import EngineConfig
from openglm.engine.step import Step
from openglm.kernels import library as lib
from openglm.kernels.program import Arena, PagedStore, Panels, Program, Table, Weight, make_step
from openglm.model.adapters import Lora, Prefix
from openglm.model.attention import Attention
from openglm.model.transformer import Block, FeedForward, Transformer
from openglm.quant.layers import QuantizedLinear, QuantizedWeight
from openglm.runtime import give_back_memory

_MODES = {"gelu": lib.GELU, "gelu_tanh": lib.GELU_TANH, "geglu": lib.GEGLU, "swiglu": lib.SWIGLU}


def unsupported_reason(
    model: Transformer, config: EngineConfig, adapters: Sequence[Prefix | Lora | None] = ()
) -> str | None:
    """Why the kernels cannot run this model with this cache and these adapters; None: they can."""
    shape = model.config
    if model.device.type != "cpu":
        return f"the model is on {model.device.type}"
    if lib.load() is None:
        return "the kernels are not there"
    if strange := [type(m).__name__ for b in model.blocks for m in b.modules() if not isinstance(m, _KNOWN)]:
        return f"the network holds a {strange[0]}"
    if shape.head_dim % 16 or shape.head_dim > lib.LARGEST_HEAD:
        return f"heads are {shape.head_dim} wide, not a multiple of 16 up to {lib.LARGEST_HEAD}"
    if config.block_size % lib.PANEL:
        return f"engine.block_size is {config.block_size}, not a multiple of {lib.PANEL}"
    if config.kv_dtype == "bfloat16":
        return "keys and values are wanted in bfloat16"
    products = [
        [model.embedding if model.head is None else model.head],
        *(group for b in model.blocks for group in _products(b)),
    ]
    if any(_weight(m).block == 0 for group in products for m in group):
        return "groups of weights are not multiples of 32"
    if any(_differ(group) for group in products):
        return "matrices of one product are stored in different ways"
    inside = {name for name, _ in model.named_modules() if name.startswith("blocks.")}
    loras = [adapter for adapter in (model.lora, *adapters) if isinstance(adapter, Lora)]
    if outside := {name for lora in loras for name in lora.names} - inside:
        return f"an adapter changes {min(outside)}"
    if model.lora and len(loras) > 1:
        return "LoRAs are chosen by requests beside the model's own"
    return None


_KNOWN = (nn.Linear, QuantizedLinear, nn.LayerNorm, nn.RMSNorm, nn.Identity, Attention, FeedForward, Block)


def _products(block: Block) -> list[list[nn.Module]]:
    """Matrices that multiply the same input."""
    a, f = block.attention, block.ffn
    return [
        [a.q_proj, a.k_proj, a.v_proj],
        [a.o_proj],
        [f.up_proj] if f.gate_proj is None else [f.gate_proj, f.up_proj],
        [f.down_proj],
    ]


def _differ(modules: list[nn.Module]) -> bool:
    return len({(_weight(m).kind, _weight(m).block) for m in modules}) > 1


def _weight(module: nn.Module) -> Weight:
    return Weight(module.codes, module.scales) if isinstance(module, QuantizedWeight) else Weight(module.weight)


def _release(module: nn.Module) -> None:
    if isinstance(module, QuantizedWeight):
        module.codes, module.scales = module.codes.new_empty(0), module.scales.new_empty(0)
    else:
        module.weight = nn.Parameter(module.weight.new_empty(0), requires_grad=False)


class NativeRunner:
    """Fulfils the contract of runner.py. Call `unsupported_reason` first.

    keep_weights: False empties the model's own matrices as they are repacked, so that they are in memory once; the
    model is then of no other use.
    """

    def __init__(
        self,
        model: Transformer,
        config: EngineConfig,
        blocks: int,
        keep_weights: bool = True,
        adapters: Sequence[Prefix | Lora | None] = (),
    ) -> None:
        shape = model.config
        self.loras = {number: adapter for number, adapter in enumerate(adapters) if isinstance(adapter, Lora)}
        self.always = model.lora is not None
        if model.lora:
            self.loras[1] = model.lora
        self.names = {module: name for name, module in model.named_modules()}
        self.vocabulary, self.keep_weights = shape.vocab_size, keep_weights
        self.scale = config.block_size // lib.PANEL  # blocks of the kernels in one of the engine
        plain = isinstance(model.blocks[0].ffn.down_proj, nn.Linear)
        kind = ("float32" if plain else "float16") if config.kv_dtype == "auto" else config.kv_dtype
        library = lib.load()
        assert library is not None, "unsupported_reason lets no model through where the kernels are not there"
        self.arena = Arena(library)
        self.paged = PagedStore(
            self.arena, kind, shape.layers, blocks * self.scale, shape.heads, shape.kv_heads, shape.head_dim
        )
        frequencies = None if model.rotary is None else model.rotary.frequencies(torch.device("cpu"))
        self.program = Program(library, self.paged, shape.positions, frequencies, shape.yarn.attention_factor)
        with torch.no_grad():
            self._lower(model)
        if not keep_weights:
            give_back_memory()

    def run(self, step: Step) -> Tensor:
        """Logits [R, V] in float32; keys and values of all new tokens are stored."""
        return self.program.run(self._arrays(step))

    def go_on(self, step: Step, choices: list[lib.Choice], uniforms: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return self.program.go_on(self._arrays(step), choices, uniforms, positions)

    def _arrays(self, step: Step) -> lib.Step:
        assert step.ids.min() >= 0 and step.ids.max() < self.vocabulary, (step.ids.min(), step.ids.max())
        adapters = None
        if self.loras:
            own = np.isin(step.adapters, list(self.loras))
            adapters = np.repeat(np.where(own, step.adapters, self.always), step.new)
        return make_step(**vars(step) | {"tables": self._small(step.tables), "adapters": adapters})

    def store(self, prefix: Prefix, table: np.ndarray, start: int) -> None:
        self.paged.write(prefix.keys, prefix.values, self._small(table[None])[0], start)

    def _small(self, tables: np.ndarray) -> np.ndarray:
        """Blocks of the kernels in place of the engine's."""
        return (tables[:, :, None] * self.scale + np.arange(self.scale)).reshape(len(tables), -1)

    def _panels(self, modules: list[nn.Module], gated: bool = False) -> Panels:
        biases = [getattr(m, "bias", None) for m in modules]
        panels = Panels(self.arena, [_weight(m) for m in modules], biases, gated, forget=not self.keep_weights)
        for module in modules if not self.keep_weights else ():
            _release(module)
        return panels

    def _lower(self, model: Transformer) -> None:
        shape, p = model.config, self.program
        tables = [_plain(t and t.weight) for t in (model.position_embedding, model.block_position_embedding)]
        logits_of = self._panels([model.embedding if model.head is None else model.head])
        # A table that makes no logits stays where it is, which may be in its file.
        words = logits_of if model.head is None else Table(_weight(model.embedding))
        self.h, self.x = p.buffer(shape.hidden), p.buffer(shape.hidden)
        self.qkv = p.buffer((shape.heads + 2 * shape.kv_heads) * shape.head_dim)
        self.attended = p.buffer(shape.heads * shape.head_dim)
        self.inner, logits = p.buffer(shape.ffn_hidden, over=self.qkv), p.buffer(shape.vocab_size)
        p.add(lib.EMBED, out=self.h, matrix=words, weight=tables[0], bias=tables[1])
        for block in model.blocks:
            self._lower_block(block)
        p.add(lib.GATHER, self.h, self.x)
        self._norm(model.final_norm, self.x, self.x)
        p.add(lib.LINEAR, self.x, logits, matrix=logits_of)

    def _lower_block(self, block: Block) -> None:
        p, a, gated = self.program, block.attention, block.ffn.gate_proj is not None
        into_qkv, out_of_attention, into_inner, out_of_inner = (
            self._panels(group, gated and i == 2) for i, group in enumerate(_products(block))
        )
        norms = [_plain(getattr(norm, "weight", None)) for norm in (a.q_norm, a.k_norm)]
        self._norm(block.attention_norm, self.h, self.x)
        p.add(lib.LINEAR, self.x, self.qkv, matrix=into_qkv, added=self._adapt(self.x, [a.q_proj, a.k_proj, a.v_proj]))
        # Query-key layer scaling divides and multiplies again, for half precision's sake; in fp32 it is nothing.
        p.add(
            lib.ROTARY,
            self.qkv,
            layer=a.layer,
            scale=1 / math.sqrt(a.head_dim),
            weight=norms[0],
            bias=norms[1],
            eps=getattr(a.q_norm, "eps", 0.0),
        )
        p.add(lib.ATTEND, self.qkv, self.attended, layer=a.layer)
        self._join(
            block, out_of_attention, self.attended, block.attention_post_norm, self._adapt(self.attended, [a.o_proj])
        )
        self._norm(block.ffn_norm, self.h, self.x)
        p.add(
            lib.LINEAR,
            self.x,
            self.inner,
            matrix=into_inner,
            mode=_MODES[block.ffn.activation],
            added=self._adapt(self.x, _products(block)[2], gated),
        )
        self._join(block, out_of_inner, self.inner, block.ffn_post_norm, self._adapt(self.inner, [block.ffn.down_proj]))

    def _adapt(self, source: int, modules: list[nn.Module], gated: bool = False) -> int:
        """Thin products of the LoRAs that change these layers, each for its own tokens; returns the buffer of what they
        add, -1: nothing.
        A LoRA that leaves all of them alone beside one that does not adds zeros."""
        p, names = self.program, [self.names[m] for m in modules]
        if not any(name in lora.names for lora in self.loras.values() for name in names):
            return -1
        shapes = [
            (m.rows, m.columns) if isinstance(m, QuantizedWeight) else (m.out_features, m.in_features) for m in modules
        ]
        lanes = -(-sum(rows for rows, _ in shapes) // lib.PANEL) * lib.PANEL
        added = p.buffer(lanes)
        for number, lora in self.loras.items():
            nothing = [(torch.zeros(1, columns), torch.zeros(rows, 1)) for rows, columns in shapes]
            pairs = [lora.pair(name) if name in lora.names else none for name, none in zip(names, nothing, strict=True)]
            down, up = torch.cat([d for d, _ in pairs]), torch.block_diag(*(u for _, u in pairs))
            thin = p.buffer(len(down))
            p.add(lib.LINEAR, source, thin, adapter=number, matrix=Panels(self.arena, [Weight(down)]))
            panels = Panels(self.arena, [Weight(part) for part in up.split([rows for rows, _ in shapes])], gated=gated)
            panels.struct.rows = lanes  # in the order of the panels, whatever a row is
            p.add(lib.LINEAR, thin, added, adapter=number, matrix=panels)
        return added

    def _join(self, block: Block, matrix: Panels, source: int, post_norm: nn.Module, added: int) -> None:
        """The last product of a branch and its return to the residual stream."""
        if isinstance(post_norm, nn.Identity):
            residual, scale = (self.x, block.alpha) if block.alpha else (self.h, 1.0)
            self.program.add(
                lib.LINEAR, source, self.h, residual, mode=lib.RESIDUAL, scale=scale, matrix=matrix, added=added
            )
        else:
            self.program.add(lib.LINEAR, source, self.x, matrix=matrix, added=added)
            self._norm(post_norm, self.x, self.h, self.h)

    def _norm(self, norm: nn.Module, source: int, target: int, added: int = -1) -> None:
        weight, bias = _plain(norm.weight), _plain(getattr(norm, "bias", None))
        mode = int(isinstance(norm, nn.LayerNorm))
        self.program.add(lib.NORM, source, target, added, mode=mode, eps=norm.eps, weight=weight, bias=bias)


def _plain(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float().contiguous()
