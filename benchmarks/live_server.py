"""A server for a measurement: the command that users type, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def live_server(model: Path | str) -> Iterator[tuple[int, int]]:
    """Port and process number of `glm serve MODEL` without a page and without feedback."""
    command = [
        sys.executable,
        "-m",
        "openglm.cli.main",
        "serve",
        str(model),
        "--port",
        "0",
        "--no-page",
        "--no-feedback",
        "--device",
        "cpu",
    ]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield int(re.search(r":(\d+);", next(line for line in server.stderr if "listening on" in line))[1]), server.pid
    finally:
        server.terminate()
        server.wait(timeout=15)
