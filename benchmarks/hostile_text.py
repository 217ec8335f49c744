"""Does any work on text that comes from outside grow faster than the text? And does the server answer others meanwhile?

    python benchmarks/hostile_text.py [--model nano] [--size 500000] [--rounds 5]

Each kind of text is made of one unit, repeated. Processor time for twice the length over that for the length, the least of some rounds each: 2 is linear, 4 quadratic; the
bar is 2.6. What takes under a millisecond is not judged. Then a live server is sent texts of a megabyte, one after another, and /health is asked meanwhile. Its model is
a toy of nano's tokenizer and a context that a megabyte might fit by its length, so that each text is cut into tokens, and refused for their number.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import torch
from live_server import live_server

from openglm.assistant import Assistant
from openglm.checkpoints.native import save_model
from openglm.model.transformer import Transformer
from openglm.presets import model_preset
from openglm.serve.display import original, shown
from openglm.text import replies
from openglm.text.load import load_tokenizer
from openglm.text.render import render
from openglm.text.streaming import ReplyStream
from openglm.train.pretrain import fit_to_tokenizer

UNITS = (
    "a", "你", " ", " x", ".", "\n", " \n", "\u0301", " \u3000", "'s", "[MASK]", "12", "今天 day, ", "`", "`a", "```\n", "](https://x", "<|user|>", "tool\n", "tool_call(a=1)\n",
    "</think>", "{", '{"a":', "，,", "#", "|a|b|\n", "\\", "$",
)  # fmt: skip

CONTEXT = 1 << 16


def works(assistant: Assistant) -> dict[str, Callable[[str], object]]:
    """Name -> what is done with a text."""
    tokenizer = assistant.tokenizer

    def stream(text: str) -> None:
        """As an answer of many small pieces, while a tool might be called."""
        reader = ReplyStream(tokenizer, ["tool", "a" * 60])
        for start in range(0, len(text), 3):
            reader.feed([(None, text[start : start + 3])])
        reader.end([])

    readers = {
        name: getattr(replies, name)
        for name in ("parse_own", "parse_plain", "parse_chatglm3", "parse_glm4", "parse_z1")
    }
    return {
        "tokenizer": tokenizer.encode, "renderer": lambda text: render(tokenizer, [{"role": "user", "content": text}], generation_prompt=True),
        "Markdown cleaner": shown, "Markdown cleaner's inverse": original, "stream of an answer": stream,
        **{name: lambda text, read=read: (read([text], True), read([f"tool\n```python\n{text}\n```"], True)) for name, read in readers.items()},
    }  # fmt: skip


def seconds(work: Callable[[str], object], texts: tuple[str, str], rounds: int) -> tuple[float, float]:
    """The least time of each text; they take turns, for the machine has slow moments that last longer than a round."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for text, of in zip(texts, times, strict=True):
            start = time.process_time()
            work(text)
            of.append(time.process_time() - start)
        if times[1][-1] < 1e-4:
            break
    return min(times[0]), min(times[1])


def growth(assistant: Assistant, size: int, rounds: int) -> None:
    for name, work in works(assistant).items():
        found = []
        for unit in UNITS:
            text = unit * (size // len(unit))
            once, twice = seconds(work, (text, text * 2), rounds)
            if twice > 1e-3:
                found.append((twice / once, twice, unit))
        worst = sorted(found, reverse=True)[:3]
        print(
            f"{name:28s} "
            + (
                "under a millisecond"
                if not worst
                else "; ".join(f"{ratio:.2f} for {unit!r} ({1e3 * long:.0f} ms)" for ratio, long, unit in worst)
            ),
            flush=True,
        )


def toy(folder: Path) -> Path:
    tokenizer = load_tokenizer("nano")
    model = Transformer(fit_to_tokenizer(model_preset("nano", layers=1, max_positions=CONTEXT), tokenizer))
    model.initialize(torch.Generator().manual_seed(0))
    return save_model(folder / "toy", model, tokenizer)


def health(size: int) -> None:
    with tempfile.TemporaryDirectory() as folder, live_server(toy(Path(folder))) as (port, _):
        base, waits, over = f"http://127.0.0.1:{port}", [], threading.Event()

        def ask() -> None:
            with httpx.Client() as client:
                while not over.is_set():
                    start = time.perf_counter()
                    assert client.get(f"{base}/health").status_code == 200
                    waits.append(time.perf_counter() - start)
                    time.sleep(0.005)

        asking = threading.Thread(target=ask)
        asking.start()
        with httpx.Client(timeout=60) as client:
            for unit in UNITS:
                body = json.dumps(
                    {"messages": [{"role": "user", "content": unit * (size // len(unit.encode()))}]}
                ).encode()
                refusal = client.post(
                    f"{base}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
                )
                assert refusal.status_code == 400 and "tokens" in refusal.text, refusal.text
        over.set()
        asking.join()
    waits.sort()
    middle, most, worst = (1e3 * wait for wait in (statistics.median(waits), waits[int(0.99 * len(waits))], waits[-1]))
    print(
        f"/health meanwhile, {len(waits)} times: median {middle:.1f} ms, 99 % within {most:.0f} ms, worst {worst:.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--size", type=int, default=500_000, help="characters of the shorter text")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    growth(Assistant(options.model, device="cpu"), options.size, options.rounds)
    health(1_000_000)


if __name__ == "__main__":
    main()
