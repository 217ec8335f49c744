"""The one training loop: what differs between kinds of training is its rows, its starting weights and its objective.

A step: rows of a whole batch -> forward and backward in `accumulation` parts -> clip -> optimizer -> running average.
What a step does depends on (configuration, weights, step number) alone, so a run that was killed goes on bit for bit
from its last checkpoint.
Each data-parallel group of processes has its share of the rows; all agree on every step. It does not know about text,
and nothing here is meant to be inherited from.
"""

import dataclasses
import math
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from openglm.checkpoints.load import load_model
from openglm.checkpoints.native import write_model
from openglm.checkpoints.sharded import whole_tensors
from openglm.config import ModelConfig, RunConfig, require
from openglm.files import locked, write_json
from openglm.model.transformer import Transformer
from openglm.parallel.apply import check_layout, given_weights, initial_weights, named_parameters, parallelize, share
from openglm.parallel.processes import Processes, local_part, processes
from openglm.runtime import choose_dtype, launched, prepare_cpu, progress, say
from openglm.train.feed import Feed
from openglm.train.forward_backward import ForwardBackward, PipelinedForwardBackward, WholeForwardBackward
from openglm.train.heldout import between_steps, ended
from openglm.train.interrupt import stop_requests
from openglm.train.log import Log
from openglm.train.loss import step_flops
from openglm.train.optimizer import Optimizers, learning_rate
from openglm.train.run import Result, Run, Session
from openglm.train.stability import Action, Guard, unscale
from openglm.train.state import Saver, State, check_settings, find_checkpoint, go_back, read_record, restore


def train(run: Run) -> Result:
    """Train in the folder `train.out` until `train.steps`, or until a signal or a stop file.

    Called again, it goes on from the last whole checkpoint. Raises ValueError in one line for options that do not fit,
    a folder in use or not writable, and for an anomaly that `stability` says to stop at.
    """
    run = _with_steps(run)
    config, options = run.config, run.config.train
    start = _starting_model(run.init_from) if run.init_from and not run.adapter else None
    model = _shape(run, start)
    settings = run.settings(model)
    out = Path(options.out)
    with processes(config.parallel, options.device) as group, ExitStack() as held:
        if group.device.type == "cpu":
            prepare_cpu()
        measured = not options.patience or bool(run.heldout)
        require(measured, "train.patience", options.patience, "needs held-out data, such as data.heldout_dialogues")
        check_layout(config.parallel, model, group, options.batch_rows, options.accumulation)
        whole = config.parallel.tensor == config.parallel.pipeline == 1
        whole = whole and not (run.adapter and run.adapter.options.adapter == "prefix")
        require(
            whole or not options.sample_every,
            "train.sample_every",
            options.sample_every,
            "a sample needs the whole model in a process; set it to 0",
        )
        found, record = group.broadcast(lambda: _take_folder(held, out, settings, config))
        stop = held.enter_context(stop_requests(out))
        state = _fresh_state(run, model, group, start, record)
        start = None  # its weights have been taken over
        if found:
            restore(Path(found), state, record)
        log = Log(out, state.step, state.lines) if group.first else None
        saver = Saver(out, options.keep, group)
        session = Session(run=run, model=model, group=group, settings=settings, stop=stop, log=log, saver=saver)
        if run.attach:
            run.attach(session, state)
        try:
            return _drive(session, state)
        except RuntimeError as error:  # torch raises this wherever the main process happens to be when a worker dies, and not only while it waits for rows
            if "DataLoader worker" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"data.workers = {run.workers}: a process that prepares rows died ({reason}); the same command goes "
                "on from the last checkpoint"
            ) from error
        finally:
            if log:
                log.close()


