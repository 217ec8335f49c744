"""Everything a user can set, as dataclasses.

The docstring under a field is its help text on the command line; there is no second list of options. Every wrong value is a
`ValueError` that names the option, the value and what would be right. Nothing here imports more than the standard library.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_type_hints

Config = TypeVar("Config")


def require(condition: bool, option: str, value: object, remedy: str) -> None:
    """Raise the one-line error that all of OpenGLM's options share. `remedy` says what would be accepted."""
    if not condition:
        raise ValueError(f"{option} = {value!r}: {remedy}")


def from_dict(cls: type[Config], values: dict[str, Any], where: str = "") -> Config:
    """Build a (nested) config from plain JSON or TOML values; an unknown or missing field is an error that names it."""
    hints, known = get_type_hints(cls), {f.name: f for f in dataclasses.fields(cls)}
    for name in values:
        require(name in known, where + name, values[name], f"not an option; known: {', '.join(sorted(known))}")
    for name, f in known.items():
        optional = f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
        require(name in values or optional, where + name, None, "missing; it has no default")
    built = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            require(isinstance(value, dict), where + name, value, "must be a table of options")
            value = from_dict(hint, value, f"{where}{name}.")
        elif isinstance(value, list):
            value = tuple(value)
        else:
            _check_type(hint, value, where + name)
        built[name] = value
    return cls(**built)


def _check_type(hint: object, value: object, option: str) -> None:
    if hint is bool:
        require(isinstance(value, bool), option, value, "must be true or false")
    elif hint is int:
        require(isinstance(value, int) and not isinstance(value, bool), option, value, "must be a whole number")
    elif hint is float:
        require(isinstance(value, (int, float)) and not isinstance(value, bool), option, value, "must be a number")
    elif hint is str:
        require(isinstance(value, str), option, value, "must be text")


def check_choices(config: object, prefix: str = "") -> None:
    """Hold every `Literal` field of a dataclass to its choices."""
    for name, hint in get_type_hints(type(config)).items():
        if getattr(hint, "__origin__", None) is Literal:
            choices, value = hint.__args__, getattr(config, name)
            require(value in choices, prefix + name, value, f"choose one of {', '.join(map(str, choices))}")


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
class ModelConfig:
    """Shape and options of the network. One set of options covers the family from GLM-10B to GLM-4-0414 (docs/architecture.md)."""

    vocab_size: int
    """rows of the embedding table"""
    layers: int
    """transformer blocks"""
    hidden: int
    """width of the residual stream"""
    heads: int
    """query heads"""
    ffn_hidden: int
    """inner width of the feed-forward network (of one branch where it is gated)"""
    kv_heads: int = 0
    """key/value heads shared by groups of query heads; 0: as many as heads"""
    head_dim: int = 0
    """width of one head; 0: hidden / heads"""
    max_positions: int = 2048
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
    """learned_2d: two added tables; rope: whole head, in halves; rope_2d: half a head by position, half by block position; rope_half: first half of the head, interleaved pairs"""
    rope_theta: float = 10000.0
    """base of the rotary frequencies"""
    rope_fp16_frequencies: bool = False
    """round the rotary frequencies to half precision, as the published ChatGLM-6B and GLM-130B do"""
    mask: Literal["prefix", "causal"] = "prefix"
    """prefix: tokens before <sop> see each other both ways; causal: only the past"""
    span_positions: Literal["running", "pinned", "pinned_mask", "pinned_late"] = "pinned_mask"
    """from <sop> on, positions run on, stay at the mask's, stay only for [MASK] and [sMASK] (GLM-130B), or for [gMASK] only after <sop> (first ChatGLM-6B)"""
    bias: Literal["all", "qkv", "none"] = "none"
    """which linear layers carry a bias (the output layer never does)"""
    tied: bool = True
    """the output layer is the embedding table"""
    qk_norm: bool = False
    """RMSNorm on queries and keys, head by head (GLM-4.5)"""
    qk_layer_scaling: bool = False
    """scale scores down by the layer's number and up again in fp32 (GLM-130B)"""
    embedding_gradient_shrink: float = 1.0
    """share of the gradient that reaches the embedding table through the input (GLM-130B: 0.1); 1: all of it"""
    tokens: SpecialTokens = field(default_factory=SpecialTokens)
    """ids of the special tokens"""

    def __post_init__(self) -> None:
        check_choices(self, "model.")
        for name in ("vocab_size", "layers", "hidden", "heads", "ffn_hidden", "max_positions"):
            require(getattr(self, name) > 0, f"model.{name}", getattr(self, name), "must be a positive whole number")
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
        step = 4 if self.positions in ("rope_2d", "rope_half") else 2
        require(
            self.head_dim % step == 0,
            "model.head_dim",
            self.head_dim,
            f"must be a multiple of {step} for {self.positions} positions",
        )
        require(
            0 < self.embedding_gradient_shrink <= 1,
            "model.embedding_gradient_shrink",
            self.embedding_gradient_shrink,
            "must lie in (0, 1]",
        )

    @property
    def gated(self) -> bool:
        return self.activation in ("geglu", "swiglu")

    @property
    def parameters(self) -> int:
        """Number of weights of the network, from the shape alone."""
        h, kv, q = self.hidden, self.kv_heads * self.head_dim, self.heads * self.head_dim
        up = self.ffn_hidden * (2 if self.gated else 1)
        layer = h * (q + 2 * kv) + q * h + h * up + self.ffn_hidden * h
        layer += (q + 2 * kv) * (self.bias != "none") + (h + up + h) * (self.bias == "all")
        norm = h * (2 if self.norm == "layernorm" else 1)
        layer += norm * (4 if self.residual == "sandwich" else 2) + 2 * self.head_dim * self.qk_norm
        tables = self.vocab_size * h * (1 if self.tied else 2)
        tables += 2 * (self.max_positions + 1) * h * (self.positions == "learned_2d")
        return self.layers * layer + tables + norm


