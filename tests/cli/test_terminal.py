"""The terminal: what is shown is what was said, commands change the conversation and nothing else, Ctrl-C ends an answer and no more."""

import io
import json
import os
import pty
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from openglm import Assistant
from openglm.cli.terminal import Conversation, Screen, finished


def terminal(width=40):
    return Screen(Console(file=io.StringIO(), force_terminal=True, width=width, height=20, legacy_windows=False))


@pytest.fixture
def conversation(toy):
    return Conversation(Assistant(toy), "toy", "", {"max_tokens": 6, "temperature": 0.0}, terminal())


@given(
    st.lists(
        st.sampled_from(["# a\n", "\n", "text\n", "- x\n", "```\n", "  \n", "好\n", "> q\n", "1. n\n", "x\n"]),
        max_size=14,
    )
)
def test_blocks_printed_for_good_are_never_changed_by_what_follows(lines):
    """The shown text is the same whether it came at once or line by line; no block is lost, none is shown twice."""
    from rich.markdown import Markdown

    text, done, rest = "".join(lines), [], ""
    for line in lines:
        rest += line
        end = finished(rest)
        done, rest = [*done, rest[:end]] if end else done, rest[end:]
    assert "".join(done) + rest == text
    for piece in done:
        assert piece.count("```") % 2 == 0 and Markdown(piece)


def test_markdown_is_drawn_and_a_terminals_controls_are_not_obeyed():
    screen = terminal()
    said = screen.show(iter(["# 标题\n\n**bo", "ld** 你好\n\n", "\x1b]0;owned\x07 \x1b[2Jend\r"]))
    out = screen.console.file.getvalue()
    assert "标题" in out and "bold" in out and "**" not in out.split("\n")[-3]
    assert "\x1b]0;" not in out and "\x1b[2J end" not in out and "\x07" not in out and said.endswith("end\r")


def test_wide_characters_wrap_within_the_width():
    from rich.cells import cell_len
    from rich.text import Text

    screen = terminal(width=11)
    screen.show(iter(["床前明月光疑是地上霜举头望明月"]))
    final = screen.console.file.getvalue().split("\x1b[?25h")[-1] or screen.console.file.getvalue()
    assert all(cell_len(Text.from_ansi(line).plain) <= 11 for line in final.split("\n"))


def test_ctrl_c_keeps_what_was_said():
    def pieces():
        yield "half"
        raise KeyboardInterrupt

    assert terminal().show(pieces()) == "half"


def test_commands(conversation, tmp_path):
    take, file = conversation.take, tmp_path / "chat.json"
    take("你好")
    take("How are you today?")
    before = list(conversation.messages)
    assert [m["role"] for m in before] == ["user", "assistant"] * 2
    take("/retry")
    assert conversation.messages == before, "greedy answers repeat"
    take("/undo")
    assert conversation.messages == before[:2]
    take("/system Be short.")
    take(f"/save {file}")
    take("/clear")
    assert conversation.messages == [] and conversation.system == "Be short."
    take("/system Other.")
    take(f"/load {file}")
    assert conversation.messages == before[:2] and conversation.system == "Be short."
    take("/what")
    assert conversation.messages == before[:2]


@pytest.mark.parametrize(
    "content", ["", "[]", "nonsense", '{"messages": [{"role": "king"}]}', '{"system": 1}', '{"messages": 3}']
)
def test_a_file_that_is_no_conversation_changes_nothing(conversation, tmp_path, content):
    file = tmp_path / "bad.json"
    file.write_text(content, encoding="utf-8")
    conversation.take("hi")
    before = list(conversation.messages)
    with pytest.raises(ValueError, match=r"load|messages"):
        conversation.take(f"/load {file}")
    for line in ("/load", "/save", "/tools"):
        try:
            conversation.take(line)
        except ValueError as error:
            assert "\n" not in str(error)
    assert conversation.messages == before


def test_a_call_is_answered_by_the_user(conversation, monkeypatch):
    said = iter(
        [
            [{"type": "function", "function": {"name": "f", "arguments": {}}}],
            [],
        ]
    )

    def stream(messages, tools, answer, **_):
        answer.text, answer.tool_calls = "look", next(said)
        answer.messages = [{"role": "assistant", "content": "look", "tool_calls": answer.tool_calls}]
        yield "look"

    monkeypatch.setattr(conversation.assistant, "stream", stream)
    monkeypatch.setattr("builtins.input", lambda prompt: "42")
    conversation.take("hi")
    assert [m["role"] for m in conversation.messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ] and conversation.messages[2]["content"] == "42"


def test_a_real_terminal_talks_and_ends(toy):
    """Under a pseudo-terminal: prompt, an answer, end of input."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "openglm.cli.main", "chat", str(toy), "--max-tokens", "4", "--temperature", "0"]
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=subprocess.PIPE, env={**os.environ, "TERM": "xterm"}
    )
    os.close(follower)
    os.write(leader, "你好\n/system x\n".encode())
    os.write(leader, b"/exit\n")
    _, errors = process.communicate(timeout=120)
    os.close(leader)
    assert process.returncode == 0 and b"system text: x" in errors, errors


def test_saved_files_are_json_of_messages(conversation, tmp_path):
    conversation.take("你好")
    conversation.take(f"/save {tmp_path / 'a.json'}")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["messages"] == conversation.messages
