"""`glm chat` with tools: steps in the JSON, in the terminal, and kept in a conversation."""

import io
import json

import pytest
from helpers.scripted import scripted
from helpers.text_samples import TEXTS, VOCAB_SIZE
from rich.console import Console

from openglm import Tools
from openglm.cli.chat import answer
from openglm.cli.main import main
from openglm.cli.terminal import Conversation, Screen
from openglm.text import train_tokenizer

WRITTEN = "和是[Begin]Calc[Param](3+333)*111/2[End]，[Begin]Calc[Param]1/0[End]对。<eop>"
ASKED = [{"role": "user", "content": "?"}]
PLAIN = {"max_tokens": 100, "temperature": 0}


@pytest.fixture
def assistant(tmp_path):
    return scripted(train_tokenizer(iter(TEXTS), VOCAB_SIZE, tmp_path), WRITTEN, Tools())


def test_json_has_the_calls_with_their_results(assistant, capsys):
    answer(assistant, ASKED, PLAIN, as_json=True)
    said = capsys.readouterr()
    shown = json.loads(said.out)
    assert shown["text"] == "和是，对。"
    assert shown["tool_calls"] == [
        {"name": "Calc", "arguments": "(3+333)*111/2", "result": "18648"},
        {"name": "Calc", "arguments": "1/0", "result": "error: Calc: division by zero"},
    ]
    assert "18648" not in said.err and "division by zero" in said.err, "the user sees which step failed"


def test_a_terminal_shows_steps_where_they_happen_and_keeps_them(assistant):
    screen = Screen(Console(file=io.StringIO(), force_terminal=True, width=60, height=30, legacy_windows=False))
    conversation = Conversation(assistant, "scripted", "", PLAIN, screen)
    conversation.take("?")
    shown = screen.console.file.getvalue()
    assert shown.index("和是") < shown.index("18648") < shown.rindex("对。")
    [_, kept] = conversation.messages
    assert kept["content"] == "和是，对。" and [step["at"] for step in kept["steps"]] == [2, 3]


def test_without_a_terminal_text_and_steps_are_apart(assistant, capsys):
    answer(assistant, ASKED, PLAIN, as_json=False)
    said = capsys.readouterr()
    assert said.out == "和是，对。\n" and "(Calc (3+333)*111/2 → 18648)" in said.err


def test_a_wrong_configuration_is_one_line(toy, tmp_path, capsys):
    (tmp_path / "mcp.json").write_text('{"servers": {}}')
    assert main(["chat", str(toy), "--prompt", "?", "--mcp", str(tmp_path / "mcp.json")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("glm chat: mcp = ") and said.count("\n") == 1
