"""Alignment: what reward models, DPO and their kin take."""

from dataclasses import dataclass, field
from typing import Literal

from openglm.config.checks import Count, NotNegative, Positive, Share, check_fields, require
from openglm.config.recipes import RunConfig
from openglm.config.train import OptimizerConfig


@dataclass(frozen=True)
class PairsConfig:
    """Pairs of a better and a worse answer."""

    pairs: str
    """file of pairs to train on: prompt, chosen, rejected; `glm data feedback` writes one"""
    heldout: str = ""
    """file of pairs that are only measured"""
    skip_bad: bool = False
    """leave out pairs that cannot be read, and say how many"""
    seed: int = 1
    """seed for the order of pairs"""
    workers: int = 0
    """processes that prepare batches in advance; 0: the training process prepares them"""


@dataclass(frozen=True, kw_only=True)
class PairsRunConfig(RunConfig):
    """A model tuned on pairs."""

    init_from: str
    """folder of the model to start from, or the name of a bundled model"""
    data: PairsConfig
    """the pairs"""

    def __post_init__(self) -> None:
        for name in ("batch_rows", "eval_rows"):
            value = getattr(self.train, name)
            require(value % 2 == 0, f"train.{name}", value, "must be even: rows of pairs come in twos")
        micro = self.train.batch_rows // self.train.accumulation
        require(micro % 2 == 0, "train.accumulation", self.train.accumulation, "leaves an odd number of rows at a time")


@dataclass(frozen=True, kw_only=True)
class RewardConfig(PairsRunConfig):
    """A model that scores answers, learnt from pairs."""

    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-5))
    """optimizer and learning rate"""
    shrink: NotNegative = 0.0
    """weight of the squared rewards in the loss; above 0 it keeps rewards near 0 (ChatGLM-RLHF)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class DPOConfig(PairsRunConfig):
    """A model tuned to prefer the better answer of each pair, without a reward model."""

    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-6))
    """optimizer and learning rate"""
    loss: Literal["dpo", "ipo", "simpo"] = "dpo"
    """dpo (arXiv 2305.18290); ipo (2310.12036): draws the margin to 1 / (2 beta); simpo (2405.14734): mean
    log-probabilities without a reference"""
    beta: Positive = 0.1
    """how strongly the reference holds; simpo: scale of the margin (its paper takes 2 to 2.5)"""
    gamma: float = 0.0
    """simpo: margin aimed at (its paper takes 0.5 to 1.6)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self)
        require(self.gamma == 0 or self.loss == "simpo", "gamma", self.gamma, "belongs to loss = simpo")


@dataclass(frozen=True)
class PromptsConfig:
    """Questions that the model answers while it learns."""

    prompts: str
    """file of prompts to train on: prompt, and what the check needs, such as answer"""
    heldout: str = ""
    """file of prompts that are only measured"""
    demonstrations: str = ""
    """conversations that are learned beside, so that what the model could do is not forgotten (ChatGLM-RLHF); or plain
    text, a corpus of `glm data build`"""
    seed: int = 1
    """seed for the order of prompts and for the answers"""


@dataclass(frozen=True)
class RolloutConfig:
    """How answers are drawn and rewarded."""

    check: str = ""
    """what gives rewards: arithmetic, exact or verse"""
    reward_model: str = ""
    """or a model that gives them: a folder made by `glm reward`"""
    baseline: bool = False
    """take off what the reward model gives the prompt's own `answer`"""
    questions: Count = 16
    """questions in a round"""
    group: Count = 8
    """answers to each question, which are compared with each other"""
    epochs: Count = 1
    """how often a round's answers are trained on"""
    max_tokens: Count = 128
    """longest answer"""
    temperature: Positive = 1.0
    """of the draw, and of the probabilities that training changes"""
    quantize: Literal["", "int8", "int4"] = ""
    """draw with weights of fewer bits, made anew each round; what that changes is weighed in the loss"""
    endpoint: str = ""
    """draw from a model behind OpenAI's interface, such as http://127.0.0.1:8000/v1, in place of the one in training:
    one with nearly the same weights, for a token counts by the ratio of both probabilities"""
    endpoint_model: str = ""
    """its name there"""
    tools: bool = False
    """answers may call the built-in tools; what these return is read, and not learnt"""
    unfinished: float = 0.0
    """reward of an answer that was cut off at max_tokens"""
    eval_rounds: Count = 10
    """rounds between measurements on held-out prompts"""

    def __post_init__(self) -> None:
        check_fields(self, "rollout.")
        plain = not self.endpoint or self.temperature == 1
        require(plain, "rollout.temperature", self.temperature, "must be 1: an endpoint tells no other probabilities")
        for name in ("quantize", "tools"):
            value = getattr(self, name)
            require(not (self.endpoint and value), f"rollout.{name}", value, "belongs to our own draw")

    @property
    def answers(self) -> int:
        """Answers in a round."""
        return self.questions * self.group


