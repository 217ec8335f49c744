"""GRPO from prompts to a better model: rounds, rows, ratios, resumes."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.pairs import SHAPE, WORDS, write_chats, write_prompts
from helpers.scripted import scripted, with_marks
from helpers.text_samples import TEXTS, VOCAB_SIZE
from helpers.tiny_runs import options

import openglm
from openglm.align import online as module
from openglm.align.checks import CHECKS, last_number
from openglm.align.measure import log_probabilities, measure
from openglm.align.objectives import PolicyTokens
from openglm.align.online import grpo
from openglm.align.rollouts import Rollouts
from openglm.cli.main import main
from openglm.config import GRPOConfig, OptimizerConfig, PromptsConfig, RolloutConfig
from openglm.data.dialogue import conversation_sample
from openglm.data.mixture import pack
from openglm.data.prompts import Prompt, prompt
from openglm.data.shards import write_manifest, write_source
from openglm.text import train_tokenizer
from openglm.train.objective import Head


@pytest.fixture
def polite(monkeypatch):
    """A reward for polite answers in place of the named check."""
    monkeypatch.setitem(CHECKS, "exact", lambda _, answer: float(answer.startswith("please")))


def config_of(out, model, tmp_path, lr=1e-3, rollout=None, shown="", weight=0.0, **changes):
    file = write_prompts(tmp_path / "prompts.jsonl", answer="x")
    given = {"check": "exact", "questions": 4, "group": 8, "max_tokens": 8, "eval_rounds": 100, **(rollout or {})}
    train = options(
        out, seq_len=SHAPE.max_positions, **{"batch_rows": 16, "accumulation": 2, "log_every": 1, **changes}
    )
    return GRPOConfig(
        init_from=str(model),
        data=PromptsConfig(prompts=str(file), heldout=str(file), demonstrations=str(shown)),
        train=train,
        rollout=RolloutConfig(**given),
        demonstration_rows=4,
        demonstration_weight=weight,
        optimizer=OptimizerConfig(lr=lr, schedule="constant", warmup_ratio=0),
    )


def recorded(config):
    records = []
    return grpo(config, on_step=lambda _, record: records.append(record)), records


def lines(out, key):
    found = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line[key] for line in found if key in line]


def test_answers_that_are_rewarded_become_the_rule(talker, tmp_path, polite):
    out = tmp_path / "run"
    result, _ = recorded(config_of(out, talker, tmp_path, steps=24, save_every=4))
    first = lines(out, "heldout")[0]["reward"]
    assert 0.1 < first < 0.9 < result.heldout["reward"], (first, result.heldout)
    rounds = lines(out, "round")
    assert len(rounds) == 12 and rounds[-1]["reward"] > rounds[0]["reward"]
    assert all(one["finished"] > 0.9 for one in rounds)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_before_an_update_the_ratio_is_one_and_nothing_has_moved(talker, tmp_path, polite, temperature):
    """Answers of different lengths, in padded rows, at a temperature; the first pass over each round."""
    rollout = {"temperature": temperature, "epochs": 1}
    _, records = recorded(config_of(tmp_path / "run", talker, tmp_path, lr=1e-12, steps=4, rollout=rollout))
    for record in records:
        assert record["metrics"]["ratio"] == pytest.approx(1, abs=1e-5)
        assert record["metrics"]["kl"] == pytest.approx(0, abs=1e-6)
        assert record["metrics"]["clipped"] == 0


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_engine_and_the_training_code_agree_on_what_was_drawn(talker, tmp_path, polite, temperature):
    """The engine's log-probability of every drawn token against the trainer's, on the same weights."""
    recorded(config_of(tmp_path / "run", talker, tmp_path, steps=4, rollout={"temperature": temperature}))
    assert all(one["largest_sampler_gap"] < 1e-3 for one in lines(tmp_path / "run", "round"))


def test_a_step_does_not_depend_on_how_it_is_divided(talker, tmp_path, polite):
    runs = [
        recorded(config_of(tmp_path / str(parts), talker, tmp_path, steps=4, accumulation=parts))[1] for parts in (1, 8)
    ]
    for one, other in zip(*runs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("at", [4, 5, 6])
def test_a_run_stopped_anywhere_in_a_round_ends_where_an_uninterrupted_one_does(talker, tmp_path, polite, at):
    """Rounds of four steps: at the end of one, and inside of the next, whose answers were drawn by older weights."""
    rollout = {"epochs": 2}
    whole, records = recorded(config_of(tmp_path / "whole", talker, tmp_path, steps=8, rollout=rollout))
    config = config_of(tmp_path / "cut", talker, tmp_path, steps=8, rollout=rollout)
    (tmp_path / "cut").mkdir()

    def stop(step, _):
        if step == at:
            (tmp_path / "cut" / "stop").touch()

    assert not grpo(config, on_step=stop).finished
    (tmp_path / "cut" / "stop").unlink(missing_ok=True)
    resumed, rest = recorded(config)
    assert [r["loss"] for r in rest] == [r["loss"] for r in records[at:]]
    first, second = (openglm.load_model(result.model).state_dict() for result in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [lines(tmp_path / out, "round") for out in ("whole", "cut")].count(lines(tmp_path / "cut", "round")) == 2


def test_groups_that_agree_move_no_weight(talker, tmp_path, monkeypatch):
    monkeypatch.setitem(CHECKS, "exact", lambda *_: 1.0)
    rollout = {"unfinished": 1.0}
    _, records = recorded(config_of(tmp_path / "run", talker, tmp_path, steps=2, rollout=rollout))
    assert all(record["loss"] == 0 == record["grad_norm"] for record in records)


def test_an_answer_that_was_cut_off_gets_the_reward_of_unfinished_ones(talker, tmp_path, polite):
    rollout = {"max_tokens": 1, "unfinished": -0.5}
    recorded(config_of(tmp_path / "run", talker, tmp_path, steps=2, rollout=rollout))
    (one,) = lines(tmp_path / "run", "round")
    assert one["finished"] == 0 and one["reward"] == -0.5


def test_every_question_comes_once_before_any_comes_again(talker, tmp_path, polite, monkeypatch):
    asked = []
    make = module.Rollouts.answers

    def watched(self, model, prompts, number, endpoint=None):
        asked.append([one.messages[0]["content"] for one in prompts[:: self.config.rollout.group]])
        return make(self, model, prompts, number, endpoint)

    monkeypatch.setattr(module.Rollouts, "answers", watched)
    config = config_of(tmp_path / "run", talker, tmp_path, steps=8, save_every=2)
    grpo(dataclasses.replace(config, data=dataclasses.replace(config.data, heldout="")))
    assert len(set(asked[0] + asked[1])) == 8 == len(set(asked[2] + asked[3]))
    assert asked[0] + asked[1] != asked[2] + asked[3]


@pytest.mark.parametrize(
    ("text", "value"),
    [("42", 42), ("it is 1,234.", 1234), ("3 + 4 = 7", 7), ("-2.50", -2.5), ("3/4", 0.75), ("1/0", None), ("none", None), ("9" * 100, None)],
)  # fmt: skip
def test_the_last_number_of_an_answer(text, value):
    found = last_number(text)
    assert (found is None) == (value is None) and (value is None or float(found) == value)


def test_arithmetic_is_exact():
    asked = Prompt([], known={"answer": "0.1"})
    assert CHECKS["arithmetic"](asked, "the result is 1/10") == 1.0
    assert CHECKS["arithmetic"](asked, "0.10000000000000001") == 0.0
    with pytest.raises(ValueError, match="answer = None"):
        CHECKS["arithmetic"](Prompt([]), "1")


@pytest.mark.parametrize(
    ("record", "words"),
    [([], "record = list"), ({}, "prompt = None"), ({"prompt": [{"role": "assistant", "content": "a"}]}, "prompt")],
)
def test_a_wrong_prompt_is_named(record, words):
    with pytest.raises(ValueError, match="^" + words):
        prompt(record)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rollout.check", "beauty"], "rollout.check = 'beauty': choose one of arithmetic, exact"),
        ([], "rollout.check = '': give a check or rollout.reward_model"),
        (
            ["--rollout.check", "exact", "--train.batch-rows", "48"],
            "train.batch_rows = 48: must divide the 128 answers",
        ),
        (["--rollout.check", "exact", "--train.save-every", "3"], "train.save_every = 3: must be a multiple of 4"),
        (["--rollout.check", "exact", "--rollout.max-tokens", "64"], "none leaves room for 64 tokens"),
        (["--rollout.reward-model", "."], "config.json"),
    ],
)
def test_a_wrong_option_is_one_line(talker, tmp_path, capsys, arguments, words):
    file = write_prompts(tmp_path / "prompts.jsonl", answer="x")
    command = ["grpo", "--init-from", str(talker), "--data.prompts", str(file), "--train.out", str(tmp_path / "x")]
    usual = ["--train.steps", "1", "--train.seq-len", "64", "--train.save-every", "4", "--rollout.max-tokens", "8"]
    assert main([*command, *usual, *arguments]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in error, error


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_answers_drawn_with_fewer_bits_teach_the_same_rule(talker, tmp_path, polite, bits):
    """The gap to the trainer's probabilities is logged; it is larger than without, and weighed in the loss."""
    out = tmp_path / bits
    config = config_of(out, talker, tmp_path, steps=32, save_every=4, rollout={"quantize": bits})
    result, _ = recorded(config)
    assert result.heldout["reward"] > 0.9
    assert 1e-4 < lines(out, "round")[0]["largest_sampler_gap"] < 2


