"""The measurement of tool use counts what it says: calls, their arguments, the use of results, and needless calls."""

import json
import sys
from pathlib import Path

import pytest
from helpers.scripted import scripted, with_marks
from helpers.text_samples import TEXTS, VOCAB_SIZE

from openglm import Tools
from openglm.text import train_tokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks/nano"))
import reflection
import tools as measurement


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return train_tokenizer(iter(TEXTS), VOCAB_SIZE, tmp_path_factory.mktemp("own"))


def item(arguments="12+30", result="42", **more):
    step = {"at": 0, "name": "Calc", "arguments": arguments, "result": result}
    worked = {"role": "assistant", "content": f"The answer is {result}.", "steps": [step]}
    messages = [{"role": "user", "content": "What is 12+30?"}, worked]
    return {"messages": messages, "answer": result, "task": "arithmetic", "language": "en", "digits": 2, **more}


@pytest.mark.parametrize(
    ("written", "counted"),
    [  # right answer, called, valid, right arguments, same letters
        ("[Begin]Calc[Param]12+30[End]The answer is 42.<eop>", (True, True, True, True, True)),
        ("[Begin]Calc[Param]30+12[End]The answer is 42.<eop>", (True, True, True, True, False)),
        ("[Begin]Calc[Param]12+30[End]The answer is 24.<eop>", (False, True, True, True, True)),
        ("[Begin]Calc[Param]12+31[End]The answer is 42.<eop>", (True, True, True, False, False)),
        ("[Begin]Calc[Param]12+[End]The answer is 42.<eop>", (True, True, False, False, False)),
        ("The answer is 42.<eop>", (True, False, False, False, False)),
    ],
)
def test_validity_arguments_and_use_are_counted_apart(own, written, counted):
    found = measurement.with_tools(scripted(own, written, Tools()), item())
    columns = ("with tools", "called", "valid", "right arguments", "same letters")
    assert tuple(found[column] for column in columns) == counted


def test_the_three_ways_answer_the_same_problems(own):
    """With tools right, without wrong, behind the oracle's call right; the use counts where the arguments were right."""
    spoken = "The answer is 42.<eop>"
    assistant = scripted(own, f"[Begin]Calc[Param]12+30[End]{spoken}The answer is 41.<eop>{spoken}", Tools())
    [row] = measurement.solve(assistant, [item()], "one")
    assert not assistant.script.left
    assert (row["with tools"], row["without"], row["oracle's calls"], row["used"]) == (True, False, True, True)
    missed = scripted(own, "I do not know.<eop>" * 3, Tools())
    [row] = measurement.solve(missed, [item()], "one")
    assert row["used"] is None and not row["called"]


def test_without_tools_no_call_can_be_opened(own):
    """The model wants to open one; the token is not to be had, and the next likeliest stands in its place."""
    assistant = scripted(own, "[Begin]<eop>", Tools())
    measurement.without_tools(assistant, [item()])
    assert not assistant.script.left
    assert own.special["[Begin]"] not in [token for step in assistant.script.computed for token in step]


def test_the_oracles_call_and_result_stand_before_what_the_model_writes(own):
    assistant = scripted(own, "The answer is 42.<eop>", Tools())
    assert measurement.with_oracle(assistant, [item()]) == ["The answer is 42."]
    read = [token for step in assistant.script.computed for token in step]
    call = with_marks(own, "[Begin]Calc[Param]12+30[End]42[Gen]")
    place = next(place for place in range(len(read)) if read[place : place + len(call)] == call)
    assert own.special["<eop>"] not in read[: place + len(call)]


def test_needless_calls_are_counted(own):
    talk = {"messages": [{"role": "user", "content": "I am 25."}, {"role": "assistant", "content": "Fine."}]}
    assistant = scripted(own, "Fine.<eop>[Begin]Calc[Param]25[End]Fine.<eop>", Tools())
    rows = measurement.relevance(assistant, [talk, talk])
    assert [row["calls"] for row in rows] == [[], ["25"]]
    figures = measurement.share(bool(row["calls"]) for row in rows)
    assert (figures["right"], figures["of"]) == (1, 2)
    assert (figures["low"], figures["high"]) == pytest.approx((0.0945, 0.9055), abs=1e-3)  # Wilson, 1 of 2


def test_a_report_of_the_files_of_the_recipe_is_whole(own, tmp_path):
    """As tool_data.py writes them; a model that is right with tools alone."""
    talk = {
        "messages": [{"role": "user", "content": "I am 25."}, {"role": "assistant", "content": "Fine."}],
        "digits": 2,
    }
    for name, record in {"tools-heldout": item(), "tools-templates": item(), "tools-talk": talk}.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    answers = "[Begin]Calc[Param]12+30[End]It is 42.<eop>It is 41.<eop>It is 43.<eop>"
    found = measurement.measured(scripted(own, f"{answers}{answers}Fine.<eop>", Tools()), tmp_path)
    sets = found["tables"]["set"]
    assert list(sets) == ["seen kinds", "held-out wordings"]
    for columns in sets.values():
        rights = {name: (figures["right"], figures["of"]) for name, figures in columns.items()}
        assert rights == {**dict.fromkeys(measurement.COLUMNS, (1, 1)), "without": (0, 1), "oracle's calls": (0, 1)}
    assert found["needless calls"]["right"] == 0 and json.loads(json.dumps(found)) is not None
    assert measurement.tables(found).count("100.0 %") == 4 * 6


def test_tables_group_by_kind_and_length_of_numbers():
    hits = dict.fromkeys(measurement.COLUMNS, True)
    rows = [item(**hits), item(**{**hits, "used": None, "with tools": False, "digits": 12, "task": "series"})]
    by_digits = measurement.group(rows, measurement.digits_of)
    assert list(by_digits) == ["2", "10 and more"] and by_digits["10 and more"]["with tools"]["right"] == 0
    assert measurement.by_kind(rows)["series"]["used"]["of"] == 0
    text = measurement.tables({"tables": {"digits": by_digits}, "needless calls": measurement.share([False] * 300)})
    assert "| 10 and more | 1 | 0.0 % (0 to 79)" in text and "–" in text and "Needless calls: 0 of 300" in text


def test_reflection_is_measured_on_planted_answers_and_on_its_own(own):
    """Its own answer is right; the planted wrong one is found, told, and answered once more."""
    said = "The answer is 42.<eop>"
    assistant = scripted(own, said * 6, Tools())
    lines = reflection.measured(assistant, [item()])
    assert not assistant.script.left
    found = {(line["tools"], line["answers"], line["reflect"]): line["rows"][0] for line in lines}
    assert len(found) == 12
    spoken = len(with_marks(own, said))
    for (_, answers, reflect), row in found.items():
        wrong = answers == "planted, wrong"
        assert row["right"] == (not wrong or reflect) and row["found"] == (wrong and reflect)
        assert row["written"] == (spoken if answers == "own" or (wrong and reflect) else 0)
        told = own.encode("Check: 12+30=45 is wrong, 12+30=42. Please answer again.")
        assert row["read"] >= len(told) if row["found"] else row["read"] == 0
    assert reflection.tables(lines).count("100.0 %") == 2 * (2 + 1 + 1 + 2)


def test_an_answer_is_spoiled_in_its_last_number():
    assert reflection.spoiled("2 + 3 is 5.") == "2 + 3 is 8."
    assert reflection.spoiled("它是12/7。") == "它是12/0。"
    unspoilt = item(result="yes")
    assert not reflection.can_be_spoiled(unspoilt) and reflection.can_be_spoiled(item())
