"""The package's limits: who may import whom, how large a room, a file and a function may be. docs/architecture.md shows the same table."""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "openglm"


class Room(NamedTuple):
    """A folder, or a single file, of the package."""

    floor: int
    tokens: int
    """of Python at most, counted by `count_tokens`: who needs more takes it from another room"""
    imports: str = ""
    """rooms it may import beside those of floors 1 and 2, which all may use"""
    wide_lines: int = 0
    """lines over 120 columns that wait to be wrapped; a number that only falls"""


ROOMS = {
    "config": Room(1, 5_334),
    "presets": Room(1, 1_109),
    "runtime": Room(1, 1_990),
    "files": Room(1, 1_630),
    "text": Room(2, 22_353, wide_lines=6),
    "kernels": Room(2, 4_207),
    "net": Room(2, 1_913),
    "sandbox": Room(2, 6_397),
    "data": Room(3, 25_305, wide_lines=4),
    "model": Room(3, 7_178),
    "quant": Room(3, 3_395, wide_lines=1),
    "tools": Room(3, 13_250),
    "web": Room(3, 8_864),
    "checkpoints": Room(4, 18_843, "model quant", wide_lines=7),
    "parallel": Room(4, 3_721, "model", wide_lines=1),
    "engine": Room(4, 18_995, "model quant", wide_lines=2),
    "train": Room(5, 17_262, "model data parallel checkpoints", wide_lines=1),
    "assistant": Room(5, 3_331, "model engine checkpoints tools web"),
    "align": Room(6, 16_395, "train engine data model quant parallel checkpoints evaluation tools"),
    "evaluation": Room(6, 17_218, "assistant engine tools model checkpoints data", wide_lines=9),
    "plan": Room(6, 7_324, "parallel", wide_lines=4),
    "deepspeed": Room(6, 10_677, "parallel", wide_lines=1),
    "serve": Room(6, 35_145, "assistant", wide_lines=12),
    "cli": Room(
        7,
        13_164,
        "model data quant checkpoints parallel engine train assistant align evaluation plan deepspeed serve tools web",
        wide_lines=4,
    ),
}
PACKAGE_TOKENS = 265_000
FILE_LINES = 450
FUNCTION_LINES = 50
LINE_COLUMNS = 120

# What is still over a limit or in a circle. Nothing is added here: what is mended is taken out.
LONG_FUNCTIONS: set[str] = set()
CIRCLES: list[set[str]] = []

# Peers and oracles: never imported by the package at run time.
FOREIGN = {"transformers", "peft", "trl", "deepspeed", "llama_cpp"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def short(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if room_of(path) != "__init__"]


@cache
def source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(source(path))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path): path for path in FILES}


def imports(path: Path) -> list[str]:
    """Modules that a file imports, wherever in it, under `if TYPE_CHECKING` too."""
    names = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [name if name in NAMES else node.module for name in inside]
    return names


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_imports_point_downward(path):
    room = room_of(path)
    assert room in ROOMS, f"{room} is not in the table of docs/architecture.md"
    for name in imports(path):
        top, *rest = name.split(".")
        assert top not in FOREIGN, f"{path} imports {name}: a peer, for tests and benchmarks only"
        if top != "openglm" or not rest or rest[0] == room:
            continue
        floor, other = ROOMS[room].floor, ROOMS[rest[0]].floor
        low = other <= 2 and other < max(floor, 2)
        assert low or rest[0] in ROOMS[room].imports.split(), (
            f"{short(path)} (floor {floor}) imports {name} (floor {other}), which its row of the table does not name"
        )


def test_a_room_names_only_rooms_below_it():
    """Or beside it, where the other way round is then closed: the rooms as a whole have no circle."""
    for name, room in ROOMS.items():
        for other in room.imports.split():
            assert ROOMS[other].floor <= room.floor and name not in ROOMS[other].imports.split(), (name, other)


