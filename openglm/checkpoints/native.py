"""Our own model folder: `config.json`, `model.safetensors`, `tokenizer.json`, `manifest.json`. Published layouts are not read here.

Nothing in the folder is trusted: sizes are held to each other before memory is taken, and every error is one line.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from openglm.checkpoints.durable import MANIFEST, verify_folder, write_folder
from openglm.config import ModelConfig, from_dict, require
from openglm.model.transformer import Transformer
from openglm.runtime import choose_device
from openglm.text.tokenizer import Tokenizer, load_tokenizer

ASSETS = Path(__file__).resolve().parent.parent / "assets"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_LARGEST_CONFIG = 1 << 20  # bytes


def save_model(folder: Path | str, model: Transformer, tokenizer: Tokenizer | Path | str | None, dtype: str = "float32", weights: dict[str, Tensor] | None = None) -> Path:
    """Write a model folder in one go, with the tokenizer (or that of a folder or file) if there is any.

    weights: by parameter name, in place of the model's own, e.g. their running average. dtype: storage type, float32 or float16.
    Raises ValueError when the place cannot be written; an earlier folder stays as it was.
    """
    require(dtype in ("float32", "float16"), "dtype", dtype, "models are stored as float32 or float16")
    tensors = dict(model.named_parameters()) if weights is None else weights
    vocabulary = load_tokenizer(tokenizer) if isinstance(tokenizer, (str, Path)) else tokenizer

    def fill(place: Path) -> None:
        stored = {name: tensor.detach().to("cpu", getattr(torch, dtype)).contiguous() for name, tensor in tensors.items()}
        save_file(stored, place / WEIGHTS)
        description = {"format": "openglm", "version": 1, "model": dataclasses.asdict(model.config)}
        (place / CONFIG).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        if vocabulary is not None:
            vocabulary.save(place)

    folder = Path(folder).resolve()
    return write_folder(folder.parent, folder.name, fill)


def load_model(
    path_or_name: Path | str, *, config: str | None = None, adapter: str | None = None, device: str | None = None, dtype: str | None = None, quantize: str | None = None
) -> Transformer:
    """A model ready for inference, from a folder or by the name of a bundled one.

    device: None takes what `auto` finds; dtype: float32 unless said otherwise. Raises ValueError naming the file that is missing,
    damaged or contradicts another, and naming the option that this version does not serve yet.
    """
    later = {"config": config, "adapter": adapter, "quantize": quantize}
    for option, value in later.items():
        require(value is None, option, value, "this version loads whole models in its own format only; leave the option out")
    require(dtype in (None, "float32", "float16", "bfloat16"), "dtype", dtype, "choose float32, float16 or bfloat16")
    target = choose_device(device or "auto")
    folder = resolve(path_or_name)
    shape = read_config(folder)
    verify_folder(folder)
    tensors = read_tensors(folder / WEIGHTS, shape.parameters)
    model = Transformer(shape)
    fill_parameters(model, tensors, folder / WEIGHTS)
    return model.to(target, getattr(torch, dtype or "float32")).eval().requires_grad_(False)


def resolve(path_or_name: Path | str) -> Path:
    """The folder of a model, given as a path or as the name of a bundled one."""
    folder = Path(path_or_name)
    if folder.is_dir():
        return folder
    bundled = sorted(path.parent.name for path in ASSETS.glob(f"*/{WEIGHTS}"))
    if str(path_or_name) in bundled:
        return ASSETS / str(path_or_name)
    raise ValueError(f"model = {str(path_or_name)!r}: no such folder; give a model's folder{' or a bundled name: ' + ', '.join(bundled) if bundled else ''}")


def read_config(folder: Path) -> ModelConfig:
    """The shape that a model folder declares."""
    path = folder / CONFIG
    require(path.is_file(), "model", str(folder), f"holds no {CONFIG}; a model's folder has {CONFIG}, {WEIGHTS} and {MANIFEST}")
    require(path.stat().st_size <= _LARGEST_CONFIG, "model", str(path), f"larger than {_LARGEST_CONFIG} bytes; not a model's configuration")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: not valid JSON; use another copy of this folder") from None
    require(isinstance(values, dict), "model", str(path), "must hold a table of options")
    require(values.get("format") == "openglm", "model", str(folder), "not in our own format; published checkpoints are not read by this version")
    require(values.get("version") == 1, f"{path}: version", values.get("version"), "written by a newer release; update openglm")
    require(isinstance(values.get("model"), dict), f"{path}: model", values.get("model"), "must be a table of options")
    try:
        return from_dict(ModelConfig, values["model"], "model.")
    except (TypeError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: an option of the wrong kind ({error}); use another copy of this folder") from None


def read_tensors(path: Path, parameters: int | None = None, device: str = "cpu") -> dict[str, Tensor]:
    """All tensors of a safetensors file. With `parameters`, the file must declare exactly so many numbers: checked before any is read."""
    try:
        with safe_open(path, framework="pt", device=device) as file:
            names = list(file.keys())
            declared = sum(torch.Size(file.get_slice(name).get_shape()).numel() for name in names)
            if parameters is not None and declared != parameters:
                raise ValueError(f"{path}: {declared} weights where {CONFIG} describes {parameters}; the two files do not belong together")
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({str(error).splitlines()[0]}); use another copy") from None


def fill_parameters(model: torch.nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Copy tensors into the parameters of the same name. Raises ValueError for a name or a shape that does not fit."""
    parameters = dict(model.named_parameters())
    for name in sorted(parameters.keys() | tensors.keys()):
        ours, theirs = parameters.get(name), tensors.get(name)
        if ours is None or theirs is None:
            raise ValueError(f"{source}: tensor {name!r} is {'missing' if theirs is None else 'unknown'}; {CONFIG} describes another network")
        if ours.shape != theirs.shape or not theirs.is_floating_point():
            raise ValueError(f"{source}: tensor {name!r} has shape {list(theirs.shape)} of {theirs.dtype}, not {list(ours.shape)} of floats; {CONFIG} describes another network")
        with torch.no_grad():
            ours.copy_(theirs)
