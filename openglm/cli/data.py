"""`glm data build` makes a corpus from packages or a folder of text. `glm data feedback` writes users' preferences as
pairs. `glm data self-instruct` lets a model write instructions and answers. `glm data eval-items` fetches questions
for `glm eval`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
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


@dataclass
class SelfInstructOptions:
    """Let a model write new instructions after the pattern of yours, and answer them (Self-Instruct, arXiv 2212.10560).
    The same command goes on where it stopped."""

    seeds: str
    """file of instructions by people: records with a prompt, in any shape that `glm sft` reads"""
    to: str
    """file to write: JSON lines of {prompt, response}"""
    model: str = "nano"
    """folder of the model that writes, or the name of a bundled one; with endpoint its name there"""
    endpoint: str = ""
    """OpenAI-compatible interface of the model that writes, such as http://127.0.0.1:8000/v1; $OPENAI_API_KEY is its
    key"""
    count: int = 100
    """records to have in the file"""
    max_tokens: int = 256
    """longest answer"""
    temperature: float = 0.8
    """how freely the model draws"""
    seed: int = 1
    """seed for the choice of instructions and for the answers"""
    json: bool = False
    """print what was kept and left out as JSON"""


def run(argv: list[str]) -> int:
    if argv[:1] == ["feedback"]:
        return export(parse(FeedbackOptions, argv[1:], "glm data feedback", FeedbackOptions.__doc__ or ""))
    if argv[:1] == ["self-instruct"]:
        name = "glm data self-instruct"
        return write_instructions(parse(SelfInstructOptions, argv[1:], name, SelfInstructOptions.__doc__ or ""))
    if argv == ["eval-items"]:
        from openglm.evaluation.packages import fetch_items

        print(fetch_items())
        return 0
    if argv[:1] not in (["build"], ["-h"], ["--help"]):
        tasks = "build SOURCE --out FOLDER, feedback --to FILE, self-instruct --seeds FILE --to FILE, eval-items"
        raise ValueError(f"{' '.join(argv[:1]) or 'nothing'!r} is not a task; use glm data with: {tasks}")
    options = parse(
        BuildOptions, argv[1:] if argv[0] == "build" else argv, "glm data build", BuildOptions.__doc__ or ""
    )
    from openglm.data.build import build, table

    chosen = {name: value for name, value in vars(options).items() if name not in ("source", "json")}
    manifest = build(options.source, **chosen)
    print(json.dumps(manifest, ensure_ascii=False) if options.json else table(manifest))
    return 0


def export(options: FeedbackOptions) -> int:
    from openglm.files import write_file
    from openglm.serve.feedback import Feedback

    lines = [json.dumps(pair, ensure_ascii=False) for pair in Feedback(options.url).pairs()]
    write_file(options.to, "".join(f"{line}\n" for line in lines))
    print(json.dumps({"pairs": len(lines)}) if options.json else f"{len(lines)} pairs in {options.to}")
    return 0


def write_instructions(options: SelfInstructOptions) -> int:
    from openglm.align.self_instruct import self_instruct
    from openglm.config import require
    from openglm.data.prompts import read_prompts

    for name in ("count", "max_tokens"):
        require(getattr(options, name) > 0, name, getattr(options, name), "must be a positive whole number")
    seeds = [str(one.messages[-1]["content"]) for one in read_prompts(options.seeds, "seeds")]
    ask = endpoint_writer(options) if options.endpoint else own_writer(options)
    found = self_instruct(seeds, ask, Path(options.to), options.count, options.seed)
    if options.json:
        print(json.dumps({"records": found.records, "left_out": found.left_out}))
        return 0
    reasons = ", ".join(f"{count} {reason}" for reason, count in found.left_out.most_common()) or "nothing"
    less = f" ({options.count} were asked for: the model found nothing new)" if found.records < options.count else ""
    print(f"{found.records} records in {options.to}{less}; left out: {reasons}")
    return 0


def own_writer(options: SelfInstructOptions) -> Callable[[str, int], tuple[str, bool]]:
    """A model of this machine."""
    from openglm.assistant import Assistant

    assistant = Assistant(options.model)

    def ask(text: str, seed: int) -> tuple[str, bool]:
        drawn = {"max_tokens": options.max_tokens, "temperature": options.temperature, "seed": seed}
        reply = assistant.reply([{"role": "user", "content": text}], **drawn)
        return reply.text, reply.usage["completion_tokens"] < options.max_tokens

    return ask


def endpoint_writer(options: SelfInstructOptions) -> Callable[[str, int], tuple[str, bool]]:
    """A model elsewhere."""
    from openglm.align.endpoint import Endpoint

    endpoint = Endpoint(options.endpoint, options.model)

    def ask(text: str, seed: int) -> tuple[str, bool]:
        drawn = {"max_tokens": options.max_tokens, "temperature": options.temperature, "seed": seed}
        (reply,) = endpoint.ask([{"messages": [{"role": "user", "content": text}], **drawn}])
        return reply.text, reply.finished

    return ask
