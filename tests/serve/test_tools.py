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


def test_the_page_shows_each_step_in_a_place_of_its_own(server, write):
    """What the display counts is led back to the messages of the conversation."""
    pytest.importorskip("gradio")
    from openglm.serve.page import Page, Run, _index

    page = Page(server.app.app)

    async def say():
        return [update async for update in page.say("和是多少？", None, Run(), "", "", 0.0, 1.0, 200)]

    write(WRITTEN)
    _, display, store, *_ = asyncio.run_coroutine_threadsafe(say(), server.service._loop).result(60)[-1]
    messages = store["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] and messages[1]["content"] == SHOWN
    assert [tuple(step) for step in messages[1]["steps"]] == STEPS
    assert [row.get("metadata", {}).get("title") for row in display] == [None, "↪ Solve", "↪ Calc", None]
    assert "n=111" in display[1]["content"] and display[3]["content"] == SHOWN
    found = [_index(SimpleNamespace(index=index), [*messages, {"role": "user", "content": "?"}]) for index in range(6)]
    assert found == [0, 1, 1, 1, 2, 2]
