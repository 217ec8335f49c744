"""GRPO: a model learns from the rewards of its own answers, compared in groups (arXiv 2402.03300)."""

from __future__ import annotations

from dataclasses import replace

from openglm.align.checks import CHECKS
from openglm.align.objectives import PolicyTokens
from openglm.align.reward_model import RewardModel
from openglm.align.rollouts import Rollouts, Score
from openglm.checkpoints.load import load_model, network_config
from openglm.checkpoints.native import resolve
from openglm.config import GRPOConfig, require
from openglm.data.dialogue import shorten
from openglm.data.prompts import Prompt, read_prompts
from openglm.parallel.processes import shape
from openglm.runtime import launched, say
from openglm.text.load import load_tokenizer
from openglm.text.tokenizer import Tokenizer
from openglm.train.loop import train
from openglm.train.run import OnStep, Result, Run


def grpo(config: GRPOConfig, on_step: OnStep | None = None) -> Result:
    """Tune `config.init_from` by its answers' rewards, in `config.train.out`; the same call resumes.

    Raises ValueError in one line.
    """
    shape(config.parallel, launched()[0])
    folder = resolve(config.init_from)
    tokenizer = load_tokenizer(folder)
    prompts, heldout = (
        fitting(config, tokenizer, read_prompts(file, option), option) if file else []
        for option, file in (("data.prompts", config.data.prompts), ("data.heldout", config.data.heldout))
    )
    score = scorer(config)
    rollouts = Rollouts(config, prompts, heldout, tokenizer, score)
    if config.beta:
        rollouts.reference = load_model(folder, device=config.train.device, dtype="float32")
    objective = PolicyTokens(
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
        beta=config.beta,
        temperature=config.rollout.temperature,
    )
    run = Run(
        config=config,
        model=network_config(folder),
        rows=rollouts,
        objective=objective,
        tokenizer=tokenizer,
        init_from=str(folder),
        attach=rollouts.attach,
        on_step=on_step,
    )
    result = train(run)
    if result.model is None or not heldout or launched()[0] > 1:  # the processes have parted by now
        return result
    return replace(result, heldout=rollouts.evaluate(load_model(result.model, dtype="float32")))


def scorer(config: GRPOConfig) -> Score:
    """What gives rewards: a check, or a reward model."""
    name, folder = config.rollout.check, config.rollout.reward_model
    require(bool(name) != bool(folder), "rollout.check", name, "give a check or rollout.reward_model, one of them")
    if folder:
        return RewardModel(folder, config.train.device)
    require(name in CHECKS, "rollout.check", name, f"choose one of {', '.join(CHECKS)}")
    check = CHECKS[name]
    return lambda prompts, answers: [check(one, answer) for one, answer in zip(prompts, answers, strict=True)]


def fitting(config: GRPOConfig, tokenizer: Tokenizer, prompts: list[Prompt], option: str) -> list[Prompt]:
    """Prompts that leave room for an answer; long ones lose their oldest turns. Counts both."""
    room = config.train.seq_len + 1 - config.rollout.max_tokens
    found, shortened = [], 0
    for one in prompts:
        messages = one.messages
        while messages and len(tokenizer.render(messages, tools=one.tools, generation_prompt=True)[0]) > room:
            messages = shorten(messages)
        if messages:
            found.append(replace(one, messages=messages))
            shortened += messages != one.messages
    left_out = len(prompts) - len(found)
    require(
        bool(found),
        option,
        f"{left_out} prompts",
        f"none leaves room for {config.rollout.max_tokens} tokens of answer in train.seq_len = {config.train.seq_len}",
    )
    say(f"{option}: {len(found)} prompts; {shortened} lost their oldest turns and {left_out} were left out to fit")
    return found
