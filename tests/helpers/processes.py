"""Processes for tests of what several of them do: forked from one that has imported PyTorch, which each would else spend seconds on."""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist

IMPORTED = [
    "torch.utils.tensorboard",
    "openglm.cli.main",
    "openglm.train.pretrain",
    "openglm.deepspeed",
    "openglm.serve.app",
]


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def start(output: Path, function: Callable, *arguments, environment: dict[str, str] | None = None) -> BaseProcess:
    """A process that calls `function`, ends with what it returns, and writes what it says to `output`."""
    context = multiprocessing.get_context("forkserver")
    if sys.platform == "linux":  # elsewhere the system's libraries do not bear a fork
        context.set_forkserver_preload(IMPORTED)
    output.touch()
    process = context.Process(target=_begin, args=(output, environment or {}, function, arguments))
    process.start()
    return process


def run_together(count: int, function: Callable, *arguments, seconds: float = 300) -> None:
    """Call `function` in so many processes, each with the environment that torchrun gives it; with one, in a process of its own.

    Raises AssertionError with what the first process said that failed; the others are killed."""
    # As torchrun does, the store lies here, so that no process needs a port that it cannot be sure to get.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    with tempfile.TemporaryDirectory() as folder:
        running = {}
        for rank in range(count):
            own = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
            said = Path(folder) / str(rank)
            process = start(said, function, *arguments, environment=own)
            running[process.sentinel] = process, said
        try:
            while running:
                ended = wait(list(running), seconds)
                assert ended, f"{len(running)} of {count} processes have not ended"
                for sentinel in ended:
                    process, said = running.pop(sentinel)
                    process.join()
                    assert process.exitcode == 0, said.read_text(encoding="utf-8")[-3000:]
        finally:
            for process, _ in running.values():
                process.kill()
                process.join()


def _begin(output: Path, environment: dict[str, str], function: Callable, arguments: tuple) -> None:
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.exit(function(*arguments))
