"""Tools that the server runs: steps beside the text, streamed and whole; a client's own tools stay the client's."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from helpers.live import Live
from helpers.scripted import scripted, with_marks
from helpers.text_samples import TEXTS, VOCAB_SIZE

from openglm import Tools
from openglm.text import train_tokenizer

WRITTEN = "共[Begin]Solve[Param][333=3+(n-1)*3],[n][End]项，和是[Begin]Calc[Param](3+333)*111/2[End]，18648。<eop>"
SHOWN = "共项，和是，18648。"
USER = {"role": "user", "content": "和是多少？"}
STEPS = [("Solve", "[333=3+(n-1)*3],[n]", "n=111"), ("Calc", "(3+333)*111/2", "18648")]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    own = train_tokenizer(iter(TEXTS), VOCAB_SIZE, tmp_path_factory.mktemp("own"))
    live = Live(scripted(own, "", Tools()))
    yield live
    live.stop()


@pytest.fixture
def write(server):
    """Sets what the model writes next."""
    assistant = server.service.assistant
    return lambda text: assistant.script.left.extend(with_marks(assistant.tokenizer, text))


def facts(steps):
    return [(step["name"], step["arguments"], step["result"]) for step in steps]


def test_steps_come_beside_the_text_whole_and_streamed(server, write):
    write(WRITTEN)
    body = server.chat(max_tokens=200).json()
    message = body["choices"][0]["message"]
    assert message["content"] == SHOWN and facts(message["steps"]) == STEPS
    assert body["choices"][0]["finish_reason"] == "stop"
    write(WRITTEN)
    lines = server.chat(max_tokens=200, stream=True).text.split("\n\n")
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines if line.startswith("data: {")]
    assert "".join(delta.get("content") or "" for delta in deltas) == SHOWN
    assert facts(step for delta in deltas for step in delta.get("steps", ())) == STEPS
    order = [
        "step" if "steps" in delta else delta["content"] for delta in deltas if delta.get("content") or "steps" in delta
    ]
    assert order.index("step") < len(order) - 1, "a step is shown when it was made, not at the end"
    assert body["usage"]["completion_tokens"] == len(with_marks(server.service.assistant.tokenizer, WRITTEN))


def test_responses_show_steps_as_calls_of_their_own_servers(server, write):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0)
    ask = {"model": "toy", "input": [USER], "temperature": 0, "max_output_tokens": 200}
    write(WRITTEN)
    whole = client.responses.create(**ask)
    kinds = ["message", "mcp_call", "message", "mcp_call", "message"]
    assert [item.type for item in whole.output] == kinds and whole.output_text == SHOWN
    calls = [item for item in whole.output if item.type == "mcp_call"]
    assert [(one.name, json.loads(one.arguments)["input"], one.output) for one in calls] == STEPS
    write(WRITTEN)
    with client.responses.stream(**ask) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [item.type for item in final.output] == kinds and final.output_text == SHOWN
    ended = [one for one in events if one.type == "response.mcp_call.completed"]
    assert [one.output_index for one in ended] == [1, 3]
    write("好<eop>")
    talk = [USER, *[item.model_dump() for item in final.output], USER]
    assert client.responses.create(**{**ask, "input": talk}).output_text == "好"


def test_messages_show_steps_as_calls_of_their_own_servers(server, write):
    anthropic = pytest.importorskip("anthropic")
    client = anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=0)
    ask = {"model": "toy", "messages": [USER], "max_tokens": 200, "extra_body": {"temperature": 0}}
    pair = ["mcp_tool_use", "mcp_tool_result"]
    kinds = ["text", *pair, "text", *pair, "text"]
    write(WRITTEN)
    whole = client.beta.messages.create(**ask)
    write(WRITTEN)
    with client.beta.messages.stream(**ask) as stream:
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        content = message.content
        assert [block.type for block in content] == kinds
        assert "".join(block.text for block in content if block.type == "text") == SHOWN
        used, results = ([one for one in content if one.type == kind] for kind in pair)
        facts = [(one.name, one.input["input"], two.content[0].text) for one, two in zip(used, results, strict=True)]
        assert facts == STEPS and [one.id for one in used] == [two.tool_use_id for two in results]
    write("[Begin]Calc[Param]1/0[End]好<eop>")
    failed = client.beta.messages.create(**ask).content[1]
    assert failed.is_error and "division by zero" in failed.content[0].text
    write("好<eop>")
    history = [USER, {"role": "assistant", "content": [block.model_dump() for block in streamed.content]}, USER]
    assert client.beta.messages.create(**{**ask, "messages": history}).content[0].text == "好"


def test_ollama_tells_of_steps_among_the_thoughts(server, write):
    ollama = pytest.importorskip("ollama")
    client = ollama.Client(host=server.url)
    told = [f"{name} {arguments} → {result}" for name, arguments, result in STEPS]
    ask = {"model": "toy", "messages": [USER], "options": {"temperature": 0}}
    write(WRITTEN)
    message = client.chat(**ask).message
    assert (message.content, message.thinking.splitlines(), message.tool_calls) == (SHOWN, told, None)
    write(WRITTEN)
    parts = [part.message for part in client.chat(**ask, stream=True)]
    assert "".join(part.content for part in parts) == SHOWN
    assert "".join(part.thinking or "" for part in parts).splitlines() == told


def test_a_failed_step_says_so_and_the_answer_goes_on(server, write):
    write("[Begin]Calc[Param]1/0[End]好<eop>")
    message = server.chat(max_tokens=50).json()["choices"][0]["message"]
    assert message["content"] == "好" and message["steps"][0]["failed"]
    assert message["steps"][0]["result"] == "error: Calc: division by zero"


def test_an_answer_that_is_cut_off_has_its_reason(server, write):
    write("一二三四五六七八九十" * 3)
    body = server.chat(max_tokens=8).json()
    assert body["choices"][0]["finish_reason"] == "length" and body["usage"]["completion_tokens"] == 8
    server.service.assistant.script.left.clear()


def test_a_clients_own_tools_and_what_cannot_be_are_told_apart(server, write):
    for field in ({"n": 2}, {"logprobs": True}):
        answer = server.chat(**field)
        assert answer.status_code == 400 and answer.json()["error"]["param"] in field
    weather = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    write('weather\n{"city": "北京"}<|observation|>')
    choice = server.chat(tools=[weather], max_tokens=100).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls" and "steps" not in choice["message"]
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "weather"
    write("好<eop>")
    assert server.chat(tools=[], n=1, max_tokens=9).json()["choices"][0]["message"]["content"] == "好"


def test_a_wrong_answer_is_checked_and_given_again_whole_and_streamed(server):
    """With --reflect: what does not hold is never sent, the check is a step, and only the right answer is text."""
    assistant = scripted(server.service.assistant.tokenizer, "", reflect=True)
    ask = {"messages": [{"role": "user", "content": "12*34 = ?"}], "max_tokens": 60}
    live = Live(assistant)
    written = with_marks(assistant.tokenizer, "12*34 = 480.<eop>12*34 = 408.<eop>")
    try:
        assistant.script.left.extend(written)
        body = live.chat(**ask).json()
        message = body["choices"][0]["message"]
        assert message["content"] == "12*34 = 408." and body["choices"][0]["finish_reason"] == "stop"
        (step,) = message["steps"]
        assert step["name"] == "Check" and "480" in step["arguments"] and "408" in step["result"]
        assert body["usage"]["completion_tokens"] == len(written), "the first answer was generated too"
        assistant.script.left.extend(written)
        lines = live.chat(**ask, stream=True).text.splitlines()
        deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines if line.startswith("data: {")]
        assert "".join(delta.get("content") or "" for delta in deltas) == message["content"]
        assert facts(one for delta in deltas for one in delta.get("steps", ())) == facts([step])
        for field in ({"n": 2}, {"logprobs": True}):
            answer = live.chat(**ask, **field).json()["error"]
            assert answer["param"] in field and "--reflect" in answer["message"]
        assistant.script.left.extend(written)
        unchecked = live.chat(**ask, tools=[]).json()["choices"][0]["message"]
        assert unchecked["content"] == "12*34 = 480." and "steps" not in unchecked
    finally:
        live.stop()


def test_the_page_shows_each_step_in_a_place_of_its_own(server, write):
    """What the display counts is led back to the messages of the conversation."""
    pytest.importorskip("gradio")
    from openglm.serve.page import Page, Run, _index

    page = Page(server.app.app)

    async def say():
        return [update async for update in page.say("和是多少？", None, Run(), "", "", 0.0, 1.0, 200, False)]

    write(WRITTEN)
    _, display, store, *_ = asyncio.run_coroutine_threadsafe(say(), server.service._loop).result(60)[-1]
    messages = store["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] and messages[1]["content"] == SHOWN
    assert [tuple(step) for step in messages[1]["steps"]] == STEPS
    assert [row.get("metadata", {}).get("title") for row in display] == [None, "↪ Solve", "↪ Calc", None]
    assert "n=111" in display[1]["content"] and display[3]["content"] == SHOWN
    found = [_index(SimpleNamespace(index=index), [*messages, {"role": "user", "content": "?"}]) for index in range(6)]
    assert found == [0, 1, 1, 1, 2, 2]
