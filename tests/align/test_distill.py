"""A student of a teacher: what is learned, against whole distributions; equal and unequal vocabularies."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from helpers.pairs import SHAPE, tiny_model, write_chats
from helpers.tiny_runs import options

import openglm
from openglm.align.distill import Distillation, TaughtRows, distill
from openglm.config import DataConfig, OptimizerConfig, SFTConfig
from openglm.train.forward_backward import hidden_states
from openglm.train.objective import Head
from openglm.train.sft import sft_run


@pytest.fixture
def chats(tmp_path):
    return str(write_chats(tmp_path / "chats.jsonl", 32))


def config_of(out, student, teacher, chats, **changes):
    train = options(out, seq_len=SHAPE.max_positions, batch_rows=8, log_every=1, **changes.pop("train", {}))
    data = DataConfig(dialogues={"chat": chats}, heldout_dialogues={"chat": chats})
    given = {"teacher": str(teacher), "optimizer": OptimizerConfig(lr=3e-3), **changes}
    return SFTConfig(init_from=str(student), train=train, data=data, **given)


def divergences(student, teacher, rows, reverse):
    """Of whole distributions, written out."""
    total, count = 0.0, 0
    for number in range(2):
        row = rows.row(number)
        head = [Head(model, torch.float32) for model in (student, teacher)]
        arrays = {name: getattr(row, name)[None] for name in ("tokens", "position", "block_position", "segment")}
        p, q = (
            each.logits(hidden_states(each.model, arrays, torch.device("cpu"), torch.float32)[0]).softmax(-1)
            for each in reversed(head)
        )
        p, q = (q, p) if reverse else (p, q)
        each = (p * (p.log() - q.log())).sum(-1).detach().numpy()
        total, count = total + (each * row.loss_mask).sum(), count + row.loss_mask.sum()
    return total / count


@pytest.mark.parametrize("reverse", [False, True])
def test_with_all_tokens_kept_the_loss_is_the_divergence_of_the_models(base, talker, chats, tmp_path, reverse):
    run = sft_run(config_of(tmp_path / "run", base, "", chats, train={"steps": 1}))
    student, teacher = openglm.load_model(base, dtype="float32"), openglm.load_model(talker, dtype="float32")
    wanted = divergences(student, teacher, run.rows, reverse)
    found = []
    for kept in (student.config.vocab_size, 64, 4):
        rows = TaughtRows(run.rows, teacher, kept, torch.float32)
        total, count = 0.0, 0.0
        for number in range(2):
            row = rows.row(number)
            places = torch.from_numpy(np.flatnonzero(row.loss_mask))
            arrays = {name: getattr(row, name)[None] for name in ("tokens", "position", "block_position", "segment")}
            hidden_NH = hidden_states(student, arrays, torch.device("cpu"), torch.float32)[0][places]
            objective = Distillation(reverse)
            fields = {name: torch.from_numpy(getattr(row, name))[places] for name in objective.fields}
            loss, _ = objective.loss(Head(student, torch.float32), hidden_NH, fields)
            total, count = total + float(loss), count + float(row.loss_mask.sum())
        found.append(total / count)
    assert found[0] == pytest.approx(wanted, rel=1e-3)
    assert found[2] <= found[1] + 1e-4 and found[1] <= found[0] + 1e-4  # coarser distributions are never further apart


def test_a_model_has_nothing_to_learn_from_itself(talker, chats, tmp_path):
    records = []
    distill(config_of(tmp_path / "run", talker, talker, chats, train={"steps": 2}), lambda _, one: records.append(one))
    assert records[0]["loss"] == pytest.approx(0, abs=1e-4) and records[0]["grad_norm"] < 1e-2


def test_a_student_comes_to_say_what_its_teacher_says(base, talker, chats, tmp_path):
    records = []
    result = distill(
        config_of(
            tmp_path / "run",
            base,
            talker,
            chats,
            optimizer=OptimizerConfig(lr=1e-2),
            train={"steps": 80, "eval_every": 80},
        ),
        lambda _, one: records.append(one),
    )
    assert records[-1]["loss"] < 0.25 * records[0]["loss"]
    assert result.heldout["chat"] < 0.5


def test_another_vocabulary_is_refused_before_weights_are_read(base, chats, tmp_path, monkeypatch):
    other = tiny_model(tmp_path / "other", SHAPE)
    path = other / "tokenizer.json"
    layout = json.loads(path.read_text(encoding="utf-8"))
    layout["model"]["merges"] = layout["model"]["merges"][:-1]
    path.write_text(json.dumps(layout), encoding="utf-8")
    (other / "manifest.json").unlink(missing_ok=True)
    monkeypatch.setattr("openglm.align.distill.load_model", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(ValueError, match="has another tokenizer"):
        distill(config_of(tmp_path / "run", base, other, chats, train={"steps": 1}))


def test_shares_mix_the_teacher_and_the_words(base, talker, chats, tmp_path):
    records = []
    for share in (0.0, 0.5, 1.0):
        one = config_of(tmp_path / str(share), base, talker, chats, train={"steps": 1}, teacher_share=share)
        distill(one, lambda _, record: records.append(record))
    assert records[1]["loss"] == pytest.approx((records[0]["loss"] + records[2]["loss"]) / 2, rel=1e-5)
    assert records[0]["loss"] == pytest.approx(records[0]["metrics"]["cross_entropy"], rel=1e-5)
    assert dataclasses.asdict(one)["teacher_share"] == 1.0
