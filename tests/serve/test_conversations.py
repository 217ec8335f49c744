"""Conversations as clients really send them: in any order, with what is missing or cut; each is answered, and all that it says is read."""

import json

import pytest
from helpers.live import Live
from helpers.text_samples import TEXTS, VOCAB_SIZE
from helpers.tokenizer_files import make_folders

from openglm.assistant import Assistant
from openglm.serve.asking import plain
from openglm.serve.schemas import ChatRequest
from openglm.text import load_tokenizer, train_tokenizer

USER, ANSWER, SYSTEM = ({"role": role, "content": f"{role} says"} for role in ("user", "assistant", "system"))
TOOL = {"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}


def call(arguments="{}", number=0, **more):
    made = {"id": f"c{number}", "type": "function", "function": {"name": "get", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [made], **more}


def result(number=0):
    return {"role": "tool", "tool_call_id": f"c{number}", "content": f"result {number}"}


TWO = {**call(), "tool_calls": [*call()["tool_calls"], *call(number=1)["tool_calls"]]}
ODD = {
    "a system message in the middle": [USER, ANSWER, {"role": "system", "content": "be brief"}, USER],
    "a system message last": [USER, ANSWER, {"role": "system", "content": "be brief"}],
    "two assistants": [USER, ANSWER, {"role": "assistant", "content": "and more"}, USER],
    "an assistant first": [ANSWER, USER],
    "an answer that is null": [USER, {"role": "assistant", "content": None}, USER],
    "an answer without content": [USER, {"role": "assistant"}, USER],
    "a question that is null": [{"role": "user", "content": None}],
    "no parts": [{"role": "user", "content": []}],
    "a call without result": [USER, call(), USER],
    "a call without result at the end": [USER, call()],
    "one of two results": [USER, TWO, result(1), USER],
    "a result too many": [USER, call(), result(), result(1), USER],
    "a result without call": [USER, result(), USER],
    "arguments that were cut": [USER, call('{"city": "Bei'), result(), USER],
    "no arguments": [USER, call(""), result(), USER],
    "a call that is last and cut": [USER, call('{"city": "Bei')],
    "an answer that is begun": [USER, {"role": "assistant", "content": "It is"}],
    "a developer in the middle": [USER, ANSWER, {"role": "developer", "content": "be brief"}, USER],
}


@pytest.fixture(scope="module")
def nano():
    """Its context holds tools."""
    server = Live(Assistant("nano", device="cpu"))
    yield server
    server.stop()


@pytest.mark.parametrize("messages", ODD.values(), ids=ODD)
@pytest.mark.parametrize("more", [{}, {"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": "required"}], ids=["plain", "tools", "call"])  # fmt: skip
def test_every_conversation_goes_on(nano, messages, more):
    answer = nano.chat(messages=messages, max_tokens=4, **more)
    assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    own = train_tokenizer(iter(TEXTS), VOCAB_SIZE, tmp_path_factory.mktemp("own"))
    folders = make_folders(tmp_path_factory.mktemp("all"), own)
    return {**{kind: load_tokenizer(path) for kind, path in folders.items()}, "own": own}


@pytest.mark.parametrize("messages", ODD.values(), ids=ODD)
def test_all_formats_read_all_that_was_said(tokenizers, messages):
    """Nothing is left out, whatever the form of the conversation; calls need a format that has them."""
    taken = plain(ChatRequest(messages=messages).messages)
    for kind, tokenizer in tokenizers.items():
        turns = tokenizer.format.turns
        if turns is None or (not turns.tools and any(one.get("tool_calls") for one in taken)):
            continue
        ids, _ = tokenizer.render(taken, generation_prompt=True, lenient=True)
        said = tokenizer.decode([token for token in ids if token not in tokenizer.special.values()])
        for message in taken:
            wanted = [*message["content"].splitlines(), *(["get"] if message.get("tool_calls") else [])]
            assert all(text in said for text in wanted), (kind, message, said)
        with pytest.raises(ValueError, match=r"messages"):
            tokenizer.render([*taken[:-1], ANSWER], generation_prompt=True)  # strict where one learns from it


@pytest.mark.parametrize("kind", ["own", "glm-4", "glm-4.5", "chatglm2-6b"])
def test_an_answer_that_is_begun_goes_on_in_the_same_text(tokenizers, kind):
    tokenizer = tokenizers[kind]
    begun = [USER, {"role": "assistant", "content": "It is"}]
    ids, _ = tokenizer.render(begun, generation_prompt=True, lenient=True)
    whole, _ = tokenizer.render(begun)
    assert ids == whole[:-1]


def test_the_space_behind_a_beginning_is_kept(live, assistant):
    """The answer and its beginning are one text, streamed or not."""
    messages = [USER, {"role": "assistant", "content": "The moon"}]
    bias = {str(assistant.tokenizer.encode("a and b")[1]): 100}  # a token that begins with a space
    answer = live.chat(messages=messages, max_tokens=3, logit_bias=bias).json()["choices"][0]["message"]["content"]
    assert answer.startswith(" ")
    lines = live.chat(messages=messages, max_tokens=3, logit_bias=bias, stream=True).text.split("\n")
    chunks = [json.loads(line[6:])["choices"][0]["delta"] for line in lines if line.startswith("data: {")]
    assert "".join(chunk.get("content", "") for chunk in chunks) == answer


@pytest.mark.parametrize(
    "body,param",
    [
        ({"prompt": ["a", 5]}, "prompt[1]"),
        ({"prompt": [1, 2, "x"]}, "prompt[2]"),
        ({"prompt": [[1], [2, "x"]]}, "prompt[1][1]"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": "a", "stop": ["x", 5]}, "stop[1]"),
    ],
    ids=str,
)
def test_the_branch_that_was_meant_is_named(live, body, param):
    assert live.client.post("/v1/completions", json=body).json()["error"]["param"] == param


def test_batches_as_langchain_sends_them(live):
    answer = live.client.post("/v1/completions", json={"prompt": ["好"] * 20, "max_tokens": 1})
    assert len(answer.json()["choices"]) == 20
    many = live.client.post("/v1/completions", json={"prompt": ["好"] * 300, "n": 16, "max_tokens": 1})
    assert (many.status_code, many.json()["error"]["param"]) == (400, "prompt")
