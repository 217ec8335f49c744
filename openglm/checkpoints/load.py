"""`load_model`: any checkpoint of the family, ours or published, as a network ready for inference.

The network is made without memory; then one matrix after another is read, cut, converted or quantized, and put in its
place. So the peak is
the model and one matrix. Nothing of a checkpoint is run, and every error is one line.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from openglm.checkpoints import published
from openglm.checkpoints.adapters import base_name, read_adapter, read_prefix
from openglm.checkpoints.layouts import Leaves, Source, empty_network, find_layout
from openglm.checkpoints.native import CONFIG, TYPES, model_config, own_config, resolve
from openglm.checkpoints.tensors import Tensors, find_weights, has_weights, read_json
from openglm.config import Matrix, ModelConfig, require
from openglm.files import verify_folder
from openglm.model.adapters import Lora, Prefix
from openglm.model.transformer import Transformer
from openglm.presets import PRESETS, model_preset
from openglm.quant.codes import fitting_format
from openglm.quant.codes import quantize as quantize_weight
from openglm.quant.layers import QuantizedEmbedding, QuantizedLinear, StoredEmbedding
from openglm.runtime import choose_device, choose_dtype, progress, say
from openglm.text.generation import settled
from openglm.text.load import load_tokenizer
from openglm.text.tokenizer import Tokenizer

GROUP = 64  # columns that share a scale when `quantize` makes codes
_BITS = {"int8": 8, "int4": 4}
_QUANTIZED: dict[type, type[QuantizedLinear] | type[QuantizedEmbedding]] = {
    nn.Linear: QuantizedLinear,
    nn.Embedding: QuantizedEmbedding,
}
_RANK = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_SHOWN = 1 << 30  # bytes; a larger checkpoint takes long enough for a progress bar


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose headers were read, and nothing more."""

    folder: Path
    family: str
    """the generation, by the name of a preset; "openglm" for a model of our own"""
    config: ModelConfig
    source: Source

    @property
    def nbytes(self) -> int:
        """Of its files."""
        return sum(rank.nbytes for rank in self.source.ranks)


def load_model(
    path_or_name: Path | str,
    *,
    config: str | None = None,
    adapter: Path | str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    format: str | None = None,
) -> Transformer:
    """A model ready for inference, from a folder or by the name of a bundled one.

    config: a preset's name or a JSON file, for folders that carry no configuration (shards of a training run) or in
    place of theirs.
    adapter: folder of a LoRA (as PEFT saves it) or of a P-Tuning v2 prefix. device: None takes what `auto` finds.
    dtype: None takes the checkpoint's own type on an accelerator, and float32 on a CPU unless it is fast at bfloat16.
    quantize: int8 or int4 weights. On a CPU the word embedding of a quantized model that does not make the logits too
    stays in its file, from which rows are read as they are looked up. format: the form of its conversations
    (text/formats.py), which tells ChatGLM2 from ChatGLM3 where nothing else does. Raises ValueError naming what is
    missing, damaged, of another shape or not served.
    """
    require(quantize in (None, *_BITS), "quantize", quantize, f"choose {' or '.join(_BITS)}")
    checkpoint = open_checkpoint(path_or_name, config, verify=True, format=format)
    target = choose_device(device or "auto")
    stored, had = checkpoint.source.dtype, checkpoint.source.bits
    bits = _BITS.get(quantize or "", 0)
    require(not had or bits <= had, "quantize", quantize, f"these weights are int{had} already; leave the option out")
    if 0 < bits < had:
        checkpoint.source.narrow(bits)
    kind = choose_type(checkpoint.config, stored, target, dtype)
    adapters = list(_adapters(checkpoint, adapter))
    network = empty_network(checkpoint.config)
    looked_up = (bits or had) and not checkpoint.config.tied and target.type == "cpu"
    table = checkpoint.source.table_in_file() if looked_up else None
    with progress("reading", len(checkpoint.source.ours), "matrices", checkpoint.nbytes > _SHOWN) as advance:
        for path, leaves in checkpoint.source.modules():
            if path == "embedding" and table:
                network.embedding = _looked_up(network.embedding, table, kind)
            else:
                _assign(network, path, leaves, target, kind, bits)
            advance()
    for part in adapters:
        if isinstance(part, Prefix):
            network.prefix = part.to(target, kind)
        else:
            part.to(target, kind).attach(network)
    return network.eval().requires_grad_(False)


