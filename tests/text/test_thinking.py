"""Chat formats with thoughts and marked calls (GLM-4.5 to 5.3): the published templates' renderings by hand, and answers read back wherever their text is cut.

The renderings follow the chat templates published with zai-org/GLM-4.6 (the same for 4.5), GLM-4.7-Flash (4.7 and 5)
and GLM-5.3-Flash, and for 5.1 and 5.2 what is published of theirs.
"""

import json

import pytest
from helpers.tokenizer_files import TEMPLATES, THINKING, Z1_TEMPLATE
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.text import load_tokenizer
from openglm.text.generation import format_of_template
from openglm.text.reading import ReplyReader, read_reply
from openglm.text.render import parse_reply
from openglm.text.thinking import MARKS, Thinking

plain = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="<"), max_size=20)
values_of_calls = st.dictionaries(
    plain,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | plain,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
SYSTEM, Q, Q2 = ({"role": role, "content": text} for role, text in (("system", "S"), ("user", "Q"), ("user", "Q2")))
OLD = {"role": "assistant", "content": "A", "reasoning_content": "old"}
CALLS = {
    "role": "assistant",
    "content": "see",
    "reasoning_content": "hm",
    "tool_calls": [
        {"id": "1", "function": {"name": "f", "arguments": {"城": "北京", "n": [1, {"x": None}]}}},
        {"id": "2", "function": {"name": "g", "arguments": "{}"}},
    ],
}
RESULTS = [{"role": "tool", "content": text, "tool_call_id": number} for text, number in (("r2", "2"), ("r1", "1"))]
TALK = [SYSTEM, Q, OLD, Q2, CALLS, *RESULTS]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "f", "strict": True, "parameters": {"properties": {"n": {"type": "array"}}}},
    },
    {"type": "function", "function": {"name": "g"}},
]
BARE = '{"name": "f", "parameters": {"properties": {"n": {"type": "array"}}}}\n{"name": "g"}'
WRAPPED = "\n".join(json.dumps(tool) for tool in TOOLS)
LISTED = """<|system|>
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{}
</tools>

For each function call, output the function name and arguments within the following XML format:
{}"""
LINES = """<tool_call>{function-name}
<arg_key>{arg-key-1}</arg_key>
<arg_value>{arg-value-1}</arg_value>
<arg_key>{arg-key-2}</arg_key>
<arg_value>{arg-value-2}</arg_value>
...
</tool_call>"""
INLINE = LINES.replace("\n", "")
CALLED = (
    "see<tool_call>f<arg_key>城</arg_key><arg_value>北京</arg_value><arg_key>n</arg_key>"
    '<arg_value>[1, {"x": null}]</arg_value></tool_call><tool_call>g</tool_call>'
)
RESULT = "<|observation|><tool_response>r2</tool_response><tool_response>r1</tool_response>"
SORTED = "<|observation|><tool_response>r1</tool_response><tool_response>r2</tool_response>"
MAX = "<|system|>Reasoning Effort: Max"
DEFAULT = {
    "glm-4.5": f"""{LISTED.format(WRAPPED, LINES)}<|system|>
S<|user|>
Q<|assistant|>
<think></think>
A<|user|>
Q2<|assistant|>
<think>hm</think>
see
<tool_call>f
<arg_key>城</arg_key>
<arg_value>北京</arg_value>
<arg_key>n</arg_key>
<arg_value>[1, {{"x": null}}]</arg_value>
</tool_call>
<tool_call>g
</tool_call><|observation|>
<tool_response>
r2
</tool_response>
<tool_response>
r1
</tool_response><|assistant|>""",
    "glm-4.7": f"{LISTED.format(WRAPPED, INLINE)}<|system|>S<|user|>Q<|assistant|></think>A<|user|>Q2"
    f"<|assistant|><think>hm</think>{CALLED}{RESULT}<|assistant|><think>",
    "glm-5.1": f"{LISTED.format(BARE, INLINE)}<|system|>S<|user|>Q<|assistant|></think>A<|user|>Q2"
    f"<|assistant|><think>hm</think>{CALLED}{RESULT}<|assistant|><think>",
    "glm-5.2": f"{MAX}{LISTED.format(BARE, INLINE)}<|system|>S<|user|>Q<|assistant|><think></think>A<|user|>Q2"
    f"<|assistant|><think>hm</think>{CALLED}{RESULT}<|assistant|><think>",
    "glm-5.3": f"{MAX}{LISTED.format(BARE, INLINE)}<|system|>S<|user|>Q<|assistant|><think>old</think>A<|user|>Q2"
    f"<|assistant|><think>hm</think>{CALLED}{SORTED}<|assistant|><think>",
}
OPTIONS = [
    ("glm-4.5", {"enable_thinking": False}, "\nQ/nothink<|assistant|>\n<think></think>\nA<|user|>\nQ2/nothink<|assistant|>\n<think></think>"),
    ("glm-4.7", {"enable_thinking": False}, "Q<|assistant|></think>A<|user|>Q2<|assistant|></think>"),
    ("glm-4.7", {"clear_thinking": False}, "Q<|assistant|><think>old</think>A<|user|>Q2<|assistant|><think>"),
    ("glm-5.1", {"enable_thinking": False}, "Q<|assistant|></think>A<|user|>Q2<|assistant|></think>"),
    ("glm-5.2", {"enable_thinking": False}, "Q<|assistant|><think></think>A<|user|>Q2<|assistant|><think></think>"),
    ("glm-5.2", {"closed": True}, "Q<|assistant|><think></think>A<|user|>Q2<|assistant|><think></think>"),
    ("glm-5.3", {"clear_thinking": True}, f"{MAX}<|user|>Q<|assistant|><think></think>A<|user|>Q2<|assistant|><think>"),
    ("glm-5.3", {"reasoning_effort": "low"}, f"{MAX[:-3]}Low<|user|>Q<|assistant|><think>old</think>A<|user|>Q2<|assistant|><think>"),
    ("glm-5.3", {"closed": True}, f"{MAX}<|user|>Q<|assistant|><think>old</think>A<|user|>Q2<|assistant|><think></think>"),
]  # fmt: skip


