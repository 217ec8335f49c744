"""Speed of whole steps on the CPU kernels, for a named shape with random weights: a prompt, one answer, several answers at once; and where the time goes.

    python benchmarks/steps.py glm-4-0.4b [--bits 4] [--context 512] [--requests 1 8] [--rounds 30] [--profile] [--plot one_answer.png]

Each figure is the median of the rounds, with the best beside it. The picture shows one answer's step by operation, beside
the time that reading the operation's weights, keys and values takes at the speed of a plain pass over memory.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from measure import seconds

from openglm.cli.bench import random_model
from openglm.config import EngineConfig
from openglm.engine.native import NativeRunner, unsupported_reason
from openglm.engine.step import Step
from openglm.kernels import library as lib
from openglm.presets import model_preset

KINDS = ("embed", "norm", "linear", "rotary", "attend", "gather")


def step_of(sequences: int, new: int, cached: int, room: int) -> Step:
    blocks = -(-room // 16)
    ids = np.arange(sequences * new, dtype=np.int32) % 1000
    position = np.tile(np.arange(cached, cached + new, dtype=np.int32), sequences)
    tables = np.arange(sequences * blocks, dtype=np.int32).reshape(sequences, blocks)
    each = np.ones(sequences, np.int32)
    return Step(
        ids,
        np.stack([position, position * 0]),
        each * new,
        each * cached,
        each * 0,
        tables,
        (np.cumsum(each * new) - 1).astype(np.int32),
        each * 0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--requests", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--kv-dtype", default="auto")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--plot", help="picture to write")
    o = parser.parse_args()
    torch.set_num_threads(1)
    config = model_preset(o.shape, **({"layers": o.layers} if o.layers else {}))
    model, engine = random_model(config, f"int{o.bits}"), EngineConfig(kv_dtype=o.kv_dtype)
    assert unsupported_reason(model, engine) is None, unsupported_reason(model, engine)
    room = o.context + 16
    runner = NativeRunner(model, engine, max(o.requests) * -(-room // 16), keep_weights=False)
    matrices = {id(op.matrix.contents): op.matrix.contents for op in runner.program._ops if op.kind == lib.LINEAR}
    size = sum(map(packed_bytes, matrices.values()))
    memory = runner.arena.take(512 << 20).fill_(1)
    reading = lambda: runner.program.library.glm_read(memory.data_ptr(), memory.numel())  # noqa: E731
    read = memory.numel() / min(seconds(reading) for _ in range(5))
    print(f"{o.shape}: {size / 1e6:.0f} MB of weights read a token; reading memory {read / 1e9:.1f} GB/s")
    for sequences, new, cached in ((1, o.context, 0), *((r, 1, o.context) for r in o.requests)):
        step = step_of(sequences, new, cached, room)
        times, durations = measure(runner, step, o.rounds if new == 1 else max(3, o.rounds // 10))
        median, best, rate = np.median(times), min(times), sequences * new
        what = f"prompt of {new}" if new > 1 else f"{sequences} requests at {cached}"
        print(
            f"{what:22s} {rate / median:7.1f} tokens/s (best {rate / best:7.1f}), {1e3 * median:8.2f} ms, weights at {size / median / 1e9:5.2f} GB/s",
            flush=True,
        )
        if o.profile:
            total = dict.fromkeys(KINDS, 0.0)
            for op, ns in zip(runner.program._ops, durations.min(0), strict=True):
                total[KINDS[op.kind]] += ns / 1e6
            print(
                f"   undisturbed {sum(total.values()):.2f} ms: " + ", ".join(f"{k} {v:.2f}" for k, v in total.items()),
                flush=True,
            )
        if o.plot and rate == 1:
            plot(by_operation(runner, np.median(durations, 0), o.context), read, o, cached)


def measure(runner: NativeRunner, step: Step, rounds: int) -> tuple[list[float], np.ndarray]:
    """Seconds of each round, and nanoseconds of each operation in each: on a busy machine the fewest are the better view."""
    runner.program.profile()
    times, durations = [], []
    for _ in range(rounds):
        times.append(seconds(lambda: runner.run(step)))
        durations.append(runner.program.durations)
    return times, np.array(durations)


def packed_bytes(matrix: lib.Matrix) -> int:
    return lib.load().glm_packed_bytes(matrix.kind, matrix.rows, matrix.columns, matrix.block)


def by_operation(runner: NativeRunner, durations: np.ndarray, context: int) -> dict[str, list[float]]:
    """Microseconds and bytes read of one step, by operation, products by the shape of their matrix."""
    cache, found = runner.paged.data, {}
    per_token = cache[0, 0].nbytes / lib.PANEL
    for op, ns in zip(runner.program._ops, durations, strict=True):
        name, read = KINDS[op.kind], context * per_token if op.kind == lib.ATTEND else 0
        if op.kind == lib.LINEAR:
            matrix = op.matrix.contents
            name, read = f"product {matrix.rows} x {matrix.columns}", packed_bytes(matrix)
        entry = found.setdefault(name, [0.0, 0.0])
        entry[0] += ns / 1e3
        entry[1] += read
    return found


def plot(found: dict[str, list[float]], bandwidth: float, o: argparse.Namespace, context: int) -> None:
    from matplotlib.figure import Figure

    figure = Figure((8, 0.42 * len(found) + 1.3), layout="tight")
    axis = figure.subplots()
    reading = [size / bandwidth * 1e6 for _, size in found.values()]
    times = [time for time, _ in found.values()]
    axis.barh(list(found), times, color="#2a6fb0", label=f"a step: {sum(times) / 1e3:.2f} ms")
    axis.barh(list(found), reading, height=0.3, color="#d98c3f", label=f"reading alone: {sum(reading) / 1e3:.2f} ms")
    for i, (time, read) in enumerate(zip(times, reading, strict=True)):
        axis.text(max(time, read), i, f" {time:.0f}", va="center", fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel("microseconds of a step, all layers together", fontsize=8)
    axis.set_title(
        f"{o.shape}, int{o.bits}, one answer behind {context} tokens, memory read at {bandwidth / 1e9:.1f} GB/s",
        fontsize=9,
    )
    axis.legend(fontsize=8)
    figure.savefig(o.plot, dpi=110)


if __name__ == "__main__":
    main()
