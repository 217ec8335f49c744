"""Small-scale comparison of variants: trains each with several seeds on the same number of tokens, and measures all on the same held-out text.

    python benchmarks/nano/compare.py --config recipes/nano/pretrain.toml --variants recipes/nano/variants.toml --corpus FOLDER --out FOLDER --tokens 20e6 --seeds 3 --jobs 6

A variant is a table of changes to the pre-training configuration; the first is the one that others are compared with, seed by seed. A seed sets the
initial weights and the order of the data. Each run is a process of its own; finished ones are kept in --out and not repeated. "Tokens" are those of the
rows, which is what a step costs; the share that is trained depends on the objective. Standard errors are over seeds: the held-out text is fixed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import blanks as holes
import left_to_right as l2r
import numpy as np
import torch

import openglm
from openglm.cli.options import read_toml
from openglm.config import PretrainConfig, from_dict, require
from openglm.presets import model_preset
from openglm.runtime import progress, say
from openglm.train.pretrain import pretrain

COLUMNS = {
    "uni": "bits per byte, left to right", "prefix": "bits per byte, prefix",
    "token": "one-token holes, both sides, %", "span": "tokens of spans, both sides, %", "left": "one-token holes, left only, %",
}  # fmt: skip


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `changes` in place of its own."""
    return {**base, **{k: merged(base.get(k, {}), v) if isinstance(v, dict) else v for k, v in changes.items()}}


def configuration(args: argparse.Namespace, changes: dict[str, Any], seed: int, out: Path) -> PretrainConfig:
    """The base with a variant's changes, one seed, and as many steps as the tokens allow."""
    values = merged(read_toml(Path(args.config)), changes)
    values["model"] = dataclasses.asdict(model_preset(values.pop("preset", "nano"), **values.get("model", {})))
    train = values.setdefault("train", {}) | {
        "out": str(out),
        "seed": seed,
        "device": args.device,
        "keep": 1,
        "sample_every": 0,
    }
    per_step = train.get("seq_len", 512) * train.get("batch_rows", 32)
    train["steps"] = train["save_every"] = train["eval_every"] = max(1, round(args.tokens / per_step))
    values["train"], values["data"] = train, {**values.get("data", {}), "path": args.corpus, "seed": seed}
    return from_dict(PretrainConfig, values)


def measure(args: argparse.Namespace, model, tokenizer) -> dict[str, dict[str, float]]:
    """Column -> language -> figure. A model that reads forward has no prefix column, one that fills no blanks no two-sided columns."""
    held, special = l2r.held_out(args.corpus, tokenizer, args.max_tokens), sorted(tokenizer.special.values())
    ways = ("uni", "prefix") if model.config.mask == "prefix" else ("uni",)
    out: dict[str, dict[str, float]] = {name: {} for name in COLUMNS}
    for language in sorted({h.language for h in held}):
        mine = [h for h in held if h.language == language]
        for way in ways:
            nats = np.concatenate([l2r.document_nats(model, h, way, batch_tokens=args.batch_tokens) for h in mine])
            out[way][language] = l2r.bits_per_byte(nats, mine)["bits_per_byte"]
        single, spans = (holes.make_blanks(mine, args.items, kind) for kind in (True, False))
        out["left"][language] = (
            100 * holes.accuracy(holes.fill_left_only(model, single, special, args.batch_tokens), single)["token"]
        )
        if model.config.fills_blanks:
            for name, items in (("token", single), ("span", spans)):
                out[name][language] = (
                    100
                    * holes.accuracy(holes.fill_both_sides(model, items, special, args.batch_tokens), items)["token"]
                )
    return out


