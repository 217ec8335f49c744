"""Tensors that many processes hold shares of, written by all of them at once and read by any number of others, cut in
any other way.

PyTorch's distributed checkpoints in their safetensors form: a file for each process and kind of tensor, whose header
says where its pieces belong. Nothing here is a pickle. A name begins with its kind and a bar: `weights|blocks.0.ffn.up_proj.weight`.
"""

import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

from openglm.config import require

KINDS = ("weights", "optimizer", "average")


def save_shards(folder: Path | str, tensors: dict[str, Tensor]) -> None:
    """Write this process's shares. All processes call it, with the same folder. Raises the error of the process that
    could not."""
    with _own_errors():
        dcp.save(tensors, storage_writer=_writer(folder), no_dist=not dist.is_initialized())


def start_saving(folder: Path | str, tensors: dict[str, Tensor], group: dist.ProcessGroup) -> Future:
    """`save_shards` in the background: the tensors are copied before it returns, and the result of the Future is that
    all processes have written.

    group: processes as in training, but with connections of their own, on the CPU.
    """
    return dcp.async_save(tensors, storage_writer=_writer(folder), process_group=group)


def finish_saving(saving: Future) -> None:
    """Wait for the end of `start_saving`. Raises what `save_shards` would."""
    with _own_errors():
        saving.result()


def load_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill tensors, or this process's shares of them, in place. Raises ValueError for one that the folder lacks or has
    in another shape."""
    with _readable(folder):
        reader = HuggingFaceStorageReader(str(folder))
        held = reader.read_metadata().state_dict_metadata
        for name, tensor in tensors.items():
            require(name in held, name, str(folder), "the checkpoint lacks it; start again in another folder")
            require(
                held[name].size == tensor.shape,
                name,
                list(held[name].size),
                f"the checkpoint holds it in this shape, not {list(tensor.shape)}; it is of another model",
            )
        with _own_errors():
            dcp.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())


def names(folder: Path, kind: str) -> list[str]:
    """Names of one kind, without it."""
    with _readable(folder):
        return [
            name.partition("|")[2]
            for name in HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
            if name.startswith(kind + "|")
        ]


def whole_tensors(folder: Path, kind: str) -> Iterator[tuple[str, Tensor]]:
    """All tensors of one kind, put together one after another."""
    with _readable(folder):
        metadata = HuggingFaceStorageReader(str(folder)).read_metadata()
        pieces: dict[str, list] = {}
        for index, info in metadata.storage_data.items():
            pieces.setdefault(index.fqn, []).append((index.offset, info))
        for name, parts in pieces.items():
            if name.startswith(kind + "|"):
                entry = metadata.state_dict_metadata[name]
                whole = torch.empty(entry.size, dtype=entry.properties.dtype)
                for offset, info in parts:
                    with safe_open(info.relative_path, framework="pt") as file:
                        whole[tuple(slice(a, a + n) for a, n in zip(offset, info.shape, strict=True))] = (
                            file.get_tensor(name)
                        )
                yield name.partition("|")[2], whole


@contextmanager
def _own_errors() -> Iterator[None]:
    """The error of the process that failed, where PyTorch raises one around those of all; and no word about a single
    process being one."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except CheckpointException as error:
        raise next(cause for cause, _ in error.failures.values()) from None


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, KeyError, IndexError) as error:
        raise ValueError(
            f"{folder}: not a readable checkpoint ({str(error).splitlines()[0]}); use another copy"
        ) from None


class _Files(dict):
    """Number of the file that a tensor goes to, one for each kind. PyTorch asks the first process for the names of
    all."""

    def __missing__(self, name: str) -> int:
        return self[name.partition("|")[0]]


def _writer(folder: Path | str) -> HuggingFaceStorageWriter:
    return HuggingFaceStorageWriter(
        str(folder),
        fqn_to_index_mapping=_Files({kind: number for number, kind in enumerate(KINDS, 1)}),
        save_distributed=True,
    )
