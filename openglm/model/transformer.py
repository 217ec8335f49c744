"""The one transformer of the family. `ModelConfig` chooses norms, residual form, activation, positions, mask and
biases.

Shapes: B batch, T tokens, H hidden, V vocabulary. Parameters are fp32 unless the caller converts them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openglm.config import ModelConfig, require
from openglm.model.adapters import Lora, Prefix, PrefixEncoder
from openglm.model.attention import Attention, Cache, RMSNorm
from openglm.model.positions import Rotary, describe


def make_norm(config: ModelConfig) -> nn.Module:
    kind = nn.LayerNorm if config.norm == "layernorm" else RMSNorm
    return kind(config.hidden, config.norm_eps)


def make_table(rows: int, columns: int) -> nn.Embedding:
    """nn.Embedding, but for what it does on the meta device: to fill nothing with random numbers, torch loads its
    compiler, 70 MB and a second."""
    weight_VH = torch.empty(rows, columns)
    return nn.Embedding.from_pretrained(weight_VH if weight_VH.is_meta else nn.init.normal_(weight_VH), freeze=False)


class FeedForward(nn.Module):
    """GELU (erf or tanh), GeGLU or SwiGLU (arXiv 2002.05202). `gate_proj` is the branch that passes through the
    non-linearity."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        bias = config.bias == "all"
        self.up_proj = nn.Linear(config.hidden, config.ffn_hidden, bias)
        self.gate_proj = nn.Linear(config.hidden, config.ffn_hidden, bias) if config.gated else None
        self.down_proj = nn.Linear(config.ffn_hidden, config.hidden, bias)
        self.activation = config.activation

    def forward(self, x_BTH: Tensor) -> Tensor:
        up = self.up_proj(x_BTH)
        if self.gate_proj is None:
            return self.down_proj(F.gelu(up, approximate="tanh" if self.activation == "gelu_tanh" else "none"))
        gate = self.gate_proj(x_BTH)
        return self.down_proj((F.silu(gate) if self.activation == "swiglu" else F.gelu(gate)) * up)


