"""Models that think, over HTTP: thoughts, content and calls apart, streamed as whole; requests steer the thoughts."""

import dataclasses
import json

import pytest
import torch
from helpers.live import Live
from helpers.tokenizer_files import huggingface_file, ranks_of

from openglm.assistant import Assistant
from openglm.checkpoints.native import save_model
from openglm.config import EngineConfig
from openglm.engine.constrain import Vocabulary
from openglm.model.transformer import Transformer
from openglm.presets import model_preset
from openglm.text import load_tokenizer
from openglm.text.thinking import MARKS

USER = {"role": "user", "content": "Q"}
TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"s": {"type": "string"}}}}},
    {"type": "function", "function": {"name": "g"}},
]  # fmt: skip
LINES = "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>1</arg_value>\n<arg_key>n</arg_key>\n<arg_value>[2]</arg_value>\n</tool_call>"


class Scripted(Live):
    """A server whose model says what it is told."""

    def __init__(self, assistant):
        super().__init__(assistant)
        self.asked = []
        add = assistant.engine.add_request

        def scripted(prompt, params, *more):
            self.asked.append((assistant.tokenizer.decode(prompt, skip_special=False), params))
            special = assistant.tokenizer.special
            ids = [
                n
                for piece in cut(self.says, special)
                for n in ([special[piece]] if piece in special else assistant.tokenizer.encode(piece))
            ]
            return add(prompt, dataclasses.replace(params, forced=tuple(ids), schema=None, regex=None), *more)

        assistant.engine.add_request = scripted

    def say(self, says, **fields):
        """The message and the reason, and the deltas of the same answer as a stream."""
        self.says = says
        body = {"messages": [USER], "max_tokens": 90, **fields}
        answer = self.client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        stream = self.client.post("/v1/chat/completions", json={**body, "stream": True})
        lines = [json.loads(line[6:]) for line in stream.text.split("\n") if line.startswith("data: {")]
        (choice,) = answer.json()["choices"]
        assert lines[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
        return choice, [line["choices"][0]["delta"] for line in lines]


def cut(text, names):
    """Text cut at the names of special tokens."""
    pieces = [text]
    for name in names:
        pieces = [part for piece in pieces for part in split_keeping(piece, name, names)]
    return [piece for piece in pieces if piece]


def split_keeping(piece, name, names):
    if piece in names or name not in piece:
        return [piece]
    before, _, behind = piece.partition(name)
    return [before, name, *split_keeping(behind, name, names)]


@pytest.fixture(scope="module")
def server(toy, tmp_path_factory):
    made = {}

    def of(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            ranks = ranks_of(load_tokenizer(toy))
            (folder / "tokenizer.json").write_bytes(huggingface_file(ranks, kind, () if kind == "glm-z1" else MARKS))
            (folder / "tokenizer_config.json").write_text(json.dumps({"openglm_format": kind}))
            tokenizer = load_tokenizer(folder)
            shape = {"layers": 1, "hidden": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn_hidden": 48}
            config = model_preset("nano", vocab_size=tokenizer.vocab_size, max_positions=2048, **shape)
            model = Transformer(dataclasses.replace(config, tokens=tokenizer.tokens))
            model.initialize(torch.Generator().manual_seed(3))
            path = save_model(folder / "model", model, tokenizer)
            made[kind] = Scripted(Assistant(path, device="cpu", engine=EngineConfig(max_sequences=2)))
        return made[kind]

    yield of
    for one in made.values():
        one.stop()


def joined(deltas, field):
    return "".join(delta.get(field) or "" for delta in deltas)


@pytest.mark.parametrize(
    "kind, says",
    [
        ("glm-4.5", f"\n<think>hm\n一</think>\nsee\n{LINES}\n<tool_call>g\n</tool_call><|observation|>"),
        ("glm-4.7", f"hm\n一</think>see{LINES.replace(chr(10), '')}<tool_call>g</tool_call><|observation|>"),
        ("glm-5.2", f"hm\n一</think>see{LINES.replace(chr(10), '')}<tool_call>g</tool_call><|observation|>"),
    ],
)
def test_thoughts_content_and_calls_come_apart(server, kind, says):
    choice, deltas = server(kind).say(says, tools=TOOLS)
    message = choice["message"]
    assert (message["reasoning_content"], message["content"], choice["finish_reason"]) == (
        "hm\n一",
        "see",
        "tool_calls",
    )
    assert [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message["tool_calls"]] == [
        ("f", {"s": "1", "n": [2]}),
        ("g", {}),
    ]
    assert joined(deltas, "reasoning_content") == "hm\n一" and joined(deltas, "content") == "see"
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["index"] for call in calls] == [0, 1]
    assert [call["function"] for call in calls] == [call["function"] for call in message["tool_calls"]]
    assert len({call["id"] for call in calls}) == 2


def test_one_call_alone_where_the_request_wants_it_so(server):
    says = "</think><tool_call>g</tool_call><tool_call>f</tool_call><|observation|>"
    choice, deltas = server("glm-4.7").say(says, tools=TOOLS, parallel_tool_calls=False)
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["g"]
    assert [call["function"]["name"] for delta in deltas for call in delta.get("tool_calls", ())] == ["g"]


def test_the_thoughts_of_z1_come_apart_too(server):
    """A line of its thoughts is no call; one behind them is, where <|observation|> closes it."""
    choice, deltas = server("glm-z1").say(
        'hm\ng\n{}\n</think>\nsee<|assistant|>f\n{"s": "1"}<|observation|>', tools=TOOLS
    )
    message = choice["message"]
    assert message["reasoning_content"] == joined(deltas, "reasoning_content") == "hm\ng\n{}"
    assert message["content"] == joined(deltas, "content") == "see" and choice["finish_reason"] == "tool_calls"
    assert [call["function"] for call in message["tool_calls"]] == [{"name": "f", "arguments": '{"s": "1"}'}]
    choice, _ = server("glm-z1").say("hm\n</think>\n\nA\n<|user|>", tools=TOOLS)
    assert (choice["message"]["reasoning_content"], choice["message"]["content"]) == ("hm", "A")
    choice, _ = server("glm-z1").say('{"a": 1}<|user|>', response_format={"type": "json_object"})
    assert choice["message"]["content"] == '{"a": 1}' and server("glm-z1").asked[-1][0].endswith("<think>\n</think>\n")


def test_without_tools_a_call_is_text_and_thoughts_without_end_stay_thoughts(server):
    choice, deltas = server("glm-4.7").say("hm</think>A <tool_call>g</tool_call><|user|>")
    assert choice["message"]["content"] == joined(deltas, "content") == "A <tool_call>g</tool_call>"
    assert "tool_calls" not in choice["message"] and choice["finish_reason"] == "stop"
    choice, deltas = server("glm-4.7").say("hm, a <b", tools=TOOLS)
    assert choice["message"]["reasoning_content"] == joined(deltas, "reasoning_content") == "hm, a <b"
    assert choice["message"]["content"] == "" and choice["finish_reason"] == "length"


def test_a_request_steers_the_thoughts(server):
    for kind, fields, end in (
        ("glm-4.5", {}, "Q<|assistant|>"),
        ("glm-4.5", {"chat_template_kwargs": {"enable_thinking": False}}, "Q/nothink<|assistant|>\n<think></think>"),
        ("glm-4.7", {"chat_template_kwargs": {"enable_thinking": False}}, "Q<|assistant|></think>"),
        ("glm-4.7", {"reasoning_effort": "none"}, "Q<|assistant|></think>"),
        ("glm-5.2", {"reasoning_effort": "high"}, "Effort: High<|user|>Q<|assistant|><think>"),
        ("glm-5.2", {"chat_template_kwargs": {"enable_thinking": True}}, "Effort: Max<|user|>Q<|assistant|><think>"),
        ("glm-5.2", {"response_format": {"type": "json_object"}}, "<sop><|user|>Q<|assistant|><think></think>"),
    ):
        choice, _ = server(kind).say("A<|user|>" if not end.endswith("<think>") else "</think>A<|user|>", **fields)
        assert choice["message"]["content"] == "A" and "reasoning_content" not in choice["message"]
        assert server(kind).asked[-1][0].endswith(end)
    old = {"role": "assistant", "content": "A", "reasoning_content": "old"}
    for clear, written in ((None, "</think>A"), (False, "<think>old</think>A")):
        server("glm-4.7").say(
            "</think>B<|user|>", messages=[USER, old, USER], chat_template_kwargs={"clear_thinking": clear}
        )
        assert f"Q<|assistant|>{written}<|user|>Q" in server("glm-4.7").asked[-1][0]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_several_results_go_back_in_one_turn(server, field):
    calls = [{"id": str(n), "type": "function", "function": {"name": "g", "arguments": "{}"}} for n in range(2)]
    results = [{"role": "tool", "tool_call_id": str(n), "content": f"r{n}"} for n in range(2)]
    talk = [USER, {"role": "assistant", "content": None, field: "hm", "tool_calls": calls}, *results]
    server("glm-4.7").say("</think>A<|user|>", messages=talk, tools=TOOLS)
    written = (
        "<think>hm</think><tool_call>g</tool_call><tool_call>g</tool_call>"
        "<|observation|><tool_response>r0</tool_response><tool_response>r1</tool_response><|assistant|><think>"
    )
    assert server("glm-4.7").asked[-1][0].endswith(written)


def test_a_demanded_call_is_written_in_marks(server):
    named = {"type": "function", "function": {"name": "f"}}
    for kind, gap in (("glm-4.5", "\n"), ("glm-4.7", "")):
        arguments = f"<arg_key>s</arg_key>{gap}<arg_value>1</arg_value>{gap}</tool_call><|observation|>"
        choice, deltas = server(kind).say(arguments, tools=TOOLS, tool_choice=named)
        prompt, params = server(kind).asked[-1]
        assert prompt.endswith(f"</think>{gap}<tool_call>f{gap}") and params.schema is None
        assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
        (call,) = choice["message"]["tool_calls"]
        assert call["function"] == {"name": "f", "arguments": '{"s": "1"}'}
        choice, deltas = server(kind).say("nothing of the kind<|user|>", tools=TOOLS, tool_choice=named)
        assert choice["message"]["content"] == f"<tool_call>f{gap}nothing of the kind"
        assert joined(deltas, "content") == choice["message"]["content"] and choice["finish_reason"] == "stop"


def test_a_stream_says_that_it_goes_on_while_a_call_grows(server, monkeypatch):
    """Nothing of a call is sent before it is whole, and that may take minutes."""
    monkeypatch.setattr("openglm.serve.sse._PATIENCE", 0.0)
    monkeypatch.setattr("openglm.serve.sse._QUIET", 0.001)
    one = server("glm-4.7")
    one.says = f"</think><tool_call>f<arg_key>s</arg_key><arg_value>{'好' * 600}</arg_value></tool_call><|observation|>"
    stream = one.client.post("/v1/chat/completions", json={"messages": [USER], "tools": TOOLS, "stream": True}).text
    lines = [line for line in stream.split("\n") if line]
    comments = [line for line in lines if line.startswith(":")]
    assert comments and all(line.startswith(("data: ", ":")) for line in lines)
    assert stream.count("好") == 600 and stream.index(":") < stream.index("好")


def test_no_mark_gets_into_an_answer_that_follows_a_schema(server):
    pytest.importorskip("llguidance")
    tokenizer = server("glm-4.7").service.assistant.tokenizer
    marks = {tokenizer.special[name] for name in MARKS}
    assert marks <= set(Vocabulary(tokenizer, tokenizer.stop).special_token_ids)


def test_the_assistant_keeps_thoughts_out_of_its_text(server):
    one = server("glm-4.7")
    one.says = "hm</think>\nA\n<|user|>"
    reply = one.service.assistant.reply([USER], max_tokens=90)
    assert (reply.reasoning, reply.text, reply.tool_calls) == ("hm", "A", [])
    assert "".join(one.service.assistant.stream([USER], max_tokens=90)) == "A"
    assert "".join(one.service.assistant.stream([USER], max_tokens=90, quoted=True)) == "> hm\n\nA"
    one.says = "hm\nhm</think>\nA\n<|user|>"
    assert "".join(one.service.assistant.stream([USER], max_tokens=90, quoted=True)) == "> hm\n> hm\n\nA"
