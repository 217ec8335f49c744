"""The one training loop: pre-training and fine-tuning differ only in the rows and the starting weights that they hand to it.

A step: rows of a whole batch -> forward and backward in `accumulation` parts -> clip -> optimizer -> running average. What a step
does depends on (configuration, weights, step number) alone, so a run that was killed goes on bit for bit from its last checkpoint.
It does not know about text, and nothing here is meant to be inherited from.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from openglm.checkpoints.durable import write_file
from openglm.checkpoints.load import load_model
from openglm.checkpoints.native import save_model
from openglm.config import ModelConfig, OptimizerConfig, StabilityConfig, TrainConfig, require
from openglm.data.mixture import Row, batches
from openglm.model.generate import generate
from openglm.model.transformer import Transformer
from openglm.runtime import choose_device, choose_dtype, progress, say
from openglm.text.tokenizer import Tokenizer
from openglm.train.interrupt import StopRequest, signals_held, stop_requests
from openglm.train.log import Log
from openglm.train.loss import accumulate_gradient, evaluate_batch, step_flops
from openglm.train.optimizer import Optimizers, learning_rate
from openglm.train.stability import Act, Guard, unscale
from openglm.train.state import State, check_settings, find_checkpoint, go_back, locked, read_record, restore, save_checkpoint

Batch = dict[str, np.ndarray]


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
    rows: Rows
    heldout: dict[str, Rows]
    tokenizer: Tokenizer | None
    settings: dict[str, Any]
    workers: int
    stop: StopRequest
    log: Log
    on_step: Callable[[int, dict[str, Any]], None] | None

    @property
    def out(self) -> Path:
        return Path(self.train.out)

    @property
    def micro_rows(self) -> int:
        return self.train.batch_rows // self.train.accumulation


def train(
    model_config: ModelConfig | None, train: TrainConfig, optimizer: OptimizerConfig, rows: Rows, heldout: dict[str, Rows], tokenizer: Tokenizer | None = None,
    init_from: str | None = None, settings: dict[str, Any] | None = None, workers: int = 0, on_step: Callable[[int, dict[str, Any]], None] | None = None,
    stability: StabilityConfig | None = None,
) -> Result:
    """Train in the folder `train.out` until `train.steps`, or until a signal or a stop file; called again, it goes on from the last whole checkpoint.

    model_config: None takes that of `init_from`, a model's folder to start from. settings: further options that the caller made rows
    from; they are kept and held to at a resume. workers: processes that prepare rows. on_step(step, record) sees every step; with a record["act"], what the guard did about it.
    Raises ValueError in one line for options that do not fit, a folder in use or not writable, and for trouble that `stability` says to stop at.
    """
    start = load_model(init_from, device="cpu", dtype="float32") if init_from else None
    model_config = model_config or (start.config if start else None)
    require(model_config is not None, "model", None, "give a shape, or a model to start from (init_from)")
    require(start is None or start.config == model_config, "init_from", init_from, "has another shape than model.*; leave those options out")
    require(train.seq_len <= model_config.max_positions, "train.seq_len", train.seq_len, f"longer than model.max_positions ({model_config.max_positions})")
    device = choose_device(train.device)
    stability = stability or StabilityConfig()
    settings = {"model": model_config, "train": train, "optimizer": optimizer, "stability": stability, "init_from": init_from, **(settings or {}), "rows": rows.fingerprint}
    out = Path(train.out)
    with locked(out), stop_requests(out) as stop:
        found = find_checkpoint(out)
        record = read_record(found) if found else None
        if record:
            check_settings(record, settings)
        write_file(out / "config.json", json.dumps({name: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for name, v in settings.items()}, indent=1) + "\n")
        state = _fresh_state(model_config, train, optimizer, stability, device, start, record)
        if found and record:
            restore(found, state, record)
        log = Log(out, state.step, state.lines)
        try:
            return _drive(_Run(train, optimizer, rows, heldout, tokenizer, settings, workers, stop, log, on_step), state)
        except RuntimeError as error:  # torch raises this wherever the main process happens to be when a worker dies, and not only while it waits for rows
            if "DataLoader worker" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise ValueError(f"data.workers = {workers}: a process that prepares rows died ({reason}); the same command goes on from the last checkpoint") from error
        finally:
            log.close()


def _fresh_state(
    config: ModelConfig, train: TrainConfig, optimizer: OptimizerConfig, stability: StabilityConfig, device: torch.device, start: Transformer | None, record: dict[str, Any] | None,
) -> State:
    # A probe's answer may differ between two calls; the first one holds for the whole run.
    dtype = choose_dtype(record["dtype"] if record and train.dtype == "auto" else train.dtype, device)
    guard = Guard(stability, train.batch_rows, dtype == torch.float16, config.embedding_gradient_shrink)
    torch.manual_seed(train.seed)
    model = start or Transformer(config)
    if start is None:
        model.initialize()
    model = model.float().to(device).requires_grad_(True).train()
    model.activation_checkpointing = train.activation_checkpointing
    ema = {name: parameter.detach().clone() for name, parameter in model.named_parameters()} if train.ema else None
    products = torch.float32 if dtype == torch.float16 else dtype  # small gradients would vanish in half precision
    return State(model, Optimizers(model, optimizer, products), ema, dtype, guard)


def _drive(run: _Run, state: State) -> Result:
    steps, saved = run.train.steps, state.step
    planned = state.guard.planned(steps)
    forward = torch.compile(state.model) if run.train.compile else state.model
    if state.step:
        say(f"resuming at step {state.step} of {steps} in {run.out}")
    with progress("train", total=steps - state.step, unit="steps") as bar, closing(_Feed(run, state.guard)) as feed:
        heldout = _between_steps(run, state, bar)
        while state.step < steps and not run.stop.requested:
            record = _step(run, state, forward, feed, planned)
            _report(run, state, record, bar)
            if state.step < record["step"]:  # went back
                saved = state.step
                continue
            if state.step % run.train.save_every == 0 or state.step == steps:
                saved = _save(run, state)
            heldout = _between_steps(run, state, bar) or heldout
        if saved != state.step:
            _save(run, state)
    if state.step < steps:
        say(f"stopped by {run.stop.requested} at step {state.step} of {steps}; saved in {run.out}. The same command goes on from there")
        return Result(state.step, False, heldout, None)
    return Result(state.step, True, heldout, save_model(run.out / "model", state.model, run.tokenizer, weights=state.ema))


class _Feed:
    """The batches of a run, prepared ahead; where the data cursor has jumped, they are opened again."""

    def __init__(self, run: _Run, guard: Guard) -> None:
        self.run, self.guard, self.stream, self.at = run, guard, None, -1

    def take(self, start: int) -> Batch:
        if start != self.at:
            self.close()
            self.stream = _stream(self.run.rows, start, self.guard.rows_at, self.run.workers)
        batch = next(self.stream)
        self.at = start + len(batch["tokens"])
        return batch

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()


def _stream(rows: Rows, start: int, size: int | Callable[[int], int], workers: int) -> Iterator[Batch]:
    """Batches in order. The loader draws a seed when it starts; training's own random numbers must not notice."""
    with closing(batches(rows, start, size, workers)) as stream:
        with torch.random.fork_rng(devices=[]), signals_held():
            first = next(stream)
        yield first
        yield from stream


