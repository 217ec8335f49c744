"""The arithmetic of a training step: how many logits at once, how many operations."""

from __future__ import annotations

import torch

from openglm.config import ModelConfig
from openglm.model.transformer import Transformer

# Logits are made for so many numbers at a time: small enough to stay near the processor's cache, large enough to keep
# products fast.
_LOGITS_AT_ONCE = {"cpu": 1 << 22, "other": 1 << 26}


def positions_at_once(model: Transformer, device: torch.device) -> int:
    """Positions whose logits are made together."""
    return max(64, _LOGITS_AT_ONCE["cpu" if device.type == "cpu" else "other"] // model.config.vocab_size)


def step_flops(config: ModelConfig, seen: float, tokens: int, trained: int) -> float:
    """Floating-point operations that a step needs, forward and backward; a fused multiply-add counts two.

    Matrices of the blocks: 6 a weight and token. Attention: 12 * layers * heads * head_dim * seen a token, where `seen`
    is the length
    of the row (a mask saves nothing in a dense kernel) or half of it for plain causal rows. Output layer: 6 a weight,
    trained tokens
    alone. Norms, rotation, softmax and recomputation are not counted.
    """
    matrices = config.layers * config.layer_weights
    attention = 12 * config.layers * config.heads * config.head_dim * seen
    logits = next(matrix.size for matrix in config.matrices().values() if matrix.role == "logits")
    return float(tokens * (6 * matrices + attention) + 6 * trained * logits)
