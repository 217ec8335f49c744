"""The arithmetic of a training step: how many logits at once, how many operations."""

import torch

from openglm.config import ModelConfig

# Logits are made for so many numbers at a time: small enough to stay near the processor's cache, large enough to keep
# products fast.
_LOGITS_AT_ONCE = {"cpu": 1 << 23, "other": 1 << 26}


def positions_at_once(vocabulary: int, device: torch.device) -> int:
    """Positions whose logits are made together."""
    return max(64, _LOGITS_AT_ONCE["cpu" if device.type == "cpu" else "other"] // vocabulary)


def step_flops(config: ModelConfig, seen: float, tokens: int, trained: int, frozen: bool = False) -> float:
    """Floating-point operations that a step needs, forward and backward; a fused multiply-add counts two.

    Matrices of the blocks: 6 a weight and token. Attention: 12 * layers * heads * head_dim * seen a token, where `seen`
    is the length
    of the row (a mask saves nothing in a dense kernel) or half of it for plain causal rows. Output layer: 6 a weight,
    trained tokens
    alone. Weights that are frozen have no gradient: 4 in place of 6. Norms, rotation, softmax and recomputation are not
    counted.
    """
    each = 4 if frozen else 6
    matrices = config.layers * config.layer_weights
    attention = 12 * config.layers * config.heads * config.head_dim * seen
    logits = next(matrix.size for matrix in config.matrices().values() if matrix.role == "logits")
    return float(tokens * (each * matrices + attention) + each * trained * logits)