def _step(run: _Run, state: State, forward: Callable[..., Tensor], feed: _Feed, planned: float) -> dict[str, Any]:
    """One optimizer step, or what the guard does instead; returns its record. Raises ValueError before the weights are touched if the guard says stop."""
    started, guard = time.perf_counter(), state.guard
    batch = feed.take(state.rows)
    size, total = len(batch["tokens"]), float(batch["loss_mask"].sum(dtype=np.float64))
    loss, scale = torch.zeros((), device=state.device), guard.memory.scale
    state.model.embedding_gradient_shrink = guard.shrink(state.step + 1)
    for at in range(0, size, run.micro_rows):
        part = {name: array[at : at + run.micro_rows] for name, array in batch.items()}
        loss += accumulate_gradient(forward, state.model, part, max(total, 1.0) / scale, state.dtype)
    unscale(state.model.parameters(), scale)
    norm, loss_sum = float(state.optimizers.clip()), float(loss)
    rate = learning_rate(guard.progress(state.rows + size), planned, run.optimizer)
    record = {"step": state.step + 1, "loss": loss_sum / max(total, 1.0), "lr": rate, "grad_norm": norm, "trained": total, "rows": size}
    act = guard.judge(record["loss"], norm)
    if act is not None:
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
    state.model.zero_grad(set_to_none=True)
    memory = state.guard.memory
    folder = go_back(run.out, run.train.save_every, memory.back_to) if act.do == "rollback" else None
    if folder is None:  # nothing to go back to: the batch is left out
        start, state.step, state.rows = state.rows, state.step + 1, end
        return {"do": "skip" if act.do == "rollback" else act.do, "why": act.why, "rows": [start, end]}
    restore(folder, state, read_record(folder))
    start, state.rows = state.rows, end
    state.guard.went_back(memory.acts, state.step, end - start)
    return {"do": act.do, "why": act.why, "rows": [start, end], "to": state.step}


def _average(state: State, decay: float) -> None:
    """Running average of the weights; the decay grows to its value so that the random start is soon forgotten."""
    if state.ema is None:
        return
    decay = min(decay, (1 + state.step) / (10 + state.step))
    torch._foreach_lerp_(list(state.ema.values()), [p.detach() for p in state.model.parameters()], 1 - decay)


