"""What a call of the sandbox costs, and what its escapes come to with and without it.

    python benchmarks/sandbox.py [--calls 20]
    python benchmarks/sandbox.py --escapes

Every call is cold: a new process, new namespaces, an interpreter that starts. The same program in a bare subprocess is timed in turn with it.
`--escapes` tries the programs of tests/helpers/escapes.py in the sandbox and without and prints a table; without protection it tries only those that do no harm
where nothing holds them. As root, on Linux.
"""

import argparse
import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from measure import table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from helpers.escapes import ESCAPES, Escape, open_world, outcome

from openglm import sandbox
from openglm.sandbox.languages import LANGUAGES, toolchain

ADD = {
    "python": "print(1 + 1)",
    "javascript": "console.log(1 + 1)",
    "cpp": "#include <iostream>\nint main() { std::cout << 1 + 1 << std::endl; }",
    "java": "public class Main { public static void main(String[] a) { System.out.println(1 + 1); } }",
    "go": 'package main\nimport "fmt"\nfunc main() { fmt.Println(1 + 1) }',
    "rust": 'fn main() { println!("{}", 1 + 1); }',
}


def milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def costs(calls: int) -> None:
    interpreter = toolchain("python")[0]

    def bare() -> None:
        subprocess.run([interpreter, "-sBc", ADD["python"]], capture_output=True, check=True, env={})

    def isolated(language: str) -> None:
        assert sandbox.run(ADD[language], language=language, seconds=60).stdout == "2\n"

    contenders: dict[str, Callable[[], None]] = {"python, bare subprocess": bare}
    for language in LANGUAGES:
        try:
            isolated(language)
            contenders[language] = functools.partial(isolated, language)
        except ValueError as error:
            print(error)
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(calls):
        for name, run in contenders.items():
            found[name].append(milliseconds(run))
    rows = [[name, f"{statistics.median(times):.0f}", f"{max(times):.0f}"] for name, times in found.items()]
    print(f"{calls} calls each, in turn; {', '.join(sandbox.protections())}\n")
    print(table(["program", "median ms", "worst ms"], rows))


def attempt(escape: Escape, world: dict, layers: tuple[str, ...]) -> str:
    def run(source: str, *, language: str, stdin: str, seconds: float) -> sandbox.Result:
        contents = {LANGUAGES[language].file: source}
        limits = dict(seconds=seconds, memory=256 << 20)
        return sandbox.run_in_layers(layers, language, contents, stdin, limits, 1 << 16)

    failed = outcome(escape, world, run)
    return "held" if not failed else "escapes" if layers == ("limits",) else failed


def escapes() -> None:
    rows = []
    for escape in ESCAPES:
        with open_world() as world:
            held = attempt(escape, world, sandbox.protections())
        bare = "not tried"
        if escape.harmless:
            try:
                with open_world() as world:
                    bare = attempt(escape, world, ("limits",))
            except AssertionError:  # it reached something of the world
                bare = "escapes"
        rows.append([escape.name, escape.stopped_by, held, bare])
    print(table(["escape", "stopped by", "in the sandbox", "with limits alone"], rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--escapes", action="store_true")
    arguments = parser.parse_args()
    escapes() if arguments.escapes else costs(arguments.calls)
