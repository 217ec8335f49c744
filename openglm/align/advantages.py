"""How much better an answer's tokens were than expected: from its group in GRPO, from the value head in PPO.

Both take what a round holds as lists, one a token of each answer, and give lists of the same lengths.
Shapes: B answers, T tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from openglm.align.losses import (
    adapt_kl_coefficient,
    advantages_and_returns,
    group_advantages,
    kl_estimate,
    place_rewards,
    whiten,
)
from openglm.config import GRPOConfig, PPOConfig

Advise = Callable[[list[float], dict[str, Any], dict[str, Any]], dict[str, Any]]
"""(rewards, the round's log-probabilities and values, what the round before said) -> advantage, returns and more"""


def in_groups(config: GRPOConfig) -> Advise:
    """Every token of an answer has the answer's advantage over the others to its question."""

    def advise(rewards: list[float], measured: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
        groups = torch.arange(len(rewards)) // config.rollout.group
        advantages = group_advantages(torch.tensor(rewards), groups, config.by_deviation).tolist()
        lengths = [len(tokens) for tokens in measured["old_logp"]]
        spread = [[advantage] * length for advantage, length in zip(advantages, lengths, strict=True)]
        return {"advantage": spread, "returns": [[0.0] * length for length in lengths]}

    return advise


def by_values(config: PPOConfig) -> Advise:
    """Generalized advantages over the values, of rewards that every token pays its KL from; whitened over the round."""

    def advise(rewards: list[float], measured: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
        coefficient = before.get("next_kl_coefficient", config.kl)
        logp_BT, mask_BT = _padded(measured["old_logp"])
        reference_BT, values_BT = (_padded(measured[name])[0] for name in ("reference", "value"))
        kl_BT = torch.where(mask_BT, kl_estimate(logp_BT, reference_BT), 0.0)
        placed_BT = place_rewards(torch.tensor(rewards), kl_BT, mask_BT, coefficient)
        advantages_BT, returns_BT = advantages_and_returns(
            placed_BT, values_BT, mask_BT, config.discount, config.smoothing
        )
        kl = float(kl_BT.sum(1).mean())
        after = coefficient
        if config.kl_target:
            after = adapt_kl_coefficient(coefficient, kl, config.kl_target, len(rewards), config.kl_horizon)
        return {
            "advantage": _listed(whiten(advantages_BT, mask_BT), mask_BT),
            "returns": _listed(returns_BT, mask_BT),
            "answer_kl": kl,
            "kl_coefficient": coefficient,
            "next_kl_coefficient": after,
        }

    return advise


def _padded(lists: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    """[B, T] values, and True where there are some."""
    lengths = torch.tensor([len(values) for values in lists])
    values_BT = torch.nn.utils.rnn.pad_sequence([torch.tensor(values) for values in lists], batch_first=True)
    return values_BT, torch.arange(values_BT.shape[1]) < lengths[:, None]


def _listed(values_BT: Tensor, mask_BT: Tensor) -> list[list[float]]:
    return [values_T[mask_T].tolist() for values_T, mask_T in zip(values_BT, mask_BT, strict=True)]
