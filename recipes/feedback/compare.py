"""Which of two models answers better, as a reward model sees it: `python compare.py OLD NEW REWARD PROMPTS.jsonl`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro

import openglm
from openglm.align.reward_model import RewardModel
from openglm.data.prompts import read_prompts
from openglm.engine.params import SamplingParams


def main(
    old: tyro.conf.Positional[str],
    new: tyro.conf.Positional[str],
    reward: tyro.conf.Positional[str],
    prompts: tyro.conf.Positional[Path],
    draws: int = 8,
    max_tokens: int = 48,
) -> None:
    """Share of prompts on which the new model's answers get the higher reward, ties counted half, over `draws` answers
    each; with its 95 % interval by bootstrap over prompts, and the lengths of the answers."""
    asked = read_prompts(prompts, "prompts")
    judge = RewardModel(reward)
    rewards, lengths = [], []
    for name in (old, new):
        tokenizer = openglm.load_tokenizer(name)
        ids = [tokenizer.render(one.messages, generation_prompt=True)[0] for one in asked for _ in range(draws)]
        usual = tokenizer.format.sampling
        params = [
            SamplingParams(max_tokens=max_tokens, temperature=usual.temperature, top_p=usual.top_p, seed=seed)
            for seed in range(len(ids))
        ]
        drawn = openglm.Engine(openglm.load_model(name), tokenizer=tokenizer).generate(ids, params)
        texts = [one.text for one in drawn]
        rewards.append(np.array(judge([one for one in asked for _ in range(draws)], texts)).reshape(-1, draws))
        lengths.append(np.mean([len(text) for text in texts]))
    before, after = rewards
    wins = (after[:, :, None] > before[:, None]).mean((1, 2)) + (after[:, :, None] == before[:, None]).mean((1, 2)) / 2
    rng = np.random.default_rng(1)
    low, high = np.percentile([rng.choice(wins, len(wins)).mean() for _ in range(2000)], [2.5, 97.5])
    print(
        f"the new model wins {100 * wins.mean():.1f} % ({100 * low:.1f} to {100 * high:.1f}) of {len(asked)} prompts; "
        f"reward {before.mean():+.3f} -> {after.mean():+.3f}, characters {lengths[0]:.1f} -> {lengths[1]:.1f}"
    )


if __name__ == "__main__":
    tyro.cli(main)
