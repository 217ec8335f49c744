"""Constrained answers are whole JSON whatever the model would write, and their numbers fit a double."""

import json
import re

import pytest
import torch

from openglm.checkpoints.native import resolve
from openglm.engine.closing import Place, digits_ahead
from openglm.engine.constrain import Constraint, Vocabulary
from openglm.engine.params import SamplingParams
from openglm.engine.sampling import Sampler
from openglm.text import load_tokenizer

pytest.importorskip("llguidance")
STRING, WHOLE = {"type": "string"}, {"type": "integer"}
ORDER = {
    "type": "object",
    "properties": {"name": STRING, "n": WHOLE, "tags": {"type": "array", "items": STRING, "minItems": 2}},
    "required": ["name", "n", "tags"],
    "additionalProperties": False,
}
LIST = {
    "type": "object",
    "properties": {"v": {"type": "number"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["v", "next"],
}
OPTIONAL = {
    "type": "object",
    "properties": {
        "d": {"type": "string", "format": "date"},
        "o": {"type": "object", "properties": {"k": {"enum": ["alpha", "beta"]}, "p": {"type": "string", "pattern": "^[a-z]{9}$"}}, "required": ["k", "p"]},
    },
    "required": ["d"],
}  # fmt: skip
ANYTHING = {"type": "object"}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(resolve("nano"))


@pytest.fixture(scope="module")
def vocabulary(tokenizer):
    return Vocabulary(tokenizer, tuple(tokenizer.stop))


def babble(tokenizer, vocabulary, params, likes=()):
    """What a model writes that knows nothing, or likes some tokens above all others."""
    constraint = Constraint(vocabulary, params)
    sampler = Sampler(params, [1], tokenizer.vocab_size, constraint)
    noise = torch.Generator().manual_seed(params.seed)
    ids = []
    while len(ids) < params.max_tokens and not constraint.finished:
        logits = torch.randn(tokenizer.vocab_size, generator=noise)
        logits[list(likes)] += 9
        ids.append(sampler.sample(logits, 0, 0.0))
        sampler.accept(ids[-1])
        if ids[-1] in tokenizer.stop:
            break
    return b"".join(tokenizer.decode_bytes([token]) for token in ids if token not in tokenizer.stop).decode()


@pytest.mark.parametrize("schema", [ORDER, LIST, OPTIONAL, ANYTHING, STRING, {"type": "array", "items": {}}], ids=str)
@pytest.mark.parametrize("most", [36, 37, 40, 64])
def test_json_is_whole_before_the_tokens_run_out(tokenizer, vocabulary, schema, most):
    """The tokens liked above all open what must be closed, or never end what was begun."""
    opening = [number for number, text in enumerate(vocabulary.tokens) if text and set(text) <= set(b'{["a ,')]
    for seed in range(3):
        for likes in ((), opening):
            params = SamplingParams(max_tokens=most, temperature=1.0, seed=seed, schema=schema)
            json.loads(babble(tokenizer, vocabulary, params, likes))


def test_a_name_that_fits_is_chosen_where_few_tokens_are_left(tokenizer, vocabulary):
    names = ["get_the_weather_of_tomorrow_in_another_town", "get"]
    for seed in range(4):
        params = SamplingParams(max_tokens=9, temperature=1.0, seed=seed, regex="|".join(names))
        assert babble(tokenizer, vocabulary, params) in names


def test_numbers_stay_within_sixteen_digits(tokenizer, vocabulary):
    digits = [number for number, text in enumerate(vocabulary.tokens) if re.fullmatch(rb"[0-9.eE+-]+", text)]
    for seed in range(6):
        params = SamplingParams(max_tokens=200, temperature=1.0, seed=seed, schema={"type": "array", "items": {"type": "number"}, "minItems": 3})  # fmt: skip
        text = babble(tokenizer, vocabulary, params, digits)
        assert json.loads(text)
        for number in re.findall(r"[0-9.eE+-]+", text):
            assert sum(map(str.isdigit, number)) <= 16 and "e" not in number.lower(), text


def test_what_a_schema_demands_outranks_the_length_of_numbers(tokenizer, vocabulary):
    params = SamplingParams(max_tokens=40, temperature=1.0, seed=1, schema={"const": 10**19})
    assert babble(tokenizer, vocabulary, params) == str(10**19)


def test_digits_in_strings_are_no_numbers():
    place = Place()
    place.feed(b'{"a\\"1": 12')
    assert (place.quoted, place.digits) == (False, 2)
    place.feed(b'.5, "99\\\\')
    assert (place.quoted, place.digits) == (True, 0)
    assert [digits_ahead(text) for text in (b"12,3", b".5", b"5.", b"e", b"1e", b"x1", b"")] == [2, 1, 2, 16, 17, 0, 0]
