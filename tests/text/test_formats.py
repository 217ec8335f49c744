"""Chat formats of the published generations: the form by hand, loss on answers and their ends alone, replies read back, hostile replies as text."""

import json

import pytest
from helpers.messages import TOOLS, arguments, names
from helpers.tokenizer_files import BASE, ROLES, ROUNDS
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openglm.text.formats import FORMATS
from openglm.text.render import parse_reply
from openglm.text.replies import Tidied, read_python_call, widened, write_python_call
from openglm.text.thinking import Thinking

Q, A = {"role": "user", "content": "问 one"}, {"role": "assistant", "content": "答 two"}
Q2, A2 = {"role": "user", "content": "three?"}, {"role": "assistant", "content": "four."}
SYSTEM = {"role": "system", "content": "be brief"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "北京"}}}],
}
RESULT = {"role": "observation", "content": "晴"}

plain_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20) | st.sampled_from(
    ["你好\nthe end", "<|user|>", "[gMASK] sop", "f\n{}"]
)


@st.composite
def conversations(draw) -> list[dict]:
    messages = [{"role": "system", "content": draw(plain_text)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 2))):
        messages.append({"role": "user", "content": draw(plain_text)})
        for _ in range(draw(st.integers(0, 1))):
            messages.append(
                {
                    "role": "assistant",
                    "content": draw(plain_text),
                    "tool_calls": [{"function": {"name": draw(names), "arguments": draw(arguments)}}],
                    **draw(losses),
                }
            )
            messages.append({"role": "tool", "content": draw(plain_text)})
        messages.append({"role": "assistant", "content": draw(plain_text), **draw(losses)})
    return messages


losses = st.sampled_from([{}, {"loss": False}])


def ids_of(tokenizer, *parts):
    """Each text on its own, special tokens by name between < and > or in brackets."""
    return [
        number
        for part in parts
        for number in ([tokenizer.special[part]] if part in tokenizer.special else tokenizer.encode(part))
    ]


def check(tokenizer, messages, *parts, tools=None, **options):
    """parts: texts and names of special tokens, those that are trained in a list."""
    ids, mask = tokenizer.render(messages, tools, **options)
    spelled = [
        (number, int(isinstance(part, list)))
        for part in parts
        for number in ids_of(tokenizer, *(part if isinstance(part, list) else [part]))
    ]
    assert list(zip(ids, mask, strict=True)) == spelled


def test_chatglm6b_by_hand(family):
    for kind in ("chatglm-6b", "chatglm-6b-first"):
        check(family[kind], [Q], "问 one", "[gMASK]", "<sop>", generation_prompt=True)
        check(family[kind], [Q, A], "问 one", "[gMASK]", "<sop>", ["答 two", "<eop>"])
        check(
            family[kind],
            [Q, A, Q2, A2],
            "[Round 0]\n问：问 one\n答：答 two\n[Round 1]\n问：three?\n答：",
            "[gMASK]",
            "<sop>",
            ["four.", "<eop>"],
        )
        check(
            family[kind],
            [SYSTEM, Q, A, Q2],
            "[Round 0]\n问：问 one\n答：答 two\n[Round 1]\n问：be briefthree?\n答：",
            "[gMASK]",
            "<sop>",
            generation_prompt=True,
        )
        check(family[kind], [Q, {**A, "loss": False}], "问 one", "[gMASK]", "<sop>", "答 two", "<eop>")


def test_chatglm2_by_hand(family):
    check(family["chatglm2-6b"], [Q, A], "[gMASK]", "sop", "[Round 1]\n\n问：问 one\n\n答：", ["答 two", "</s>"])
    check(
        family["chatglm2-6b"],
        [Q, A, Q2],
        "[gMASK]",
        "sop",
        "[Round 1]\n\n问：问 one\n\n答：答 two\n\n[Round 2]\n\n问：three?\n\n答：",
        generation_prompt=True,
    )


