"""GRPO (arXiv 2402.03300) and PPO (arXiv 1707.06347): a model learns from the rewards of its own answers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openglm.align.advantages import Advise, by_values, in_groups
from openglm.align.checks import CHECKS, known_answer
from openglm.align.objectives import PolicyAndValue, PolicyTokens
from openglm.align.report import write_report
from openglm.align.reward_model import RewardModel
from openglm.align.rollouts import Rollouts, Score
from openglm.checkpoints.load import load_model, network_and_tokenizer
from openglm.checkpoints.native import resolve, save_model
from openglm.config import (
    DataConfig,
    GRPOConfig,
    InfillingConfig,
    ModelConfig,
    PPOConfig,
    RolloutRunConfig,
    require,
)
from openglm.data.conversations import Message
from openglm.data.dialogue import DialogueSource, fit
from openglm.data.mixture import Mixture
from openglm.data.prompts import Prompt, read_prompts
from openglm.data.shards import is_corpus
from openglm.data.texts import read_corpus
from openglm.parallel.processes import shape
from openglm.runtime import launched, say
from openglm.text.load import load_tokenizer
from openglm.text.tokenizer import Tokenizer
from openglm.train.loop import train
from openglm.train.objective import Objective
from openglm.train.run import OnStep, Result, Run


def grpo(config: GRPOConfig, on_step: OnStep | None = None) -> Result:
    """Tune `config.init_from` by its answers' rewards in groups, in `config.train.out`; the same call resumes.

    Raises ValueError in one line.
    """
    return _run(config, in_groups(config), _policy(config, config.beta), on_step, penalty=config.beta > 0)


def ppo(config: PPOConfig, on_step: OnStep | None = None) -> Result:
    """Tune `config.init_from` by its answers' rewards and a value head, in `config.train.out`; the same call resumes.

    Actor and critic are one network: the value head reads the policy's last hidden states, and the finished model comes
    without it. Raises ValueError in one line.
    """
    objective = PolicyAndValue(_policy(config), config.value_weight, config.value_clip)
    result = _run(config, by_values(config), objective, on_step, penalty=True, score=True)
    if result.model is not None and launched()[1] == 0:
        trained, tokenizer = load_model(result.model, device="cpu", dtype="float32"), load_tokenizer(result.model)
        trained.score, trained.config = None, replace(trained.config, score=False)
        save_model(result.model, trained, tokenizer)
    return result


def _policy(config: RolloutRunConfig, beta: float = 0.0) -> PolicyTokens:
    return PolicyTokens(
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
        beta=beta,
        temperature=config.rollout.temperature,
        demonstration_weight=config.demonstration_weight,
    )


def _run(
    config: RolloutRunConfig,
    advise: Advise,
    objective: Objective,
    on_step: OnStep | None,
    *,
    penalty: bool,
    score: bool = False,
) -> Result:
    """penalty: the KL to the model that training begins with is needed, so that model stays in memory. score: the
    network gets a value head."""
    shape(config.parallel, launched()[0])
    folder = resolve(config.init_from)
    model, tokenizer = network_and_tokenizer(folder)
    model = replace(model, score=score or model.score)
    sizes = config.train.seq_len, config.rollout.max_tokens
    prompts, heldout = (
        fitting(tokenizer, read_prompts(file, option), *sizes, option) if file else []
        for option, file in (("data.prompts", config.data.prompts), ("data.heldout", config.data.heldout))
    )
    rollouts = Rollouts(
        config, prompts, heldout, tokenizer, scorer(config), advise, _demonstrations(config, model, tokenizer)
    )
    if penalty:
        rollouts.reference = load_model(folder, device=config.train.device, dtype="float32")
    run = Run(
        config=config,
        model=model,
        rows=rollouts,
        objective=objective,
        tokenizer=tokenizer,
        init_from=str(folder),
        attach=rollouts.attach,
        on_step=on_step,
    )
    result = train(run)
    if result.model is None or launched()[1]:
        return result
    if heldout and launched()[0] == 1:  # otherwise the processes have parted by now
        result = replace(result, heldout=rollouts.evaluate(load_model(result.model, dtype="float32")))
    write_report(Path(config.train.out))
    return result


def _demonstrations(config: RolloutRunConfig, model: ModelConfig, tokenizer: Tokenizer) -> Mixture | None:
    """Rows of conversations, or of plain text: most of it read from left to right, a quarter with blanks."""
    path, option, seed = config.data.demonstrations, "data.demonstrations", config.data.seed
    if not path:
        return None
    given = model.tokens, config.train.seq_len, model.span_positions
    corpus, dialogues = None, {}
    if is_corpus(path):
        corpus = read_corpus(path, option, tokenizer)
    else:
        dialogues[option] = DialogueSource(path, tokenizer, *given, seed, option=option)
        say(dialogues[option].summary)
    infilling = InfillingConfig(mask_share=0.25, gmask_share=0.75, gmask_min_ratio=1.0)
    return Mixture(corpus, DataConfig(seed=seed), infilling, *given, dialogues=dialogues)


def scorer(config: RolloutRunConfig) -> Score:
    """What gives rewards: a check, or a reward model."""
    name, folder = config.rollout.check, config.rollout.reward_model
    require(bool(name) != bool(folder), "rollout.check", name, "give a check or rollout.reward_model, one of them")
    require(not config.rollout.baseline or bool(folder), "rollout.baseline", True, "belongs to rollout.reward_model")
    if folder:
        judge = RewardModel(folder, config.train.device)
        return above_own_answers(judge) if config.rollout.baseline else judge
    require(name in CHECKS, "rollout.check", name, f"choose one of {', '.join(CHECKS)}")
    check = CHECKS[name]
    return lambda prompts, answers: [check(one, answer) for one, answer in zip(prompts, answers, strict=True)]


def above_own_answers(score: Score) -> Score:
    """Rewards above those of the answers that the prompts bring: questions whose every answer scores high or low count
    like others (ChatGLM-RLHF, arXiv 2404.00934)."""
    known: dict[int, float] = {}

    def above(prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        new = {id(one): one for one in prompts if id(one) not in known}
        own = score(list(new.values()), [known_answer(one) for one in new.values()])
        known.update(zip(new, own, strict=True))
        found = score(prompts, answers)
        return [reward - known[id(one)] for one, reward in zip(prompts, found, strict=True)]

    return above


def fitting(tokenizer: Tokenizer, prompts: list[Prompt], seq_len: int, max_tokens: int, option: str) -> list[Prompt]:
    """Prompts that leave room for an answer; long ones lose their oldest turns. Says how many did, or were left out."""
    room = seq_len + 1 - max_tokens
    found, shortened = [], 0
    for one in prompts:

        def fitted(kept: list[Message], tools: list[Any] | None = one.tools) -> list[Message] | None:
            ids, _ = tokenizer.render(kept, tools=tools, generation_prompt=True)
            return kept if len(ids) <= room else None

        messages, lost = fit(fitted, one.messages)
        if messages:
            found.append(replace(one, messages=messages))
            shortened += lost > 0
    left_out = len(prompts) - len(found)
    require(
        bool(found),
        option,
        f"{left_out} prompts",
        f"none leaves room for {max_tokens} tokens of answer in train.seq_len = {seq_len}",
    )
    say(f"{option}: {len(found)} prompts; {shortened} lost their oldest turns and {left_out} were left out to fit")
    return found
