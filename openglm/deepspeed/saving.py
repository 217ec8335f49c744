"""Checkpoints of an engine: sharded safetensors by torch.distributed.checkpoint, and JSON for all that is no tensor. No
pickle is written or read.

    DIR/latest                                   the newest tag
    DIR/TAG/mp_rank_00/shard-*.safetensors       weights, buffers and optimizer state, a file for each data-parallel
    process DIR/TAG/mp_rank_00/state.json                counters, schedule, loss scale, parameter groups, client_state
    DIR/TAG/mp_rank_00/client/client.safetensors the tensors and arrays in these

The folder is filled under another name and renamed, so that a killed run leaves the old one or the new one. DeepSpeed's
own files (pickles) are not read.
"""

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from openglm.config import require
from openglm.files import publish, recover, replacing, sync_tree, write_file
from openglm.runtime import say

_COUNTERS = ("micro_steps", "global_steps", "global_samples", "skipped_steps")
_STATE, _CLIENT = "state.json", "client/client.safetensors"


class Engine(Protocol):
    """What a checkpoint holds of the engine (engine.py), and who writes which part of it."""

    module: nn.Module
    optimizer: torch.optim.Optimizer | None
    lr_scheduler: Any
    scaler: Any
    device: torch.device
    dp_group: dist.ProcessGroup
    dp_rank: int
    mp_rank: int


def save(engine: Engine, parent: Path, tag: str, client: dict[str, Any], latest: bool) -> None:
    """Write parent/tag. Raises ValueError in all processes when one of them fails; what was there before is untouched
    then."""
    require(tag not in ("", ".", "..", "latest") and Path(tag).name == tag, "tag", tag, "must be a plain name")
    temporary, first = parent / f".tmp-{tag}", dist.get_rank() == 0
    folder = temporary / f"mp_rank_{engine.mp_rank:02d}"
    state: dict[str, Any] = {}
    client_tensors: dict[str, Tensor] = {}

    def start() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)

    def tensors() -> None:
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        held = _module_tensors(engine) | _optimizer_tensors(engine)
        dcp.save(held, storage_writer=writer, process_group=engine.dp_group)

    try:
        _together(engine, lambda: state.update(pack(_state(engine, client), client_tensors)))
        _together(engine, lambda: recover(parent / tag), first)
        _together(engine, start, first)
        _together(engine, tensors)
        _together(engine, lambda: _write_state(folder, state, client_tensors), engine.dp_rank == 0)
        _together(engine, lambda: _publish(temporary, parent / tag, latest), first)
    finally:
        if first:
            shutil.rmtree(temporary, ignore_errors=True)


def save_weights(engine: Engine, parent: Path, name: str, dtype: torch.dtype) -> None:
    """All weights and buffers, put together and in `dtype`, in parent/name."""
    kind = Path(name).suffix
    require(kind == ".safetensors", "save_filename", name, "no pickle is written; let it end in .safetensors")
    parts = dist.get_world_size() // dist.get_world_size(engine.dp_group)
    require(parts == 1, "save_16bit_model, model-parallel parts", parts, "only whole models; use save_checkpoint")
    whole: dict[str, Tensor] = {}
    for key, value in _module_tensors(engine).items():
        full = value.full_tensor() if isinstance(value, DTensor) else value
        if dist.get_rank() == 0:
            whole[key.removeprefix("module.")] = full.to("cpu", dtype if full.is_floating_point() else None)

    def write() -> None:
        parent.mkdir(parents=True, exist_ok=True)
        with replacing(parent / name) as beside:
            save_file(whole, beside)

    _together(engine, write, dist.get_rank() == 0)


