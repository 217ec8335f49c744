"""Weights files as one mapping from names to tensors that are read when asked for: safetensors and PyTorch's zip files,
whole or in shards.

The bytes stay on the disk: a tensor is a view of the mapped file, and the mapping is dropped every so often, so that
what was read does not stay resident. This is the one file that may call `torch.load`, and only for tensors. What the
tensors mean is not known here.
"""

import itertools
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from openglm.config import require
from openglm.files import refuse_pointer
from openglm.runtime import say

INDEX = ".index.json"
_WHOLE = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
"""what a folder's weights are read from, the first that is there, as `transformers` does"""
_SHARDS = ("model-*-of-*.safetensors", "pytorch_model-*-of-*.bin")
"""without an index: all of one kind"""
_WRAPS = ("module", "state_dict", "model")
"""under one of these, training programs keep the table of tensors"""
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|base_model\.model\.)+|(?<=\.)(?:_orig_mod|_fsdp_wrapped_module)\.")
"""what distributed training, torch.compile and PEFT put into the names of tensors"""
_LARGEST_JSON = 64 << 20  # bytes of an index or a configuration; a longer one is not meant to be read
_RESIDENT = 32 << 20  # bytes read through one mapping before it is renewed
_SAFETENSORS_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Tensors(Mapping[str, Tensor]):
    """The tensors of some files. Shapes and types are known from the headers; `[name]` reads one."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, torch.dtype] = {}
        self._home: dict[str, Path] = {}
        self._stored: dict[str, str] = {}  # names in the files
        self._open: tuple[Path, Callable[[str], Tensor]] | None = None
        self._read = 0
        for path in files:
            self._add(path)

    def _add(self, path: Path) -> None:
        require(path.is_file(), "model", str(path), "missing; use a complete copy of this checkpoint")
        refuse_pointer(path, "model")
        held = 0
        header = _safetensors_header if path.suffix == ".safetensors" else _torch_header
        for stored, (shape, dtype) in header(path).items():
            name = _WRAPPERS.sub("", stored)
            remedy = "is there twice; this folder mixes two checkpoints"
            require(name not in self._home, f"{path}: tensor", name, remedy)
            self.shapes[name], self.types[name], self._home[name], self._stored[name] = shape, dtype, path, stored
            held += torch.Size(shape).numel() * dtype.itemsize
        # Twice: tied tables may be named twice over one copy.
        require(
            held <= 2 * path.stat().st_size,
            "model",
            str(path),
            f"declares {held} bytes of tensors in a file of {path.stat().st_size}; it is damaged or means harm",
        )

    def __getitem__(self, name: str) -> Tensor:
        path = self._home[name]
        if self._open is None or self._open[0] != path or self._read > _RESIDENT:
            self._open = None  # unmapped before the next is mapped
            self._open, self._read = (path, _map(path)), 0
        tensor = self._open[1](self._stored[name])
        self._read += tensor.nbytes
        return tensor

    def left_in_file(self, name: str) -> Tensor:
        """A tensor that is to stay a view of its file, on a mapping of its own: no other one's pages are held with
        it."""
        return _map(self._home[name])(self._stored[name])

    def __contains__(self, name: object) -> bool:
        return name in self._home  # what Mapping offers would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._home)

    def __len__(self) -> int:
        return len(self._home)

    def path(self, name: str) -> Path:
        return self._home[name]

    @property
    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)


def _map(path: Path) -> Callable[[str], Tensor]:
    return open_safetensors(path).get_tensor if path.suffix == ".safetensors" else _load_torch(path).__getitem__


def has_weights(folder: Path) -> bool:
    """Whether a folder holds weights under the names that models have, apart from shards of a training run."""
    return any((folder / name).is_file() for name in _WHOLE) or any(any(folder.glob(kind)) for kind in _SHARDS)


def find_weights(folder: Path) -> list[Path]:
    """The weights files of a folder, in `transformers`' order; says so where it holds others too, from an older save.

    Raises ValueError that names a missing shard.
    """
    there = [folder / name for name in _WHOLE if (folder / name).is_file()]
    shards = [files for kind in _SHARDS if (files := sorted(folder.glob(kind)))]
    if there:
        files = _indexed(there[0]) if there[0].name.endswith(INDEX) else there[:1]
    else:
        looked = ", ".join((*_WHOLE, *_SHARDS))
        require(bool(shards), "model", str(folder), f"holds no weights; looked for {looked}")
        files = shards[0]
        parts = int(files[0].stem.rsplit("-", 1)[1]) if files[0].stem.rsplit("-", 1)[1].isdigit() else len(files)
        missing = f"{parts} shards by its name, and {len(files)} are there; use a complete copy of this checkpoint"
        require(len(files) == parts, "model", str(files[0]), missing)
    others = {path for path in [*there, *itertools.chain(*shards)] if path not in (*files, *there[:1])}
    if others:
        names = sorted(path.name for path in others)
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        read = there[0].name if there else f"{files[0].name} and {len(files) - 1} more"
        say(f"{folder}: reads {read}; not read, though there: {shown}")
    return files


def _indexed(index: Path) -> list[Path]:
    file_of = read_json(index).get("weight_map") or {}
    sound = isinstance(file_of, dict) and all(
        isinstance(name, str) and Path(name).name == name for name in file_of.values()
    )
    require(
        sound and bool(file_of),
        f"{index}: weight_map",
        "damaged",
        "must give a file of this folder for every tensor; use another copy",
    )
    files = [index.parent / name for name in sorted(set(file_of.values()))]
    for path in files:
        require(
            path.is_file(),
            "model",
            str(path),
            f"missing, though {index.name} lists it; use a complete copy of this checkpoint",
        )
    return files


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON table. Raises ValueError that names the file when it is missing, too long or malformed."""
    require(path.is_file(), "model", str(path), "no such file; give a model's folder or configuration")
    require(
        path.stat().st_size <= _LARGEST_JSON,
        "model",
        str(path),
        f"larger than {_LARGEST_JSON} bytes; not a model's configuration",
    )
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: not valid JSON; use another copy of this folder") from None
    require(isinstance(values, dict), "model", str(path), "must hold a table of options")
    return values


