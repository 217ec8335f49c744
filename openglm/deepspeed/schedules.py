"""What DeepSpeed changes from step to step: the learning rate and the loss scale. Its rules, in our words (DeepSpeed
0.19.8, lr_schedules.py, loss_scaler.py)."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch

from openglm.config import require


class WarmupLR:
    """From a lowest to a highest rate, then constant. `step()` comes after each optimizer step; the first one is taken
    at the lowest rate, as in DeepSpeed."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup_min_lr: float | Sequence[float] = 0.0,
        warmup_max_lr: float | Sequence[float] | None = None,
        warmup_num_steps: int = 1000,
        warmup_type: str = "log",
        last_batch_iteration: int = -1,
    ) -> None:
        whole = isinstance(warmup_num_steps, int) and warmup_num_steps > 0
        remedy = "must be a positive whole number"
        require(whole, "deepspeed scheduler.params.warmup_num_steps", warmup_num_steps, remedy)
        known = warmup_type in ("log", "linear")
        require(known, "deepspeed scheduler.params.warmup_type", warmup_type, "choose log or linear")
        self.groups, self.last_batch_iteration = optimizer.param_groups, last_batch_iteration
        self.warmup, self.log = max(2, warmup_num_steps), warmup_type == "log"
        self.low = self._each(warmup_min_lr, "warmup_min_lr")
        self.high = self._each(self.get_last_lr() if warmup_max_lr is None else warmup_max_lr, "warmup_max_lr")
        self._apply()

    def _each(self, value: float | Sequence[float], name: str) -> list[float]:
        values: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value] * len(self.groups)
        good = len(values) == len(self.groups) and all(isinstance(number, (int, float)) for number in values)
        remedy = f"must be a number, or one for each of {len(self.groups)} parameter groups"
        require(good, f"deepspeed scheduler.params.{name}", value, remedy)
        return values

    def share(self, step: int) -> float:
        """Part of the way from the lowest to the highest rate."""
        if step < self.warmup:
            return math.log(step + 1) / math.log(self.warmup) if self.log else step / self.warmup
        return self.after(step)

    def after(self, step: int) -> float:
        return 1.0

    def get_lr(self) -> list[float]:
        if self.last_batch_iteration < 0:
            return list(self.low)
        share = self.share(self.last_batch_iteration)
        return [low + (high - low) * share for low, high in zip(self.low, self.high, strict=True)]

    def get_last_lr(self) -> list[float]:
        return [group["lr"] for group in self.groups]

    def step(self, last_batch_iteration: int | None = None) -> None:
        after = self.last_batch_iteration + 1
        self.last_batch_iteration = after if last_batch_iteration is None else last_batch_iteration
        self._apply()

    def _apply(self) -> None:
        for group, rate in zip(self.groups, self.get_lr(), strict=True):
            group["lr"] = rate

    def state_dict(self) -> dict[str, int]:
        return {"last_batch_iteration": self.last_batch_iteration}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.last_batch_iteration = state["last_batch_iteration"]


class WarmupDecayLR(WarmupLR):
    """The same, then down to the lowest rate in a straight line."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        total_num_steps: int,
        warmup_min_lr: Any = 0.0,
        warmup_max_lr: Any = 0.001,
        **options: Any,
    ) -> None:
        self.total = total_num_steps
        super().__init__(optimizer, warmup_min_lr, warmup_max_lr, **options)

    def after(self, step: int) -> float:
        return max(0.0, (self.total - step) / max(1.0, self.total - self.warmup))


class WarmupCosineLR(WarmupLR):
    """Shares of the optimizer's own rate: up from `warmup_min_ratio`, then down half a cosine to `cos_min_ratio`."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        total_num_steps: int,
        warmup_min_ratio: float = 0.0,
        cos_min_ratio: float = 0.0001,
        **options: Any,
    ) -> None:
        self.total, self.floor = total_num_steps, cos_min_ratio
        self.lowest = warmup_min_ratio
        super().__init__(optimizer, **options)

    def share(self, step: int) -> float:
        share = super().share(step)
        return self.lowest + (1 - self.lowest) * share if step < self.warmup else share

    def after(self, step: int) -> float:
        progress = min(1.0, (step - self.warmup + 1) / max(1, self.total - self.warmup))
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2


SCHEDULES = {kind.__name__: kind for kind in (WarmupLR, WarmupDecayLR, WarmupCosineLR)}


def check_schedule(kind: str, params: dict[str, Any]) -> None:
    """Raise ValueError that names what is unknown or missing of a schedule's options."""
    remedy = f"choose {', '.join(SCHEDULES)}, or give initialize() an lr_scheduler"
    require(kind in SCHEDULES, "deepspeed scheduler.type", kind, remedy)
    known = {*inspect.signature(WarmupLR).parameters, *inspect.signature(SCHEDULES[kind]).parameters} - {"optimizer"}
    if kind == "WarmupCosineLR":  # it has ratios in their place
        known -= {"warmup_min_lr", "warmup_max_lr"}
    for name, value in params.items():
        require(name in known, f"deepspeed scheduler.params.{name}", value, f"not an option of {kind}")
    total = params.get("total_num_steps")
    counted = kind == "WarmupLR" or isinstance(total, int)
    require(counted, "deepspeed scheduler.params.total_num_steps", total, "must be a whole number")


def schedule(optimizer: torch.optim.Optimizer, kind: str, params: dict[str, Any]) -> WarmupLR:
    """A schedule by DeepSpeed's name and options, checked."""
    check_schedule(kind, params)
    return SCHEDULES[kind](optimizer, **params)


class LossScale:
    """The factor that keeps half-precision gradients from vanishing. Static, or dynamic: halved on overflow, doubled
    after `window` steps without.

    `hysteresis` overflows have to come before the first halving (`refill`: in a row; else they are forgotten with each
    doubling). Without options it is 1.
    """

    def __init__(
        self,
        static: float = 1.0,
        power: int = 16,
        window: int = 1000,
        hysteresis: int = 2,
        refill: bool = False,
        smallest: float = 1.0,
    ) -> None:
        self.dynamic = static == 0
        self.value = 2.0**power if self.dynamic else static
        self.window, self.hysteresis, self.refill, self.smallest = window, hysteresis, refill, smallest
        self.patience, self.steps, self.last_overflow = hysteresis, 0, -1

    def update(self, overflow: bool) -> None:
        """Call once for each step, skipped or not. Raises ValueError when the smallest scale overflows too."""
        if not self.dynamic:
            return
        if overflow:
            self.last_overflow = self.steps
            if self.patience > 1:
                self.patience -= 1
            else:
                diverged = self.hysteresis > 1 and self.value == self.smallest
                remedy = "gradients overflow at this scale too; the run has diverged"
                require(not diverged, "deepspeed fp16.min_loss_scale", self.smallest, remedy)
                self.value = max(self.value / 2, self.smallest)
        else:
            stable = self.steps - self.last_overflow - 1
            grow = stable > 0 and stable % self.window == 0
            if self.refill or grow:
                self.patience = self.hysteresis
            if grow:
                self.value *= 2
        self.steps += 1

    def state_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in _KEPT}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in _KEPT:
            setattr(self, name, state[name])


_KEPT = ("value", "patience", "steps", "last_overflow")
