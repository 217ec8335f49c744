"""Speed of a training step: ours, the same shape in transformers with a plain loop, and the machine's own rate of matrix products.

    python benchmarks/train_throughput.py [--preset nano] [--rows 32] [--seq-len 512] [--micro-rows 4] [--rounds 5] [--threads 2] [--json]

They take turns round by round, and medians are compared. Both trainers see the same causal rows with a loss at every position (the
peer knows no other), AdamW, clipping, fp32; `packed` is our step on rows of three texts under a mask, as training has them,
and `fused` the same with PyTorch's fused attention where we take plain products (bfloat16 on a processor).
`--bfloat16` measures our steps under autocast, against the fp32 product rate. On a busy machine `--threads 1 --processor-time` counts
the time that the processor spent on us.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from unittest import mock

import numpy as np
import torch
from measure import in_turn, seconds
from runs import CausalRows, plain_step

from openglm.config import ModelConfig
from openglm.data.mixture import batches
from openglm.model import attention
from openglm.presets import model_preset
from openglm.runtime import prepare_cpu
from openglm.train.loss import step_flops


def our_step(config: ModelConfig, batch: dict[str, np.ndarray], micro: int, dtype: torch.dtype):
    step = plain_step(config, micro, dtype)
    return lambda: step(batch)


def peer_step(config: ModelConfig, batch: dict[str, np.ndarray], micro: int):
    from transformers import GlmConfig, GlmForCausalLM

    torch.manual_seed(0)
    model = GlmForCausalLM(GlmConfig(
        vocab_size=config.vocab_size, hidden_size=config.hidden, intermediate_size=config.ffn_hidden, num_hidden_layers=config.layers, num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads, head_dim=config.head_dim, attention_bias=False, tie_word_embeddings=config.tied, max_position_embeddings=config.max_positions,
        pad_token_id=0, eos_token_id=5,
    )).train()  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == config.parameters, (
        sum(p.numel() for p in model.parameters()),
        config.parameters,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    ids = torch.from_numpy(batch["tokens"])

    def step() -> None:
        for part in ids.split(micro):
            (model(input_ids=part, labels=part, use_cache=False).loss * len(part) / len(ids)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def fused_step(config: ModelConfig, batch: dict[str, np.ndarray], micro: int, dtype: torch.dtype):
    step = plain_step(config, micro, dtype)

    def run() -> None:
        with mock.patch.object(attention, "PRODUCTS_UP_TO", 0):
            step(batch)

    return run


def products(size: int = 1024, times: int = 20):
    a, b = torch.randn(size, size), torch.randn(size, size)

    def step() -> None:
        for _ in range(times):
            torch.mm(a, b)

    return step, 2.0 * size**3 * times


def measure(args: argparse.Namespace) -> dict[str, float | str | int]:
    if args.threads:
        torch.set_num_threads(args.threads)
    prepare_cpu()  # as training does
    config = dataclasses.replace(
        model_preset(args.preset),
        positions="rope_half",
        mask="causal",
        span_positions="running",
        qk_norm=False,
        max_positions=max(512, args.seq_len),
    )
    batch = next(batches(CausalRows(config.vocab_size, args.seq_len), 0, args.rows, 0))
    dtype = torch.bfloat16 if args.bfloat16 else torch.float32
    packed = {**batch, "segment": batch["position"] * 3 // args.seq_len}  # three texts a row: the kernel needs a mask
    product, product_flops = products()
    ours, packed_step = (our_step(config, rows, args.micro_rows, dtype) for rows in (batch, packed))
    contenders = {
        "products": product,
        "ours": ours,
        "transformers": peer_step(config, batch, args.micro_rows),
        "packed": packed_step,
        "fused": fused_step(config, packed, args.micro_rows, dtype),
    }
    clock = time.process_time if args.processor_time else time.perf_counter
    turns = in_turn(
        {name: lambda _, step=step: seconds(step, clock) for name, step in contenders.items()}, args.rounds + 1
    )
    middle = {name: statistics.median(values[1:]) for name, values in turns.items()}  # the first round warms up
    tokens = args.rows * args.seq_len
    flops, packed_flops = (step_flops(config, seen, tokens, tokens) for seen in (args.seq_len / 2, args.seq_len))
    rate = product_flops / middle["products"]
    setting = {
        "preset": args.preset,
        "rows": args.rows,
        "seq_len": args.seq_len,
        "micro_rows": args.micro_rows,
        "rounds": args.rounds,
    }
    return {
        **setting, "threads": torch.get_num_threads(), "dtype": str(dtype).removeprefix("torch."), "products_gflops": rate / 1e9,
        "ours_gflops": flops / middle["ours"] / 1e9, "ours_share_of_products": flops / middle["ours"] / rate, "ours_tokens_per_s": tokens / middle["ours"],
        "transformers_tokens_per_s": tokens / middle["transformers"], "ours_to_transformers": middle["transformers"] / middle["ours"],
        "packed_gflops": packed_flops / middle["packed"] / 1e9, "packed_share_of_products": packed_flops / middle["packed"] / rate,
        "packed_tokens_per_s": tokens / middle["packed"], "packed_to_fused_attention": middle["fused"] / middle["packed"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="nano", help="named size")
    numbers = {
        "--rows": (32, "rows in a step"),
        "--seq-len": (512, "tokens in a row"),
        "--micro-rows": (4, "rows in one forward pass"),
        "--rounds": (5, "turns"),
        "--threads": (0, "0: torch's choice"),
    }
    for flag, (default, text) in numbers.items():
        parser.add_argument(flag, type=int, default=default, help=text)
    parser.add_argument("--bfloat16", action="store_true", help="our step under bfloat16 autocast")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="processor seconds instead of the clock on the wall; with --threads 1",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    found = measure(args)
    lines = (
        f"{name:<26} {value:.4g}" if isinstance(value, float) else f"{name:<26} {value}"
        for name, value in found.items()
    )
    print(json.dumps(found) if args.json else "\n".join(lines))


if __name__ == "__main__":
    main()
