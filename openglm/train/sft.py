"""Tuning on conversations (SFT). The loss falls on the assistant's words alone: the rows say where."""

from __future__ import annotations

from openglm.checkpoints.load import network_config
from openglm.checkpoints.native import resolve
from openglm.config import SFTConfig, require
from openglm.parallel.processes import shape
from openglm.runtime import launched
from openglm.text.load import load_tokenizer
from openglm.train.loop import train
from openglm.train.pretrain import make_rows
from openglm.train.run import OnStep, Result, Run


def sft(config: SFTConfig, on_step: OnStep | None = None) -> Result:
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
    run = Run(
        config=config,
        model=model,
        rows=rows,
        heldout=heldout,
        tokenizer=tokenizer,
        init_from=str(folder),
        workers=config.data.workers,
        on_step=on_step,
    )
    return train(run)
