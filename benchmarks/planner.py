"""The planner against published runs: python benchmarks/planner.py [--json] [--fit] [--out docs/images/planner_runs.png]

Every row of planner_runs.toml is priced with the constants in openglm/plan; nothing is adjusted to a row. `--fit` shows how the two constants of a device
kind follow from the rows (every group weighs the same), and what each group's error is when it takes no part in the fit.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openglm.cli.options import read_toml
from openglm.config import ModelConfig
from openglm.plan import cost
from openglm.plan.devices import GB, TERA, device
from openglm.plan.layout import Job, Layout
from openglm.plan.planner import Plan
from openglm.presets import model_preset

RUNS = Path(__file__).with_name("planner_runs.toml")
SHAPE = ("layers", "hidden", "heads", "kv_heads", "ffn_hidden", "vocab_size")
MIB_THOUSAND = 1000 * 2**20  # a "GB" read off nvidia-smi


@dataclass(frozen=True)
class Run:
    """A published run: what the planner makes of it, and what was measured."""

    group: str
    outside: str
    held_out: bool
    plan: Plan
    seconds: float
    memory: float | None

    @property
    def time_error(self) -> float:
        return self.plan.seconds["total"] / self.seconds - 1

    @property
    def memory_error(self) -> float | None:
        return self.plan.memory["total"] / self.memory - 1 if self.memory else None


def load() -> list[Run]:
    return [
        read_row(group, dict(zip(group["columns"], row, strict=True)))
        for group in read_toml(RUNS)["group"]
        for row in group["rows"]
    ]


def read_row(group: dict[str, Any], row: dict[str, Any]) -> Run:
    model = (
        model_preset(group["preset"])
        if "preset" in group
        else gpt({**group.get("model", {}), **{name: row[name] for name in SHAPE if name in row}})
    )
    machine = device(group["device"])
    given = {name: group[name] * GB for name in ("network", "bandwidth") if name in group}
    machine = dataclasses.replace(machine, **given)
    job = Job(
        model,
        row.get("seq", 2048),
        row["batch"],
        row["devices"],
        machine,
        group.get("attention") == "fused",
        group.get("gradient_bytes", 2),
    )
    known = {f.name for f in dataclasses.fields(Layout)}
    options = {**group.get("layout", {}), **{name: value for name, value in row.items() if name in known}}
    if options.get("chunks", 1) > 1:
        options["schedule"] = "interleaved"
    layout = Layout(data=job.devices // (options["tensor"] * options["pipeline"]), **options)
    memory = row["memory"] * MIB_THOUSAND if "memory" in row else None
    return Run(
        group["name"],
        group.get("outside", ""),
        group.get("held_out", False),
        Plan(job, layout),
        published_seconds(job, layout, row),
        memory,
    )


def gpt(shape: dict[str, Any]) -> ModelConfig:
    return ModelConfig(
        **{"ffn_hidden": 4 * shape["hidden"], "activation": "gelu", "norm": "layernorm", "bias": "all", **shape}
    )


def published_seconds(job: Job, layout: Layout, row: dict[str, Any]) -> float:
    """A step's time, from whichever figure was published."""
    if "seconds" in row:
        return row["seconds"]
    if "tokens_per_s" in row:
        return job.batch * job.seq / (row["tokens_per_s"] * job.devices)
    hardware = "hardware_tflops" in row
    flops = cost.hardware_flops(job, layout.recompute) if hardware else cost.model_flops(job)
    return flops / (row["hardware_tflops" if hardware else "model_tflops"] * TERA * job.devices)


def table(runs: list[Run]) -> str:
    """Every run in Markdown, group by group."""
    columns = "run | weights | devices | data x tensor x pipeline | published s | planned s | error | published GB | planned GB | error"
    lines = [f"| {columns} |", "|---" * 10 + "|"]
    for run in runs:
        layout, planned = run.plan.layout, run.plan.memory["total"] / GB
        memory = (
            f"{run.memory / GB:.1f} | {planned:.1f} | {100 * run.memory_error:+.1f} %"
            if run.memory
            else f"- | {planned:.1f} | -"
        )
        shape = f"{layout.data} x {layout.tensor} x {layout.pipeline}, micro-batch {layout.micro_batch}"
        name = run.group + (" (outside)" if run.outside else " (held out)" if run.held_out else "")
        weights = f"{run.plan.job.model.parameters / 1e9:.1f} B"
        lines.append(
            f"| {name} | {weights} | {run.plan.job.devices} | {shape} | {run.seconds:.2f} | {run.plan.seconds['total']:.2f} | {100 * run.time_error:+.1f} % | {memory} |"
        )
    return "\n".join(lines)


