"""Which numbers of pipeline stages divide a network, and how many layers each stage holds."""

from __future__ import annotations

from functools import cache


def stage_layers(layers: int, stages: int) -> list[int]:
    """Layers of each stage: equal, or the ends one lighter to make room for embedding and head (GLM-130B: 70 on 8
    stages are 8, 6 x 9, 8)."""
    if layers % stages == 0 or (layers + 2) % stages:
        return [layers // stages] * stages
    inner = (layers + 2) // stages
    return [inner - 1, *[inner] * (stages - 2), inner - 1]


def stage_counts(layers: int) -> list[int]:
    """Numbers of stages that so many layers can be cut into."""
    return sorted({*divisors(layers), *(n for n in divisors(layers + 2) if n > 2)})


@cache
def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def near(numbers: list[int], wanted: int) -> str:
    """The eight allowed numbers nearest to the one that is not."""
    return ", ".join(map(str, sorted(sorted(numbers, key=lambda n: abs(n - wanted))[:8]))) or "none"
