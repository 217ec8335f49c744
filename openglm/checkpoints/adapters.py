"""Adapters on disk: LoRA in PEFT's layout (`adapter_config.json`, `adapter_model.safetensors`), a prefix in that of
ChatGLM's P-Tuning code (weights that hold `prefix_encoder` alone). Foreign names of the network's matrices are those of
layouts.py.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from openglm.checkpoints.layouts import LAYOUTS, PREFIX_ENCODER, Layout, Leaves, join_rows, split_rows
from openglm.checkpoints.native import ADAPTER, CONFIG, WEIGHTS
from openglm.checkpoints.published import hf_config
from openglm.checkpoints.tensors import Tensors, find_weights, read_json
from openglm.config import LoraConfig, ModelConfig, PrefixConfig, require
from openglm.files import write_folder, write_json
from openglm.model.adapters import Lora, Prefix, PrefixEncoder, prefix_width
from openglm.quant.codes import dequantize, quantize

_LORA_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_STEM = "base_model.model."
_UNREAD = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # others change the base's weights too


def read_adapter(folder: Path | str, config: ModelConfig) -> Lora | Prefix:
    """The adapter in a folder, for a network of this shape.

    Raises ValueError for one that belongs to another network, or does what is not served.
    """
    folder = Path(folder)
    require(folder.is_dir(), "adapter", str(folder), "no such folder; give one with a LoRA or a prefix")
    adapter = _read_lora(folder, config) if (folder / ADAPTER).is_file() else read_prefix(folder, config)
    adapter.check(config, str(folder))
    return adapter


def base_name(folder: Path | str) -> str:
    """What a LoRA's folder calls the model that it was made for; empty: it does not say."""
    path = Path(folder) / ADAPTER
    return Path(str(read_json(path).get("base_model_name_or_path") or "")).name if path.is_file() else ""


def read_prefix(folder: Path, config: ModelConfig) -> Prefix:
    """A prefix as the published P-Tuning v2 code saves it: its table, or a table and the two layers that make the
    values from it.
    """
    tensors = Tensors(find_weights(folder))
    names = {name.partition(PREFIX_ENCODER)[2]: name for name in tensors if PREFIX_ENCODER in name}
    kinds = "neither a LoRA (adapter_config.json) nor a prefix (prefix_encoder.embedding.weight)"
    require("embedding.weight" in names, "adapter", str(folder), f"holds {kinds}")
    parts = {leaf: tensors[name].float() for leaf, name in names.items()}
    table, inner = parts["embedding.weight"], parts.get("trans.0.weight")
    last, wanted = parts.get("trans.2.weight", table.mT), prefix_width(config)
    require(
        table.dim() == 2 and last.shape[0] == wanted,
        "adapter",
        str(folder),
        f"belongs to another model: it makes rows of {last.shape[0]} numbers where this one takes {wanted}",
    )
    try:
        length, columns = table.shape
        encoder = PrefixEncoder(config, length, columns, inner=0 if inner is None else len(inner)).eval()
        encoder.load_state_dict(parts)
        with torch.no_grad():
            return encoder()
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"adapter = {str(folder)!r}: its layers do not fit together ({reason})") from None


def _read_lora(folder: Path, config: ModelConfig) -> Lora:
    options = read_json(folder / ADAPTER)
    _require_plain(options, str(folder))
    path = next((folder / name for name in _LORA_WEIGHTS if (folder / name).is_file()), folder / _LORA_WEIGHTS[0])
    tensors = Tensors([path])
    halves: dict[str, dict[str, Tensor]] = {}
    for name in tensors:
        layer, _, half = name.removeprefix(_STEM).removeprefix("glm.").partition(".lora_")
        known = half.partition(".")[0] in ("A", "B") and half.endswith("weight")
        require(known, f"{path}: tensor", name, "no part of a LoRA; DoRA and its kin are not read")
        halves.setdefault(layer, {})[half[0]] = tensors[name].float()
    table = _foreign(config)
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for layer, found in halves.items():
        require(layer in table, f"{path}: layer", layer, "this model has none of this name; the LoRA is of another")
        require(found.keys() == {"A", "B"}, f"{path}: layer", layer, "lacks one of its two matrices")
        targets, outer = table[layer]
        sizes = [config.matrices()[target].rows for target in targets]
        down_RI, up_OR = found["A"], found["B"] * _scale(options, layer, len(found["A"]))
        fits = len(up_OR) == sum(sizes)
        require(fits, f"{path}: layer", layer, f"{len(up_OR)} rows, not {sum(sizes)}; it belongs to another model")
        pairs |= {name: (down_RI, part) for name, part in zip(targets, split_rows(up_OR, sizes, outer), strict=True)}
    return Lora(pairs)


def _require_plain(options: dict[str, Any], where: str) -> None:
    """Refuse what PEFT can do and this does not."""
    kind = options.get("peft_type")
    require(kind == "LORA", f"{where}: peft_type", kind, "only LORA is read, and ChatGLM's prefixes")
    for name in _UNREAD:
        require(not options.get(name), f"{where}: {name}", options.get(name), "not read; merge the adapter with peft")
    start, bias = options.get("init_lora_weights"), options.get("bias", "none")
    require(start in _PLAIN_STARTS, f"{where}: init_lora_weights", start, "changes the base too; merge it with peft")
    require(bias == "none", f"{where}: bias", bias, "biases are not read; merge the adapter with peft")