def _with_steps(run: Run) -> Run:
    """The same run, its length counted in steps."""
    train = run.config.train
    if train.steps:
        return run
    rows = getattr(run.rows, "rows", 0)
    countable = rows > 0 and not run.config.stability.ramp_from
    require(countable, "train.steps", train.steps, "say how many; an epoch of rows or batches like these is not known")
    epochs = train.epochs or 1.0
    steps = math.ceil(epochs * rows / train.batch_rows)
    if not launched()[1]:
        say(f"train.epochs = {epochs:g}: {steps} steps; an epoch has {rows} rows, a step {train.batch_rows}")
    config = dataclasses.replace(run.config, train=dataclasses.replace(train, steps=steps, epochs=0.0))
    return dataclasses.replace(run, config=config)


def _starting_model(folder: str) -> Transformer:
    """A model to train. What training would lose is refused or said."""
    start = load_model(folder, device="cpu", dtype="float32")
    lost = "has a P-Tuning prefix, which training would drop; give the base model without it"
    require(start.prefix is None, "init_from", folder, lost)
    bits = next((module.bits for module in start.modules() if hasattr(module, "bits")), 0)
    if bits and not launched()[1]:
        say(f"init_from: int{bits} weights of {folder} are widened to float32, in which they are trained and written")
    return start


def _shape(run: Run, start: Transformer | None) -> ModelConfig:
    """The network's shape, as the run says or as the model has it that it starts from."""
    model = run.model or (start.config if start else None)
    if model is None:
        raise ValueError("model = None: give a shape, or a model to start from (init_from)")
    require(
        start is None or dataclasses.replace(start.config, score=model.score) == model,
        "init_from",
        run.init_from,
        "has another shape than model.*; leave those options out",
    )
    seq_len = run.config.train.seq_len
    require(
        seq_len <= model.max_positions,
        "train.seq_len",
        seq_len,
        f"longer than model.max_positions ({model.max_positions})",
    )
    return model


def _take_folder(
    held: ExitStack, out: Path, settings: dict[str, Any], config: RunConfig
) -> tuple[str | None, dict[str, Any] | None]:
    """Lock the run's folder and write its configuration; the newest whole checkpoint and its record, if any."""
    held.enter_context(locked(out, "train.out", "training"))
    found = find_checkpoint(out)
    record = read_record(found) if found else None
    if record:
        check_settings(record, settings, config)
    plain = {
        name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
        for name, value in settings.items()
    }
    write_json(out / "config.json", plain)
    return str(found) if found else None, record


def _fresh_state(
    run: Run,
    model: ModelConfig,
    group: Processes,
    start: Transformer | None,
    record: dict[str, Any] | None,
) -> State:
    config = run.config
    train, parallel, stability = config.train, config.parallel, config.stability
    # A probe's answer may differ between two calls and two processes; the first one holds for all and for the whole
    # run.
    asked = record["dtype"] if record and train.dtype == "auto" else train.dtype
    dtype = getattr(torch, group.broadcast(lambda: str(choose_dtype(asked, group.device)).removeprefix("torch.")))
    guard = Guard(stability, train.batch_rows, dtype == torch.float16, model.embedding_gradient_shrink)
    unit = group.size("data") if parallel.pipeline == 1 else train.batch_rows // train.accumulation
    for name in ("ramp_from", "ramp_step") if stability.ramp_from else ():
        require(
            getattr(stability, name) % unit == 0,
            f"stability.{name}",
            getattr(stability, name),
            f"must be a multiple of {unit}, the rows that pass through at once",
        )
    torch.manual_seed(train.seed)
    if run.adapter:
        pieces = [share(run.adapter.network(group.device), parallel, group, dtype)]
    else:
        weights = initial_weights(model, train.seed)
        pieces = parallelize(model, parallel, group, dtype, given_weights(start, weights) if start else weights)
    for piece in pieces:
        piece.train().activation_checkpointing = train.activation_checkpointing
        if train.compile:
            for block in piece.blocks:
                block.compile()
    ema = {name: parameter.detach().clone() for name, parameter in named_parameters(pieces)} if train.ema else None
    products = torch.float32 if dtype == torch.float16 else dtype  # small gradients would vanish in half precision
    return State(
        pieces, Optimizers(named_parameters(pieces), config.optimizer, products, group), ema, dtype, group, guard
    )