def text_of(tokenizer, messages, tools=None, **thinking) -> str:
    ids, _ = tokenizer.render(messages, tools, generation_prompt=True, thinking=Thinking(**thinking))
    return tokenizer.decode(ids, skip_special=False)


@pytest.mark.parametrize("kind", THINKING)
def test_a_conversation_is_written_as_the_published_template_has_it(family, kind):
    tokenizer = family[kind]
    assert text_of(tokenizer, TALK, TOOLS) == f"[gMASK]<sop>{DEFAULT[kind]}"
    ids, _ = tokenizer.render(TALK, TOOLS, generation_prompt=True)
    marks = {tokenizer.special[name] for name in MARKS}
    assert len([number for number in ids if number in marks]) == sum(DEFAULT[kind].count(name) for name in MARKS)


@pytest.mark.parametrize("kind, thinking, expected", OPTIONS)
def test_a_request_steers_the_thoughts(family, kind, thinking, expected):
    start = "[gMASK]<sop>" if expected.startswith(MAX[:-3]) else "[gMASK]<sop><|user|>"
    if kind == "glm-5.2" and thinking == {}:
        start = f"[gMASK]<sop>{MAX}<|user|>"
    assert text_of(family[kind], [Q, OLD, Q2], **thinking) == start + expected


def test_a_model_that_always_thinks_says_so(family):
    for kind in ("glm-5.3", "glm-z1"):
        with pytest.raises(ValueError, match=r"enable_thinking = False.*always thinks") as error:
            text_of(family[kind], [Q], enable_thinking=False)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", THINKING)
def test_marks_in_what_others_write_stay_text(family, kind, folders):
    """Of a user, a tool, its description and its arguments; the switch at the end of a question is the one exception."""
    tokenizer = family[kind]
    hostile = " ".join(MARKS) + " <|user|>"
    tools = [{"type": "function", "function": {"name": "f", "description": hostile}}]
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {hostile: hostile}}}]}  # fmt: skip
    counts = []
    for text in (hostile, "x"):
        talk = json.loads(json.dumps([{"role": "user", "content": f"{hostile}."}, call, {"role": "tool", "content": hostile}, Q]).replace(hostile, text))  # fmt: skip
        listed = json.loads(json.dumps(tools).replace(hostile, text))
        ids, _ = tokenizer.render(talk, listed, generation_prompt=True)
        counts.append([number for number in ids if number in tokenizer.special.values()])
    assert counts[0] == counts[1]
    assert not set(tokenizer.special.values()) & set(tokenizer.encode(hostile))
    assert tokenizer.decode(tokenizer.encode(hostile)) == hostile
    again = load_tokenizer(tokenizer.save(folders[kind].parent / f"{kind}-saved").parent)
    assert again.format.name == kind and again.encode(hostile) == tokenizer.encode(hostile)


