"""The simulated pipeline: the passes it makes, and the formulas that stand for it."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.plan.cost import bubble
from openglm.plan.devices import device
from openglm.plan.layout import Job, Layout
from openglm.plan.memory import in_flight
from openglm.plan.schedule import Span, idle_share, needs, simulate
from openglm.presets import model_preset

PIPELINES = st.tuples(
    st.sampled_from(["gpipe", "1f1b", "interleaved", "zero-bubble"]),
    st.integers(2, 8),
    st.integers(1, 4),
    st.integers(2, 4),
)


def shape(drawn):
    """Schedule, stages, micro-batches (at least as many as stages) and chunks."""
    schedule, stages, rounds, chunks = drawn
    return schedule, stages, stages * rounds, chunks if schedule == "interleaved" else 1


def most_waiting(spans: list[Span], stage: int, chunks: int = 1) -> float:
    """Micro-batches whose activations a stage holds at its fullest: from their forward pass to the last pass that needs
    them."""
    last = "W" if any(span.work.kind == "W" for span in spans) else "B"
    own = [span for span in spans if span.stage == stage]
    changes = sorted(
        [(span.start, 1) for span in own if span.work.kind == "F"]
        + [(span.end, -1) for span in own if span.work.kind == last]
    )
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most / chunks


@settings(max_examples=60, deadline=None)
@given(PIPELINES, st.booleans())
def test_the_bubble_formula_is_the_simulation(drawn, recompute):
    schedule, stages, micros, chunks = shape(drawn)
    layout = Layout(1, 1, stages, schedule=schedule, chunks=chunks, recompute="full" if recompute else "none")
    spans = simulate(schedule, stages, micros, chunks, backward=3.0 if recompute else 2.0)
    assert idle_share(spans) == pytest.approx(bubble(layout, micros))


@pytest.mark.parametrize("tensor,devices,micros", [(4, 32, 176), (8, 64, 48), (1, 16, 5)])
def test_the_bubble_of_glm_130b(tensor, devices, micros):
    """(n/t - 1) / (n/t - 1 + m), arXiv 2210.02414, section 2.3."""
    stages = devices // tensor
    assert bubble(Layout(24, tensor, stages), micros) == pytest.approx(
        (devices / tensor - 1) / (devices / tensor - 1 + micros)
    )


def test_glm_130b_waits_3_8_percent():
    assert round(100 * bubble(Layout(24, 4, 8), 176), 1) == 3.8


@settings(max_examples=40, deadline=None)
@given(PIPELINES)
def test_the_waiting_micro_batches_are_those_of_the_simulation(drawn):
    schedule, stages, micros, chunks = shape(drawn)
    job = Job(model_preset("glm-130b"), 2048, micros, stages, device("h100"))
    layout = Layout(1, 1, stages, schedule=schedule, chunks=chunks)
    spans = simulate(schedule, stages, micros, chunks)
    for stage in range(stages):
        assert most_waiting(spans, stage, chunks) == pytest.approx(in_flight(job, layout, stage))


@settings(max_examples=40, deadline=None)
@given(PIPELINES)
def test_every_pass_is_made_once_in_order_and_by_one_at_a_time(drawn):
    schedule, stages, micros, chunks = shape(drawn)
    spans = simulate(schedule, stages, micros, chunks)
    kinds = "FBW" if schedule == "zero-bubble" else "FB"
    made = Counter((span.stage, span.work) for span in spans)
    assert set(made.values()) == {1} and len(made) == stages * micros * chunks * len(kinds)
    ends = {(span.stage, span.work): span.end for span in spans}
    for span in spans:
        need = needs(span.work, span.stage, stages, chunks)
        assert need is None or ends[need] <= span.start + 1e-9
    for stage in range(stages):
        own = sorted((span.start, span.end) for span in spans if span.stage == stage)
        assert all(end <= start + 1e-9 for (_, end), (start, _) in pairwise(own))


def test_fewer_micro_batches_than_stages():
    spans = simulate("1f1b", 8, 3)
    assert idle_share(spans) == pytest.approx(7 / 10) and max(span.end for span in spans) == pytest.approx(30)