class Block(nn.Module):
    """Attention and feed-forward, joined by one of three residual forms."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = make_norm(config), Attention(config, layer)
        self.ffn_norm, self.ffn = make_norm(config), FeedForward(config)
        sandwich = config.residual == "sandwich"
        self.attention_post_norm = make_norm(config) if sandwich else nn.Identity()
        self.ffn_post_norm = make_norm(config) if sandwich else nn.Identity()
        # DeepNorm as GLM-130B codes it: the residual leaves the norm's output, so that a layer's norm closes the layer
        # before.
        self.alpha = config.deepnorm_alpha if config.residual == "deepnorm" else 0.0

    def forward(
        self,
        h_BTH: Tensor,
        rotary: Rotary | None,
        angles: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        cache: Cache | None,
    ) -> Tensor:
        x = self.attention_norm(h_BTH)
        out = self.attention_post_norm(self.attention(x, rotary, angles, mask, cache))
        h_BTH = self.alpha * x + out if self.alpha else h_BTH + out
        x = self.ffn_norm(h_BTH)
        out = self.ffn_post_norm(self.ffn(x))
        return self.alpha * x + out if self.alpha else h_BTH + out


class Transformer(nn.Module):
    """Token ids and positions in, hidden states out; `project` turns those into logits.

    Sources: GLM arXiv 2103.10360, GLM-130B arXiv 2210.02414, ChatGLM arXiv 2406.12793.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = make_table(config.vocab_size, config.hidden)
        learned = config.positions == "learned_2d"
        self.position_embedding = make_table(config.max_positions + 1, config.hidden) if learned else None
        self.block_position_embedding = make_table(config.max_positions + 1, config.hidden) if learned else None
        self.rotary = None if learned else Rotary(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.final_norm = make_norm(config)
        self.head = None if config.tied else nn.Linear(config.hidden, config.vocab_size, bias=False)
        self.score = nn.Linear(config.hidden, 1) if config.score else None
        self.prefix: Prefix | None = None
        self.prefix_encoder: PrefixEncoder | None = None  # of a prefix that is being trained
        self.lora: Lora | None = None
        self.activation_checkpointing = False
        self.embedding_gradient_shrink = config.embedding_gradient_shrink  # training may let it rise

    @property
    def device(self) -> torch.device:
        return self.final_norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the activations; matrices may be stored in fewer bits."""
        return self.final_norm.weight.dtype

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Random weights; see `initialize_weight`."""
        for name, weight in self.named_parameters():
            initialize_weight(self.config, name, weight, generator)

    def embed(self, ids_BT: Tensor, positions_B2T: Tensor) -> Tensor:
        """What enters the first block, [B, T, H]."""
        h = self.embedding(ids_BT)
        shrink = self.embedding_gradient_shrink
        if shrink < 1 and h.requires_grad:
            h = h * shrink + h.detach() * (1 - shrink)
        if self.position_embedding is not None and self.block_position_embedding is not None:
            h = h + self.position_embedding(positions_B2T[:, 0]) + self.block_position_embedding(positions_B2T[:, 1])
        return h

    def forward(
        self, ids_BT: Tensor, positions_B2T: Tensor, mask: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Hidden states [B, T, H] after the final norm.

        mask: bool [B, 1, T, S], True = may look; None: each token sees its past. With a cache, `ids_BT` are the new
        tokens only; without one, a prefix of the model is seen by all.
        """
        h, angles = (
            self.embed(ids_BT, positions_B2T),
            None if self.rotary is None else self.rotary.angles(positions_B2T),
        )
        prefix = self.prefix if self.prefix_encoder is None else self.prefix_encoder()
        if cache is None and prefix is not None:
            past = torch.ones(1, 1, *ids_BT.shape[1:] * 2, dtype=torch.bool, device=h.device).tril()
            cache, mask = prefix, prefix.widen(past if mask is None else mask)
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                h = checkpoint(block, h, self.rotary, angles, mask, cache, use_reentrant=False)
            else:
                h = block(h, self.rotary, angles, mask, cache)
        if cache is not None:
            cache.advance(ids_BT.shape[1])
        return self.final_norm(h)

    def project(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., H]."""
        return F.linear(hidden, self.embedding.weight.to(hidden.dtype)) if self.head is None else self.head(hidden)

    @torch.no_grad()
    def logits(self, input_ids: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Logits [B, T, V] of whole sequences; positions and mask follow from the ids by the family's rule.

        padding_mask: True = real token. Raises ValueError for ids outside the vocabulary and for sequences longer than
        the model's context.
        """
        check_ids(input_ids, self.config)
        positions, mask = describe(input_ids, padding_mask, self.config)
        return self.project(self(input_ids, positions, mask)).float()


@torch.no_grad()
def initialize_weight(config: ModelConfig, name: str, weight: Tensor, generator: torch.Generator | None = None) -> None:
    """Fill one parameter. N(0, .02), output projections smaller by sqrt(2 layers) (GLM); with DeepNorm, Xavier with
    gain (2 layers)^-1/2 for the value, output and feed-forward matrices and 1 for query and key (arXiv 2203.00555, as
    GLM-130B). Norms start at 1, biases at 0."""
    depth, leaf = math.sqrt(2 * config.layers), name.split(".")[-2]
    if name == "score.weight":  # rewards begin with variance 1 at most (arXiv 2403.17031)
        nn.init.normal_(weight, 0.0, 1 / math.sqrt(config.hidden + 1), generator)
    elif weight.dim() < 2:
        nn.init.constant_(weight, float(name.endswith("weight")))
    elif config.residual == "deepnorm" and leaf.endswith("_proj"):
        nn.init.xavier_normal_(weight, 1.0 if leaf in ("q_proj", "k_proj") else 1 / depth, generator)
    else:
        nn.init.normal_(weight, 0.0, 0.02 / depth if leaf in ("o_proj", "down_proj") else 0.02, generator)


def check_ids(input_ids: Tensor, config: ModelConfig) -> None:
    """One-line errors for what would otherwise be an index error deep inside."""
    require(
        input_ids.dim() == 2 and input_ids.shape[1] > 0,
        "input_ids",
        tuple(input_ids.shape),
        "must be [batch, tokens] with at least one token",
    )
    require(
        input_ids.shape[1] <= config.max_positions,
        "input_ids",
        f"{input_ids.shape[1]} tokens",
        f"longer than the model's context of {config.max_positions}; shorten the text",
    )
    low, high = int(input_ids.min()), int(input_ids.max())
    require(
        low >= 0 and high < config.vocab_size,
        "input_ids",
        low if low < 0 else high,
        f"outside the vocabulary of {config.vocab_size} tokens",
    )