def run_one(args: argparse.Namespace, name: str, seed: int, folder: Path) -> None:
    """Train and measure one variant with one seed; writes result.json. A run whose loss stops being finite is a result too."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.jobs))
    config = configuration(args, read_toml(Path(args.variants))[name], seed, folder / "run")
    result, start = {"settings": settings(args, config)}, time.perf_counter()
    try:
        trained = pretrain(config)
        require(trained.finished, "run", name, "was stopped; start it again")
        result |= {"train_seconds": time.perf_counter() - start, "heldout_loss": trained.heldout}
        model = openglm.load_model(trained.model, device=args.device)
        result |= {
            "parameters": model.config.parameters,
            "metrics": measure(args, model, openglm.load_tokenizer(args.corpus)),
        }
    except ValueError as error:
        require("nothing of this step was kept" in str(error), name, seed, str(error))
        result["error"] = str(error)
    (folder / "result.json.new").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (folder / "result.json.new").replace(folder / "result.json")


def settings(args: argparse.Namespace, config: PretrainConfig) -> dict[str, Any]:
    """What a kept result must have been made with."""
    return json.loads(
        json.dumps({"config": dataclasses.asdict(config), "max_tokens": args.max_tokens, "items": args.items})
    )


def spawn(args: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """The result of one run, from its folder if it is there already, else from a process of its own. Raises RuntimeError with the end of its log."""
    folder = Path(args.out) / f"{re.sub(r'[^a-zA-Z0-9._]+', '-', name)}-seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = settings(args, configuration(args, read_toml(Path(args.variants))[name], seed, folder / "run"))
    file = folder / "result.json"
    if not file.is_file() or json.loads(file.read_text(encoding="utf-8"))["settings"] != wanted:
        with (folder / "output.txt").open("w", encoding="utf-8") as output:
            done = subprocess.run(
                [sys.executable, *sys.argv, "--one", name, str(seed), str(folder)], stdout=output, stderr=output
            )
        if done.returncode:
            raise RuntimeError(f"{name}, seed {seed}: exit code {done.returncode}; see {folder / 'output.txt'}")
    return json.loads(file.read_text(encoding="utf-8"))


def summary(results: dict[str, dict[int, dict]]) -> dict[str, dict[str, dict[str, float]]]:
    """Variant -> column -> mean over languages and seeds, its standard error, and the same of the difference from the first variant."""

    def values(name: str, column: str) -> dict[int, float]:
        figures = {seed: r.get("metrics", {}).get(column) for seed, r in results[name].items()}
        return {seed: float(np.mean(list(f.values()))) for seed, f in figures.items() if f}

    def spread(numbers: list[float]) -> float | None:
        return float(np.std(numbers, ddof=1) / np.sqrt(len(numbers))) if len(numbers) > 1 else None

    first, out = next(iter(results)), {}
    for name in results:
        out[name] = row = {}
        for column in COLUMNS:
            own, base = values(name, column), values(first, column)
            paired = [own[s] - base[s] for s in own if s in base]
            if own:
                row[column] = {
                    "mean": float(np.mean(list(own.values()))),
                    "se": spread(list(own.values())),
                    "seeds": len(own),
                }
            if own and paired and name != first:
                row[column] |= {"difference": float(np.mean(paired)), "difference_se": spread(paired)}
    return out


def markdown(rows: dict[str, dict[str, dict[str, float]]], results: dict[str, dict[int, dict]]) -> str:
    """Mean ± standard error, in brackets the paired difference from the first variant."""

    def figure(mean: float, se: float | None, form: str) -> str:
        return f"{mean:{form}}" + (f" ± {se:{form.removeprefix('+')}}" if se is not None else "")

    lines = ["| variant | " + " | ".join(COLUMNS.values()) + " | seeds |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, row in rows.items():
        cells = []
        for column in COLUMNS:
            cell, digits = row.get(column), 4 if column in ("uni", "prefix") else 1
            text = figure(cell["mean"], cell["se"], f".{digits}f") if cell else "–"
            cells.append(
                text
                + (
                    f" ({figure(cell['difference'], cell['difference_se'], f'+.{digits}f')})"
                    if cell and "difference" in cell
                    else ""
                )
            )
        failed = sum("error" in r for r in results[name].values())
        lines.append(
            f"| {name} | " + " | ".join(cells) + f" | {len(results[name])}{f', {failed} diverged' if failed else ''} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--config", default="recipes/nano/pretrain.toml", help="pre-training configuration that the variants change"
    )
    parser.add_argument(
        "--variants",
        default="recipes/nano/variants.toml",
        help="TOML: a table of changes for each variant, the reference first",
    )
    parser.add_argument("--only", nargs="*", help="names of variants to run, the reference first")
    parser.add_argument("--corpus", required=True, help="folder made by `glm data build`")
    parser.add_argument("--out", required=True, help="folder for the runs")
    parser.add_argument("--tokens", type=float, required=True, help="tokens of the rows that each run reads")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--max-tokens", type=int, default=5000, help="held-out tokens per source")
    parser.add_argument("--items", type=int, default=400, help="holes per language and kind")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens in one forward pass of the measurements")
    parser.add_argument("--json", help="write all results here")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args, args.one[0], int(args.one[1]), Path(args.one[2]))
        return 0
    known = read_toml(Path(args.variants))
    for name in args.only or ():
        require(name in known, "--only", name, f"no such variant; there are {', '.join(known)}")
    names = args.only or list(known)
    tasks = [
        (name, seed) for seed in range(1, args.seeds + 1) for name in names
    ]  # seed by seed, so that an early look compares like with like
    results: dict[str, dict[int, dict]] = {name: {} for name in names}
    failures = 0
    with ThreadPoolExecutor(args.jobs) as pool, progress("runs", len(tasks), "runs") as advance:
        pending = [(name, seed, pool.submit(spawn, args, name, seed)) for name, seed in tasks]
        for name, seed, future in pending:
            try:
                results[name][seed] = future.result()
            except RuntimeError as error:
                say(str(error))
                failures += 1
            advance(1, f"{name}, seed {seed}")
    rows = summary(results)
    print(markdown(rows, results))
    if args.json:
        Path(args.json).write_text(
            json.dumps({"summary": rows, "runs": results, "tokens": args.tokens, "seeds": args.seeds}, indent=1) + "\n",
            encoding="utf-8",
        )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
