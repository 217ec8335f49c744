"""The import table of docs/architecture.md: a room may import what stands below it, never what stands beside or above."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "openglm"
FLOORS = {
    "config": 1, "presets": 1, "runtime": 1,
    "text": 2, "kernels": 2,
    "data": 3, "model": 3, "quant": 3, "tools": 3, "web": 3,
    "checkpoints": 4, "parallel": 4, "engine": 4,
    "train": 5, "assistant": 5,
    "align": 6, "evaluation": 6, "plan": 6, "deepspeed": 6, "serve": 6,
    "cli": 7,
}  # fmt: skip
# Beyond floors 1 and 2, which all may use, each room names what it needs.
ALLOWED = {
    "checkpoints": {"model", "quant"},
    "parallel": {"model"},
    "engine": {"model", "quant"},
    "train": {"model", "data", "parallel", "checkpoints"},
    "assistant": {"model", "engine", "checkpoints", "tools", "web"},
    "align": {"train", "engine", "data", "model", "checkpoints"},
    "evaluation": {"assistant", "engine", "tools", "model", "checkpoints", "data"},
    "plan": {"parallel"},
    "deepspeed": {"parallel", "checkpoints", "train"},
    "serve": {"assistant"},
    "cli": set(FLOORS),
}
# Peers and oracles: never imported by the package at run time.
FOREIGN = {"transformers", "peft", "trl", "deepspeed", "llama_cpp"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module)
            if node.module == "openglm":
                names += [f"openglm.{alias.name}" for alias in node.names]
    return names


MODULES = [p for p in sorted(PACKAGE.rglob("*.py")) if room_of(p) != "__init__"]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    room = room_of(path)
    assert room in FLOORS, f"{room} is not in the table of docs/architecture.md"
    for name in imports(path):
        top, *rest = name.split(".")
        assert top not in FOREIGN, f"{path} imports {name}: a peer, for tests and benchmarks only"
        if top != "openglm" or not rest or rest[0] == room or rest[0] == "__version__":
            continue
        other = rest[0]
        low = FLOORS[other] <= 2 and FLOORS[other] < max(FLOORS[room], 2)
        assert low or other in ALLOWED.get(room, set()), (
            f"{path.name} ({room}, floor {FLOORS[room]}) imports {name} (floor {FLOORS[other]})"
        )


def test_config_needs_the_standard_library_alone():
    for path in (PACKAGE / "config").glob("*.py"):
        others = {name for name in imports(path) if not name.startswith("openglm.config")}
        assert others <= {"__future__", "dataclasses", "math", "typing"}, path


def test_only_runtime_reads_the_environment():
    readers = {
        p.name
        for p in MODULES
        if "os.environ" in p.read_text(encoding="utf-8") or "os.getenv" in p.read_text(encoding="utf-8")
    }
    assert readers <= {"runtime.py"}


def test_files_fit_in_a_readers_head():
    long = {str(p): n for p in MODULES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 450}
    assert not long


def test_nothing_from_outside_is_run():
    """No eval, exec, pickle or shell strings in the package; torch.load in one place, for tensors alone."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name == "torch.load":
                    weights_only = [ast.unparse(k.value) for k in node.keywords if k.arg == "weights_only"]
                    assert path.relative_to(PACKAGE).as_posix() == "checkpoints/tensors.py" and weights_only == [
                        "True"
                    ], f"{path}:{node.lineno}"
                assert name not in {"eval", "exec", "os.system"} and not name.startswith(
                    ("pickle.", "marshal.", "dill.")
                ), f"{path}:{node.lineno} {name}"
                assert not any(k.arg == "shell" for k in node.keywords), f"{path}:{node.lineno} shell="
