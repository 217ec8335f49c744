"""`glm data build`: a corpus of token shards from packages or from a folder of text. `glm data feedback`: what users preferred, as pairs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from openglm.cli.options import parse


@dataclass
class BuildOptions:
    """Fetch or read, clean, remove duplicates and evaluation items, hold out a part, tokenise."""

    source: Annotated[str, tyro.conf.Positional]
    """a sources file (.toml), or a folder of .txt, .jsonl and .parquet files"""
    out: str
    """folder of the corpus; must not exist yet"""
    tokenizer: str = ""
    """folder or name of a tokenizer to use; empty: train one"""
    vocab_size: int = 8192
    """tokens of a newly trained tokenizer"""
    heldout: float = 0.01
    """share of documents kept out of training"""
    evaluation: str = ""
    """folder of evaluation items whose text must not be in the corpus"""
    cache: str = ""
    """where downloaded packages are kept; empty: the user's cache folder"""
    text: str = ""
    """also keep the cleaned text in this folder, one .jsonl a source"""
    workers: int = 1
    """processes"""
    json: bool = False
    """print the manifest as JSON"""


@dataclass
class FeedbackOptions:
    """Write the answers that users preferred, each with one that it beat, for reward models and DPO."""

    to: str
    """JSON lines of {prompt, chosen, rejected}, each a list of messages"""
    url: str = ""
    """the server's feedback_url; empty: the SQLite file in the user's data folder"""
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
        options.source, options.out, tokenizer=options.tokenizer, vocab_size=options.vocab_size, heldout=options.heldout,
        evaluation=options.evaluation, cache=options.cache, text=options.text, workers=options.workers,
    )  # fmt: skip
    print(json.dumps(manifest, ensure_ascii=False) if options.json else table(manifest))
    return 0


def export(options: FeedbackOptions) -> int:
    from openglm.files import write_file
    from openglm.serve.feedback import Feedback

    lines = [json.dumps(pair, ensure_ascii=False) for pair in Feedback(options.url).pairs()]
    write_file(options.to, "".join(f"{line}\n" for line in lines))
    print(json.dumps({"pairs": len(lines)}) if options.json else f"{len(lines)} pairs in {options.to}")
    return 0
