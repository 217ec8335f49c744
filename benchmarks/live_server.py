"""A server for a measurement: the command that users type, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

GLM = (sys.executable, "-m", "openglm.cli.main")


@contextmanager
def live_server(model: Path | str, *more: str, command: Sequence[str] = GLM) -> Iterator[tuple[int, int]]:
    """Port and process number of `glm serve MODEL` as it is by default, page and feedback included; what it keeps goes
    to a folder of its own. more: further options. command: what runs `glm`."""
    command = [*command, "serve", str(model), "--port", "0", "--device", "cpu", *more]
    with tempfile.TemporaryDirectory() as data:
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "XDG_DATA_HOME": data})
        try:
            said = next(line for line in server.stderr if "listening on" in line)
            yield int(re.search(r":(\d+);", said)[1]), server.pid
        finally:
            server.terminate()
            server.wait(timeout=15)
