"""Streams of every format add up to what the format's parser reads of the whole answer."""

import pytest
from helpers.scripted import with_marks
from helpers.text_samples import TEXTS, VOCAB_SIZE
from helpers.tokenizer_files import ROLES, ROUNDS, THINKING, make_folders
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openglm.text import load_tokenizer, train_tokenizer
from openglm.text.render import parse_reply, reader_of
from openglm.text.streaming import ReplyStream

TOOLS = [{"function": {"name": "get_time", "parameters": {"properties": {"zone": {"type": "string"}}}}}]
LINES = [
    *(
        "get_time",
        "get",
        " get_time ",
        "{}",
        '{"zone": "utc"}',
        "好",
        "好,b,",
        "[[训练",
        "[[训练时间]],",
        "a b",
        "",
        " ",
    ),
    *("```python\ntool_call(zone='utc')\n```", "</think>", "<think>", "<tool_call>get_time</tool_call>", "<tool_call>"),
    "<tool_call>get_time\n<arg_key>zone</arg_key><arg_value>1</arg_value></tool_call>",
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    own = train_tokenizer(iter(TEXTS), VOCAB_SIZE, tmp_path_factory.mktemp("own"))
    folders = make_folders(tmp_path_factory.mktemp("all"), own)
    return {"openglm": own, **{kind: load_tokenizer(path) for kind, path in folders.items()}}


@pytest.mark.parametrize("kind", [*ROLES, *ROUNDS, *THINKING])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(segments=st.lists(st.lists(st.sampled_from(LINES), max_size=4), min_size=1, max_size=2), closing=st.sampled_from(["<|user|>", "<|observation|>"]))  # fmt: skip
def test_a_stream_adds_up_to_the_whole_answer(tokenizers, kind, segments, closing):
    """Token by token: its thoughts, its content and its calls; an unknown or broken call is text in both."""
    tokenizer = tokenizers[kind]
    ids = []
    for lines in segments if kind in ROLES[:-1] else segments[:1]:
        ids += [tokenizer.special["<|assistant|>"]] if ids and "<|assistant|>" in tokenizer.special else []
        ids += with_marks(tokenizer, "\n".join(lines))
    ids.append(tokenizer.special.get(closing, tokenizer.stop[0]))
    stream, decode, pending, content = ReplyStream(tokenizer, ["get_time"], reader_of(tokenizer.format, TOOLS)), tokenizer.decoder(), b"", ""  # fmt: skip
    for token in ids[:-1]:
        pending += decode(token)
        try:
            text, pending = pending.decode(), b""
        except UnicodeDecodeError:
            text = ""
        content += stream.feed([(token, text)])
    rest, calls = stream.end(ids)
    reply = parse_reply(tokenizer, ids, TOOLS)
    known = [call for call in reply["tool_calls"] if call["function"]["name"] == "get_time"]
    assert calls == known
    assert "".join(stream.thoughts) == reply.get("reasoning_content", "")
    if known or not reply["tool_calls"]:
        assert "".join((content + rest).split()) == "".join(reply["content"].split())
