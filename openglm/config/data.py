"""What training reads, and how blanks are made in it."""

from dataclasses import dataclass, field

from openglm.config.checks import Share, Whole, check_fields, require


@dataclass(frozen=True)
class InfillingConfig:
    """Autoregressive blank infilling: how spans are cut out of a text. Defaults: GLM-130B (arXiv 2210.02414, section
    2.2).
    """

    mask_share: Share = 0.3
    """share of texts with short spans cut out, marked [MASK]"""
    sentence_share: Share = 0.0
    """share of texts with whole sentences cut out, marked [sMASK]"""
    gmask_share: Share = 0.7
    """share of texts with one long span cut out, marked [gMASK]"""
    mask_ratio: Share = 0.15
    """share of a text's tokens that [MASK] and [sMASK] spans cut out"""
    mask_ratio_max: Share = 0.0
    """gapped span positions: if above mask_ratio, each text draws its share uniformly between the two"""
    mean_span: float = 3.0
    """mean length of [MASK] spans, in tokens; lengths follow a Poisson distribution, a geometric one if gapped"""
    mean_span_max: float = 0.0
    """gapped span positions: if above mean_span, each text draws its mean length between the two, log-uniformly"""
    max_span: int = 40
    """every [MASK] span is shorter than this, in tokens"""
    single_span_share: Share = 0.02
    """share of [MASK] texts that have only one span"""
    gmask_min_ratio: Share = 0.2
    """shortest [gMASK] span, as a share of the text; lengths are drawn uniformly from this up to the whole text"""
    gmask_infill_share: Share = 0.0
    """share of [gMASK] texts whose span lies inside the text instead of at its end"""
    shuffle_spans: bool = True
    """put the spans in random order"""
    dblock_probability: Share = 0.0
    """probability that [MASK] replaces an input token inside a [MASK] span (GLM-10B: 0.1, with a token of its own)"""

    def __post_init__(self) -> None:
        check_fields(self, "infilling.")
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
    """corpus folder written by `glm data build`"""
    dialogues: dict[str, str] = field(default_factory=dict)
    """conversations to train on: pairs of a name and a file (JSON, CSV, parquet, also packed) or a folder"""
    heldout_dialogues: dict[str, str] = field(default_factory=dict)
    """conversations kept out of training to measure the loss on: pairs of a name and a file or a folder"""
    fields: tuple[str, ...] = ()
    """names of your own for the fields of conversations, such as prompt=question response=reply system=persona"""
    skip_bad: bool = False
    """leave out conversations that cannot be read, and say how many"""
    weights: dict[str, float] = field(default_factory=dict)
    """how often to draw from each source, by name; a source without a weight is not used.
    Empty: in proportion to each source's tokens"""
    seed: Whole = 1
    """seed for the order of documents, the mixture of sources and the spans"""
    workers: Whole = 1
    """processes that prepare batches in advance; 0: the training process prepares them. The data order stays the same
    """

    def __post_init__(self) -> None:
        check_fields(self, "data.")
        for pair in self.fields:
            require(all(pair.partition("=")), "data.fields", pair, "write FIELD=NAME, such as prompt=question")
