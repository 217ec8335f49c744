"""The curves of a training run as a picture: python benchmarks/nano/curves.py runs/nano/pretrain runs/nano/sft --out docs/images/nano_curves.png"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def read(run: Path) -> tuple[list[dict], list[dict]]:
    """Training lines and held-out lines of a run's log."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "loss" in line], [line for line in lines if "heldout" in line]


def language_of(source: str) -> str:
    """Sources are named after their language; verses and classics are Chinese."""
    return "zh" if source.startswith(("poetry", "classics")) else source.rpartition("-")[2]


def draw(axis, run: Path) -> None:
    train, heldout = read(run)
    axis.plot(
        [t["tokens"] / 1e6 for t in train],
        [t["loss"] for t in train],
        color="#999999",
        linewidth=0.8,
        label="training rows",
    )
    per_step = train[-1]["tokens"] / train[-1]["step"]
    for language, colour in (("zh", "#b3362a"), ("en", "#2a6fb0")):
        points = [
            (h["step"] * per_step / 1e6, [loss for name, loss in h["heldout"].items() if language_of(name) == language])
            for h in heldout
        ]
        axis.plot(
            [x for x, _ in points],
            [sum(v) / len(v) for _, v in points],
            "o-",
            color=colour,
            markersize=3,
            label=f"held out, {language} (mean over sources)",
        )
    chat = [(h["step"] * per_step / 1e6, h["heldout"]["chat"]) for h in heldout if "chat" in h["heldout"]]
    axis.plot(
        [x for x, _ in chat], [y for _, y in chat], "s-", color="#3a8f4d", markersize=3, label="held out, conversations"
    )
    axis.set(title=run.name, xlabel="million tokens in the rows", ylabel="loss, nats a trained token")
    axis.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of runs")
    parser.add_argument("--out", required=True, help="picture to write")
    args = parser.parse_args()
    figure, axes = plt.subplots(1, len(args.runs), figsize=(5.5 * len(args.runs), 4), squeeze=False)
    for axis, run in zip(axes[0], args.runs, strict=True):
        draw(axis, Path(run))
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
