"""Stop strings, whole characters and constrained answers: all by the text of tokens, wherever their borders lie."""

import json
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm import Engine, SamplingParams, load_model, load_tokenizer
from openglm.config import EngineConfig
from openglm.engine.text import TextStream


class Pieces:
    """A tokenizer whose tokens are these bytes."""

    def __init__(self, pieces):
        self.pieces, self.vocab_size = pieces, len(pieces)

    def decoder(self):
        return self.pieces.__getitem__


@given(st.text("ab月\n", max_size=30), st.lists(st.text("ab月", min_size=1, max_size=4), max_size=3), st.data())
@settings(max_examples=300, deadline=None)
def test_stops_are_found_however_the_text_is_cut(text, stops, data):
    """Fed in pieces of any bytes, the text up to the stop string that is complete first; nothing of a stop string is ever shown."""
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=8)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    stream, shown, stopped = TextStream(Pieces(pieces), tuple(stops)), "", False
    ends = [(raw.find(s.encode()) + len(s.encode()), -len(s.encode())) for s in stops if s in text]
    end, length = min(ends, default=(len(raw), 0))
    expected = raw[: end + length].decode()
    for number in range(len(pieces)):
        piece, stopped = stream.feed(number)
        shown += piece
        assert expected.startswith(shown)
        if stopped:
            break
    assert stopped == bool(ends)
    assert shown + stream.end() == expected == "".join(stream.pieces)


def test_half_a_character_is_held_back_and_broken_at_the_end_only():
    stream = TextStream(Pieces([bytes([i]) for i in range(256)]), ())
    assert [stream.feed(byte)[0] for byte in "月a".encode() + b"\xe6"] == ["", "", "月", "a", ""]
    assert stream.feed(999) == ("", False), "a row of the model without a token"
    assert stream.end() == "\ufffd"


@pytest.fixture(scope="module")
def talker(toy):
    return Engine(load_model(toy, device="cpu"), EngineConfig(block_size=4), tokenizer=load_tokenizer(toy))


HELLO = [7, 30, 40, 8, 2, 4]


def test_events_and_result_carry_the_text_of_the_tokens(talker):
    params = SamplingParams(max_tokens=24, ignore_eos=True, temperature=1.5, seed=3)
    events = list(talker.stream(HELLO, params))
    result = events[-1].result
    assert "".join(e.text for e in events) == result.text == talker.tokenizer.decode(result.ids)


def test_a_stream_that_is_cancelled_ends(talker):
    stream = talker.stream(HELLO, SamplingParams(max_tokens=20, ignore_eos=True, logprobs=1))
    first = next(stream)
    assert talker.cancel(first.id).ids == [first.token] and first.logprob.token == first.token
    assert [e.result.finish_reason for e in stream] == ["cancelled"]


def test_a_stop_string_ends_the_answer_and_is_left_out(talker):
    params = dict(max_tokens=40, ignore_eos=True, temperature=1.5, seed=3)
    free = talker.generate([HELLO], SamplingParams(**params))[0].text
    stop = re.findall(r"[a-z, ]{3,}", free)[1][:3]
    assert free.index(stop) > 3
    result = talker.generate([HELLO], SamplingParams(**params, stop=(stop, "never said")))[0]
    assert result.finish_reason == "stop" and result.text == free[: free.index(stop)]


def test_a_stop_string_that_never_comes_ends_with_the_tokens(talker):
    """The beginning of a stop string that is never completed belongs to the answer."""
    params = dict(max_tokens=20, ignore_eos=True, temperature=1.5, seed=3)
    free = talker.generate([HELLO], SamplingParams(**params))[0].text
    result = talker.generate([HELLO], SamplingParams(**params, stop=free[-2:] + "x"))[0]
    assert (result.finish_reason, result.text) == ("length", free)


FIELDS = {"name": {"enum": ["月", "cat"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}}
SCHEMA = {"type": "object", "properties": FIELDS, "required": ["name", "count"], "additionalProperties": False}


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("schema", [SCHEMA, json.dumps(SCHEMA)])
def test_an_answer_follows_its_schema_among_free_ones(talker, temperature, schema):
    pytest.importorskip("llguidance")
    free = SamplingParams(max_tokens=30, ignore_eos=True)
    held = SamplingParams(max_tokens=60, schema=schema, temperature=temperature, seed=1)
    alone = talker.generate([HELLO], free)[0].ids
    first, bound, last = talker.generate([HELLO, HELLO, HELLO], [free, held, free])
    assert first.ids == last.ids == alone
    value = json.loads(bound.text)
    assert bound.finish_reason == "stop" and value["name"] in ("月", "cat") and 0 <= value["count"] <= 99


def test_an_answer_matches_its_expression_also_when_guessed_ahead(talker):
    pytest.importorskip("llguidance")
    guessing = Engine(talker.model, EngineConfig(draft_tokens=4), tokenizer=talker.tokenizer)
    params = SamplingParams(max_tokens=50, regex="(ab){12}c[0-9]{3}", temperature=1.0, seed=5)
    one, two = talker.generate([HELLO], params)[0], guessing.generate([HELLO], params)[0]
    assert one.ids == two.ids and one.text[:25] == "ab" * 12 + "c" and one.text[25:].isdecimal() and len(one.text) == 28


def test_a_missing_library_is_an_error_of_that_request(talker, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ValueError, match=r"pip install 'openglm\[serve\]'"):
        Engine(talker.model, tokenizer=talker.tokenizer).add_request(HELLO, SamplingParams(regex="a"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"schema": {"type": "nonsense"}}, {"schema": "{not json"}, {"schema": "[1]"}, {"regex": "(("}, {"schema": {"$ref": "#/missing"}},
        {"schema": {"type": "string", "pattern": "(("}}, {"schema": {"minimum": {1, 2}}},
    ],
)  # fmt: skip
def test_a_schema_that_is_none_is_an_error_of_its_own(talker, wrong):
    pytest.importorskip("llguidance")
    free = SamplingParams(max_tokens=8, ignore_eos=True)
    results = talker.generate([HELLO, HELLO], [SamplingParams(**wrong), free])
    assert next(iter(wrong)) in results[0].error and "\n" not in results[0].error
    assert results[1].ids == talker.generate([HELLO], free)[0].ids
