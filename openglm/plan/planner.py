"""Finds the fastest layout of a job that fits, and says why it is the fastest and what rules out the faster ones.

A layout is priced by cost.py and memory.py; nothing here is measured.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from openglm.config import check_fields, require
from openglm.parallel.stages import divisors
from openglm.plan import cost
from openglm.plan.devices import GB
from openglm.plan.layout import Job, Layout, check
from openglm.plan.memory import memory

MICRO_BATCHES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Plan:
    """A job in one layout, priced."""

    job: Job
    layout: Layout

    @cached_property
    def seconds(self) -> dict[str, float]:
        return cost.step(self.job, self.layout)

    @cached_property
    def memory(self) -> dict[str, float]:
        return memory(self.job, self.layout)

    @property
    def fits(self) -> bool:
        return self.memory["total"] <= self.job.device.memory

    @property
    def bubble(self) -> float:
        return cost.bubble(self.layout, self.layout.micro_batches(self.job))

    @property
    def model_rate(self) -> float:
        """Model FLOP/s of one device."""
        return cost.model_flops(self.job) / self.seconds["total"] / self.job.devices

    @property
    def hardware_rate(self) -> float:
        return cost.hardware_flops(self.job, self.layout.recompute) / self.seconds["total"] / self.job.devices

    @property
    def tokens_per_second(self) -> float:
        return self.job.batch * self.job.seq / self.seconds["total"]


@dataclass
class Search:
    """What a search found."""

    best: Plan
    runner_up: Plan | None = None
    """the fastest that differs in data, tensor or pipeline"""
    too_large: Plan | None = None
    """of those that would be faster, the one nearest to fitting"""
    priced: int = 1
    ruled_out: Counter[str] = field(default_factory=Counter)
    """layouts that do not divide, by the option that did not"""


def candidates(job: Job, fixed: dict[str, Any], ruled_out: Counter[str]) -> Iterator[Layout]:
    """Every layout that keeps the fixed options and divides. GPipe is 1F1B with more memory, so it must be asked
    for."""
    for replica in divisors(job.devices):
        for tensor in divisors(replica):
            shape: dict[str, Any] = {"data": job.devices // replica, "tensor": tensor, "pipeline": replica // tensor}
            if any(shape[name] != fixed.get(name, shape[name]) for name in shape):
                continue
            try:
                check(job, Layout(**shape, zero=0))
            except ValueError as error:
                ruled_out[str(error).split(" = ")[0]] += 1
                continue
            for details in _details(job, shape, fixed):
                layout = Layout(**shape, **details)
                try:
                    check(job, layout)
                except ValueError as error:
                    ruled_out[str(error).split(" = ")[0]] += 1
                    continue
                yield layout


def _details(job: Job, shape: dict[str, Any], fixed: dict[str, Any]) -> Iterator[dict[str, Any]]:
    piped = shape["pipeline"] > 1
    pieces = divisors(Layout(**shape).stage_layers(job)[1])[1:] if piped else []
    schedules = [("1f1b", 1)] + [("zero-bubble", 1)] * piped + [("interleaved", v) for v in pieces]
    if fixed.get("schedule", "interleaved") != "interleaved":
        schedules = [(fixed["schedule"], 1)]
    keep = [
        (schedule, v)
        for schedule, v in schedules
        if schedule == fixed.get("schedule", schedule) and v == fixed.get("chunks", v)
    ]
    sizes = [size for size in MICRO_BATCHES if job.batch // shape["data"] % size == 0]
    others: dict[str, Any] = {name: fixed[name] for name in ("sequence_parallel", "split_boundary") if name in fixed}
    for schedule, chunks in keep:
        for micro_batch in [fixed["micro_batch"]] if "micro_batch" in fixed else sizes:
            for zero in [fixed["zero"]] if "zero" in fixed else (0, 1) if piped else (0, 1, 2, 3):
                for again in [fixed["recompute"]] if "recompute" in fixed else ("none", "selective", "full"):
                    yield {
                        "schedule": schedule,
                        "chunks": chunks,
                        "micro_batch": micro_batch,
                        "zero": zero,
                        "recompute": again,
                        **others,
                    }


def search(job: Job, **fixed: Any) -> Search:
    """The fastest layout that fits, among those with the fixed options. A layout fixed in full is priced even if it
    does not fit."""
    check_fields(Layout(**{"data": 1, "tensor": 1, "pipeline": 1, **fixed}))
    pinned = {"data", "tensor", "pipeline"} <= fixed.keys()
    if pinned:  # the error of a layout that cannot be is better than a count
        searched = () if "chunks" in fixed else ("schedule",)
        check(job, Layout(**{"zero": 0, **{name: value for name, value in fixed.items() if name not in searched}}))
    ruled_out: Counter[str] = Counter()
    plans = sorted(
        (Plan(job, layout) for layout in candidates(job, fixed, ruled_out)),
        key=lambda plan: (plan.seconds["total"], plan.memory["total"]),
    )
    require(bool(plans), "devices", job.devices, f"no layout divides{_way_out(job, fixed, ruled_out)}")
    best = next((plan for plan in plans if plan.fits), None)
    if best is None:
        best = min(plans, key=lambda plan: plan.memory["total"])
        need = f"the smallest of {len(plans)} layouts needs {best.memory['total'] / GB:.1f} GB a device, which has {job.device.memory / GB:.1f}; use more devices or larger ones"
        require(pinned, "devices", job.devices, need)
        return Search(best, priced=len(plans), ruled_out=ruled_out)
    runner_up = next((plan for plan in plans if plan.fits and _shape(plan) != _shape(best)), None)
    faster = [plan for plan in plans[: plans.index(best)] if not plan.fits]
    too_large = min(faster, key=lambda plan: plan.memory["total"]) if faster else None
    return Search(best, runner_up, too_large, len(plans), ruled_out)


def _way_out(job: Job, fixed: dict[str, Any], ruled_out: Counter[str]) -> str:
    """What no layout was left by, and what to change."""
    reasons = ", ".join(f"{count} by {name}" for name, count in ruled_out.most_common())
    given = ", ".join(f"{name} {value}" for name, value in fixed.items() if value is not False)
    way_out = f"leave out some of {given}" if given else f"change the batch ({job.batch})"
    if job.devices > job.device.node and job.devices % job.device.node:
        way_out += f" or use a multiple of {job.device.node} devices"
    return f"; ruled out: {reasons or 'none was left by the fixed options'}; {way_out}"


def _shape(plan: Plan) -> tuple[int, int, int]:
    return plan.layout.data, plan.layout.tensor, plan.layout.pipeline


def describe(layout: Layout) -> str:
    """A layout in a few words."""
    chunks = f" x{layout.chunks}" if layout.chunks > 1 else ""
    words = f"data {layout.data} x tensor {layout.tensor} x pipeline {layout.pipeline}, ZeRO-{layout.zero}, micro-batch {layout.micro_batch}, recompute {layout.recompute}"
    return words + (f", {layout.schedule}{chunks}" if layout.pipeline > 1 else "")


def reasons(found: Search) -> list[str]:
    """Why the best is the best, in sentences."""
    best, lines = found.best, []
    if found.runner_up is not None:
        other, apart = found.runner_up, found.runner_up.seconds["total"] - found.best.seconds["total"]
        gaps = {
            name: other.seconds.get(name, 0.0) - best.seconds.get(name, 0.0)
            for name in {**best.seconds, **other.seconds}
            if name != "total"
        }
        lines.append(
            f"Next: {describe(other.layout)}: {100 * apart / best.seconds['total']:.1f} % slower, {_parts(gaps)}."
        )
    if found.too_large is not None:
        large, over = found.too_large, found.too_large.memory["total"] - best.job.device.memory
        lines.append(
            f"Faster but too large: {describe(large.layout)}: {large.seconds['total']:.2f} s, {over / GB:.1f} GB a "
            f"device too many ({_largest(large.memory)})."
        )
    ruled = ", ".join(f"{count} by {name}" for name, count in found.ruled_out.most_common(4))
    lines.append(f"{found.priced} layouts priced" + (f"; do not divide: {ruled}." if ruled else "."))
    return lines


def _parts(gaps: dict[str, float]) -> str:
    more = sorted((item for item in gaps.items() if item[1] > 0), key=lambda item: -item[1])[:2]
    return ("with " + " and ".join(f"{seconds:+.2f} s {name}" for name, seconds in more)) if more else "by rounding"


def _largest(parts: dict[str, float]) -> str:
    name = max((name for name in parts if name != "total"), key=parts.__getitem__)
    return f"{name} {parts[name] / GB:.1f} GB"


def scaling(job: Job, limit: int = 10000, **fixed: Any) -> Iterator[Plan]:
    """The best plan of the same batch on more and more devices: the job's own number halved and doubled, from a node up
    to `limit`."""
    count = job.devices
    while count % 2 == 0 and count > job.device.node:
        count //= 2
    while count <= limit:
        with suppress(ValueError):  # too few devices for the model, or too many for the batch
            yield search(dataclasses.replace(job, devices=count), **fixed).best
        count *= 2
