"""Blanks in rows that are read forward: what is trained, where it stands, and that the model's own rule says the same."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.families import TOKENS, small
from hypothesis import given
from hypothesis import strategies as st

from openglm.config import SPAN_GAP, DataConfig, InfillingConfig, SpecialTokens
from openglm.data.gapped import build_gapped, draw_spans
from openglm.data.infilling import infill
from openglm.data.mixture import Mixture
from openglm.model.positions import describe, training_mask
from openglm.model.transformer import Transformer

SPECIAL = SpecialTokens(**TOKENS)
CONFIG = InfillingConfig(
    mask_share=1.0, gmask_share=0.0, mask_ratio=0.2, mask_ratio_max=0.6, mean_span=1.0, mean_span_max=6.0
)


def text(length, seed=0):
    return np.random.default_rng(seed).integers(8, 64, length)


@st.composite
def cut_texts(draw):
    tokens = text(draw(st.integers(1, 60)), draw(st.integers(0, 9)))
    inside = st.sets(st.integers(0, len(tokens)), max_size=8).map(sorted)
    edges = draw(inside.filter(lambda e: len(e) >= 2 and len(e) % 2 == 0))
    return tokens, np.array(edges).reshape(-1, 2)


@given(cut_texts(), st.randoms())
def test_every_token_is_trained_once_and_the_text_can_be_put_together(cut, random):
    tokens, spans = cut
    order = random.sample(range(len(spans)), len(spans))
    sample = build_gapped(tokens, spans, order, SPECIAL, SPECIAL.mask)
    trained = Counter(sample.targets[sample.loss_mask > 0].tolist())
    opening = [] if spans[0, 0] == 0 else [int(tokens[0])]  # nothing stands before the first word to predict it
    assert trained == Counter(tokens.tolist()) - Counter(opening) + Counter({SPECIAL.eop: len(spans)})
    context = sample.context_length
    assert sample.targets[: context - 1].tolist() == sample.tokens[1:context].tolist()
    first = context + int(spans[order[0], 0] > 0)  # <sop>, where the first span has a neighbour that opens it
    answers = np.split(sample.targets[first:], np.cumsum([e - s + 1 for s, e in spans[order]])[:-1])
    filled = dict(zip(order, answers, strict=True))
    before = sample.tokens[:context]
    parts = np.split(before, np.flatnonzero(before == SPECIAL.mask))
    whole = list(parts[0])
    for number, part in enumerate(parts[1:]):
        assert filled[number][-1] == SPECIAL.eop
        whole += [*filled[number][:-1], *part[1:]]
    assert whole == tokens.tolist()


@given(cut_texts(), st.integers(0, 7))
def test_rows_stand_where_the_model_puts_the_same_ids(cut, chosen):
    tokens, spans = cut
    span = spans[chosen % len(spans)][None]
    if span[0, 1] - span[0, 0] >= SPAN_GAP:
        return
    sample = build_gapped(tokens, span, [0], SPECIAL, SPECIAL.mask)
    config = small("nano, gapped", max_positions=512)
    positions, mask = describe(torch.tensor(sample.tokens)[None], None, config)
    assert positions[0, 0].tolist() == sample.position.tolist()
    trained = training_mask(torch.zeros(1, len(sample), dtype=torch.long), torch.tensor(sample.block_position)[None])
    assert torch.equal(mask, trained)


def test_rows_by_hand():
    """a [MASK] d: the blank's tokens stand right behind a, the mask right before d, a whole gap further on."""
    sample = build_gapped(np.array([10, 11, 12, 13]), np.array([[1, 3]]), [0], SPECIAL, SPECIAL.mask)
    assert sample.tokens.tolist() == [10, SPECIAL.mask, 13, SPECIAL.sop, 10, 11, 12]
    assert [t for t, w in zip(sample.targets.tolist(), sample.loss_mask, strict=True) if w] == [13, 11, 12, SPECIAL.eop]
    assert sample.loss_mask.tolist() == [0, 1, 0, 0, 1, 1, 1]
    assert sample.position.tolist() == [0, SPAN_GAP, 1 + SPAN_GAP, -1, 0, 1, 2]


