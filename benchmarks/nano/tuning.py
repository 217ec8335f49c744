"""Full tuning, LoRA and P-Tuning v2 on one task, with and without replayed text: what is learnt, and what is forgotten.

    python recipes/nano/keyword_data.py --out runs/keywords
    python benchmarks/nano/tuning.py --data runs/keywords --text runs/nano/text --out runs/tuning [--steps 150]

The task is ADGEN's: a text from key words. Each run trains in a process of its own, whose largest resident memory is that
of training alone; then the answers to held-out key words and the old abilities are measured, before and after.
Writes results.json, results.md and pareto.png; called again, it goes on.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import table, write_json

from openglm.align.tuning import tune
from openglm.checkpoints.load import network_config
from openglm.checkpoints.native import resolve
from openglm.config import DataConfig, LoraConfig, OptimizerConfig, PrefixConfig, SFTConfig, TrainConfig
from openglm.train.adapters import Adapter
from openglm.train.sft import sft

LEARNT = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")


@dataclass(frozen=True)
class Kind:
    """A way to tune, with a learning rate that suits it."""

    adapter: str
    lr: float


KINDS = {"full": Kind("none", 5e-4), "LoRA r8": Kind("lora", 3e-3), "prefix 32": Kind("prefix", 3e-2)}


def config_of(args: argparse.Namespace, name: str, replayed: bool) -> SFTConfig:
    kind = KINDS[name]
    folder = args.out / f"{name.replace(' ', '-')}{'-replay' if replayed else ''}"
    return SFTConfig(
        init_from=args.model,
        data=DataConfig(
            dialogues={"keywords": str(args.data / "keywords.jsonl")},
            heldout_dialogues={"keywords-heldout": str(args.data / "keywords-heldout.jsonl")},
        ),
        train=TrainConfig(
            out=str(folder),
            steps=args.steps,
            seq_len=128,
            batch_rows=16,
            save_every=50,
            eval_every=50,
            eval_rows=32,
            patience=args.steps,
        ),
        optimizer=OptimizerConfig(lr=kind.lr, schedule="linear", warmup_ratio=0.05),
        adapter=kind.adapter,
        lora=LoraConfig(8, targets=("all",)),
        prefix=PrefixConfig(32),
        replay=str(args.out / "replay.jsonl") if replayed else "",
        replay_share=args.replay_share,
        answers=args.answers,
    )


def write_replay(args: argparse.Namespace) -> None:
    """The first documents of each source that pre-training read."""
    lines: list[str] = []
    for file in sorted(args.text.glob("*.jsonl")):
        if not file.stem.endswith("-heldout"):
            with file.open(encoding="utf-8") as texts:
                lines += [line for _, line in zip(range(args.documents), texts, strict=False)]
    (args.out / "replay.jsonl").write_text("".join(lines), encoding="utf-8")


def work(args: argparse.Namespace) -> None:
    """One run, in a process of its own."""
    config = config_of(args, args.worker, args.replayed)
    out = Path(config.train.out)
    start = time.perf_counter()
    if not (out / "cost.json").is_file():
        sft(config)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        write_json(out / "cost.json", {"seconds": time.perf_counter() - start, "peak_bytes": peak})
    tune(config)  # trained already: what is left is to measure


def trained_share(config: SFTConfig) -> float:
    model = network_config(resolve(config.init_from))
    if config.adapter == "none":
        return 1.0
    return sum(p.numel() for p in Adapter(config, "").make(model).parameters()) / model.parameters


def measured(args: argparse.Namespace, name: str, replayed: bool) -> dict:
    """Run it where it has not been run yet."""
    config = config_of(args, name, replayed)
    out = Path(config.train.out)
    if not (out / "before_after.json").is_file():
        flags = ["--replayed"] if replayed else []
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--worker", name, *flags], check=True)
    figures = json.loads((out / "before_after.json").read_text())
    return {**figures, **json.loads((out / "cost.json").read_text()), "share": trained_share(config)}


def rows_of(found: dict[str, dict]) -> list[list[str]]:
    first = next(iter(found.values()))["before"]
    rows = [["before", "", "", "", *(f"{first[name]:.1f}" for name in LEARNT), *_kept(first, first)]]
    for name, one in found.items():
        cost = [f"{100 * one['share']:.2f} %", f"{one['peak_bytes'] / 1e9:.2f} GB", f"{one['seconds']:.0f}"]
        rows.append([name, *cost, *(f"{one['after'][score]:.1f}" for score in LEARNT), *_kept(one["after"], first)])
    return rows


def _kept(now: dict[str, float], before: dict[str, float]) -> list[str]:
    cells = [f"{100 * now['ended']:.0f} %"]
    for name in ("text", "blanks"):
        change = f" ({100 * (now[name] / before[name] - 1):+.1f} %)" if now is not before else ""
        cells.append(f"{now[name]:.3f}{change}" if name in now else "")
    return cells


def draw(found: dict[str, dict], file: Path) -> None:
    """Learning against forgetting; what no other point beats in both is joined by a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points = {
        name: (100 * (one["after"]["text"] / one["before"]["text"] - 1), one["after"]["rouge-l"])
        for name, one in found.items()
    }
    _, axes = pyplot.subplots(figsize=(6.4, 4.4), layout="constrained")
    for name, (x, y) in points.items():
        axes.scatter(x, y, color="#2a6fb0" if "replay" in name else "#d98c3f")
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(6, 4), fontsize=9)
    best = [p for p in points.values() if not any(q[0] <= p[0] and q[1] >= p[1] and q != p for q in points.values())]
    axes.plot(*zip(*sorted(best), strict=True), color="#999999", linewidth=1, zorder=0)
    axes.set_xlabel("forgotten: bits per byte of plain text, % more")
    axes.set_ylabel("learnt: ROUGE-L of held-out answers")
    pyplot.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that keyword_data.py wrote")
    parser.add_argument("--text", type=Path, required=True, help="folder of cleaned texts, from build_corpus.py --text")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--replay-share", type=float, default=0.2)
    parser.add_argument("--documents", type=int, default=300, help="replayed texts of each source")
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--replayed", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    write_replay(args)
    found = {
        f"{name}{', replay' if replayed else ''}": measured(args, name, replayed)
        for name in KINDS
        for replayed in (False, True)
    }
    write_json(args.out / "results.json", found)
    columns = [
        "",
        "trained",
        "memory",
        "seconds",
        *map(str.upper, LEARNT),
        "ended",
        "text, bits/byte",
        "blanks, bits/byte",
    ]
    (args.out / "results.md").write_text(table(columns, rows_of(found)) + "\n", encoding="utf-8")
    draw(found, args.out / "pareto.png")
    print((args.out / "results.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
