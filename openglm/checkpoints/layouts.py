"""The published layouts: their names for the network's matrices, and how fused and sharded ones are put together and
cut apart. Foreign names stand here alone. What a checkpoint's configuration says is read in published.py.

A fused matrix holds rows of several of ours in pieces: all of the first, all of the second, and so on, in each of
`outer` equal parts. So one rule cuts queries, keys and values that lie head by head (outer = heads), in thirds (1), or
in thirds of each rank's share (ranks).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from openglm.checkpoints.tensors import Tensors
from openglm.config import ModelConfig, require
from openglm.model.transformer import Transformer
from openglm.quant.codes import dequantize
from openglm.runtime import say

Leaves = dict[str, Tensor]  # of one module: weight (or codes and scales), and bias where it has one
Table = dict[str, tuple[str, ...]]  # foreign module: ours, whose rows it holds one under another

_QKV = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
_BLOCK = {
    "input_layernorm": ("attention_norm",),
    "attention.query_key_value": _QKV,
    "attention.dense": ("attention.o_proj",),
    "post_attention_layernorm": ("ffn_norm",),
    "mlp.dense_h_to_4h": ("ffn.up_proj", "ffn.gate_proj"),
    "mlp.dense_4h_to_h": ("ffn.down_proj",),
}


@dataclass(frozen=True)
class Layout:
    """Names of one generation. Modules of ours that a network lacks, such as a gate, are left out."""

    whole: Table
    """modules outside the blocks"""
    block: Table
    """modules of a block"""
    layer_prefix: str = "transformer.layers.{}."
    """what stands before the names of a block"""
    per_head: bool = False
    """fused queries, keys and values lie head by head"""

    def table(self, config: ModelConfig) -> Table:
        blocks = {
            self.layer_prefix.format(n) + name: tuple(f"blocks.{n}.{ours}" for ours in targets)
            for n in range(config.layers)
            for name, targets in self.block.items()
        }
        return self.whole | blocks


LAYOUTS = {
    "glm-10b": Layout(
        {
            "word_embeddings": ("embedding",),
            "transformer.position_embeddings": ("position_embedding",),
            "transformer.block_position_embeddings": ("block_position_embedding",),
            "transformer.final_layernorm": ("final_norm",),
        },
        _BLOCK,
    ),
    "glm-130b": Layout(
        {
            "transformer.word_embeddings": ("embedding",),
            "transformer.final_layernorm": ("final_norm",),
            "lm_head": ("head",),
        },
        _BLOCK,
        per_head=True,
    ),
    "chatglm2": Layout(
        {
            "transformer.embedding.word_embeddings": ("embedding",),
            "transformer.encoder.final_layernorm": ("final_norm",),
            "transformer.output_layer": ("head",),
        },
        {
            "input_layernorm": ("attention_norm",),
            "self_attention.query_key_value": _QKV,
            "self_attention.dense": ("attention.o_proj",),
            "post_attention_layernorm": ("ffn_norm",),
            "mlp.dense_h_to_4h": ("ffn.gate_proj", "ffn.up_proj"),
            "mlp.dense_4h_to_h": ("ffn.down_proj",),
        },
        "transformer.encoder.layers.{}.",
    ),
    "hf": Layout(
        {"model.embed_tokens": ("embedding",), "model.norm": ("final_norm",), "lm_head": ("head",)},
        {
            "input_layernorm": ("attention_norm",),
            "self_attn.q_proj": _QKV[:1],
            "self_attn.k_proj": _QKV[1:2],
            "self_attn.v_proj": _QKV[2:],
            "self_attn.o_proj": ("attention.o_proj",),
            "post_self_attn_layernorm": ("attention_post_norm",),
            "post_attention_layernorm": ("ffn_norm",),
            "mlp.gate_up_proj": ("ffn.gate_proj", "ffn.up_proj"),
            "mlp.down_proj": ("ffn.down_proj",),
            "post_mlp_layernorm": ("ffn_post_norm",),
        },
        "model.layers.{}.",
    ),
}
# Under these names GLM-10B's classes and trainers' modules hold the network.
_STEMS = ("", "glm.", "model.", "model.glm.")
PREFIX_ENCODER = "prefix_encoder."
_DERIVED = ("inv_freq",)  # tables that the network makes itself
_CUT = {"rows": 0, "columns": 1}  # dimension in which the ranks of a tensor-parallel run cut a matrix


def find_layout(names: Iterable[str]) -> Layout:
    """The layout whose word embedding is there. Raises ValueError when none is."""
    names = set(names)
    for layout in LAYOUTS.values():
        if any(
            f"{stem}{next(iter(layout.whole))}.{leaf}" in names
            for stem in _STEMS
            for leaf in ("weight", "weight_scale")
        ):
            return layout
    raise ValueError(
        f"model: no word embedding of a known name among {len(names)} tensors; known layouts: {', '.join(LAYOUTS)}"
    )


def empty_network(config: ModelConfig) -> Transformer:
    """The modules without memory for their weights."""
    try:
        with torch.device("meta"):
            return Transformer(config)
    except (RuntimeError, OverflowError) as error:
        raise ValueError(
            f"model: {config.hidden} wide with {config.ffn_hidden} inside and {config.vocab_size} tokens cannot be "
            f"({str(error).splitlines()[0]})"
        ) from None


def own_modules(network: Transformer) -> dict[str, dict[str, torch.Size]]:
    """Shapes of every module that has weights of its own."""
    modules = {
        path: {leaf: p.shape for leaf, p in module.named_parameters(recurse=False)}
        for path, module in network.named_modules()
    }
    return {path: leaves for path, leaves in modules.items() if leaves}


class Source:
    """A checkpoint seen as our network. `modules()` reads and cuts one matrix after another; nothing is kept."""

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        ranks: list[Tensors],
        layout: Layout | None,
        repeat_row: tuple[int, int] | None = None,
    ) -> None:
        """ranks: the shares of a tensor-parallel run, or the one whole. layout: None where names are ours. repeat_row:
        copy row a of the word embedding to row b.

        Raises ValueError that names a tensor which is missing or unknown.
        """
        self.folder, self.config, self.ranks, self.layout, self.repeat_row = folder, config, ranks, layout, repeat_row
        self.change: Callable[[str, Leaves], Leaves] = lambda path, leaves: leaves  # a LoRA that is folded in
        self.adapter_prefix: list[tuple[str, Tensor]] = []
        # A network of more blocks than there are tensors is a lie that would take memory.
        require(
            config.layers <= len(ranks[0]),
            "model.layers",
            config.layers,
            f"{folder} holds {len(ranks[0])} tensors; the configuration describes another network",
        )
        self.ours = own_modules(empty_network(config))
        table = layout.table(config) if layout else {path: (path,) for path in self.ours}
        first = next(iter(table)) + "."
        stem = next((stem for stem in _STEMS if any(name.startswith(stem + first) for name in ranks[0])), "")
        self.table = {
            stem + name: tuple(path for path in targets if path in self.ours) for name, targets in table.items()
        }
        self._check_names()

    @property
    def dtype(self) -> torch.dtype:
        """Type that most of the weights are stored in, codes aside."""
        sizes: dict[torch.dtype, int] = {}
        for name, dtype in self.ranks[0].types.items():
            if dtype.is_floating_point and not name.endswith(("scale", "scales")):
                sizes[dtype] = sizes.get(dtype, 0) + torch.Size(self.ranks[0].shapes[name]).numel()
        return max(sizes, key=sizes.__getitem__) if sizes else torch.float32

    @property
    def bits(self) -> int:
        """The fewest of any quantized matrix; 0: there are none."""
        coded = [
            (names["codes"], targets)
            for foreign, targets in self.table.items()
            if "codes" in (names := self._leaf_names(foreign))
        ]
        return min((self._code_bits(*names) for names in coded), default=0)

    def narrow(self, bits: int) -> None:
        """Read int8 codes as the weights they stand for, wherever a network of `bits` bits has fewer. Says so."""
        matrices = self.config.matrices()

        def widened(path: str, leaves: Leaves) -> Leaves:
            if "codes" not in leaves or matrices[path].quantized_bits(bits) == 8:
                return leaves
            return {"weight": dequantize(leaves.pop("codes"), leaves.pop("scales")), **leaves}

        say(f"int{bits} codes are made from the int{self.bits} codes of {self.folder}, not from the whole weights")
        self.change = widened

    def modules(self) -> Iterator[tuple[str, Leaves]]:
        """(path of a module of ours, its tensors). Raises ValueError that names a tensor of another shape or type."""
        for foreign, targets in self.table.items():
            if targets:
                yield from self.cut(foreign)

    def table_in_file(self) -> Leaves | None:
        """The word embedding as a view of its file; None where it must be put together first."""
        foreign = next(foreign for foreign, targets in self.table.items() if targets == ("embedding",))
        if len(self.ranks) > 1 or self.repeat_row:
            return None
        return {
            leaf: self._whole(name, leaf, ("embedding",), Tensors.left_in_file)
            for leaf, name in self._leaf_names(foreign).items()
        }

    def cut(self, foreign: str) -> Iterator[tuple[str, Leaves]]:
        """Our modules in one of the checkpoint's."""
        targets = self.table[foreign]
        whole = {leaf: self._whole(name, leaf, targets) for leaf, name in self._leaf_names(foreign).items()}
        if targets == ("embedding",) and self.repeat_row and "weight" in whole:
            whole["weight"] = whole["weight"].clone()
            whole["weight"][self.repeat_row[1]] = whole["weight"][self.repeat_row[0]]
        sizes = [self.ours[path]["weight"][0] for path in targets]
        outer = self.config.heads if self.layout and self.layout.per_head and len(targets) == 3 else len(self.ranks)
        parts = {leaf: split_rows(tensor, sizes, outer) for leaf, tensor in whole.items()}
        for i, path in enumerate(targets):
            yield path, self.change(path, {leaf: pieces[i] for leaf, pieces in parts.items()})

    def _leaf_names(self, foreign: str) -> dict[str, str]:
        """Our leaf: the tensor that holds it. A quantized matrix is known by its scales."""
        shapes = self.ours[self.table[foreign][0]] if self.table[foreign] else {}
        names = {leaf: f"{foreign}.{leaf}" for leaf in shapes}
        for codes, scales in (("weight", "weight_scale"), ("codes", "scales")):
            if (
                len(shapes.get("weight", ())) == 2
                and {f"{foreign}.{codes}", f"{foreign}.{scales}"} <= self.ranks[0].keys()
            ):
                del names["weight"]
                return {"codes": f"{foreign}.{codes}", "scales": f"{foreign}.{scales}", **names}
        return names

    def prefix(self) -> Iterator[tuple[str, Tensor]]:
        """Tensors of a P-Tuning v2 prefix beside the weights, under their own names."""
        own = ((name, self.ranks[0][name]) for name in self.ranks[0] if PREFIX_ENCODER in name)
        return iter(self.adapter_prefix) if self.adapter_prefix else own

    def _check_names(self) -> None:
        known = {name for foreign in self.table for name in self._leaf_names(foreign).values()}
        absent = tuple(
            f"{foreign}." for foreign, targets in self.table.items() if not targets
        )  # such as the copy of a tied head
        for rank in self.ranks:
            merged = not any(".base_layer." in name for name in rank)
            remedy = "holds LoRA layers beside the weights; merge them first (peft: merge_and_unload)"
            require(merged, "model", str(self.folder), remedy)
            for name in sorted(known - rank.keys()):
                raise ValueError(
                    f"tensor {name!r} is missing from {self.folder}; a file is missing, or the configuration "
                    "describes another network"
                )
            for name in sorted(rank.keys() - known):
                ignored = name.endswith(_DERIVED) or PREFIX_ENCODER in name or name.startswith(absent)
                require(
                    ignored, f"{rank.path(name)}: tensor", name, "unknown; the configuration describes another network"
                )

    def _cut_dimension(self, targets: tuple[str, ...]) -> int | None:
        matrix = self.config.matrices().get(targets[0])
        return _CUT.get(matrix.cut) if matrix else None

    def _code_bits(self, name: str, targets: tuple[str, ...]) -> int:
        columns = (0, *self.ranks[0].shapes[name])[-1] * (len(self.ranks) if self._cut_dimension(targets) == 1 else 1)
        return 8 if columns == self.ours[targets[0]]["weight"][-1] else 4

    def _whole(
        self,
        name: str,
        leaf: str,
        targets: tuple[str, ...],
        read: Callable[[Tensors, str], Tensor] = Tensors.__getitem__,
    ) -> Tensor:
        """One tensor, put together from all ranks."""
        ours, cut, ranks = (
            [self.ours[path]["weight"] for path in targets],
            self._cut_dimension(targets),
            len(self.ranks),
        )
        own_scales = leaf == "scales" and len(self.ranks[0].shapes[name]) == 2  # published ones are one a row
        shape = [sum(size[0] for size in ours), *ours[0][1:]]
        if leaf == "codes" and self._code_bits(name, targets) == 4:
            shape[1] //= 2
        elif leaf == "scales" and own_scales:
            shape[1] = self.ranks[0].shapes[name][1]
        elif leaf in ("scales", "bias"):
            shape = shape[:1]
        # Ranks that share columns have each all biases, and scales of their own.
        cut = None if ranks == 1 or (cut == 1 and leaf in ("scales", "bias")) else cut
        if cut is not None:
            shape[cut] //= ranks
        for rank in self.ranks:
            self._check(rank, name, leaf, tuple(shape))
        pieces = [read(rank, name) for rank in self.ranks]
        if leaf == "scales" and not own_scales:
            return torch.cat([piece[:, None] for piece in pieces], 0 if cut == 0 else 1)
        whole = pieces[0] if cut is None else torch.cat(pieces, cut)
        return whole.view(torch.uint8) if leaf == "codes" and self._code_bits(name, targets) == 4 else whole

    def _check(self, rank: Tensors, name: str, leaf: str, shape: tuple[int, ...]) -> None:
        found, dtype = rank.shapes[name], rank.types[name]
        shards = f" ({len(self.ranks)} shards were found)" if len(self.ranks) > 1 else ""
        if found != shape:
            raise ValueError(
                f"{rank.path(name)}: tensor {name!r} has shape {list(found)}, the configuration says "
                f"{list(shape)}{shards}"
            )
        fits = dtype in (torch.int8, torch.uint8) if leaf == "codes" else dtype.is_floating_point
        require(
            fits,
            f"{rank.path(name)}: tensor {name!r} of type",
            dtype,
            "codes are int8 or uint8, all else floating-point numbers; use another copy",
        )


