"""DPO and reward models from a file of pairs to a model folder."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pairs import SHAPE, logs_of_one_and_two, write_pairs
from helpers.tiny_runs import options

import openglm
from openglm.align.measure import log_probabilities
from openglm.align.objectives import PreferencePairs
from openglm.align.pairs import dpo, measure_pairs, read_pairs, reward, rewards
from openglm.checkpoints.load import network_config
from openglm.cli.main import main
from openglm.config import DPOConfig, OptimizerConfig, PairsConfig, RewardConfig
from openglm.data.preferences import CHOSEN, REJECTED
from openglm.parallel.processes import Processes
from openglm.text.load import load_tokenizer
from openglm.train.forward_backward import WholeForwardBackward


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return PairsConfig(
        pairs=str(write_pairs(folder / "train.jsonl", 48)),
        heldout=str(write_pairs(folder / "heldout.jsonl", 16, start=100)),
    )


def dpo_config(out, base, files, lr=3e-3, **changes):
    loss = {name: changes.pop(name) for name in ("loss", "beta", "gamma") if name in changes}
    train = options(out, seq_len=SHAPE.max_positions, **{"log_every": 1, **changes})
    return DPOConfig(init_from=str(base), data=files, train=train, optimizer=OptimizerConfig(lr=lr), **loss)


def reward_config(out, base, files, **changes):
    train = options(out, seq_len=SHAPE.max_positions, **{"log_every": 1, **changes})
    return RewardConfig(init_from=str(base), data=files, train=train, optimizer=OptimizerConfig(lr=3e-3))


def steps_of(config, run):
    records = []
    result = run(config, on_step=lambda _, record: records.append(record))
    return result, records


def test_dpo_starts_at_ln_2_with_no_margin(base, files, tmp_path):
    _, records = steps_of(dpo_config(tmp_path, base, files, lr=1e-12, steps=3), dpo)
    for record in records:
        assert record["loss"] == pytest.approx(math.log(2), abs=1e-6)
        assert abs(record["metrics"]["margin"]) < 1e-5
        assert abs(record["metrics"]["chosen_log_ratio"]) < 1e-5


@pytest.mark.parametrize("loss", [{"loss": "dpo"}, {"loss": "ipo"}, {"loss": "simpo", "beta": 2.0, "gamma": 0.5}])
def test_held_out_pairs_are_told_apart_afterwards(base, files, tmp_path, loss):
    result, records = steps_of(dpo_config(tmp_path, base, files, steps=24, **loss), dpo)
    assert records[-1]["loss"] < records[0]["loss"]
    assert result.heldout["heldout/accuracy"] == 1.0
    assert result.heldout["heldout/margin"] > 0
    assert openglm.load_model(result.model).config == network_config(base)


def test_a_step_does_not_depend_on_how_it_is_divided(base, files, tmp_path):
    """Loss and gradient norm of every step, in one pass and in four: pairs differ in number from row to row."""
    runs = [
        steps_of(dpo_config(tmp_path / str(parts), base, files, steps=4, accumulation=parts), dpo)[1]
        for parts in (1, 4)
    ]
    for one, four in zip(*runs, strict=True):
        assert one["loss"] == pytest.approx(four["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(four["grad_norm"], rel=1e-4)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(base, files, tmp_path):
    whole = dpo(dpo_config(tmp_path / "whole", base, files, steps=8))
    (tmp_path / "cut").mkdir()

    def stop(step, _):
        if step == 5:
            (tmp_path / "cut" / "stop").touch()

    config = dpo_config(tmp_path / "cut", base, files, steps=8)
    assert not dpo(config, on_step=stop).finished
    (tmp_path / "cut" / "stop").unlink(missing_ok=True)
    resumed = dpo(config)
    first, second = (openglm.load_model(result.model).state_dict() for result in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_take_the_steps_of_one(base, files, tmp_path):
    def command(out):
        return [
            "dpo", "--init-from", str(base), "--data.pairs", files.pairs, "--train.out", str(out), "--train.steps", "4",
            "--train.seq-len", str(SHAPE.max_positions), "--train.batch-rows", "8", "--train.accumulation", "2",
            "--train.device", "cpu", "--train.dtype", "float32", "--train.log-every", "1", "--optimizer.lr", "3e-3",
        ]  # fmt: skip

    logs = logs_of_one_and_two(tmp_path, command)
    for one, two in zip(*logs, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
        assert one["metrics"] == pytest.approx(two["metrics"], rel=1e-3, abs=1e-6)


def test_measured_log_probabilities_are_those_of_the_model(base, files, tmp_path):
    config = dpo_config(tmp_path, base, files)
    model, tokenizer = openglm.load_model(base), load_tokenizer(base)
    rows, _ = read_pairs(config, model.config, tokenizer)
    found = measure_pairs(model, rows, torch.float32, log_probabilities(), "test")
    for number in (0, 7, 31):
        for side in (CHOSEN, REJECTED):
            sample = rows.samples[number][side]
            logits = model.logits(torch.from_numpy(sample.tokens)[None])[0].log_softmax(-1)
            wanted = logits[torch.arange(len(sample)), torch.from_numpy(sample.targets)].numpy() * sample.loss_mask
            np.testing.assert_allclose(found[number][side], wanted, atol=1e-4)


def test_an_answers_log_probability_does_not_depend_on_its_neighbours(base, files, tmp_path):
    """The objective over packed rows, against the sums of pairs measured one by one."""
    config = dpo_config(tmp_path, base, files)
    model = openglm.load_model(base)
    rows, _ = read_pairs(config, model.config, load_tokenizer(base))
    batch = {
        name: np.stack([getattr(rows.row(i), name) for i in range(4)]) for name in rows.row(0).__dataclass_fields__
    }
    passes = WholeForwardBackward(model, Processes(model.device), torch.float32, 4, objective=PreferencePairs(beta=0.3))
    sums = passes.evaluate(batch)
    logp = measure_pairs(model, rows, torch.float32, log_probabilities(), "test")
    pairs = rows.pairs_of(0) + rows.pairs_of(1)
    margins = [0.3 * (logp[pair][CHOSEN].sum() - logp[pair][REJECTED].sum()) for pair in pairs]
    assert sums.metrics["margin"] == pytest.approx(sum(margins), rel=1e-4)
    assert sums.loss == pytest.approx(sum(math.log(1 + math.exp(-margin)) for margin in margins), rel=1e-4)


def test_a_reward_model_scores_held_out_answers_and_its_demonstrations_have_mean_zero(base, files, tmp_path):
    config = reward_config(tmp_path, base, files, steps=24)
    result = reward(config)
    assert result.heldout["heldout/accuracy"] == 1.0
    model = openglm.load_model(result.model)
    rows, heldout = read_pairs(config, model.config, load_tokenizer(base))
    scores = rewards(model, rows, torch.float32)
    assert abs(scores[:, CHOSEN].mean()) < 1e-4 and scores[:, REJECTED].mean() < -0.5
    kept = rewards(model, heldout["heldout"], torch.float32)
    assert (kept[:, CHOSEN] > kept[:, REJECTED]).all()
    again = reward(config)  # finished already: nothing is trained, and the mean is not taken off twice
    assert torch.equal(openglm.load_model(again.model).score.bias, model.score.bias)


def test_a_reward_is_read_at_the_end_token(base, files, tmp_path):
    """Only what the score sees at an answer's end counts: the same answer inside a longer row scores the same."""
    config = reward_config(tmp_path, base, files, steps=2)
    model = openglm.load_model(reward(config).model)
    rows, _ = read_pairs(config, model.config, load_tokenizer(base))
    scores = rewards(model, rows, torch.float32)
    for number in (0, 5):
        sample = rows.samples[number][CHOSEN]
        last = int(np.flatnonzero(sample.loss_mask)[-1])
        assert sample.targets[last] in model.config.tokens.stop
        ids = torch.from_numpy(sample.tokens)[None]
        positions = torch.from_numpy(np.stack([sample.position, sample.block_position]))[None]
        block = torch.from_numpy(sample.block_position)[None]
        mask = openglm.model.positions.training_mask(torch.zeros_like(block), block, model.config.mask)
        wanted = model.score(model(ids, positions, mask)[0, last])
        assert scores[number][CHOSEN].item() == pytest.approx(wanted.item(), abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--train.batch-rows", "3"], "train.batch_rows = 3: must be even"),
        (["--train.batch-rows", "6", "--train.accumulation", "2"], "train.accumulation = 2: leaves an odd number"),
        (["--beta", "0"], "beta = 0.0: must be positive"),
        (["--gamma", "1"], "gamma = 1.0: belongs to loss = simpo"),
        (["--data.heldout", "nowhere.jsonl"], "data.heldout = 'nowhere.jsonl': no such file"),
    ],
)
def test_a_wrong_option_is_one_line(base, files, tmp_path, capsys, arguments, words):
    command = ["dpo", "--init-from", str(base), "--data.pairs", files.pairs, "--train.out", str(tmp_path / "x")]
    assert main([*command, "--train.steps", "1", "--train.seq-len", "64", *arguments]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in error


def test_a_file_without_pairs_is_one_line(base, tmp_path, capsys):
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}]}) + "\n")
    command = ["dpo", "--init-from", str(base), "--data.pairs", str(file), "--train.out", str(tmp_path / "x")]
    assert main([*command, "--train.steps", "1", "--train.seq-len", "64"]) == 1
    assert "chat.jsonl, line 1: chosen = None: a pair needs" in capsys.readouterr().err


def test_pairs_that_cannot_be_read_are_named_or_left_out(base, files, tmp_path, capsys):
    broken = tmp_path / "pairs.jsonl"
    broken.write_text('{"prompt": "a", "chosen": "b"}\n' + Path(files.pairs).read_text())
    config = dpo_config(tmp_path / "run", base, PairsConfig(pairs=str(broken)))
    model, tokenizer = openglm.load_model(base), load_tokenizer(base)
    with pytest.raises(ValueError, match=r"line 1: rejected = None: .*--data.skip-bad leaves them out"):
        read_pairs(config, model.config, tokenizer)
    config = dpo_config(tmp_path / "run", base, PairsConfig(pairs=str(broken), skip_bad=True))
    rows, _ = read_pairs(config, model.config, tokenizer)
    assert len(rows) == 48 and "left out: " in capsys.readouterr().err
