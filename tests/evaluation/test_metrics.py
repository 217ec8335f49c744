"""Figures against definitions that are computed in another way, or by others' code."""

import itertools
import math
import random

import numpy as np
import pytest

from openglm.evaluation import metrics


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_all_choices_of_k_programs_with_a_right_one(count):
    """HumanEval's definition, counted over each of them."""
    for right in range(count + 1):
        programs = [True] * right + [False] * (count - right)
        for k in range(1, count + 1):
            drawn = list(itertools.combinations(programs, k))
            assert metrics.pass_at_k(count, right, k) == pytest.approx(sum(map(any, drawn)) / len(drawn), abs=1e-12)


def test_calibration_by_hand():
    """Two bins of two: sure of .55 on average and never right; sure of .85 and right once in two."""
    found = metrics.calibration_error([0.9, 0.5, 0.8, 0.6], [1, 0, 0, 0], bins=2)
    assert found == pytest.approx((abs(0.55 - 0) + abs(0.85 - 0.5)) / 2)
    assert metrics.selective_accuracy([0.9, 0.5, 0.8, 0.6], [1, 0, 0, 0], share=0.25) == 1.0


def test_calibration_equals_scikit_learns_curve_of_quantiles():
    calibration = pytest.importorskip("sklearn.calibration")
    dice = np.random.default_rng(4)
    sure = dice.random(1000)
    right = (dice.random(1000) < sure**2).astype(float)
    accuracy, confidence = calibration.calibration_curve(right, sure, n_bins=10, strategy="quantile")
    assert metrics.calibration_error(sure, right) == pytest.approx(np.abs(accuracy - confidence).mean(), abs=1e-9)


def test_the_standard_error_is_lm_evals():
    theirs = pytest.importorskip("lm_eval.api.metrics")
    for values in ([1.0, 0.0, 0.0, 1.0, 1.0], [0.2, 0.9, 0.4], [1.0, 1.0]):
        assert metrics.mean(values)["stderr"] == pytest.approx(theirs.mean_stderr(values))


@pytest.mark.parametrize(("right", "count"), [(0, 10), (3, 40), (40, 40), (164, 328)])
def test_an_interval_of_shares_holds_just_those_that_do_not_contradict_the_count(right, count):
    """Wilson's ends are the shares p at which the count lies 1.96 standard deviations from what p leads to expect."""
    found = metrics.mean([1.0] * right + [0.0] * (count - right))
    for end in (found["low"], found["high"]):
        if 0 < end < 1:
            assert abs(right / count - end) / math.sqrt(end * (1 - end) / count) == pytest.approx(1.959964, rel=1e-5)
    assert found["low"] <= found["value"] <= found["high"]


def test_shuffled_signs_are_all_counted_where_there_are_few():
    """Of the 16 ways to sign four equal differences, two are as far from zero as the one at hand."""
    found = metrics.paired([0, 0, 0, 0, 1], [1, 1, 1, 1, 1])
    assert found["value"] == pytest.approx(0.8) and found["p"] == pytest.approx(2 / 16, abs=0.02)
    dice = random.Random(1)
    same = [float(dice.random() < 0.5) for _ in range(50)]
    assert metrics.paired(same, same)["p"] == 1.0
