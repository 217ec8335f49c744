"""What the engine adds to its kernels: a shared beginning that is not read twice, guesses that are free where an answer quotes, and what its own work costs.

python benchmarks/engine.py [--shape glm-4-0.4b] [--layers N] [--rounds 5] [--json]. Random weights cost what trained ones cost, but quote nothing: a script
puts the tokens of a quoting answer in the place of the likeliest ones, after the network has computed its logits as ever.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time

from measure import in_turn, ratio, seconds

from openglm.cli.bench import one_round, random_model, random_prompt
from openglm.config import EngineConfig
from openglm.engine.engine import Engine
from openglm.engine.params import SamplingParams
from openglm.presets import model_preset

SHARED, QUOTED, OWN = 1000, 40, 5  # tokens of the shared beginning; of a quotation, and between two


class Scripted:
    """A runner whose logits are highest at the next token of a script, for one sequence."""

    def __init__(self, runner, script: list[int]) -> None:
        self.runner, self.script, self.seconds = runner, script, 0.0

    def run(self, step):
        start = time.perf_counter()
        logits = self.runner.run(step)
        self.seconds += time.perf_counter() - start
        positions = step.cached[0] + step.wanted + 1
        logits[range(len(positions)), [self.script[position] for position in positions]] = 1e4
        return logits


def shared_prefix(model, rounds: int) -> dict[str, float]:
    """Seconds to the first token of a prompt, and of another that begins with the same thousand tokens."""
    engine = Engine(model, EngineConfig(max_sequences=1, kv_tokens=4096))
    one_round(engine, 1, 16, 2, seed=0)
    first, second = [], []
    for number in range(rounds):
        passage = random_prompt(model.config, SHARED, number)
        for times, extra in ((first, 1000), (second, 2000)):
            times.append(first_token(engine, [*passage, *random_prompt(model.config, 8, number + extra)]))
    return {"first_s": statistics.median(first), "second_s": statistics.median(second), "share": ratio(second, first)}


def first_token(engine: Engine, ids: list[int]) -> float:
    return seconds(lambda: engine.generate([ids], SamplingParams(max_tokens=1, ignore_eos=True)))


def quoting(model, rounds: int, tokens: int = 300) -> dict[str, float]:
    """An answer that quotes its prompt, written with and without guesses: the same tokens, in what time."""
    prompt, draw = random_prompt(model.config, 400, 1), random.Random(2)
    answer: list[int] = []
    while len(answer) < tokens:
        start = draw.randrange(0, 350)
        answer += [*random_prompt(model.config, OWN, len(answer)), *prompt[start : start + QUOTED]]
    contenders = {}
    for name, draft in (("plain", 0), ("guessed", 8)):
        engine = Engine(model, EngineConfig(max_sequences=1, kv_tokens=1024, draft_tokens=draft, share_prefixes=False))
        engine.runner = Scripted(engine.runner, [*prompt, *answer])
        contenders[name] = lambda _, engine=engine: write(engine, prompt, answer[:tokens])
    found = in_turn(contenders, rounds)
    plain, guessed = ([whole for whole, _ in found[name]] for name in ("plain", "guessed"))
    return {
        "plain_tokens_per_s": tokens / statistics.median(plain),
        "guessed_tokens_per_s": tokens / statistics.median(guessed),
        "speedup": ratio(plain, guessed),
        "engines_own_share": statistics.median(1 - runner / whole for whole, runner in found["plain"]),
    }


def write(engine: Engine, prompt: list[int], answer: list[int]) -> tuple[float, float]:
    """Seconds from the first token to the last, and those of the runner."""
    stream = engine.stream(prompt, SamplingParams(max_tokens=len(answer), ignore_eos=True))
    said = [next(stream).token]
    engine.runner.seconds, start = 0.0, time.perf_counter()
    said += [event.token for event in stream]
    assert said == answer, "guesses must not change the answer"
    return time.perf_counter() - start, engine.runner.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="glm-4-0.4b")
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--quantize", default="int4", choices=["none", "int8", "int4"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    o = parser.parse_args()
    model = random_model(
        model_preset(o.shape, **({"layers": o.layers} if o.layers else {})),
        None if o.quantize == "none" else o.quantize,
    )
    report = {
        "shape": o.shape,
        "layers": model.config.layers,
        "shared_prefix": shared_prefix(model, o.rounds),
        "quoting": quoting(model, o.rounds),
    }
    if o.json:
        print(json.dumps(report))
        return
    for part in ("shared_prefix", "quoting"):
        print(part, ", ".join(f"{name} {value:.4g}" for name, value in report[part].items()))


if __name__ == "__main__":
    main()
