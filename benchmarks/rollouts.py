"""GRPO's generation phase: answers in groups by the engine, beside `transformers.generate`.

    python benchmarks/rollouts.py [--preset glm-4-0.4b] [--layers N] [--questions 8] [--group 8] [--rounds 3] [--json out.json]

Random weights of one shape, drawn at temperature 1; ours in fp32 or, with --quantize, in codes that are made anew in each
round, the peer in --dtype. The answers of a round end at different lengths, as
they do in training: each at a length drawn evenly between an eighth of --tokens and all of it. A batch of `generate` goes
on until its longest answer is done; tokens behind an answer's end do not count. Both take turns; medians, and the median
of the rounds' ratios. --processor-time: the process's own time, on one thread, where the machine does other work.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import random
import statistics
import time

import torch
from adapters import peer_model
from measure import in_turn, ratio, seconds, write_json

from openglm.cli.bench import random_model, random_prompt
from openglm.config import EngineConfig, ModelConfig
from openglm.engine.engine import Engine
from openglm.engine.params import SamplingParams
from openglm.presets import model_preset
from openglm.quant.layers import quantize_model


def drawn_lengths(count: int, longest: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randint(max(1, longest // 8), longest) for _ in range(count)]


def questions(config: ModelConfig, args: argparse.Namespace, seed: int) -> list[list[int]]:
    """Each question as often as it is answered; they differ in length."""
    draw = random.Random(seed)
    asked = [
        random_prompt(config, draw.randint(args.prompt // 2, args.prompt), seed * 1000 + i)
        for i in range(args.questions)
    ]
    return [ids for ids in asked for _ in range(args.group)]


def ours(config: ModelConfig, args: argparse.Namespace):
    """As `align/rollouts.py` draws: an engine for each round, from the weights of the moment."""
    model = random_model(config, None)

    def measure(number: int) -> float:
        prompts = questions(config, args, number)
        lengths = drawn_lengths(len(prompts), args.tokens, number)
        params = [
            SamplingParams(
                max_tokens=length, temperature=1.0, seed=i, ignore_eos=True, logprobs=0, logprobs_as_drawn=True
            )
            for i, length in enumerate(lengths)
        ]
        results: list = []

        def round_of_answers() -> None:
            bits = {"": 0, "int8": 8, "int4": 4}[args.quantize]
            sampler = quantize_model(copy.deepcopy(model), bits, 32) if bits else model
            results.extend(Engine(sampler, EngineConfig()).generate(prompts, params))

        spent = seconds(round_of_answers, args.clock)
        assert [len(result.ids) for result in results] == lengths
        return sum(lengths) / spent

    return measure


def transformers(config: ModelConfig, args: argparse.Namespace):
    model = peer_model(config).eval().to(getattr(torch, args.dtype))

    def measure(number: int) -> float:
        prompts = questions(config, args, number)
        lengths = drawn_lengths(len(prompts), args.tokens, number)
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        real = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        most = max(lengths)
        options = {"max_new_tokens": most, "min_new_tokens": most, "do_sample": True, "temperature": 1.0, "top_k": 0}
        spent = seconds(
            lambda: model.generate(input_ids=ids, attention_mask=real, pad_token_id=0, **options), args.clock
        )
        return sum(lengths) / spent

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="glm-4-0.4b")
    parser.add_argument("--layers", type=int, default=0, help="fewer layers than the preset has")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=64, help="longest question, in tokens")
    parser.add_argument("--tokens", type=int, default=64, help="longest answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quantize", choices=("", "int8", "int4"), default="", help="as rollout.quantize")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the peer")
    parser.add_argument("--processor-time", action="store_true", help="with --threads 1")
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    args.clock = time.process_time if args.processor_time else time.perf_counter
    torch.set_num_threads(args.threads)
    config = model_preset(args.preset)
    config = dataclasses.replace(config, layers=args.layers or config.layers)
    contenders = {"ours": ours(config, args), "transformers": transformers(config, args)}
    found = in_turn(contenders, args.rounds)
    summary = {f"{name}_tokens_per_s": statistics.median(speeds) for name, speeds in found.items()}
    summary["ratio"] = ratio(found["ours"], found["transformers"])
    print(", ".join(f"{name} {value:.2f}" for name, value in summary.items()))
    del args.clock
    write_json(args.json, {**vars(args), **summary, "rounds": found})


if __name__ == "__main__":
    main()
