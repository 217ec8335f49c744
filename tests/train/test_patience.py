"""A run with patience ends when nothing gets better, and what it leaves is the best that was measured."""

import json
from functools import partial

import pytest
import torch
from helpers.crashes import Crash, crash_at
from helpers.tiny_runs import Rows, log_lines, run

from openglm.checkpoints.load import load_model
from openglm.checkpoints.sharded import whole_tensors
from openglm.config import OptimizerConfig
from openglm.train.state import find_checkpoint

STEPS = 40


class Four(Rows):
    """Four rows again and again: learned by heart, they spoil what is held out."""

    def row(self, i):
        return super().row(i % 4)


patient = partial(
    run, optimizer=OptimizerConfig(lr=3e-2, schedule="constant"), rows=Four(), steps=STEPS, eval_every=2, save_every=1,
    keep=1, batch_rows=4, accumulation=1, patience=3, eval_rows=16,
)  # fmt: skip


def means(out) -> dict[int, float]:
    return {line["step"]: line["heldout"]["heldout"] for line in log_lines(out) if "heldout" in line}


def test_it_ends_early_and_leaves_the_best(tmp_path, capsys):
    result = patient(tmp_path)
    losses = means(tmp_path)
    best = min(losses, key=losses.get)
    assert result.finished and result.step == best + 2 * 3 < STEPS
    assert f"after {best}: kept" in capsys.readouterr().err
    weights = dict(whole_tensors(tmp_path / "checkpoints" / f"step-{best:08d}", "weights"))
    model = dict(load_model(result.model).named_parameters())
    assert all(torch.equal(model[name], weights[name]) for name in weights)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2, "the newest and the best"
    again = patient(tmp_path)
    assert again.step == result.step and means(tmp_path) == losses, "there is nothing to go on with"


def test_a_broken_run_ends_where_an_unbroken_one_does(tmp_path):
    whole = patient(tmp_path / "whole")
    for step in (3, 4, whole.step - 1):
        with pytest.raises(Crash):
            patient(tmp_path / "broken", on_step=crash_at(step))
    broken = patient(tmp_path / "broken")
    assert broken.step == whole.step == int(find_checkpoint(tmp_path / "whole").name.removeprefix("step-"))
    record = json.loads((find_checkpoint(tmp_path / "broken") / "state.json").read_text())
    assert record["best"]["step"] < whole.step
    ours, theirs = (load_model(one.model).state_dict() for one in (whole, broken))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_patience_that_nothing_tries_keeps_the_best_of_a_whole_run(tmp_path):
    result = patient(tmp_path, patience=1000, steps=20)
    losses = means(tmp_path)
    best = min(losses, key=losses.get)
    weights = dict(whole_tensors(tmp_path / "checkpoints" / f"step-{best:08d}", "weights"))
    assert result.step == 20 > best
    assert torch.equal(load_model(result.model).embedding.weight, weights["embedding.weight"])


@pytest.mark.parametrize("changes, named", [
    ({"eval_every": 3, "save_every": 2}, r"train.eval_every = 3: must be a multiple of train.save_every"),
    ({"patience": -1}, r"train.patience = -1"),
])  # fmt: skip
def test_what_cannot_be_kept_is_refused(tmp_path, changes, named):
    with pytest.raises(ValueError, match=named):
        patient(tmp_path, **changes)
