"""Pages are read in processes of their own, which end by themselves: a PDF of 26 kilobytes can keep its reader busy for
minutes, and a thread cannot be stopped. One process of this program has everything imported and forks for each page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import asdict
from typing import Any

from openglm.config import shown
from openglm.web.documents import Document, read

_MEMORY_BYTES = 1 << 30  # of a page
_COMMAND = "import sys; sys.path[:] = sys.argv[1:]; from openglm.web.apart import main; main()"


class Reader:
    """The process, and the answers that are still to come from it, by number."""

    def __init__(self) -> None:
        # Isolated, and in a session of its own, so that Ctrl-C is not for it: it ends when its input does.
        command = [sys.executable, "-I", "-c", _COMMAND, *sys.path]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, start_new_session=True)
        self._answers: dict[int, Future[dict[str, Any]]] = {}
        self._writing = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, raw: bytes, *about: object) -> Future[dict[str, Any]]:
        """What `_answer` says; never done where that takes too much time or memory."""
        assert self.process.stdin is not None
        answer: Future[dict[str, Any]] = Future()
        with self._writing, contextlib.suppress(BrokenPipeError):
            number = time.monotonic_ns()
            self._answers[number] = answer
            answer.add_done_callback(lambda _: self._answers.pop(number))  # also where nobody waits any more
            line = json.dumps([number, len(raw), *about])
            self.process.stdin.write(f"{line}\n".encode() + raw)
            self.process.stdin.flush()
        return answer

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            number, found = json.loads(line)
            with contextlib.suppress(KeyError, InvalidStateError):  # nobody waits any more
                self._answers[number].set_result(found)


_shared: list[Reader] = []


def shared_reader() -> Reader:
    """The one of this program, which ends with it."""
    if not _shared or _shared[0].process.poll() is not None:
        _shared[:] = [Reader()]
    return _shared[0]


async def read_apart(raw: bytes, kind: str, url: str, charset: str, seconds: float) -> Document:
    """As `documents.read`, for so many seconds; whoever waits has a deadline of his own."""
    if not hasattr(os, "fork"):  # Windows
        return await asyncio.to_thread(read, raw, kind, url, charset)
    reader = shared_reader()
    sent = await asyncio.to_thread(reader.send, raw, seconds, kind, url, charset)
    found = await asyncio.wrap_future(sent)
    if "error" in found:
        raise ValueError(found["error"])
    return Document(**found)


def main() -> None:
    """The process: pages on standard input, each behind a line about it; answers on standard output, a line each."""
    import fcntl

    import pypdf  # noqa: F401

    read(b"<p>So that no page waits for what is imported and compiled at first use.</p>", "html", "")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks that have ended are gone
    while line := sys.stdin.buffer.readline():
        number, size, *about = json.loads(line)
        raw = sys.stdin.buffer.read(size)
        if os.fork():
            continue
        answer = json.dumps([number, _answer(raw, *about)]) + "\n"
        with open(__file__) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            sys.stdout.write(answer)
            sys.stdout.flush()
        os._exit(0)


def _answer(raw: bytes, seconds: float, kind: str, url: str, charset: str) -> dict[str, Any]:
    import resource

    signal.setitimer(signal.ITIMER_REAL, seconds)  # no handler: the system ends the process, wherever it is
    with contextlib.suppress(ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    try:
        return asdict(read(raw, kind, url, charset))
    except ValueError as error:
        return {"error": str(error)}
    except Exception as error:  # whatever a broken page does to its reader
        return {"error": f"document = {shown(url)}: cannot be read ({type(error).__name__})"}
