"""Tuning on conversations (SFT). The loss falls on the assistant's words alone: the rows say where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openglm.checkpoints.load import network_config
from openglm.checkpoints.native import resolve
from openglm.config import SFTConfig, require
from openglm.parallel.processes import shape
from openglm.runtime import launched
from openglm.text.load import load_tokenizer
from openglm.train import loop
from openglm.train.pretrain import make_rows


def sft(config: SFTConfig, on_step: Callable[[int, dict[str, Any]], None] | None = None) -> loop.Result:
    """Tune the model `config.init_from` in `config.train.out`; the same call resumes. Raises ValueError in one line."""
    shape(config.parallel, launched()[0])  # before texts are read, which takes a while
    require(
        bool(config.data.dialogues),
        "data.dialogues",
        dict(config.data.dialogues),
        "give a name and a .jsonl file of conversations",
    )
    folder = resolve(config.init_from)
    model, tokenizer = network_config(folder), load_tokenizer(folder)
    rows, heldout = make_rows(config.data, config.infilling, model, tokenizer, config.train.seq_len)
    settings = {"data": config.data, "infilling": config.infilling}
    return loop.train(
        model,
        config.train,
        config.optimizer,
        rows,
        heldout,
        tokenizer,
        str(folder),
        settings,
        config.data.workers,
        on_step,
        config.parallel,
        config.stability,
    )
