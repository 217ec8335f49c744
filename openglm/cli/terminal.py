"""A conversation in the terminal: Markdown as it streams, and commands. Knows nothing of how answers are made."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown

from openglm.assistant import Assistant, Reply
from openglm.config import require
from openglm.files import write_file

HELP = """/clear         start a new conversation; the system text stays
/undo          remove the last question and its answer
/retry         answer the last question again
/system TEXT   set the system text; without TEXT, show it
/save FILE     save the conversation as JSON
/load FILE     continue a saved conversation
/tools FILE    give the model tools (in OpenAI's JSON format); you type in their results
/exit          quit; Ctrl-C stops an answer"""

# What moves a cursor, rings or renames a window belongs to the terminal, not to a model.
_CONTROLS = {code: None for code in [*range(32), *range(127, 160)] if chr(code) not in "\n\t"}


class Screen:
    """Shows answers: Markdown on a terminal, the bare text where it is not one."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()

    def show(self, pieces: Iterable[str]) -> str:
        """Show a growing text; returns what there was of it, Ctrl-C or not."""
        said: list[str] = []
        with contextlib.suppress(KeyboardInterrupt):
            self._markdown(pieces, said) if self.console.is_terminal else self._plain(pieces, said)
        if not self.console.is_terminal:
            print(flush=True)
        return "".join(said)

    def _plain(self, pieces: Iterable[str], said: list[str]) -> None:
        for piece in pieces:
            print(piece if "".join(said).strip() else piece.lstrip("\n"), end="", flush=True)
            said.append(piece)

    def _markdown(self, pieces: Iterable[str], said: list[str]) -> None:
        """Whole blocks are printed for good; only the last one, which still grows, is drawn again."""
        done, rest = 0, ""
        with Live(console=self.console, refresh_per_second=12, transient=True, vertical_overflow="ellipsis") as live:
            try:
                for piece in pieces:
                    said.append(piece)
                    rest += piece.translate(_CONTROLS)
                    done = finished(rest)
                    if done:
                        self.console.print(Markdown(rest[:done]), "")
                        rest = rest[done:]
                    live.update(Markdown(rest))
            finally:
                live.update("")
                self.console.print(Markdown(rest))


def finished(text: str) -> int:
    """How many characters of a growing Markdown text form blocks that nothing can change: up to the last blank line
    outside code and lists.
    """
    end, position, fenced = 0, 0, False
    for line in text.splitlines(keepends=True):
        position += len(line)
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        following = text[position : position + 1]
        if (
            not line.strip()
            and not fenced
            and following
            and not following.isspace()
            and following not in "-*+0123456789>"
        ):
            end = position
    return end


class Conversation:
    """Turn after turn until /exit or the end of input."""

    def __init__(
        self, assistant: Assistant, name: str, system: str, sampling: dict[str, Any], screen: Screen | None = None
    ) -> None:
        self.assistant, self.name, self.system, self.sampling = assistant, name, system, sampling
        self.screen = screen or Screen()
        self.messages: list[dict[str, Any]] = []
        self.tools: list[dict[str, Any]] | None = None
        self.commands = {"/clear": self.clear, "/undo": self.undo, "/retry": self.retry, "/system": self.set_system}
        self.commands |= {"/save": self.save, "/load": self.load, "/tools": self.set_tools}

    def run(self) -> int:
        config = self.assistant.model.config
        self.note(
            f"{self.name}: {config.parameters / 1e6:.1f} M parameters, context {self.assistant.context} tokens. /help lists the commands."
        )
        with contextlib.suppress(ImportError):  # line editing and history, right with wide characters
            import readline  # noqa: F401
        while True:
            try:
                text = input("> ").strip()
            except (EOFError, KeyboardInterrupt):
                print(file=sys.stderr)
                return 0
            if text == "/exit":
                return 0
            try:
                self.take(text)
            except (ValueError, OSError) as error:
                self.note(f"glm chat: {error}")

    def take(self, text: str) -> None:
        """One line of the user's: a command, or something to answer."""
        word, _, argument = text.partition(" ")
        if word in self.commands:
            self.commands[word](argument.strip())
        elif word.startswith("/"):
            self.note(HELP)
        elif text:
            self.answer([*self.messages, {"role": "user", "content": text}])

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
        if reply.dropped:
            self.note(f"({reply.dropped} old messages no longer fit the context and were left out)")
        if reply.tool_calls:
            self.messages = [*messages, *reply.messages]
            results = []
            for call in reply.tool_calls:
                name, arguments = call["function"]["name"], call["function"]["arguments"]
                self.note(f"{name} {json.dumps(arguments, ensure_ascii=False)}")
                results.append({"role": "tool", "content": input("result> ")})
            self.answer([*self.messages, *results])
        elif reply.reasoning and not reply.text:
            self.note("(the answer ended within its thoughts; raise --max-tokens)")
        elif reply.text or said:
            self.messages = [*messages, *(reply.messages or [{"role": "assistant", "content": said}])]

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
