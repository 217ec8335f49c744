"""Tuning on conversations (SFT). The loss falls on the assistant's words alone: the rows say where."""

import itertools

from openglm.checkpoints.load import network_and_tokenizer, open_checkpoint
from openglm.checkpoints.native import resolve
from openglm.config import SFTConfig, require
from openglm.parallel.processes import shape
from openglm.runtime import launched
from openglm.train.adapters import Adapter
from openglm.train.loop import train
from openglm.train.memory import say_memory
from openglm.train.pretrain import make_rows, read_dialogues
from openglm.train.run import OnStep, Result, Run


def sft(config: SFTConfig, on_step: OnStep | None = None) -> Result:
    """Tune the model `config.init_from` in `config.train.out`; the same call resumes. Raises ValueError in one line."""
    return train(sft_run(config, on_step))


def sft_run(config: SFTConfig, on_step: OnStep | None = None) -> Run:
    """The run of `sft`, with its data read and checked."""
    shape(config.parallel, launched()[0])  # before texts are read, which takes a while
    _require_dialogues(config)
    folder = resolve(config.init_from)
    model, tokenizer = network_and_tokenizer(folder)
    adapter = Adapter(config, str(folder)) if config.adapter != "none" else None
    if adapter:
        adapter.make(model)  # wrong options are said before texts are read
    count, local = launched()
    if not local:
        say_memory(open_checkpoint(folder), config, count)
    replay = config.replay, config.replay_share
    rows, heldout = make_rows(config.data, config.infilling, model, tokenizer, config.train.seq_len, replay)
    return Run(
        config=config,
        model=model,
        rows=rows,
        heldout=heldout,
        adapter=adapter,
        tokenizer=tokenizer,
        init_from=str(folder),
        workers=config.data.workers,
        on_step=on_step,
    )


def examples(config: SFTConfig, count: int) -> list[list[tuple[str, bool]]]:
    """The first conversations as they would be trained: texts, and whether they are trained. All data is read and
    checked."""
    _require_dialogues(config)
    folder = resolve(config.init_from)
    model, tokenizer = network_and_tokenizer(folder)
    data = config.data
    sources, _ = (
        read_dialogues(data, files, model, tokenizer, config.train.seq_len)
        for files in (data.dialogues, data.heldout_dialogues)
    )
    rendered = itertools.islice((each for source in sources.values() for each in source.rendered()), count)
    return [
        [
            (tokenizer.decode([number for number, _ in part], skip_special=False), bool(trained))
            for trained, part in itertools.groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1])
        ]
        for ids, mask in rendered
    ]


def _require_dialogues(config: SFTConfig) -> None:
    require(
        bool(config.data.dialogues),
        "data.dialogues",
        dict(config.data.dialogues),
        "give a name and a file of conversations",
    )
