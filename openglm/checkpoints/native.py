"""Our own model folder: `config.json`, `model.safetensors` (or shards and an index), `tokenizer.json`, `manifest.json`.

Weights are fp32, fp16 or bf16, or int8 and int4 codes with their scales (openglm/quant); each tensor's type is in its
file's header. Nothing in the folder is trusted: sizes are held to each other before memory is taken, and every error is
one line. Models are loaded in load.py.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from openglm.checkpoints.tensors import INDEX, Tensors, find_weights, has_weights, read_json
from openglm.config import ModelConfig, from_dict, require, shown
from openglm.files import ASSETS, write_folder, write_json
from openglm.model.transformer import Transformer
from openglm.text.load import load_tokenizer
from openglm.text.published import write_sampling
from openglm.text.tokenizer import Tokenizer

CONFIG, WEIGHTS, ADAPTER = "config.json", "model.safetensors", "adapter_config.json"
TYPES = ("float32", "float16", "bfloat16")
_SHARD = 2 << 30  # bytes of tensors that are held and written together


def save_model(
    folder: Path | str, model: Transformer, tokenizer: Tokenizer | Path | str | None, dtype: str | None = None
) -> Path:
    """Write a model folder in one go, with the tokenizer (or that of a folder or file) if there is any.

    dtype: storage type, None: that of each tensor; codes and scales always keep theirs. Raises ValueError when the
    folder cannot be written; an earlier folder stays as it was.
    """
    require(model.lora is None, "model.lora", "attached", "would be lost; detach it, or fold it in: glm merge")
    require(dtype in (None, *TYPES), "dtype", dtype, f"choose {' or '.join(TYPES)}")
    vocabulary = load_tokenizer(tokenizer) if isinstance(tokenizer, (str, Path)) else tokenizer
    tensors = ((name, tensor) for name, tensor in model.state_dict().items() if not name.startswith("prefix."))
    return write_model(folder, model.config, tensors, vocabulary, getattr(torch, dtype) if dtype else None)


def write_model(
    folder: Path | str,
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    tokenizer: Tokenizer | None,
    dtype: torch.dtype | None = None,
    family: str = "",
) -> Path:
    """`save_model` from named tensors, one after another. family: the generation that a converted model belongs to."""
    known = {"family": family} if family else {}
    description = {"format": "openglm", "version": 1, **known, "model": dataclasses.asdict(config)}

    def fill(target: Path) -> None:
        write_tensors(target, tensors, dtype)
        write_json(target / CONFIG, description)
        if tokenizer is not None:
            tokenizer.save(target)
            write_sampling(target, tokenizer)

    folder = Path(folder).resolve()
    return write_folder(folder.parent, folder.name, fill)


def _stored(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor as it is written: of `dtype` (None: its own), but for codes and their scales."""
    exact = dtype is None or not tensor.is_floating_point() or name.endswith(".scales")
    tensor = tensor.detach().to("cpu", tensor.dtype if exact else dtype).contiguous()
    # A copy, where the tensor shares memory with others or is a view of a mapped file.
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def write_tensors(folder: Path, tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None = None) -> None:
    """One file, or shards of some gigabytes and an index: only one shard is held at a time. The layout of files is that
    of the Hugging Face hub."""
    shards: list[dict[str, int]] = [{}]
    held: dict[str, Tensor] = {}
    for name, given in tensors:
        tensor = _stored(name, given, dtype)
        if sum(shards[-1].values()) + tensor.nbytes > _SHARD and held:
            save_file(held, folder / f"{len(shards)}.part", {"format": "pt"})
            held = {}
            shards.append({})
        held[name], shards[-1][name] = tensor, tensor.nbytes
    save_file(held, folder / f"{len(shards)}.part", {"format": "pt"})
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    files = names if len(shards) > 1 else [WEIGHTS]
    for number, file in enumerate(files, 1):
        (folder / f"{number}.part").rename(folder / file)
    if len(files) > 1:
        file_of = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        total = sum(sum(shard.values()) for shard in shards)
        write_json(folder / f"{WEIGHTS}{INDEX}", {"metadata": {"total_size": total}, "weight_map": file_of})


def resolve(path_or_name: Path | str) -> Path:
    """The folder of a model, given as a path or as the name of a bundled one."""
    folder = Path(path_or_name)
    if folder.is_dir():
        _refuse_adapter(folder)
        return folder
    bundled = sorted(path.parent.name for path in ASSETS.glob(f"*/{WEIGHTS}"))
    if str(path_or_name) in bundled:
        return ASSETS / str(path_or_name)
    raise ValueError(
        f"model = {shown(str(path_or_name))}: no such folder; give a model's "
        f"folder{' or a bundled name: ' + ', '.join(bundled) if bundled else ''}"
    )


def _refuse_adapter(folder: Path) -> None:
    """Raises ValueError for a folder with nothing but a LoRA or a prefix, which is said to be one."""
    kind = "LoRA" if (folder / ADAPTER).is_file() and not (folder / CONFIG).is_file() else ""
    there = has_weights(folder) and (not (folder / CONFIG).is_file() or read_json(folder / CONFIG).get("pre_seq_len"))
    if there and all("prefix_encoder." in name for name in Tensors(find_weights(folder))):
        kind = "prefix"
    remedy = f"give its base model, and this as its adapter: --model BASE --adapter {folder}"
    require(not kind, "model", str(folder), f"this is a {kind}; {remedy}")


def own_config(values: dict[str, Any], path: Path) -> ModelConfig:
    """The network that a `config.json` of ours describes."""
    require(
        values.get("version") == 1,
        f"{path}: version",
        values.get("version"),
        "written by a newer release; update openglm",
    )
    require(isinstance(values.get("model"), dict), f"{path}: model", values.get("model"), "must be a table of options")
    return model_config(values["model"], str(path))


def model_config(values: dict[str, Any], where: str) -> ModelConfig:
    """A table of our options, checked. Raises ValueError for an unknown option, a wrong value or a wrong kind of
    value."""
    try:
        return from_dict(ModelConfig, values, "model.")
    except (TypeError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(f"{where}: an option of the wrong kind ({error}); use another copy of this folder") from None
