"""Pairs of answers: the shapes that circulate, and the rows made of them."""

import numpy as np
import pytest

from openglm.data.preferences import CHOSEN, REJECTED, PreferenceRows, preference
from openglm.text.load import load_tokenizer

NANO = load_tokenizer("nano")
USER, GOOD, BAD = (
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "assistant", "content": "5"},
)
HH = "\n\nHuman: 2 + 2?\n\nAssistant: "


def rows_of(records, seq_len=96, seed=1):
    return PreferenceRows(
        map(preference, records), NANO, NANO.tokens, seq_len=seq_len, span_positions="pinned_mask", seed=seed
    )


def asked(question, good, bad, **more):
    return {"prompt": question, "chosen": good, "rejected": bad, **more}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        {"prompt": [USER], "chosen": GOOD, "rejected": BAD},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"chosen": HH + "4", "rejected": HH + "5"},
        {
            "conversations": [{"from": "human", "value": "2 + 2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
        {"instruction": "2 + 2?", "chosen": "4", "rejected": "5"},
    ],
    ids=["ours", "text", "message", "prompt in both", "hh", "llama-factory", "alpaca"],
)
def test_every_shape_says_the_same(record):
    pair = preference(record)
    assert (pair.prompt, pair.chosen, pair.rejected) == ([USER], [GOOD], [BAD])


def test_a_prompt_of_several_turns_in_one_text():
    text = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: 2 + 2?\n\nAssistant: "
    pair = preference({"chosen": text + "4", "rejected": text + "5"})
    assert [m["role"] for m in pair.prompt] == ["user", "assistant", "user"] and pair.chosen == [GOOD]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rejected": "4"}, "rejected"),
        ({"margin": -1}, "margin = -1"),
        ({"margin": "2"}, "margin = '2'"),
        ({"margin": float("nan")}, "margin = nan"),
        ({"tie": 1}, "tie = 1"),
        ({"chosen": 7}, "chosen = 7"),
        ({"chosen": []}, "chosen = []"),
    ],
)
def test_a_wrong_field_is_named(change, words):
    with pytest.raises(ValueError, match="^" + words.replace("[", r"\[")):
        preference({**asked("2 + 2?", "4", "5"), **change})


def test_a_missing_answer_is_named():
    with pytest.raises(ValueError, match=r"^rejected = None"):
        preference({"prompt": "2 + 2?", "chosen": "4"})


def test_twin_rows_hold_both_answers_of_the_same_pairs_in_the_same_order():
    records = [asked(f"question {i}?", "yes " * (1 + i % 7), "no " * (1 + i % 5), margin=i) for i in range(40)]
    rows = rows_of(records)
    seen = []
    for twin in range(rows.rows // 2):
        chosen, rejected = rows.row(2 * twin), rows.row(2 * twin + 1)
        assert set(chosen.side) == {CHOSEN} and set(rejected.side) == {REJECTED}
        assert chosen.pairs == chosen.end.sum() == rejected.end.sum() and rejected.pairs == 0
        margins = [row.margin[row.end > 0].tolist() for row in (chosen, rejected)]
        assert margins[0] == margins[1]
        seen += margins[0]
        for row, word in ((chosen, "yes"), (rejected, "no")):
            for number in range(int(chosen.pairs)):
                trained = row.targets[(row.segment == number) & (row.loss_mask > 0)]
                assert word in NANO.decode(trained.tolist())
    assert sorted(seen) == list(range(40))


def test_the_end_of_an_answer_is_trained_and_is_where_it_is_scored():
    row = rows_of([asked("2 + 2?", "4", "five")]).row(0)
    (end,) = row.end.nonzero()[0]
    assert row.loss_mask[end] == 1 and row.targets[end] in NANO.tokens.stop
    assert row.loss_mask[end + 1 :].sum() == 0


def test_answers_in_the_prompt_are_not_trained():
    prompt = [USER, GOOD, {"role": "user", "content": "and 3 + 3?"}]
    row = rows_of([{"prompt": prompt, "chosen": "6", "rejected": "7"}]).row(0)
    assert NANO.decode(row.targets[row.loss_mask > 0].tolist()).strip() == "6"


def test_an_epoch_holds_each_pair_once_and_the_next_in_another_order():
    rows = rows_of([asked(f"question {i}?", "yes", "no", margin=i) for i in range(60)])
    epochs = [
        [m for twin in range(rows.rows // 2) for m in _margins(rows.row(2 * (epoch * rows.rows // 2 + twin)))]
        for epoch in range(2)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(60)) and epochs[0] != epochs[1]


def _margins(row):
    return row.margin[row.end > 0].tolist()


def test_a_long_history_loses_its_oldest_turns_on_both_sides_and_it_is_counted():
    turns = [{"role": role, "content": f"{role} " * 12} for role in ("user", "assistant")]
    long = [*turns * 3, {"role": "user", "content": "last question"}]
    rows = rows_of([{"prompt": long, "chosen": "yes", "rejected": "no"}, asked("x" * 400, "a", "b")])
    assert (rows.shortened, rows.dropped, len(rows)) == (1, 1, 1)
    for side in (0, 1):
        text = NANO.decode(rows.row(side).tokens[rows.row(side).segment >= 0].tolist())
        assert "last question" in text
    assert "1 prompts lost" in rows.summary and "1 pairs were left out" in rows.summary


def test_no_pair_that_fits_is_an_error():
    with pytest.raises(ValueError, match=r"data\.pairs = 0: none of 1 pairs fits into 32 tokens"):
        rows_of([asked("x" * 400, "a", "b")], seq_len=32)


def test_the_reference_lies_at_its_own_tokens():
    rows = rows_of([asked(f"question {i}?", "yes " * (1 + i % 4), "no") for i in range(9)])
    rows.reference = [
        [np.full(len(sample), 10 * number + side, np.float32) for side, sample in enumerate(pair)]
        for number, pair in enumerate(rows.samples)
    ]
    for pairs, side, row in rows.each():
        for place, pair in enumerate(pairs):
            assert set(row.reference[row.segment == place]) == {10 * pair + side}
        assert not row.reference[row.segment < 0].any()


def test_other_pairs_or_another_seed_are_another_run():
    one, two = [asked("a?", "b", "c")], [asked("a?", "b", "d")]
    prints = {rows_of(one).fingerprint, rows_of(two).fingerprint, rows_of(one, seed=2).fingerprint}
    assert len(prints) == 3 and rows_of(one).fingerprint in prints
