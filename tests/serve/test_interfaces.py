"""Other interfaces over the same path: their own clients read them, and what they say is what chat completions say."""

import json

import pytest
from helpers.live import Live

from openglm.assistant import Assistant
from openglm.serve import anthropic as messages_api
from openglm.serve import ollama as ollama_api
from openglm.serve import responses as responses_api
from openglm.serve.blocks import Blocks, as_chat
from openglm.serve.choices import new_call

USER = {"role": "user", "content": "你好，你是谁？"}
UNIT = {"type": "object", "properties": {"unit": {"enum": ["C", "F"]}}, "required": ["unit"], "additionalProperties": False}  # fmt: skip
TOOL = {"name": "get_weather", "description": "weather", "parameters": UNIT}


@pytest.fixture(scope="module")
def nano():
    server = Live(Assistant("nano", device="cpu"), page=True, aliases=("claude-x",))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def said(nano):
    """The oracle: what chat completions answer."""
    return nano.chat(messages=[USER], max_tokens=12).json()


def test_responses_whole_and_streamed(nano, said):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{nano.url}/v1", api_key="k", max_retries=0)
    ask = {"model": "toy", "input": USER["content"], "temperature": 0, "max_output_tokens": 12}
    whole = client.responses.create(**ask)
    assert whole.output_text == said["choices"][0]["message"]["content"]
    assert whole.usage.output_tokens == said["usage"]["completion_tokens"]
    cut = said["choices"][0]["finish_reason"] == "length"
    assert whole.status == ("incomplete" if cut else "completed")
    events = list(client.responses.create(**ask, stream=True))
    final = events[-1].response
    assert (final.output_text, final.status) == (whole.output_text, whole.status)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(one.delta for one in events if one.type == "response.output_text.delta") == whole.output_text


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_responses_call_tools_and_go_on(nano, choice):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{nano.url}/v1", api_key="k", max_retries=0)
    ask = {"model": "toy", "input": [USER], "temperature": 0, "tools": [{"type": "function", **TOOL}], "tool_choice": choice}  # fmt: skip
    (called,) = client.responses.create(**ask).output
    assert called.type == "function_call" and json.loads(called.arguments)["unit"] in "CF"
    with client.responses.stream(**ask) as stream:
        assert stream.get_final_response().output[0].arguments == called.arguments
    result = {"type": "function_call_output", "call_id": called.call_id, "output": "sunny"}
    more = client.responses.create(model="toy", input=[USER, called.model_dump(), result], tools=ask["tools"], max_output_tokens=4)  # fmt: skip
    assert more.output_text


def test_responses_follow_a_schema_and_store_nothing(nano):
    openai, pydantic = pytest.importorskip("openai"), pytest.importorskip("pydantic")

    class Poem(pydantic.BaseModel):
        good: bool
        lines: int = pydantic.Field(ge=0, le=9)

    client = openai.OpenAI(base_url=f"{nano.url}/v1", api_key="k", max_retries=0)
    parsed = client.responses.parse(model="toy", input="x", text_format=Poem, temperature=0, max_output_tokens=40)
    assert isinstance(parsed.output_parsed, Poem)
    with pytest.raises(openai.BadRequestError, match="nothing is stored"):
        client.responses.create(model="toy", input="x", previous_response_id="resp_1")


def test_messages_whole_and_streamed(nano, said):
    anthropic = pytest.importorskip("anthropic")
    client = anthropic.Anthropic(base_url=nano.url, api_key="k", max_retries=0)
    ask = {"model": "claude-x", "messages": [USER], "extra_body": {"temperature": 0}, "max_tokens": 12}
    whole = client.messages.create(**ask)
    assert whole.content[0].text == said["choices"][0]["message"]["content"]
    assert whole.stop_reason == ("max_tokens" if said["choices"][0]["finish_reason"] == "length" else "end_turn")
    assert whole.usage.output_tokens == said["usage"]["completion_tokens"]
    with client.messages.stream(**ask) as stream:
        assert "".join(stream.text_stream) == whole.content[0].text
        assert stream.get_final_message().stop_reason == whole.stop_reason
    assert (
        client.messages.count_tokens(model="claude-x", messages=[USER]).input_tokens == said["usage"]["prompt_tokens"]
    )
    begun = client.messages.create(**{**ask, "messages": [USER, {"role": "assistant", "content": "I am"}]})
    assert begun.content[0].text
    with pytest.raises(anthropic.BadRequestError) as error:
        client.messages.create(**{**ask, "extra_body": {"temperature": 9}})
    assert error.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**{**ask, "model": "claude-y"})


