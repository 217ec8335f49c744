import json
from itertools import pairwise

import pytest
from helpers.messages import TOOLS, arguments, content, names
from helpers.text_samples import any_text
from hypothesis import given
from hypothesis import strategies as st

from openglm.text import SPECIAL_TOKENS
from openglm.text.render import parse_reply
from openglm.text.replies import parse_text

_, _, GMASK, _, SOP, EOP, SYSTEM, USER, ASSISTANT, OBSERVATION = range(10)


@st.composite
def conversations(draw) -> list[dict]:
    messages = [{"role": "system", "content": draw(content)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(content)})
        for _ in range(draw(st.integers(0, 2))):
            call = {"function": {"name": draw(names), "arguments": draw(arguments)}}
            messages.append({"role": "assistant", "content": draw(content), "tool_calls": [call], **draw(losses)})
            messages.append({"role": draw(st.sampled_from(["tool", "observation"])), "content": draw(content)})
        messages.append({"role": "assistant", "content": draw(content), **draw(losses)})
    return messages[: draw(st.integers(1, len(messages)))]


losses = st.sampled_from([{}, {"loss": True}, {"loss": False}])
tool_lists = st.sampled_from([None, [], TOOLS])


def turns(ids: list[int]) -> list[list[int]]:
    """Cut rendered ids at the role tokens: each turn begins with its own."""
    bounds = [i for i, number in enumerate(ids) if SYSTEM <= number <= OBSERVATION] + [len(ids)]
    return [ids[a:b] for a, b in pairwise(bounds)]


def test_the_form_by_hand(tokenizer):
    e = tokenizer.encode
    ids, mask = tokenizer.render(
        [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "你好"},
            {
                "role": "assistant",
                "content": "嗯",
                "tool_calls": [{"function": {"name": "f", "arguments": {"x": "是"}}}],
            },
            {"role": "tool", "content": "1"},
            {"role": "assistant", "content": "好。"},
        ]
    )
    parts = [
        ([GMASK, SOP, SYSTEM, *e("\n"), *e("S"), USER, *e("\n"), *e("你好"), ASSISTANT, *e("\n")], 0),
        ([*e('嗯\nf\n{"x": "是"}'), OBSERVATION], 1),
        ([*e("\n"), *e("1"), ASSISTANT, *e("\n")], 0),
        ([*e("好。"), USER], 1),
    ]
    assert ids == [number for part, _ in parts for number in part]
    assert mask == [trained for part, trained in parts for _ in part]


@given(conversations(), tool_lists)
def test_only_answers_and_their_ends_are_trained(tokenizer, messages, tools):
    ids, mask = tokenizer.render(messages, tools)
    assert len(ids) == len(mask) and set(mask) <= {0, 1} and mask[:2] == [0, 0]
    roles = ([{"role": "system"}] if tools else []) + messages
    start, closes = 2, 0
    for message, turn in zip(roles, turns(ids[2:]), strict=False):
        answer = int(message["role"] == "assistant" and message.get("loss", True))
        assert mask[start] == closes  # a role token is trained where it closes a trained answer, and only there
        assert mask[start + 1] == 0  # the line end after it
        assert mask[start + 2 : start + len(turn)] == [answer] * (len(turn) - 2)
        start, closes = start + len(turn), answer
    assert mask[start:] == ([closes] if messages[-1]["role"] == "assistant" else [])


@given(conversations(), tool_lists)
def test_texts_never_add_a_special_token(tokenizer, messages, tools):
    """Special tokens of a rendering follow from the roles alone, whatever the texts, names, arguments and tools say."""
    ids, _ = tokenizer.render(messages, tools)
    token = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT, "tool": OBSERVATION, "observation": OBSERVATION}
    expected = [GMASK, SOP] + [SYSTEM] * bool(tools) + [token[m["role"]] for m in messages]
    if messages[-1]["role"] == "assistant":
        expected.append(OBSERVATION if messages[-1].get("tool_calls") else USER)
    assert [number for number in ids if number < len(SPECIAL_TOKENS)] == expected


@given(conversations(), tool_lists)
def test_a_shorter_conversation_is_a_prefix_of_the_longer(tokenizer, messages, tools):
    whole, whole_mask = tokenizer.render(messages, tools)
    for k in range(1, len(messages)):
        ids, mask = tokenizer.render(messages[:k], tools)
        assert whole[: len(ids)] == ids and whole_mask[: len(ids)] == mask
        if messages[k]["role"] == "assistant":
            prompt, mask = tokenizer.render(messages[:k], tools, generation_prompt=True)
            assert whole[: len(prompt)] == prompt and not mask[-1]
            assert turns(prompt)[-1] == [ASSISTANT, *tokenizer.encode("\n")]


@given(conversations(), tool_lists)
def test_parsing_inverts_rendering(tokenizer, messages, tools):
    whole, _ = tokenizer.render(messages, tools)
    for k in range(1, len(messages)):
        if messages[k]["role"] == "assistant":
            prompt, _ = tokenizer.render(messages[:k], tools, generation_prompt=True)
            reply = parse_reply(tokenizer, whole[len(prompt) :])
            assert reply["role"] == "assistant" and reply["content"] == messages[k]["content"]
            assert [call["function"] for call in reply["tool_calls"]] == [
                call["function"] for call in messages[k].get("tool_calls", [])
            ]
            again = [*messages[:k], {**reply, "loss": messages[k].get("loss", True)}, *messages[k + 1 :]]
            assert tokenizer.render(again, tools)[0] == whole


