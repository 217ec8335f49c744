"""The mathematics of alignment: pure functions of log-probabilities, rewards, values and masks, and nothing else.

Log-probabilities are in nats. Functions of tokens work element by element and so on any shape: padded [B, T], or the
answers' positions of a batch in one row [N]. What is summed, and what it is divided by, is the caller's affair: a step
divides by the number of tokens or pairs in all of it, so that no loss depends on how a batch is split.

Shapes: B answers, T tokens, N positions, V vocabulary.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""log-ratios are held to this before `exp`: one absurd token must not make a whole step infinite"""

PreferenceLoss = Literal["dpo", "ipo", "simpo"]
KlEstimate = Literal["k1", "k2", "k3"]


def kl_estimate(logp: Tensor, reference: Tensor, kind: KlEstimate = "k1") -> Tensor:
    """KL(policy || reference) of each token, estimated from the token that the policy drew (Schulman 2020).

    k1 = log-ratio: unbiased, may be negative. k2 = half its square: never negative, biased, and the one whose gradient
    is that of the KL. k3 = exp(-k1) - 1 + k1: unbiased, never negative. All are 0 where the two agree.
    """
    ratio = (logp - reference).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    if kind == "k1":
        return ratio
    return ratio.square() / 2 if kind == "k2" else torch.expm1(-ratio) + ratio


def adapt_kl_coefficient(coefficient: float, kl: float, target: float, answers: int, horizon: int) -> float:
    """The coefficient after a batch whose mean KL an answer was `kl` (arXiv 1909.08593, section 2.2).

    The error is held to a fifth, so that the coefficient at most changes by answers / (5 horizon) of itself.
    """
    error = max(-0.2, min(0.2, kl / target - 1))
    return coefficient * (1 + error * answers / horizon)


def place_rewards(scores_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, coefficient: float) -> Tensor:
    """Rewards [B, T]: every token pays `coefficient` times its KL, and an answer's last token gets its score.

    The last token is the last True of the mask: the end token where the answer ended by itself.
    """
    rewards_BT = torch.where(mask_BT, -coefficient * kl_BT, 0.0)
    last_B = mask_BT.shape[1] - 1 - mask_BT.flip(1).int().argmax(1)
    rewards_BT[torch.arange(len(scores_B)), last_B] += scores_B
    return rewards_BT


