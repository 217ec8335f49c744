"""What int8 and int4 cost in quality and save in memory: bits per byte of held-out text for a model in each format.

    python benchmarks/quantization.py --model nano --corpus runs/nano/corpus [--json out.json] [--plot out.png]

Every figure is beside that of the whole model on the same text, with a 95 % interval of the difference, paired by document. Calibrated formats
take their text from the corpus's training split. Bytes are those of all weights, norms included.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import table as markdown
from measure import write_json

sys.path.insert(0, str(Path(__file__).resolve().parent / "nano"))
import left_to_right as l2r

import openglm
from openglm.data.shards import Corpus
from openglm.model.positions import describe
from openglm.quant.calibrate import calibrate_blocks
from openglm.quant.layers import QuantizedEmbedding, quantize_model
from openglm.runtime import say

GROUPS = (32, 64, 0)


def calibration_rows(corpus: Corpus, config, rows: int, length: int) -> torch.Tensor:
    """[rows, length]: `[gMASK] <sop>` and training documents one after another, sources in turn."""
    rng, names, out = np.random.default_rng(7), sorted(corpus.sources), []
    for number in range(rows):
        source, text = corpus.sources[names[number % len(names)]], []
        while len(text) < length:
            text += source.document(int(rng.integers(len(source.lengths)))).tolist()
        out.append([config.tokens.gmask, config.tokens.sop, *text[: length - 2]])
    return torch.tensor(out)


def formats(rows: torch.Tensor) -> dict[str, Callable]:
    """Name -> what makes a model of that format out of a whole one, in point."""

    def plain(bits: int, group: int, table_bits: int) -> Callable:
        def make(model) -> None:
            table = model.embedding
            quantize_model(model, bits, group)
            model.embedding = QuantizedEmbedding.of(table, table_bits, group)

        return make

    def calibrated(group: int, table_bits: int) -> Callable:
        def make(model) -> None:
            calibrate_blocks(model, rows, *describe(rows, None, model.config), 4, group)
            plain(4, group, table_bits)(model)

        return make

    named = {f"int8, {label(g)}": plain(8, g, 8) for g in (64, 0)}
    for g in GROUPS:
        named |= {f"int4, {label(g)}": plain(4, g, 4), f"int4, {label(g)}, table int8": plain(4, g, 8)}
        named |= {
            f"int4 calibrated, {label(g)}": calibrated(g, 4),
            f"int4 calibrated, {label(g)}, table int8": calibrated(g, 8),
        }
    return named


def label(group: int) -> str:
    return f"groups of {group}" if group else "one scale a row"


def weight_bytes(model) -> int:
    return sum(t.nbytes for t in model.state_dict().values())


def measure(args: argparse.Namespace) -> list[dict]:
    tokenizer = openglm.load_tokenizer(args.model)
    held = l2r.held_out(args.corpus, tokenizer, args.max_tokens)
    whole = openglm.load_model(args.model, device=args.device)
    rows = calibration_rows(Corpus(args.corpus), whole.config, args.rows, min(512, whole.config.max_positions))
    nats = lambda model: np.concatenate([l2r.document_nats(model, h) for h in held])  # noqa: E731
    base = nats(whole)
    out = [{"format": "fp32", **l2r.bits_per_byte(base, held), "bytes": weight_bytes(whole)}]
    for name, make in formats(rows).items():
        model = openglm.load_model(args.model, device=args.device)
        make(model)
        mine = nats(model)
        change, figures = l2r.difference(mine, base, held), l2r.bits_per_byte(mine, held)
        more = {
            f"change_{k}_percent": 100 * change[v] / out[0]["bits_per_byte"]
            for k, v in (("mid", "bits_per_byte"), ("low", "low"), ("high", "high"))
        }
        more["perplexity_change_percent"] = 100 * (figures["perplexity"] / out[0]["perplexity"] - 1)
        out.append({"format": name, **figures, **more, "bytes": weight_bytes(model)})
        say(
            f"{name}: {out[-1]['bits_per_byte']:.4f} bits per byte, perplexity {more['perplexity_change_percent']:+.2f} %, {out[-1]['bytes'] / 1e6:.2f} MB"
        )
    return out


def table(results: list[dict]) -> str:
    columns = ["format", "MB", "bits per byte", "change, % (95 %)", "perplexity a token", "change, %"]
    cells = []
    for r in results:
        change = (
            f"{r['change_mid_percent']:+.2f} ({r['change_low_percent']:+.2f} to {r['change_high_percent']:+.2f})"
            if "change_mid_percent" in r
            else "–"
        )
        worse = f"{r['perplexity_change_percent']:+.2f}" if "perplexity_change_percent" in r else "–"
        size, bits, perplexity = f"{r['bytes'] / 1e6:.2f}", f"{r['bits_per_byte']:.4f}", f"{r['perplexity']:.2f}"
        cells.append([r["format"], size, bits, change, perplexity, worse])
    return markdown(columns, cells)


def plot(results: list[dict], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure((7, 4.5), layout="tight")
    axis = figure.subplots()
    for r in results[1:]:
        colour = "#2a6fb0" if "calibrated" in r["format"] else "#d98c3f" if "int4" in r["format"] else "#3a8f4d"
        point = r["bytes"] / 1e6, max(r["perplexity_change_percent"], 0.01)
        short = (
            r["format"]
            .partition(", ")[2]
            .replace("groups of ", "g")
            .replace("one scale a row", "row")
            .replace(", table int8", "+8")
        )
        axis.plot(*point, "s" if "table" in r["format"] else "o", color=colour)
        axis.annotate(short, point, fontsize=6, xytext=(3, 3), textcoords="offset points")
    axis.set(
        yscale="log",
        xlabel="megabytes of weights",
        ylabel="rise of the perplexity, %",
        title="int8 green, int4 orange, int4 calibrated blue; squares: embedding in int8",
    )
    axis.axhline(2, color="#999999", linewidth=0.8)
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="folder or name")
    parser.add_argument("--corpus", required=True, help="folder made by `glm data build`")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, ...")
    parser.add_argument("--max-tokens", type=int, default=5000, help="held-out tokens per source")
    parser.add_argument("--rows", type=int, default=48, help="calibration rows of up to 512 tokens")
    parser.add_argument("--json", help="write all figures here")
    parser.add_argument("--plot", help="picture to write")
    args = parser.parse_args()
    results = measure(args)
    write_json(args.json, results)
    if args.plot:
        plot(results, args.plot)
    print(table(results))


if __name__ == "__main__":
    main()