def test_a_user_may_write_the_switch_of_glm_4_5(family):
    tokenizer = family["glm-4.5"]
    asked = {"role": "user", "content": "Q/nothink"}
    ids, _ = tokenizer.render([asked], generation_prompt=True)
    assert ids.count(tokenizer.special["/nothink"]) == 1
    assert text_of(tokenizer, [asked], enable_thinking=False).count("/nothink") == 1


@pytest.mark.parametrize("kind", THINKING)
def test_trained_is_what_the_model_writes_and_what_closes_it(family, kind):
    tokenizer = family[kind]
    for messages, written in (
        ([Q, {**OLD, "content": " A\n"}], {"glm-4.5": "\n<think>old</think>\nA<|user|>"}.get(kind, "old</think>A<|user|>")),
        (TALK[1:5], {"glm-4.5": DEFAULT[kind].partition("Q2<|assistant|>")[2].partition("<|obs")[0] + "<|observation|>"}.get(kind, f"hm</think>{CALLED}<|observation|>")),
    ):  # fmt: skip
        ids, mask = tokenizer.render(messages)
        first = max(place for place, number in enumerate(ids) if number == tokenizer.special["<|assistant|>"])
        trained = [number for number, on in zip(ids[first:], mask[first:], strict=True) if on]
        assert tokenizer.decode(trained, skip_special=False) == written
    silent = {"role": "assistant", "content": "A"}
    ids, mask = tokenizer.render([Q, silent])
    trained = tokenizer.decode([n for n, on in zip(ids, mask, strict=True) if on], skip_special=False)
    assert trained == {"glm-4.5": "\n<think></think>\nA<|user|>", "glm-4.7": "A<|user|>"}.get(kind, "</think>A<|user|>")
    assert not any(tokenizer.render([Q, {**silent, "loss": False}])[1])


def test_templates_tell_their_generation():
    assert {kind: format_of_template(template) for kind, template in TEMPLATES.items()} == {k: k for k in THINKING}
    assert format_of_template(Z1_TEMPLATE) == "glm-z1"


@pytest.mark.parametrize(
    "template",
    [
        "<|assistant|>",
        "{{ '<think>' }}",
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content.split('<think>')[0] }}{% endfor %}<|assistant|>",
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n{% endfor %}### Response:\n<think>",
    ],
)
def test_the_word_think_alone_makes_no_thinker(template):
    assert format_of_template(template) is None


# {} stands for a word of its own.
SOUND = [
    '<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>[1, "{}"]</arg_value>\n</tool_call>',
    "<tool_call>f<arg_key>s</arg_key><arg_value> 1 {}</arg_value><arg_key>n</arg_key><arg_value>[]</arg_value></tool_call>",
    "<tool_call>\nf\n<arg_key>{}</arg_key> <arg_value>x</arg_value></tool_call>",
    "<tool_call>g</tool_call>",
    "<tool_call>f<arg_key>s</arg_key><arg_value></tool_call><tool_call>g</tool_call></arg_value>{}</arg_value> </tool_call>",
]
BROKEN = [
    "<tool_call>{}",
    "<tool_call>{}</tool_call>",
    "<tool_call></tool_call>",
    "<tool_call>f {}</tool_call>",
    "<tool_call>f<arg_key>{}</arg_key></tool_call>",
    "<tool_call>f<arg_key>n</arg_key>{}<arg_value>1</arg_value></tool_call>",
    "<tool_call>f<arg_key>a</arg_key><arg_value>{}</arg_value><arg_key>a</arg_key><arg_value>2</arg_value></tool_call>",
    "<tool_call>g<think></tool_call>",
    "</tool_call>",
    "<arg_key>",
]
UNENDED = "<tool_call>f<arg_key>n</arg_key><arg_value>1"
WORDS = ["{}", " ", "\n", "<", "</", "<th", "好 {}", "<tool", "<b>"]
answers = st.lists(st.sampled_from([*SOUND, *BROKEN, UNENDED, *WORDS, "<think>", "</think>"]), max_size=8).map(
    lambda parts: "".join(part.replace("{}", f"w{number}w") for number, part in enumerate(parts))
)
KNOWN = [
    {"function": {"name": "f", "parameters": {"properties": {"s": {"type": "string"}, "n": {"type": "array"}}}}},
    {"function": {"name": "g"}},
]
tool_lists = st.sampled_from([None, KNOWN, []])


