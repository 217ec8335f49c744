"""Many clients at once: does every request that stayed get its answer, do all get on alike, does memory stay, and what does the server cost beside its engine?

    python benchmarks/load.py --model nano --clients 64 --seconds 120 --out load
    python benchmarks/load.py --model nano --clients 8 --overhead --tokens 200 --seconds 20 --out overhead

    python benchmarks/load.py --model nano --clients 64 --seconds 1200 --tokens 4 --mixed --out soak

Clients ask for streams one after another; every third leaves in the middle of some. With --mixed some ask for whole answers, some for a text to go on with, and some
for what is refused. With --overhead nobody leaves, every answer has --tokens tokens, and the run is cut into rounds, each followed by one of the engine alone with the
same prompts: the two rates are compared in pairs, for other work on the machine changes both.
Writes `load.json`, and `load.png` where matplotlib is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from live_server import live_server

QUESTIONS = (
    "你好",
    "介绍一下你自己",
    "写一首关于月亮的诗",
    "How are you today?",
    "Tell me about the sea.",
    "一加一等于几？",
    "床前明月光",
    "What is a language model?",
)
ROUNDS = 6  # of the server and the engine alone by turns
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass
class Ask:
    """One request, as its client saw it; times in seconds from the start of the run."""

    client: int
    start: float
    first: float
    end: float
    tokens: int
    outcome: str


def request(kind: str, tokens: int, whole: bool, seed: int) -> tuple[str, dict[str, Any]]:
    """Path and body of a question."""
    question = QUESTIONS[seed % len(QUESTIONS)]
    body = {
        "temperature": 9.0 if kind == "refused" else 1.0,
        "max_tokens": tokens,
        "ignore_eos": whole,
        "seed": seed,
        **(STREAM if kind != "at once" else {}),
    }
    if kind == "text":
        return "/v1/completions", {**body, "prompt": question}
    return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": question}]}


async def ask(
    port: int, client: int, began: float, kind: str, tokens: int, whole: bool, leave_after: int | None, seed: int
) -> Ask:
    """One answer, read to its end or left after some pieces."""
    path, fields = request(kind, tokens, whole, seed)
    body = json.dumps(fields).encode()
    start, first, got, outcome = time.perf_counter() - began, 0.0, 0, "broken"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        status = head.split(b"\r\n")[0].decode()
        if " 200 " not in status:
            return Ask(
                client,
                start,
                0.0,
                time.perf_counter() - began,
                0,
                kind if kind == "refused" and " 400 " in status else status,
            )
        pieces, tail = 0, b""
        while piece := await reader.read(
            1 << 16
        ):  # counted, not parsed: the clients share the machine with what is measured
            first = first or time.perf_counter() - began
            pieces, tail = pieces + 1, tail[-1024:] + piece
            if leave_after is not None and pieces > leave_after:
                outcome = "left"
                break
        if tail.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") or (kind == "at once" and tail.endswith(b"}")):
            outcome, got = "whole", int(re.findall(rb'"completion_tokens":(\d+)', tail)[-1])
    finally:
        writer.close()
    return Ask(client, start, first, time.perf_counter() - began, got, outcome)


async def client(
    port: int, number: int, options: argparse.Namespace, began: float, seconds: float, asked: list[Ask]
) -> None:
    """Ask again and again until time is up; the run ends once every answer has."""
    dice = random.Random(number)
    while time.perf_counter() - began < seconds:
        leaves = number % 3 == 2 and not options.overhead
        kind = dice.choice(("at once", "text", *["chat"] * 7, "refused")) if options.mixed and not leaves else "chat"
        leave_after = dice.randrange(1, max(2, options.tokens // 2)) if leaves else None
        asked.append(
            await ask(port, number, began, kind, options.tokens, options.overhead, leave_after, dice.randrange(1 << 30))
        )


async def metrics(port: int) -> dict[str, float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    return {name: float(value) for name, value in re.findall(r"^(\w+) ([0-9.e+-]+)\r?$", text, re.MULTILINE)}


async def watch(port: int, began: float, seen: list[dict[str, float]]) -> None:
    while True:
        now = await metrics(port)
        seen.append(
            {
                "time": time.perf_counter() - began,
                "rss": now["process_resident_memory_bytes"],
                "running": now["glm_running"],
                "waiting": now["glm_waiting"],
            }
        )
        await asyncio.sleep(1)


async def run(port: int, options: argparse.Namespace, seconds: float) -> dict:
    began, asked, seen = time.perf_counter(), [], []
    watching = asyncio.create_task(watch(port, began, seen))
    await asyncio.gather(*(client(port, number, options, began, seconds, asked) for number in range(options.clients)))
    lasted = time.perf_counter() - began
    watching.cancel()
    await asyncio.sleep(0.5)
    return {"seconds": lasted, "asked": [vars(one) for one in asked], "seen": seen, "after": await metrics(port)}


def summary(found: dict, options: argparse.Namespace) -> dict:
    asked = found["asked"]
    whole = [one for one in asked if one["outcome"] == "whole"]
    stayed = {one["client"] for one in asked} - {
        one["client"] for one in asked if one["outcome"] == "left"
    }  # those who leave have few whole answers by their own choice
    by_client = [sum(one["tokens"] for one in whole if one["client"] == number) for number in stayed]
    half = [s["rss"] for s in found["seen"] if s["time"] > min(30, found["seconds"] / 2)] or [found["seen"][-1]["rss"]]
    after = found["after"]
    mean_first = after["glm_first_token_seconds_sum"] / after["glm_first_token_seconds_count"]
    return {
        "requests": len(asked), "whole": len(whole), "left": sum(one["outcome"] == "left" for one in asked),
        "refused": sum(one["outcome"] == "refused" for one in asked),
        "failed": sorted({one["outcome"] for one in asked if one["outcome"] not in ("whole", "left", "refused")}),
        "tokens_per_s": sum(one["tokens"] for one in whole) / found["seconds"],
        "median_over_slowest_client": statistics.median(by_client) / max(min(by_client), 1), "rss_growth_bytes": half[-1] - half[0], "rss_bytes": half[-1],
        "still_running": after["glm_running"] + after["glm_waiting"], "blocks_held": after["glm_cache_blocks"] - after["glm_cache_blocks_free"],
        "first_byte_s": statistics.mean(one["first"] - one["start"] for one in whole), "first_token_in_server_s": mean_first, "clients": options.clients,
    }  # fmt: skip


def loop_seconds(server: int) -> float:
    """Processor time of the server's main thread, where all but the engine runs: a figure that other work on the machine does not change."""
    fields = Path(f"/proc/{server}/task/{server}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def engine_alone(assistant: Any, options: argparse.Namespace, seconds: float) -> float:
    """Tokens a second of the engine with as many requests at once as there were clients."""
    from openglm.assistant import SamplingParams
    from openglm.text.steps import no_call

    engine, dice, tokens, open_requests = assistant.engine, random.Random(0), 0, 0
    began = time.perf_counter()
    while (late := time.perf_counter() - began > seconds) is False or open_requests:
        while not late and open_requests < options.clients:
            seed = dice.randrange(1 << 30)
            prompt, _ = assistant.chat_prompt([{"role": "user", "content": QUESTIONS[seed % len(QUESTIONS)]}])
            engine.add_request(
                prompt,
                SamplingParams(
                    max_tokens=options.tokens,
                    seed=seed,
                    ignore_eos=True,
                    logit_bias=no_call(assistant.tokenizer.special),  # as the server asks
                    **assistant.sampling(temperature=1.0),
                ),
            )
            open_requests += 1
        events = engine.step()
        tokens += sum(event.token is not None for event in events)
        open_requests -= sum(event.result is not None for event in events)
    return tokens / (time.perf_counter() - began)


def overhead(port: int, server: int, options: argparse.Namespace) -> dict:
    """Rounds with the server and without it by turns."""
    from openglm.assistant import Assistant

    assistant, rounds, before, shares = Assistant(options.model, device="cpu"), [], loop_seconds(server), []
    clients = 0.0
    for _ in range(ROUNDS):
        start = time.process_time()
        rounds.append(asyncio.run(run(port, options, options.seconds / ROUNDS)))
        clients += time.process_time() - start
        alone = asyncio.run(
            asyncio.to_thread(engine_alone, assistant, options, options.seconds / ROUNDS)
        )  # in a thread that is not the first one, as in the server
        shares.append(
            {"served": sum(one["tokens"] for one in rounds[-1]["asked"]) / rounds[-1]["seconds"], "alone": alone}
        )
    found = {
        "seconds": sum(r["seconds"] for r in rounds),
        "asked": [one for r in rounds for one in r["asked"]],
        "seen": rounds[-1]["seen"],
        "after": rounds[-1]["after"],
    }
    tokens = found["after"]["glm_completion_tokens_total"]
    report = {
        "engine_alone_tokens_per_s": statistics.median(s["alone"] for s in shares),
        "loop_us_per_token": 1e6 * (loop_seconds(server) - before) / tokens,
        "clients_us_per_token": 1e6 * clients / tokens,
    }
    return {
        **summary(found, options),
        **report,
        "share_of_engine": statistics.median(s["served"] / s["alone"] for s in shares),
        "rounds": shares,
        **found,
    }


def draw(found: dict, path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return
    figure = Figure((9, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    for outcome, colour in (("whole", "tab:blue"), ("left", "tab:gray")):
        points = [(one["end"], one["end"] - one["start"]) for one in found["asked"] if one["outcome"] == outcome]
        top.plot(*zip(*points, strict=True) if points else ((), ()), ".", color=colour, markersize=3, label=outcome)
    top.set_ylabel("seconds to the end of an answer")
    top.legend()
    times = [s["time"] for s in found["seen"]]
    bottom.plot(times, [s["running"] for s in found["seen"]], label="running")
    bottom.plot(times, [s["waiting"] for s in found["seen"]], label="waiting")
    bottom.set_xlabel("seconds")
    bottom.legend(loc="upper left")
    memory = bottom.twinx()
    memory.plot(times, [s["rss"] / 2**20 for s in found["seen"]], color="black", label="MiB")
    memory.set_ylabel("resident MiB")
    memory.set_ylim(bottom=0)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--tokens", type=int, default=48, help="longest answer")
    parser.add_argument("--overhead", action="store_true", help="nobody leaves; then the engine alone")
    parser.add_argument(
        "--mixed", action="store_true", help="streams, whole answers, texts to go on with, and what is refused"
    )
    parser.add_argument("--out", type=Path, default=Path("load"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with live_server(options.model) as (port, process):
        if options.overhead:
            found = overhead(port, process, options)
        else:
            found = asyncio.run(run(port, options, options.seconds))
            found = {**summary(found, options), **found}
    (options.out / "load.json").write_text(json.dumps(found), encoding="utf-8")
    draw(found, options.out / "load.png")
    print(
        json.dumps({name: value for name, value in found.items() if name not in ("asked", "seen", "after")}, indent=1)
    )


if __name__ == "__main__":
    main()