def test_chatglm3_by_hand(family):
    tokenizer = family["chatglm3-6b"]
    check(tokenizer, [SYSTEM, Q, A, Q2, A2], "[gMASK]", "sop", "<|system|>", "\n", "be brief", "<|user|>", "\n", "问 one",
          "<|assistant|>", ["\n", "答 two", "<|user|>"], "\n", "three?", "<|assistant|>", ["\n", "four.", "</s>"])  # fmt: skip
    check(tokenizer, [Q, CALL, RESULT], "[gMASK]", "sop", "<|user|>", "\n", "问 one", "<|assistant|>",
          ["get_weather\n", "```python\ntool_call(city='北京')\n```", "<|observation|>"], "\n", "晴", "<|assistant|>", generation_prompt=True)  # fmt: skip
    code = {
        "role": "assistant",
        "content": "look",
        "tool_calls": [{"function": {"name": "interpreter", "arguments": {"code": "print(1)\n"}}}],
    }
    head = ("[gMASK]", "sop", "<|user|>", "\n", "问 one", "<|assistant|>")
    check(
        tokenizer,
        [Q, code],
        *head,
        ["\n", "look", "<|assistant|>", "interpreter\n", "```python\nprint(1)\n\n```", "<|observation|>"],
    )
    check(
        tokenizer,
        [Q, {"role": "assistant", "metadata": "f", "content": "call()"}],
        *head,
        ["f\n", "call()", "<|observation|>"],
    )


def test_chatglm3_tools_stand_in_the_system_message(family):
    schema = json.dumps([TOOLS[0]["function"]], ensure_ascii=False, indent=4)
    words = "Answer the following questions as best as you can. You have access to the following tools:"
    head, tail = ("[gMASK]", "sop", "<|system|>", "\n"), ("<|user|>", "\n", "问 one", "<|assistant|>")
    check(family["chatglm3-6b"], [Q], *head, f"{words}\n{schema}", *tail, tools=TOOLS, generation_prompt=True)
    check(family["chatglm3-6b"], [SYSTEM, Q], *head, f"be brief\n{schema}", *tail, tools=TOOLS, generation_prompt=True)
    check(
        family["chatglm3-6b"],
        [{**SYSTEM, "tools": TOOLS}, Q],
        *head,
        f"be brief\n{schema}",
        *tail,
        generation_prompt=True,
    )


@pytest.mark.parametrize("kind", ["glm-4", "glm-4-0414"])
def test_glm4_by_hand(family, kind):
    persona = "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n"
    function, head, answered = (
        TOOLS[0]["function"],
        ("[gMASK]", "<sop>", "<|system|>"),
        ("<|user|>", "\n问 one", "<|assistant|>", ["\n答 two", "<|user|>"]),
    )
    schema = json.dumps(function, ensure_ascii=False, indent=4)
    listed = f"\n{persona if kind == 'glm-4' else ''}# 可用工具\n\n## {function['name']}\n\n{schema}\n在调用上述函数时，请使用 Json 格式表示调用的参数。"
    check(family[kind], [SYSTEM, Q, A, Q2, CALL, RESULT], *head, listed, "<|system|>", "\nbe brief", *answered, "\nthree?",
          "<|assistant|>", ['get_weather\n{"city": "北京"}', "<|observation|>"], "\n晴", "<|assistant|>", tools=TOOLS, generation_prompt=True)  # fmt: skip
    check(family[kind], [{"role": "system", "content": "", "tools": TOOLS}, Q, A], *head, listed, *answered)


def test_z1_thinks_before_it_speaks_and_forgets_it(family):
    thoughtful = {"role": "assistant", "content": "<think>\nhm</think>\n\n答 two"}
    head = ("[gMASK]", "<sop>", "<|user|>", "\n问 one", "<|assistant|>", ["\n答 two", "<|user|>"])
    check(
        family["glm-z1"], [Q, thoughtful, Q2], *head, "\nthree?", "<|assistant|>", "\n<think>", generation_prompt=True
    )
    reply = parse_reply(family["glm-z1"], ids_of(family["glm-z1"], "\nhm f\n{}</think>\nget\n{}", "<|user|>"))
    assert (reply["reasoning_content"], reply["content"], reply["tool_calls"]) == ("hm f\n{}", "get\n{}", [])
    assert parse_reply(family["glm-z1"], ids_of(family["glm-z1"], "\ncut o")) == {
        "role": "assistant",
        "content": "",
        "tool_calls": [],
        "reasoning_content": "cut o",
    }
    demanded = Thinking(closed=True)
    ids, _ = family["glm-z1"].render([Q], generation_prompt=True, thinking=demanded)
    assert family["glm-z1"].decode(ids).endswith("\n<think>\n</think>\n")
    reply = parse_reply(family["glm-z1"], ids_of(family["glm-z1"], "get\n{}", "<|observation|>"), thinking=demanded)
    assert reply["tool_calls"][0]["function"] == {"name": "get", "arguments": {}}