def _forward_backward(session: Session, state: State) -> ForwardBackward:
    parallel, group, objective = session.run.config.parallel, session.group, session.objective
    micro_rows = session.own_rows // session.train.accumulation
    if parallel.pipeline > 1:
        return PipelinedForwardBackward(state.pieces, parallel, group, state.dtype, micro_rows, objective)
    return WholeForwardBackward(state.pieces[0], group, state.dtype, micro_rows, parallel.zero, objective)


def _drive(session: Session, state: State) -> Result:
    steps, saved, forward_backward = session.train.steps, state.step, _forward_backward(session, state)
    first, planned = session.group.first, state.guard.planned(steps)
    if state.step and first:
        say(f"resuming at step {state.step} of {steps} in {session.out}")
    with progress("train", steps - state.step, "steps", first) as bar, closing(Feed(session, state.guard)) as feed:
        heldout = between_steps(session, state, forward_backward, bar)
        while not ended(session, state) and (record := _step(session, state, forward_backward, feed, planned)):
            _report(session, state, record, bar)
            if state.step < record["step"]:  # went back
                saved = state.step
                continue
            if state.step % session.train.save_every == 0 or state.step == steps:
                saved = _save(session, state)
            heldout = between_steps(session, state, forward_backward, bar) or heldout
        if saved != state.step:
            _save(session, state)
    session.saver.finish()
    if not ended(session, state):
        if first:
            say(
                f"stopped by {session.stop.requested or 'another process'} at step {state.step} of {steps}; saved in "
                f"{session.out}. The same command goes on from there"
            )
        return Result(state.step, False, heldout, None)
    return Result(state.step, True, heldout, Path(session.group.broadcast(lambda: str(_publish(session, state)))))


def _save(session: Session, state: State) -> int:
    state.lines = session.log.lines if session.log else 0
    if state.step % session.train.save_every == 0:
        state.guard.saved()
    session.saver.save(state, session.settings)
    return state.step


def _publish(session: Session, state: State) -> Path:
    """The model's folder, from the last or the best checkpoint: whatever the layout, it is whole there."""
    step = state.step
    if session.train.patience and "step" in state.best:
        step = int(state.best["step"])
        say(f"of {state.step} steps the held-out loss was lowest, {state.best['loss']:.4f}, after {step}: kept")
    tensors = whole_tensors(
        session.out / "checkpoints" / f"step-{step:08d}", "average" if state.ema is not None else "weights"
    )
    if session.run.adapter:
        return session.run.adapter.write(session.out.resolve() / "adapter", state.config, tensors)
    return write_model(session.out / "model", state.config, tensors, session.run.tokenizer)


def _step(
    session: Session, state: State, forward_backward: ForwardBackward, feed: Feed, planned: float
) -> dict[str, Any] | None:
    """One optimizer step, or what the guard does instead; returns its record, or None when somebody asked to stop.
    Raises ValueError if the guard says stop."""
    started, guard, scale = time.perf_counter(), state.guard, state.guard.memory.scale
    if session.group.mesh is None and session.stop.requested:
        return None
    size, batch = guard.rows_at(state.rows), feed.take(state.rows)
    trained = session.objective.count(batch) if session.group.counts else 0.0
    total, stop = session.group.sum(trained, bool(session.stop.requested))
    if stop:
        return None
    for piece in state.pieces:
        piece.embedding_gradient_shrink = guard.shrink(state.step + 1)
    sums = forward_backward.gradient(batch, max(total, 1.0) / scale)
    found = (sums.loss, *sums.metrics.values())
    loss_sum, *measured = session.group.sum(*(number if session.group.counts else 0.0 for number in found))
    unscale((p for _, p in named_parameters(state.pieces)), scale)
    norm = state.optimizers.clip()
    rate = learning_rate(guard.progress(state.rows + size), planned, session.run.config.optimizer)
    record: dict[str, Any] = {
        "step": state.step + 1,
        "loss": loss_sum / max(total, 1.0),
        "lr": rate,
        "grad_norm": norm,
        "trained": total,
        "rows": size,
    }
    if measured:
        record["metrics"] = {name: value / max(total, 1.0) for name, value in zip(sums.metrics, measured, strict=True)}
    if action := guard.judge(record["loss"], norm):
        record["act"] = _obey(session, state, action, state.rows + size)
    else:
        state.optimizers.step(rate)
        state.step, state.rows = state.step + 1, state.rows + size
        _average(state, session.train.ema)
        _remember(state, loss=loss_sum, trained=total, **dict(zip(sums.metrics, measured, strict=True)))
    return {**record, "seconds": time.perf_counter() - started}