def test_messages_call_tools_and_go_on(nano):
    anthropic = pytest.importorskip("anthropic")
    client = anthropic.Anthropic(base_url=nano.url, api_key="k", max_retries=0)
    tools = [{"name": "get_weather", "description": "weather", "input_schema": UNIT}]
    ask = {"model": "toy", "messages": [USER], "extra_body": {"temperature": 0}, "max_tokens": 40, "tools": tools, "tool_choice": {"type": "any"}}  # fmt: skip
    whole = client.messages.create(**ask)
    (called,) = whole.content
    assert called.type == "tool_use" and called.input["unit"] in "CF" and whole.stop_reason == "tool_use"
    with client.messages.stream(**ask) as stream:
        assert stream.get_final_message().content[0].input == called.input
    result = {"type": "tool_result", "tool_use_id": called.id, "content": [{"type": "text", "text": "sunny"}]}
    history = [USER, {"role": "assistant", "content": [called.model_dump()]}, {"role": "user", "content": [result, {"type": "text", "text": "go on"}]}]  # fmt: skip
    assert client.messages.create(model="toy", system="be brief", messages=history, tools=tools, max_tokens=4).content


def test_ollama_whole_and_streamed(nano, said):
    ollama = pytest.importorskip("ollama")
    client = ollama.Client(host=nano.url)
    expected = said["choices"][0]["message"]["content"]
    ask = {"model": "toy:latest", "messages": [USER], "options": {"temperature": 0, "num_predict": 12, "seed": -1}}
    whole = client.chat(**ask)
    assert whole.message.content == expected and whole.eval_count == said["usage"]["completion_tokens"] and whole.done
    parts = list(client.chat(**ask, stream=True))
    assert "".join(part.message.content for part in parts) == expected and parts[-1].done_reason == whole.done_reason
    options = ask["options"]
    assert client.generate(model="toy", prompt=USER["content"], options=options).response == expected
    fill = client.generate(
        model="toy", prompt="床前明", suffix="光，疑是地上霜。", options={**options, "num_predict": 4}
    )
    plain = {"prompt": "床前明", "suffix": "光，疑是地上霜。", "temperature": 0, "max_tokens": 4}
    assert fill.response == nano.client.post("/v1/completions", json=plain).json()["choices"][0]["text"]
    raw = list(client.generate(model="toy", prompt="床前明月光，", raw=True, options=options, stream=True))
    assert "".join(part.response for part in raw) and raw[-1].done
    shaped = client.chat(model="toy", messages=[USER], format=UNIT, options=options)
    assert json.loads(shaped.message.content)["unit"] in "CF"
    assert [one.model for one in client.list().models] == ["toy", "claude-x"]
    assert client.show("toy").modelinfo["glm.context_length"] == nano.service.assistant.context
    assert client.chat(model="toy", messages=[]).done_reason == "load"
    with pytest.raises(ollama.ResponseError):
        client.chat(model="llama9", messages=[USER])


def test_ollama_takes_json_under_any_type_but_not_from_pages(nano):
    """As curl sends it, and clients that name no type."""
    body = json.dumps({"model": "toy", "messages": [USER], "stream": False, "options": {"num_predict": 1}}).encode()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for head in ({}, form, {"Content-Type": "text/plain"}):
        assert nano.client.post("/api/chat", content=body, headers=head).status_code == 200
    assert nano.client.post("/api/chat", content=body, headers={**form, "Origin": nano.url}).status_code == 415
    assert (
        nano.client.post("/api/chat", content=body, headers={**form, "Origin": "http://evil.test"}).status_code == 403
    )
    assert nano.client.post("/v1/chat/completions", content=body, headers=form).status_code == 415


def test_streams_of_blocks_add_up(nano):
    """Thoughts, text and calls in any cut: what begins ends, in order, and texts add up to the whole message."""
    calls = [{"index": n, "id": f"c{n}", "function": {"name": "f", "arguments": ""}} for n in range(2)]
    deltas = [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "a"},
        {"reasoning_content": "b"},
        {"content": "c"},
    ]
    deltas += [{"tool_calls": [calls[0]]}, {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}, {"tool_calls": [calls[1]]}, None]  # fmt: skip
    blocks = Blocks()
    steps = [step for delta in deltas for step in blocks.feed(delta)]
    assert [(block.kind, block.text) for block in blocks] == [("thoughts", "ab"), ("text", "c"), ("call", "{}"), ("call", "")]  # fmt: skip
    for number, block in enumerate(blocks):
        own = [(kind, text) for kind, one, text in steps if one is block]
        assert block.number == number and own[0][0] == "begin" and own[-1][0] == "end"
        assert "".join(text for _, text in own) == block.text
    for form in (responses_api.Responses({}, "m"), messages_api.Messages("m")):
        events = [fields for step in steps for fields in form.events(*step)]
        assert json.dumps(events) and len(events) >= len(steps)


