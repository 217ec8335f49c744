"""The tools that a model may call, by name: built in, a program's own functions, and those of MCP servers."""

from __future__ import annotations

import inspect
import json
import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, Field, ValidationError, create_model

from openglm.config import require, shorten
from openglm.text.replies import arguments_of, is_name, json_text
from openglm.tools.builtin import BUILT_IN
from openglm.tools.expressions import split
from openglm.tools.pool import shared_pool
from openglm.tools.programs import python
from openglm.tools.servers import Servers

Function = TypeVar("Function", bound=Callable[..., Any])
_LONGEST_ERROR = 300  # characters


@dataclass(frozen=True)
class Tool:
    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of its arguments"""
    run: Callable[[dict[str, Any], float], Any]
    """its result for checked arguments, in so many seconds"""
    check: Callable[[dict[str, Any]], dict[str, Any]] = dict
    """arguments as `run` takes them. Raises pydantic's ValidationError"""
    built_in: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """In OpenAI's form."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


class Tools:
    """`Tools().call("Calc", "(3+333)*111/2")` gives "18648". Threads may share one."""

    def __init__(self, *, calls: int = 16, seconds: float = 30.0, characters: int = 4000) -> None:
        """Limits of one answer: so many calls, so many seconds for all of them, and so many characters of a result,
        of which the middle is left out if need be.

        A function that was added runs in a thread of this process: one that hangs is given up, but not ended.
        """
        require(calls > 0, "calls", calls, "must be a positive whole number")
        require(seconds > 0, "seconds", seconds, "must be positive")
        require(characters >= 100, "characters", characters, "must be at least 100")
        self.calls, self.seconds, self.characters = calls, seconds, characters
        self._tools: dict[str, Tool] = {}
        self._servers: Servers | None = None
        for name, function in BUILT_IN.items():
            self._put(_tool_of(name, function, partial(_in_worker, name), built_in=True))
        self._put(_tool_of("Python", python, partial(_in_thread, python), built_in=True))

    @property
    def names(self) -> list[str]:
        return list(self._tools)

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """All tools in OpenAI's form, as `tools` of a request."""
        return [tool.schema for tool in self._tools.values()]

    @property
    def added(self) -> list[dict[str, Any]]:
        """The schemas of those that are not built in."""
        return [tool.schema for tool in self._tools.values() if not tool.built_in]

    def add(self, function: Function) -> Function:
        """Let the model call a function; also a decorator. Its parameters have types; its docstring says what it does,
        and lines `name: text` what a parameter is. What it returns becomes text."""
        self._put(_tool_of(function.__name__, function, partial(_in_thread, function)))
        return function

    def add_mcp(self, config: str | Path | Mapping[str, Any]) -> None:
        """Add the tools of MCP servers, each as SERVER_TOOL. config: {"mcpServers": {"time": {"command": "uvx", "args":
        ["mcp-server-time"]}, "other": {"url": "http://..."}}}, or a file that holds this. Raises ValueError of one line
        for a server that does not answer."""
        self._servers = self._servers or Servers()
        for server, found in self._servers.connect(_server_entries(config)):
            for tool in found:
                run = partial(self._servers.call, server, tool.name)
                self._put(Tool(f"{server}_{tool.name}", tool.description or "", dict(tool.input_schema), run))

    def _put(self, tool: Tool) -> None:
        require(is_name(tool.name), "tool", tool.name, "must be a name without spaces")
        require(tool.name not in self._tools, "tool", tool.name, "there is one of this name already; choose another")
        self._tools[tool.name] = tool

    def call(
        self,
        name: str,
        arguments: str | Mapping[str, Any],
        *,
        seconds: float = math.inf,
        characters: int = 1 << 30,
    ) -> str:
        """The tool's result as text. arguments: by name, or as text: the values in their order, with commas between
        them and lists in brackets, as in "[x+y=3, x-y=1],[x, y]". seconds, characters: limits below the usual ones.
        Raises ValueError of one line where it fails."""
        seconds, characters = min(seconds, self.seconds), min(characters, self.characters)
        tool = self._tools.get(name)
        if tool is None:
            raise ValueError(f"there is no tool {shorten(name, 80)!r}; there are {shorten(', '.join(self._tools))}")
        try:
            result = tool.run(tool.check(_by_name(tool, arguments)), seconds)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(_line(f"{name}: {'.'.join(map(str, first['loc']))}: {first['msg']}")) from None
        except (TimeoutError, Late):  # one and the same since Python 3.11
            raise ValueError(f"{name}: no result in {seconds:.3g} s") from None
        except ValueError as error:
            raise ValueError(_line(f"{name}: {error}")) from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise ValueError(_line(f"{name}: {type(error).__name__}: {error}")) from None
        text = result if isinstance(result, str) else json_text(result) or str(result)
        return shorten(text.encode(errors="replace").decode(), characters)

    def close(self) -> None:
        """End the MCP servers. The workers of the built-in tools serve the whole process and end with it."""
        if self._servers is not None:
            self._servers.close()