def _remember(state: State, **sums: float) -> None:
    """Add to the sums since the last line of the log."""
    for name, value in sums.items():
        state.window[name] = state.window.get(name, 0.0) + value


def _obey(session: Session, state: State, action: Action, end: int) -> dict[str, Any]:
    """Leave out the batch that ends before row `end`, or go back and jump over all rows up to there. Returns what was
    done, for the log."""
    if action.kind == "stop":
        raise ValueError(
            f"step {state.step + 1}: {action.why}; nothing of this step was kept and the last checkpoint in "
            f"{session.out} is good. "
            f"Lower optimizer.lr ({session.run.config.optimizer.lr:g}), set stability.policy to skip or rollback, or "
            f"look at rows {state.rows} and following"
        )
    for piece in state.pieces:
        piece.zero_grad(set_to_none=True)
    start, memory, folder = state.rows, state.guard.memory, None
    if action.kind == "rollback":
        session.saver.wait()
        folder = session.group.broadcast(
            lambda: (found := go_back(session.out, session.train.save_every, action.below)) and str(found)
        )
    if folder is None:  # no way back, or none wanted
        state.step, state.rows = state.step + 1, end
        return {"do": "scale" if action.kind == "scale" else "skip", "why": action.why, "rows": [start, end]}
    restore(Path(folder), state, read_record(Path(folder)))
    start, state.rows = state.rows, end
    state.guard.went_back(memory.actions, state.step, end - start)
    return {"do": action.kind, "why": action.why, "rows": [start, end], "to": state.step}


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


def _report(session: Session, state: State, record: dict[str, Any], bar: Any) -> None:
    session.saver.report()
    tokens = record["rows"] * session.train.seq_len
    frozen = session.run.adapter is not None
    flops = step_flops(state.config, session.train.seq_len, tokens, int(record["trained"]), frozen)
    speed = {"tokens_per_s": tokens / record["seconds"], "gflops": flops / record["seconds"] / 1e9}
    bar(
        state.step - record["step"] + 1,
        f"loss {record['loss']:.3f}  {speed['tokens_per_s']:,.0f} tokens/s  {speed['gflops']:,.0f} GFLOP/s",
    )
    if session.run.on_step is not None:
        session.run.on_step(state.step, {**record, **speed})
    if "act" in record:
        if session.log:
            session.log.write({"step": record["step"], "act": record["act"]})
            bar.print(f"step {record['step']}  {_said(record['act'])}")
        return
    if state.window["trained"] and (state.step % session.train.log_every == 0 or state.step == session.train.steps):
        mean = state.window["loss"] / state.window["trained"]
        line = {
            "step": state.step,
            "loss": mean,
            "lr": record["lr"],
            "grad_norm": record["grad_norm"],
            "tokens": (state.rows - state.guard.memory.jumped) * session.train.seq_len,
        }
        if session.objective.metrics:
            line["metrics"] = {name: state.window[name] / state.window["trained"] for name in session.objective.metrics}
        if session.log:
            session.log.write({**line, "wall": {**speed, "seconds": session.log.lap()}})
        state.window = {"loss": 0.0, "trained": 0.0}


def _said(action: dict[str, Any]) -> str:
    first, end = action["rows"]
    done = f"back to the checkpoint of step {action['to']}, past rows" if "to" in action else "left out rows"
    return f"{action['why']}: {done} {first} to {end - 1}"
