"""Tuning an adapter: peak memory over int4 weights, and speed beside `peft` on `transformers`.

    python benchmarks/adapters.py memory [--preset chatglm-6b] [--seq-len 128]
    python benchmarks/adapters.py speed [--preset glm-4-0.4b] [--layers N] [--rows 4] [--seq-len 256] [--rounds 5] [--dtype bfloat16]

memory: random int4 weights of the shape, one row, one step; a P-Tuning v2 prefix of 128 tokens, then LoRA of rank 8 on queries, keys
and values, each in a process of its own, whose largest resident memory is printed; with and without recomputation of activations.
speed: LoRA of the same rank on the same matrices, causal rows with a loss at every position; all take turns, medians are compared.
The peer runs as it comes, and with the switch for products in float32 that our training sets; in bfloat16 under autocast, as ours
does, and with its weights stored so. --processor-time: the process's own time, on one thread, where the machine does other work.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from measure import in_turn, ratio, seconds

from openglm.checkpoints.adapters import new_encoder
from openglm.cli.bench import random_model
from openglm.config import LoraConfig, ModelConfig, OptimizerConfig, PrefixConfig
from openglm.model.adapters import Lora
from openglm.model.transformer import Transformer
from openglm.parallel.apply import named_parameters
from openglm.parallel.processes import Processes
from openglm.presets import model_preset
from openglm.runtime import keep_freed_memory, multiply_by_onednn
from openglm.train.forward_backward import WholeForwardBackward
from openglm.train.optimizer import Optimizers

GIB = 1 << 30


def causal_rows(rows: int, seq_len: int, vocab: int) -> dict[str, np.ndarray]:
    """Rows in which each token sees its past, and all are trained."""
    text = np.random.default_rng(0).integers(10, vocab, (rows, seq_len + 1))
    position = np.tile(np.arange(seq_len), (rows, 1))
    shifted = {"tokens": text[:, :-1].copy(), "targets": text[:, 1:].copy()}
    trained = np.ones((rows, seq_len), np.float32)
    return {
        **shifted,
        "loss_mask": trained,
        "position": position,
        "block_position": position + 1,
        "segment": np.zeros_like(position),
    }


def our_step(
    model: Transformer, kind: str, batch: dict, lora: LoraConfig, dtype: torch.dtype = torch.float32
) -> Callable[[], None]:
    if kind == "lora":
        Lora.fresh(model.config, lora, 1).attach(model)
    else:
        model.prefix_encoder = new_encoder(model.config, PrefixConfig())
    alone = Processes(torch.device("cpu"))
    optimizers = Optimizers(named_parameters([model.train()]), OptimizerConfig(), dtype, alone)
    passes = WholeForwardBackward(model, alone, dtype, len(batch["tokens"]))

    def step() -> None:
        passes.gradient(batch, float(batch["tokens"].size))
        optimizers.clip()
        optimizers.step(1e-3)

    return step


def peer_model(config: ModelConfig) -> torch.nn.Module:
    """The shape in `transformers`, with random weights in fp32."""
    from transformers import GlmConfig, GlmForCausalLM

    torch.manual_seed(0)
    return GlmForCausalLM(GlmConfig(
        vocab_size=config.vocab_size, hidden_size=config.hidden, intermediate_size=config.ffn_hidden, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, num_key_value_heads=config.kv_heads, head_dim=config.head_dim, attention_bias=config.bias == "qkv",
        tie_word_embeddings=config.tied, max_position_embeddings=config.max_positions, pad_token_id=0, eos_token_id=5,
    ))  # fmt: skip


def peer_step(
    config: ModelConfig, batch: dict, lora: LoraConfig, stored: torch.dtype, computed: torch.dtype
) -> Callable[[], None]:
    import peft

    base = peer_model(config).to(stored)
    options = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets))
    model = peft.get_peft_model(base, options).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    ids = torch.from_numpy(batch["tokens"])

    def step() -> None:
        with torch.autocast("cpu", computed, enabled=computed != stored):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure_memory(kind: str, preset: str, seq_len: int, threads: int, recompute: bool) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    model = random_model(model_preset(preset), "int4")
    model.activation_checkpointing = recompute
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    step = our_step(model, kind, causal_rows(1, seq_len, 4096), LoraConfig())
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    trained = sum(p.numel() for _, p in named_parameters([model]))
    row = {"kind": kind, "trained": trained, "loaded_GiB": round(held / GIB, 2), "peak_GiB": round(peak / GIB, 2)}
    print(json.dumps({**row, "recompute": recompute, "seconds": round(seconds, 1)}), flush=True)


def measure_speed(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    preset, seq_len, dtype = args.preset or "glm-4-0.4b", args.seq_len or 256, getattr(torch, args.dtype)
    config = model_preset(preset)
    config = dataclasses.replace(config, layers=args.layers or config.layers)
    batch, lora = causal_rows(args.rows, seq_len, 4096), LoraConfig()
    ours = our_step(random_model(config, None), "lora", batch, lora, dtype)
    peer = peer_step(config, batch, lora, torch.float32, dtype)
    switched = ("ours", "peft, the same products") if dtype == torch.float32 else ("ours",)
    steps = {"ours": ours, "peft": peer}
    if dtype == torch.float32:
        steps["peft, the same products"] = peer
    else:
        steps["peft, weights so too"] = peer_step(config, batch, lora, dtype, dtype)
    clock = time.process_time if args.processor_time else time.perf_counter
    switch = torch.backends.mkldnn.matmul
    as_it_comes = switch.fp32_precision

    def turn(name: str, _: int) -> float:
        switch.fp32_precision = as_it_comes
        if name in switched:
            multiply_by_onednn()
        return args.rows * seq_len / seconds(steps[name], clock)

    found = in_turn({name: partial(turn, name) for name in steps}, args.rounds + 1)
    found = {name: speeds[1:] for name, speeds in found.items()}  # the first round wakes everything
    speed = {name: statistics.median(speeds) for name, speeds in found.items()}
    ratios = {f"ratio to {name}": ratio(found["ours"], found[name]) for name in steps if name != "ours"}
    print(json.dumps({"preset": preset, "layers": config.layers, "dtype": args.dtype, **speed, **ratios}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "speed"])
    parser.add_argument("--preset", default="")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=0, help="speed: fewer layers than the preset has")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="speed: compute type")
    parser.add_argument("--processor-time", action="store_true", help="speed: with --threads 1")
    a = parser.parse_args()
    if a.what == "speed":
        measure_speed(a)
        return
    for kind in ("prefix", "lora"):
        for recompute in (False, True):
            options = (kind, a.preset or "chatglm-6b", a.seq_len or 128, a.threads, recompute)
            process = multiprocessing.get_context("spawn").Process(target=measure_memory, args=options)
            process.start()
            process.join()


if __name__ == "__main__":
    main()