def advantages_and_returns(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, discount: float = 1.0, smoothing: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation (arXiv 1506.02438, equation 16): advantages and returns [B, T], 0 off the mask.

    Tokens outside the mask (padding, what a tool answered) are no steps in time: the next step of a token is the next
    one that the policy drew.
    """
    advantages_BT = torch.zeros_like(values_BT)
    future_B = torch.zeros_like(values_BT[:, 0])
    next_value_B = torch.zeros_like(future_B)
    for t in reversed(range(values_BT.shape[1])):
        drawn_B = mask_BT[:, t]
        error_B = rewards_BT[:, t] + discount * next_value_B - values_BT[:, t]
        future_B = torch.where(drawn_B, error_B + discount * smoothing * future_B, future_B)
        next_value_B = torch.where(drawn_B, values_BT[:, t], next_value_B)
        advantages_BT[:, t] = torch.where(drawn_B, future_B, 0.0)
    return advantages_BT, torch.where(mask_BT, advantages_BT + values_BT, 0.0)


def whiten(values_BT: Tensor, mask_BT: Tensor, shift: bool = True) -> Tensor:
    """Masked values with variance 1, and with mean 0 unless `shift` is False; 0 off the mask."""
    chosen = values_BT[mask_BT]
    mean = chosen.mean()
    white_BT = (values_BT - mean) * torch.rsqrt(chosen.var(correction=0) + 1e-8)
    return torch.where(mask_BT, white_BT if shift else white_BT + mean, 0.0)


def group_advantages(rewards_B: Tensor, groups_B: Tensor, by_deviation: bool = True) -> Tensor:
    """[B] how much better an answer is than the others to the same question (GRPO, arXiv 2402.03300, equation 3).

    `groups_B` numbers the questions from 0. Without division by the group's deviation, easy and hard questions count by
    what they differ in (arXiv 2503.20783). Groups of one, or of equal answers, teach nothing: 0.
    """
    count = torch.bincount(groups_B).clamp(min=1).to(rewards_B.dtype)
    first = torch.zeros_like(count).index_copy_(0, groups_B, rewards_B)  # some answer of each group
    shifted_B = rewards_B - first[groups_B]  # equal rewards give exactly 0, where a mean might be off by a rounding
    centred_B = shifted_B - (torch.zeros_like(count).index_add_(0, groups_B, shifted_B) / count)[groups_B]
    if not by_deviation:
        return centred_B
    variance = torch.zeros_like(count).index_add_(0, groups_B, centred_B.square()) / (count - 1).clamp(min=1)
    return centred_B / (variance.sqrt()[groups_B] + 1e-6)


def policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The clipped surrogate of PPO for each token (arXiv 1707.06347, equation 7), and whether clipping decided it.

    clip_high > clip_low lets unlikely tokens grow faster (DAPO, arXiv 2503.14476). dual_clip > 1 bounds the loss of a
    token with a negative advantage that has become much likelier (arXiv 1912.09729); 0: no such bound.
    """
    ratio = (logp - old_logp).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    loss, decided = torch.maximum(plain, clipped), clipped > plain
    if dual_clip:
        bound = -advantages * dual_clip
        too_much = (advantages < 0) & (loss > bound)
        loss, decided = torch.where(too_much, bound, loss), decided | too_much
    return loss, decided


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float = 0.2) -> Tensor:
    """Half the squared error of each token's value, which may not gain by leaving `clip` around its old one."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum((values - returns).square(), (clipped - returns).square()) / 2


def sampler_weight(logp: Tensor, sampler_logp: Tensor) -> Tensor:
    """Importance weights for tokens that another program drew, from int4 weights say: truncated, without a gradient.

    p_trainer / p_sampler for each token, at most 2 (Yao et al. 2025).
    """
    return (logp.detach() - sampler_logp).clamp(max=LOG_RATIO_LIMIT).exp().clamp(max=2.0)


def reward_pair_loss(better: Tensor, worse: Tensor, margin: Tensor | float = 0.0, tie: Tensor | None = None) -> Tensor:
    """-log p(better beats worse) of the Bradley-Terry model, where it should by `margin` (arXiv 2307.09288, eq. 2).

    Where `tie` is True both orders are equally right: the loss is least where the rewards are equal.
    """
    difference = better - worse
    ordered = -F.logsigmoid(difference - margin)
    if tie is None:
        return ordered
    return torch.where(tie, -(F.logsigmoid(difference) + F.logsigmoid(-difference)) / 2, ordered)


def preference_loss(
    chosen: Tensor,
    rejected: Tensor,
    kind: PreferenceLoss = "dpo",
    beta: float = 0.1,
    gamma: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The loss of each pair, and its margin: how far the policy's implicit rewards put the chosen answer ahead.

    dpo (arXiv 2305.18290, eq. 7): arguments are the sums of log-ratios to the reference; ln 2 where policy = reference.
    ipo (arXiv 2310.12036, eq. 17): means of log-ratios a token; the margin is drawn to 1 / (2 beta), not to infinity.
    simpo (arXiv 2405.14734, eq. 6): mean log-probabilities, without a reference; gamma is the margin aimed at.
    """
    difference = chosen - rejected
    if kind == "ipo":
        return (difference - 1 / (2 * beta)).square(), beta * difference
    return -F.logsigmoid(beta * difference - (gamma if kind == "simpo" else 0.0)), beta * difference


def distillation_loss(student_NV: Tensor, teacher_NV: Tensor, reverse: bool = False) -> Tensor:
    """[N] KL(teacher || student) of logits, or KL(student || teacher) where `reverse` (arXiv 2306.08543).

    Forward covers all that the teacher might say, reverse keeps to what it is sure of. 0 where the two agree.
    """
    student, teacher = student_NV.log_softmax(-1), teacher_NV.log_softmax(-1)
    left, right = (student, teacher) if reverse else (teacher, student)
    return (left.exp() * (left - right)).sum(-1)
