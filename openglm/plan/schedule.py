"""Discrete simulation of a pipeline: who computes what when.

A stage works through a fixed list of passes and waits for what each needs from its neighbours. This is the slow version
of the bubble formula in cost.py and of the waiting micro-batches in memory.py. Communication takes no time here.
"""

from typing import NamedTuple


class Pass(NamedTuple):
    """`kind` is F (forward), B (backward, or its half that makes the gradient of the input) or W (the half that makes
    the gradient of the weights)."""

    kind: str
    micro: int
    chunk: int


class Span(NamedTuple):
    stage: int
    work: Pass
    start: float
    end: float


def order(schedule: str, stage: int, stages: int, micros: int, chunks: int = 1) -> list[Pass]:
    """The passes of one stage, in order."""
    forward = [_pass("F", k, stages, chunks) for k in range(micros * chunks)]
    backward = [_pass("B", k, stages, chunks) for k in range(micros * chunks)]
    if schedule == "gpipe":
        return forward + backward
    ahead = 2 * (stages - stage - 1) + (chunks - 1) * stages if schedule == "interleaved" else stages - stage - 1
    ahead = min(ahead, len(forward))
    passes = forward[:ahead]
    waiting: list[Pass] = []  # backward passes whose weight gradients are still to be made
    for k, back in enumerate(backward):
        passes += forward[ahead + k : ahead + k + 1] + [back]
        if schedule == "zero-bubble":
            waiting.append(back._replace(kind="W"))
            if (
                len(waiting) > stage
            ):  # ZB-H1 (Qi et al. 2023): later stages put off more, as much memory as 1F1B's first stage needs
                passes.append(waiting.pop(0))
    return passes + waiting


def _pass(kind: str, k: int, stages: int, chunks: int) -> Pass:
    """The k-th pass of a kind: `stages` micro-batches go through one chunk, then the same through the next
    (Megatron-LM's interleaving)."""
    if chunks == 1:
        return Pass(kind, k, 0)
    group, inside = divmod(k, stages * chunks)
    chunk = inside // stages
    return Pass(kind, group * stages + inside % stages, chunk if kind == "F" else chunks - 1 - chunk)


def needs(work: Pass, stage: int, stages: int, chunks: int) -> tuple[int, Pass] | None:
    """The pass, and its stage, whose result `work` waits for."""
    piece, last = work.chunk * stages + stage, stages * chunks - 1
    if work.kind == "F":
        return None if piece == 0 else ((piece - 1) % stages, work._replace(chunk=(piece - 1) // stages))
    if work.kind == "W":
        return stage, work._replace(kind="B")
    return (
        (stage, work._replace(kind="F"))
        if piece == last
        else ((piece + 1) % stages, work._replace(chunk=(piece + 1) // stages))
    )


def simulate(schedule: str, stages: int, micros: int, chunks: int = 1, backward: float = 2.0) -> list[Span]:
    """All passes with their times, in forward passes of a micro-batch on a whole stage; `backward` is that of the
    backward pass. Gradients of weights take as long as a forward pass."""
    length = {"F": 1 / chunks, "B": (backward - (schedule == "zero-bubble")) / chunks, "W": 1.0}
    todo = [order(schedule, stage, stages, micros, chunks) for stage in range(stages)]
    free, at = [0.0] * stages, [0] * stages
    done: dict[tuple[int, Pass], float] = {}
    spans: list[Span] = []
    while any(at[s] < len(todo[s]) for s in range(stages)):
        before = len(spans)
        for s in range(stages):
            while at[s] < len(todo[s]):
                work = todo[s][at[s]]
                need = needs(work, s, stages, chunks)
                if need is not None and need not in done:
                    break
                start = max(free[s], done[need] if need else 0.0)
                free[s] = done[s, work] = start + length[work.kind]
                spans.append(Span(s, work, start, free[s]))
                at[s] += 1
        assert len(spans) > before, (
            f"{schedule} with {stages} stages, {micros} micro-batches and {chunks} chunks waits for itself"
        )
    return spans


def idle_share(spans: list[Span]) -> float:
    """Share of all stages' time, from the first pass to the last, in which they wait."""
    stages, end = 1 + max(span.stage for span in spans), max(span.end for span in spans)
    return 1 - sum(span.end - span.start for span in spans) / (stages * end)
