"""The guard of a run: what is wrong with a step, and what to do about it; loss scale, batch ramp-up and
embedding-gradient shrink.

It decides from the mean loss and the gradient norm of a step alone, which all processes of a run share, and from a
memory of plain numbers that is part of every checkpoint: so all processes decide alike, and a resumed run decides as
the unbroken one did. It touches no weights and no files; the loop does what it says.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from openglm.config import StabilityConfig, require
from openglm.parallel.processes import local_part

WINDOW = 100  # steps of the running statistics, and good steps after which past actions are forgotten
_ENOUGH = 20  # steps before anything counts as a spike
_NORMAL, _FLOOR = (
    1.4826,
    0.01,
)  # median absolute deviation -> standard deviation of a normal distribution; least deviation, as a share of the median

_STORED_AS = {"actions": "acts", "good_steps": "calm"}  # names in state.json, which older and newer versions read


@dataclass
class Memory:
    """What the guard carries from step to step."""

    losses: list[float] = field(default_factory=list)
    """mean losses of the last good steps"""
    norms: list[float] = field(default_factory=list)
    """their gradient norms"""
    actions: int = 0
    """actions on anomalies that still count"""
    good_steps: int = 0
    """good steps since the last one"""
    jumped: int = 0
    """rows that ways back have jumped over"""
    back_to: int | None = None
    """step that the last way back led to, until a regular checkpoint is written: the next leads further back"""
    scale: float = 1.0
    """factor on the loss"""
    fitting: int = 0
    """steps since it overflowed or grew"""
    spare: int = 1
    """overflows until it is halved, this one included"""

    def record(self) -> dict[str, Any]:
        """As it stands in state.json, under the names of the first version."""
        return {_STORED_AS.get(name, name): value for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Memory:
        """The inverse of `record`."""
        names = {stored: name for name, stored in _STORED_AS.items()}
        return cls(**{names.get(name, name): value for name, value in record.items()})


@dataclass(frozen=True)
class Action:
    """What the guard does about a step: `scale` and `skip` leave its batch out, `rollback` goes back, `stop` ends the
    run."""

    kind: str
    why: str
    below: int | None = None
    """step below which a way back leads; None: to the newest checkpoint"""


class Guard:
    """Judges every step before the weights are touched."""

    def __init__(self, config: StabilityConfig, batch_rows: int, half: bool, shrink: float = 1.0) -> None:
        """batch_rows: the full batch. half: products in float16, so that the loss is scaled. shrink: of the embedding
        gradient, at first."""
        growth = batch_rows - config.ramp_from
        if config.ramp_from:
            require(
                growth > 0, "stability.ramp_from", config.ramp_from, f"must be below train.batch_rows ({batch_rows})"
            )
            fits = [n for n in range(1, growth + 1) if growth % n == 0]
            require(
                growth % config.ramp_step == 0,
                "stability.ramp_step",
                config.ramp_step,
                f"must divide train.batch_rows - stability.ramp_from ({growth}): {_some(fits)}",
            )
        self.config, self.full, self.half, self._shrink = config, batch_rows, half, shrink
        self.memory = Memory(scale=config.loss_scale if half else 1.0, spare=config.loss_scale_hysteresis)

    def judge(self, loss: float, norm: float) -> Action | None:
        """None: a good step, to be kept. loss: mean of the batch; norm: of the whole gradient, unscaled."""
        overflow = self.half and math.isfinite(loss) and self._rescale(fits=math.isfinite(norm))
        if overflow:
            return Action("scale", overflow)
        memory, anomaly = self.memory, self._anomaly(loss, norm)
        if not anomaly:
            memory.losses, memory.norms = [*memory.losses, loss][-WINDOW:], [*memory.norms, norm][-WINDOW:]
            memory.good_steps += 1
            memory.actions = 0 if memory.good_steps >= WINDOW else memory.actions
            return None
        # An anomaly in the first batch after a way back: more of the data is bad, not the checkpoint.
        below = memory.back_to if memory.good_steps else None
        memory.actions, memory.good_steps = memory.actions + 1, 0
        if self.config.policy != "stop" and memory.actions > self.config.limit:
            return Action(
                "stop",
                f"{anomaly}, after {self.config.limit} acts (stability.limit) without {WINDOW} good steps in a row",
            )
        return Action(self.config.policy, anomaly, below)

    def went_back(self, actions: int, step: int, jumped: int) -> None:
        """The memory is that of the checkpoint of `step` again, but for the number of actions so far; the run jumps
        over so many rows."""
        self.memory = dataclasses.replace(
            self.memory, actions=actions, good_steps=0, jumped=self.memory.jumped + jumped, back_to=step
        )

    def saved(self) -> None:
        """A regular checkpoint was written: a way back leads there."""
        self.memory.back_to = None

    def rows_at(self, cursor: int) -> int:
        """Rows of the batch that begins at this row of the data, as Megatron counts them; what was jumped over does not
        count."""
        return ramped(self.config, self.full, cursor - self.memory.jumped)

    def progress(self, cursor: int) -> float:
        """Full batches' worth of rows up to this one: the steps made, where all batches are alike."""
        return (cursor - self.memory.jumped) / self.full

    def planned(self, steps: int) -> float:
        """`progress` of the whole run."""
        if not self.config.ramp_from:
            return steps
        rows = 0
        for _ in range(steps):
            rows += ramped(self.config, self.full, rows)
        return rows / self.full

    def shrink(self, step: int) -> float:
        """Share of the gradient that reaches the embedding table in step 1, 2, ...; a line, as GLM-130B's
        --shrink-embedding-gradient-steps."""
        past = step - self.config.shrink_until
        if self.config.shrink_until == 0 or past <= 0:
            return self._shrink
        return min(1.0, self._shrink + (1 - self._shrink) * past / self.config.shrink_rise)

    def _rescale(self, fits: bool) -> str:
        """Keep the loss scale as DeepSpeed does (only growth refills the hysteresis). Returns what an overflow did;
        empty: there was none, or scaling cannot mend it."""
        memory, before = self.memory, self.memory.scale
        if fits:
            memory.fitting += 1
            if memory.fitting == self.config.loss_scale_window:
                memory.scale, memory.fitting, memory.spare = before * 2, 0, self.config.loss_scale_hysteresis
            return ""
        memory.fitting = 0
        if before <= self.config.loss_scale_minimum and memory.spare == 1:
            return ""
        if memory.spare > 1:
            memory.spare -= 1
            return f"gradient overflowed float16 at loss scale {before:g}; kept this once"
        memory.scale = max(before / 2, self.config.loss_scale_minimum)
        return f"gradient overflowed float16 at loss scale {before:g}; now {memory.scale:g}"

    def _anomaly(self, loss: float, norm: float) -> str:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"loss {loss:g}, gradient norm {norm:g}"
        return _spike("loss", loss, self.memory.losses, self.config.loss_spike) or _spike(
            "gradient norm", norm, self.memory.norms, self.config.norm_spike
        )


