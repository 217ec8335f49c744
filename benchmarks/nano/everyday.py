"""How many of 40 everyday sentences (20 Chinese, 20 English) a model fills with a word that a reader accepts.

    python benchmarks/nano/everyday.py --model nano

The sentences and the words that count as right were written by hand before any model was asked (everyday.toml); they are in no training data of
nano. A filling is right where it is one of those words, spaces at its ends and capitals apart. Prints each filling and, by language, the share that
is right with its 95 % interval (Wilson).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from blanks import wilson

from openglm.assistant import CANDIDATES, Assistant
from openglm.cli.options import read_toml

SENTENCES = Path(__file__).with_name("everyday.toml")


def sentences(path: Path = SENTENCES) -> list[dict]:
    """Each with its `language`, its `text` with one blank, and the `words` that fill it."""
    return read_toml(path)["sentence"]


def is_right(filling: str, words: list[str]) -> bool:
    return filling.strip().lower() in {word.lower() for word in words}


def summary(rows: list[dict]) -> dict[str, dict[str, float]]:
    """By language, and for all: how many are right, of how many, and the 95 % interval of the share."""
    out = {}
    for language in [*sorted({row["language"] for row in rows}), "all"]:
        mine = [row["right"] for row in rows if language in (row["language"], "all")]
        low, high = wilson(sum(mine), len(mine))
        out[language] = {"right": sum(mine), "sentences": len(mine), "low": low, "high": high}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="folder or bundled name")
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help="fillings tried for each blank")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--json", help="write all figures and fillings here")
    args = parser.parse_args()
    assistant = Assistant(args.model, device=args.device)
    rows, items = [], sentences()
    filled = assistant.fillings([item["text"] for item in items], candidates=args.candidates)
    for item, [found] in zip(items, filled, strict=True):
        filling = found.text
        row = {"language": item["language"], "text": item["text"], "filling": filling}
        rows.append({**row, "right": is_right(filling, item["words"])})
        print(f"{'right' if rows[-1]['right'] else 'wrong'}  {item['text'].replace('___', f'[{filling}]')}")
    for language, figures in summary(rows).items():
        share = f"{100 * figures['low']:.0f} to {100 * figures['high']:.0f} %"
        print(f"{language}: {figures['right']} of {figures['sentences']} right (95 % interval {share})")
    if args.json:
        Path(args.json).write_text(
            json.dumps({"summary": summary(rows), "rows": rows}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
