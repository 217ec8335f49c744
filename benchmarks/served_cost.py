"""Processor time of a token, in the engine alone and in a server: a figure that other work on the machine changes less than a rate.

    taskset -c 1 python benchmarks/served_cost.py [--rounds 7] [--requests 24] [--gather 0.1] [--no-page]

nano, 8 clients, answers of 200 tokens, in turn; the server's main thread is its event loop. The clients count bytes and parse nothing. On one core pieces
are gathered for longer than the server's 40 ms, so that they are as long as where the engine has the machine for itself. Kernels and sampling are timed
inside the engine alone.
"""

from __future__ import annotations

import argparse
import json
import random
import selectors
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from live_server import live_server
from load import QUESTIONS, STREAM

CLIENTS, TOKENS = 8, 200
GATHERING = "import sys, openglm.serve.service as service; service._GATHER = float(sys.argv.pop(1)); from openglm.cli.main import main; sys.exit(main())"


def ask(port: int, seed: int) -> socket.socket:
    question = [{"role": "user", "content": QUESTIONS[seed % len(QUESTIONS)]}]
    fields = {
        "temperature": 1.0,
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "seed": seed,
        "messages": question,
        **STREAM,
    }
    body = json.dumps(fields).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    line = socket.create_connection(("127.0.0.1", port))
    line.sendall(head.encode() + body)
    line.setblocking(False)
    return line


def read_all(port: int, requests: int, seed: int) -> int:
    """Have all requests answered, so many at once as there are clients; returns how many pieces were read."""
    dice, open_lines, tails, pieces, asked = random.Random(seed), selectors.DefaultSelector(), {}, 0, 0
    while asked < requests or tails:
        while asked < requests and len(tails) < CLIENTS:
            line = ask(port, dice.randrange(1 << 30))
            tails[line] = b""
            open_lines.register(line, selectors.EVENT_READ)
            asked += 1
        for key, _ in open_lines.select():
            line = key.fileobj
            piece = line.recv(1 << 17)
            pieces += bool(piece)
            if piece:
                tails[line] = (tails[line] + piece)[-400:]
                continue
            tail = tails.pop(line)
            assert b'"completion_tokens":%d,' % TOKENS in tail and b"[DONE]" in tail, tail
            open_lines.unregister(line)
            line.close()
    return pieces


def by_thread(process: int) -> dict[int, float]:
    """µs of processor time of each thread."""
    tasks = Path(f"/proc/{process}/task")
    return {int(task.name): int((task / "schedstat").read_text().split()[0]) / 1000 for task in tasks.iterdir()}


def served(port: int, process: int, requests: int, seed: int) -> dict[str, float]:
    before, clients = by_thread(process), time.process_time()
    pieces = read_all(port, requests, seed)
    clients = time.process_time() - clients
    spent = {thread: after - before.get(thread, 0) for thread, after in by_thread(process).items()}
    tokens = requests * TOKENS
    loop, all_of_it = spent.pop(process), sum(spent.values())
    found = {
        "engine's thread": max(spent.values()),
        "event loop": loop,
        "whole server": loop + all_of_it,
        "clients": clients * 1e6,
    }
    return {**{name: value / tokens for name, value in found.items()}, "tokens a piece": tokens / pieces}


class Alone:
    """The engine with the server's requests and nothing around it."""

    def __init__(self) -> None:
        from openglm.assistant import Assistant
        from openglm.engine.sampling import Sampler

        self.assistant, self.spent = Assistant("nano", device="cpu"), {"kernels": 0.0, "sampling": 0.0}
        program = self.assistant.engine.runner.program
        program.run = self._timed("kernels", program.run)
        Sampler.sample = self._timed("sampling", Sampler.sample)

    def _timed(self, name: str, work: Any) -> Any:
        def timed(*given: Any) -> Any:  # a function, so that a class binds it
            start = time.thread_time()
            found = work(*given)
            self.spent[name] += time.thread_time() - start
            return found

        return timed

    def run(self, requests: int, seed: int) -> dict[str, float]:
        from openglm.assistant import SamplingParams
        from openglm.text.steps import no_call

        assistant, engine, dice, asked, running = self.assistant, self.assistant.engine, random.Random(seed), 0, 0
        self.spent, start = dict.fromkeys(self.spent, 0.0), time.thread_time()
        while asked < requests or running:
            while asked < requests and running < CLIENTS:
                own = dice.randrange(1 << 30)
                prompt, _ = assistant.chat_prompt([{"role": "user", "content": QUESTIONS[own % len(QUESTIONS)]}])
                drawn = assistant.sampling(temperature=1.0)
                bias = no_call(assistant.tokenizer.special)
                engine.add_request(prompt, SamplingParams(TOKENS, seed=own, ignore_eos=True, logit_bias=bias, **drawn))
                asked, running = asked + 1, running + 1
            running -= sum(event.result is not None for event in engine.step())
        found = {"engine": time.thread_time() - start, **self.spent}
        return {name: value * 1e6 / (requests * TOKENS) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=24, help="in each turn")
    parser.add_argument("--gather", default="0.1", help="seconds for which pieces are gathered")
    parser.add_argument("--no-page", action="store_true")
    options = parser.parse_args()
    more = ["--no-page"] if options.no_page else []
    command = [sys.executable, "-c", GATHERING, options.gather]
    alone, found = Alone(), []
    with live_server("nano", *more, command=command) as (port, process):
        alone.run(CLIENTS, 0)
        read_all(port, CLIENTS, 0)
        for number in range(options.rounds):
            found.append({**alone.run(options.requests, number), **served(port, process, options.requests, number)})
            print(json.dumps({name: round(value, 1) for name, value in found[-1].items()}), flush=True)
    medians = {name: statistics.median(one[name] for one in found) for name in found[0]}
    share = statistics.median(one["engine"] / one["whole server"] for one in found)
    print(
        json.dumps(
            {"medians, µs a token": medians, "engine alone divided by the whole server": share},
            indent=1,
            ensure_ascii=False,
        )
    )


if __name__ == "__main__":
    main()