@settings(max_examples=300, deadline=None)
@given(text=answers, opened=st.booleans(), tools=tool_lists, data=st.data())
def test_the_cuts_of_a_stream_change_nothing(text, opened, tools, data):
    whole = read_reply(ReplyReader(opened, tools), text)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=9)))
    for bounds in (cuts, range(len(text))):
        reader, pieces = ReplyReader(opened, tools), []
        for start, stop in zip([0, *bounds], [*bounds, len(text)], strict=True):
            pieces += reader.feed(text[start:stop])
        pieces += reader.end()
        for kind in ("content", "reasoning_content"):
            assert "".join(said for one, said in pieces if one == kind) == whole.get(kind, "")
        assert [call for kind, call in pieces if kind == "tool_calls"] == whole["tool_calls"]


@settings(max_examples=300, deadline=None)
@given(text=answers, opened=st.booleans(), tools=tool_lists)
def test_nothing_of_an_answer_is_lost(text, opened, tools):
    """Each word once, in thoughts, content or calls; without calls every letter but the marks around the thoughts."""
    reply = read_reply(ReplyReader(opened, tools), text)
    thoughts, calls = reply.get("reasoning_content", ""), json.dumps(reply["tool_calls"])
    for number in range(8):
        word = f"w{number}w"
        assert text.count(word) == (thoughts + reply["content"] + calls).count(word)
    if not reply["tool_calls"]:
        left = text
        if thoughts or left.lstrip().startswith(("<think>", "</think>")):
            left = left.lstrip().removeprefix("<think>").replace("</think>", "", 1)
        assert "".join((thoughts + reply["content"]).split()) == "".join(left.split())
    if tools == []:
        assert not reply["tool_calls"]


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(st.sampled_from([*SOUND, *BROKEN]), max_size=5), opened=st.booleans())
def test_each_sound_call_is_read_and_a_broken_one_shown(parts, opened):
    """Behind the thoughts, and inside thoughts that never end."""
    texts = [part.replace("{}", f"w{number}w") for number, part in enumerate(parts)]
    alone = [read_reply(ReplyReader(False, KNOWN), text) for text in texts]
    assert [bool(reply["tool_calls"]) for reply in alone] == [part in SOUND for part in parts]
    for text, reply in zip(texts, alone, strict=True):
        assert reply["content"] == ("" if reply["tool_calls"] else text)
    thoughts = "hm</think>" if opened else ""
    reply = read_reply(ReplyReader(opened, KNOWN), f"{thoughts}said\n{' '.join(texts)}")
    assert reply["tool_calls"] == [call for one in alone for call in one["tool_calls"]]
    reply = read_reply(ReplyReader(True, KNOWN), f"hm {' '.join(texts)}")
    assert reply["tool_calls"] == [call for one in alone for call in one["tool_calls"]]
    assert reply["reasoning_content"].startswith("hm")


@pytest.mark.parametrize(
    "text, opened, read",
    [
        ("\n<think>hm\n</think>\n\nA\n", False, ("hm", "A")),
        ("hm</think>A", True, ("hm", "A")),
        ("<think>hm</think>A", True, ("hm", "A")),
        ("\n<think></think>\nA", False, ("", "A")),
        ("</think>A", True, ("", "A")),
        ("cut o", True, ("cut o", "")),
        ("A <think>b</think> c", False, ("", "A <think>b</think> c")),
        ("hm</think>A</think>", True, ("hm", "A</think>")),
        ("so <tool_call>g</tool_call> it is</think>A", True, ("so <tool_call>g</tool_call> it is", "A")),
    ],
)
def test_thoughts_by_hand(text, opened, read):
    reply = read_reply(ReplyReader(opened, KNOWN), text)
    assert (reply.get("reasoning_content", ""), reply["content"], reply["tool_calls"]) == (*read, [])


def test_only_what_may_be_a_mark_or_a_call_is_held_back():
    reader = ReplyReader(True, KNOWN)
    assert reader.feed("hm <") == [("reasoning_content", "hm")] and reader.feed("b> </thi") == [
        ("reasoning_content", " <b>")
    ]
    assert reader.feed("nk>\nA <tool_call") == [("content", "A")] and reader.feed(">f") == []
    assert "".join(text for _, text in reader.feed("oo")) == " <tool_call>foo"
    assert reader.feed(" <tool_call>g</tool_call") == []
    assert reader.feed(">") == [("tool_calls", {"type": "function", "function": {"name": "g", "arguments": {}}})]
    assert reader.feed("B") == [("content", "\nB")] and reader.end() == []


