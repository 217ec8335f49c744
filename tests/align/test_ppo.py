"""PPO on the same rounds as GRPO: rewards at the right tokens, a value head that learns, a policy that improves."""

import json

import numpy as np
import pytest
import torch
from helpers.pairs import SHAPE, WORDS, logs_of_one_and_two, write_prompts
from helpers.tiny_runs import options

import openglm
from openglm.align.advantages import by_values
from openglm.align.checks import CHECKS
from openglm.align.online import ppo
from openglm.checkpoints.load import network_config
from openglm.config import OptimizerConfig, PPOConfig, PromptsConfig, RolloutConfig


@pytest.fixture
def polite(monkeypatch):
    monkeypatch.setitem(CHECKS, "exact", lambda _, answer: float(answer.startswith("please")))


def config_of(out, model, tmp_path, lr=1e-3, rollout=None, ppo_options=None, **changes):
    file = write_prompts(tmp_path / "prompts.jsonl", answer="x")
    given = {"check": "exact", "questions": 32, "group": 1, "max_tokens": 8, "epochs": 2, "eval_rounds": 100}
    train = options(out, seq_len=SHAPE.max_positions, **{"batch_rows": 16, "log_every": 1, **changes})
    return PPOConfig(
        init_from=str(model),
        data=PromptsConfig(prompts=str(file), heldout=str(file)),
        train=train,
        rollout=RolloutConfig(**{**given, **(rollout or {})}),
        optimizer=OptimizerConfig(lr=lr, schedule="constant", warmup_ratio=0),
        **(ppo_options or {}),
    )


def recorded(config):
    records = []
    return ppo(config, on_step=lambda _, record: records.append(record)), records


def rounds(out):
    found = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["round"] for line in found if "round" in line]


def test_rewarded_answers_become_the_rule_and_the_value_head_stays_behind(talker, tmp_path, polite):
    result, records = recorded(config_of(tmp_path / "run", talker, tmp_path, steps=48, ppo_options={"kl": 0.01}))
    found = rounds(tmp_path / "run")
    rewards = [one["reward"] for one in found]
    assert 0.1 < rewards[0] < 0.7 and sum(rewards[-3:]) / 3 > 0.85, rewards  # 96 answers
    assert result.heldout["reward"] > rewards[0]
    assert records[-1]["metrics"]["value_loss"] < records[0]["metrics"]["value_loss"]
    assert network_config(result.model) == network_config(talker)
    assert "score.weight" not in openglm.load_model(result.model).state_dict()


def test_nothing_has_moved_before_the_first_update(talker, tmp_path, polite):
    _, records = recorded(config_of(tmp_path / "run", talker, tmp_path, lr=1e-12, steps=4))
    for record in records:
        assert record["metrics"]["ratio"] == pytest.approx(1, abs=1e-5) and record["metrics"]["clipped"] == 0
    assert abs(rounds(tmp_path / "run")[0]["answer_kl"]) < 1e-4


@pytest.mark.parametrize("at", [4, 6])
def test_a_stopped_run_ends_where_an_uninterrupted_one_does(talker, tmp_path, polite, at):
    """At the end of a round, whose KL decides the cost of the next, and inside of one."""
    more = {"kl_target": 0.5, "kl_horizon": 64}
    whole, records = recorded(config_of(tmp_path / "whole", talker, tmp_path, steps=12, ppo_options=more))
    config = config_of(tmp_path / "cut", talker, tmp_path, steps=12, ppo_options=more)
    (tmp_path / "cut").mkdir()

    def stop(step, _):
        if step == at:
            (tmp_path / "cut" / "stop").touch()

    assert not ppo(config, on_step=stop).finished
    (tmp_path / "cut" / "stop").unlink(missing_ok=True)
    resumed, rest = recorded(config)
    assert [r["loss"] for r in rest] == [r["loss"] for r in records[at:]]
    first, second = (openglm.load_model(result.model).state_dict() for result in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    coefficients = [one["kl_coefficient"] for one in rounds(tmp_path / "cut")]
    assert coefficients == [one["kl_coefficient"] for one in rounds(tmp_path / "whole")]
    assert len(set(coefficients)) > 1


def test_advantages_of_answers_of_different_lengths_are_those_of_each_alone():
    """Without whitening's mean and scale, which are the batch's: differences inside an answer have the same ratios."""
    config = config_of("unused", "nano", _Nowhere(), ppo_options={"kl": 0.3, "smoothing": 0.5})
    rng = np.random.default_rng(0)
    lengths, rewards = (5, 2, 7), [1.0, -1.0, 0.5]
    measured = {name: [rng.normal(size=n).tolist() for n in lengths] for name in ("old_logp", "reference", "value")}
    together = by_values(config)(rewards, measured, {})
    for number, length in enumerate(lengths):
        own = {name: [values[number]] for name, values in measured.items()}
        alone = by_values(config)([rewards[number]], own, {})
        assert together["returns"][number] == pytest.approx(alone["returns"][0], abs=1e-5)
        assert len(together["advantage"][number]) == length
    # The last token's return is its reward less its KL.
    logp, reference = measured["old_logp"][1][-1], measured["reference"][1][-1]
    assert together["returns"][1][-1] == pytest.approx(rewards[1] - 0.3 * (logp - reference), abs=1e-5)


class _Nowhere:
    """A folder whose files are not written."""

    def __truediv__(self, name):
        return self

    def write_text(self, *_, **__):
        pass


def test_two_processes_take_the_steps_of_one(talker, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    asked = [{"prompt": f"what about {word}?", "answer": f"please, {word}"} for word in WORDS]
    prompts.write_text("".join(json.dumps(one) + "\n" for one in asked), encoding="utf-8")

    def command(out):
        return [
            "ppo", "--init-from", str(talker), "--data.prompts", str(prompts), "--train.out", str(out),
            "--train.steps", "8", "--train.seq-len", str(SHAPE.max_positions), "--train.batch-rows", "16",
            "--train.save-every", "4", "--train.device", "cpu", "--train.dtype", "float32", "--train.log-every", "1",
            "--rollout.check", "exact", "--rollout.questions", "32", "--rollout.epochs", "2", "--rollout.max-tokens", "8",
            "--optimizer.lr", "1e-3", "--kl-target", "0.5",
        ]  # fmt: skip

    logs = logs_of_one_and_two(tmp_path, command)
    assert [one.get("round") for one in logs[0]] == [pytest.approx(two.get("round"), abs=1e-4) for two in logs[1]]
    for one, two in zip(*logs, strict=True):
        if "loss" in one:
            assert one["loss"] == pytest.approx(two["loss"], rel=1e-4, abs=1e-6)
            assert one["metrics"] == pytest.approx(two["metrics"], rel=1e-3, abs=1e-5)
