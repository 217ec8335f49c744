"""Clients that exist, against a live server in a process of its own: the openai package, LangChain, readers of server-sent events, schemathesis."""

import contextlib
import json
import os

import httpx
import pytest
from helpers.live import start_server

openai = pytest.importorskip("openai")
USER = {"role": "user", "content": "你好，你是谁？"}
UNIT = {
    "type": "object",
    "properties": {"unit": {"enum": ["C", "F"]}},
    "required": ["unit"],
    "additionalProperties": False,
}
WEATHER = {"name": "get_weather", "description": "weather", "parameters": UNIT}
TOOLS = [{"type": "function", "function": WEATHER}]


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    process, url = start_server(
        tmp_path_factory.mktemp("nano") / "said", "nano", "--page", "--no-feedback", "--api-key", "k"
    )
    yield url
    process.terminate()
    process.join(15)
    assert process.exitcode is not None


@pytest.fixture(scope="module")
def client(nano):
    return openai.OpenAI(base_url=f"{nano}/v1", api_key="k", max_retries=0)


def test_openai_chat_and_stream(client):
    whole = client.chat.completions.create(model="nano", messages=[USER], temperature=0, max_tokens=40)
    stream = list(
        client.chat.completions.create(
            model="nano",
            messages=[USER],
            temperature=0,
            max_tokens=40,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert whole.choices[0].message.content == "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    assert stream[-1].usage.completion_tokens == whole.usage.completion_tokens and [
        m.id for m in client.models.list()
    ] == ["nano"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_openai_tools_whole_and_streamed(client, choice):
    two = [*TOOLS, {"type": "function", "function": {"name": "get.time", "parameters": {"enum": [{}]}}}]
    answer = client.chat.completions.create(
        model="nano", messages=[USER], tools=two, tool_choice=choice, temperature=0
    ).choices[0]
    (call,) = answer.message.tool_calls
    assert (
        call.function.name in ("get_weather", "get.time")
        and isinstance(json.loads(call.function.arguments), dict)
        and answer.finish_reason == "tool_calls"
    )
    with client.chat.completions.stream(
        model="nano", messages=[USER], tools=TOOLS, tool_choice="required", temperature=0
    ) as stream:
        final = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert final.function.name == "get_weather" and json.loads(final.function.arguments)["unit"] in ("C", "F")
    history = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    assert client.chat.completions.create(model="nano", messages=history, tools=TOOLS, max_tokens=4).choices


def test_openai_json_schema(client):
    pydantic = pytest.importorskip("pydantic")

    class Poem(pydantic.BaseModel):
        good: bool
        lines: int = pydantic.Field(ge=0, le=9)

    parsed = (
        client.chat.completions.parse(model="nano", messages=[USER], response_format=Poem, temperature=0)
        .choices[0]
        .message.parsed
    )
    assert isinstance(parsed, Poem) and 0 <= parsed.lines <= 9


def test_openai_completions_with_a_suffix(client):
    answer = client.completions.create(
        model="nano", prompt="床前明", suffix="光，疑是地上霜。", max_tokens=4, temperature=0, logprobs=2
    )
    assert answer.choices[0].text and answer.choices[0].logprobs.token_logprobs[0] <= 0


def test_openai_errors(client, nano):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="nano", messages=[USER], temperature=9)
    assert error.value.param == "temperature" and error.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-9", messages=[USER])
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{nano}/v1", api_key="x", max_retries=0).models.list()


def test_a_reader_of_lines_sees_each_event_whole(nano):
    """As an SSE reader without a library does it: chunks of any size, events between blank lines."""
    body = {"messages": [USER], "stream": True, "max_tokens": 12, "n": 2}
    with httpx.stream(
        "POST", f"{nano}/v1/chat/completions", json=body, headers={"Authorization": "Bearer k"}
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = "".join(answer.iter_text(chunk_size=7))
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""] and all(
        json.loads(one.removeprefix("data: "))["choices"] for one in events[:-2]
    )


def test_langchain(nano):
    chat = pytest.importorskip("langchain_openai").ChatOpenAI(
        base_url=f"{nano}/v1", api_key="k", model="nano", temperature=0, max_tokens=30
    )
    whole = chat.invoke([("system", "short"), ("user", "你好")])
    assert (
        whole.content == "".join(piece.content for piece in chat.stream([("system", "short"), ("user", "你好")]))
        and whole.usage_metadata["output_tokens"] > 0
    )
    tool = {"type": "function", "function": WEATHER}
    assert chat.bind_tools([tool], tool_choice="get_weather").invoke("你好").tool_calls[0]["args"]["unit"] in ("C", "F")


def test_langchain_batches(nano):
    """As it sends them by itself: 20 prompts at once."""
    made = pytest.importorskip("langchain_openai").OpenAI(
        base_url=f"{nano}/v1", api_key="k", model="nano", max_tokens=1
    )
    assert len(made.generate(["好"] * 20).generations) == 20


def test_schemathesis_finds_no_server_error(nano):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable

    schema = schemathesis.openapi.from_url(f"{nano}/openapi.json", headers={"Authorization": "Bearer k"})
    strategies = [
        operation.ok().as_strategy(generation_mode=mode)
        for operation in schema.get_all_operations()
        for mode in schemathesis.GenerationMode
    ]
    assert len(strategies) > 15
    for strategy in strategies:

        @settings(
            max_examples=int(os.environ.get("SCHEMATHESIS_EXAMPLES", 6)),
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            database=None,
        )
        @given(case=strategy)
        def ask(case):
            answer = case.call(base_url=nano, headers={"Authorization": "Bearer k"}, timeout=30)
            assert answer.status_code < 500, (case.method, case.path, case.body, answer.status_code)

        with contextlib.suppress(Unsatisfiable):  # a path that takes nothing has nothing that could be wrong
            ask()
    assert httpx.get(f"{nano}/health").status_code == 200
