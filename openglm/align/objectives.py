"""What steps optimize in alignment, for the training loop: the losses of losses.py over the rows of preferences.

Shapes: N positions of the rows, P pairs (some of them empty: rows hold different numbers), H hidden.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from openglm.align.losses import (
    PreferenceLoss,
    kl_estimate,
    policy_loss,
    preference_loss,
    reward_pair_loss,
    sampler_weight,
    value_loss,
)
from openglm.data.preferences import CHOSEN, REJECTED
from openglm.train.objective import ROW, Batch, Head

Found = tuple[Tensor, Mapping[str, Tensor]]


def _pair_sums(values_N: Tensor, fields: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """[2, P] sums of values by side and pair, and how many there were. Pairs are numbered in their two rows."""
    count = int(fields["pair"].max()) + 1 if len(values_N) else 0
    pair_N = fields[ROW] // 2 * count + fields["pair"]
    pairs = int(pair_N.max()) + 1 if len(values_N) else 0
    key_N = fields["side"] * pairs + pair_N
    sums = values_N.new_zeros(2 * pairs).index_add(0, key_N, values_N)
    counts = values_N.new_zeros(2 * pairs).index_add(0, key_N, torch.ones_like(values_N))
    return sums.view(2, pairs), counts.view(2, pairs)


@dataclass(frozen=True)
class PreferencePairs:
    """DPO and its kin: the policy prefers the chosen answer of each pair, kept near the reference."""

    kind: PreferenceLoss = "dpo"
    beta: float = 0.1
    gamma: float = 0.0
    """simpo: the margin aimed at"""
    fields = ("targets", "pair", "side", "reference", ROW)
    where = "loss_mask"
    by_position = False
    metrics = ("accuracy", "margin", "chosen_log_ratio", "rejected_log_ratio")

    def count(self, batch: Batch) -> float:
        return float(batch["pairs"].sum())

    def loss(self, head: Head, hidden_NH: Tensor, fields: Mapping[str, Tensor]) -> Found:
        logp_N = head.log_probability(hidden_NH, fields["targets"])
        ratio_2P, length_2P = _pair_sums(logp_N - fields["reference"], fields)
        there_P = length_2P[CHOSEN] > 0
        score_2P = ratio_2P if self.kind == "dpo" else ratio_2P / length_2P.clamp(min=1)
        loss_P, margin_P = preference_loss(score_2P[CHOSEN], score_2P[REJECTED], self.kind, self.beta, self.gamma)
        measured = {
            "accuracy": (margin_P > 0).to(margin_P.dtype),
            "margin": margin_P,
            "chosen_log_ratio": ratio_2P[CHOSEN],
            "rejected_log_ratio": ratio_2P[REJECTED],
        }
        return loss_P[there_P].sum(), {name: values_P[there_P].sum() for name, values_P in measured.items()}


@dataclass(frozen=True)
class RewardPairs:
    """A reward model: the score at an answer's end says which of a pair is better."""

    shrink: float = 0.0
    """weight of the squares of both rewards: keeps them near 0 (ChatGLM-RLHF, arXiv 2404.00934)"""
    fields = ("side", "margin", "tie")
    where = "end"
    by_position = False
    metrics = ("accuracy", "difference", "chosen", "rejected")

    def count(self, batch: Batch) -> float:
        return float(batch["pairs"].sum())

    def loss(self, head: Head, hidden_NH: Tensor, fields: Mapping[str, Tensor]) -> Found:
        reward_N = head.scores(hidden_NH)
        # An answer has one end, and twin rows hold the same pairs in the same order.
        chosen, rejected = fields["side"] == CHOSEN, fields["side"] == REJECTED
        chosen_P, rejected_P = reward_N[chosen], reward_N[rejected]
        tie_P = fields["tie"][chosen]
        loss_P = reward_pair_loss(chosen_P, rejected_P, fields["margin"][chosen], tie_P)
        loss_P = loss_P + self.shrink * (chosen_P.square() + rejected_P.square())
        difference_P = chosen_P - rejected_P
        right_P = torch.where(tie_P, 0.5, (difference_P > 0).to(reward_N.dtype))
        measured = {"accuracy": right_P, "difference": difference_P, "chosen": chosen_P, "rejected": rejected_P}
        return loss_P.sum(), {name: values_P.sum() for name, values_P in measured.items()}


@dataclass(frozen=True)
class PolicyTokens:
    """Tokens that were better than expected grow likelier, worse ones less likely.

    Every token of the step counts alike (DAPO, arXiv 2503.14476): no answer is favoured for its length. What the engine
    drew with other probabilities than the trainer's, from int4 weights say, counts by their ratio. Demonstrations are
    learned beside, by their cross entropy.
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 3.0
    beta: float = 0.0
    temperature: float = 1.0
    demonstration_weight: float = 0.0
    fields = ("targets", "old_logp", "sampler_logp", "reference", "advantage", "demonstration")
    where = "loss_mask"
    by_position = True
    metrics = ("kl", "clipped", "ratio", "entropy", "sampler_gap")

    def count(self, batch: Batch) -> float:
        return float((batch["loss_mask"] - batch["demonstration"]).sum())

    def loss(self, head: Head, hidden_NH: Tensor, fields: Mapping[str, Tensor]) -> Found:
        shown_N = fields["demonstration"]
        temperature_N = torch.where(shown_N > 0, 1.0, self.temperature)
        logp_N = -head.cross_entropy(hidden_NH / temperature_N[:, None], fields["targets"])
        old_N, reference_N = fields["old_logp"], fields["reference"]
        loss_N, clipped_N = policy_loss(
            logp_N, old_N, fields["advantage"], self.clip_low, self.clip_high, self.dual_clip
        )
        loss_N = loss_N * sampler_weight(old_N, fields["sampler_logp"])
        if self.beta:
            loss_N = loss_N + self.beta * kl_estimate(logp_N, reference_N, "k2")  # the one with the KL's gradient
        measured = {
            "kl": kl_estimate(logp_N, reference_N if self.beta else old_N, "k3"),
            "clipped": clipped_N.to(logp_N.dtype),
            "ratio": (logp_N - old_N).exp(),
            "entropy": -old_N,
            "sampler_gap": (old_N - fields["sampler_logp"]).abs(),
        }
        loss_N = loss_N * (1 - shown_N) - self.demonstration_weight * logp_N * shown_N
        return loss_N.sum(), {name: (values_N * (1 - shown_N)).sum() for name, values_N in measured.items()}


@dataclass(frozen=True)
class PolicyAndValue:
    """PPO: the policy's tokens, and a value head on the same network that learns to expect the rewards to come."""

    policy: PolicyTokens
    value_weight: float = 0.1
    value_clip: float = 0.2

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.policy.fields, "value", "returns")

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*self.policy.metrics, "value_loss")

    where = "loss_mask"
    by_position = True

    def count(self, batch: Batch) -> float:
        return self.policy.count(batch)

    def loss(self, head: Head, hidden_NH: Tensor, fields: Mapping[str, Tensor]) -> Found:
        loss, measured = self.policy.loss(head, hidden_NH, fields)
        value_N = value_loss(head.scores(hidden_NH), fields["value"], fields["returns"], self.value_clip)
        value = (value_N * (1 - fields["demonstration"])).sum()
        return loss + self.value_weight * value, {**measured, "value_loss": value}
