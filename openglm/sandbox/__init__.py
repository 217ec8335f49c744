"""Runs what a model wrote: the Python tool, code evaluation and code rewards all call `run`.

A program gets a process of its own with limits on time, memory, processes, files and output. On Linux (x86-64 and
aarch64) it also gets, in this order of preference:

* **namespaces** (Linux 5.12, with user namespaces allowed): an empty file system in memory that shows libraries and
  the language's own folder read-only, no network at all, no other process, its own users, host name and queues. When
  it ends, the kernel ends whatever it started.
* or **landlock** (Linux 6.2), in containers that allow no namespaces: it opens only those folders and its work
  folder, and signals only itself.
* **seccomp** with either: no sockets, no debugging, mounts, keys, kernel interfaces; no privileges, setuid programs
  included.

`protections()` tells which are active; each call has them all or fails. Where only limits are left (older kernels;
macOS, without those on memory and processes), `run` refuses unless `unprotected=True`; Windows has none of it.

What it does not protect against: errors of the kernel, and what hardware shares (caches, timing); a virtual machine
does. A program can use its share of the processor until its deadline. It can read what the language's folder and
/usr/lib hold, and run programs in them. Its memory is measured 50 times a second, so for a moment it can be exceeded;
what the kernel keeps for it (pipes, lists of mappings) is only bounded in number, and can come to 1 GB. With landlock
instead of namespaces the disk is bounded only file by file, sockets' buffers are not measured, names and times of
files can be seen, and all processes of a user share one limit on their number. The text that comes back is a
stranger's: it can say anything, terminal codes included.
"""

import contextlib
import functools
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from openglm.config import require
from openglm.sandbox.languages import LANGUAGES, environment, steps, toolchain

__all__ = ["LANGUAGES", "Result", "protections", "run"]

MIB = 1 << 20
_LAUNCHER = Path(__file__).with_name("launcher.py")
_COMPILE_SECONDS, _COMPILE_BYTES = 60.0, 1024 * MIB  # rustc and g++ with the whole library: seconds, 300 MB
_SPARE_SECONDS = 30.0  # to start and to end, on a busy machine: only a launcher that has failed reaches it
_LAYERS = (("limits", "namespaces", "seccomp"), ("limits", "landlock", "seccomp"), ("limits",))


class Result(NamedTuple):
    """What a program did. If it did not compile, `status` and `stderr` are the compiler's."""

    stdout: str
    stderr: str
    status: int | None
    """exit status; negative: the signal that ended it; None: it was ended with its output over the limit"""
    seconds: float
    """of the program itself, without start and compiler"""
    killed_by: str | None
    """"time", "memory" or "output": the limit that ended it"""


def run(
    source: str,
    *,
    language: str = "python",
    stdin: str = "",
    files: Mapping[str, str | bytes] | None = None,
    seconds: float = 5.0,
    memory_bytes: int = 256 * MIB,
    output_bytes: int = 64 << 10,
    unprotected: bool = False,
) -> Result:
    """Compile and run a program. Many threads may call it at once; when it returns, no process of the program is left.

    `files` are put beside the program, by relative path. `seconds` is wall time of the run; compiling has a minute of
    its own. `memory_bytes` is for all processes of the program and its files together, `output_bytes` for standard
    output and error together. `unprotected` accepts a system with limits only. Python has the packages of the
    interpreter that this environment was made from.

    Raises ValueError for a language that is not installed, a wrong option, or a system that cannot hold a program
    back; OSError if the sandbox itself fails.
    """
    require(0 < seconds <= 3600, "seconds", seconds, "more than 0 and at most 3600")
    require(memory_bytes >= 64 * MIB, "memory_bytes", memory_bytes, f"at least {64 * MIB}: interpreters need that much")
    require(output_bytes > 0, "output_bytes", output_bytes, "at least 1")
    toolchain(language)
    contents = {LANGUAGES[language].file: source, **_checked(files or {}, LANGUAGES[language].file)}
    layers = protections()
    require(
        unprotected or "seccomp" in layers, "unprotected", unprotected,
        "this system gives a program limits but keeps it from no file and no network; "
        "use Linux with user namespaces, or set it to True if you trust the program",
    )  # fmt: skip
    limits = dict(seconds=seconds, memory=memory_bytes)
    return run_in_layers(layers, language, contents, stdin, limits, output_bytes)


def _checked(files: Mapping[str, str | bytes], taken: str) -> Mapping[str, str | bytes]:
    for name in files:
        path = PurePosixPath(name)
        inside = path.parts and not path.is_absolute() and ".." not in path.parts and "\0" not in name
        require(bool(inside), "files", name, "a relative path without .. in it")
        require(str(path) != taken, "files", name, "the program itself has this name")
    return files


