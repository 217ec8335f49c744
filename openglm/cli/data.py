"""`glm data build` makes a corpus from packages or a folder of text. `glm data feedback` writes users' preferences as
pairs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from openglm.cli.options import parse


@dataclass
class BuildOptions:
    """Build a corpus: fetch or read texts, clean them, remove duplicates and evaluation items, hold some out, tokenize."""

    source: Annotated[str, tyro.conf.Positional]
    """folder of .txt, .md, .json(l), .csv and .parquet files, packed (.gz, .zst ..) or not, one such file, or a .toml
    file that lists sources"""
    out: str
    """folder to write the corpus to; it must not exist yet"""
    tokenizer: str = ""
    """folder or name of a tokenizer to use (nano, or a model's folder); empty: train a new one"""
    vocab_size: int = 8192
    """vocabulary size of a new tokenizer; smaller if the texts yield fewer tokens"""
    heldout: float = 0.01
    """share of documents to keep out of training"""
    evaluation: str = ""
    """folder or file of evaluation items; lines that share text with them are removed from the corpus"""
    cache: str = ""
    """folder for downloaded packages; empty: your cache folder"""
    text: str = ""
    """also write the cleaned text to this folder, one .jsonl file per source"""
    workers: int = 1
    """number of processes"""
    json: bool = False
    """print the manifest as JSON"""


@dataclass
class FeedbackOptions:
    """Write pairs of preferred and rejected answers from users' feedback, for reward models and DPO."""

    to: str
    """file to write: JSON lines of {prompt, chosen, rejected}, each a list of messages"""
    url: str = ""
    """the server's feedback_url; empty: the SQLite file in your data folder"""
    json: bool = False
    """print the number of pairs as JSON"""


def run(argv: list[str]) -> int:
    if argv[:1] == ["feedback"]:
        return export(parse(FeedbackOptions, argv[1:], "glm data feedback", FeedbackOptions.__doc__ or ""))
    if argv[:1] not in (["build"], ["-h"], ["--help"]):
        raise ValueError(
            f"{' '.join(argv[:1]) or 'nothing'!r} is not a task; use: glm data build SOURCE --out FOLDER, or glm data feedback --to FILE"
        )
    options = parse(
        BuildOptions, argv[1:] if argv[0] == "build" else argv, "glm data build", BuildOptions.__doc__ or ""
    )
    from openglm.data.build import build, table

    manifest = build(
        options.source,
        options.out,
        tokenizer=options.tokenizer,
        vocab_size=options.vocab_size,
        heldout=options.heldout,
        evaluation=options.evaluation,
        cache=options.cache,
        text=options.text,
        workers=options.workers,
    )
    print(json.dumps(manifest, ensure_ascii=False) if options.json else table(manifest))
    return 0


def export(options: FeedbackOptions) -> int:
    from openglm.files import write_file
    from openglm.serve.feedback import Feedback

    lines = [json.dumps(pair, ensure_ascii=False) for pair in Feedback(options.url).pairs()]
    write_file(options.to, "".join(f"{line}\n" for line in lines))
    print(json.dumps({"pairs": len(lines)}) if options.json else f"{len(lines)} pairs in {options.to}")
    return 0