@dataclass(frozen=True)
class InfillingConfig:
    """Autoregressive blank infilling: how spans are cut out of a text. Defaults: GLM-130B (arXiv 2210.02414, section 2.2)."""

    mask_share: float = 0.3
    """share of pieces with short [MASK] spans"""
    sentence_share: float = 0.0
    """share of pieces with whole sentences cut out, [sMASK]"""
    gmask_share: float = 0.7
    """share of pieces with one long [gMASK] span"""
    mask_ratio: float = 0.15
    """share of a piece's tokens cut out by [MASK] and [sMASK]"""
    mean_span: float = 3.0
    """mean of the Poisson distribution of [MASK] span lengths"""
    max_span: int = 40
    """[MASK] spans are shorter than this"""
    single_span_share: float = 0.02
    """share of [MASK] pieces with one span only"""
    gmask_min_ratio: float = 0.2
    """shortest [gMASK] span as a share of the piece; lengths are uniform from here to the whole piece"""
    gmask_infill_share: float = 0.0
    """share of [gMASK] pieces whose span lies inside the text rather than at its end"""
    shuffle_spans: bool = True
    """generate the spans in random order"""
    dblock_probability: float = 0.0
    """probability that an input token inside a [MASK] span is hidden by [MASK] (GLM-10B: 0.1, with its own token)"""

    def __post_init__(self) -> None:
        for name in (
            "mask_share",
            "sentence_share",
            "gmask_share",
            "mask_ratio",
            "single_span_share",
            "gmask_min_ratio",
            "gmask_infill_share",
            "dblock_probability",
        ):
            require(0 <= getattr(self, name) <= 1, f"infilling.{name}", getattr(self, name), "must lie between 0 and 1")
        total = self.mask_share + self.sentence_share + self.gmask_share
        require(
            abs(total - 1) < 1e-6,
            "infilling.gmask_share",
            self.gmask_share,
            f"the three shares must sum to 1, not {total:g}",
        )
        require(
            self.max_span > 1 and self.mean_span > 0,
            "infilling.max_span",
            self.max_span,
            "must be above 1, and mean_span above 0",
        )