def test_a_token_counts_by_how_much_likelier_the_trainer_makes_it_than_the_sampler_did(talker):
    """Up to twice: what the gradient holds of a token that the sampler gave half, the same, or a tenth of its chance."""
    model = openglm.load_model(talker)
    objective, head = PolicyTokens(), Head(model, torch.float32)
    hidden_NH = torch.randn(3, SHAPE.hidden, generator=torch.Generator().manual_seed(1)).requires_grad_()
    targets = torch.tensor([5, 6, 7])
    old = -head.cross_entropy(hidden_NH, targets).detach()
    zeros = torch.zeros(3)
    given = {"targets": targets, "old_logp": old, "reference": zeros, "advantage": zeros + 1, "demonstration": zeros}
    weights = torch.tensor([1.0, 0.5, 10.0])
    grads = []
    for gap in (zeros, weights.log()):
        loss, _ = objective.loss(head, hidden_NH, {**given, "sampler_logp": old - gap})
        grads.append(torch.autograd.grad(loss, hidden_NH)[0])
    ratio = grads[1] / grads[0]
    assert torch.allclose(ratio, torch.tensor([1.0, 0.5, 2.0])[:, None].expand_as(ratio), rtol=1e-4)


def test_demonstrations_keep_what_rewards_would_unlearn(talker, tmp_path, polite):
    """Rewards ask for `please`, demonstrations show `no`: with a heavy weight they win, and no round sees them."""
    chats = tmp_path / "chats.jsonl"
    turns = [
        [{"role": "user", "content": f"what about {word}?"}, {"role": "assistant", "content": f"no, {word}"}]
        for word in WORDS
    ]
    chats.write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns), encoding="utf-8")
    found = {}
    for weight in (0.0, 20.0):
        out = tmp_path / str(weight)
        config = config_of(out, talker, tmp_path, steps=24, save_every=4, batch_rows=20, shown=chats, weight=weight)
        found[weight] = recorded(config)[0].heldout["reward"]
        assert len(lines(out, "round")) == 12
    assert found[0.0] > 0.9 > 0.3 > found[20.0], found