@pytest.mark.parametrize("kind", ROLES)
@settings(max_examples=40)
@given(messages=conversations())
def test_parsing_inverts_rendering(family, kind, messages):
    """But for white space around a content, and the character that SentencePiece reads as a space."""
    assume("▁" not in str(messages))
    tokenizer = family[kind]
    whole, _ = tokenizer.render(messages)
    for k, message in enumerate(messages):
        if message["role"] == "assistant" and kind != "glm-z1":
            prompt, mask = tokenizer.render(messages[:k], generation_prompt=True)
            assert whole[: len(prompt)] == prompt and len(mask) == len(prompt)
            reply = parse_reply(tokenizer, whole[len(prompt) :])
            assert reply["content"].strip() == message["content"].strip()
            assert [call["function"] for call in reply["tool_calls"]] == [
                call["function"] for call in message.get("tool_calls", [])
            ]


@pytest.mark.parametrize("kind", [*ROLES, *ROUNDS])
@settings(max_examples=30)
@given(messages=conversations(), other=plain_text)
def test_what_others_say_is_never_trained(family, kind, messages, other):
    """Other words of users, system and tools leave the trained tokens as they are; the last of them closes the last answer."""
    tokenizer = family[kind]
    if kind in ROUNDS:
        messages = [message for message in messages if message["role"] != "tool" and not message.get("tool_calls")]
    trained = []
    for changed in (
        messages,
        [message if message["role"] == "assistant" else {**message, "content": other} for message in messages],
    ):
        ids, mask = tokenizer.render(changed)
        trained.append([number for number, on in zip(ids, mask, strict=True) if on])
        assert mask[-1] == messages[-1].get("loss", True) and (ids[-1] in tokenizer.stop or kind == "openglm")
    assert trained[0] == trained[1]
    assert bool(trained[0]) == any(
        message.get("loss", True)
        for message in (messages if kind in ROLES else messages[-1:])
        if message["role"] == "assistant"
    )


@pytest.mark.parametrize("kind", [*ROLES, *ROUNDS])
@settings(max_examples=30)
@given(messages=conversations())
def test_special_tokens_follow_from_roles_alone(family, kind, messages):
    tokenizer = family[kind]
    if kind in ROUNDS:
        messages = [message for message in messages if message["role"] != "tool" and not message.get("tool_calls")]
    strips = kind == "glm-z1"  # a content of white space alone is none
    shown = [message["content"].strip() if strips else message["content"] for message in messages]
    blank = [{**message, "content": "x" if text else ""} for message, text in zip(messages, shown, strict=True)]
    specials = set(tokenizer.special.values())
    sequences = [[number for number in tokenizer.render(row)[0] if number in specials] for row in (messages, blank)]
    assert sequences[0] == sequences[1]


@pytest.mark.parametrize("kind", [*ROLES, *ROUNDS])
@settings(max_examples=40)
@given(data=st.data())
def test_no_reply_breaks_the_parser(family, kind, data):
    tokenizer = family[kind]
    ids = data.draw(
        st.lists(
            st.integers(0, tokenizer.vocab_size - 1) | st.sampled_from(sorted(tokenizer.special.values())), max_size=12
        )
    )
    reply = parse_reply(tokenizer, ids)
    assert isinstance(reply["content"], str) and reply["role"] == "assistant"
    called = kind in ROLES and tokenizer.special["<|observation|>"] in ids
    assert called or not reply["tool_calls"]


@given(name=names | st.just("interpreter"), arguments=arguments)
def test_python_calls_are_read_as_they_were_written(name, arguments):
    """Keys that are no names in Python included, e.g. "", "class" and "a b"."""
    assert read_python_call(name, f" {write_python_call(name, arguments)} ") == arguments


HOSTILE = [
    "", "tool_call", "tool_call(", "tool_call()x", "f()", "tool_call(1)", "tool_call(*[1])", "tool_call(x=1)(2)", "tool_call.x()", "tool_call(**[1])", "x = tool_call()",
    *(f"tool_call(x={value})" for value in (
        "y", "open('f')", "__import__('os').system('ls')", "{1, 2}", "b'1'", "1j", "...", "1e999", "'\\ud800'", "'\x00'", "f'{1}'", "[i for i in 'ab']", "lambda: 1", "(y := 1)",
        "2 ** 99999", "9" * 9000, *(f"{unit * 9000}1" for unit in ("-", "[", "(", "not ", "1+", "{1:", "lambda:", "a if b else ")))),
    "tool_call" + "()" * 9000, "tool_call" + ".a" * 9000 + "()",
]  # fmt: skip