@dataclass(frozen=True)
class DataConfig:
    """What training reads."""

    path: str = ""
    """folder of token shards written by `glm data build`"""
    dialogues: dict[str, str] = field(default_factory=dict)
    """conversations to mix in: a name and a .jsonl file, as often as wanted"""
    heldout_dialogues: dict[str, str] = field(default_factory=dict)
    """conversations kept out of training, on which the loss is measured: a name and a .jsonl file each"""
    weights: dict[str, float] = field(default_factory=dict)
    """how often each source is drawn, by name; empty: in proportion to its tokens. With weights, what they leave out is not drawn"""
    seed: int = 1
    """seed of the order of documents, of the mixture and of the spans"""
    workers: int = 1
    """processes that prepare batches ahead; 0: in the training process. The order of the data does not depend on it"""

    def __post_init__(self) -> None:
        require(self.seed >= 0, "data.seed", self.seed, "must not be negative")
        require(self.workers >= 0, "data.workers", self.workers, "must not be negative")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW as GLM-130B, or Muon for the matrices of the blocks with AdamW for the rest as GLM-4.5."""

    name: Literal["adamw", "muon"] = "adamw"
    """optimizer"""
    lr: float = 1e-3
    """peak learning rate"""
    min_lr_ratio: float = 0.1
    """the cosine ends at this share of lr"""
    warmup_ratio: float = 0.02
    """share of all steps over which lr rises linearly from 0; of all rows, where batches grow"""
    beta1: float = 0.9
    """AdamW: decay of the first moment"""
    beta2: float = 0.95
    """AdamW: decay of the second moment"""
    eps: float = 1e-8
    """AdamW: added to the root of the second moment"""
    weight_decay: float = 0.1
    """decoupled weight decay, on matrices and embeddings only"""
    clip: float = 1.0
    """largest norm of the gradient"""

    def __post_init__(self) -> None:
        check_choices(self, "optimizer.")
        require(self.lr > 0, "optimizer.lr", self.lr, "must be positive")
        require(self.clip > 0, "optimizer.clip", self.clip, "must be positive")
        for name in ("min_lr_ratio", "warmup_ratio", "beta1", "beta2"):
            require(0 <= getattr(self, name) <= 1, f"optimizer.{name}", getattr(self, name), "must lie between 0 and 1")


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    out: str
    """folder of the run: configuration, log, checkpoints, and the trained model in `model/`"""
    steps: int
    """optimizer steps"""
    seq_len: int = 512
    """tokens in a row"""
    batch_rows: int = 32
    """rows in one optimizer step"""
    accumulation: int = 1
    """forward/backward passes in one optimizer step; must divide batch_rows"""
    seed: int = 1
    """seed of the initial weights"""
    device: str = "auto"
    """auto, cpu, cuda, mps, ..."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """compute type of matrix products; auto: float32 or bfloat16, whichever a short probe finds faster; float16: with loss scaling. Weights and optimizer stay in float32"""
    compile: bool = False
    """fuse the network with torch.compile (needs a C++ compiler on a CPU)"""
    activation_checkpointing: bool = False
    """recompute the blocks in the backward pass: less memory, a third more work"""
    ema: float = 0.0
    """decay of the running average of the weights that becomes the trained model; 0: the last weights"""
    save_every: int = 500
    """steps between checkpoints"""
    keep: int = 3
    """checkpoints kept"""
    log_every: int = 10
    """steps between lines of the log"""
    eval_every: int = 500
    """steps between losses on held-out text"""
    eval_rows: int = 64
    """held-out rows per source"""
    sample_every: int = 0
    """steps between printed samples; 0: none"""

    def __post_init__(self) -> None:
        check_choices(self, "train.")
        for name in (
            "steps",
            "seq_len",
            "batch_rows",
            "accumulation",
            "save_every",
            "keep",
            "log_every",
            "eval_every",
            "eval_rows",
        ):
            require(getattr(self, name) > 0, f"train.{name}", getattr(self, name), "must be a positive whole number")
        require(
            self.batch_rows % self.accumulation == 0,
            "train.accumulation",
            self.accumulation,
            f"must divide train.batch_rows ({self.batch_rows})",
        )
        require(0 <= self.ema < 1, "train.ema", self.ema, "must lie in [0, 1)")


@dataclass(frozen=True)
class ParallelConfig:
    """How a run is spread over processes, one a device, that torchrun starts: data x tensor x pipeline of them."""

    data: int = 0
    """groups of processes, each of which trains on its share of the rows; 0: as many as there are"""
    tensor: int = 1
    """processes that share each matrix: heads, feed-forward columns and vocabulary are cut among them (Megatron-LM)"""
    pipeline: int = 1
    """stages, one after another, that hold consecutive blocks"""
    zero: Literal[1, 2, 3] = 1
    """what data-parallel processes hold a share of (ZeRO): 1 the optimizer's state, 2 and gradients, 3 and weights"""
    schedule: Literal["gpipe", "1f1b", "interleaved", "zero-bubble"] = "1f1b"
    """order of forward and backward passes in the pipeline"""
    chunks: int = 1
    """pieces of the network that a stage holds, for interleaved and zero-bubble"""

    def __post_init__(self) -> None:
        check_choices(self, "parallel.")
        require(self.data >= 0, "parallel.data", self.data, "must not be negative; 0 takes all processes that are left")
        for name in ("tensor", "pipeline", "chunks"):
            require(getattr(self, name) > 0, f"parallel.{name}", getattr(self, name), "must be a positive whole number")
        pieces = self.schedule in ("interleaved", "zero-bubble")
        require(
            pieces or self.chunks == 1,
            "parallel.chunks",
            self.chunks,
            f"is for the schedules interleaved and zero-bubble, not {self.schedule}",
        )
        require(
            self.schedule != "interleaved" or self.chunks > 1,
            "parallel.chunks",
            self.chunks,
            "must be above 1 for the schedule interleaved",
        )


