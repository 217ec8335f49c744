"""Figures over questions, each with how sure it is. Pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

_Z = 1.959964  # 95 %


def mean(values: Sequence[float]) -> dict[str, float]:
    """The mean of scores, its standard error as lm-eval counts it, and its 95 % interval from `low` to `high`. The
    interval is Wilson's (1927) where all are 0 or 1, for there the usual one is empty when all are alike."""
    found = np.asarray(values, float)
    count, value = len(found), float(found.mean())
    stderr = float(found.std(ddof=1) / math.sqrt(count)) if count > 1 else 0.0
    low, high = value - _Z * stderr, value + _Z * stderr
    if set(found.tolist()) <= {0.0, 1.0}:
        scale = 1 + _Z**2 / count
        middle = (value + _Z**2 / (2 * count)) / scale
        half = _Z / scale * math.sqrt(value * (1 - value) / count + _Z**2 / (4 * count**2))
        low, high = max(0.0, middle - half), min(1.0, middle + half)
    return {"value": value, "stderr": stderr, "low": low, "high": high}


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that one of k programs drawn from these is right (Chen et al. 2021, equation 1), unbiased."""
    if samples - right < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / n for n in range(samples - right + 1, samples + 1))


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = 10) -> list[dict[str, float]]:
    """Bins of equally many answers, from the least to the most confident, as HELM cuts them: a reliability diagram."""
    order = np.argsort(np.asarray(confidence, float), kind="stable")
    sure, right = np.asarray(confidence, float)[order], np.asarray(correct, float)[order]
    pieces = zip(np.array_split(sure, bins), np.array_split(right, bins), strict=True)
    return [{"confidence": float(s.mean()), "accuracy": float(r.mean()), "items": len(s)} for s, r in pieces if len(s)]


def calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error over bins of equal mass: by how much confidence misses accuracy."""
    found = reliability(confidence, correct, bins)
    return sum(b["items"] * abs(b["confidence"] - b["accuracy"]) for b in found) / sum(b["items"] for b in found)


def selective_accuracy(confidence: ArrayLike, correct: ArrayLike, share: float = 0.1) -> float:
    """Accuracy of the most confident share of answers (HELM: 10 %)."""
    order = np.argsort(-np.asarray(confidence, float), kind="stable")
    kept = np.asarray(correct, float)[order][: max(1, int(share * len(order)))]
    return float(kept.mean())


def paired(first: Sequence[float], second: Sequence[float], rounds: int = 10_000) -> dict[str, float]:
    """By how much the second scores more on the same questions, and `p`, how often a difference as large comes by chance
    where there is none: the signs of the differences are shuffled."""
    gaps = np.asarray(second, float) - np.asarray(first, float)
    apart = gaps[gaps != 0]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (rounds, len(apart)))
    chance = np.abs(signs @ apart) >= abs(apart.sum()) - 1e-9
    found = mean(gaps.tolist())
    half = _Z * found["stderr"]
    ends = {"low": found["value"] - half, "high": found["value"] + half}
    return {**found, **ends, "p": (1 + int(chance.sum())) / (1 + rounds)}
