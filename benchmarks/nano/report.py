"""All figures of a small GLM beside a causal model of the same size and a Kneser-Ney 5-gram, from one run on the same held-out text.

    python benchmarks/nano/report.py --model openglm/assets/nano --gpt FOLDER --corpus FOLDER --json out.json --plot out.png

Prints a Markdown report. The defaults fit a processor: some five minutes on two cores, of which one is the n-gram model's (6 GB of memory).
On an accelerator take all of the held-out text and more holes: --max-tokens 1000000 --items 2000 --rerank-items 1000 --batch-tokens 65536.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import blanks as holes
import left_to_right as l2r
import ngram
import numpy as np
import torch

import openglm
from openglm.data.shards import Corpus
from openglm.runtime import say

COLOURS = {
    "KN-5": "#999999", "KN-5, same tokens": "#cccccc", "GPT": "#d98c3f", "GPT, re-ranked": "#b35c00", "GLM, left only": "#8fb3d9", "GLM": "#2a6fb0", "GLM, prefix": "#2a6fb0",
    "GLM, re-ranked": "#123f66", "most frequent": "#999999",
}  # fmt: skip


def reading(args: argparse.Namespace, models: dict, tokenizer, held: list[l2r.HeldOut]) -> dict:
    """Bits per byte of every reader, and the differences that matter, paired by document."""
    nats: dict[str, list[np.ndarray]] = {}
    for name, model in models.items():
        for way in ["uni", "prefix"] if model.config.mask == "prefix" else ["uni"]:
            nats["GLM, left only" if (name, way) == ("GLM", "uni") else "GLM, prefix" if name == "GLM" else name] = [
                l2r.document_nats(model, h, way, batch_tokens=args.batch_tokens) for h in held
            ]
    say("fitting the 5-gram model")
    texts = {"KN-5": None}  # None: the whole training split
    if args.run:
        texts["KN-5, same tokens"] = ngram.documents_read(Path(args.run), args.step)
    for name, read in texts.items():
        kneser_ney = ngram.fit_corpus(args.corpus, tokenizer.special["<eop>"], read=read)
        nats[name] = [ngram.document_nats(kneser_ney, h.documents) for h in held]
    tables = {name: l2r.table(n, held) for name, n in nats.items()}
    readers, others = ("GLM, left only", "GLM, prefix"), ("GPT", "KN-5", "KN-5, same tokens")
    pairs = [(a, b) for a in readers if a in nats for b in others if b in nats]
    differences = {
        f"{a} - {b}": {g: l2r.difference(*(np.concatenate([nats[x][i] for i in members]) for x in (a, b)), [held[i] for i in members]) for g, members in l2r.groups(held).items()}
        for a, b in pairs
    }  # fmt: skip
    return {"readers": tables, "differences": differences}


def most_frequent(corpus: Corpus, sources: list[str]) -> np.ndarray:
    """[vocabulary] how often each token occurs in the training text of some sources."""
    counts = np.zeros(corpus.vocab_size, np.int64)
    for name in sources:
        for i in range(len(corpus.sources[name])):
            counts += np.bincount(corpus.sources[name].document(i), minlength=len(counts))
    return counts


def filling(args: argparse.Namespace, models: dict, tokenizer, held: list[l2r.HeldOut]) -> dict:
    """Accuracy of every filler on one-token holes and on spans, by language."""
    special, train, out = sorted(tokenizer.special.values()), Corpus(args.corpus), {}
    for language in sorted({h.language for h in held}):
        mine = [h for h in held if h.language == language]
        counts = most_frequent(train, [h.source for h in mine if h.source in train.sources])
        for kind in ("token", "span"):
            items = holes.make_blanks(mine, args.items, single=kind == "token")
            row = {"most frequent": holes.accuracy(holes.fill_most_frequent(counts, items), items)}
            for name, model in models.items():
                left = holes.fill_left_only(model, items, special, args.batch_tokens)
                row["GLM, left only" if name == "GLM" else name] = holes.accuracy(left, items)
                if kind == "token":
                    some = items[: args.rerank_items]
                    row[f"{name}, re-ranked"] = holes.accuracy(holes.fill_reranked(model, some, special), some)
                if name == "GLM":
                    row["GLM"] = holes.accuracy(holes.fill_both_sides(model, items, special, args.batch_tokens), items)
            out[f"{language}, {'one token' if kind == 'token' else 'spans'}"] = row
    return out


def markdown(report: dict) -> str:
    """The three tables."""

    def interval(row: dict, size: dict, form: str) -> str:  # a bootstrap over a handful of documents says nothing
        return f"{row['bits_per_byte']:{form}}" + (
            f" [{row['low']:{form}}, {row['high']:{form}}]" if size["documents"] >= 10 else ""
        )

    readers, lines = report["reading"]["readers"], []
    sizes = next(iter(readers.values()))
    groups = list(sizes)
    lines += [
        "Bits per byte of held-out text, every token and <eop> predicted once [95 % interval over documents, where there are 10 or more], perplexity per token:",
        "",
    ]
    lines += ["| | " + " | ".join(readers) + " | documents | tokens | bytes |", "|---" * (len(readers) + 4) + "|"]
    for group in groups:
        cells = [
            f"{interval(r[group], sizes[group], '.3f')} ppl {r[group]['perplexity']:.1f}" for r in readers.values()
        ]
        size = sizes[group]
        lines.append(
            f"| {group} | " + " | ".join(cells) + f" | {size['documents']} | {size['tokens']} | {size['bytes']} |"
        )
    pairs = report["reading"]["differences"]
    lines += [
        "",
        "Differences in bits per byte, paired by document (below 0: the first is better):",
        "",
        "| | " + " | ".join(pairs) + " |",
        "|---" * (len(pairs) + 1) + "|",
    ]
    for group in groups:
        lines.append(
            f"| {group} | " + " | ".join(interval(row[group], sizes[group], "+.3f") for row in pairs.values()) + " |"
        )
    lines += [
        "",
        f"Holes in held-out text, exact answers in % [95 % interval]; chance is {100 * report['chance']:.3f} %:",
        "",
    ]
    lines += ["| | filler | tokens right | n | holes right | n |", "|---|---|---|---|---|---|"]
    for kind, row in report["blanks"].items():
        for name, a in row.items():
            cells = [
                f"{100 * a[x]:.1f} [{100 * a[x + '_low']:.1f}, {100 * a[x + '_high']:.1f}] | {a[x + 's']}"
                for x in ("token", "span")
            ]
            lines.append(f"| {kind} | {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Made by `{report['command']}` on {report['machine']}."])


def _bars(axis, rows: dict[str, dict[str, tuple[float, float, float]]], label: str) -> None:
    """Grouped bars with intervals. rows: reader -> group -> (value, low, high)."""
    groups, width = list(dict.fromkeys(g for row in rows.values() for g in row)), 0.8 / len(rows)
    for k, (name, row) in enumerate(rows.items()):
        present = [(i, *row[g]) for i, g in enumerate(groups) if g in row]
        at, value, low, high = (np.array(column) for column in zip(*present, strict=True))
        at = at + (k - (len(rows) - 1) / 2) * width
        axis.bar(at, value, width, yerr=[value - low, high - value], capsize=2, label=name, color=COLOURS[name])
    axis.set_xticks(range(len(groups)), groups)
    axis.set_ylabel(label)
    axis.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    axis.spines[["top", "right"]].set_visible(False)


def plot(report: dict, path: str) -> None:
    """Two panels: bits per byte by language, accuracy on holes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), constrained_layout=True)
    readers = report["reading"]["readers"]
    order = [name for name in COLOURS if name in readers]
    languages = report["languages"]
    _bars(
        left,
        {n: {g: tuple(readers[n][g][x] for x in ("bits_per_byte", "low", "high")) for g in languages} for n in order},
        "bits per byte, held-out text (lower is better)",
    )
    fillers = [name for name in COLOURS if any(name in row for row in report["blanks"].values())]
    _bars(right, {n: {k: tuple(100 * row[n][x] for x in ("token", "token_low", "token_high")) for k, row in report["blanks"].items() if n in row} for n in fillers},
          "tokens of held-out blanks right, % (higher is better)")  # fmt: skip
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="GLM: folder or bundled name")
    parser.add_argument("--gpt", help="folder of a causal model with the same tokenizer")
    parser.add_argument("--corpus", required=True, help="folder made by `glm data build`")
    parser.add_argument(
        "--run", help="folder of the GLM's training run: adds a 5-gram model of just the documents that it had read"
    )
    parser.add_argument(
        "--step", type=int, help="steps of that run that the GLM has behind it, where it is not finished"
    )
    parser.add_argument("--max-tokens", type=int, default=4000, help="held-out tokens per source, whole documents")
    parser.add_argument("--items", type=int, default=300, help="holes per language and kind")
    parser.add_argument(
        "--rerank-items",
        type=int,
        default=60,
        help="holes per language that each model re-ranks (fifty times the work)",
    )
    parser.add_argument("--batch-tokens", type=int, default=2048, help="tokens in one forward pass")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--json", help="write all figures here")
    parser.add_argument("--plot", help="write the picture here")
    args = parser.parse_args()
    tokenizer = openglm.load_tokenizer(args.model)
    models = {
        name: openglm.load_model(folder, device=args.device)
        for name, folder in (("GPT", args.gpt), ("GLM", args.model))
        if folder
    }
    held = l2r.held_out(args.corpus, tokenizer, args.max_tokens)
    report = {
        "reading": reading(args, models, tokenizer, held), "blanks": filling(args, models, tokenizer, held), "chance": 1 / (tokenizer.vocab_size - len(tokenizer.special)),
        "languages": sorted({h.language for h in held}), "parameters": {n: m.config.parameters for n, m in models.items()}, "command": "python " + " ".join(sys.argv),
        "machine": f"{platform.machine()}, {next(iter(models.values())).device}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }  # fmt: skip
    print(markdown(report))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.plot:
        plot(report, args.plot)


if __name__ == "__main__":
    main()