@dataclass(frozen=True, kw_only=True)
class RolloutRunConfig(RunConfig):
    """A model tuned by the rewards of its own answers."""

    init_from: str
    """folder of the model to start from, or the name of a bundled model"""
    data: PromptsConfig
    """the questions"""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """answers and rewards"""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-6, schedule="constant"))
    """optimizer and learning rate"""
    clip_low: float = 0.2
    """a token's probability may fall by this share before it stops counting"""
    clip_high: Positive = 0.28
    """a token's probability may rise by this share (DAPO, arXiv 2503.14476)"""
    dual_clip: float = 3.0
    """bound of the loss of a token that is to become unlikelier and has become much likelier; 0: none"""
    demonstration_rows: int = 8
    """rows of a step, beside its answers, that data.demonstrations fill"""
    demonstration_weight: NotNegative = 0.1
    """what a token of theirs counts, where one of an answer counts 1"""

    def __post_init__(self) -> None:
        check_fields(self)
        taken, rows, answers = self.demonstrations, self.train.batch_rows - self.demonstrations, self.rollout.answers
        require(0 <= taken < self.train.batch_rows, "demonstration_rows", taken, "must be less than train.batch_rows")
        less = f"less {taken} demonstration_rows, " if taken else ""
        require(
            answers % rows == 0,
            "train.batch_rows",
            self.train.batch_rows,
            f"{less}must divide the {answers} answers of a round",
        )
        steps = answers // rows * self.rollout.epochs
        require(
            self.train.save_every % steps == 0,
            "train.save_every",
            self.train.save_every,
            f"must be a multiple of {steps}, the steps of a round",
        )
        require(0 < self.clip_low < 1, "clip_low", self.clip_low, "must lie between 0 and 1")
        require(
            self.dual_clip == 0 or self.dual_clip > 1, "dual_clip", self.dual_clip, "must be above 1, or 0 for none"
        )
        for name in ("tensor", "pipeline"):
            value = getattr(self.parallel, name)
            require(value == 1, f"parallel.{name}", value, "answers need the whole model: use 1")
        require(
            self.stability.policy != "rollback",
            "stability.policy",
            "rollback",
            "answers cannot be jumped over: use skip",
        )

    @property
    def demonstrations(self) -> int:
        """Rows of a step that hold demonstrations."""
        return self.demonstration_rows if self.data.demonstrations else 0


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(RolloutRunConfig):
    """A model tuned by the rewards of its own answers, compared in groups."""

    beta: NotNegative = 0.0
    """weight of the KL to the model that training began with; above 0 that model stays in memory"""
    by_deviation: bool = True
    """divide by the deviation of a group's rewards (arXiv 2402.03300); False: arXiv 2503.20783"""


@dataclass(frozen=True, kw_only=True)
class PPOConfig(RolloutRunConfig):
    """A model tuned by the rewards of its own answers, compared with what its value head expected."""

    rollout: RolloutConfig = field(default_factory=lambda: RolloutConfig(questions=160, group=1, epochs=4))
    """answers and rewards"""
    clip_high: Positive = 0.2
    """a token's probability may rise by this share"""
    kl: NotNegative = 0.05
    """what a nat of KL to the model that training began with costs of the reward, in the first round"""
    kl_target: NotNegative = 0.0
    """KL of an answer, in nats, that the cost is adapted to after each round; 0: the cost stays"""
    kl_horizon: Count = 10000
    """answers over which the cost adapts (arXiv 1909.08593)"""
    value_weight: NotNegative = 0.1
    """weight of the value head's loss"""
    value_clip: NotNegative = 0.2
    """how far a value may leave its old one in a round"""
    discount: Share = 1.0
    """of rewards, a token"""
    smoothing: Share = 0.95
    """lambda of generalized advantage estimation (arXiv 1506.02438)"""
