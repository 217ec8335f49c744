"""The record of a run: `log.jsonl` (compared line for line between runs), TensorBoard curves, and the bar on standard
error."""

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openglm.files import write_file
from openglm.runtime import say


class Log:
    """Lines of log.jsonl: `{"step", "loss", ...}` every log_every steps, `{"step", "heldout": {source: loss}}`, and
    `{"step", "act": {"do", "why", "rows"}}` for a batch that was left out or a way back, after which steps are counted
    again from the checkpoint.

    What depends on the clock sits under the key `wall`; all else is the same in a run that was broken and in one that
    was not. A full disk costs lines and curves, not the run: the first loss is said.
    """

    def __init__(self, out: Path, step: int, lines: int) -> None:
        """Opens the log of a run that stands at `step`; of its lines the first `lines` stay, and those of steps that
        were lost are dropped."""
        self.path = out / "log.jsonl"
        kept = self.path.read_text(encoding="utf-8").splitlines()[:lines] if self.path.is_file() else []
        write_file(self.path, "".join(line + "\n" for line in kept))
        self.lines = len(kept)
        self.curves = _tensorboard(out, step)
        self.started = time.perf_counter()
        self.trouble = ""

    def write(self, record: dict[str, Any]) -> None:
        start = None
        try:
            with self.path.open("ab") as file:
                start = file.tell()
                file.write(json.dumps(record).encode() + b"\n")
            self.lines += 1
        except OSError as error:
            self._lost(error)
            with contextlib.suppress(OSError):
                os.truncate(self.path, start or self.path.stat().st_size)  # no half of a line stays
        self._draw(lambda curves: [curves.add_scalar(*scalar, record["step"]) for scalar in _scalars(record)])

    def text(self, step: int, name: str, text: str) -> None:
        self._draw(lambda curves: curves.add_text(name, text, step))

    def _draw(self, what: Callable[[Any], object]) -> None:
        if self.curves is None:
            return
        try:
            what(self.curves)
        except OSError as error:
            self.curves = None  # its thread has ended
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        if not self.trouble:
            self.trouble = error.strerror or str(error)
            say(
                f"cannot write the log in {self.path.parent}: {self.trouble}; lines are missing in it. Training goes on"
            )

    def lap(self) -> float:
        """Seconds since the last call."""
        before, self.started = self.started, time.perf_counter()
        return self.started - before

    def close(self) -> None:
        self._draw(lambda curves: curves.close())


def _tensorboard(out: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        say("no curves: TensorBoard is not installed (pip install tensorboard); log.jsonl has every figure")
        return None
    try:
        return SummaryWriter(str(out), purge_step=step + 1)
    except OSError as error:
        say(f"no curves: cannot write {out}: {error.strerror}")
        return None


def _scalars(record: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            found += _scalars(value, f"{prefix}{name}/")
        elif name != "step" and isinstance(value, (int, float)):
            found.append((prefix + name, float(value)))
    return found