def _line(text: str) -> str:
    return shorten(" ".join(text.encode(errors="replace").decode().split()), _LONGEST_ERROR)


def _tool_of(
    name: str, function: Callable[..., Any], run: Callable[[dict[str, Any], float], Any], built_in: bool = False
) -> Tool:
    """A tool from a function's signature and docstring. Raises ValueError where a parameter has no type."""
    description, notes = _documentation(function)
    hints, fields = get_type_hints(function), dict[str, Any]()
    for parameter in inspect.signature(function).parameters.values():
        plain = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        require(plain and parameter.name in hints, f"{name}: {parameter}", "", "must be a named parameter with a type")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = hints[parameter.name], Field(default, description=notes.get(parameter.name))
    model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    schema = model.model_json_schema()
    for one in (schema, *schema.get("properties", {}).values()):
        one.pop("title", None)

    def check(arguments: dict[str, Any]) -> dict[str, Any]:
        made = model.model_validate(arguments)
        return {name: getattr(made, name) for name in made.model_fields_set}

    return Tool(name, description, schema, run, check, built_in)


def _documentation(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The first paragraph of a docstring, and what its lines `name: text` say of parameters; others go on with the line
    before them."""
    text = inspect.cleandoc(function.__doc__ or "")
    parameters, notes, current = inspect.signature(function).parameters, dict[str, str](), [""]
    for line in text.splitlines():
        names, colon, note = line.strip().partition(": ")
        if colon and set(names.split(", ")) <= parameters.keys():
            current = names.split(", ")
            notes |= dict.fromkeys(current, note)
        elif line.startswith(" ") and current[0] in notes:
            notes |= {name: f"{notes[name]} {line.strip()}" for name in current}
    return " ".join(text.partition("\n\n")[0].split()), notes


def _in_worker(name: str, arguments: dict[str, Any], seconds: float) -> str:
    return shared_pool().call(name, arguments, seconds)


def _in_thread(function: Callable[..., Any], arguments: dict[str, Any], seconds: float) -> Any:
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(function(**arguments))
        except BaseException as error:  # also one that would end the program
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future.result(seconds)


def _by_name(tool: Tool, arguments: str | Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that are text by the names of their parameters."""
    if isinstance(arguments, Mapping):
        return dict(arguments)
    named = arguments_of(arguments) if arguments.lstrip().startswith("{") else None
    if named is not None:
        return named
    properties = tool.parameters.get("properties", {})
    values = [arguments.strip()] if len(properties) == 1 else split(arguments)
    values = values if any(values) else []
    if len(values) > len(properties):
        raise ValueError(f"takes {', '.join(properties) or 'no arguments'}, but {len(values)} values were given")
    pairs = zip(properties.items(), values, strict=False)
    return {name: _listed(value) if one.get("type") == "array" else value for (name, one), value in pairs if value}


def _listed(text: str) -> list[str]:
    inside = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return [piece for piece in split(inside) if piece]


def _server_entries(config: str | Path | Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    shown = "..." if isinstance(config, Mapping) else str(config)
    if not isinstance(config, Mapping):
        try:
            config = json.loads(Path(config).read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise ValueError(f"mcp = {shown!r}: is not JSON; give a file with mcpServers") from None
    entries = config.get("mcpServers") if isinstance(config, Mapping) else None
    sound = isinstance(entries, Mapping) and all(isinstance(entry, Mapping) for entry in entries.values())
    require(sound, "mcp", shown, 'must hold {"mcpServers": {NAME: {"command": ..., "args": [...]} or {"url": ...}}}')
    return dict(entries)  # type: ignore[arg-type]
