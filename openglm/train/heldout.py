"""What is looked at between steps: losses on held-out rows, and samples."""

import itertools
import math
import statistics
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch

from openglm.data.mixture import Rows
from openglm.model.generate import generate
from openglm.parallel.apply import named_parameters, reshard
from openglm.parallel.processes import local_part
from openglm.text.tokenizer import Tokenizer
from openglm.train.feed import stream_batches
from openglm.train.forward_backward import ForwardBackward
from openglm.train.run import Session
from openglm.train.state import State


def between_steps(session: Session, state: State, forward_backward: ForwardBackward, bar: Any) -> dict[str, float]:
    """Held-out losses and samples when they are due. They come after the checkpoint of the same step, and again when it
    is resumed."""
    last = state.step == session.train.steps
    measured = bool(session.run.heldout) and (last or state.step % session.train.eval_every == 0)
    due = bool(session.train.sample_every) and state.step % session.train.sample_every == 0
    shown_by = session.run.tokenizer if due else None
    heldout: dict[str, float] = {}
    if state.step == 0 or (shown_by is None and not measured):
        return heldout
    with _averaged(state):
        if measured:
            for name, rows in session.run.heldout.items():
                for metric, value in _heldout_means(session, forward_backward, rows).items():
                    heldout[name if metric == "loss" else f"{name}/{metric}"] = value
            note_best(session, state, heldout)
        if session.log and not session.stop.requested and heldout:
            session.log.write({"step": state.step, "heldout": heldout})
            bar.print(
                f"step {state.step}  held-out loss  "
                + "  ".join(f"{name} {loss:.4f}" for name, loss in heldout.items())
            )
        if shown_by is not None:
            for name, rows in session.run.heldout.items():
                text = _sample(state, shown_by, rows, session.objective.where)
                if session.log:
                    bar.print(f"step {state.step}  {name}: {text}")
                    session.log.text(state.step, f"sample/{name}", text)
    return heldout


def ended(session: Session, state: State) -> bool:
    """Whether the run has come to its end, or its patience has."""
    train = session.train
    return state.step >= train.steps or 0 < train.patience <= state.best.get("worse", 0)


def note_best(session: Session, state: State, heldout: dict[str, float]) -> None:
    """Remember the step of the lowest mean loss; nothing where a signal cut the measurement short."""
    losses = [heldout[name] for name in session.run.heldout if name in heldout]
    if not session.train.patience or len(losses) < len(session.run.heldout):
        return
    loss = statistics.fmean(losses)
    if loss < state.best.get("loss", math.inf):
        state.best = {"loss": loss, "step": state.step, "worse": 0}
    else:
        state.best["worse"] = state.best.get("worse", 0) + 1


@contextmanager
def _averaged(state: State) -> Iterator[None]:
    """Inside the block the model has the averaged weights (if any are kept) and is in evaluation mode."""

    averages = state.ema or {}

    def swap() -> None:
        for name, parameter in named_parameters(state.pieces if averages else []):
            weights, average = local_part(parameter.detach()), local_part(averages[name])
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
            reshard(piece)
            piece.train()
        swap()


def _heldout_means(session: Session, forward_backward: ForwardBackward, rows: Rows) -> dict[str, float]:
    """Loss and metrics of the first eval_rows rows, or a few more so that all processes have as many.

    Nothing when a stop is asked for meanwhile.
    """
    names = ("loss", *session.objective.metrics)
    sums, trained, size = [0.0] * len(names), 0.0, session.train.batch_rows
    if session.run.config.parallel.pipeline == 1:  # a pipeline takes as many as in training
        shares = session.group.size("data")
        size = min(size, math.ceil(session.train.eval_rows / shares) * shares)
    with closing(stream_batches(session, rows, 0, size, 0)) as stream:
        for batch in itertools.islice(stream, math.ceil(session.train.eval_rows / size)):
            if session.group.mesh is None and session.stop.requested:
                return {}
            found = forward_backward.evaluate(batch)
            sums = [before + new for before, new in zip(sums, (found.loss, *found.metrics.values()), strict=True)]
            trained += session.objective.count(batch)
    *sums, trained = session.group.sum(*(number if session.group.counts else 0.0 for number in (*sums, trained)))
    return {name: value / max(trained, 1.0) for name, value in zip(names, sums, strict=True)}


def _sample(state: State, tokenizer: Tokenizer, rows: Rows, where: str) -> str:
    """What the model puts where the first held-out row has its first blank or answer, shown after the end of its
    context."""
    row = rows.row(0)
    trained = getattr(row, where).nonzero()[0]
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