@dataclass(frozen=True)
class StabilityConfig:
    """What happens when a step looks bad, and what keeps steps from it. Figures of GLM-130B: arXiv 2210.02414 and its published log."""

    policy: Literal["stop", "skip", "rollback"] = "stop"
    """on trouble (not finite, or a spike): stop the run; skip: leave the batch out; rollback: go back to the last regular checkpoint and jump over the data since"""
    loss_spike: float = 0.0
    """a loss so many deviations above the median of the last 100 steps is trouble; 0: never"""
    norm_spike: float = 0.0
    """the same for the norm of the gradient before clipping"""
    limit: int = 10
    """so many batches left out or ways back without 100 good steps in a row between them; the next one stops the run"""
    shrink_until: int = 0
    """step up to which model.embedding_gradient_shrink holds, before it rises to 1; 0: for ever, which GLM-130B came back to after spikes"""
    shrink_rise: int = 500
    """steps of that rise"""
    ramp_from: int = 0
    """rows of the first batches (GLM-130B: 192), growing to train.batch_rows (4224); 0: all batches alike"""
    ramp_step: int = 24
    """rows by which batches grow at a time"""
    ramp_rows: int = 0
    """rows over which they grow (GLM-130B: 5493164, 2.5 % of all)"""
    loss_scale: float = 65536.0
    """float16: first factor on the loss that keeps small gradients above zero; halved when gradients overflow, and that batch is left out"""
    loss_scale_window: int = 2000
    """float16: steps without overflow after which the factor doubles"""
    loss_scale_hysteresis: int = 2
    """float16: overflows before the factor is halved for the first time"""
    loss_scale_minimum: float = 1.0
    """float16: an overflow with a factor as small as this is trouble"""

    def __post_init__(self) -> None:
        check_choices(self, "stability.")
        for name in ("loss_spike", "norm_spike", "shrink_until", "ramp_from", "ramp_rows"):
            require(getattr(self, name) >= 0, f"stability.{name}", getattr(self, name), "must not be negative")
        for name in ("limit", "shrink_rise", "ramp_step", "loss_scale_window", "loss_scale_hysteresis"):
            require(
                getattr(self, name) > 0, f"stability.{name}", getattr(self, name), "must be a positive whole number"
            )
        require(
            self.loss_scale >= self.loss_scale_minimum,
            "stability.loss_scale",
            self.loss_scale,
            f"must be at least stability.loss_scale_minimum ({self.loss_scale_minimum:g})",
        )
        for name in ("loss_scale", "loss_scale_minimum"):
            require(
                math.frexp(getattr(self, name))[0] == 0.5,
                f"stability.{name}",
                getattr(self, name),
                "must be a power of two, so that scaling is exact",
            )
        require(
            (self.ramp_from > 0) == (self.ramp_rows > 0),
            "stability.ramp_rows",
            self.ramp_rows,
            "ramp_from and ramp_rows go together: set both or neither",
        )


