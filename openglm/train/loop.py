"""The one training loop: pre-training and fine-tuning differ only in the rows and the starting weights that they hand to it.

A step: rows of a whole batch -> forward and backward in `accumulation` parts -> clip -> optimizer -> running average. What a step
does depends on (configuration, weights, step number) alone, so a run that was killed goes on bit for bit from its last checkpoint.
Each data-parallel group of processes has its share of the rows; all agree on every step. It does not know about text, and nothing
here is meant to be inherited from.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from openglm.checkpoints.durable import write_file
from openglm.checkpoints.load import load_model
from openglm.checkpoints.native import write_model
from openglm.checkpoints.sharded import whole_tensors
from openglm.config import ModelConfig, OptimizerConfig, ParallelConfig, StabilityConfig, TrainConfig, require
from openglm.data.mixture import Row, batches
from openglm.model.generate import generate
from openglm.model.transformer import Transformer
from openglm.parallel.apply import check_layout, give_back, initial_weights, named_parameters, spread
from openglm.parallel.processes import Processes, local_part, processes
from openglm.runtime import choose_dtype, keep_freed_memory, progress, say
from openglm.text.tokenizer import Tokenizer
from openglm.train.interrupt import StopRequest, signals_held, stop_requests
from openglm.train.log import Log
from openglm.train.loss import step_flops
from openglm.train.optimizer import Optimizers, learning_rate
from openglm.train.passes import Batch, Passes, PipelinedPasses, WholePasses
from openglm.train.stability import Act, Guard, unscale
from openglm.train.state import Saver, State, check_settings, find_checkpoint, go_back, locked, read_record, restore


class Rows(Protocol):
    """Where rows come from: `data.mixture.Mixture`, or anything like it."""

    fingerprint: str

    def row(self, index: int) -> Row: ...


@dataclass(frozen=True)
class Result:
    """Where a run stands when `train` returns."""

    step: int
    finished: bool
    """False: asked to stop; the same call goes on from here"""
    heldout: dict[str, float]
    """last held-out loss of each source, in nats a token"""
    model: Path | None
    """folder of the finished model"""


@dataclass(frozen=True)
class _Run:
    """What stays fixed while a run trains."""

    train: TrainConfig
    optimizer: OptimizerConfig
    parallel: ParallelConfig
    group: Processes
    rows: Rows
    heldout: dict[str, Rows]
    tokenizer: Tokenizer | None
    settings: dict[str, Any]
    workers: int
    stop: StopRequest
    log: Log | None
    """None but in the first process"""
    saver: Saver
    on_step: Callable[[int, dict[str, Any]], None] | None

    @property
    def out(self) -> Path:
        return Path(self.train.out)

    @property
    def own_rows(self) -> int:
        """Rows of a step that fall to this process."""
        return self.train.batch_rows // self.group.size("data")


def train(
    model_config: ModelConfig | None,
    train: TrainConfig,
    optimizer: OptimizerConfig,
    rows: Rows,
    heldout: dict[str, Rows],
    tokenizer: Tokenizer | None = None,
    init_from: str | None = None,
    settings: dict[str, Any] | None = None,
    workers: int = 0,
    on_step: Callable[[int, dict[str, Any]], None] | None = None,
    parallel: ParallelConfig | None = None,
    stability: StabilityConfig | None = None,
) -> Result:
    """Train in the folder `train.out` until `train.steps`, or until a signal or a stop file; called again, it goes on from the last whole checkpoint.

    model_config: None takes that of `init_from`, a model's folder to start from. settings: further options that the caller made rows
    from; they are kept and held to at a resume. workers: processes that prepare rows. on_step(step, record) sees every step; record["act"] says what the guard did about it.
    Raises ValueError in one line for options that do not fit, a folder in use or not writable, and for trouble that `stability` says to stop at.
    """
    parallel, stability = parallel or ParallelConfig(), stability or StabilityConfig()
    start = load_model(init_from, device="cpu", dtype="float32") if init_from else None
    model_config = model_config or (start.config if start else None)
    require(model_config is not None, "model", None, "give a shape, or a model to start from (init_from)")
    require(
        start is None or start.config == model_config,
        "init_from",
        init_from,
        "has another shape than model.*; leave those options out",
    )
    require(
        train.seq_len <= model_config.max_positions,
        "train.seq_len",
        train.seq_len,
        f"longer than model.max_positions ({model_config.max_positions})",
    )
    settings = {
        "parallel": parallel,
        "stability": stability,
        "init_from": init_from,
        **(settings or {}),
        "rows": rows.fingerprint,
    }
    settings = {"model": model_config, "train": train, "optimizer": optimizer, **settings}
    out = Path(train.out)
    with processes(parallel, train.device) as group, ExitStack() as held:
        if group.device.type == "cpu":
            keep_freed_memory()
        check_layout(parallel, model_config, group, train.batch_rows, train.accumulation)
        whole = parallel.tensor == parallel.pipeline == 1
        require(
            whole or not train.sample_every,
            "train.sample_every",
            train.sample_every,
            "a sample needs the whole model in a process; set it to 0",
        )
        found, record = group.tell(lambda: _take_folder(held, out, settings))
        stop = held.enter_context(stop_requests(out))
        state = _fresh_state(model_config, train, optimizer, parallel, stability, group, start, record)
        if found:
            restore(Path(found), state, record)
        log = Log(out, state.step, state.lines) if group.first else None
        saver = Saver(out, train.keep, group)
        try:
            return _drive(
                _Run(
                    train,
                    optimizer,
                    parallel,
                    group,
                    rows,
                    heldout,
                    tokenizer,
                    settings,
                    workers,
                    stop,
                    log,
                    saver,
                    on_step,
                ),
                state,
            )
        except RuntimeError as error:  # torch raises this wherever the main process happens to be when a worker dies, and not only while it waits for rows
            if "DataLoader worker" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"data.workers = {workers}: a process that prepares rows died ({reason}); the same command goes on from the last checkpoint"
            ) from error
        finally:
            if log:
                log.close()


def _take_folder(held: ExitStack, out: Path, settings: dict[str, Any]) -> tuple[str | None, dict[str, Any] | None]:
    """Lock the run's folder and write its configuration; the newest whole checkpoint and its record, if there is one."""
    held.enter_context(locked(out))
    found = find_checkpoint(out)
    record = read_record(found) if found else None
    if record:
        check_settings(record, settings)
    write_file(
        out / "config.json",
        json.dumps(
            {name: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for name, v in settings.items()},
            indent=1,
        )
        + "\n",
    )
    return str(found) if found else None, record


