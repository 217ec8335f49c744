"""`glm inspect`: what a checkpoint holds and what it needs, before anything large is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from openglm.cli.options import parse

_SHAPE = (
    "layers",
    "hidden",
    "heads",
    "kv_heads",
    "head_dim",
    "ffn_hidden",
    "vocab_size",
    "max_positions",
    "positions",
    "mask",
    "residual",
)


@dataclass
class InspectOptions:
    """Show what a checkpoint contains, and how much memory it needs to answer and to be tuned."""

    folder: Annotated[str, tyro.conf.Positional]
    """folder of a checkpoint, or the name of a bundled model"""
    model_config: str | None = None
    """preset or JSON file with the configuration, for training shards that come without one"""
    json: bool = False
    """print one JSON object instead of text"""


def run(argv: list[str]) -> int:
    options = parse(InspectOptions, argv, "glm inspect", InspectOptions.__doc__ or "")
    from openglm.checkpoints.load import open_checkpoint
    from openglm.checkpoints.report import report

    found = report(open_checkpoint(options.folder, options.model_config))
    print(json.dumps(found, ensure_ascii=False) if options.json else "\n".join(lines(found)))
    return 0


def lines(found: dict[str, Any]) -> list[str]:
    """The report for people."""
    memory, formulas = found["memory"], found["formulas"]
    tokens = ", ".join(f"{name} {value}" for name, value in found["tokens"].items() if value not in (-1, ()))
    text = [
        f"{found['family']}: {found['parameters']:,} parameters in {found['weights']}, {size(found['bytes'])} in "
        f"{len(found['files'])} files"
    ]
    names = list(found["files"])
    text += [f"  read from: {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")]
    text += [f"  {name}: {found[name]}" for name in _SHAPE]
    text += [f"  tokens: {tokens or 'unknown'}", "memory to answer, without context:"]
    text += [f"  {kind}: {size(value)}" for kind, value in memory["inference"].items()]
    text += [f"  plus {size(memory['kv_cache_per_token'])} per token of context", "memory to tune, one row at a time:"]
    text += [f"  {way}: {size(value)}" for way, value in memory["tuning"].items()]
    return [*text, "formulas:", *(f"  {name}: {formula}" for name, formula in formulas.items())]


def size(number: int) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= scale:
            return f"{number / scale:.2f} {unit}"
    return f"{number} bytes"
