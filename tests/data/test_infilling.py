"""Blank infilling against the original's arrays and statistics (tests/golden/infilling), and properties that hold for any text."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.config import InfillingConfig, SpecialTokens
from openglm.data.infilling import (
    build_sample,
    draw_mode,
    infill,
    sample_lengths,
    sample_long_span,
    sample_sentences,
    sample_spans,
    sentences,
)
from openglm.data.samples import place_spans

GOLDEN = Path(__file__).parent.parent / "golden" / "infilling"
CASES = json.loads((GOLDEN / "cases.json").read_text())
STATISTICS = json.loads((GOLDEN / "span_statistics.json").read_text())
IDS = CASES["special_ids"]
GLM10B = SpecialTokens(
    pad=IDS["pad"], mask=IDS["MASK"], gmask=IDS["gMASK"], smask=IDS["sMASK"], sop=IDS["sop"], eop=IDS["eop"]
)
OURS = SpecialTokens(pad=0, mask=1, gmask=2, smask=3, sop=4, eop=5)
MASKS = {"bert": "MASK", "single": "MASK", "sentence": "sMASK", "gpt": "gMASK"}
DOCUMENTS = 3000


def expected(sample, n):
    return {name: np.array(sample[name])[..., :n] for name in ("text", "target", "loss_mask", "position_ids")}


GOLDEN_SAMPLES = [
    pytest.param(case, sample, id=f"{case['name']}-{i}")
    for case in CASES["cases"]
    for i, sample in enumerate(case["samples"])
    if not sample.get("dropped")
]


@pytest.mark.parametrize("case, sample", GOLDEN_SAMPLES)
def test_every_array_of_every_golden_case(case, sample):
    spans, tokens = np.array(sample["spans"]), np.array(sample["input_tokens"])
    order = [sample["spans"].index(span) for span in sample["order"]]
    mask = IDS[MASKS[case["mode"]] if case["options"].get("task_mask", True) else "MASK"]
    built = build_sample(
        tokens,
        spans,
        order,
        mask,
        replace(GLM10B, mask=IDS["dBLOCK"]),
        suffix=sample.get("form") == "suffix",
        pin=True,
        dblock_at=sample["dblock_at"],
        loss_mask=np.array(sample["input_loss_mask"]),
    )
    want = expected(sample, sample["length"])
    assert len(built) == sample["length"] and built.context_length == sample["sep"]
    np.testing.assert_array_equal(built.tokens, want["text"])
    np.testing.assert_array_equal(built.targets, want["target"])
    np.testing.assert_array_equal(built.loss_mask, want["loss_mask"])
    np.testing.assert_array_equal(np.stack((built.position, built.block_position)), want["position_ids"])


def test_the_golden_row_that_does_not_fit_is_refused_by_the_sampler():
    dropped = [sample for case in CASES["cases"] for sample in case["samples"] if sample.get("dropped")]
    assert len(dropped) >= 1
    lengths = sample_lengths(np.random.default_rng(0), 60, InfillingConfig())
    assert place_spans(np.random.default_rng(0), lengths, 1, 62) is None
    assert sample_spans(np.random.default_rng(0), 400, InfillingConfig(), [(0, 50)]) is None


def golden_candidates(tokens, document_ends):
    """Sentences by the original's rule: a tail that <|endoftext|> follows is none, the tail of a row that was cut off is one."""
    marks, found, start = np.isin(tokens, CASES["sentence_end_ids"]), [], 1
    for end in document_ends:
        found.append(sentences(marks, start, end, tail=False))
        start = end + 1
    found.append(sentences(marks, start, len(tokens), tail=True))
    return np.concatenate(found)


@pytest.mark.parametrize("case, sample", [p for p in GOLDEN_SAMPLES if p.values[0]["mode"] == "sentence"])
def test_golden_sentence_spans_are_candidates_of_ours(case, sample):
    tokens = np.array(sample["input_tokens"])
    candidates = golden_candidates(tokens, np.flatnonzero(tokens == IDS["eos"])).tolist()
    assert all(span in candidates for span in sample["spans"])
    wanted = int(case["options"].get("gap_sentence_ratio", 0.15) * len(tokens))
    drawn = sample_sentences(np.random.default_rng(1), np.array(candidates), wanted)
    sizes = drawn[:, 1] - drawn[:, 0]
    assert sizes.sum() >= min(wanted, sum(e - s for s, e in candidates)) and (
        len(drawn) == 1 or sizes.sum() - sizes.max() < max(1, wanted)
    )