def _fresh_state(
    config: ModelConfig,
    train: TrainConfig,
    optimizer: OptimizerConfig,
    parallel: ParallelConfig,
    stability: StabilityConfig,
    group: Processes,
    start: Transformer | None,
    record: dict[str, Any] | None,
) -> State:
    # A probe's answer may differ between two calls and two processes; the first one holds for all and for the whole run.
    asked = record["dtype"] if record and train.dtype == "auto" else train.dtype
    dtype = getattr(torch, group.tell(lambda: str(choose_dtype(asked, group.device)).removeprefix("torch.")))
    guard = Guard(stability, train.batch_rows, dtype == torch.float16, config.embedding_gradient_shrink)
    unit = group.size("data") if parallel.pipeline == 1 else train.batch_rows // train.accumulation
    for name in ("ramp_from", "ramp_step") if stability.ramp_from else ():
        require(
            getattr(stability, name) % unit == 0,
            f"stability.{name}",
            getattr(stability, name),
            f"must be a multiple of {unit}, the rows that pass through at once",
        )
    torch.manual_seed(train.seed)
    given = dict(start.named_parameters()) if start else {}
    weights = (lambda name, _: given[name]) if start else initial_weights(config, train.seed)
    pieces = spread(config, parallel, group, dtype, weights)
    for piece in pieces:
        piece.train().activation_checkpointing = train.activation_checkpointing
        if train.compile:
            for block in piece.blocks:
                block.compile()
    ema = {name: parameter.detach().clone() for name, parameter in named_parameters(pieces)} if train.ema else None
    products = torch.float32 if dtype == torch.float16 else dtype  # small gradients would vanish in half precision
    return State(pieces, Optimizers(named_parameters(pieces), optimizer, products, group), ema, dtype, group, guard)


def _passes(run: _Run, state: State) -> Passes:
    micro_rows = run.own_rows // run.train.accumulation
    if run.parallel.pipeline > 1:
        return PipelinedPasses(state.pieces, run.parallel, run.group, state.dtype, micro_rows)
    return WholePasses(state.pieces[0], run.group, state.dtype, micro_rows, run.parallel.zero)