@functools.cache
def protections() -> tuple[str, ...]:
    """The layers that this system gives: "limits", then "namespaces" or "landlock", and "seccomp".

    Found out by running an empty program with each.
    """
    require(os.name == "posix", "platform", sys.platform, "the sandbox needs Linux or macOS; under Windows use WSL")
    limits = dict(seconds=_SPARE_SECONDS, memory=256 * MIB)
    for layers in _LAYERS:
        with contextlib.suppress(OSError):
            if run_in_layers(layers, "python", {"main.py": ""}, "", limits, 1).status == 0:
                return layers
    raise OSError("sandbox: Python itself does not start in a process of its own")


def run_in_layers(
    layers: tuple[str, ...],
    language: str,
    contents: Mapping[str, str | bytes],
    stdin: str,
    limits: dict[str, float],
    output_bytes: int,
) -> Result:
    """`run` with the given layers, whatever the system has."""
    *compiler, program = steps(language, int(limits["memory"]) * 3 // 4 // MIB)
    compiling = dict(seconds=_COMPILE_SECONDS, memory=_COMPILE_BYTES, reserve=_COMPILE_BYTES, compiles=True)
    jobs = [step | compiling for step in compiler]
    jobs.append(program | limits | dict(reserve=LANGUAGES[language].reserve, compiles=False))
    encoded = {name: text.encode() if isinstance(text, str) else text for name, text in contents.items()}
    with contextlib.ExitStack() as stack:
        work = "/work"  # in the empty file system
        if "namespaces" not in layers:
            work = stack.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True))
        job = dict(
            layers=layers,
            work=work,
            steps=jobs,
            files=[(name, len(content)) for name, content in encoded.items()],
            environment=environment(language, work),
        )
        head = json.dumps(job).encode()
        message = b"".join([len(head).to_bytes(4, "little"), head, *encoded.values(), stdin.encode()])
        return _launch(message, output_bytes, sum(step["seconds"] for step in jobs) + _SPARE_SECONDS)


def _launch(message: bytes, output_bytes: int, seconds: float) -> Result:
    """Start the launcher, send it the message, and collect what comes back."""
    start = time.monotonic()
    status, reports = os.pipe()
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(open(status, "rb", buffering=0))
        with open(reports, "wb", buffering=0):
            process = subprocess.Popen(
                [sys.executable, "-EsS", _LAUNCHER, str(reports)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[reports],
                env={},  # no secret of ours to inherit
                cwd="/",
                bufsize=0,
                start_new_session=True,  # no terminal either
            )
        stack.enter_context(process)
        stack.callback(_end, process)
        stack.callback(reader.close)  # called first: the supervisor ends everything when it has no reader
        texts = _exchange(process, status, message, output_bytes, start + seconds)
    return _result(texts, output_bytes, time.monotonic() - start, seconds)


def _end(process: subprocess.Popen) -> None:
    try:
        process.wait(_SPARE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def _exchange(
    process: subprocess.Popen, status: int, message: bytes, output_bytes: int, deadline: float
) -> list[bytes]:
    """Standard output, standard error and the report.

    Stops when the launcher has ended, the output is over its limit, or the deadline has passed.
    """
    assert process.stdin and process.stdout and process.stderr
    output, errors, sink = process.stdout.fileno(), process.stderr.fileno(), process.stdin.fileno()
    texts = {output: bytearray(), errors: bytearray(), status: bytearray()}
    unsent = memoryview(message)
    os.set_blocking(sink, False)
    with selectors.DefaultSelector() as selector:
        selector.register(sink, selectors.EVENT_WRITE)
        for source in texts:
            selector.register(source, selectors.EVENT_READ)
        while selector.get_map() and len(texts[output]) + len(texts[errors]) <= output_bytes:
            ended = status not in selector.get_map()
            ready = selector.select(0 if ended else deadline - time.monotonic())
            if (ended and not ready) or time.monotonic() > deadline:
                break
            for key, _ in ready:
                if key.fd == sink:
                    try:
                        unsent = unsent[os.write(sink, unsent[: 1 << 16]) :]
                    except BrokenPipeError:  # the program reads no more
                        unsent = unsent[:0]
                    if not unsent:
                        selector.unregister(sink)
                        process.stdin.close()
                    continue
                piece = os.read(key.fd, 1 << 16)
                texts[key.fd] += piece
                if not piece:
                    selector.unregister(key.fd)
    return [bytes(text) for text in texts.values()]


def _result(texts: list[bytes], output_bytes: int, elapsed: float, deadline: float) -> Result:
    stdout, stderr, report = texts
    over = len(stdout) + len(stderr) > output_bytes
    if report:
        told = json.loads(report)
    elif over or elapsed > deadline:
        told = dict(status=None, seconds=elapsed, killed_by="time")
    else:
        told = dict(error="the launcher ended without a report")
    if "error" in told:
        raise OSError(f"sandbox: {told['error']}")
    if over:
        told["killed_by"] = "output"
    stdout = stdout[:output_bytes]
    stderr = stderr[: output_bytes - len(stdout)]
    return Result(stdout.decode(errors="replace"), stderr.decode(errors="replace"), **told)
