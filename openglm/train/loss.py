"""Cross entropy of the trained positions alone, and the arithmetic of a training step.

Shapes: B rows, T tokens, N trained positions, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openglm.config import ModelConfig
from openglm.model.positions import training_mask
from openglm.model.transformer import Transformer

# Logits are made for so many numbers at a time: small enough to stay near the processor's cache, large enough to keep products fast.
_LOGITS_AT_ONCE = {"cpu": 1 << 22, "other": 1 << 26}


def selected_hidden(forward: Callable[..., Tensor], batch: dict[str, np.ndarray], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(hidden states [N, H], targets [N], weights [N]) of the positions that carry loss; the others never reach the output layer."""
    def place(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    block_position = place(batch["block_position"])
    positions_B2T = torch.stack([place(batch["position"]), block_position], dim=1)
    # A row that is one text read forward needs no mask, and the kernel then skips the half that nobody sees.
    causal = not batch["segment"].any() and bool(batch["block_position"][:, 1:].all())
    mask = None if causal else training_mask(place(batch["segment"]), block_position)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        hidden = forward(place(batch["tokens"]), positions_B2T, mask)
    weights = batch["loss_mask"].reshape(-1)
    trained = weights.nonzero()[0]  # found on the host: no wait for the device
    return hidden.flatten(0, 1).index_select(0, place(trained)), place(batch["targets"].reshape(-1)[trained]), place(weights[trained])


def _pieces(model: Transformer, device: torch.device) -> int:
    return max(64, _LOGITS_AT_ONCE["cpu" if device.type == "cpu" else "other"] // model.config.vocab_size)


def _cross_entropy(model: Transformer, hidden_NH: Tensor, targets_N: Tensor, weights_N: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum of weighted losses in nats; the softmax is in fp32."""
    with torch.autocast(hidden_NH.device.type, dtype, enabled=dtype != torch.float32):
        logits_NV = model.project(hidden_NH)
    return (F.cross_entropy(logits_NV.float(), targets_N, reduction="none") * weights_N).sum()


def accumulate_gradient(forward: Callable[..., Tensor], model: Transformer, batch: dict[str, np.ndarray], total: float, dtype: torch.dtype) -> Tensor:
    """Add the gradient of (sum of losses of this batch) / total to the parameters; returns the sum of losses.

    `total` is the number of trained tokens of the whole optimizer step, so the step does not depend on how it is cut into batches.
    The output layer runs forward and backward piece by piece: logits of all positions never exist at once.
    """
    selected_NH, targets, weights = selected_hidden(forward, batch, model.device, dtype)
    size = _pieces(model, model.device)
    loss, gradients = torch.zeros((), device=model.device), []
    for hidden, target, weight in zip(selected_NH.split(size), targets.split(size), weights.split(size), strict=True):
        leaf = hidden.detach().requires_grad_()
        piece = _cross_entropy(model, leaf, target, weight, dtype)
        (piece / total).backward()
        gradients.append(leaf.grad)
        loss += piece.detach()
    if gradients:
        selected_NH.backward(torch.cat(gradients))
    return loss


@torch.no_grad()
def evaluate_batch(model: Transformer, batch: dict[str, np.ndarray], dtype: torch.dtype) -> Tensor:
    """Sum of losses of a batch, no gradient."""
    selected_NH, targets, weights = selected_hidden(model, batch, model.device, dtype)
    size = _pieces(model, model.device)
    loss = torch.zeros((), device=model.device)
    for hidden, target, weight in zip(selected_NH.split(size), targets.split(size), weights.split(size), strict=True):
        loss += _cross_entropy(model, hidden, target, weight, dtype)
    return loss


def step_flops(config: ModelConfig, seen: float, tokens: int, trained: int) -> float:
    """Floating-point operations that a step needs, forward and backward; a fused multiply-add counts two.

    Matrices of the blocks: 6 a weight and token. Attention: 12 * layers * heads * head_dim * seen a token, where `seen` is the length
    of the row (a mask saves nothing in a dense kernel) or half of it for plain causal rows. Output layer: 6 a weight, trained tokens
    alone. Norms, rotation, softmax and recomputation are not counted.
    """
    query, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    ffn = config.hidden * config.ffn_hidden * (3 if config.gated else 2)
    matrices = config.layers * (config.hidden * (2 * query + 2 * kv) + ffn)
    attention = 12 * config.layers * query * seen
    return float(tokens * (6 * matrices + attention) + 6 * trained * config.hidden * config.vocab_size)