def test_no_files_import_each_other_in_a_circle():
    """Late imports counted: a function that imports a file which imports this one still makes both one piece."""
    edges = {name: {other for other in imports(path) if other in NAMES} - {name} for name, path in NAMES.items()}
    assert [circle for circle in circles(edges) if circle not in CIRCLES] == []


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Groups of files, each of which reaches all the others."""
    reached = {name: reachable(edges, name) for name in edges}
    groups = [{other for other in reached[name] if name in reached[other]} for name in edges]
    return [group for index, group in enumerate(groups) if group and group not in groups[:index]]


def reachable(edges: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = edges[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def test_a_circle_would_be_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == [{"a", "b", "c"}]


def test_the_document_shows_the_same_table():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    shown = {cells[1].strip(" `/").removesuffix(".py"): (int(cells[0]), cells[-1]) for cells in rows}
    here = {room_of(path) for path in MODULES}
    assert shown.keys() == here
    for name in here:
        floor, imported = shown[name]
        assert floor == ROOMS[name].floor, name
        if floor > 2 and imported.strip() != "all":
            assert set(imported.replace(",", " ").split()) == set(ROOMS[name].imports.split()) & here, name


STANDARD = {"__future__", "collections", "dataclasses", "functools", "math", "types", "typing"}


def test_config_needs_the_standard_library_alone():
    for path in (PACKAGE / "config").glob("*.py"):
        others = {name for name in imports(path) if not name.startswith("openglm.config")}
        assert {name.split(".")[0] for name in others} <= STANDARD, path


def test_files_needs_the_standard_library_alone():
    assert {name.split(".")[0] for name in imports(PACKAGE / "files.py")} <= sys.stdlib_module_names


def test_only_runtime_reads_the_environment():
    readers = {path.name for path in MODULES if "os.environ" in source(path) or "os.getenv" in source(path)}
    assert readers <= {"runtime.py"}


def count_tokens(text: str) -> int:
    """Names, keywords, numbers, strings and operators, as the standard tokenizer cuts them: an f-string is one, a docstring too.

    Comments, line ends and indentation do not count.
    """
    kinds = (tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.OP)
    start, end = getattr(tokenize, "FSTRING_START", None), getattr(tokenize, "FSTRING_END", None)
    count = depth = 0  # Python 3.12 cuts f-strings into pieces, older ones do not
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == end:
            depth -= 1
        elif token.type == start:
            count += depth == 0
            depth += 1
        elif depth == 0 and token.type in kinds:
            count += 1
    return count


def test_tokens_are_counted_as_the_limit_means_them():
    text = 'def f(x):  # a comment\n    """Prose."""\n    return f"{x + 1} of {x}"\n'
    assert count_tokens(text) == len(["def", "f", "(", "x", ")", ":", "docstring", "return", "f-string"])


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_fits_its_share_of_tokens(name):
    count = sum(count_tokens(source(path)) for path in MODULES if room_of(path) == name)
    assert count <= ROOMS[name].tokens, f"{name} has {count} tokens"


def test_the_shares_fit_the_package():
    assert sum(room.tokens for room in ROOMS.values()) <= PACKAGE_TOKENS


@pytest.mark.parametrize("path", FILES, ids=short)
def test_files_and_functions_are_short(path):
    assert len(source(path).splitlines()) <= FILE_LINES
    long = {f"{short(path)}: {name}" for name, lines in functions(path) if lines > FUNCTION_LINES}
    assert long <= LONG_FUNCTIONS


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length of every function: from `def` to its last line, docstring and all."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("name", ROOMS)
def test_lines_fit_on_a_screen(name):
    wide = [
        f"{short(path)}:{number}"
        for path in MODULES
        if room_of(path) == name
        for number, line in enumerate(source(path).splitlines(), 1)
        if len(line) > LINE_COLUMNS
    ]
    assert len(wide) <= ROOMS[name].wide_lines, wide


def test_nothing_from_outside_is_run():
    """No eval, exec, pickle or shell strings in the package; torch.load in one place, for tensors alone."""
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name == "torch.load":
                    weights_only = [ast.unparse(k.value) for k in node.keywords if k.arg == "weights_only"]
                    assert short(path) == "checkpoints/tensors.py", f"{path}:{node.lineno}"
                    assert weights_only == ["True"], f"{path}:{node.lineno}"
                forbidden = name in {"eval", "exec", "os.system"} or name.startswith(("pickle.", "marshal.", "dill."))
                assert not forbidden, f"{path}:{node.lineno} {name}"
                assert not any(k.arg == "shell" for k in node.keywords), f"{path}:{node.lineno} shell="


def test_tests_import_no_tests():
    """What two of them need stands in tests/helpers."""
    for path in (ROOT / "tests").rglob("*.py"):
        found = {name.split(".")[0] for name in imports(path)}
        assert not any(name.startswith(("test_", "conftest")) for name in found), path