def load(
    engine: Engine, parent: Path, tag: str | None, strict: bool, optimizer: bool, schedule: bool, counters: bool
) -> tuple[str | None, dict[str, Any] | None]:
    """Fill the engine from parent/tag. Raises ValueError that names what is missing, damaged or of another shape."""
    if tag is None:
        if not (parent / "latest").is_file():
            say(f"no file {parent / 'latest'}: nothing is loaded; give a tag to load an older checkpoint")
            return None, None
        tag = (parent / "latest").read_text(encoding="utf-8").strip()
    require(Path(tag).name == tag, "tag", tag, "must be a plain name")
    folder = parent / tag / f"mp_rank_{engine.mp_rank:02d}"
    require((folder / _STATE).is_file(), "load_checkpoint", str(folder), "holds no checkpoint of this interface")
    with _naming_damage(folder):
        state = unpack(json.loads((folder / _STATE).read_text(encoding="utf-8")), load_file(folder / _CLIENT))
        reader = HuggingFaceStorageReader(str(folder))
        there = {name: _whole(name, entry) for name, entry in reader.read_metadata().state_dict_metadata.items()}
    module = _wanted(_module_tensors(engine), there, strict)
    moments = _wanted(_blank_moments(engine, there), there, False) if optimizer and engine.optimizer is not None else {}
    with _naming_damage(folder):
        dcp.load({**module, **moments}, storage_reader=reader, process_group=engine.dp_group)
        _restore(engine, state, moments, optimizer, schedule, counters)
        return str(parent / tag), state["client"]


@contextlib.contextmanager
def _naming_damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except (
        SafetensorError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        AssertionError,
        RecursionError,
        dcp.api.CheckpointException,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder}: damaged checkpoint ({reason}); load an older tag") from error


def _whole(name: str, entry: TensorStorageMetadata) -> tuple[int, ...]:
    """Shape of a tensor whose pieces are all there: torch would leave a gap as it is."""
    there = sum(math.prod(chunk.sizes) for chunk in entry.chunks)
    require(
        there == math.prod(entry.size), name, there, f"numbers where {math.prod(entry.size)} belong; a file is missing"
    )
    return tuple(entry.size)


def _together(engine: Engine, work: Callable[[], Any], mine: bool = True) -> None:
    """`work` in the processes where it is `mine`, the others waiting. The failure of one is a ValueError in all."""
    failure = ""
    try:
        if mine:
            work()
    except (OSError, ValueError, TypeError, SafetensorError, dcp.api.CheckpointException) as error:
        failure = str(error).splitlines()[0] or type(error).__name__
    failed = torch.tensor(float(bool(failure)), device=engine.device)
    dist.all_reduce(failed)
    if failed:
        raise ValueError(f"save_checkpoint: {failure or 'another process could not write'}; nothing was changed")


def _module_tensors(engine: Engine) -> dict[str, Tensor]:
    """Weights, once each however many names they have, and buffers."""
    tied = {name for name, _ in engine.module.named_parameters(remove_duplicate=False)}
    found = {name: parameter.detach() for name, parameter in engine.module.named_parameters()}
    others = {name: value for name, value in engine.module.state_dict().items() if isinstance(value, Tensor)}
    found |= {name: value for name, value in others.items() if name not in tied}
    return {f"module.{name}": value for name, value in found.items()}


def _optimizer_tensors(engine: Engine) -> dict[str, Tensor]:
    """What the optimizer keeps for each weight: optimizer.KIND.NAME."""
    if engine.optimizer is None:
        return {}
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    return {
        f"optimizer.{kind}.{names[p]}": value
        for p, kept in engine.optimizer.state.items()
        for kind, value in kept.items()
        if isinstance(value, Tensor)
    }