def open_safetensors(path: Path) -> Any:
    """The file mapped into memory (`keys`, `get_tensor`, `get_slice`). Raises ValueError for a truncated or malformed
    one."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: not a readable safetensors file ({str(error).splitlines()[0]}); use another copy"
        ) from None


def _safetensors_header(path: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    file = open_safetensors(path)
    found = {}
    for name in file.keys():  # noqa: SIM118 - not a dictionary
        part = file.get_slice(name)
        dtype = _SAFETENSORS_TYPES.get(part.get_dtype())
        require(
            dtype is not None,
            f"{path}: tensor {name}",
            part.get_dtype(),
            f"a type that is not read; known: {', '.join(_SAFETENSORS_TYPES)}",
        )
        found[name] = tuple(part.get_shape()), dtype
    return found


def _torch_header(path: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in _load_torch(path).items()}


def _load_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a file written by `torch.save`, perhaps inside of a training state. Nothing but tensors and plain
    values is ever built."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path}: holds more than tensors (or is damaged) and was not run; ask for a copy in safetensors"
        ) from None
    except (
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        EOFError,
        OSError,
        AssertionError,
        MemoryError,
    ) as error:
        raise ValueError(
            f"{path}: not a readable PyTorch file ({(str(error).splitlines() or ['?'])[0]}); use another copy"
        ) from None
    require(isinstance(loaded, dict), "model", str(path), "holds no table of tensors; use another copy")
    for wrap in 2 * _WRAPS:  # one may lie in another
        loaded = loaded[wrap] if isinstance(loaded.get(wrap), dict) else loaded
    return {
        str(name): tensor
        for name, tensor in loaded.items()
        if isinstance(tensor, Tensor) and tensor.layout == torch.strided
    }