class Weights(Mapping[str, Tensor]):
    """The weights of a source by our parameters' names, each read when asked for."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.home = {path: foreign for foreign, targets in source.table.items() for path in targets}

    def __getitem__(self, name: str) -> Tensor:
        path, _, leaf = name.rpartition(".")
        return dict(self.source.cut(self.home[path]))[path][leaf]

    def __contains__(self, name: object) -> bool:
        return name in set(self)

    def __iter__(self) -> Iterator[str]:
        return (f"{path}.{leaf}" for path, leaves in self.source.ours.items() for leaf in leaves)

    def __len__(self) -> int:
        return sum(map(len, self.source.ours.values()))


def split_rows(tensor: Tensor, sizes: list[int], outer: int) -> list[Tensor]:
    """Cut a fused matrix (or bias, codes, scales) into ours of `sizes` rows; see the top of this file for `outer`."""
    if len(sizes) == 1:
        return [tensor]
    parts = tensor.unflatten(0, (outer, -1)).split([size // outer for size in sizes], dim=1)
    return [part.flatten(0, 1) for part in parts]


def join_rows(parts: list[Tensor], outer: int) -> Tensor:
    """The inverse of `split_rows`."""
    return torch.cat([part.unflatten(0, (outer, -1)) for part in parts], 1).flatten(0, 1)


def to_layout(
    modules: Iterable[tuple[str, Leaves]], layout: Layout, config: ModelConfig
) -> Iterator[tuple[str, Tensor]]:
    """The way back: names and tensors of a layout without shards, as soon as all parts of each are there."""
    home = {path: (foreign, targets) for foreign, targets in layout.table(config).items() for path in targets}
    waiting: dict[str, Leaves] = {}
    for path, leaves in modules:
        foreign, targets = home[path]
        waiting[path] = leaves
        if all(path in waiting for path in targets):
            parts = [waiting.pop(path) for path in targets]
            yield from ((f"{foreign}.{leaf}", torch.cat([part[leaf] for part in parts])) for leaf in parts[0])
