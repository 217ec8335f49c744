"""A tiny model with nano's tokenizer, and pairs that it can learn from."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import torch

from helpers.processes import run_together
from openglm.checkpoints.native import save_model
from openglm.cli.main import main
from openglm.config import ModelConfig
from openglm.model.transformer import Transformer
from openglm.text.load import load_tokenizer

SHAPE = ModelConfig(
    vocab_size=1, layers=2, hidden=32, heads=2, kv_heads=1, ffn_hidden=48, max_positions=64, qk_norm=True
)
WORDS = ("bread", "water", "stone", "river", "cloud", "paper", "glass", "green")


def tiny_model(folder: Path, shape: ModelConfig) -> Path:
    tokenizer = load_tokenizer("nano")
    model = Transformer(dataclasses.replace(shape, vocab_size=tokenizer.vocab_size, tokens=tokenizer.tokens))
    model.initialize(torch.Generator().manual_seed(0))
    return save_model(folder, model, tokenizer)


def write_pairs(path: Path, count: int, start: int = 0) -> Path:
    """The polite answer is the better one; both repeat a word of the question."""
    records = []
    for i in range(start, start + count):
        word = WORDS[i % len(WORDS)]
        prompt = [{"role": "user", "content": f"{i}: what about {word}?"}]
        answers = [[{"role": "assistant", "content": f"{tone} {word}"}] for tone in ("please,", "no,")]
        records.append({"prompt": prompt, "chosen": answers[0], "rejected": answers[1]})
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_chats(path: Path, count: int) -> Path:
    """Half of the answers are polite; all end."""
    records = []
    for i in range(count):
        word = WORDS[i % len(WORDS)]
        tone = "please," if (i // len(WORDS)) % 2 else "no,"
        user, answer = (
            {"role": "user", "content": f"what about {word}?"},
            {"role": "assistant", "content": f"{tone} {word}"},
        )
        records.append({"messages": [user, answer]})
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def logs_of_one_and_two(folder: Path, command: Callable[[Path], list[str]]) -> list[list[dict]]:
    """What a command writes into its log with one process and with two."""
    assert main(command(folder / "one")) == 0
    run_together(2, main, command(folder / "two"))
    files = (folder / out / "log.jsonl" for out in ("one", "two"))
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def write_prompts(path: Path, **known: str) -> Path:
    records = [{"prompt": f"what about {word}?", **known} for word in WORDS]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path
