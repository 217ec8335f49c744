"""The measurement of answers from passages: SQuAD's figures, citations before and after correction, refusals."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.scripted import scripted
from helpers.text_samples import TEXTS, VOCAB_SIZE

from openglm.text import train_tokenizer
from openglm.web.citations import Source, supports, without_marks

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks/nano"))
import best_of
import passages as measurement
from passages import Item, exact, f1, figures, holds, shown

TOWER, RIVER = "The tower was built in 1889 by a company. It is old.", "Rivers are long. Some rivers freeze in winter."


def item(**more):
    sources = [Source("", "1", RIVER), Source("", "2", TOWER)]
    given = {
        "question": "When was the tower built?",
        "sources": sources,
        "answers": ("1889",),
        "right": [2],
        "group": "en",
    }
    return Item(**{**given, **more})


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return train_tokenizer(iter(TEXTS), VOCAB_SIZE, tmp_path_factory.mktemp("own"))


@pytest.mark.parametrize(
    ("said", "wanted", "equal", "overlap"),
    [  # worked out by hand from the definitions of SQuAD's evaluation
        ("The Eiffel Tower!", ("eiffel tower",), True, 1.0),
        ("built in 1889", ("in 1889", "1889"), False, 0.8),
        ("a cat", ("dog",), False, 0.0),
        ("cat cat dog", ("cat dog dog",), False, 2 / 3),
        ("", ("dog",), False, 0.0),
        ("在北京。", ("北京",), False, 0.8),
        ("北京", ("北京",), True, 1.0),
    ],
)
def test_exact_match_and_f1_are_squads(said, wanted, equal, overlap):
    assert exact(said, wanted) == equal and f1(said, wanted) == pytest.approx(overlap)


def test_an_answer_holds_whole_words_alone():
    assert holds("It was built in 1889.", ("1889",)) and not holds("It was built in 18890.", ("1889",))
    assert holds("大会在北京召开", ("北京",)) and not holds("", ("北京",))


def test_citations_are_counted_before_and_after_their_correction(own):
    """The model cites the river for the tower; the check knows better."""
    one = item()
    assistant = scripted(own, "The tower was built in 1889 [1].<eop>It is new.<eop>")
    assert measurement.answer(assistant, [one]) == 1
    assert not assistant.script.left
    found = figures([one])
    before, after = found["as it is"]["citations"], found["corrected"]["citations"]
    assert (before["right"], before["of"], after["right"], after["of"]) == (0, 1, 1, 1)
    assert one.said["corrected"] == "The tower was built in 1889 [2]." and one.said["no passages"] == "It is new."
    assert found["as it is"]["holds"]["right"] == 1 and found["no passages"]["holds"]["right"] == 0


def test_the_passages_stand_in_one_prompt_and_not_in_the_other(own):
    assistant = scripted(own, "Yes.<eop>No.<eop>")
    measurement.answer(assistant, [item()])
    first, second = assistant.script.computed[0], assistant.script.computed
    texts = [own.decode(step) for step in second if len(step) > 1]
    assert len(first) > 1 and any("Reference [2]: The tower" in text for text in texts)
    assert any("When was the tower built?" in text and "Reference" not in text for text in texts)


def test_refusals_count_apart_where_no_passage_has_the_answer():
    told, untold = item(), item(answers=(), right=[])
    for one in (told, untold):
        one.said = {"as it is": f" {one.refusal} "}
    found = figures([told, untold])["as it is"]
    assert (found["refused"]["right"], found["refused"]["of"]) == (1, 1)
    assert (found["refused rightly"]["right"], found["refused rightly"]["of"]) == (1, 1)
    assert found["exact"]["of"] == 1 and found["citations"]["of"] == 0 and shown(found["citations"]) == "–"


def test_bm25_alone_copies_and_cites_what_it_copies():
    said = measurement.by_rank(item())
    assert said["first sentence"] == "The tower was built in 1889 by a company [2]."
    assert said == measurement.by_rank(item(question="tower built")) and set(said) < set(measurement.WAYS)
    for text in measurement.by_rank(item(question="xyzzy")).values():
        assert supports(RIVER, without_marks(text)), "where no word is known it is the first passage"


def test_intervals_hold_the_mean_and_narrow_with_more_questions():
    few, many = measurement.mean([0.0, 1.0] * 10), measurement.mean([0.0, 1.0] * 500)
    for one in (few, many):
        assert one["low"] < one["mean"] == 0.5 < one["high"]
    assert many["high"] - many["low"] < 0.1 < few["high"] - few["low"]


def test_a_report_is_whole(own, tmp_path):
    """As passage_data.py and squad_shifts write them."""
    one = {"question": "Who?", "sources": [TOWER], "answer": "A company.", "right": [1], "language": "en"}
    path = tmp_path / "passages-heldout.jsonl"
    path.write_text(json.dumps(one) + "\n", encoding="utf-8")
    answers = [{"text": "1889"}, {"text": "in 1889"}]
    paragraphs = [
        {"context": TOWER, "qas": [{"question": "When was the tower built?", "answers": answers}]},
        {"context": RIVER, "qas": [{"question": "What about zebras?", "answers": answers}]},
    ]
    (tmp_path / "nyt_v1.0.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")
    sets = {"held out": lambda: measurement.held_out(path, 9), "squad_shifts": lambda: measurement.squad(tmp_path, 9)}
    found = measurement.measured(scripted(own, "A company [1].<eop>" * 6), sets)
    held, squad = found["held out"], found["squad_shifts"]
    assert held["figures"]["as it is"]["exact"]["right"] == 1 and held["right passage shown"] == 1
    assert [row["question"] for row in squad["rows"]] == ["When was the tower built?"], (
        "the other's passage is not found"
    )
    assert squad["rows"][0]["answers"] == ("1889", "in 1889") and json.loads(json.dumps(found))
    assert "held out, 1 with an answer" in measurement.report("held out", held["figures"])


def test_of_the_passages_those_stay_that_share_most_words_with_the_question():
    assert measurement.cut(item(), 1) == item(sources=[Source("", "2", TOWER)], right=[1])
    assert measurement.cut(item(question="Winter?"), 1) == item(
        question="Winter?", sources=[Source("", "1", RIVER)], right=[]
    )
    assert len(measurement.cut(item(question="Zebras?"), 5).sources) == 2, "none is lost where no word is shared"


def test_answers_to_one_question_are_compared_as_they_are_shown():
    """A wrong number is corrected, so it makes no pair; a wrong sentence and a refusal are worse alike."""
    wanted = "The tower was built in 1889 by a company [2]."
    said = [wanted, wanted.replace("2", "1"), "Some rivers freeze in winter [1].", "Zebras sing to me daily."]
    record = {"question": "When was the tower built?", "sources": [RIVER, TOWER], "prompt": "...", "wanted": wanted}
    answers = best_of.Answers({**record, "said": [(text, 0.0) for text in said]})
    assert answers.grades.tolist() == [2, 2, 0, 0] and answers.refused.tolist() == [False, False, False, True]
    assert answers.supported.tolist() == [True, False, True, False]
    assert [(pair["chosen"], pair["rejected"]) for pair in answers.pairs()] == [
        (wanted, answers.texts[n]) for n in (2, 3)
    ]
    assert best_of.order([answers], [np.array([1.0, 1.0, 0.0, 2.0])]) == "50.0 % of 2 pairs"
    assert best_of.beyond(np.array([1.0, 1.5]), 0.4) == 1 and best_of.beyond(np.array([1.0, 1.5]), 0.6) == 0
