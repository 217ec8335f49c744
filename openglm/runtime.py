"""The machine: device and compute type, seeds, progress on standard error. The only reader of environment variables."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch

from openglm.config import require

Item = TypeVar("Item")

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # malloc.h
_QUICK, _OFTEN, _SELDOM = 2.0, 5.0, 300.0  # seconds: no line of progress for less; least and most between two lines
_SMALLEST_BAR = 6  # columns


def choose_device(name: str = "auto") -> torch.device:
    """`auto` takes the accelerator torch knows (CUDA, ROCm, MPS, XPU, ...) or the CPU. Raises ValueError for a device
    that is not here."""
    if name == "auto":
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device = {name!r}: not usable here ({str(error).splitlines()[0]}); use auto or cpu"
        ) from None
    return device


def _product_seconds(device: torch.device, dtype: torch.dtype) -> float:
    size = 512 if device.type == "cpu" else 4096  # large enough that the product, not its launch, is timed
    clock = time.process_time if device.type == "cpu" else time.perf_counter  # what others compute here does not count
    a = torch.randn(size, size, device=device, dtype=dtype)
    times = []
    for _ in range(6):
        start = clock()
        (a @ a)[0, 0].item()
        times.append(clock() - start)
    return min(times)


@functools.cache
def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Compute type of matrix products: by name, or for `auto` bfloat16 where a probe of some milliseconds finds it
    clearly faster than float32 (many processors emulate it a hundred times slower)."""
    require(
        name in ("auto", "float32", "bfloat16", "float16"), "dtype", name, "choose auto, float32, bfloat16 or float16"
    )
    if name != "auto":
        return getattr(torch, name)
    try:
        faster = 1.3 * _product_seconds(device, torch.bfloat16) < _product_seconds(device, torch.float32)
        return torch.bfloat16 if faster else torch.float32
    except RuntimeError:  # a device without bfloat16
        return torch.float32


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def give_back_memory() -> None:
    """Return to the system what was freed here and there: glibc keeps it for later, which adds up to a sixteenth of the
    weights once they have been repacked."""
    if (libc := _libc()) and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def keep_freed_memory() -> None:
    """Let glibc keep large blocks that are freed, in place of giving them back and asking for them anew, page by page,
    in every step: a sixth of a small training step.

    Does nothing where the C library is another one.
    """
    if (libc := _libc()) and hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


def multiply_by_onednn() -> None:
    """Let oneDNN, in place of MKL, multiply in float32 where that doubles the speed: on AMD's processors MKL leaves
    half of AVX-512 unused.

    PyTorch's switch also allows bfloat16 inside of such products, which oneDNN takes up on matrix tiles alone. No
    processor with tiles is changed, nor any on which the products turn out to be less exact.
    """
    with contextlib.suppress(OSError):
        has = set(Path("/proc/cpuinfo").read_text().split())
        if {"AuthenticAMD", "avx512f"} <= has and "amx_tile" not in has:
            factor = torch.arange(1 << 16).reshape(256, 256) % 251 / 251  # few of them are numbers of bfloat16
            exact, switch = factor @ factor, torch.backends.mkldnn.matmul
            before, switch.fp32_precision = switch.fp32_precision, "bf16"
            if not torch.allclose(factor @ factor, exact, rtol=1e-5):
                switch.fp32_precision = before


def prepare_cpu() -> None:
    """What makes training on a processor faster, for the whole process."""
    keep_freed_memory()
    multiply_by_onednn()


def free_memory(device: torch.device) -> int:
    """Bytes that a program can still take on a device; 0 where the system does not tell. A container's limit counts."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = []
    with contextlib.suppress(OSError, ValueError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) << 10)
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))  # "max": there is no limit
    return min(found, default=0)


def in_threads(work: Callable[[Item], object], items: Sequence[Item]) -> None:
    """`work` on every item, in as many threads as torch uses, each of which computes alone.

    For long chains of cheap operations: torch's own threads meet after each of them, and on a busy machine wait for one
    another for longer than they work.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < 2:
        for item in items:
            work(item)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)


