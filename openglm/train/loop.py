"""The one training loop: pre-training and fine-tuning differ only in the rows and the starting weights that they hand to it.

A step: rows of a whole batch -> forward and backward in `accumulation` parts -> clip -> optimizer -> running average. What a step
does depends on (configuration, weights, step number) alone, so a run that was killed goes on bit for bit from its last checkpoint.
Each data-parallel group of processes has its share of the rows; all agree on every step. It does not know about text, and nothing
here is meant to be inherited from.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openglm.checkpoints.durable import write_file
from openglm.checkpoints.load import load_model
from openglm.checkpoints.native import write_model
from openglm.checkpoints.sharded import whole_tensors
from openglm.config import ModelConfig, OptimizerConfig, ParallelConfig, StabilityConfig, TrainConfig, require
from openglm.model.transformer import Transformer
from openglm.parallel.apply import check_layout, initial_weights, named_parameters, spread
from openglm.parallel.processes import Processes, local_part, processes
from openglm.runtime import choose_dtype, keep_freed_memory, progress, say
from openglm.text.tokenizer import Tokenizer
from openglm.train.feed import Feed
from openglm.train.heldout import between_steps
from openglm.train.interrupt import stop_requests
from openglm.train.log import Log
from openglm.train.loss import step_flops
from openglm.train.optimizer import Optimizers, learning_rate
from openglm.train.passes import Passes, PipelinedPasses, WholePasses
from openglm.train.run import Result, Rows, Run
from openglm.train.stability import Act, Guard, unscale
from openglm.train.state import Saver, State, check_settings, find_checkpoint, go_back, locked, read_record, restore


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
                Run(
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


def _passes(run: Run, state: State) -> Passes:
    micro_rows = run.own_rows // run.train.accumulation
    if run.parallel.pipeline > 1:
        return PipelinedPasses(state.pieces, run.parallel, run.group, state.dtype, micro_rows)
    return WholePasses(state.pieces[0], run.group, state.dtype, micro_rows, run.parallel.zero)


def _drive(run: Run, state: State) -> Result:
    steps, saved, passes = run.train.steps, state.step, _passes(run, state)
    first, planned = run.group.first, state.guard.planned(steps)
    if state.step and first:
        say(f"resuming at step {state.step} of {steps} in {run.out}")
    with progress("train", steps - state.step, "steps", first) as bar, closing(Feed(run, state.guard)) as feed:
        heldout = between_steps(run, state, passes, bar)
        while state.step < steps and (record := _step(run, state, passes, feed, planned)):
            _report(run, state, record, bar)
            if state.step < record["step"]:  # went back
                saved = state.step
                continue
            if state.step % run.train.save_every == 0 or state.step == steps:
                saved = _save(run, state)
            heldout = between_steps(run, state, passes, bar) or heldout
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


def _save(run: Run, state: State) -> int:
    state.lines = run.log.lines if run.log else 0
    if state.step % run.train.save_every == 0:
        state.guard.saved()
    run.saver.save(state, run.settings)
    return state.step


def _publish(run: Run, state: State) -> Path:
    """The model's folder, from the last checkpoint: whatever the layout, it is whole there."""
    tensors = whole_tensors(
        run.out / "checkpoints" / f"step-{state.step:08d}", "average" if state.ema is not None else "weights"
    )
    return write_model(run.out / "model", state.config, tensors, run.tokenizer)


def _step(run: Run, state: State, passes: Passes, feed: Feed, planned: float) -> dict[str, Any] | None:
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


def _obey(run: Run, state: State, act: Act, end: int) -> dict[str, Any]:
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


def _report(run: Run, state: State, record: dict[str, Any], bar: Any) -> None:
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