# Statistics: our histogram of DOCUMENTS documents against the original's of 20,000, by a chi-square over bins with enough counts.


def chi_square(ours, theirs):
    """Two-sample chi-square per degree of freedom; bins with few counts are merged."""
    keys = sorted(set(ours) | set(theirs))
    bins, pool = [], np.zeros(2)
    for key in keys:
        pool = pool + np.array([ours.get(key, 0), theirs.get(key, 0)])
        if pool.sum() >= 60:
            bins.append(pool)
            pool = np.zeros(2)
    a, b = np.array([*bins[:-1], bins[-1] + pool]).T
    ka, kb = np.sqrt(b.sum() / a.sum()), np.sqrt(a.sum() / b.sum())
    return float(((ka * a - kb * b) ** 2 / (a + b)).sum()), len(a) - 1


def assert_same_distribution(ours, theirs, what):
    ours, theirs = (({int(k): v for k, v in h.items()}) for h in (ours, theirs))
    chi, freedom = chi_square(ours, theirs)
    if freedom:  # 5 standard deviations: an honest sampler fails once in a million
        assert chi < freedom + 5 * np.sqrt(2 * freedom) + 5, (what, chi, freedom)


def golden_setting(name):
    setting = next(case for case in STATISTICS["cases"] if case["name"] == name)
    return setting, setting["document_length"], setting["documents_per_sample"]