def test_conversations_become_the_same_messages():
    """The same talk in three interfaces' words is one request in ours."""
    arguments = {"unit": "C"}
    talk = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "let me see", "reasoning_content": "hm", "tool_calls": [new_call("get_weather", json.dumps(arguments), "c")]},
        {"role": "tool", "tool_call_id": "c", "content": "sunny"},
        {"role": "user", "content": "thanks"},
    ]  # fmt: skip
    responses = {
        "instructions": "be brief",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "let me see"}]},
            {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": json.dumps(arguments)},
            {"type": "function_call_output", "call_id": "c", "output": "sunny"},
            {"role": "user", "content": "thanks"},
        ],
    }
    use = {"type": "tool_use", "id": "c", "name": "get_weather", "input": arguments}
    messages = {
        "system": [{"type": "text", "text": "be brief"}],
        "max_tokens": 5,
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "let me see"}, use]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "sunny"}, {"type": "text", "text": "thanks"}]},
        ],
    }  # fmt: skip
    for translate, body in ((responses_api.asked, responses), (messages_api.asked, messages)):
        assert translate(body)["messages"] == talk
    plain = [{**one} for one in talk]
    plain[2] = {"role": "assistant", "content": "let me see", "thinking": "hm", "tool_calls": [{"function": {"name": "get_weather", "arguments": arguments}}]}  # fmt: skip
    found = as_chat(ollama_api.asked, {"messages": plain}).messages
    assert [one.content for one in found] == [one["content"] for one in talk]
    assert found[2].reasoning_content == "hm" and json.loads(found[2].tool_calls[0].function.arguments) == arguments


ODD = [None, 1, "x", [], [1], {}, {"type": "king"}, [{"type": "image"}], [[]], True, {"a": [None]}]
FIELDS = {
    "/v1/responses": [
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "text",
        "reasoning",
        "max_output_tokens",
        "stream",
    ],
    "/v1/messages": [
        "messages",
        "system",
        "tools",
        "tool_choice",
        "thinking",
        "stop_sequences",
        "max_tokens",
        "stream",
    ],
    "/api/chat": ["messages", "tools", "format", "options", "think", "model", "stream"],
    "/api/generate": ["prompt", "suffix", "system", "format", "options", "raw"],
    "/api/show": ["model"],
    "/tokenize": ["prompt", "messages", "tools"],
    "/detokenize": ["tokens"],
}
GOOD = {
    "/v1/responses": {"input": "hi", "max_output_tokens": 1},
    "/v1/messages": {"messages": [USER], "max_tokens": 1},
    "/api/chat": {"messages": [USER], "options": {"num_predict": 1}},
    "/api/generate": {"prompt": "hi", "options": {"num_predict": 1}},
}


@pytest.mark.parametrize("path,field", [(path, field) for path, fields in FIELDS.items() for field in fields])
def test_odd_values_never_harm(nano, path, field):
    for value in ODD:
        answer = nano.client.post(path, json={**GOOD.get(path, {}), field: value})
        assert answer.status_code in (200, 400, 404), (path, field, value, answer.text)


def test_texts_as_tokens_and_back(nano):
    tokenizer = nano.service.assistant.tokenizer
    ids = nano.client.post("/tokenize", json={"content": "床前明月光"}).json()["tokens"]
    assert ids == tokenizer.encode("床前明月光")
    assert nano.client.post("/tokenize", json={"prompt": "床前明月光", "model": "toy"}).json()["count"] == len(ids)
    back = nano.client.post("/detokenize", json={"tokens": ids}).json()
    assert back["content"] == back["prompt"] == "床前明月光"
    asked = nano.client.post("/tokenize", json={"messages": [USER]}).json()["tokens"]
    assert asked == nano.service.assistant.chat_prompt([USER])[0]
    assert nano.client.post("/detokenize", json={"tokens": [10**9]}).status_code == 400
