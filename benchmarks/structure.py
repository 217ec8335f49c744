"""The house in numbers: how dense, wide and long a tree's code is, and what circles it has.

    python benchmarks/structure.py [FOLDER]

Counts the Python of FOLDER/openglm and FOLDER/tests as tests/test_layers.py does, so that two states of the repository compare. Prints a Markdown table.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE / "tests"))
import test_layers as layers  # noqa: E402


def code_lines(text: str) -> int:
    """Lines that hold a token: neither empty nor only a comment."""
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in text.splitlines())


def density(files: list[Path]) -> float:
    texts = [path.read_text(encoding="utf-8") for path in files]
    return sum(map(layers.count_tokens, texts)) / sum(map(code_lines, texts))


def circles(root: Path, files: list[Path]) -> int:
    names = {".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): p for p in files}
    layers.NAMES = names
    edges = {name: {other for other in layers.imports(path) if other in names} - {name} for name, path in names.items()}
    return len([group for group in layers.circles(edges) if len(group) > 1])


def mypy_errors(root: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "openglm"], cwd=root, capture_output=True, text=True
    )
    return str(sum(": error:" in line for line in done.stdout.splitlines()))


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else HERE).resolve()
    package, tests = sorted((root / "openglm").rglob("*.py")), sorted((root / "tests").rglob("*.py"))
    texts = [path.read_text(encoding="utf-8") for path in package]
    defs = [node for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    rows = {
        "tokens of the package": sum(map(layers.count_tokens, texts)),
        "tokens a code line, package": f"{density(package):.1f}",
        "tokens a code line, tests": f"{density(tests):.1f}",
        "lines over 120 columns": sum(len(line) > 120 for text in texts for line in text.splitlines()),
        "files over 450 lines": sum(len(text.splitlines()) > 450 for text in texts),
        "functions over 50 lines": sum(node.end_lineno - node.lineno + 1 > 50 for node in defs),
        "circles of imports": circles(root, package),
        "mypy errors": mypy_errors(root),
    }
    for name, figure in rows.items():
        print(f"| {name} | {figure} |")


if __name__ == "__main__":
    main()
