"""Programs that are compared: each loads its weights in a process of its own, and answers in figures when it is its turn."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from measure import in_turn


class Reader(Protocol):
    def measure(self, seed: int) -> dict[str, float]:
        """The figures of one round."""

    def about(self) -> dict[str, float]:
        """What is measured or known once."""


def work(reader: Reader) -> None:
    """A reader's process: a line in asks for a round, a line out answers."""
    reader.measure(0)
    print(json.dumps(reader.about()), flush=True)
    for line in sys.stdin:
        print(json.dumps(reader.measure(int(line))), flush=True)


class Worker:
    """A process that runs `work`; it waits while the others have their turn."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.about = self._answer()

    def round(self, number: int) -> dict[str, float]:
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        found = self._answer()
        figures = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
        print(f"round {number}, {self.name}: {figures}", file=sys.stderr)
        return found

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, float]:
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        status, hint = self.process.wait(), ""
        if status == -signal.SIGILL:
            hint = "; on a processor with AMX build llama.cpp with clang, for gcc 12 leaves out the stores that set its tiles up"
        sys.exit(f"{self.name} ended with status {status}{hint}")


def compare(script: str, names: list[str], weights: Path, rounds: int, threads: int) -> dict:
    """Start each reader as `script --worker NAME` and let them take turns: {"rounds": {name: figures of each round}, and what each says about itself}."""
    workers = {}
    for name in names:  # one after another: loading must not disturb
        command = [sys.executable, script, "--worker", name, "--folder", str(weights), "--threads", str(threads)]
        workers[name] = Worker(name, command)
    rounds_of = in_turn({name: worker.round for name, worker in workers.items()}, rounds)
    for worker in workers.values():
        worker.close()
    return {"rounds": rounds_of} | {key: value for worker in workers.values() for key, value in worker.about.items()}