def cache_folder() -> Path:
    """Where downloads are kept between runs: $OPENGLM_CACHE, else the user's cache folder."""
    return Path(
        os.environ.get("OPENGLM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "openglm"
    )


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise ValueError("HOME: this user has no home folder; set HOME, or XDG_DATA_HOME and XDG_CACHE_HOME") from None


@contextlib.contextmanager
def without_proxies() -> Iterator[None]:
    """Lets a library be imported that would trip over a proxy of a kind it cannot use."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.lower().endswith("_proxy")}
    try:
        yield
    finally:
        os.environ.update(kept)


def setting(name: str) -> str:
    """A key or an address that the user keeps in the environment; empty where there is none."""
    return os.environ.get(name, "")


def kernel_path() -> str:
    """Code path of the CPU kernels: $OPENGLM_KERNELS, `off` for none; else `auto`, the best this processor runs."""
    return os.environ.get("OPENGLM_KERNELS") or "auto"


def endpoint_key() -> str:
    """What opens a model behind somebody's OpenAI-compatible interface: $OPENAI_API_KEY."""
    return os.environ.get("OPENAI_API_KEY", "")


def launched() -> tuple[int, int]:
    """Processes that torchrun (or a batch system in its manner) started for this run, and this one's number on its
    machine; (1, 0): none did."""
    return int(os.environ.get("WORLD_SIZE") or 1), int(os.environ.get("LOCAL_RANK") or 0)


def attempt() -> int:
    """How often torchrun has started these processes again. Known where all are on one machine: launchers on several
    may count differently."""
    one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) if one_machine else 0


@functools.cache
def cpu_threads() -> int:
    """Threads for the CPU kernels: $OPENGLM_THREADS, else one for each physical core that this process may use; a
    second one would only share its core."""
    wanted = os.environ.get("OPENGLM_THREADS", "")
    require(
        wanted == "" or (wanted.isdigit() and int(wanted) > 0),
        "OPENGLM_THREADS",
        wanted,
        "must be a positive whole number",
    )
    if wanted:
        return int(wanted)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_siblings(cpu) for cpu in allowed}
    return len(cores)


def _siblings(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def data_folder() -> Path:
    """Where what users wrote is kept: feedback, saved chats."""
    return Path(os.environ.get("XDG_DATA_HOME") or _home() / ".local" / "share") / "openglm"


def say(text: str) -> None:
    """A line for the person at the terminal; results go to standard output, this does not. A full disk or a closed
    terminal swallows it: what is being computed is worth more."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def progress(description: str, total: float | None = None, unit: str = "", shown: bool = True):
    """How far something is, on standard error: `with progress(...) as advance: advance(amount, "extra  text")`.

    On a terminal a bar with time left, of whose extra text (pieces between double spaces) as many are shown as fit;
    elsewhere a plain line now and then.
    """
    return _Progress(description, total, unit, shown)


class _Progress:
    def __init__(self, description: str, total: float | None, unit: str, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        drawn = shown and console.is_terminal
        self.description, self.total, self.unit, self.extra, self.done = description, total, unit, "", 0.0
        self.plain, self.started = shown and not drawn, time.monotonic()
        self.said = self.started
        self.line = BarColumn()
        fields = (
            TextColumn("{task.description}"),
            self.line,
            MofNCompleteColumn(),
            TextColumn(unit),
            TextColumn("{task.fields[extra]}"),
        )
        columns = (*fields, TimeElapsedColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console, disable=not drawn, refresh_per_second=2)
        self.task = self.bar.add_task(description, total=total, extra="")

    def __enter__(self) -> _Progress:
        with contextlib.suppress(OSError):
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.bar.stop()
        if self.plain and time.monotonic() - self.started > _QUICK:
            self._say()

    def __call__(self, amount: float = 1, extra: str = "") -> None:
        self.done += amount
        self.extra = extra
        with contextlib.suppress(OSError):
            self.bar.update(self.task, advance=amount, extra=self._fit(extra))
        now = time.monotonic()
        if self.plain and now - self.said > min(max(_OFTEN, (now - self.started) / 10), _SELDOM):
            self._say()

    def print(self, text: str) -> None:
        """A line above the bar."""
        if self.plain:
            return say(text)
        with contextlib.suppress(OSError):
            self.bar.console.print(text, markup=False, highlight=False)

    def _fit(self, extra: str) -> str:
        """The pieces of the text that fit beside the numbers, and a bar in what is left."""
        taken = len(self.description) + len(self.unit) + 2 * len(f"{self.total or 0:.0f}") + 1
        free = self.bar.console.width - taken - 2 * len("0:00:00") - 6 - _SMALLEST_BAR
        pieces = extra.split("  ")
        while pieces and len("  ".join(pieces)) > free:
            pieces.pop()
        shown = "  ".join(pieces)
        self.line.bar_width = max(min(40, free - len(shown) + _SMALLEST_BAR), 1)
        return shown

    def _say(self) -> None:
        self.said = time.monotonic()
        elapsed = self.said - self.started
        of = f"/{self.total:,.0f}" if self.total else ""
        left = f", {_clock(elapsed * (self.total - self.done) / self.done)} left" if self.total and self.done else ""
        pieces = (
            f"{self.description}: {self.done:,.0f}{of} {self.unit}".strip(),
            self.extra,
            f"{_clock(elapsed)}{left}",
        )
        say("  ".join(piece for piece in pieces if piece))


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