@pytest.mark.parametrize("code", HOSTILE, ids=lambda code: code[:24])
def test_hostile_calls_stay_text(family, code):
    fenced = f"```python\n{code}\n```"
    assert read_python_call("f", fenced) is None
    reply = parse_reply(family["chatglm3-6b"], ids_of(family["chatglm3-6b"], "f\n", fenced, "<|observation|>"))
    assert reply["tool_calls"] == [] and reply["content"].startswith("f\n")


@pytest.mark.parametrize(
    "body", ["", "```", "```python\n```", "```python\n", "tool_call(x=1)", "```py\ntool_call()\n```"]
)
def test_a_call_outside_its_fence_stays_text(body):
    assert read_python_call("f", body) is None


def test_replies_part_at_assistant_tokens(family):
    for kind, call in (("chatglm3-6b", ["f\n", "```python\ntool_call(x=1)\n```"]), ("glm-4", ['f\n{"x": 1}'])):
        reply = parse_reply(
            family[kind],
            ids_of(family[kind], "\n", "let me see", "<|assistant|>", *call, "<|observation|>", "\n", "more"),
        )
        assert reply == {
            "role": "assistant",
            "content": "let me see",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
        }
        assert parse_reply(family[kind], ids_of(family[kind], *call))["tool_calls"] == []


@pytest.mark.parametrize(
    "text, tidied",
    [
        (" 你好,world,好!\n", "你好，world，好！"),
        ("a:b 好:b a;好 1,2 吗?", "a:b 好：b a；好 1,2 吗？"),
        ("好,,好", "好，，好"),
        ("我生于[[训练时间]],", "我生于2023年，"),
        ("a,[[训练 好,[[训练时间]],b", "a,[[训练 好，2023年，b"),
        ("", ""),
    ],
)
def test_chatglm6b_tidies_its_replies(family, text, tidied):
    for size in (1, 2, 5):
        stream = Tidied(widened)
        pieces = [stream.feed(text[start : start + size]) for start in range(0, len(text), size)]
        assert "".join([*pieces, stream.feed("", last=True)]).strip() == tidied
    assert widened(text).strip() == tidied
    assert (
        parse_reply(family["chatglm2-6b"], ids_of(family["chatglm2-6b"], "\n[[训练时间]],好", "</s>", "x"))["content"]
        == "2023年,好"
    )


def test_base_models_are_not_asked_in_conversations(family):
    for kind in BASE:
        with pytest.raises(ValueError, match=r"base model.*prompt"):
            family[kind].render([Q])


@pytest.mark.parametrize(
    "messages, tools, named",
    [
        ([Q, Q2], None, r"messages\[1\].role"),
        ([A], None, r"messages\[0\].role"),
        ([SYSTEM], None, "messages"),
        ([Q, A, A2], None, r"messages\[2\].role"),
        ([Q], TOOLS, "tools"),
        ([{**SYSTEM, "tools": TOOLS}, Q], None, "tools"),
        ([Q, CALL, RESULT], None, r"messages\[1\].tool_calls"),
        ([SYSTEM, Q, SYSTEM], None, r"messages\[2\].role"),
    ],
)
def test_rounds_take_questions_and_answers_alone(family, messages, tools, named):
    for kind in ROUNDS:
        with pytest.raises(ValueError, match=f"^{named} = ") as error:
            family[kind].render(messages, tools)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("message", [{**Q, "metadata": "f"}, {**CALL, "metadata": "f"}, {**A, "metadata": 3}])
def test_metadata_belongs_to_answers(family, message):
    with pytest.raises(ValueError, match=r"messages\[1\].metadata"):
        family["glm-4"].render([Q, message])


@pytest.mark.parametrize("kind", ["openglm", "glm-4", "glm-4-0414"])
def test_a_header_line_and_a_call_are_the_same(family, kind):
    header = {"role": "assistant", "metadata": "get_weather", "content": '{"city": "北京"}'}
    assert family[kind].render([Q, header, RESULT]) == family[kind].render([Q, CALL, RESULT])


def test_every_format_names_tokens_that_its_tokenizer_has(family):
    for kind, tokenizer in family.items():
        assert tokenizer.stop and set(tokenizer.format.stop) <= tokenizer.special.keys()
        assert 0 < tokenizer.format.sampling.top_p <= 1 and tokenizer.format.sampling.temperature > 0
        assert FORMATS[tokenizer.format.name].turns is None or kind not in BASE
        assert len(tokenizer.prompt("你好")) > len(tokenizer.encode("你好"))