def _adapters(checkpoint: Checkpoint, adapter: Path | str | None) -> Iterator[Prefix | Lora]:
    """The checkpoint's own prefix, and the adapter that was asked for."""
    if any(checkpoint.source.prefix()):
        yield read_prefix(checkpoint.folder, checkpoint.config)
    if adapter:
        yield adapter_for(checkpoint.folder, checkpoint.config, adapter)


def adapter_for(folder: Path, config: ModelConfig, adapter: Path | str) -> Lora | Prefix:
    """The adapter, for the model in `folder`; says where it was made for one of another name."""
    found = read_adapter(adapter, config)
    name, here = base_name(adapter), folder.name
    if name.lower() not in ("", here.lower()):
        say(f"adapter {adapter} was made for a model called {name}; this one is {here}")
    return found


def open_checkpoint(
    path_or_name: Path | str, config: str | None = None, verify: bool = False, format: str | None = None
) -> Checkpoint:
    """Read the configuration and the headers of a folder; see `load_model` for `config` and `format`. verify: hold a
    folder of ours to its manifest first.
    """
    folder = resolve(path_or_name)
    shards = [] if has_weights(folder) else rank_files(folder)
    files = [[path] for path in shards]
    if shards and not config and (folder / CONFIG).is_file():
        config = str(folder / CONFIG)
    values = {} if shards or config else read_config(folder)
    require(
        bool(config or values),
        "config",
        config,
        f"{folder} holds shards of a training run and no configuration; name a preset (such as glm-130b) or give a "
        "JSON file",
    )
    if config:
        family, shape = named_config(config, bool(shards))
    else:
        family, shape = _described(values, folder / CONFIG, folder=folder, format=format)
    own = values.get("format") == "openglm"
    if own and verify:
        verify_folder(folder)
    ranks = [Tensors(paths) for paths in files or [find_weights(folder)]]
    # GLM-10B-Chinese was trained with one id for [gMASK] and the end of an answer; its published form has a second row
    # with the same weights.
    repeat = (shape.tokens.eop, shape.tokens.gmask) if family == "glm-10b-chinese" and shards else None
    layout = None if own else find_layout(ranks[0])
    return Checkpoint(folder, family, shape, Source(folder, shape, ranks, layout, repeat))


def _described(
    values: dict, path: Path, sharded: bool = False, folder: Path | None = None, format: str | None = None
) -> tuple[str, ModelConfig]:
    """Generation and network of a configuration, ours or a published one."""
    if values.get("format") == "openglm":
        return values.get("family") or "openglm", own_config(values, path)
    return published.recognize(values, sharded, folder, format)


def read_config(folder: Path) -> dict:
    """`config.json` of a model's folder."""
    there, remedy = (folder / CONFIG).is_file(), "a model's folder has one, or name a preset with config"
    if not there and (inside := sorted(folder.glob(f"snapshots/*/{CONFIG}"))):
        remedy = f"this is a hub's cache, the model lies in {inside[-1].parent}"
    require(there, "model", str(folder), f"holds no {CONFIG}; {remedy}")
    return read_json(folder / CONFIG)


def network_config(path_or_name: Path | str, format: str | None = None) -> ModelConfig:
    """The shape that a model's folder declares, from its configuration; see `load_model` for `format`."""
    folder = resolve(path_or_name)
    return _described(read_config(folder), folder / CONFIG, folder=folder, format=format)[1]


def network_and_tokenizer(folder: Path, format: str | None = None) -> tuple[ModelConfig, Tokenizer]:
    """What a folder declares, before weights are read. Raises ValueError where the two do not belong together."""
    tokenizer = load_tokenizer(folder, format)
    return settled(network_config(folder, format), tokenizer), tokenizer