def test_arguments_as_an_object_or_as_text_are_the_same(tokenizer):
    calls = [
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": a}}]}
        for a in ({"城市": "北京"}, '{\n "城市":"\\u5317京"}')
    ]
    assert tokenizer.render(calls[:1]) == tokenizer.render(calls[1:])


@given(content)
def test_only_the_observation_token_makes_a_call(tokenizer, text):
    text += '\nf\n{"x": 1}'
    for end in ([], [USER], [EOP]):
        reply = parse_reply(tokenizer, tokenizer.encode(text) + end + [OBSERVATION])
        assert bool(reply["tool_calls"]) == (end == [])
    assert parse_reply(tokenizer, tokenizer.encode(text)) == {"role": "assistant", "content": text, "tool_calls": []}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f",
        "{}",
        "f\n",
        "f\n[]",
        "f\n{",
        "two words\n{}",
        "\n{}",
        "f\n{}\n",
        'f\n{"x": NaN}',
        'f\n{"x": 1e999}',
        'f\n{"x": "\\ud800"}',
        "f\n" + "[" * 100_000,
        'f\n{"x": ' + "9" * 5000 + "}",
    ],
)
def test_a_malformed_call_stays_visible_as_text(text):
    assert parse_text(text, called=True) == {"role": "assistant", "content": text, "tool_calls": []}


@given(any_text)
def test_no_reply_breaks_the_parser(text):
    reply = parse_text(text, called=True)
    assert reply["tool_calls"] or reply["content"] == text


def test_tools_are_listed_in_a_system_turn(tokenizer):
    ids, _ = tokenizer.render([{"role": "user", "content": "?"}], TOOLS)
    system = tokenizer.decode(turns(ids)[0])
    assert json.dumps(TOOLS[0]["function"], ensure_ascii=False, indent=4) in system and "## 天气<|user|>" in system
    assert tokenizer.render([{"role": "user", "content": "?"}], [TOOLS[0]["function"]])[0] == ids


U, A = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
RESULT = {"role": "tool", "content": "1"}


def call(**function) -> dict:
    return {**CALL, "tool_calls": [{"function": {"name": "f", "arguments": {}, **function}}]}


@pytest.mark.parametrize(
    "messages, named",
    [
        ([], "messages"),
        ("text", "messages[0]"),
        ([U, None], "messages[1]"),
        ([U, {"content": "x"}], "messages[1].role"),
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([U, {"role": "assistant", "content": None}], "messages[1].content"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content"),
        ([{"role": "user", "content": "\ud800"}], "messages[0].content"),
        ([U, {**A, "loss": 0.5}], "messages[1].loss"),
        ([{**U, "tool_calls": CALL["tool_calls"]}], "messages[0].tool_calls"),
        ([{**U, "tools": TOOLS}], "messages[0].tools"),
        ([U, {**CALL, "tool_calls": CALL["tool_calls"] * 2}], "messages[1].tool_calls"),
        ([U, {**CALL, "tool_calls": "f"}], "messages[1].tool_calls[0].function"),
        ([U, {**CALL, "tool_calls": {"function": {}}}], "messages[1].tool_calls"),
        ([U, call(name="two words")], "messages[1].tool_calls[0].function.name"),
        ([U, call(name="f\ng")], "messages[1].tool_calls[0].function.name"),
        ([U, call(name=None)], "messages[1].tool_calls[0].function.name"),
        ([U, call(arguments="[1]")], "messages[1].tool_calls[0].function.arguments"),
        ([U, call(arguments={"x": float("nan")})], "messages[1].tool_calls[0].function.arguments"),
        ([U, call(arguments={"x": "\ud800"})], "messages[1].tool_calls[0].function.arguments"),
        ([U, RESULT], "messages[1].role"),
        ([RESULT], "messages[0].role"),
        ([U, A, RESULT], "messages[2].role"),
        ([U, CALL, U], "messages[2].role"),
        ([U, CALL, RESULT, RESULT], "messages[3].role"),
        ([U, A, A], "messages[2].role"),
        ([U, A, {"role": "system", "content": "s"}], "messages[2].role"),
    ],
)
def test_errors_name_message_and_field_in_one_line(tokenizer, messages, named):
    with pytest.raises(ValueError) as error:
        tokenizer.render(messages)
    assert str(error.value).startswith(named + " = ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "tool",
    [
        None,
        {},
        {"function": None},
        {"name": ""},
        {"name": "f", "x": float("nan")},
        {"name": "f", "x": {1, 2}},
        {"name": "f", "description": "\ud800"},
    ],
)
def test_errors_name_the_tool_in_one_line(tokenizer, tool):
    with pytest.raises(ValueError, match=r"tools\[1\]\.function") as error:
        tokenizer.render([U], [TOOLS[0], tool])
    assert "\n" not in str(error.value)


def test_an_answer_cannot_be_asked_for_after_an_answer(tokenizer):
    with pytest.raises(ValueError, match=r"messages\[1\].role"):
        tokenizer.render([U, A], generation_prompt=True)