def draw_like(setting, rng, n):
    """One document (or row of documents) of the golden setting: [CLS] first and <|endoftext|> last are never covered."""
    options, mode = setting["options"], setting["mode"]
    config = InfillingConfig()
    if mode == "gpt":
        inside = None if rng.random() < options["gpt_infill_prob"] else (1, n - 1)
        return sample_long_span(rng, n, int(options["gpt_min_ratio"] * n), n - 2, inside)
    documents = [(1, n - 1)]
    if setting["documents_per_sample"] == 2:
        documents = [(1, n // 2 - 1), (n // 2 + 1, n - 1)]
    return sample_spans(rng, n, config, documents, single=mode == "single")


def counts(values):
    return dict(zip(*(a.tolist() for a in np.unique(values, return_counts=True)), strict=True))


@pytest.mark.parametrize("name", ["bert_64", "bert_256", "bert_512", "single", "gpt_suffix", "gpt_half"])
def test_spans_are_distributed_as_the_originals(name):
    setting, n, _ = golden_setting(name)
    rng = np.random.default_rng(7)
    drawn = [draw_like(setting, rng, n) for _ in range(DOCUMENTS)]
    assert all(spans is not None for spans in drawn)
    spans = np.concatenate(drawn)
    assert_same_distribution(counts(spans[:, 1] - spans[:, 0]), setting["span_length_histogram"], "length")
    assert_same_distribution(counts([len(s) for s in drawn]), setting["spans_per_document_histogram"], "number")
    assert_same_distribution(
        counts(spans[:, 0] * 10 // n), dict(enumerate(setting["span_start_decile_histogram"])), "place"
    )
    share = (spans[:, 1] - spans[:, 0]).sum() / (n * DOCUMENTS)
    assert share == pytest.approx(setting["masked_share"], rel=0.02)
    touching = np.mean([s[-1, 1] == n for s in drawn])
    assert touching == pytest.approx(
        setting["share_touching_last_token"], abs=5 * 0.5 / np.sqrt(DOCUMENTS) if name == "gpt_half" else 0
    )


def test_spans_in_two_documents_of_one_row():
    """The original's own two documents are not recorded; whatever their lengths, each keeps its share, and the ends stay free."""
    setting, n, _ = golden_setting("bert_two_documents")
    rng = np.random.default_rng(8)
    documents = [(1, 99), (101, n - 1)]
    drawn = [sample_spans(rng, n, InfillingConfig(), documents) for _ in range(DOCUMENTS)]
    spans = np.concatenate(drawn)
    covered = np.zeros(n)
    for start, end in spans:
        covered[start:end] += 1
    assert covered[[0, 99, 100, n - 1]].sum() == 0
    in_first = [sum(e - s for s, e in d if e <= 99) for d in drawn]
    assert max(in_first) <= int(0.15 * 98) and np.mean(in_first) > 0.10 * 98
    assert_same_distribution(counts(spans[:, 1] - spans[:, 0]), setting["span_length_histogram"], "length")


def test_modes_and_dblocks_are_drawn_as_often_as_in_the_original():
    recorded = STATISTICS["mode_counts_10B_configuration"]["counts"]
    config = InfillingConfig(mask_share=0.5, sentence_share=0.3, gmask_share=0.2)
    rng = np.random.default_rng(9)
    names = [draw_mode(rng, config) for _ in range(20000)]
    for ours, theirs in (("mask", "bert"), ("sentence", "sentence"), ("gmask", "gpt")):
        assert names.count(ours) == pytest.approx(recorded[theirs], abs=5 * np.sqrt(2 * recorded[theirs]))
    setting, n, _ = golden_setting("bert_dblock_0.1")
    hide = InfillingConfig(mask_share=1, gmask_share=0, single_span_share=0, dblock_probability=0.1)
    hidden = total = 0
    for _ in range(500):
        sample = infill(rng, np.arange(10, 10 + n), hide, OURS, span_positions="pinned", complete=True)
        inputs = sample.tokens[sample.block_position > 1]
        hidden, total = hidden + (inputs == OURS.mask).sum(), total + len(inputs)
        assert (sample.tokens[sample.block_position == 1] == OURS.sop).all()
    assert hidden / total == pytest.approx(setting["dblock_share_of_span_tokens"], abs=5 * np.sqrt(0.09 / total))


def test_spans_are_generated_in_random_order_as_often_as_in_the_original():
    setting, n, _ = golden_setting("bert_64")
    config, rng = InfillingConfig(mask_share=1, gmask_share=0, single_span_share=0), np.random.default_rng(10)
    sorted_ones = []
    for _ in range(DOCUMENTS):
        sample = infill(rng, np.arange(10, 10 + n), config, OURS, span_positions="pinned", complete=True)
        places = sample.position[sample.block_position == 1]
        if len(places) > 1:
            sorted_ones.append((np.diff(places) > 0).all())
    assert np.mean(sorted_ones) == pytest.approx(
        setting["share_of_shuffled_documents_left_in_text_order"], abs=5 * np.sqrt(0.14 / DOCUMENTS)
    )


def test_lengths_are_in_random_order():
    """The draw that passes the budget is longer than average; sorted to the end it would bias the end of every text."""
    rng, config = np.random.default_rng(3), InfillingConfig()
    lengths = [sample_lengths(rng, 9, config) for _ in range(4000)]
    first, last = np.mean([x[0] for x in lengths]), np.mean([x[-1] for x in lengths])
    assert abs(first - last) < 0.2


# Properties of `infill` on any text.

CONFIGS = st.sampled_from(
    [
        InfillingConfig(),
        InfillingConfig(mask_share=1, gmask_share=0),
        InfillingConfig(mask_share=0.2, sentence_share=0.6, gmask_share=0.2, mask_ratio=0.4),
        InfillingConfig(mask_share=0, gmask_share=1, gmask_infill_share=0.7),
        InfillingConfig(mask_share=0, gmask_share=1, gmask_min_ratio=1.0),
        InfillingConfig(mask_share=0.5, sentence_share=0.5, gmask_share=0, single_span_share=0.5, shuffle_spans=False),
    ]
)
ENDS = np.array([10, 11, 12])


def blanks(sample):
    """Part B as [(first index, last index)] of each span."""
    begins = np.flatnonzero(sample.block_position == 1)
    return list(zip(begins, [*begins[1:], len(sample)], strict=True))


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 150),
    config=CONFIGS,
    complete=st.booleans(),
    rule=st.sampled_from(["pinned", "pinned_mask", "running"]),
)
def test_nothing_is_lost_and_only_part_b_is_trained(seed, n, config, complete, rule):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(10, 60, n)
    sample = infill(rng, tokens, config, OURS, span_positions=rule, complete=complete, sentence_ends=ENDS)
    a = sample.context_length
    assert (sample.block_position[:a] == 0).all() and (sample.block_position[a:] > 0).all()
    np.testing.assert_array_equal(sample.loss_mask, sample.block_position > 0)
    assert set(map(len, (sample.tokens, sample.targets, sample.position, sample.block_position))) == {len(sample)}
    np.testing.assert_array_equal(sample.position[:a], np.arange(a))

    masks = np.flatnonzero(np.isin(sample.tokens[:a], [OURS.mask, OURS.gmask, OURS.smask]))
    assert len(set(sample.tokens[masks])) == 1
    long = sample.tokens[masks[0]] == OURS.gmask
    spans, places = [], []
    for begin, end in blanks(sample):
        targets = sample.targets[begin:end]
        assert sample.tokens[begin] == OURS.sop
        np.testing.assert_array_equal(sample.tokens[begin + 1 : end], targets[:-1])
        np.testing.assert_array_equal(sample.block_position[begin:end], np.arange(1, end - begin + 1))
        closed = targets[-1] == OURS.eop
        assert closed or (long and not complete)
        assert OURS.eop not in targets[:-1] and len(targets) > closed
        spans.append(targets[:-1] if closed else targets)
        places.append(sample.position[begin])
    assert len(spans) == len(masks)

    if rule == "running" or (rule == "pinned_mask" and long):
        np.testing.assert_array_equal(sample.position, np.arange(len(sample)))
        filled = refill(sample.tokens[:a], masks, spans) if len(spans) == 1 else None
    else:
        assert sorted(places) == masks.tolist()
        if not config.shuffle_spans:
            assert places == masks.tolist()
        filled = refill(sample.tokens[:a], masks, [spans[places.index(m)] for m in masks])
    if filled is not None:
        np.testing.assert_array_equal(filled, tokens)
    assert sum(map(len, spans)) + a - len(masks) == n


def refill(part_a, masks, spans):
    pieces, last = [], 0
    for mask, span in zip(masks, spans, strict=True):
        pieces += [part_a[last:mask], span]
        last = mask + 1
    return np.concatenate([*pieces, part_a[last:]])


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32), n=st.integers(1, 150), config=CONFIGS, complete=st.booleans(), room=st.integers(0, 160)
)
def test_a_sample_keeps_to_its_room_and_never_teaches_a_false_end(seed, n, config, complete, room):
    rng = np.random.default_rng(seed)
    tokens = np.arange(100, 100 + n)
    sample = infill(
        rng, tokens, config, OURS, span_positions="running", complete=complete, sentence_ends=100 + ENDS, room=room
    )
    if room < 2:
        assert sample is None
        return
    assert 1 < len(sample) <= room
    seen = np.concatenate((sample.tokens, sample.targets))
    seen = np.unique(seen[seen >= 100])
    np.testing.assert_array_equal(seen, np.arange(100, 100 + len(seen)))  # cut at the end, nothing dangling
    if (
        len(seen) < n or not complete
    ):  # the end of the text is not in it: <eop> may follow a sentence's own end or a span inside, never the cut
        last = np.flatnonzero(sample.targets == 100 + len(seen) - 1)[-1]
        whole_sentence = sample.tokens[: sample.context_length].tolist().count(OURS.smask) > 0 and len(seen) - 1 in ENDS
        assert last + 1 == len(sample) or sample.targets[last + 1] != OURS.eop or whole_sentence
    assert len(seen) >= min(n, room - 1) // 5


