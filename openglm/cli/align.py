"""`glm reward`, `dpo`, `ppo` and `grpo`: a model learns from judgements of answers."""

from __future__ import annotations

import tyro

from openglm.cli.options import parse
from openglm.cli.pretrain import open_train, report
from openglm.config import DPOConfig, GRPOConfig, PairsConfig, PPOConfig, PromptsConfig, RewardConfig

_PAIRS, _PROMPTS = PairsConfig(pairs=tyro.MISSING), PromptsConfig(prompts=tyro.MISSING)
_REWARDED = "Tune a model by the rewards of its own answers (--data.prompts FILE.jsonl, --rollout.check arithmetic)."
_VERBS = {
    "reward": (
        RewardConfig,
        _PAIRS,
        "Teach a model to score answers from pairs of a better and a worse one (--data.pairs FILE.jsonl).",
    ),
    "dpo": (
        DPOConfig,
        _PAIRS,
        "Tune a model to prefer the better of two answers (--data.pairs FILE.jsonl with prompt, chosen, rejected).",
    ),
    "ppo": (PPOConfig, _PROMPTS, _REWARDED),
    "grpo": (GRPOConfig, _PROMPTS, _REWARDED),
}


def run(argv: list[str], verb: str) -> int:
    kind, data, about = _VERBS[verb]
    default = kind(init_from=tyro.MISSING, train=open_train(), data=data)
    config = parse(kind, argv, f"glm {verb}", f"{about} The same command resumes a run.", default)
    from openglm.align import online, pairs

    return report(getattr(pairs if data is _PAIRS else online, verb)(config))
