"""What is looked at between steps: losses on held-out rows, and samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import torch

from openglm.model.generate import generate
from openglm.parallel.apply import give_back, named_parameters
from openglm.parallel.processes import local_part
from openglm.text.tokenizer import Tokenizer
from openglm.train.feed import stream_batches
from openglm.train.passes import Passes
from openglm.train.run import Rows, Run
from openglm.train.state import State


def between_steps(run: Run, state: State, passes: Passes, bar: Any) -> dict[str, float]:
    """Held-out losses and samples when they are due. They come after the checkpoint of the same step, and again when it is resumed."""
    last = state.step == run.train.steps
    measured = bool(run.heldout) and (last or state.step % run.train.eval_every == 0)
    shown = run.tokenizer is not None and bool(run.train.sample_every) and state.step % run.train.sample_every == 0
    heldout: dict[str, float] = {}
    if state.step == 0 or not (measured or shown):
        return heldout
    with _averaged(state):
        if measured:
            heldout = {
                name: loss
                for name, rows in run.heldout.items()
                if (loss := _heldout_loss(run, passes, rows)) is not None
            }
        if run.log and not run.stop.requested and heldout:
            run.log.write({"step": state.step, "heldout": heldout})
            bar.print(
                f"step {state.step}  held-out loss  "
                + "  ".join(f"{name} {loss:.4f}" for name, loss in heldout.items())
            )
        if shown:
            for name, rows in run.heldout.items():
                text = _sample(state, run.tokenizer, rows)
                if run.log:
                    bar.print(f"step {state.step}  {name}: {text}")
                    run.log.text(state.step, f"sample/{name}", text)
    return heldout


@contextmanager
def _averaged(state: State) -> Iterator[None]:
    """Inside the block the model has the averaged weights (if any are kept) and is in evaluation mode."""

    def swap() -> None:
        for name, parameter in named_parameters(state.pieces if state.ema is not None else []):
            weights, average = local_part(parameter.detach()), local_part(state.ema[name])
            own = weights.clone()
            weights.copy_(average)
            average.copy_(own)

    for piece in state.pieces:
        piece.eval()
    swap()
    try:
        yield
    finally:
        for piece in state.pieces:
            give_back(piece)
            piece.train()
        swap()


def _heldout_loss(run: Run, passes: Passes, rows: Rows) -> float | None:
    """Mean loss of the first eval_rows rows, or a few more so that all processes have as many; None when a stop is asked for meanwhile."""
    loss, trained, size = 0.0, 0.0, run.train.batch_rows
    if run.parallel.pipeline == 1:  # a pipeline takes as many as in training
        shares = run.group.size("data")
        size = min(size, math.ceil(run.train.eval_rows / shares) * shares)
    with closing(stream_batches(run, rows, 0, size, 0)) as stream:
        for batch in itertools.islice(stream, math.ceil(run.train.eval_rows / size)):
            if run.group.mesh is None and run.stop.requested:
                return None
            loss += passes.evaluate(batch)
            trained += float(batch["loss_mask"].sum(dtype=np.float64))
    loss, trained = run.group.sum(loss, trained) if run.group.counts else run.group.sum(0.0, 0.0)
    return loss / max(trained, 1.0)


def _sample(state: State, tokenizer: Tokenizer, rows: Rows) -> str:
    """What the model puts where the first held-out row has its first blank or answer, shown after the end of its context."""
    row = rows.row(0)
    trained = row.loss_mask.nonzero()[0]
    if len(trained) == 0:
        return "(a row without a blank)"
    prompt = torch.from_numpy(row.tokens[: trained[0] + 1])[None]
    room = min(48, state.config.max_positions - prompt.shape[1])
    ids = generate(state.pieces[0], prompt, room, temperature=0.8, seed=state.step, stop_ids=state.config.tokens.stop)
    context, answer = (
        tokenizer.decode(prompt[0, -48:].tolist(), skip_special=False),
        tokenizer.decode(ids[0, prompt.shape[1] :].tolist(), skip_special=False),
    )
    return f"… {context} ⟨{answer}⟩".replace("\n", " ")
