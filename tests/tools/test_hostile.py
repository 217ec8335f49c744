"""Texts that would run something, take for ever or fill the memory: each is a result or an error of one line, in time."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from openglm import Tools
from openglm.tools.pool import MEMORY_BYTES, SECONDS, Pool

CALLS = [json.loads(line) for line in (Path(__file__).parent / "hostile.jsonl").read_text().splitlines()]


def test_hostile_calls_end_in_time_and_run_nothing(tmp_path):
    """A worker ends what takes longer than its limits, so that `Tools` sees each answer; nothing of them reached Python."""
    assert len(CALLS) >= 300
    canary, tools = tmp_path / "canary", Tools(seconds=120)

    def told(call):
        name, arguments = call
        try:
            return tools.call(name, arguments.replace("CANARY", str(canary)))
        except ValueError as error:
            return f"error: {error}"

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(told, CALLS))
    for call, result in zip(CALLS, results, strict=True):
        one_line = "\n" not in result and len(result) <= 4000
        assert one_line and "process was ended" not in result and "no result" not in result, (call, result)
    assert not canary.exists() and not Path("CANARY").exists()
    assert tools.call("Calc", "1+1") == "2"


BAD = """
import os, sys, time
from openglm.tools import worker
worker._WARM_UP.clear()
worker.BUILT_IN |= {
    "fill": lambda: len("x" * (300 << 20)),
    "hang": lambda: sum(iter(int, 1)),
    "sleep": lambda: time.sleep(60),
    "die": lambda: os._exit(0),
    "write": lambda: print("noise"),
    "deep": lambda: (lambda f: f(f))(lambda f: f(f)),
    "fine": lambda: "fine",
}
worker.main(0.5, 256 << 20)
"""


def test_a_call_that_fills_the_memory_hangs_or_dies_ends_alone():
    names = ["fill", "hang", "sleep", "die", "deep", "fine"]
    calls = "".join(json.dumps({"name": name, "arguments": {}}) + "\n" for name in names)
    ended = subprocess.run([sys.executable, "-c", BAD], input=calls, capture_output=True, text=True, timeout=120)
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    assert answers == [
        {"error": "it needs more than 256 MB"},
        {"error": "it took longer than 0.5 s"},
        {"error": "it took longer than 0.5 s"},
        {"error": "its process was ended"},
        {"error": "it is nested too deeply"},
        {"result": "fine"},
    ]


def test_a_killed_worker_is_replaced_and_none_is_left():
    pool = Pool(1)
    assert pool.call("Calc", {"expression": "1+1"}) == "2"
    [worker] = pool._processes
    worker.kill()
    worker.wait()
    assert pool.call("Calc", {"expression": "1+2"}) == "3"
    [again] = pool._processes
    assert again.pid != worker.pid
    pool.close()
    assert not psutil.pid_exists(again.pid)


def test_workers_end_with_the_program_however_it_ends():
    for ending in ("", "import os; os._exit(1)"):
        code = f"from openglm import Tools; t = Tools(); print(t.call('Calc', '1+1')); {WORKER}; {ending}"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120).stdout.split()
        assert said[0] == "2"
        psutil.wait_procs([psutil.Process(int(pid)) for pid in said[1:] if psutil.pid_exists(int(pid))], timeout=10)
        assert not any(psutil.pid_exists(int(pid)) for pid in said[1:])


WORKER = "from openglm.tools.pool import shared_pool; print(*[one.pid for one in shared_pool()._processes])"


def test_many_threads_get_their_own_answers():
    tools = Tools()
    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(lambda number: tools.call("Calc", f"{number}^2"), range(64)))
    assert results == [str(number**2) for number in range(64)]


def test_the_limits_are_those_that_are_promised():
    assert SECONDS < 2 and MEMORY_BYTES == 256 << 20