def test_a_blank_that_opens_the_text_and_a_second_span():
    sample = build_gapped(np.array([10, 11, 12]), np.array([[0, 1], [2, 3]]), [1, 0], SPECIAL, SPECIAL.mask)
    mask, sop, eop = SPECIAL.mask, SPECIAL.sop, SPECIAL.eop
    assert sample.tokens.tolist() == [mask, 11, mask, sop, 11, 12, sop, 10]
    assert sample.targets[4:].tolist() == [12, eop, 10, eop]
    assert sample.position.tolist() == [
        SPAN_GAP - 1,
        SPAN_GAP,
        2 * SPAN_GAP,
        SPAN_GAP - 1,
        SPAN_GAP,
        SPAN_GAP + 1,
        -1,
        0,
    ]


@given(st.integers(1, SPAN_GAP - 1), st.integers(1, SPAN_GAP - 1))
def test_the_text_around_a_blank_does_not_tell_its_length(one, other):
    def around(size):
        tokens = np.concatenate((text(5), text(size, 1), text(7, 2)))
        sample = build_gapped(tokens, np.array([[5, 5 + size]]), [0], SPECIAL, SPECIAL.mask)
        return sample.tokens[: sample.context_length].tolist(), sample.position[: sample.context_length].tolist()

    assert around(one) == around(other)


@given(st.integers(0, 80), st.integers(0, 1000), st.booleans())
def test_drawn_spans_lie_apart_inside_the_text(length, seed, complete):
    closed = length if complete else max(0, length - 1)
    spans = draw_spans(np.random.default_rng(seed), length, closed, CONFIG)
    if spans is None:
        assert closed < 1
        return
    assert (spans[:, 0] < spans[:, 1]).all() and spans[0, 0] >= 0 and spans[-1, 1] <= closed
    assert (spans[1:, 0] > spans[:-1, 1]).all()


def test_share_and_mean_of_what_is_cut_out():
    """Uniform from 0.2 to 0.6 of 400 tokens is 160 in the mean; a geometric length of fixed mean 3 has that mean."""
    rng = np.random.default_rng(0)
    one_mean = replace(CONFIG, mean_span=3.0, mean_span_max=0)
    cut = [int(np.diff(draw_spans(rng, 400, 400, one_mean), axis=1).sum()) for _ in range(400)]
    assert np.mean(cut) == pytest.approx(160, rel=0.05) and min(cut) < 100 and max(cut) > 220
    fixed = replace(CONFIG, mask_ratio=0.3, mask_ratio_max=0, mean_span=3.0, mean_span_max=0)
    lengths = np.concatenate([np.diff(draw_spans(rng, 400, 400, fixed), axis=1)[:, 0] for _ in range(200)])
    assert lengths.mean() == pytest.approx(3, rel=0.05)


@given(st.integers(3, 90), st.integers(3, 60), st.integers(0, 99), st.booleans())
def test_samples_fit_their_room_and_keep_the_beginning_of_the_piece(length, room, seed, complete):
    tokens = text(length)
    sample = infill(
        np.random.default_rng(seed), tokens, CONFIG, SPECIAL, span_positions="gapped", complete=complete, room=room
    )
    assert sample is not None and len(sample) <= room


@pytest.mark.parametrize(
    "positions, options",
    [("gapped", {"dblock_probability": 0.1}), ("pinned", {"mask_ratio_max": 0.5}), ("running", {"mean_span_max": 9.0})],
)
def test_an_option_without_effect_is_refused(positions, options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"^infilling.{name} = {value}: has no effect with \w+ span positions"):
        Mixture(None, DataConfig(path="unused"), replace(InfillingConfig(), **options), SPECIAL, 32, positions)


def test_a_network_learns_to_read_what_follows_the_blank():
    """The missing word is decided by the word behind it alone; prompts stand where the model's own rule puts them."""
    torch.manual_seed(0)
    model = Transformer(small("nano, gapped", layers=2))
    model.initialize(torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    texts = [np.array([10, 11, 20 + i, 40 + i, 12, 13]) for i in range(8)]
    rows = [build_gapped(text, np.array([[2, 3]]), [0], SPECIAL, SPECIAL.mask) for text in texts]
    ids, targets, weights = (
        torch.tensor(np.stack([getattr(row, name) for row in rows])) for name in ("tokens", "targets", "loss_mask")
    )
    positions = torch.tensor(np.stack([np.stack((row.position, row.block_position)) for row in rows]))
    for _ in range(250):
        logits = model.project(model(ids, positions))
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        (losses * weights.flatten()).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    prompts = torch.tensor([[10, 11, SPECIAL.mask, 40 + i, 12, 13, SPECIAL.sop, 11] for i in range(8)])
    assert model.logits(prompts)[:, -1].argmax(-1).tolist() == [20 + i for i in range(8)]