def summary(runs: list[Run]) -> dict[str, Any]:
    counted = [run for run in runs if not run.outside]
    times, memories = [run.time_error for run in counted], [run.memory_error for run in counted if run.memory]
    groups = defaultdict(list)
    for run in runs:
        groups[run.group].append(run.time_error)
    return {
        "runs": len(counted),
        "time_within_15_percent": sum(abs(e) <= 0.15 for e in times),
        "time_mean_error": sum(times) / len(times),
        "time_root_mean_square": math.sqrt(sum(e * e for e in times) / len(times)),
        "held_out_runs": sum(run.held_out for run in runs),
        "held_out_time_within_15_percent": sum(abs(run.time_error) <= 0.15 for run in runs if run.held_out),
        "memory_runs": len(memories),
        "memory_within_10_percent": sum(abs(e) <= 0.10 for e in memories),
        "memory_largest_error": max(memories, key=abs),
        "groups": {
            name: {"runs": len(errors), "lowest": min(errors), "highest": max(errors)}
            for name, errors in groups.items()
        },
    }


def fit(runs: list[Run], kind: str) -> list[str]:
    """The pair (products, half) with the least squared log error of a device kind, and each group's error under the pair that the others choose."""
    runs = [run for run in runs if run.plan.job.device.name.startswith(kind) and not (run.outside or run.held_out)]
    grid = list(itertools.product([p / 100 for p in range(60, 99, 2)], range(100, 901, 50)))
    errors = {pair: group_errors(runs, *pair) for pair in grid}
    names = list(errors[grid[0]])

    def best(chosen: list[str]) -> tuple[float, int]:
        return min(
            grid,
            key=lambda pair: sum(sum(e * e for e in errors[pair][name]) / len(errors[pair][name]) for name in chosen),
        )

    lines = [f"{kind}: all groups choose products, half = {best(names)}"]
    for name in names:
        pair = best([other for other in names if other != name])
        lowest, highest = (100 * math.expm1(pick(errors[pair][name])) for pick in (min, max))
        lines.append(f"  {name}: left out, the others choose {pair}; its errors {lowest:+.1f} to {highest:+.1f} %")
    return lines


def group_errors(runs: list[Run], products: float, half: int) -> dict[str, list[float]]:
    errors = defaultdict(list)
    for run in runs:
        job = dataclasses.replace(
            run.plan.job, device=dataclasses.replace(run.plan.job.device, products=products, half=half)
        )
        errors[run.group].append(math.log(cost.step(job, run.plan.layout)["total"] / run.seconds))
    return errors


def draw(runs: list[Run], out: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 7))
    pairs = [
        [(r.group, r.seconds, r.plan.seconds["total"]) for r in runs if not r.outside],
        [(r.group, r.memory / GB, r.plan.memory["total"] / GB) for r in runs if r.memory],
    ]
    for axis, points, bar, unit in ((left, pairs[0], 0.15, "seconds a step"), (right, pairs[1], 0.10, "GB a device")):
        for i, name in enumerate(dict.fromkeys(point[0] for point in points)):
            axis.plot(
                [x for g, x, _ in points if g == name],
                [y for g, _, y in points if g == name],
                "osv^D"[i % 5],
                markersize=5,
                alpha=0.8,
                label=name,
            )
        ends = [min(x for _, x, _ in points) * 0.8, max(x for _, x, _ in points) * 1.25]
        axis.plot(ends, ends, color="#999999", linewidth=0.8)
        axis.fill_between(
            ends,
            [e * (1 - bar) for e in ends],
            [e * (1 + bar) for e in ends],
            color="#999999",
            alpha=0.2,
            label=f"within {100 * bar:.0f} %",
        )
        axis.set(xscale="log", yscale="log", xlabel=f"published {unit}", ylabel=f"planned {unit}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
    figure.tight_layout()
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("--fit", action="store_true", help="also fit the constants, and leave each group out in turn")
    parser.add_argument("--out", help="picture to write")
    args = parser.parse_args()
    runs = load()
    print(json.dumps(summary(runs)) if args.json else table(runs) + "\n\n" + json.dumps(summary(runs), indent=1))
    if args.fit:
        print("\n".join(fit(runs, "a100") + fit(runs, "h100")))
    if args.out:
        draw(runs, args.out)


if __name__ == "__main__":
    main()
