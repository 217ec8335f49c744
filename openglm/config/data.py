"""What training reads, and how blanks are made in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from openglm.config.checks import require


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
