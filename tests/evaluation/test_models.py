"""How a model is asked: choices together are choices alone, long texts lose nothing, kept answers are the same."""

import math

import pytest

from openglm.assistant import Assistant
from openglm.config import EngineConfig
from openglm.evaluation.kept import Kept
from openglm.evaluation.models import EngineModel, Query, Writing, windows

CHOICES = [
    " mat, and the dog lay by the door.",
    " a mat",
    " mat",
    "",
    "床前明月光",
    " door. How are you today? I am fine.",
]
QUERIES = [Query("The cat sat on the", one, blank=True) for one in CHOICES]
QUERIES += [Query("The cat sat on the", one, ", and the dog lay by the door.") for one in CHOICES[:3]]
QUERIES += [Query("", one) for one in CHOICES] + [Query("How are you today? ", one) for one in CHOICES]


@pytest.fixture(params=[dict(runner="auto"), dict(runner="torch"), dict(step_tokens=16, block_size=4, max_sequences=3)])
def model(request, toy):
    return EngineModel(Assistant(toy, device="cpu", engine=EngineConfig(**request.param)).engine)


def test_choices_in_one_pass_score_as_each_in_a_pass_of_its_own(model, toy):
    """GLM-130B's packed choices: those of one question share its prompt and see nothing of each other."""
    together = dict(model.likelihoods(QUERIES))
    for number, query in enumerate(QUERIES):
        alone = EngineModel(Assistant(toy, device="cpu").engine)
        [(_, one)] = alone.likelihoods([query])
        assert together[number].logprob == pytest.approx(one.logprob, abs=1e-5), query
        assert together[number].greedy == one.greedy


def test_each_token_of_a_long_text_is_foretold_once_from_at_most_a_context():
    for length in (0, 1, 9, 10, 11, 25, 100):
        pieces = list(windows(length, 10))
        assert [n for _, first, end in pieces for n in range(first, end)] == list(range(length))
        assert all(end - start <= 10 and (start == 0 or first - start >= 5) for start, first, end in pieces)


def test_a_short_texts_nats_are_its_likelihood(model):
    text = "The cat sat on the mat."
    [(_, (nats, tokens))] = model.nats([text])
    [(_, whole)] = model.likelihoods([Query("", text)])
    assert nats == pytest.approx(-whole.logprob, abs=1e-4) and tokens == len(model.tokenizer.encode(text))
    assert 0 < nats < tokens * math.log(1000)


def test_kept_answers_are_those_of_the_model_which_is_asked_nothing_twice(model, tmp_path):
    asked = [Writing("The cat", max_tokens=5), Writing("The cat", " mat", max_tokens=5), Writing("床前", max_tokens=5)]
    first = Kept(model, tmp_path / "answers")
    before = [sorted(first.likelihoods(QUERIES)), sorted(first.write(asked)), sorted(first.nats(["The cat", "sat"]))]
    second = Kept(model, tmp_path / "answers")
    second.model = type("Mute", (), {"likelihoods": _none, "write": _none, "nats": _none})()
    after = [sorted(second.likelihoods(QUERIES)), sorted(second.write(asked)), sorted(second.nats(["The cat", "sat"]))]
    assert [[(n, list(v) if isinstance(v, tuple) else v) for n, v in one] for one in before] == [
        [(n, list(v) if isinstance(v, tuple) else v) for n, v in one] for one in after
    ]


def _none(self, questions):
    assert not questions
    return iter(())
