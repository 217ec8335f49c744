"""Speed of the CPU kernels alone: bytes a second of one row times quantized weights, operations a second of many rows, beside what the machine can do.

python benchmarks/kernels.py [--rounds 20]. Each figure is the best of the rounds: whatever else runs on the machine only takes away.
The weights of one-row products are larger than the caches and are read in turn.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from measure import seconds

from openglm.kernels import library as lib
from openglm.kernels.program import Arena, Panels, Program, Weight, make_step

SHAPES = (
    (1280, 1024),
    (1024, 1024),
    (5632, 1024),
    (1024, 2816),
    (65024, 1024),
    (2560, 2048),
    (2048, 2048),
    (11264, 2048),
    (2048, 5632),
)
CACHES = 256 << 20  # bytes


def step_of(tokens: int):
    zero = np.zeros((2, tokens), np.int32)
    return make_step(
        zero[0], zero, np.array([tokens]), np.array([0]), np.array([0]), np.zeros((1, 1)), np.arange(tokens)
    )


def random_weight(rows: int, columns: int, bits: int, generator: torch.Generator) -> Weight:
    codes = torch.randint(0, 256, (rows, columns * bits // 8), dtype=torch.uint8, generator=generator)
    return Weight(
        codes if bits == 4 else codes.view(torch.int8), torch.full((rows, columns // 64), 0.01, dtype=torch.float16)
    )


def best_seconds(run, rounds: int) -> float:
    return min(seconds(run) for _ in range(rounds))


def chain(library, rows: int, columns: int, bits: int, tokens: int) -> tuple[Program, int, int]:
    """A program of as many products as it takes to leave the caches (of one, for many tokens), their number and their bytes."""
    arena, weight = Arena(library), random_weight(rows, columns, bits, torch.Generator().manual_seed(1))
    panels = [Panels(arena, [weight])]
    while tokens == 1 and len(panels) * panels[0].data.numel() < CACHES:
        panels.append(Panels(arena, [weight]))
    program = Program(library)
    source, target, result = program.buffer(columns), program.buffer(rows), program.buffer(rows)
    for each in panels:
        program.add(lib.LINEAR, source, result if each is panels[-1] else target, matrix=each)
    return program, len(panels), len(panels) * panels[0].data.numel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--tokens", type=int, nargs="*", default=[1, 8, 512])
    options = parser.parse_args()
    torch.set_num_threads(1)
    library = lib.load()
    memory = Arena(library).take(512 << 20).fill_(1)
    read = memory.numel() / best_seconds(lambda: library.glm_read(memory.data_ptr(), memory.numel()), 5)
    print(f"reading memory: {read / 1e9:.1f} GB/s")
    for tokens in options.tokens:
        for rows, columns in SHAPES:
            if tokens == 512 and rows > 20000:
                continue
            program, count, size = chain(library, rows, columns, options.bits, tokens)
            step = step_of(tokens)
            best = best_seconds(lambda: program.run(step), options.rounds)  # noqa: B023
            speed = f"{size / best / 1e9:5.1f} GB/s, {2e-9 * count * tokens * rows * columns / best:6.1f} GOP/s"
            print(f"{tokens:4d} x {columns:5d} -> {rows:5d}: {1e6 * best / count:8.1f} us, {speed}", flush=True)


if __name__ == "__main__":
    main()