def named_config(config: str, sharded: bool) -> tuple[str, ModelConfig]:
    """Generation and network of a preset, of a JSON file with our options, or of one with those of a published model or
    training run.
    """
    if config in PRESETS:
        return config, model_preset(config)
    path = Path(config)
    require(path.is_file(), "config", config, f"neither a file nor a preset; known: {', '.join(PRESETS)}")
    values = read_json(path)
    return ("openglm", model_config(values, config)) if "layers" in values else _described(values, path, sharded)


def rank_files(folder: Path) -> list[Path]:
    """Files of the ranks of a tensor-parallel run, in order: in the folder, or in the one that it names as its latest.
    Empty: there are none.
    """
    for latest in (folder / "latest", folder / "latest_checkpointed_iteration.txt"):
        if latest.is_file() and latest.stat().st_size < 256:
            name = latest.read_text(encoding="utf-8", errors="replace").strip()
            require(Path(name).name == name, "model", str(latest), "must name a folder beside it")
            folder = folder / name
            break
    found = {
        int(match[1]): path
        for path in folder.glob("mp_rank_*_model_states.pt")
        if (match := _RANK.fullmatch(path.name))
    }
    for rank in range(max(found, default=-1) + 1):
        require(
            rank in found,
            "model",
            str(folder / f"mp_rank_{rank:02}_model_states.pt"),
            f"missing, though there are {len(found)} others; use a complete copy",
        )
    return [found[rank] for rank in sorted(found)]


def choose_type(config: ModelConfig, stored: torch.dtype, device: torch.device, asked: str | None) -> torch.dtype:
    """Type of the activations, and of the weights that are not quantized."""
    require(asked in (None, *TYPES), "dtype", asked, f"choose {', '.join(TYPES)}")
    narrow = config.residual == "sandwich"
    require(
        not (narrow and asked == "float16"),
        "dtype",
        asked,
        "GLM-4-0414's activations overflow half precision and it would answer '!!!!'; choose bfloat16 or float32",
    )
    if asked:
        return getattr(torch, asked)
    if device.type == "cpu":
        return (
            torch.bfloat16
            if stored is torch.bfloat16 and choose_dtype("auto", device) is torch.bfloat16
            else torch.float32
        )
    return torch.bfloat16 if narrow and stored is torch.float16 else stored


def _assign(
    network: Transformer, path: str, leaves: Leaves, device: torch.device, dtype: torch.dtype, bits: int
) -> None:
    """Give a module its weights, in `dtype` or as codes; what lies in a mapped file is copied once."""
    module = network.get_submodule(path)
    matrix = network.config.matrices().get(path)
    quantized = _QUANTIZED.get(type(module))
    if "bias" in leaves:
        module.bias = _parameter(leaves["bias"], device, dtype)
    if quantized and "codes" in leaves:
        module = quantized.holding(
            module, leaves["codes"].to(device, copy=True), leaves["scales"].to(device, torch.float16, copy=True)
        )
    elif bits and matrix and quantized and matrix.quantized_bits(bits):
        kind = matrix_format(matrix, bits, GROUP)
        module = quantized.holding(module, *quantize_weight(leaves["weight"].to(device), *kind, search=False))
    else:
        module.weight = _parameter(leaves["weight"], device, dtype)
    if isinstance(module, QuantizedEmbedding):
        module.dtype = dtype
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


def _looked_up(embedding: nn.Embedding, leaves: Leaves, dtype: torch.dtype) -> StoredEmbedding | QuantizedEmbedding:
    if "codes" not in leaves:
        return StoredEmbedding(leaves["weight"], dtype)
    table = QuantizedEmbedding.holding(embedding, leaves["codes"], leaves["scales"].to(torch.float16))
    table.dtype = dtype
    return table


def matrix_format(matrix: Matrix, bits: int, group: int) -> tuple[int, int]:
    """Bits and group of one matrix of a network that is quantized."""
    return fitting_format(matrix.columns, matrix.quantized_bits(bits), group)


def _parameter(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(tensor.to(device, dtype, copy=True), requires_grad=False)
