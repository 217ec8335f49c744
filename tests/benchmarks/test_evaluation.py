"""The evaluation of small models: every token is predicted once, from the context it is meant to have."""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.threads import one_thread as one_thread
from hypothesis import given
from hypothesis import strategies as st

from openglm.cli.options import read_toml
from openglm.model.transformer import Transformer
from openglm.presets import model_preset

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks/nano"))
import blanks as blank_items
import compare
import everyday
import left_to_right

SPECIAL = list(range(10))


def tiny(mask="prefix"):
    model = Transformer(
        model_preset(
            "nano", vocab_size=60, layers=2, hidden=32, heads=2, kv_heads=1, ffn_hidden=32, max_positions=256, mask=mask
        )
    )
    model.initialize(torch.Generator().manual_seed(1))
    for weight in model.parameters():
        weight.data *= 8 if weight.dim() > 1 else 1  # far from uniform, so that what a token may see matters
    return model.eval()


def held(lengths, seed=1):
    rng = np.random.default_rng(seed)
    documents = [rng.integers(10, 60, n) for n in lengths]
    return left_to_right.HeldOut("source", "en", documents, np.array([3 * n for n in lengths]))


@given(length=st.integers(1, 900), window=st.integers(4, 128))
def test_windows_score_every_token_once_with_half_a_window_of_context(length, window):
    cut = left_to_right.windows(length, window)
    assert [k for _, first, end in cut for k in range(first, end)] == list(range(length))
    assert all(first - start == min(first, window // 2) for start, first, _ in cut)
    assert all(end - start + 1 <= window for start, _, end in cut)


@pytest.mark.parametrize("way", ["uni", "prefix"])
def test_nats_equal_one_plain_forward_per_token(way):
    model, sample, t = tiny(), held([5, 40, 71]), model_preset("nano").tokens
    found = left_to_right.document_nats(model, sample, way, window=32, batch_tokens=200)
    for document, nats in zip(sample.documents, found, strict=True):
        text, expected = [*document.tolist(), t.eop], 0.0
        for k, token in enumerate(text):
            first = k // 15 * 15  # windows of 32 score 15 tokens after 16 of context
            before = text[max(0, first - 16) : first]
            ids = (
                [*before, t.gmask, t.sop, *text[first:k]]
                if way == "prefix"
                else [t.gmask, t.sop, *before, *text[first:k]]
            )
            expected -= float(model.logits(torch.tensor([ids])).log_softmax(-1)[0, -1, token])
        assert nats == pytest.approx(expected, rel=1e-4)


def test_both_ways_agree_where_there_is_no_context_and_differ_where_there_is():
    model, sample = tiny(), held([10, 30, 200])
    uni, prefix = (left_to_right.document_nats(model, sample, way, window=64) for way in ("uni", "prefix"))
    np.testing.assert_allclose(uni[:2], prefix[:2], rtol=1e-5)
    assert abs(uni[2] - prefix[2]) > 1e-2, (uni[2], prefix[2])


def test_a_causal_model_has_no_second_way():
    with pytest.raises(ValueError, match="causal"):
        left_to_right.document_nats(tiny("causal"), held([10]), "prefix")


def test_bits_per_byte_of_a_uniform_reader():
    sample = [held([100] * 50), held([50] * 20, 2)]
    nats = np.concatenate([h.tokens * np.log(60) for h in sample])
    found = left_to_right.bits_per_byte(nats, sample)
    assert found["perplexity"] == pytest.approx(60)
    assert found["bits_per_byte"] == pytest.approx(np.log2(60) * (101 * 50 + 51 * 20) / (300 * 50 + 150 * 20))
    assert found["low"] <= found["bits_per_byte"] <= found["high"] < found["bits_per_byte"] * 1.01
    same = left_to_right.difference(nats, nats, sample)
    assert same["bits_per_byte"] == same["low"] == same["high"] == 0


def test_blanks_are_the_documents_own_tokens_and_the_same_for_the_same_seed():
    sample = [held([30, 400, 12])]
    for single in (True, False):
        made = blank_items.make_blanks(sample, 50, single, seed=3)
        assert made == blank_items.make_blanks(sample, 50, single, seed=3)
        texts = [d.tolist() for d in sample[0].documents]
        for b in made:
            piece = b.before + b.answer + b.after
            assert any(text[i : i + len(piece)] == piece for text in texts for i in range(len(text)))
            assert len(b.before) >= 8 and len(b.after) >= 8 and (len(b.answer) == 1 or not single)


def test_filling_takes_the_likeliest_ordinary_token_of_its_context():
    model, t = tiny(), model_preset("nano").tokens
    items = blank_items.make_blanks([held([60, 200])], 12, single=False)
    both, left = (
        fill(model, items, SPECIAL, batch_tokens=300)
        for fill in (blank_items.fill_both_sides, blank_items.fill_left_only)
    )
    for item, from_both, from_left in zip(items, both, left, strict=True):
        assert len(from_both) == len(from_left) == len(item.answer)
        for prompt, answer in (
            ([*item.before, t.mask, *item.after, t.sop], from_both),
            ([t.gmask, t.sop, *item.before], from_left),
        ):
            for token in answer:
                logits = model.logits(torch.tensor([prompt]))[0, -1, 10:]
                assert float(logits.max() - logits[token - 10]) < 1e-4
                prompt = [*prompt, token]
    assert both != left


@pytest.mark.parametrize("mask", ["causal", "prefix"])
def test_reranking_maximises_the_likelihood_of_the_whole_text(mask):
    model, t = tiny(mask), model_preset("nano").tokens
    items = blank_items.make_blanks([held([60])], 3, single=True)
    for item, [answer] in zip(items, blank_items.fill_reranked(model, items, SPECIAL), strict=True):
        scores = {}
        for token in range(10, 60):  # 50 ordinary tokens: all of them are candidates
            ids = torch.tensor([[t.gmask, t.sop, *item.before, token, *item.after]])
            log_p = model.logits(ids).log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
            scores[token] = float(log_p[1:].sum())
        assert scores[answer] > max(scores.values()) - 1e-4


def test_wilson_interval():
    assert blank_items.wilson(0, 10)[0] == 0 and blank_items.wilson(10, 10)[1] == 1
    assert blank_items.wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)  # Newcombe 1998
    answers = [[1], [2, 3], [4, 5]]
    found = blank_items.accuracy(answers, [blank_items.Blank([], a, []) for a in ([1], [2, 9], [4, 5])])
    assert (found["token"], found["span"], found["tokens"], found["spans"]) == (4 / 5, 2 / 3, 5, 3)


def test_variants_are_valid_configurations_that_differ_in_what_they_say(tmp_path):
    recipes = Path(__file__).parents[2] / "recipes/nano"
    args = argparse.Namespace(config=str(recipes / "small.toml"), corpus="corpus", tokens=1e6, device="cpu")
    variants = read_toml(recipes / "variants.toml")
    configs = {name: compare.configuration(args, changes, 7, tmp_path) for name, changes in variants.items()}
    base = configs.pop(next(iter(configs)))
    assert (base.train.steps, base.train.seed, base.data.seed, base.data.path) == (
        round(1e6 / base.train.seq_len / base.train.batch_rows),
        7,
        7,
        "corpus",
    )
    for name, changes in variants.items():
        for section, options in changes.items():
            expected = dataclasses.replace(getattr(base, section), **options)
            assert getattr(configs[name], section) == expected, name
            assert expected != getattr(base, section), name


def test_summary_pairs_variants_by_seed():
    def run(figure):
        return {"metrics": {"uni": {"en": figure, "zh": figure + 1}}}

    results = {"base": {1: run(2.0), 2: run(4.0)}, "other": {1: run(1.0), 2: run(3.5), 3: {"error": "diverged"}}}
    rows = compare.summary(results)
    assert rows["base"]["uni"] == {"mean": 3.5, "se": pytest.approx(1.0), "seeds": 2}
    assert rows["other"]["uni"]["difference"] == pytest.approx(-0.75)
    assert rows["other"]["uni"]["difference_se"] == pytest.approx(0.25)
    table = compare.markdown(rows, results)
    assert "-0.7500 ± 0.2500" in table and "3, 1 diverged" in table


def test_everyday_sentences_are_forty_with_one_blank_and_words_that_fill_it():
    items = everyday.sentences()
    assert [sum(item["language"] == language for item in items) for language in ("zh", "en")] == [20, 20]
    assert len({item["text"] for item in items}) == 40
    for item in items:
        assert item["text"].count("___") == 1 and item["words"] and len(set(item["words"])) == len(item["words"])
        assert all(word == word.strip() != "" for word in item["words"]), item["text"]
    assert everyday.is_right(" Tea ", ["tea"]) and not everyday.is_right("tea and", ["tea"])
    rows = [{"language": "zh", "right": i < 5} for i in range(10)] + [{"language": "en", "right": True}]
    found = everyday.summary(rows)
    assert (found["zh"]["right"], found["all"]["right"], found["all"]["sentences"]) == (5, 6, 11)
    assert (found["zh"]["low"], found["zh"]["high"]) == pytest.approx((0.2366, 0.7634), abs=1e-3)  # Wilson, 5 of 10
