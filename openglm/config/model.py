"""Shape and options of the network, and the ids of its special tokens."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Literal

from openglm.config.checks import Count, check_fields, require
from openglm.config.matrices import Matrix

SPAN_GAP = 16
"""positions that a blank leaves for its span where span_positions is `gapped`: more than the words of most blanks"""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that text can never produce; -1 where a family lacks one."""

    pad: int = -1
    """fills short rows"""
    mask: int = -1
    """[MASK]: a short span is missing here"""
    gmask: int = -1
    """[gMASK]: a long span is missing here, up to the end of the text"""
    smask: int = -1
    """[sMASK]: whole sentences are missing here"""
    sop: int = -1
    """<sop>: start of a generated piece"""
    eop: int = -1
    """<eop>: end of a generated piece"""
    stop: tuple[int, ...] = ()
    """ids that end a generated answer"""


@dataclass(frozen=True)
class Yarn:
    """Rotary frequencies for a context longer than the one that was trained on (YaRN, arXiv 2309.00071)."""

    factor: float = 1.0
    """how many times longer the context is; 1: frequencies stay as they were trained"""
    original_positions: int = 0
    """the longest sequence in training"""
    beta_fast: float = 32.0
    """frequencies with more turns than this in the trained context are kept"""
    beta_slow: float = 1.0
    """frequencies with fewer turns than this are divided by the factor; those between are mixed"""
    attention_factor: float = 0.0
    """what turned queries and keys are multiplied by; 0: 0.1 ln(factor) + 1"""
    truncate: bool = True
    """the range that is mixed begins and ends at whole frequencies"""

    def __post_init__(self) -> None:
        require(1 <= self.factor <= 1000, "model.yarn.factor", self.factor, "must lie in [1, 1000]")
        if self.attention_factor == 0:
            object.__setattr__(self, "attention_factor", 0.1 * math.log(self.factor) + 1)
        for name, fits, remedy in (
            ("original_positions", self.factor == 1 or self.original_positions > 0, "must be the context of training"),
            ("attention_factor", 0 < self.attention_factor < 100, "must lie in (0, 100); 0 takes the usual one"),
            (
                "beta_fast",
                0 < self.beta_slow < self.beta_fast,
                f"must be above model.yarn.beta_slow ({self.beta_slow})",
            ),
        ):
            require(fits, f"model.yarn.{name}", getattr(self, name), remedy)


_AS_TRAINED = Yarn()