def test_plain_text_is_learned_beside_the_rewards(talker, tmp_path, polite):
    """From a corpus; rewards are learned all the same."""
    tokenizer, folder = openglm.load_tokenizer("nano"), tmp_path / "corpus"
    folder.mkdir()
    texts = [f"A {one} lies on a {other}, and a {other} on a {one}." for one in WORDS for other in WORDS]
    ids = [np.array(tokenizer.encode(text)) for text in texts]
    shards = write_source(folder, "text", "train", ids, tokenizer.vocab_size)
    write_manifest(
        folder,
        tokenizer.fingerprint,
        tokenizer.vocab_size,
        [{"name": "text", "shards": shards, "heldout": {"documents": 0}}],
    )
    special = tokenizer.tokens
    rows = []
    for one in ids:
        whole = [special.gmask, special.sop, *one, special.eop]
        sample = conversation_sample(whole, np.arange(len(whole)) > 1, special, SHAPE.span_positions)
        rows.append(pack([sample], SHAPE.max_positions, special.pad))
    nats = {}
    for weight in (0.0, 0.2):
        out = tmp_path / str(weight)
        config = config_of(out, talker, tmp_path, steps=24, save_every=4, batch_rows=20, shown=folder, weight=weight)
        result = recorded(config)[0]
        assert result.heldout["reward"] > 0.9, (weight, result.heldout)
        model = openglm.load_model(result.model, dtype="float32")
        nats[weight] = -sum(each.sum() for each in measure(model, rows, torch.float32, log_probabilities()))
    assert nats[0.2] < 0.8 * nats[0.0], nats


