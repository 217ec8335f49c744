"""The terminal: what is shown is what was said, commands change the conversation and nothing else, Ctrl-C ends an answer and no more."""

import io
import itertools
import json
import os
import pty
import subprocess
import sys

import pyte
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from openglm import Assistant
from openglm.cli import terminal as terminal_module
from openglm.cli.main import main
from openglm.cli.terminal import Conversation, Screen


def terminal(width=40):
    return Screen(Console(file=io.StringIO(), force_terminal=True, width=width, height=20, legacy_windows=False))


@pytest.fixture
def conversation(toy):
    return Conversation(Assistant(toy), "toy", "", {"max_tokens": 6, "temperature": 0.0}, terminal())


def lines(output, columns=40):
    """What a terminal of this width shows of an output."""
    screen = pyte.Screen(columns, 200)
    screen.set_mode(pyte.modes.LNM)  # a tty turns \n into \r\n
    pyte.Stream(screen).feed(output)
    return [line.rstrip() for line in screen.display]


MARKDOWN = st.text(alphabet="ab<>&*_`~#|$\\\\[]()!-+.=1: \n好", max_size=60)


@example("11#\n1", [4])  # a piece that ends in a mark and the end of its line
@given(MARKDOWN, st.lists(st.integers(0, 60)))
def test_every_character_of_an_answer_is_on_the_screen(text, cuts):
    """In its line, whatever the pieces in which it comes."""
    text = text.strip("\n")
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    screen = terminal(200)
    assert screen.show([text[a:b] for a, b in itertools.pairwise(edges)]) == text
    shown = lines(screen.console.file.getvalue(), 200)
    assert [line.replace("好 ", "好") for line in shown if line] == [
        line for line in (line.rstrip(" ").replace("好 ", "好") for line in text.split("\n")) if line
    ]


def test_what_is_drawn_is_never_drawn_again():
    """So a window may change its size: no cursor goes up, no line is cleared."""
    screen = terminal(11)
    screen.show(iter(["床前明月光，", "疑是地上霜。\n举头", "望明月\n\n- **a**\n- b"]))
    output = screen.console.file.getvalue()
    assert not [one for one in output.split("\x1b[")[1:] if not one.lstrip("0123456789;").startswith("m")]
    assert "".join(lines(output, 11)).replace(" ", "") == "床前明月光，疑是地上霜。举头望明月-**a**-b"


def test_marks_have_styles_and_a_terminals_controls_are_not_obeyed():
    screen = terminal()
    said = screen.show(iter(["# 标题\n\n**bo", "ld** 你好 `co", "de`\n\n", "\x1b]0;owned\x07 \x1b[2Jend\r"]))
    out = screen.console.file.getvalue()
    assert "\x1b[1mld" in out and "\x1b[36mde" in out and "\x1b[1m# 标题" in out
    assert "\x1b]0;" not in out and "\x1b[2J" not in out and "\x07" not in out and said.endswith("end\r")


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


def typed(conversation, monkeypatch, text):
    """A conversation by keyboard; returns what was asked."""
    monkeypatch.setattr(terminal_module, "create_output", lambda **_: DummyOutput())
    with create_pipe_input() as keys, create_app_session(input=keys):
        keys.send_text(text + "\x04")
        assert conversation.run() == 0
    return [message["content"] for message in conversation.messages if message["role"] == "user"]


@pytest.mark.parametrize(
    ("keys", "asked"),
    [
        ("\x1b[200~第一行\n  第二行\n/x\n\x1b[201~\r", ["第一行\n  第二行\n/x"]),
        ("\x1b[200~if a:\r\n\tb\x1b[201~\r", ["if a:\n\tb"]),
        ('"""\r/a\r\r  b\r"""\r', ["/a\n\n  b"]),
        ('"""one"""\r', ["one"]),
        ("one\\\rtwo\r", ["one\ntwo"]),
        ("half a line\x03whole\r", ["whole"]),
        ('"""\rhalf\x03whole\r', ["whole"]),
        ("//etc/hosts?\r", ["/etc/hosts?"]),
        ("  indented\r", ["  indented"]),
        ("/nothing\r   \r", []),
    ],
)
def test_what_is_typed_and_pasted_is_what_is_asked(conversation, monkeypatch, tmp_path, capsys, keys, asked):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert typed(conversation, monkeypatch, keys) == asked
    assert ("/nothing: no such command" in capsys.readouterr().err) == ("/nothing" in keys)


def test_the_next_session_knows_what_was_asked(conversation, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert typed(conversation, monkeypatch, "\x1b[200~两\n行\x1b[201~\r") == ["两\n行"]
    again = Conversation(conversation.assistant, "toy", "", {"max_tokens": 2}, terminal())
    assert typed(again, monkeypatch, "\x10\r") == ["两\n行"]  # Ctrl-P
    (file,) = (tmp_path / "openglm").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("key", ["\x03", "\x04"])
def test_a_call_without_a_result_takes_the_question_back(conversation, monkeypatch, tmp_path, capsys, key):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}

    def stream(messages, answer, **_):
        answer.text = "well"
        answer.tool_calls = [call] if messages[-1]["content"] == "call" else []
        answer.messages = [{"role": "assistant", "content": "well"}]
        yield "well"

    monkeypatch.setattr(conversation.assistant, "stream", stream)
    assert typed(conversation, monkeypatch, f"first\rcall\r{key}last\r") == ["first", "last"]
    assert "taken back" in capsys.readouterr().err


def test_a_text_from_a_pipe_stands_below_the_prompt(toy, monkeypatch, capsys):
    """And an input that stays open without a word, as programs leave it, holds nothing up."""
    asked = []
    monkeypatch.setattr(Assistant, "stream", lambda self, messages, **_: asked.append(messages) or iter(()))
    reader, writer = os.pipe()
    with open(reader) as silent, monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", silent)
        patched.setattr("openglm.cli.chat._PATIENCE", 0.05)
        assert main(["chat", str(toy), "--prompt", "hello"]) == 0
        assert "--prompt stands alone" in capsys.readouterr().err
        patched.undo()
        patched.setattr(sys, "stdin", silent)
        os.write(writer, b"a poem\n")
        os.close(writer)
        assert main(["chat", str(toy), "--prompt", "Translate:"]) == 0
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["chat", str(toy), "--prompt", "hi"]) == 0
    assert [messages[-1]["content"] for messages in asked] == ["hello", "Translate:\n\na poem", "hi"]


def test_a_real_terminal_talks_and_ends(toy, tmp_path):
    """Under a pseudo-terminal whose locale knows ASCII alone: a prompt, an answer, end of input."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "openglm.cli.main", "chat", str(toy), "--max-tokens", "4", "--temperature", "0"]
    process = subprocess.Popen(
        command,
        stdin=follower,
        stdout=follower,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "LC_ALL": "C", "XDG_DATA_HOME": str(tmp_path)},
    )
    os.close(follower)
    os.write(leader, f"你好\n/system 简短\n/save {tmp_path}/chat.json\n".encode())
    os.write(leader, b"/exit\n")
    _, errors = process.communicate(timeout=120)
    os.close(leader)
    assert process.returncode == 0 and "system text: 简短" in errors.decode(), errors
    saved = json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))
    assert saved["messages"][0]["content"] == "你好" and saved["system"] == "简短"


def test_saved_files_are_json_of_messages(conversation, tmp_path):
    conversation.take("你好")
    conversation.take(f"/save {tmp_path / 'a.json'}")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["messages"] == conversation.messages
