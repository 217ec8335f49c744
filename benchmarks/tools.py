"""What a call of a tool costs, and many clients at once: python benchmarks/tools.py [--clients 64] [--seconds 120]"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from openglm import Tools
from openglm.tools.pool import shared_pool

CALLS = [
    ("Calc", "(3+333)*111/2", "18648"),
    ("Solve", "[333=3+(n-1)*3],[n]", "n=111"),
    ("Solve", "[x+y=35, 2x+4y=94],[x, y]", "x=23, y=12"),
    ("Convert", "36 km/h,m/s", "10 m/s"),
    ("Date", "2024-03-01 - 2024-02-01", "29 days"),
    ("Calc", "1/0", "Calc: division by zero"),
]


def milliseconds(tools: Tools, name: str, arguments: str, expected: str) -> float:
    start = time.perf_counter()
    try:
        result = tools.call(name, arguments)
    except ValueError as error:
        result = str(error)
    assert result == expected, (name, arguments, result)
    return 1e3 * (time.perf_counter() - start)


def load() -> str:
    """Programs that ran or waited for a core in the last 1, 5 and 15 minutes: times are upper bounds where they are more
    than the cores."""
    return " ".join(f"{one:.1f}" for one in os.getloadavg()) + f" on {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    tools = Tools(seconds=60)
    print(f"load average before: {load()}")
    print(f"first call, which starts a worker: {milliseconds(tools, *CALLS[0]):.0f} ms")
    for call in CALLS:
        times = [milliseconds(tools, *call) for _ in range(50)]
        print(f"{call[0]} {call[1]}: median {statistics.median(times):.1f} ms, worst {max(times):.1f} ms")
    end = time.monotonic() + options.seconds

    def client(number: int) -> list[float]:
        times = []
        while time.monotonic() < end:
            times.append(milliseconds(tools, *CALLS[(number + len(times)) % len(CALLS)]))
        return times

    with ThreadPoolExecutor(options.clients) as threads:
        times = [one for client_times in threads.map(client, range(options.clients)) for one in client_times]
    pids = [worker.pid for worker in shared_pool()._processes]
    shared_pool().close()
    left = [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    print(f"{options.clients} clients, {options.seconds:g} s: {len(times)} calls, all as expected; ", end="")
    print(f"median {statistics.median(times):.0f} ms, worst {max(times):.0f} ms; processes left: {len(left)}")
    print(f"load average after, these clients among it: {load()}")


if __name__ == "__main__":
    main()