TYPED = {
    "properties": {
        "text": {"type": "string"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "either": {"type": ["string", "integer"]},
        "count": {"type": "integer"},
        "on": {"type": "boolean"},
        "list": {"type": "array"},
        "level": {"enum": ["1", "2"]},
        "far": {"$ref": "#/$defs/far"},
        "free": {},
    },
    "$defs": {"far": {"type": "string"}},
}


@pytest.mark.parametrize(
    "key, text, value",
    [
        ("text", "123", "123"), ("text", "true", "true"), ("text", ' "a"\n', ' "a"\n'), ("text", "", ""),
        ("maybe", "null", None), ("maybe", "12", "12"), ("maybe", "Smith", "Smith"),
        ("either", "5", 5), ("either", "5.5", "5.5"), ("either", "五", "五"),
        ("count", " 7\n", 7), ("count", "seven", "seven"), ("count", "1.5", 1.5),
        ("on", "true", True), ("on", "False", False),
        ("list", '[1, {"a": "二"}]', [1, {"a": "二"}]), ("list", "[1", "[1"), ("list", "[NaN]", "[NaN]"),
        ("level", "2", "2"), ("far", "3", "3"),
        ("free", "3", 3), ("free", "three", "three"), ("free", '"q"', '"q"'), ("other", "{}", {}), ("other", "None", "None"),
    ],
)  # fmt: skip
def test_arguments_have_the_types_of_the_tools_schema(key, text, value):
    tools = [{"function": {"name": "f", "parameters": TYPED}}]
    call = f"<tool_call>f<arg_key>{key}</arg_key><arg_value>{text}</arg_value></tool_call>"
    (read,) = read_reply(ReplyReader(False, tools), call)["tool_calls"]
    assert read["function"]["arguments"] == {key: value} and type(read["function"]["arguments"][key]) is type(value)


@pytest.mark.parametrize(
    "schema",
    [None, [], "x", {"properties": 5}, {"properties": {"a": 5}}, {"properties": {"a": {"type": 5}}},
     {"properties": {"a": {"$ref": "#/properties/a"}}}, {"properties": {"a": {"$ref": "#/no/where"}}},
     {"properties": {"a": {"enum": []}}}, {"properties": {"a": {"anyOf": [5]}}}],
)  # fmt: skip
def test_no_schema_breaks_the_reader(schema):
    tools = [{"function": {"name": "f", "parameters": schema}}]
    for text in ("x", "1e999", "[" * 99999, "9" * 9999, '{"a": "\\ud800"}'):
        call = f"<tool_call>f<arg_key>a</arg_key><arg_value>{text}</arg_value></tool_call>"
        reply = read_reply(ReplyReader(False, tools), call)
        assert reply["tool_calls"] or reply["content"] == call


@pytest.mark.parametrize("kind", THINKING)
@settings(max_examples=25, deadline=None)
@given(values=values_of_calls, thoughts=plain, content=plain)
def test_a_rendered_answer_is_read_back(family, kind, values, thoughts, content):
    """But for white space around texts; a string that reads as JSON comes back as one where the schema says so."""
    tokenizer = family[kind]
    values = {key.strip(): value for key, value in values.items()}
    strings = {"properties": {key: {"type": "string"} for key, value in values.items() if isinstance(value, str)}}
    tools = [{"function": {"name": "f", "parameters": strings}}]
    call = {"function": {"name": "f", "arguments": values}}
    answer = {"role": "assistant", "content": content, "reasoning_content": thoughts, "tool_calls": [call, call]}
    prompt, _ = tokenizer.render([Q], tools, generation_prompt=True)
    ids, _ = tokenizer.render([Q, answer], tools)
    if thoughts.strip() or kind not in ("glm-4.7",):
        assert ids[: len(prompt)] == prompt
        reply = parse_reply(tokenizer, ids[len(prompt) :], tools)
        assert reply.get("reasoning_content", "") == thoughts.strip() and reply["content"] == content.strip()
        assert [one["function"] for one in reply["tool_calls"]] == [call["function"]] * 2


def test_long_answers_are_read_in_linear_time():
    """Minutes, where what is held back is looked through again for each piece."""
    for opening in ("<tool_call>f<arg_key>s</arg_key><arg_value>", "<tool_call>f<arg_key>", "<tool_call>", "a"):
        reader = ReplyReader(False, KNOWN)
        reader.feed(opening)
        for _ in range(30_000):
            reader.feed(" \n")
            reader.feed("</arg_value>")
        reader.end()