def _spike(name: str, value: float, past: list[float], limit: float) -> str:
    """Says so if a value stands out above those of past steps. Median and median deviation: a spike that was kept
    hardly moves them."""
    if not limit or len(past) < _ENOUGH:
        return ""
    middle = statistics.median(past)
    deviation = max(_NORMAL * statistics.median(abs(p - middle) for p in past), _FLOOR * abs(middle))
    above = (value - middle) / deviation
    return (
        f"{name} {value:.4g} is {above:.3g} deviations above the median {middle:.4g} of the last {len(past)} steps"
        if above > limit
        else ""
    )


def ramped(config: StabilityConfig, full: int, rows: int) -> int:
    """Rows of the batch after `rows` rows: from ramp_from in equal steps to `full`, each for an equal share of
    ramp_rows (Megatron's --rampup-batch-size)."""
    if not config.ramp_from or rows > config.ramp_rows:
        return full
    steps = (full - config.ramp_from) // config.ramp_step
    return min(full, config.ramp_from + config.ramp_step * (rows * steps // config.ramp_rows))


@torch.no_grad()
def unscale(parameters: Iterable[Tensor], scale: float) -> None:
    """Divide what this process holds of the gradients by the loss scale, a power of two: nothing is rounded."""
    gradients = [local_part(p.grad) for p in parameters if p.grad is not None]
    if scale != 1.0 and gradients:
        torch._foreach_mul_(gradients, 1 / scale)


def _some(numbers: list[int]) -> str:
    return f"{', '.join(map(str, numbers[:12]))}{', ...' if len(numbers) > 12 else ''} would"
