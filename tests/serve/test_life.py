"""Readers that leave, queues that are full, time that runs out, servers that end."""

import concurrent.futures
import json
import subprocess
import threading

import httpx
import pytest
from helpers.live import LONG, Held, Live, ask_and_leave, slowed, start_server
from helpers.processes import until

from openglm.assistant import Assistant
from openglm.config import EngineConfig
from openglm.engine.native import NativeRunner


@pytest.mark.parametrize("stream", [False, True])
def test_a_reader_who_leaves_frees_the_place_within_a_step(another, stream):
    server = another(EngineConfig(max_sequences=2, block_size=4, step_tokens=32))
    held = Held(server)
    line = ask_and_leave(server, stream=stream)
    held.allow(2)
    until(lambda: held.engine.scheduler.running)
    line.close()
    until(lambda: not server.service._open)  # the event loop knows; the engine is waiting for its step
    held.allow(1)
    until(lambda: not held.engine.busy)
    assert not any(held.engine.pool.counts) and not server.service._by_number


def test_a_full_queue_says_so_at_once_and_when_to_come_back(another):
    """At once: before the engine has made another step, for here it makes none."""
    server = another(EngineConfig(max_sequences=1, step_tokens=32), queue=1)
    held = Held(server)
    lines = [ask_and_leave(server, stream=True) for _ in range(2)]
    until(lambda: len(server.service._open) == 2)
    answer = server.client.post("/v1/chat/completions", json=LONG)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert server.client.post("/v1/chat/completions", json={**LONG, "n": 2}).status_code == 429
    for line in lines:
        line.close()
    held.let_go()
    until(lambda: not held.engine.busy)
    assert server.client.post("/v1/chat/completions", json={**LONG, "max_tokens": 1}).status_code == 200
    assert "glm_rejected_total 2.0" in server.client.get("/metrics").text


def test_the_deadline_ends_an_answer_where_it_is(another):
    server = another(EngineConfig(max_sequences=1, step_tokens=32), deadline=0.5)
    engine = slowed(server, 0.05)
    answer = server.client.post("/v1/chat/completions", json=LONG).json()
    assert answer["choices"][0]["finish_reason"] == "length" and 0 < answer["usage"]["completion_tokens"] < 80
    lines = [
        line
        for line in server.client.post("/v1/chat/completions", json={**LONG, "stream": True}).text.split("\n")
        if line
    ]
    assert lines[-1] == "data: [DONE]" and json.loads(lines[-2][6:])["choices"][0]["finish_reason"] == "length"
    until(lambda: not engine.busy)


def test_a_failing_engine_fails_its_requests_and_goes_on(another):
    server = another()
    engine = server.service.assistant.engine
    step = engine.step

    def broken():
        engine.step = step
        raise RuntimeError("out of memory")

    engine.step = broken
    assert server.client.post("/v1/chat/completions", json=LONG).status_code == 500
    assert server.client.post("/v1/chat/completions", json={**LONG, "max_tokens": 2}).status_code == 200


QUESTIONS = ["你好", "写一首关于月亮的诗", "How are you today?", "介绍一下你自己", "床前明月光", "一加一等于几？"]


def test_every_slot_and_the_prefix_cache_give_the_same_answer():
    """Greedy and in float32: bit-equal, alone or among others, found in the cache or not; on the kernels, down to the log-probabilities."""
    found: dict[str, set] = {question: set() for question in QUESTIONS}
    for share in (True, False):
        server = Live(Assistant("nano", device="cpu", engine=EngineConfig(max_sequences=4, share_prefixes=share)))
        exact = isinstance(server.service.assistant.engine.runner, NativeRunner)

        def ask(question, server=server, exact=exact):
            more = {"max_tokens": 32, "ignore_eos": True, "frequency_penalty": 0.3, "logprobs": True}
            tokens = server.chat(messages=[{"role": "user", "content": question}], **more).json()["choices"][0][
                "logprobs"
            ]["content"]
            found[question].add(tuple((one["token"], one["logprob"] if exact else 0) for one in tokens))

        for question in QUESTIONS:
            ask(question)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, QUESTIONS * 3))
        server.stop()
    assert all(len(answers) == 1 and len(set(next(iter(answers)))) > 8 for answers in found.values())


def test_the_event_loop_stays_free_while_a_large_text_is_read(live, monkeypatch):
    """The reading waits for the answers to others: in the event loop itself it would wait for ever."""
    assistant, body = live.service.assistant, {"prompt": "好 word " * 100_000}
    read, began, answered = assistant.prompt, threading.Event(), threading.Event()

    def slow(*texts):
        began.set()
        assert answered.wait(60)
        return read(*texts)

    monkeypatch.setattr(assistant, "prompt", slow)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        work = pool.submit(live.client.post, "/v1/completions", json=body)
        assert began.wait(60)
        assert httpx.get(f"{live.url}/health", timeout=30).status_code == 200
        answered.set()
    assert work.result().status_code == 400 and work.result().json()["error"]["code"] == "context_length_exceeded"


def read_stream(url):
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json={**LONG, "stream": True, "n": 16, "temperature": 2}, timeout=30
    ) as answer:
        return answer.read().decode()


def test_sigterm_ends_every_stream_well(toy, tmp_path):
    """Ten clients in the middle of their answers: each stream ends with reasons and [DONE], new ones are refused, one process with one socket is gone in time."""
    options = ["--no-feedback", "--grace", "1", "--engine.max-sequences", "2", "--queue", "400"]
    process, url = start_server(tmp_path / "said", toy, *options)
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        work = [pool.submit(read_stream, url) for _ in range(10)]
        until(lambda: "glm_running 2.0" in httpx.get(f"{url}/metrics").text, 20)
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        process.terminate()
        texts = [one.result() for one in work]
    process.join(60)
    assert process.exitcode is not None and not children
    cut_short = [text.count('"content"') < 16 * LONG["max_tokens"] for text in texts]
    assert any(cut_short)  # by the server's end, not by their own: whole answers would have as many pieces as tokens
    for text in texts:
        events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
        refused = "error" in json.loads(text) if text.startswith("{") else "error" in events[-1]
        assert refused or (text.endswith("data: [DONE]\n\n") and events[-1]["choices"][0]["finish_reason"])
