"""Python as a tool: programs that a model writes, in the sandbox."""

from __future__ import annotations

from openglm import sandbox

SECONDS = 5.0


def python(code: str) -> str:
    """Run a Python program that has no network and no files; what it prints is the result.

    code: the program, which prints what it finds
    """
    ended = sandbox.run(code, seconds=SECONDS)
    if ended.killed_by is not None:
        raise ValueError(f"it was ended for its {ended.killed_by}")
    if ended.status != 0:
        last = ended.stderr.strip().rpartition("\n")[2]
        raise ValueError(last or f"it ended with status {ended.status}")
    return ended.stdout.strip() or "(it printed nothing)"
