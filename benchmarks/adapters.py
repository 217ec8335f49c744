"""Tuning an adapter: peak memory over int4 weights, and speed beside `peft` on `transformers`.

    python benchmarks/adapters.py memory [--preset chatglm-6b] [--seq-len 128]
    python benchmarks/adapters.py speed [--preset glm-4-0.4b] [--rows 4] [--seq-len 256] [--rounds 5] [--threads 2]

memory: random int4 weights of the shape, one row, one step; a P-Tuning v2 prefix of 128 tokens, then LoRA of rank 8 on queries, keys
and values, each in a process of its own, whose largest resident memory is printed; with and without recomputation of activations.
speed: LoRA of the same rank on the same matrices, fp32, causal rows with a loss at every position; both take turns, medians are compared.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from openglm.checkpoints.adapters import new_encoder
from openglm.cli.bench import random_model
from openglm.config import LoraConfig, ModelConfig, OptimizerConfig, PrefixConfig
from openglm.model.adapters import Lora
from openglm.model.transformer import Transformer
from openglm.parallel.apply import named_parameters
from openglm.parallel.processes import Processes
from openglm.presets import model_preset
from openglm.runtime import keep_freed_memory
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


def our_step(model: Transformer, kind: str, batch: dict, lora: LoraConfig) -> Callable[[], None]:
    if kind == "lora":
        Lora.fresh(model.config, lora, 1).attach(model)
    else:
        model.prefix_encoder = new_encoder(model.config, PrefixConfig())
    alone = Processes(torch.device("cpu"))
    optimizers = Optimizers(named_parameters([model.train()]), OptimizerConfig(), torch.float32, alone)
    passes = WholeForwardBackward(model, alone, torch.float32, len(batch["tokens"]))

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


def peer_step(preset: str, batch: dict, lora: LoraConfig) -> Callable[[], None]:
    import peft

    base = peer_model(model_preset(preset))
    options = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets))
    model = peft.get_peft_model(base, options).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    ids = torch.from_numpy(batch["tokens"])

    def step() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
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


def measure_speed(preset: str, rows: int, seq_len: int, rounds: int, threads: int) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    batch, lora = causal_rows(rows, seq_len, 4096), LoraConfig()
    steps = {
        "ours": our_step(random_model(model_preset(preset), None), "lora", batch, lora),
        "peft": peer_step(preset, batch, lora),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):  # the first wakes everything
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    speed = {name: rows * seq_len / statistics.median(seconds[1:]) for name, seconds in times.items()}
    print(json.dumps({"preset": preset, **speed, "ratio": speed["ours"] / speed["peft"]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "speed"])
    parser.add_argument("--preset", default="")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    if a.what == "speed":
        measure_speed(a.preset or "glm-4-0.4b", a.rows, a.seq_len or 256, a.rounds, a.threads)
        return
    for kind in ("prefix", "lora"):
        for recompute in (False, True):
            options = (kind, a.preset or "chatglm-6b", a.seq_len or 128, a.threads, recompute)
            process = multiprocessing.get_context("spawn").Process(target=measure_memory, args=options)
            process.start()
            process.join()


if __name__ == "__main__":
    main()