def _drive(run: _Run, state: State) -> Result:
    steps, saved, passes = run.train.steps, state.step, _passes(run, state)
    first, planned = run.group.first, state.guard.planned(steps)
    if state.step and first:
        say(f"resuming at step {state.step} of {steps} in {run.out}")
    with progress("train", steps - state.step, "steps", first) as bar, closing(_Feed(run, state.guard)) as feed:
        heldout = _between_steps(run, state, passes, bar)
        while state.step < steps and (record := _step(run, state, passes, feed, planned)):
            _report(run, state, record, bar)
            if state.step < record["step"]:  # went back
                saved = state.step
                continue
            if state.step % run.train.save_every == 0 or state.step == steps:
                saved = _save(run, state)
            heldout = _between_steps(run, state, passes, bar) or heldout
        if saved != state.step:
            _save(run, state)
    run.saver.finish()
    if state.step < steps:
        if first:
            say(
                f"stopped by {run.stop.requested or 'another process'} at step {state.step} of {steps}; saved in {run.out}. The same command goes on from there"
            )
        return Result(state.step, False, heldout, None)
    return Result(state.step, True, heldout, Path(run.group.tell(lambda: str(_publish(run, state)))))


def _save(run: _Run, state: State) -> int:
    state.lines = run.log.lines if run.log else 0
    if state.step % run.train.save_every == 0:
        state.guard.saved()
    run.saver.save(state, run.settings)
    return state.step


def _publish(run: _Run, state: State) -> Path:
    """The model's folder, from the last checkpoint: whatever the layout, it is whole there."""
    tensors = whole_tensors(
        run.out / "checkpoints" / f"step-{state.step:08d}", "average" if state.ema is not None else "weights"
    )
    return write_model(run.out / "model", state.config, tensors, run.tokenizer)


class _Feed:
    """This process's share of the batches of a run, prepared ahead; where the data cursor has jumped, they are opened again."""

    def __init__(self, run: _Run, guard: Guard) -> None:
        self.run, self.guard, self.stream, self.at = run, guard, None, (-1, 0)

    def take(self, start: int) -> Batch:
        jumped = self.guard.memory.jumped
        if (
            (start, jumped) != self.at
        ):  # what was jumped over counts in the size of batches, also where the next is the one that would have come
            self.close()
            self.stream = _stream(self.run, self.run.rows, start, self.guard.rows_at, self.run.workers)
        self.at = start + self.guard.rows_at(start), jumped
        return next(self.stream)

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()


def _stream(run: _Run, rows: Rows, start: int, size: int | Callable[[int], int], workers: int) -> Iterator[Batch]:
    """This process's share of the batches of `size` rows, in order. The loader draws a seed when it starts; training's own random numbers must not notice."""
    share = run.group.rank("data"), run.group.size("data")
    with closing(batches(rows, start, size, workers, share)) as stream:
        with torch.random.fork_rng(devices=[]), signals_held():
            first = next(stream)
        yield first
        yield from stream


def _step(run: _Run, state: State, passes: Passes, feed: _Feed, planned: float) -> dict[str, Any] | None:
    """One optimizer step, or what the guard does instead; returns its record, or None when somebody asked to stop. Raises ValueError if the guard says stop."""
    started, guard, scale = time.perf_counter(), state.guard, state.guard.memory.scale
    if run.group.mesh is None and run.stop.requested:
        return None
    size, batch = guard.rows_at(state.rows), feed.take(state.rows)
    trained = float(batch["loss_mask"].sum(dtype=np.float64)) if run.group.counts else 0.0
    total, stop = run.group.sum(trained, bool(run.stop.requested))
    if stop:
        return None
    for piece in state.pieces:
        piece.embedding_gradient_shrink = guard.shrink(state.step + 1)
    loss = passes.gradient(batch, max(total, 1.0) / scale)
    loss_sum = run.group.sum(loss if run.group.counts else 0.0)[0]
    unscale((p for _, p in named_parameters(state.pieces)), scale)
    norm = state.optimizers.clip()
    rate = learning_rate(guard.progress(state.rows + size), planned, run.optimizer)
    record = {
        "step": state.step + 1,
        "loss": loss_sum / max(total, 1.0),
        "lr": rate,
        "grad_norm": norm,
        "trained": total,
        "rows": size,
    }
    if act := guard.judge(record["loss"], norm):
        record["act"] = _obey(run, state, act, state.rows + size)
    else:
        state.optimizers.step(rate)
        state.step, state.rows = state.step + 1, state.rows + size
        _average(state, run.train.ema)
        state.window["loss"] += loss_sum
        state.window["trained"] += total
    return {**record, "seconds": time.perf_counter() - started}


