"""Everything that one training verb takes."""

from dataclasses import dataclass, field
from typing import Literal

from openglm.config.adapters import LoraConfig, PrefixConfig
from openglm.config.checks import Count, Share, Whole, check_fields, require
from openglm.config.data import DataConfig, InfillingConfig
from openglm.config.model import ModelConfig
from openglm.config.parallel import ParallelConfig
from openglm.config.train import OptimizerConfig, StabilityConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What the training loop takes, whatever it optimizes."""

    train: TrainConfig
    """length, batch and folder of the run"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """optimizer and learning rate"""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """how the run is spread over processes"""
    stability: StabilityConfig = field(default_factory=StabilityConfig)
    """what to do about anomalies, and how to avoid them"""


@dataclass(frozen=True, kw_only=True)
class TextRunConfig(RunConfig):
    """A run on rows of text and conversations."""

    data: DataConfig
    """training data"""
    infilling: InfillingConfig = field(default_factory=InfillingConfig)
    """how spans are cut out of plain text"""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TextRunConfig):
    """A model trained by blank infilling, from random weights or those of another."""

    model: ModelConfig
    """shape of the network; vocabulary and special tokens come from the corpus's tokenizer"""
    init_from: str = ""
    """folder of a model to start from, or the name of a bundled model, which brings its shape and its tokenizer.
    Empty: random weights"""


@dataclass(frozen=True, kw_only=True)
class SFTConfig(TextRunConfig):
    """A model tuned on conversations; with `replay` also on plain text, so that it forgets less."""

    init_from: str
    """folder of the model to start from, or the name of a bundled model"""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=2e-4))
    """optimizer and learning rate"""
    replay: str = ""
    """plain text repeated beside the conversations, so that less is forgotten: a file or folder of texts, or a corpus
    of `glm data build`"""
    replay_share: float = 0.1
    """share of the rows that are replayed text"""
    answers: Whole = 0
    """held-out conversations whose last answer is written before and after training and held against the true one:
    BLEU-4 and ROUGE (pip install 'openglm[eval]')"""
    adapter: Literal["none", "lora", "prefix"] = "none"
    """what is trained and saved in place of the model: lora, or prefix (P-Tuning v2, which wants optimizer.lr 1e-2);
    none: the whole model"""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """--adapter lora"""
    prefix: PrefixConfig = field(default_factory=PrefixConfig)
    """--adapter prefix"""
    quantize: Literal["none", "int8", "int4"] = "none"
    """bits of the model's own weights under an adapter"""
    teacher: str = ""
    """learn the probabilities of this model, of the same tokenizer, in place of the bare words (distillation)"""
    teacher_loss: Literal["forward", "reverse"] = "forward"
    """forward: cover all that the teacher may say; reverse: keep to what it is sure of (arXiv 2306.08543)"""
    teacher_share: Share = 1.0
    """of the teacher's probabilities in the loss; the rest is for the words themselves"""
    teacher_tokens: Count = 64
    """the teacher's likeliest tokens are told apart, the others count as one"""

    def __post_init__(self) -> None:
        check_fields(self)
        require(0 < self.replay_share < 1, "replay_share", self.replay_share, "must lie in (0, 1)")
        asked = not self.answers or bool(self.data.heldout_dialogues)
        require(asked, "answers", self.answers, "are those of data.heldout_dialogues; give them")
        whole = self.adapter == "none"
        remedy = "trains no model; give --adapter lora or prefix"
        require(not whole or self.quantize == "none", "quantize", self.quantize, remedy)
        for name in ("tensor", "pipeline"):
            value = getattr(self.parallel, name)
            alone = not self.teacher or value == 1
            require(alone, f"parallel.{name}", value, "a teacher is whole in every process: use 1")
            alone = whole or value == 1
            require(alone, f"parallel.{name}", value, "an adapter is trained by data-parallel processes: use 1")
