"""One training run: its length and folder, the update, and what happens when a step looks bad."""

import math
from dataclasses import dataclass
from typing import Literal

from openglm.config.checks import Count, NotNegative, Positive, Share, Whole, check_fields, require


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, as in GLM-130B; or Muon for the matrices of the blocks and AdamW for the rest, as in GLM-4.5."""

    name: Literal["adamw", "muon"] = "adamw"
    """muon: Muon for the matrices of the blocks, AdamW for everything else"""
    lr: Positive = 1e-3
    """peak learning rate"""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """how the learning rate falls to its last value; constant: it does not fall"""
    decay_ratio: Share = 1.0
    """share of the steps after warm-up, at the end of the run, over which lr falls; it is constant until then"""
    min_lr_ratio: Share = 0.1
    """last learning rate, as a share of the peak"""
    warmup_ratio: Share = 0.02
    """share of all steps over which lr rises linearly from 0; if batches grow, share of all rows"""
    beta1: Share = 0.9
    """AdamW: decay of the first moment"""
    beta2: Share = 0.95
    """AdamW: decay of the second moment"""
    eps: float = 1e-8
    """AdamW: added to the root of the second moment"""
    weight_decay: float = 0.1
    """decoupled weight decay, applied to matrices and embeddings only"""
    clip: Positive = 1.0
    """gradients with a larger norm are scaled down to this norm"""

    def __post_init__(self) -> None:
        check_fields(self, "optimizer.")


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    out: str
    """folder for the configuration, log and checkpoints, and for the trained model in `model/`"""
    steps: Whole = 0
    """number of optimizer steps; 0: as many as train.epochs takes"""
    seq_len: Count = 512
    """tokens per row"""
    batch_rows: Count = 32
    """rows per optimizer step"""
    accumulation: Count = 1
    """forward and backward passes per optimizer step; must divide batch_rows"""
    seed: int = 1
    """seed for the initial weights"""
    device: str = "auto"
    """device to train on: auto, cpu, cuda, mps, ..."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """type of matrix products; weights and optimizer state are always float32.
    auto: float32 or bfloat16, whichever a short test finds faster; float16 uses loss scaling"""
    compile: bool = False
    """use torch.compile (on a CPU this needs a C++ compiler)"""
    activation_checkpointing: bool = False
    """recompute the blocks in the backward pass: saves memory, costs a third more computation"""
    ema: float = 0.0
    """decay of a running average of the weights, which becomes the trained model; 0: use the last weights"""
    save_every: Count = 500
    """steps between checkpoints"""
    keep: Count = 3
    """number of checkpoints to keep"""
    log_every: Count = 10
    """steps between log lines"""
    eval_every: Count = 500
    """steps between evaluations on held-out text"""
    eval_rows: Count = 64
    """held-out rows to evaluate per source"""
    sample_every: int = 0
    """steps between printed samples; 0: none"""
    patience: Whole = 0
    """end after so many evaluations in a row without a lower mean held-out loss; the finished model is then the best
    one measured, however the run ends. 0: the last one"""
    epochs: NotNegative = 0.0
    """passes over the data, in place of train.steps; 0 where both are: one"""

    def __post_init__(self) -> None:
        check_fields(self, "train.")
        require(str(self.out).strip() != "", "train.out", self.out, "give a folder for the run")
        require(math.isfinite(self.epochs), "train.epochs", self.epochs, "must be a finite number")
        require(not (self.steps and self.epochs), "train.epochs", self.epochs, "set it or train.steps, not both")
        require(
            self.batch_rows % self.accumulation == 0,
            "train.accumulation",
            self.accumulation,
            f"must divide train.batch_rows ({self.batch_rows})",
        )
        require(0 <= self.ema < 1, "train.ema", self.ema, "must lie in [0, 1)")
        kept = not self.patience or self.eval_every % self.save_every == 0
        require(kept, "train.eval_every", self.eval_every, "must be a multiple of train.save_every with train.patience")


@dataclass(frozen=True)
class StabilityConfig:
    """What happens when a step looks bad, and how to keep steps from going bad.

    GLM-130B's figures are from arXiv 2210.02414 and its published log.
    """

    policy: Literal["stop", "skip", "rollback"] = "stop"
    """what to do about an anomaly, that is a loss or gradient that spikes or is not finite.
    stop: end the run; skip: leave the batch out; rollback: return to the last checkpoint and skip the data since"""
    loss_spike: NotNegative = 0.0
    """a loss this many deviations above the median of the last 100 steps counts as an anomaly; 0: never"""
    norm_spike: NotNegative = 0.0
    """the same for the gradient norm before clipping"""
    limit: Count = 10
    """maximum consecutive skips or rollbacks; one more stops the run. 100 good steps in a row reset the count"""
    shrink_until: Whole = 0
    """step at which model.embedding_gradient_shrink starts to rise to 1.
    0: never; GLM-130B returned to that after spikes"""
    shrink_rise: Count = 500
    """number of steps over which it rises"""
    ramp_from: Whole = 0
    """rows in the first batches (GLM-130B: 192), which grow to train.batch_rows (4224); 0: all batches have equal size
    """
    ramp_step: Count = 24
    """rows added each time batches grow"""
    ramp_rows: Whole = 0
    """rows trained on until batches reach full size (GLM-130B: 5493164, 2.5 % of all)"""
    loss_scale: float = 65536.0
    """float16: initial loss scale; when gradients overflow, the batch is skipped and the scale is halved"""
    loss_scale_window: Count = 2000
    """float16: steps without overflow after which the scale doubles"""
    loss_scale_hysteresis: Count = 2
    """float16: number of overflows until the scale is halved for the first time"""
    loss_scale_minimum: float = 1.0
    """float16: an overflow at this scale counts as an anomaly"""

    def __post_init__(self) -> None:
        check_fields(self, "stability.")
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