def _obey(run: _Run, state: State, act: Act, end: int) -> dict[str, Any]:
    """Leave out the batch that ends before row `end`, or go back and jump over all rows up to there. Returns what was done, for the log."""
    if act.do == "stop":
        raise ValueError(
            f"step {state.step + 1}: {act.why}; nothing of this step was kept and the last checkpoint in {run.out} is good. "
            f"Lower optimizer.lr ({run.optimizer.lr:g}), set stability.policy to skip or rollback, or look at rows {state.rows} and following"
        )
    for piece in state.pieces:
        piece.zero_grad(set_to_none=True)
    start, memory, folder = state.rows, state.guard.memory, None
    if act.do == "rollback":
        run.saver.wait()
        folder = run.group.tell(lambda: (found := go_back(run.out, run.train.save_every, act.below)) and str(found))
    if folder is None:  # no way back, or none wanted
        state.step, state.rows = state.step + 1, end
        return {"do": "scale" if act.do == "scale" else "skip", "why": act.why, "rows": [start, end]}
    restore(Path(folder), state, read_record(Path(folder)))
    start, state.rows = state.rows, end
    state.guard.went_back(memory.acts, state.step, end - start)
    return {"do": act.do, "why": act.why, "rows": [start, end], "to": state.step}


def _average(state: State, decay: float) -> None:
    """Running average of the weights; the decay grows to its value so that the random start is soon forgotten."""
    if state.ema is None:
        return
    decay = min(decay, (1 + state.step) / (10 + state.step))
    torch._foreach_lerp_(
        [local_part(a) for a in state.ema.values()],
        [local_part(p.detach()) for _, p in named_parameters(state.pieces)],
        1 - decay,
    )


def _report(run: _Run, state: State, record: dict[str, Any], bar: Any) -> None:
    run.saver.report()
    tokens = record["rows"] * run.train.seq_len
    flops = step_flops(state.config, run.train.seq_len, tokens, int(record["trained"]))
    speed = {"tokens_per_s": tokens / record["seconds"], "gflops": flops / record["seconds"] / 1e9}
    bar(
        state.step - record["step"] + 1,
        f"loss {record['loss']:.3f}  {speed['tokens_per_s']:,.0f} tokens/s  {speed['gflops']:,.0f} GFLOP/s",
    )
    if run.on_step is not None:
        run.on_step(state.step, {**record, **speed})
    if "act" in record:
        if run.log:
            run.log.write({"step": record["step"], "act": record["act"]})
            bar.print(f"step {record['step']}  {_said(record['act'])}")
        return
    if state.window["trained"] and (state.step % run.train.log_every == 0 or state.step == run.train.steps):
        mean = state.window["loss"] / state.window["trained"]
        line = {
            "step": state.step,
            "loss": mean,
            "lr": record["lr"],
            "grad_norm": record["grad_norm"],
            "tokens": (state.rows - state.guard.memory.jumped) * run.train.seq_len,
        }
        if run.log:
            run.log.write({**line, "wall": {**speed, "seconds": run.log.lap()}})
        state.window = {"loss": 0.0, "trained": 0.0}


def _said(act: dict[str, Any]) -> str:
    first, end = act["rows"]
    done = f"back to the checkpoint of step {act['to']}, past rows" if "to" in act else "left out rows"
    return f"{act['why']}: {done} {first} to {end - 1}"


def _between_steps(run: _Run, state: State, passes: Passes, bar: Any) -> dict[str, float]:
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


def _heldout_loss(run: _Run, passes: Passes, rows: Rows) -> float | None:
    """Mean loss of the first eval_rows rows, or a few more so that all processes have as many; None when a stop is asked for meanwhile."""
    loss, trained, size = 0.0, 0.0, run.train.batch_rows
    if run.parallel.pipeline == 1:  # a pipeline takes as many as in training
        shares = run.group.size("data")
        size = min(size, math.ceil(run.train.eval_rows / shares) * shares)
    with closing(_stream(run, rows, 0, size, 0)) as stream:
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