def _scale(options: dict[str, Any], layer: str, rank: int) -> float:
    """alpha / rank of one layer; `alpha_pattern` has alphas of its own by the ends of names."""
    alpha = options.get("lora_alpha", 8)
    for name, value in (options.get("alpha_pattern") or {}).items():
        plain = re.fullmatch(r"\^?[\w.]+", name)
        require(plain is not None, "alpha_pattern", name, "only ends of names are read, no patterns")
        alpha = value if f".{layer}".endswith(f".{name.lstrip('^')}") else alpha
    require(isinstance(alpha, int | float), "lora_alpha", alpha, "must be a number")
    return alpha / (math.sqrt(rank) if options.get("use_rslora") else rank)


def _foreign(config: ModelConfig, only: Layout | None = None) -> dict[str, tuple[tuple[str, ...], int]]:
    """A layer's name in any layout: our matrices that it holds, and in how many parts they lie one after another."""
    thirds = config.positions == "learned_2d"  # GLM-10B; layers of ChatGLM-6B and GLM-130B have the same names
    layouts = [only] if only else [layout for name, layout in LAYOUTS.items() if thirds or name != "glm-10b"]
    found: dict[str, tuple[tuple[str, ...], int]] = {name: ((name,), 1) for name in config.matrices()}
    for layout in layouts if only else reversed(layouts):
        for foreign, targets in layout.table(config).items():
            held = tuple(target for target in targets if target in config.matrices())
            if held:
                found[foreign] = held, config.heads if layout.per_head and len(held) == 3 else 1
    return found


def home_layout(config: ModelConfig, source: Layout | None) -> Layout | None:
    """In whose names an adapter is written: those of the checkpoint that it was trained on; for one of ours those of
    `transformers`, or of the published code. None: no other code runs such a network."""
    if source is not None:
        return source
    try:
        hf_config(config, "float32")
        return LAYOUTS["hf"]
    except ValueError:
        kinds = {"learned_2d": "glm-10b", "rope_2d": "glm-130b"}
        return LAYOUTS.get(kinds.get(config.positions, "glm-130b" if config.residual == "deepnorm" else ""))


def write_lora(
    folder: Path, lora: Lora, config: ModelConfig, layout: Layout | None, options: LoraConfig, base: str
) -> Path:
    """A folder that PEFT opens over the model whose names `layout` has."""
    table = _foreign(config, layout)
    ours = {target: name for name, (targets, _) in table.items() for target in targets}  # the layout's names win
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(ours[layer] for layer in lora.names):
        targets, outer = table[name]
        down_RI = next(lora.raw(target)[0] for target in targets if target in lora.names)
        ups = [
            lora.raw(target)[1]
            if target in lora.names
            else down_RI.new_zeros(config.matrices()[target].rows, len(down_RI))
            for target in targets
        ]
        tensors[f"{_STEM}{name}.lora_A.weight"] = down_RI.detach().clone()
        tensors[f"{_STEM}{name}.lora_B.weight"] = join_rows(ups, outer).detach().contiguous()
    leaves = sorted({name.removesuffix(".lora_A.weight").rpartition(".")[2] for name in tensors if "lora_A" in name})
    description = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": options.rank,
        "lora_alpha": options.alpha,
        "lora_dropout": options.dropout,
        "use_rslora": options.rslora,
        "target_modules": leaves,
        "bias": "none",
        "inference_mode": True,
    }
    return _write(folder, tensors, _LORA_WEIGHTS[0], description, ADAPTER)


def _write(folder: Path, tensors: dict[str, Tensor], weights: str, description: dict[str, Any], settings: str) -> Path:
    def fill(target: Path) -> None:
        save_file(tensors, target / weights, {"format": "pt"})
        write_json(target / settings, description)

    return write_folder(folder.parent, folder.name, fill)


def new_encoder(config: ModelConfig, options: PrefixConfig) -> PrefixEncoder:
    """As the published code of the generation has it: with a projection, ChatGLM2's table is as wide as what it makes,
    and ChatGLM-6B's as the model."""
    wide = not options.projection or config.mask == "causal"
    columns = prefix_width(config) if wide else config.hidden
    inner = config.hidden if options.projection else 0
    return PrefixEncoder(config, options.length, columns, inner, options.dropout)


def write_prefix(folder: Path, tensors: dict[str, Tensor], options: PrefixConfig) -> Path:
    """tensors: those of a `PrefixEncoder`, by its names."""
    named = {f"transformer.{PREFIX_ENCODER}{name}": tensor.contiguous() for name, tensor in tensors.items()}
    description = {"pre_seq_len": options.length, "prefix_projection": options.projection}
    return _write(folder, named, WEIGHTS, description, CONFIG)


def prefix_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a prefix, under their own names."""
    tensors = Tensors(find_weights(folder))
    return ((name, tensors[name]) for name in tensors if PREFIX_ENCODER in name)


def fold(lora: Lora, path: str, leaves: Leaves) -> Leaves:
    """A module's tensors with the LoRA's product in its weight; codes are widened, changed and quantized again."""
    if path not in lora.names:
        return leaves
    down_RI, up_OR = lora.pair(path)
    change_OI = up_OR @ down_RI
    if "codes" not in leaves:
        weight = leaves["weight"]
        return {**leaves, "weight": (weight.float() + change_OI).to(weight.dtype)}
    codes, scales = leaves["codes"], leaves["scales"]
    groups = scales.shape[1]
    weight = dequantize(codes, scales) + change_OI
    group = weight.shape[1] // groups if groups > 1 else 0
    codes, scales = quantize(weight, 4 if codes.dtype == torch.uint8 else 8, group)
    return {**leaves, "codes": codes, "scales": scales}