def _blank_moments(engine: Engine, there: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Places for the optimizer state of a checkpoint: shaped and sharded as its weight, or a number by itself."""
    parameters = dict(engine.module.named_parameters())
    blank = {}
    for key, shape in there.items():
        if key.startswith("optimizer."):
            name = key.split(".", 2)[2]
            require(name in parameters, "load_checkpoint", key, "the model has no such weight")
            like = parameters[name].detach()
            blank[key] = torch.zeros((), device=like.device) if shape == () and like.ndim else torch.zeros_like(like)
    return blank


def _wanted(ours: dict[str, Tensor], there: dict[str, tuple[int, ...]], strict: bool) -> dict[str, Tensor]:
    """Those of our tensors that the checkpoint has, in the same shape; `strict`: it must have these weights and no
    others."""
    odd = sorted({key for key in there if key.startswith("module.")} ^ set(ours)) if strict else []
    remedy = f"{len(odd)} names are only in the model or only in the checkpoint; it is one of another model"
    require(not odd, "load_checkpoint", "".join(odd[:1]), remedy)
    found = {key: value for key, value in ours.items() if key in there}
    for key, value in found.items():
        shape = tuple(value.shape)
        remedy = f"has shape {there[key]} in the checkpoint and {shape} in the model"
        require(shape == there[key], "load_checkpoint", key, remedy)
    return found


def _state(engine: Engine, client: dict[str, Any]) -> dict[str, Any]:
    schedule = engine.lr_scheduler
    groups = engine.optimizer.param_groups if engine.optimizer else []
    return {
        "counters": {name: getattr(engine, name) for name in _COUNTERS},
        "scale": engine.scaler.state_dict(),
        "schedule": None if schedule is None else schedule.state_dict(),
        "groups": [{key: value for key, value in group.items() if key != "params"} for group in groups],
        "client": client,
    }


def _write_state(folder: Path, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    (folder / _CLIENT).parent.mkdir()
    save_file(tensors, folder / _CLIENT)
    (folder / _STATE).write_text(json.dumps(state), encoding="utf-8")


def _restore(
    engine: Engine, state: dict[str, Any], moments: dict[str, Tensor], optimizer: bool, schedule: bool, counters: bool
) -> None:
    if counters:
        for name in _COUNTERS:
            setattr(engine, name, int(state["counters"][name]))
    if schedule and engine.lr_scheduler is not None and state["schedule"] is not None:
        engine.lr_scheduler.load_state_dict(state["schedule"])
    if not optimizer or engine.optimizer is None:
        return
    groups, parameters = engine.optimizer.param_groups, dict(engine.module.named_parameters())
    require(
        len(groups) == len(state["groups"]), "parameter groups", len(state["groups"]), f"the model has {len(groups)}"
    )
    for group, saved in zip(groups, state["groups"], strict=True):
        group.update({key: saved[key] for key in group if key in saved and key != "params"})
    engine.optimizer.state.clear()
    for key, value in moments.items():
        _, kind, name = key.split(".", 2)
        engine.optimizer.state[parameters[name]][kind] = value
    engine.scaler.load_state_dict(state["scale"])
    engine.optimizer.cur_scale = engine.scaler.value


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON, its tensors and arrays put into `tensors`. Numbers, text, None, lists, tuples and dictionaries
    of these: the state of random generators, say."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [pack(item, tensors) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [pack(item, tensors) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[pack(key, tensors), pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, np.generic):
        return value.item()
    remedy = "cannot be saved without pickle; give numbers, text, tensors, lists or dictionaries"
    require(isinstance(value, (Tensor, np.ndarray)), "client_state", type(value).__name__, remedy)
    kind = "tensor" if isinstance(value, Tensor) else "array"
    key = str(len(tensors))
    tensors[key] = value.detach().cpu().clone().contiguous() if kind == "tensor" else torch.from_numpy(value.copy())
    return {kind: key}


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `pack`."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "tuple":
        return tuple(unpack(item, tensors) for item in inside)
    if kind == "dict":
        return {unpack(key, tensors): unpack(item, tensors) for key, item in inside}
    return tensors[inside] if kind == "tensor" else tensors[inside].numpy()


def _publish(temporary: Path, target: Path, latest: bool) -> None:
    """Force everything to the disk and give the folder its name; then say that it is the newest."""
    sync_tree(temporary)
    publish(temporary, target)
    if latest:
        write_file(target.parent / "latest", target.name)
