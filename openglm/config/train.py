"""One training run: its length and folder, the update, and what happens when a step looks bad."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from openglm.config.checks import check_choices, require


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW as GLM-130B, or Muon for the matrices of the blocks with AdamW for the rest as GLM-4.5."""

    name: Literal["adamw", "muon"] = "adamw"
    """optimizer"""
    lr: float = 1e-3
    """peak learning rate"""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """how lr falls to its last value; constant: not at all"""
    decay_ratio: float = 1.0
    """share of the steps after the warm-up over which lr falls, at the end of the run; before that it is constant"""
    min_lr_ratio: float = 0.1
    """lr falls to this share of its peak"""
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
        for name in ("decay_ratio", "min_lr_ratio", "warmup_ratio", "beta1", "beta2"):
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
