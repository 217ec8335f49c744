"""What a checkpoint is and what it needs, from its configuration and the headers of its files. No weights are read."""

import dataclasses
from typing import Any

from openglm.checkpoints.load import GROUP, Checkpoint
from openglm.config import ModelConfig

TOKENS, LORA_RANK, VIRTUAL_TOKENS = 512, 8, 128  # a row of training text; usual sizes of the two ways of light tuning
_SHAPE = (
    "parameters",
    "layers",
    "hidden",
    "heads",
    "kv_heads",
    "head_dim",
    "ffn_hidden",
    "vocab_size",
    "max_positions",
    "positions",
    "mask",
    "residual",
    "tied",
)
FORMULAS = {
    "fp16": "2 bytes a weight",
    "int8, int4": f"1 or 1/2 byte a weight of a matrix, 1 of the one that makes the logits, and 2 for every {GROUP} of them; "
    "2 a weight of norms and biases; on a CPU a table that is only looked up stays in its file",
    "kv_cache_per_token": "2 * layers * kv_heads * head_dim numbers of 2 bytes, to be added for every token of context",
    "activations": f"4 bytes * {TOKENS} tokens * (layers * hidden + 8 * hidden + 4 * ffn_hidden + 2 * vocab_size), blocks recomputed",
    "full": "16 bytes a weight (weight, gradient and two moments in fp32) + activations",
    "lora": f"2 bytes a weight + 16 bytes a trained one (rank {LORA_RANK} on queries, keys and values) + activations",
    "p-tuning": f"2 bytes a weight + 16 bytes a trained one ({VIRTUAL_TOKENS} virtual tokens, keys and values of every layer) + activations",
}


def report(checkpoint: Checkpoint) -> dict[str, Any]:
    """A table for people and for `--json`."""
    source, config = checkpoint.source, checkpoint.config
    files = {
        path.relative_to(checkpoint.folder).as_posix(): path.stat().st_size
        for rank in source.ranks
        for path in rank.files
    }
    return {
        "family": checkpoint.family,
        "weights": f"int{source.bits}" if source.bits else str(source.dtype).removeprefix("torch."),
        "shards": len(source.ranks),
        **{name: getattr(config, name) for name in _SHAPE},
        "tokens": dataclasses.asdict(config.tokens),
        "files": files,
        "bytes": sum(files.values()),
        "memory": memory(config),
        "formulas": FORMULAS,
    }


def memory(config: ModelConfig) -> dict[str, Any]:
    """Bytes for inference by weight type, for a token of context, and for each way of tuning with one row at a time
    (FORMULAS).
    """
    total, pairs = config.parameters, 2 * config.layers * config.kv_heads * config.head_dim
    matrices = config.matrices().values()
    tuned = [matrix for matrix in config.layer_matrices() if matrix.reads == "attention"]  # queries, keys and values
    lora = config.layers * LORA_RANK * sum(matrix.rows + matrix.columns for matrix in tuned)
    activations = 4 * TOKENS * ((config.layers + 8) * config.hidden + 4 * config.ffn_hidden + 2 * config.vocab_size)
    coded = sum(matrix.size for matrix in matrices if matrix.quantized_bits(8))
    whole = 2 * coded // GROUP + 2 * (total - coded)
    codes = {f"int{bits}": sum(m.size * m.quantized_bits(bits) for m in matrices) // 8 + whole for bits in (8, 4)}
    tuning = {"full": 16 * total, "lora": 2 * total + 16 * lora, "p-tuning": 2 * total + 16 * VIRTUAL_TOKENS * pairs}
    return {
        "inference": {"fp16": 2 * total, **codes},
        "kv_cache_per_token": 2 * pairs,
        "tuning": {way: size + activations for way, size in tuning.items()},
    }