def test_demonstrations_of_no_weight_change_nothing(talker, tmp_path, polite):
    chats = write_chats(tmp_path / "chats.jsonl", 16)
    plain = config_of(tmp_path / "plain", talker, tmp_path, steps=4, batch_rows=16)
    more = config_of(tmp_path / "more", talker, tmp_path, steps=4, batch_rows=20, shown=chats)
    for one, other in zip(recorded(plain)[1], recorded(more)[1], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["metrics"] == pytest.approx(other["metrics"], rel=1e-3, abs=1e-5)


def test_a_reward_above_that_of_the_prompts_own_answer():
    prompts = [prompt({"prompt": "a", "answer": "xx"}), prompt({"prompt": "b", "answer": "xxxx"})]
    asked = []

    def score(given, answers):
        asked.append(len(answers))
        return [float(len(answer)) for answer in answers]

    above = module.above_own_answers(score)
    assert above([prompts[0], prompts[1], prompts[0]], ["xxx", "xxx", ""]) == [1, -1, -2]
    assert above([prompts[1]], ["xxxxx"]) == [1] and asked == [2, 3, 0, 1]  # an own answer is judged once


def test_answers_call_tools_and_what_these_return_is_read_and_not_learnt(tmp_path, monkeypatch):
    """Two calls in one answer: ids hold the results, the loss holds the model's own tokens alone."""
    own = train_tokenizer(iter(TEXTS), VOCAB_SIZE, tmp_path / "own")
    written = "[Begin]Calc[Param]4*5[End], [Begin]Calc[Param]20+1[End]. It is 21.<eop>"
    assistant = scripted(own, written)
    monkeypatch.setattr("openglm.align.rollouts.Engine", lambda model, tokenizer: assistant.engine)
    rollout = {"check": "arithmetic", "tools": True, "temperature": 1e-3, "max_tokens": 100}
    config = config_of(tmp_path / "run", "unused", tmp_path, rollout=rollout)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, seq_len=200))
    asked = [Prompt([{"role": "user", "content": "What is 4*5+1?"}], known={"answer": "21"})]
    rollouts = Rollouts(config, asked, [], own, module.scorer(config), None, None)
    [answer] = rollouts.answers(assistant.model, asked, 0)
    whole = with_marks(own, written.replace("4*5[End]", "4*5[End]20[Gen]").replace("+1[End]", "+1[End]21[Gen]"))
    assert answer.ids == whole and answer.finished and answer.reward == 1 and answer.text == ", . It is 21."
    chosen = [token for token, mine in zip(answer.ids, answer.own, strict=True) if mine]
    assert chosen == with_marks(own, written) and len(answer.sampler_logp) == len(chosen)
    rollouts._session = SimpleNamespace(model=assistant.model.config)
    [row] = rollouts._plain_rows([dataclasses.asdict(answer)])
    assert row.targets[row.loss_mask > 0].tolist() == chosen


def test_tools_belong_to_our_own_draw():
    with pytest.raises(ValueError, match=r"rollout\.tools"):
        RolloutConfig(tools=True, endpoint="http://127.0.0.1:1/v1")
