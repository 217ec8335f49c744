"""What clients send by habit: values that mean "none", echoes, ids, lines; and what they need while they wait."""

import concurrent.futures
import json
import time

import httpx
import pytest
from helpers.live import LONG, Held, Live
from helpers.processes import until

from openglm.assistant import Assistant
from openglm.config import EngineConfig
from openglm.serve.sse import event, line

TEXT = {"temperature": 0, "max_tokens": 4}


def complete(server, **fields):
    return server.client.post("/v1/completions", json={"prompt": "床前明月光", **TEXT, **fields})


@pytest.mark.parametrize(
    "none", [{"max_tokens": -1}, {"top_k": -1}, {"top_p": 0}, {"stop": ""}, {"stop": []}, {"stop": [""]}, {"n": None}], ids=str
)  # fmt: skip
def test_values_that_mean_none(live, none):
    asked = {"max_tokens": 4, "temperature": 0, **none}
    for path, body in (("/v1/completions", {"prompt": "好"}), ("/v1/chat/completions", {"messages": LONG["messages"]})):
        answer = live.client.post(path, json={**body, **asked})
        assert answer.status_code == 200, answer.text
        if "max_tokens" not in none:
            plain = live.client.post(path, json={**body, "max_tokens": 4, "temperature": 0}).json()
            assert answer.json()["choices"] == plain["choices"]
    assert live.chat(max_tokens=0).json()["error"]["param"] == "max_tokens"


def test_top_p_zero_takes_the_likeliest(live):
    drawn = complete(live, temperature=2, top_p=0).json()["choices"]
    assert drawn == complete(live, temperature=0).json()["choices"]


def test_an_echo_has_the_log_probabilities_of_the_prompt(live, assistant):
    """As lm-eval's local-completions asks: a token in front without one, and one behind for what was added; each is what the network itself says."""
    ids = assistant.tokenizer.encode("床前明月光，疑是地上霜。")
    body = {"prompt": [ids, ids[:4]], "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True, "seed": 1}
    answer = live.client.post("/v1/completions", json=body).json()
    start = assistant.filler.start
    for choice, sent in zip(answer["choices"], (ids, ids[:4]), strict=True):
        log = choice["logprobs"]
        assert len(log["token_logprobs"]) == len(log["top_logprobs"]) == len(log["tokens"]) == len(sent) + 1
        assert log["token_logprobs"][0] is log["top_logprobs"][0] is None
        logits = assistant.model.logits(_tensor([[*start, *sent]])) if assistant.engine.config.keep_weights else None
        for place, found in enumerate(log["token_logprobs"][1:-1], 1):
            assert found <= max(log["top_logprobs"][place].values()) + 1e-6
            if logits is not None:
                expected = logits[0, len(start) + place - 1].float().log_softmax(-1)[sent[place]]
                assert found == pytest.approx(float(expected), abs=1e-3)
        assert choice["text"].startswith(assistant.tokenizer.decode(sent))
    alone = live.client.post("/v1/completions", json={**body, "max_tokens": 0}).json()
    for whole, short in zip(answer["choices"], alone["choices"], strict=True):
        assert short["logprobs"]["token_logprobs"] == whole["logprobs"]["token_logprobs"][:-1]
    assert alone["usage"]["completion_tokens"] == 0
    text = live.client.post("/v1/completions", json={"prompt": "床前", "echo": True, **TEXT}).json()["choices"][0]
    assert text["text"].startswith("床前") and text["logprobs"] is None


def _tensor(rows):
    import torch

    return torch.tensor(rows)


def test_echoed_streams_add_up(live):
    bias = {str(live.service.assistant.tokenizer.encode("月")[0]): 100}
    body = {"prompt": "床前明月光", "echo": True, "logprobs": 1, "max_tokens": 3, "temperature": 0, "logit_bias": bias}
    whole = live.client.post("/v1/completions", json=body).json()["choices"][0]
    lines = live.client.post("/v1/completions", json={**body, "stream": True}).text.split("\n")
    parts = [json.loads(one[6:])["choices"][0] for one in lines if one.startswith("data: {")]
    assert "".join(part["text"] for part in parts) == whole["text"]
    tokens = [token for part in parts if part["logprobs"] for token in part["logprobs"]["tokens"]]
    assert tokens == whole["logprobs"]["tokens"]


def test_ids_are_read_as_the_text_that_they_are(live, assistant):
    """With or without what opens a prompt of this model, one list or several."""
    ids = assistant.tokenizer.encode("床前明月光")
    opened = [*assistant.filler.start, *ids]
    one, other, both = (complete(live, prompt=prompt).json() for prompt in (ids, opened, [ids, opened]))
    texts = [choice["text"] for answer in (one, other, both) for choice in answer["choices"]]
    assert len(texts) == 4 and len(set(texts)) == 1


def test_no_character_ends_a_line_of_a_stream():
    """Readers in Python, JavaScript or .NET split lines at these too."""
    text = "a\u2028b\u2029c\u0085d\r\n好"
    for written in (event({"text": text}), line({"text": text})):
        raw = written.decode().removeprefix("data: ").strip()
        assert len(raw.splitlines()) == 1 and json.loads(raw)["text"] == text


def test_editors_get_compact_json(live):
    """llama.vim looks for `"content":"` in the text of an answer, and drops it otherwise."""
    body = {"input_prefix": "床前", "input_suffix": "光", "n_predict": 4, "prompt": "", "samplers": ["top_k"], "cache_prompt": True, "t_max_prompt_ms": 500}  # fmt: skip
    assert '"content":"' in live.client.post("/infill", json=body).text
    assert '"content":"' in live.client.post("/infill", json={**body, "n_predict": 0}).text


def test_a_stream_that_waits_has_its_headers_and_is_kept_open(another, monkeypatch):
    """Before the first token: the engine makes no step here. A wrong request has its status all the same."""
    monkeypatch.setattr("openglm.serve.sse._PATIENCE", 0.05)
    monkeypatch.setattr("openglm.serve.sse._QUIET", 0.05)
    server = another(EngineConfig(max_sequences=1, step_tokens=32))
    held = Held(server)
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json={**LONG, "stream": True, "max_tokens": 3}
    ) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        pieces = answer.iter_text()
        assert next(pieces).startswith(":")
        held.let_go()
        rest = "".join(pieces)
    assert rest.endswith("data: [DONE]\n\n") and '"finish_reason":"length"' in rest
    until(lambda: not held.engine.busy)
    assert server.chat(stream=True, logit_bias={"99999": 1}).status_code == 400


