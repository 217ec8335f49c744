"""The process that runs the built-in tools: a call a line on standard input, a result a line on standard output.

Each call runs in a fork of its own, which has everything imported already, its own limits on time and memory, and whose
end, however it comes, leaves nothing behind. Where the system has no forks, calls run in this process, and pool.py ends
it when one takes too long. Both ends are ours and the lines are JSON.
"""

from __future__ import annotations

import contextlib
import gc
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


def main() -> None:
    sys.set_int_max_str_digits(0)  # how long numbers may become is up to expressions.py
    for name, arguments in _WARM_UP:
        BUILT_IN[name](*arguments)
    gc.freeze()  # forks then share what is there
    for line in sys.stdin:
        call = json.loads(line)
        answer = _forked(call) if hasattr(os, "fork") else _answer(call)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


def _forked(call: dict[str, Any]) -> str:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _limit(call)
        with os.fdopen(write, "w") as pipe:
            pipe.write(_answer(call))
            pipe.flush()
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        late = os.WTERMSIG(status) == signal.SIGALRM
        return _error(f"it took longer than {call['seconds']:g} s" if late else "its process was ended")
    return answer or _error("its process was ended")


def _limit(call: dict[str, Any]) -> None:
    """The alarm has no handler: the system ends the process, wherever it is."""
    signal.setitimer(signal.ITIMER_REAL, call["seconds"])
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = call["memory_bytes"] if most == resource.RLIM_INFINITY else min(call["memory_bytes"], most)
    with contextlib.suppress(ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def _answer(call: dict[str, Any]) -> str:
    try:
        return json.dumps({"result": BUILT_IN[call["name"]](**call["arguments"])})
    except MemoryError:
        return _error(f"it needs more than {call['memory_bytes'] >> 20} MB")
    except RecursionError:
        return _error("it is nested too deeply")
    except ValueError as error:
        return _error(str(error))
    except Exception as error:  # SymPy raises all kinds
        return _error(f"{type(error).__name__}: {error}")


def _error(text: str) -> str:
    return json.dumps({"error": text})
