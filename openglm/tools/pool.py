"""A few processes that wait for calls of the built-in tools (worker.py); any number of threads may call at once."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

_GRACE = 30.0  # seconds beyond a call's own limit, which the worker keeps, for a worker that has still to start
WORKERS = min(os.cpu_count() or 1, 4)
SECONDS, MEMORY_BYTES = 1.8, 256 << 20  # of a call, so that with all around it none takes 2 s
_MAIN = f"from openglm.tools.worker import main; main({SECONDS}, {MEMORY_BYTES})"
_COMMAND = f"import sys; sys.path[:] = sys.argv[1:]; {_MAIN}"


class Pool:
    """`Pool().call("Calc", {"expression": "1+1"})`. First come, first served; a worker that ended is replaced."""

    def __init__(self, workers: int = WORKERS) -> None:
        # Each thread has a worker of its own, so that calls wait in line and a caller who is interrupted leaves
        # nothing unread behind.
        self._threads = ThreadPoolExecutor(workers, "tools")
        self._own = threading.local()
        self._processes: set[subprocess.Popen[str]] = set()

    def warm(self) -> None:
        """Start a worker now, so that no call waits for it."""
        self._threads.submit(self._worker)

    def call(self, name: str, arguments: Mapping[str, Any], seconds: float = 60.0) -> str:
        """The tool's result. Raises ValueError of one line where it failed, took too long or needed too much, and
        TimeoutError where no worker was free for so many seconds."""
        waiting = self._threads.submit(self._ask, name, arguments)
        try:
            answer = waiting.result(seconds + SECONDS)
        finally:
            waiting.cancel()
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["result"]

    def _worker(self) -> subprocess.Popen[str]:
        worker: subprocess.Popen[str] | None = getattr(self._own, "worker", None)
        if worker is not None and worker.poll() is None:
            return worker
        if worker is not None:
            self._end(worker)
        # Isolated, so that neither the environment nor the folder it starts in decides what is imported; in a session
        # of its own, so that Ctrl-C is not for it: it ends when its input does.
        self._own.worker = started = subprocess.Popen(
            [sys.executable, "-I", "-c", _COMMAND, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            start_new_session=True,
        )
        self._processes.add(started)
        return started

    def _ask(self, name: str, arguments: Mapping[str, Any]) -> dict[str, str]:
        worker = self._worker()
        timer = threading.Timer(SECONDS + _GRACE, worker.kill)
        timer.start()
        assert worker.stdin is not None and worker.stdout is not None
        try:
            worker.stdin.write(json.dumps({"name": name, "arguments": arguments}) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        return json.loads(line) if line else {"error": "its process was ended"}

    def _end(self, worker: subprocess.Popen[str]) -> None:
        assert worker.stdin is not None and worker.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.close()  # which ends it and its fork
        try:
            worker.wait(SECONDS)
        except subprocess.TimeoutExpired:  # in a call, which the system ends
            worker.kill()
            worker.wait()
        worker.stdout.close()
        self._processes.discard(worker)

    def close(self) -> None:
        """End all workers; a later call starts new ones."""
        for worker in list(self._processes):
            self._end(worker)


@cache
def shared_pool() -> Pool:
    """The pool of this process, which ends with it."""
    pool = Pool()
    atexit.register(pool.close)
    return pool
