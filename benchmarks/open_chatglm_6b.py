"""Time and memory of opening and using ChatGLM-6B's full shape in int4: `python benchmarks/open_chatglm_6b.py --folder /big/disk`.

Writes the published layout with random weights (eight fp16 shards of PyTorch's format and their index, 13.4 GB, one shard in memory at a
time), then opens it in a fresh process, once with the files out of the page cache and once with them in it, lets it read a prompt of 512 tokens and write 64, and
prints JSON. The goals are 60 s and 6 GB to open it, and 4.3 GB at most. What the model says is not looked at: the tests do that on small shapes. The folder is deleted at
the end unless --keep is given.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from openglm.checkpoints.layouts import LAYOUTS, empty_network, own_modules
from openglm.config import ModelConfig
from openglm.presets import model_preset
from openglm.runtime import progress

SHARDS = 8
OPEN = """
import json, resource, sys, time
start = time.perf_counter()
import openglm
imported = time.perf_counter()
model = openglm.load_model(sys.argv[1], device="cpu", quantize="int4")
done = time.perf_counter()
used = resource.getrusage(resource.RUSAGE_SELF)
from openglm.cli.bench import one_round, weight_bytes
from openglm.config import EngineConfig
from openglm.engine.engine import Engine
weights = weight_bytes(model)[0]
engine = Engine(model, EngineConfig(kv_tokens=608, max_sequences=1, keep_weights=False))
begun = time.perf_counter()
first, _, decode = one_round(engine, 1, 512, 64, seed=1)
found = {"import_seconds": imported - start, "open_seconds": done - imported, "open_cpu_seconds": used.ru_utime + used.ru_stime, "open_peak_rss_bytes": used.ru_maxrss * 1024}
whole = {"first_token_seconds_from_start": begun + first - start, "decode_tokens_per_s": decode, "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
print(json.dumps({**found, **whole, "weight_bytes": weights}))
"""


class Pool:
    """Random numbers of a weight's size, of which every tensor is a piece."""

    def __init__(self) -> None:
        self.numbers = torch.randn(1 << 24, generator=torch.Generator().manual_seed(1)) * 0.02

    def piece(self, shape: tuple[int, ...], start: int = 0) -> Tensor:
        size = torch.Size(shape).numel()
        return self.numbers.roll(-start).repeat(size // len(self.numbers) + 1)[:size].view(shape)


def tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the published checkpoint."""
    ours = own_modules(empty_network(config))
    for foreign, targets in LAYOUTS["glm-130b"].table(config).items():
        targets = [path for path in targets if path in ours]
        for leaf in ours[targets[0]]:
            rows, *columns = ours[targets[0]][leaf]
            yield f"{foreign}.{leaf}", (rows * len(targets), *columns)


def write(folder: Path, config: ModelConfig) -> None:
    shapes = list(tensors(config))
    total, written, shard, file_of = sum(torch.Size(shape).numel() for _, shape in shapes), 0, {}, {}
    pool = Pool()
    folder.mkdir()
    with progress("writing", SHARDS, "shards") as advance:
        for number, (name, shape) in enumerate(shapes):
            shard[name] = pool.piece(shape, number * 7919).half()
            written += shard[name].numel()
            last = number == len(shapes) - 1
            if last or written >= total * (len(set(file_of.values())) + 1) / SHARDS:
                file = f"pytorch_model-{len(set(file_of.values())) + 1:05}-of-{SHARDS:05}.bin"
                torch.save(shard, folder / file)
                file_of |= dict.fromkeys(shard, file)
                shard = {}
                advance()
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {"total_size": 2 * total}, "weight_map": file_of})
    )
    t = config.tokens
    description = {
        "model_type": "chatglm", "num_layers": config.layers, "hidden_size": config.hidden, "num_attention_heads": config.heads, "inner_hidden_size": config.ffn_hidden,
        "vocab_size": config.vocab_size, "max_sequence_length": config.max_positions, "bos_token_id": t.sop, "eos_token_id": t.eop, "mask_token_id": t.mask,
        "gmask_token_id": t.gmask, "pad_token_id": t.pad, "layernorm_epsilon": config.norm_eps, "position_encoding_2d": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(description))


def forget(folder: Path) -> None:
    """Take the files out of the page cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def open_in_a_fresh_process(folder: Path) -> dict[str, float]:
    return json.loads(
        subprocess.run([sys.executable, "-c", OPEN, str(folder)], check=True, capture_output=True, text=True).stdout
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, required=True, help="where the checkpoint is written, in a new folder of its own"
    )
    parser.add_argument("--layers", type=int, default=28, help="fewer for a trial")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint there")
    args = parser.parse_args()
    config, folder = model_preset("chatglm-6b", layers=args.layers), args.folder / "chatglm-6b-random"
    free, needed = shutil.disk_usage(args.folder).free, 2 * config.parameters
    if free < 1.1 * needed:
        sys.exit(
            f"--folder {args.folder}: {free / 1e9:.1f} GB free where {needed / 1e9:.1f} GB are written; name another disk"
        )
    try:
        if not folder.exists():
            write(folder, config)
        forget(folder)
        results = {
            "parameters": config.parameters,
            "threads": torch.get_num_threads(),
            "cold": open_in_a_fresh_process(folder),
            "warm": open_in_a_fresh_process(folder),
        }
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