@dataclass(frozen=True)
class ModelConfig:
    """Shape and options of the network, the same for all of the family from GLM-10B to GLM-4-0414
    (docs/architecture.md).
    """

    vocab_size: Count
    """rows of the embedding table"""
    layers: Count
    """transformer blocks"""
    hidden: Count
    """width of the residual stream"""
    heads: Count
    """query heads"""
    ffn_hidden: Count
    """inner width of the feed-forward network (of one branch where it is gated)"""
    kv_heads: int = 0
    """key/value heads shared by groups of query heads; 0: as many as heads"""
    head_dim: int = 0
    """width of one head; 0: hidden / heads"""
    max_positions: Count = 2048
    """longest sequence"""
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    """normalisation"""
    norm_eps: float = 1e-5
    """added to the variance under the root"""
    residual: Literal["pre", "deepnorm", "sandwich"] = "pre"
    """pre: h + f(norm(h)); deepnorm: alpha*x + f(x) with x = norm(h); sandwich: h + norm(f(norm(h)))"""
    deepnorm_alpha: float = 0.0
    """residual weight of deepnorm; 0: sqrt(2 * layers)"""
    activation: Literal["gelu", "gelu_tanh", "geglu", "swiglu"] = "swiglu"
    """feed-forward activation; geglu is x1*gelu(x2), swiglu is silu(x1)*x2"""
    positions: Literal["learned_2d", "rope", "rope_2d", "rope_half"] = "rope"
    """learned_2d: two added tables; rope: whole head, in halves; rope_2d: half a head by position, half by block
    position; rope_half: first part of the head (rotary_factor), interleaved pairs
    """
    rotary_factor: float = 0.5
    """share of a head that rope_half turns (GLM-Edge: 1)"""
    rope_theta: float = 10000.0
    """base of the rotary frequencies"""
    yarn: Yarn = _AS_TRAINED
    """a context beyond the one that was trained on"""
    rope_fp16_frequencies: bool = False
    """round the rotary frequencies to half precision, as the published ChatGLM-6B and GLM-130B do"""
    mask: Literal["prefix", "causal"] = "prefix"
    """prefix: tokens before <sop> see each other both ways; causal: only the past"""
    span_positions: Literal["running", "pinned", "pinned_mask", "pinned_late", "gapped"] = "pinned_mask"
    """from <sop> on, positions run on, stay at the mask's, stay only for [MASK] and [sMASK] (GLM-130B), or for [gMASK]
    only after <sop> (first ChatGLM-6B); gapped: [MASK] leaves a gap of positions and its span runs on in there"""
    bias: Literal["all", "qkv", "none"] = "none"
    """which linear layers carry a bias (the output layer never does)"""
    tied: bool = True
    """the output layer is the embedding table"""
    score: bool = False
    """a linear layer turns a token's last hidden state into a number: reward models, and the values of PPO"""
    qk_norm: bool = False
    """RMSNorm on queries and keys, head by head (GLM-4.5)"""
    qk_layer_scaling: bool = False
    """scale scores down by the layer's number and up again in fp32 (GLM-130B)"""
    embedding_gradient_shrink: float = 1.0
    """share of the gradient that reaches the embedding table through the input (GLM-130B: 0.1); 1: all of it"""
    tokens: SpecialTokens = field(default_factory=SpecialTokens)
    """ids of the special tokens"""

    def __post_init__(self) -> None:
        check_fields(self, "model.")
        if self.kv_heads == 0:
            object.__setattr__(self, "kv_heads", self.heads)
        if self.head_dim == 0:
            require(
                self.hidden % self.heads == 0,
                "model.hidden",
                self.hidden,
                f"must be a multiple of model.heads ({self.heads}) or set model.head_dim",
            )
            object.__setattr__(self, "head_dim", self.hidden // self.heads)
        if self.residual == "deepnorm" and self.deepnorm_alpha == 0.0:
            object.__setattr__(self, "deepnorm_alpha", math.sqrt(2 * self.layers))
        require(
            self.heads % self.kv_heads == 0, "model.kv_heads", self.kv_heads, f"must divide model.heads ({self.heads})"
        )
        step = 4 if self.positions == "rope_2d" else 2
        require(
            self.head_dim % step == 0,
            "model.head_dim",
            self.head_dim,
            f"must be a multiple of {step} for {self.positions} positions",
        )
        require(self.rope_theta > 1, "model.rope_theta", self.rope_theta, "must be greater than 1")
        require(
            0 < self.rotary_factor <= 1 and self.turned > 0 and self.turned % 2 == 0,
            "model.rotary_factor",
            self.rotary_factor,
            f"must lie in (0, 1] and take an even part of a head of {self.head_dim}",
        )
        require(
            self.span_positions != "gapped" or self.mask == "causal",
            "model.span_positions",
            self.span_positions,
            "is for models that read forward: set model.mask to causal",
        )
        require(
            0 < self.embedding_gradient_shrink <= 1,
            "model.embedding_gradient_shrink",
            self.embedding_gradient_shrink,
            "must lie in (0, 1]",
        )

    @property
    def fills_blanks(self) -> bool:
        """Whether the model was trained to write into [MASK], with what follows it in view."""
        return self.mask == "prefix" or self.span_positions == "gapped"

    @property
    def turned(self) -> int:
        """Dimensions of a head that the rotary embedding turns."""
        return int(self.head_dim * self.rotary_factor) if self.positions == "rope_half" else self.head_dim

    @property
    def gated(self) -> bool:
        return self.activation in ("geglu", "swiglu")

    def layer_matrices(self) -> tuple[Matrix, ...]:
        """Of one layer; names are those inside the layer."""
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        biased, every = self.bias != "none", self.bias == "all"
        found = [
            Matrix("attention.q_proj", query, self.hidden, "layer", "attention", "rows", biased),
            Matrix("attention.k_proj", kv, self.hidden, "layer", "attention", "rows", biased),
            Matrix("attention.v_proj", kv, self.hidden, "layer", "attention", "rows", biased),
            Matrix("attention.o_proj", self.hidden, query, "layer", "attended", "columns", every),
            Matrix("ffn.up_proj", self.ffn_hidden, self.hidden, "layer", "ffn", "rows", every),
        ]
        if self.gated:
            found.append(Matrix("ffn.gate_proj", self.ffn_hidden, self.hidden, "layer", "ffn", "rows", every))
        found.append(Matrix("ffn.down_proj", self.hidden, self.ffn_hidden, "layer", "inner", "columns", every))
        return tuple(found)

    @cache  # noqa: B019 (a configuration is small, and there are few)
    def matrices(self) -> Mapping[str, Matrix]:
        """Every matrix of the network by the name of its module: what is counted, cut or quantised."""
        role: Literal["logits", "lookup"] = "logits" if self.tied else "lookup"
        found = [Matrix("embedding", self.vocab_size, self.hidden, role, "ids", "rows")]
        if self.positions == "learned_2d":
            for name in ("position_embedding", "block_position_embedding"):
                found.append(Matrix(name, self.max_positions + 1, self.hidden, "positions", "ids", "whole"))
        for layer in range(self.layers):
            found += [replace(matrix, name=f"blocks.{layer}.{matrix.name}") for matrix in self.layer_matrices()]
        if not self.tied:
            found.append(Matrix("head", self.vocab_size, self.hidden, "logits", "final", "rows"))
        return MappingProxyType({matrix.name: matrix for matrix in found})

    @property
    def layer_weights(self) -> int:
        """Number of weights in the matrices of one layer."""
        return sum(matrix.size for matrix in self.layer_matrices())

    @property
    def layer_norms(self) -> int:
        """Number of norms around the two halves of a layer."""
        return 4 if self.residual == "sandwich" else 2

    @property
    def parameters(self) -> int:
        """Number of weights of the network, from the shape alone."""
        matrices = sum(matrix.size + matrix.rows * matrix.bias for matrix in self.matrices().values())
        norm = self.hidden * (2 if self.norm == "layernorm" else 1)
        norms = norm * self.layer_norms + 2 * self.head_dim * self.qk_norm
        return matrices + self.layers * norms + norm + (self.hidden + 1) * self.score
