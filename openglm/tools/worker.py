"""The process that runs the built-in tools: a call a line on standard input, a result a line on standard output.

Each call runs in a fork of its own, which has everything imported already, has limits on time and memory, and whose
end, however it comes, leaves nothing behind. Where the system has no forks, calls run in this process, and pool.py ends
it when one takes too long. Both ends are ours and the lines are JSON.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import signal
import sys
from typing import Any

from openglm.tools.builtin import BUILT_IN

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# So that no call waits for what SymPy imports and computes at first use.
_WARM_UP: list[tuple[str, list[Any]]] = [
    ("Solve", [["333=3+(n-1)*3"], ["n"]]),
    ("Solve", [["x+y=3", "x^2-y=1"]]),
    ("Solve", [["x^2>4"]]),
    ("Integrate", ["x*exp(x)"]),
    ("Limit", ["sin(x)/x", "x", "0"]),
    ("Sum", ["1/k^2", "k", "1", "oo"]),
    ("Simplify", ["(x^2-1)/(x-1)+sin(x)^2"]),
    ("Convert", ["60 km/h", "m/s"]),
    ("Date", ["2024-03-01"]),
]


_NO_MORE, _ANSWERED = 3, 4  # how a fork ends


def main(seconds: float, memory_bytes: int) -> None:
    """Answer until standard input ends. seconds, memory_bytes: limits of a call."""
    sys.set_int_max_str_digits(0)  # how long numbers may become is up to expressions.py
    for name, arguments in _WARM_UP:
        BUILT_IN[name](*arguments)
    gc.freeze()  # forks then share what is there
    if not hasattr(os, "fork"):
        for line in sys.stdin:
            _write(_answer(line, memory_bytes))
        return
    while (status := _forked(seconds, memory_bytes)) != _NO_MORE:
        if status == -signal.SIGALRM:
            _write(_error(f"it took longer than {seconds:g} s"))
        elif status != _ANSWERED:
            _write(_error("its process was ended"))


def _forked(seconds: float, memory_bytes: int) -> int:
    """The fork is there before its call is, so that no call waits for it; returns how it ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    line = io.FileIO(0, closefd=False).readline()  # not a byte more: what follows is for the next fork
    if not line:
        os._exit(_NO_MORE)
    signal.setitimer(signal.ITIMER_REAL, seconds)  # no handler: the system ends the process, wherever it is
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, most))
    answer = _answer(line, memory_bytes)
    signal.setitimer(signal.ITIMER_REAL, 0)
    _write(answer)
    os._exit(_ANSWERED)


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _answer(line: str | bytes, memory_bytes: int) -> str:
    try:
        call = json.loads(line)
        return json.dumps({"result": BUILT_IN[call["name"]](**call["arguments"])})
    except MemoryError:
        return _error(f"it needs more than {memory_bytes >> 20} MB")
    except RecursionError:
        return _error("it is nested too deeply")
    except ValueError as error:
        return _error(str(error))
    except Exception as error:  # SymPy raises all kinds
        return _error(f"{type(error).__name__}: {error}")


def _error(text: str) -> str:
    return json.dumps({"error": text})
