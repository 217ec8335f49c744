"""A conversation in the terminal: text as it streams, and commands. Knows nothing of how answers are made."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.output import create_output
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

from openglm.assistant import Assistant, Reply
from openglm.config import require
from openglm.files import write_file
from openglm.runtime import data_folder

HELP = """/clear         start a new conversation; the system text stays
/undo          remove the last question and its answer
/retry         answer the last question again
/system TEXT   set the system text; without TEXT, show it
/save FILE     save the conversation as JSON
/load FILE     continue a saved conversation
/tools FILE    give the model tools (in OpenAI's JSON format); you type in their results
/exit          quit; so does Ctrl-D. Ctrl-C stops an answer, or clears the line
//TEXT         send a text that begins with /
Several lines: paste them, end a line with \\, or put them between \"\"\" and \"\"\". Arrow up: what you asked before"""

# What moves a cursor, rings or renames a window belongs to the terminal, not to a model.
_CONTROLS = {code: None for code in [*range(32), *range(127, 160)] if chr(code) not in "\n\t"}
_QUOTES = '"""'
_MARKS = re.compile(r"\n|`+|~{3,}|\*\*|[~*]|[^\n`~*]+")
_UNDECIDED = re.compile(r"[`~*#> ]*\Z")  # may be half a mark
_BOLD, _CODE, _QUOTED = Style(bold=True), Style(color="cyan"), Style(dim=True)


class Paint:
    """Styles of a growing Markdown text. Every character of it stays, marks too: `2*3*4` and `List<int>` have the same
    ones, and what is copied from the screen is what was said. What is drawn is never drawn again, so that a window may
    change its size at any time."""

    def __init__(self) -> None:
        self.waiting = self.fence = self.code = ""
        self.bold, self.begins, self.line = False, True, Style.null()

    def __call__(self, text: str, last: bool = False) -> Segments:
        text = self.waiting + text
        self.waiting = "" if last else _UNDECIDED.findall(text)[0]
        decided = text[: len(text) - len(self.waiting)]
        return Segments([Segment(mark, self._style(mark)) for mark in _MARKS.findall(decided)])

    def _style(self, mark: str) -> Style:
        if mark == "\n":
            self.bold, self.begins, self.code, self.line = False, True, "", Style.null()
            return self.line
        begins, self.begins = self.begins, self.begins and not mark.strip()
        if begins and mark.startswith(self.fence or ("```", "~~~")):
            self.fence = "" if self.fence else mark
            return _CODE
        if not self.fence and mark[0] == "`" and self.code in ("", mark):
            self.code = "" if self.code else mark
            return _CODE
        if self.fence or self.code:
            return _CODE
        if begins:
            self.line = _BOLD if re.match(" *#+ ", mark) else _QUOTED if mark.lstrip()[:1] == ">" else self.line
        self.bold ^= mark == "**"
        return self.line + _BOLD if self.bold or mark == "**" else self.line


class Screen:
    """Shows answers: with styles on a terminal, the bare text where it is not one."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()

    def show(self, pieces: Iterable[str]) -> str:
        """Show a growing text; returns what there was of it, Ctrl-C or not."""
        said, paint = "", Paint()
        with contextlib.suppress(KeyboardInterrupt):
            for piece in pieces:
                shown = piece if said.strip() else piece.lstrip("\n")
                said += piece
                self._write(paint(shown.translate(_CONTROLS)) if self.console.is_terminal else shown)
        self._write(paint("", last=True) if self.console.is_terminal else "")
        self._write("\n")
        return said

    def sources(self, reply: Reply) -> None:
        """What an answer cites, and on standard error what could not be used."""
        for citation in reply.citations:
            lines = f"\n[{citation.index}] {citation.title}  {citation.url}\n    {citation.quote}\n"
            self._write(lines.translate(_CONTROLS))
        for problem in reply.problems:
            print(f"({problem.translate(_CONTROLS)})", file=sys.stderr)

    def _write(self, text: str | Segments) -> None:
        """Without wrapping, which is for the terminal to do."""
        segments = Segments([Segment(text)]) if isinstance(text, str) else text
        self.console.print(segments, end="", crop=False)


def _history() -> History:
    """What this user asked, for all sessions; for this one alone where there is no place for it."""
    try:
        file = data_folder() / "chat_history"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        return FileHistory(str(file))
    except (ValueError, OSError):
        return InMemoryHistory()


class Conversation:
    """Turn after turn until /exit or the end of input."""

    def __init__(
        self, assistant: Assistant, name: str, system: str, sampling: dict[str, Any], screen: Screen | None = None
    ) -> None:
        self.assistant, self.name, self.system, self.sampling = assistant, name, system, sampling
        self.screen = screen or Screen()
        self.messages: list[dict[str, Any]] = []
        self.tools: list[dict[str, Any]] | None = None
        self.session: PromptSession[str] | None = None
        self.commands = {"/clear": self.clear, "/undo": self.undo, "/retry": self.retry, "/system": self.set_system}
        self.commands |= {"/save": self.save, "/load": self.load, "/tools": self.set_tools}

    def run(self) -> int:
        parameters, context = self.assistant.model.config.parameters / 1e6, self.assistant.context
        self.note(f"{self.name}: {parameters:.1f} M parameters, context {context} tokens. /help lists the commands.")
        self.session = PromptSession(history=_history(), output=create_output(always_prefer_tty=True))
        while True:
            try:
                text = self.read()
                if text.strip() == "/exit":
                    return 0
                self.take(text)
            except KeyboardInterrupt:  # the line is cleared
                continue
            except EOFError:
                return 0
            except (ValueError, OSError) as error:
                self.note(f"glm chat: {error}")

    def ask(self, prompt: str) -> str:
        """What the user types or pastes before Enter. Raises EOFError, KeyboardInterrupt."""
        return self.session.prompt(prompt) if self.session else input(prompt)

    def read(self) -> str:
        """A question or a command; several lines where they are quoted or end in backslashes."""
        text = self.ask("> ")
        while text.endswith("\\") or (text.startswith(_QUOTES) and not text[3:].rstrip().endswith(_QUOTES)):
            text = text.removesuffix("\\") + "\n" + self.ask("... ")
        return text

    def take(self, text: str) -> None:
        """What the user said: a command, or something to answer."""
        word, _, argument = text.rstrip().partition(" ")
        if word in self.commands:
            self.commands[word](argument.strip())
        elif word.startswith("/") and not word.startswith("//"):
            known = "" if word == "/help" else f"{word}: no such command; /{text.rstrip()} sends it as a text\n"
            self.note(known + HELP)
        elif text.strip():
            text = text.strip().removeprefix(_QUOTES).removesuffix(_QUOTES) if text.startswith(_QUOTES) else text
            text = text.removeprefix("/") if word.startswith("//") else text
            self.answer([*self.messages, {"role": "user", "content": text.strip("\n")}])

    def answer(self, messages: list[dict[str, Any]]) -> None:
        """Answer, and take question and answer into the conversation unless nothing came. A call is answered by the
        user, who plays the tool.
        """
        reply = Reply("")
        system = [{"role": "system", "content": self.system}] if self.system else []
        pieces = self.assistant.stream(
            [*system, *messages],
            tools=self.tools,
            quoted=self.screen.console.is_terminal,
            answer=reply,
            **self.sampling,
        )
        said = self.screen.show(pieces)
        self.screen.sources(reply)
        if reply.dropped:
            self.note(f"({reply.dropped} old messages no longer fit the context and were left out)")
        if reply.tool_calls:
            try:
                results = [{"role": "tool", "content": self._result(call["function"])} for call in reply.tool_calls]
            except (EOFError, KeyboardInterrupt):
                self.note("(no result: the question is taken back)")
                return
            self.answer([*messages, *reply.messages, *results])
        elif reply.reasoning and not reply.text:
            self.note("(the answer ended within its thoughts; raise --max-tokens)")
        elif reply.text or said:
            self.messages = [*messages, *(reply.messages or [{"role": "assistant", "content": said}])]

    def _result(self, call: dict[str, Any]) -> str:
        self.note(f"{call['name']} {json.dumps(call['arguments'], ensure_ascii=False)}")
        return self.ask("result> ")

    def clear(self, _: str) -> None:
        self.messages = []

    def undo(self, _: str) -> None:
        self.messages = self.messages[: self._last_question()]
        self.note(f"questions left: {sum(message['role'] == 'user' for message in self.messages)}")

    def retry(self, _: str) -> None:
        self.answer(self.messages[: self._last_question() + 1])

    def _last_question(self) -> int:
        asked = [index for index, message in enumerate(self.messages) if message["role"] == "user"]
        require(len(asked) > 0, "/undo, /retry", "", "you have not asked anything yet")
        return asked[-1]

    def set_system(self, text: str) -> None:
        self.system = text or self.system
        self.note(f"system text: {self.system or 'none'}")

    def save(self, path: str) -> None:
        require(bool(path), "/save", path, "name a file")
        write_file(
            path,
            json.dumps(
                {"model": self.name, "system": self.system, "messages": self.messages}, ensure_ascii=False, indent=1
            )
            + "\n",
        )
        self.note(f"{len(self.messages)} messages in {path}")

    def load(self, path: str) -> None:
        saved = _read_json(path, "/load")
        require(
            isinstance(saved, dict) and isinstance(saved.get("system", ""), str),
            "/load",
            path,
            "holds no saved conversation",
        )
        messages = saved.get("messages") or []
        if messages:
            self.assistant.tokenizer.render(messages)  # raises ValueError naming what is wrong
        self.system, self.messages = saved.get("system", ""), list(messages)
        self.note(f"{len(self.messages)} messages from {path}")

    def set_tools(self, path: str) -> None:
        if path:
            tools = _read_json(path, "/tools")
            require(isinstance(tools, list), "/tools", path, "must hold a list of tools")
            self.assistant.chat_prompt(
                [{"role": "user", "content": ""}], tools
            )  # raises ValueError naming what is wrong
            self.tools = tools
        names = [tool["function"]["name"] for tool in self.tools or ()]
        self.note(f"tools: {', '.join(names) or 'none'}")

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)


def _read_json(path: str, command: str) -> Any:
    require(bool(path), command, path, "name a file")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise ValueError(f"{command} = {path!r}: is not JSON; give a file that /save wrote") from None