@dataclass(frozen=True)
class PretrainConfig:
    """A model from random weights by blank infilling."""

    train: TrainConfig
    """the run"""
    data: DataConfig
    """what it reads"""
    model: ModelConfig
    """shape of the network; its vocabulary and special tokens are set by the tokenizer of the corpus"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """the update"""
    infilling: InfillingConfig = field(default_factory=InfillingConfig)
    """how blanks are made"""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """how it is spread over processes"""
    stability: StabilityConfig = field(default_factory=StabilityConfig)
    """what happens on trouble, and what keeps it away"""


@dataclass(frozen=True)
class SFTConfig:
    """A model tuned on conversations; with `data.path`, on plain text between them as well, against forgetting."""

    init_from: str
    """folder of the model to start from, or the name of a bundled one"""
    train: TrainConfig
    """the run"""
    data: DataConfig
    """what it reads"""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=2e-4))
    """the update"""
    infilling: InfillingConfig = field(default_factory=InfillingConfig)
    """how blanks are made in plain text"""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """how it is spread over processes"""
    stability: StabilityConfig = field(default_factory=StabilityConfig)
    """what happens on trouble, and what keeps it away"""


@dataclass(frozen=True)
class EngineConfig:
    """How many requests are served at once, and with how much memory."""

    kv_tokens: int = 0
    """tokens whose keys and values fit the cache, over all requests; 0: max_sequences whole contexts, but at most 1 GiB"""
    block_size: int = 16
    """tokens in one block of the cache; whole blocks are shared between requests that begin alike"""
    kv_dtype: Literal["auto", "float32", "float16", "bfloat16", "int8"] = "auto"
    """storage of keys and values; auto: that of the computation; int8: with a scale for each token and head"""
    max_sequences: int = 32
    """requests computed at once; more wait their turn"""
    step_tokens: int = 512
    """tokens computed in one step; longer prompts are cut into chunks, so that the answers of others go on meanwhile"""
    share_prefixes: bool = True
    """keep the blocks of finished requests for later ones that begin alike"""
    draft_tokens: int = 0
    """guess up to so many tokens ahead from repetitions in the text and check them in one step; the answer stays the same"""
    runner: Literal["auto", "native", "torch"] = "auto"
    """native: the CPU kernels; torch: any device; auto: the kernels where they can run the model"""
    compile: bool = False
    """torch runner: fuse the network with torch.compile (needs a C++ compiler on a CPU)"""
    keep_weights: bool = True
    """native runner: leave the model usable beside the engine, which takes the memory of its weights twice"""

    def __post_init__(self) -> None:
        check_choices(self, "engine.")
        for name in ("block_size", "max_sequences", "step_tokens"):
            require(getattr(self, name) > 0, f"engine.{name}", getattr(self, name), "must be a positive whole number")
        for name in ("kv_tokens", "draft_tokens"):
            require(getattr(self, name) >= 0, f"engine.{name}", getattr(self, name), "must not be negative")
        require(
            self.step_tokens >= self.max_sequences,
            "engine.step_tokens",
            self.step_tokens,
            f"must be at least engine.max_sequences ({self.max_sequences})",
        )