def _report(run: _Run, state: State, record: dict[str, Any], bar: Any) -> None:
    tokens = record["rows"] * run.train.seq_len
    flops = step_flops(state.model.config, run.train.seq_len, tokens, int(record["trained"]))
    speed = {"tokens_per_s": tokens / record["seconds"], "gflops": flops / record["seconds"] / 1e9}
    bar(state.step - record["step"] + 1, f"loss {record['loss']:.3f}  {speed['tokens_per_s']:,.0f} tokens/s  {speed['gflops']:,.0f} GFLOP/s")
    if run.on_step is not None:
        run.on_step(state.step, {**record, **speed})
    if "act" in record:
        run.log.write({"step": record["step"], "act": record["act"]})
        bar.print(f"step {record['step']}  {_said(record['act'])}")
        return
    if state.window["trained"] and (state.step % run.train.log_every == 0 or state.step == run.train.steps):
        mean = state.window["loss"] / state.window["trained"]
        line = {"step": state.step, "loss": mean, "lr": record["lr"], "grad_norm": record["grad_norm"], "tokens": (state.rows - state.guard.memory.jumped) * run.train.seq_len}
        run.log.write({**line, "wall": {**speed, "seconds": run.log.lap()}})
        state.window = {"loss": 0.0, "trained": 0.0}


def _said(act: dict[str, Any]) -> str:
    first, end = act["rows"]
    done = f"back to the checkpoint of step {act['to']}, past rows" if "to" in act else "left out rows"
    return f"{act['why']}: {done} {first} to {end - 1}"


def _save(run: _Run, state: State) -> int:
    state.lines = run.log.lines
    if state.step % run.train.save_every == 0:
        state.guard.saved()
    save_checkpoint(run.out, state, run.settings, run.train.keep)
    return state.step


def _between_steps(run: _Run, state: State, bar: Any) -> dict[str, float]:
    """Held-out losses and samples when they are due. They come after the checkpoint of the same step, and again when it is resumed."""
    if state.step == 0:
        return {}
    last, heldout = state.step == run.train.steps, {}
    with _averaged(state):
        if run.heldout and (last or state.step % run.train.eval_every == 0):
            heldout = {name: loss for name, rows in run.heldout.items() if (loss := _heldout_loss(run, state, rows)) is not None}
        if not run.stop.requested and heldout:
            run.log.write({"step": state.step, "heldout": heldout})
            bar.print(f"step {state.step}  held-out loss  " + "  ".join(f"{name} {loss:.4f}" for name, loss in heldout.items()))
        if run.tokenizer is not None and run.train.sample_every and state.step % run.train.sample_every == 0:
            for name, rows in run.heldout.items():
                text = _sample(state, run.tokenizer, rows)
                bar.print(f"step {state.step}  {name}: {text}")
                run.log.text(state.step, f"sample/{name}", text)
    return heldout


@contextmanager
def _averaged(state: State) -> Iterator[None]:
    """Inside the block the model has the averaged weights (if any are kept) and is in evaluation mode."""
    parameters = dict(state.model.named_parameters())
    own = {name: parameter.data for name, parameter in parameters.items()}
    state.model.eval()
    try:
        for name, average in (state.ema or {}).items():
            parameters[name].data = average
        yield
    finally:
        for name, weights in own.items():
            parameters[name].data = weights
        state.model.train()


def _heldout_loss(run: _Run, state: State, rows: Rows) -> float | None:
    """Mean loss of the first eval_rows rows; None when a stop is asked for meanwhile."""
    loss, trained, size = 0.0, 0.0, min(run.micro_rows, run.train.eval_rows)
    with closing(_stream(rows, 0, size, 0)) as stream:
        for batch in itertools.islice(stream, math.ceil(run.train.eval_rows / size)):
            if run.stop.requested:
                return None
            loss += float(evaluate_batch(state.model, batch, state.dtype))
            trained += float(batch["loss_mask"].sum(dtype=np.float64))
    return loss / max(trained, 1.0)


def _sample(state: State, tokenizer: Tokenizer, rows: Rows) -> str:
    """What the model puts where the first held-out row has its first blank or answer, shown after the end of its context."""
    row = rows.row(0)
    trained = row.loss_mask.nonzero()[0]
    if len(trained) == 0:
        return "(a row without a blank)"
    prompt = torch.from_numpy(row.tokens[: trained[0] + 1])[None]
    room = min(48, state.model.config.max_positions - prompt.shape[1])
    ids = generate(state.model, prompt, room, temperature=0.8, seed=state.step, stop_ids=state.model.config.tokens.stop)
    context, answer = tokenizer.decode(prompt[0, -48:].tolist(), skip_special=False), tokenizer.decode(ids[0, prompt.shape[1] :].tolist(), skip_special=False)
    return f"… {context} ⟨{answer}⟩".replace("\n", " ")


