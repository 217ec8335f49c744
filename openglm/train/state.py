"""What a training run keeps on disk, so that it can be killed at any instant and go on bit for bit.

OUT/checkpoints/step-00000500: state.json, and of each process a file of weights, one of optimizer state and one of
averaged weights (checkpoints/sharded.py);
OUT/latest; OUT/lock. A checkpoint is read by any number of processes in any layout.
"""

import base64
import dataclasses
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from openglm.checkpoints.sharded import finish_saving, load_shards, names, save_shards, start_saving
from openglm.config import ModelConfig, RunConfig, require
from openglm.files import clear_stale, filling, remove_folder, verify_folder, write_file
from openglm.model.transformer import Transformer
from openglm.parallel.apply import named_parameters
from openglm.parallel.processes import Processes
from openglm.runtime import say
from openglm.train.optimizer import Optimizers
from openglm.train.stability import Guard, Memory

# Options that may differ between the two halves of a run: they change where and how fast, not what is trained.
_FREE = (
    "train.out",
    "train.device",
    "train.dtype",
    "train.compile",
    "train.activation_checkpointing",
    "train.accumulation",
    "train.save_every",
    "train.keep",
    "train.log_every",
    "train.eval_every",
    "train.eval_rows",
    "train.sample_every",
    "train.patience",
    "data.path",
    "data.workers",
    "data.dialogues",
    "data.heldout_dialogues",
    "data.fields",
    "data.skip_bad",
    "data.replay_share",  # runs of older versions know it
    "init_from",
    "replay",
    "answers",
    "parallel.",
    # ... and what gets a run past the anomaly that stopped it
    "stability.policy",
    "stability.loss_spike",
    "stability.norm_spike",
    "stability.limit",
    "stability.shrink",
)


@dataclass
class State:
    """Everything that a step changes."""

    pieces: list[Transformer]
    """what this process has of the network; one process has one piece, all of it"""
    optimizers: Optimizers
    ema: dict[str, Tensor] | None
    dtype: torch.dtype
    group: Processes
    guard: Guard
    step: int = 0
    rows: int = 0
    """the data cursor: first row that was not used yet"""
    lines: int = 0
    """lines of the log that belong to the last checkpoint"""
    window: dict[str, float] = field(default_factory=lambda: {"loss": 0.0, "trained": 0.0})
    """sums since the last line of the log"""
    best: dict[str, float] = field(default_factory=dict)
    """lowest mean held-out loss, its step, and how many evaluations came since; kept with train.patience"""

    @property
    def config(self) -> ModelConfig:
        return self.pieces[0].config

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of this process, by kind and name."""
        weights = {f"weights|{name}": parameter.detach() for name, parameter in named_parameters(self.pieces)}
        return (
            weights
            | {f"optimizer|{name}": t for name, t in self.optimizers.state().items()}
            | {f"average|{name}": t for name, t in (self.ema or {}).items()}
        )


class Saver:
    """Writes checkpoints. One process writes at once; several train on meanwhile, so that two intervals may be lost and
    not one.

    A checkpoint that cannot be written is said, and training goes on, unless it is the one that a run ends with.
    """

    def __init__(self, out: Path, keep: int, group: Processes) -> None:
        self.out, self.keep, self.group = out, keep, group
        self.side = (
            dist.new_group(backend="gloo") if group.mesh else None
        )  # connections of its own: it writes while training exchanges
        self.writing: Future | None = None
        self.sealing: threading.Thread | None = None
        self.failure = ""
        self.spared = ""

    def save(self, state: State, settings: dict[str, Any]) -> None:
        """Write the checkpoint of this step, point `latest` at it, drop all but the newest `keep` and the best."""
        self.wait()
        self.report()
        self.spared = f"step-{int(state.best.get('step', state.step)):08d}"
        name, tensors = f"step-{state.step:08d}", state.tensors()
        record = {
            "step": state.step,
            "rows": state.rows,
            "lines": state.lines,
            "window": state.window,
            "best": state.best,
            "guard": state.guard.memory.record(),
        }
        record |= {
            "dtype": str(state.dtype).removeprefix("torch."),
            "rng": _rng_state(state.group.device),
            "settings": flatten(settings),
        }
        text = json.dumps(record, indent=1) + "\n"
        target, writing = Future[Any](), Future[Any]()
        if self.side is None:
            return self._write(name, text, target, lambda: save_shards(target.result(), tensors))
        if self.group.first:
            seal = (name, text, target, lambda: finish_saving(writing.result()))
            self.sealing = threading.Thread(
                target=self._write, args=seal, daemon=True
            )  # a process that fails must not wait for it
            self.sealing.start()
        try:
            self.writing = start_saving(self.group.broadcast(target.result), tensors, self.side)
        except ValueError:  # no folder for it, which the first process reports
            return None
        writing.set_result(self.writing)

    def report(self) -> None:
        """Say what went wrong with an earlier save."""
        if self.failure:
            say(f"{self.failure}. Training goes on")
            self.failure = ""

    def finish(self) -> None:
        """Wait for what is being written. Raises ValueError, in all processes, where the last checkpoint could not
        be."""
        self.wait()
        failure = self.group.broadcast(lambda: self.failure)
        if failure:
            raise ValueError(failure)

    def _write(self, name: str, text: str, target: Future, fill: Callable[[], None]) -> None:
        """A folder whose path is told, that is filled, sealed and named."""
        checkpoints = self.out / "checkpoints"
        try:
            if (checkpoints / name).exists():  # a damaged one that the resume passed over
                remove_folder(checkpoints / name)
            with filling(checkpoints, name) as folder:
                target.set_result(str(folder))
                fill()
                (folder / "state.json").write_text(text, encoding="utf-8")
            write_file(self.out / "latest", name + "\n")
            for old in _checkpoints(self.out)[self.keep :]:
                if old.name != self.spared:
                    remove_folder(old)
        except Exception as error:
            self.failure = (
                str(error)
                if isinstance(error, ValueError)
                else f"cannot write {checkpoints / name}: {type(error).__name__}: {error}"
            )
            if not target.done():
                target.set_exception(ValueError(self.failure))

    def wait(self) -> None:
        """Until nothing is being written."""
        if self.writing is not None:
            with suppress(Exception):  # the first process knows and reports it
                finish_saving(self.writing)
        if self.sealing is not None:
            self.sealing.join()
        self.writing = self.sealing = None


def find_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint that is whole; a damaged one is named and passed over. None: nothing was saved yet."""
    clear_stale(out)
    if (out / "checkpoints").is_dir():
        clear_stale(out / "checkpoints")
    candidates = _checkpoints(out)
    for folder in candidates:
        if _whole(folder):
            return folder
    require(
        not candidates, "train.out", str(out), "none of its checkpoints is whole; choose another folder to start again"
    )
    return None