@pytest.fixture(scope="module")
def nano():
    """Its context holds tools."""
    server = Live(Assistant("nano", device="cpu", engine=EngineConfig(max_sequences=2)))
    yield server
    server.stop()


CHOICE = {"tools": [{"type": "function", "function": {"name": name}} for name in ("a", "b")], "tool_choice": "required"}


def test_the_choice_of_a_tool_gives_way_to_what_is_left(nano):
    """A prompt that leaves some tens of tokens: choice and arguments find room in them."""

    def ask(count):
        return nano.chat(messages=[{"role": "user", "content": "好，" * count}], max_tokens=-1, **CHOICE)

    context, few = nano.service.assistant.context, ask(1).json()["usage"]["prompt_tokens"]
    more = (ask(101).json()["usage"]["prompt_tokens"] - few) / 100
    answer = ask(int((context - few - 40) / more))
    assert answer.status_code == 200, answer.text
    assert context - answer.json()["usage"]["prompt_tokens"] < 128
    call = answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] in "ab" and isinstance(json.loads(call["arguments"]), dict)


def test_a_reader_who_leaves_while_a_tool_is_chosen_frees_the_place(nano):
    """The name and its arguments are two requests; the first is given up with its reader too."""
    held = Held(nano)
    body = {"messages": [{"role": "user", "content": "hi"}], **CHOICE}
    for stream in (False, True):
        with pytest.raises(httpx.ReadTimeout), httpx.stream("POST", f"{nano.url}/v1/chat/completions", json={**body, "stream": stream}, timeout=1.5) as answer:  # fmt: skip
            answer.read()
        until(lambda: not nano.service._open)
    held.let_go()
    until(lambda: not held.engine.busy)


def test_many_readers_and_slow_ones(live):
    """Streams with pings between them are whole."""

    def read(_):
        with httpx.stream(
            "POST", f"{live.url}/v1/chat/completions", json={**LONG, "stream": True, "max_tokens": 6}
        ) as answer:
            text = ""
            for piece in answer.iter_text():
                text += piece
                time.sleep(0.01)
        return text

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        texts = list(pool.map(read, range(6)))
    assert all(text.endswith("data: [DONE]\n\n") for text in texts)
