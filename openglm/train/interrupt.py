"""Ways to end a run early: SIGTERM, SIGINT (Ctrl-C), or a file named `stop` in its folder."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openglm.runtime import say


class StopRequest:
    """`requested` is the reason once somebody asked; the loop looks between steps."""

    def __init__(self, out: Path) -> None:
        self.file, self.signal_name = out / "stop", ""

    @property
    def requested(self) -> str:
        return self.signal_name or ("stop file" if self.file.exists() else "")

    def handle(self, number: int, _: object) -> None:
        if self.signal_name:
            os.write(2, b"second signal: leaving now; the last checkpoint stays\n")
            os._exit(128 + number)
        self.signal_name = signal.Signals(number).name
        say(f"{self.signal_name}: finishing the step and saving; once more leaves now")


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold SIGTERM and SIGINT back inside the block. Processes started there hold them back for good: a signal to the
    whole group (Ctrl-C, a batch system's end) must not take the data workers away from the step that is being
    finished."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def stop_requests(out: Path) -> Iterator[StopRequest]:
    """Watch for requests inside the block; a `stop` file from before is removed, as is the one that was obeyed."""
    request = StopRequest(out)
    request.file.unlink(missing_ok=True)
    main = threading.current_thread() is threading.main_thread()
    before = (
        {number: signal.signal(number, request.handle) for number in (signal.SIGTERM, signal.SIGINT)} if main else {}
    )
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        request.file.unlink(missing_ok=True)
