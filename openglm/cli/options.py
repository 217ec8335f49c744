"""Read a verb's options from flags and from `--config FILE.toml`; flags win. Errors are one line.

The dataclass is the only list of options: tyro makes flags and help from its fields and docstrings. A TOML file is
turned into the same flags, so both are checked in one place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_origin, get_type_hints

from openglm.config import require

if TYPE_CHECKING:
    from openglm.tools.registry import Tools

Options = TypeVar("Options")


def parse(
    cls: type[Options],
    argv: list[str],
    prog: str,
    description: str,
    default: Options | None = None,
    ignore: tuple[str, ...] = (),
) -> Options:
    """Read `argv` (and the file after `--config`, without its keys in `ignore`) into `cls`. Raises ValueError of one
    line for a wrong option.
    """
    import tyro

    argv, file = take(join_repeated(cls, argv), "--config")
    table = read_toml(file) if file else {}
    from_file = toml_flags(cls, {name: value for name, value in table.items() if name not in ignore})
    wants_help = "-h" in argv or "--help" in argv
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(sys.stderr if wants_help else captured):
            return tyro.cli(
                cls,
                args=[*from_file, *argv],
                prog=prog,
                description=description + " --config FILE.toml sets any of these options; flags override it.",
                default=default,
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise ValueError(plain(captured.getvalue()) + (f" (with {file})" if file else "")) from None


def chosen_tools(enabled: bool, mcp: str) -> Tools | None:
    """The tools that `--tools` and `--mcp` ask for."""
    if not enabled and not mcp:
        return None
    from openglm.tools.registry import Tools

    tools = Tools()
    if mcp:
        tools.add_mcp(mcp)
    return tools


def join_repeated(cls: type, argv: list[str]) -> list[str]:
    """A command line in which each option of several values stands once, with all values that it is given: tyro would
    keep the last ones."""
    flags = dict(_several(cls))
    rest: list[str] = []
    values: dict[str, list[str]] = {}
    words = rest
    for word in argv:
        name, given, value = word.partition("=")
        flag = name.replace("_", "-")
        if word.startswith("--"):
            words = values.setdefault(flag, []) if flag in flags else rest
            word = value if words is not rest else word
            if words is not rest and not given:
                continue
        words.append(word)
    for flag, several in values.items():
        names = several[::2] if flags[flag] is dict else []
        twice = next((name for name in names if names.count(name) > 1), None)
        require(twice is None, flag, twice, "this name is given twice; choose another")
        rest += [flag, *several]
    return rest


def _several(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flags that take any number of values, and the type that holds these."""
    for name, hint in get_type_hints(cls).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _several(hint, f"{prefix}{name}.")
        elif get_origin(hint) in (dict, list, tuple):
            yield f"--{prefix}{name}".replace("_", "-"), get_origin(hint)


def take(argv: list[str], flag: str) -> tuple[list[str], str | None]:
    """Remove `flag VALUE` or `flag=VALUE` from a command line; returns the rest and the value."""
    for i, word in enumerate(argv):
        if word == flag:
            require(i + 1 < len(argv), flag, "", "needs a value after it")
            return argv[:i] + argv[i + 2 :], argv[i + 1]
        if word.startswith(flag + "="):
            return argv[:i] + argv[i + 1 :], word.partition("=")[2]
    return argv, None


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file as a dictionary; ValueError that names the file when it is missing or malformed."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror}; give the path of a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path}: not valid TOML ({error})") from None


def toml_flags(cls: type, table: dict[str, Any], prefix: str = "") -> list[str]:
    """The flags that say what a TOML table says."""
    hints, flags = get_type_hints(cls), []
    for name, value in table.items():
        flag, hint = f"--{prefix}{name}".replace("_", "-"), hints.get(name)
        require(hint is not None, f"--config: {prefix}{name}", value, f"not an option; known here: {', '.join(hints)}")
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            require(isinstance(value, dict), f"--config: {prefix}{name}", value, "must be a table")
            flags += toml_flags(hint, value, f"{prefix}{name}.")
        elif isinstance(value, dict):
            flags += [flag, *(str(word) for pair in value.items() for word in pair)]
        elif isinstance(value, bool):
            flags.append(flag if value else f"--{prefix}no-{name}".replace("_", "-"))
        else:
            flags += [flag, *(str(v) for v in (value if isinstance(value, list) else [value]))]
    return flags


def plain(boxed: str) -> str:
    """The text of a framed message as one line, without the frame's title, which it repeats."""
    lines = [line.strip("│─ ") for line in boxed.splitlines() if not line.startswith(("╭", "╰"))]
    return " ".join(line for line in lines if line)