def go_back(out: Path, every: int, below: int | None) -> Path | None:
    """The newest whole checkpoint of a step that `every` divides, below step `below` if there is one; later ones are
    removed, for the run takes another way now.

    Those that a signal left in between do not count: an unbroken run has none. None: nothing regular is kept yet.
    """
    regular = [
        folder for folder in _checkpoints(out) if int(folder.name.removeprefix("step-")) % every == 0 and _whole(folder)
    ]
    earlier = [folder for folder in regular if below is None or folder.name < f"step-{below:08d}"]
    folder = next(iter(earlier or regular[-1:]), None)
    if folder is not None:
        write_file(out / "latest", folder.name + "\n")
        for later in _checkpoints(out):
            if later.name > folder.name:
                remove_folder(later)
    return folder


def read_record(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint, held to the folder's name."""
    try:
        record = json.loads((folder / "state.json").read_bytes())
        whole = f"step-{record['step']:08d}" == folder.name and record.keys() >= {
            "rows",
            "window",
            "dtype",
            "rng",
            "settings",
        }
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{folder / 'state.json'}: not the state of {folder.name}; use another copy of this folder")
    return record


def _whole(folder: Path) -> bool:
    try:
        verify_folder(folder)
        read_record(folder)
    except ValueError as error:
        say(f"checkpoint refused: {error}")
        return False
    return True


def check_settings(record: dict[str, Any], settings: dict[str, Any], config: RunConfig) -> None:
    """Refuse to go on with options other than those of the first half. Raises ValueError that names the option."""
    remedy = "set it back, or choose another train.out (init_from carries the weights over)"
    before = (
        _defaults(settings, config) | record["settings"]
    )  # an option that is newer than the run had its default's effect
    now = json.loads(json.dumps(flatten(settings)))
    _check_length(record["step"], before.pop("train.steps"), now.pop("train.steps"))
    for name in sorted(before.keys() | now.keys()):
        if not name.startswith((*_FREE, "rows")):
            require(
                before.get(name) == now.get(name),
                name,
                now.get(name),
                f"the checkpoints in train.out were made with {before.get(name)!r}; {remedy}",
            )
    require(
        before["rows"] == now["rows"],
        "data",
        now.get("data.path"),
        f"its texts or conversations are not those that the checkpoints in train.out were trained on; {remedy}",
    )


def _check_length(step: int, before: int, now: int) -> None:
    """A run may be given another length, as long as it has not passed its new end."""
    require(now >= step, "train.steps", now, f"this run has done {step} already; choose more, or another train.out")
    if now != before:
        say(f"train.steps: {now} instead of {before}; the learning rate follows the new length from step {step} on")


def _defaults(settings: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """The options of a run that have a default, with that default."""

    def of(options: Any) -> dict[str, Any]:
        return {f.name: f.default for f in dataclasses.fields(options) if f.default is not dataclasses.MISSING}

    fields = {name: of(value) for name, value in settings.items() if dataclasses.is_dataclass(value)}
    return json.loads(json.dumps(flatten(of(config) | fields)))


def restore(folder: Path, state: State, record: dict[str, Any]) -> None:
    """Load a verified checkpoint into a freshly built state, random number generators included."""
    moments = state.optimizers.blank_state(names(folder, "optimizer"))
    state.optimizers.load_state(moments)
    load_shards(folder, state.tensors())
    state.step, state.rows, state.lines, state.window = (
        record["step"],
        record["rows"],
        record.get("lines", 0),
        record["window"],
    )
    state.best = record.get("best", {})
    if "guard" in record:
        state.guard.memory = Memory.of_record(record["guard"])
    _set_rng_state(record["rng"], state.group.device)


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as `{"train.steps": 100}`; an unordered table of numbers, such as data.weights, becomes one name
    each."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        value = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def _checkpoints(out: Path) -> list[Path]:
    """Newest first."""
    return sorted((p for p in (out / "checkpoints").glob("step-*") if p.is_dir()), reverse=True)


def _rng_state(device: torch.device) -> dict[str, str]:
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state()
    return {name: base64.b64encode(state.numpy().tobytes()).decode() for name, state in states.items()}


def _set_rng_state(states: dict[str, str], device: torch.device) -> None:
    for name, text in states.items():
        state = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
        if name == "cpu":
            torch.set_rng_state(state)
        elif name == device.type:
            torch.get_device_module(device).set_rng_state(state)