def test_the_end_of_a_document_is_taught():
    config = InfillingConfig(mask_share=0, gmask_share=1)
    ended = infill(
        np.random.default_rng(0), np.arange(10, 60), config, OURS, span_positions="pinned_mask", complete=True
    )
    cut = infill(
        np.random.default_rng(0), np.arange(10, 60), config, OURS, span_positions="pinned_mask", complete=False
    )
    assert ended.targets[-2:].tolist() == [59, OURS.eop] and cut.targets[-1] == 59 and len(ended) == len(cut) + 1 == 52


def test_the_causal_baseline_is_full_length_generation():
    config = InfillingConfig(mask_share=0, gmask_share=1, gmask_min_ratio=1.0)
    sample = infill(
        np.random.default_rng(0), np.arange(10, 20), config, OURS, span_positions="pinned_mask", complete=True
    )
    assert sample.tokens.tolist() == [OURS.gmask, OURS.sop, *range(10, 20)] and sample.targets[1:].tolist() == [
        *range(10, 20),
        OURS.eop,
    ]
    assert sample.position.tolist() == list(range(12)) and sample.context_length == 1


def test_spans_never_touch():
    rng = np.random.default_rng(5)
    for _ in range(300):
        spans = sample_spans(rng, 60, replace(InfillingConfig(), mask_ratio=0.5), [(0, 60)])
        if spans is not None:
            assert (spans[1:, 0] > spans[:-1, 1]).all() and spans[0, 0] >= 0 and spans[-1, 1] <= 60
