"""What the guard sees, what it does about it, and that a run with anomalies in it is still the same run after a kill."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.crashes import Crash, assert_same, crash_at, everything
from helpers.processes import run_together
from helpers.tiny_runs import MODEL, SEQ, Poisoned, Rows, log_lines, run, run_spread
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.cli.options import parse, read_toml
from openglm.config import DataConfig, OptimizerConfig, PretrainConfig, SFTConfig, StabilityConfig, TrainConfig, Yarn
from openglm.data.mixture import batches
from openglm.model.transformer import Transformer
from openglm.parallel.processes import Processes
from openglm.presets import model_preset
from openglm.train.forward_backward import WholeForwardBackward
from openglm.train.stability import WINDOW, Guard, Memory, ramped, unscale
from openglm.train.state import check_settings, flatten, read_record

ALONE = Processes(torch.device("cpu"))
RECIPE = Path(__file__).parents[2] / "recipes" / "glm-130b" / "pretrain.toml"


def acts(out):
    return [(line["step"], line["act"]) for line in log_lines(out) if "act" in line]


# --- the scaler, the ramp, the shrink


def test_checkpoints_keep_the_names_of_the_guards_memory():
    """Checkpoints made before the fields were renamed hold them; one that lacks an option takes its default."""
    stored = {"losses": [1.0], "norms": [2.0], "acts": 2, "calm": 7, "jumped": 8, "back_to": 4}
    memory = Memory.of_record(stored)
    assert (memory.actions, memory.good_steps) == (2, 7)
    assert memory.record() == {**stored, "scale": 1.0, "fitting": 0, "spare": 1}


class DeepSpeedScaler:
    """The rule of deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler.update_scale, counted from its own iteration number."""

    def __init__(self, scale, window, minimum, hysteresis):
        self.cur_scale, self.scale_window, self.min_scale, self.delayed_shift = scale, window, minimum, hysteresis
        self.cur_iter, self.last_overflow_iter, self.cur_hysteresis = 0, -1, hysteresis

    def update_scale(self, overflow):
        if overflow:
            if self.delayed_shift == 1 or self.cur_hysteresis == 1:
                self.cur_scale = max(self.cur_scale / 2, self.min_scale)
            else:
                self.cur_hysteresis -= 1
            self.last_overflow_iter = self.cur_iter
        elif (self.cur_iter - self.last_overflow_iter) % self.scale_window == 0:
            self.cur_hysteresis = self.delayed_shift
            self.cur_scale *= 2
        self.cur_iter += 1


@given(st.lists(st.booleans(), max_size=80), st.integers(1, 7), st.integers(1, 3), st.sampled_from([1.0, 4.0]))
def test_the_loss_scale_is_that_of_deepspeed(overflows, window, hysteresis, minimum):
    config = StabilityConfig(
        policy="skip",
        limit=1000,
        loss_scale=64.0,
        loss_scale_window=window,
        loss_scale_hysteresis=hysteresis,
        loss_scale_minimum=minimum,
    )
    guard, theirs = Guard(config, 8, half=True), DeepSpeedScaler(64.0, window, minimum, hysteresis)
    for overflow in overflows:
        action = guard.judge(1.0, math.inf if overflow else 1.0)
        theirs.update_scale(overflow)
        assert guard.memory.scale == theirs.cur_scale
        assert (action is not None) == overflow


def test_an_overflow_at_the_smallest_scale_is_an_anomaly():
    guard = Guard(StabilityConfig(loss_scale=2.0, loss_scale_hysteresis=1), 8, half=True)
    assert [guard.judge(1.0, math.nan).kind for _ in range(2)] == ["scale", "stop"]


def test_a_loss_that_is_not_finite_is_no_matter_of_scale():
    guard = Guard(StabilityConfig(policy="skip"), 8, half=True)
    assert guard.judge(math.nan, math.nan).kind == "skip" and guard.memory.scale == 65536


@given(start=st.integers(1, 40), step=st.integers(1, 9), steps=st.integers(1, 30), rows=st.integers(1, 5000))
def test_batches_grow_in_equal_steps(start, step, steps, rows):
    full = start + step * steps
    config = StabilityConfig(ramp_from=start, ramp_step=step, ramp_rows=rows)
    sizes = [ramped(config, full, done) for done in range(rows + 2)]
    assert sizes[0] == start and sizes[rows] == sizes[rows + 1] == full
    assert sizes == sorted(sizes) and {size % step for size in sizes} == {start % step}
    counts = [sizes[:rows].count(start + step * k) for k in range(steps)]
    assert max(counts) - min(counts) <= 1  # Megatron: every size for the same share of the rows


def test_a_ramp_that_does_not_fit_names_steps_that_do():
    with pytest.raises(ValueError, match=r"^stability.ramp_step = 24: must divide .*\(6\): 1, 2, 3, 6 would$"):
        Guard(StabilityConfig(ramp_from=2, ramp_rows=10), 8, half=False)
    with pytest.raises(ValueError, match=r"^stability.ramp_from = 9: must be below train.batch_rows \(8\)"):
        Guard(StabilityConfig(ramp_from=9, ramp_step=1, ramp_rows=10), 8, half=False)


def test_the_shrink_is_that_of_the_published_log():
    """`--shrink-embedding-gradient-steps 6000 500` with alpha .1."""
    guard = Guard(StabilityConfig(shrink_until=6000, shrink_rise=500), 8, half=False, shrink=0.1)
    assert [guard.shrink(step) for step in (1, 6000, 6500, 9000)] == [0.1, 0.1, 1.0, 1.0]
    assert guard.shrink(6250) == pytest.approx(0.55)
    assert Guard(StabilityConfig(), 8, half=False, shrink=0.1).shrink(10**6) == 0.1


def test_the_shrink_of_a_step_reaches_the_gradient(tmp_path):
    """Of an untied table, the gradient comes through the input alone: its share is what the schedule says. The first step's norm shows it."""
    model = dataclasses.replace(MODEL, tied=False, embedding_gradient_shrink=0.1)
    norms = {}
    for until in (1, 2):  # at step 2: risen to 1, or still .1
        seen = []
        run(
            tmp_path / str(until),
            model=model,
            steps=2,
            stability={"shrink_until": until, "shrink_rise": 1},
            on_step=lambda _, r, seen=seen: seen.append(r["grad_norm"]),
        )
        norms[until] = seen
    assert norms[1][0] == norms[2][0] and norms[1][1] > norms[2][1]


# --- spikes


def feed(guard, values, norms=None):
    return [guard.judge(loss, norm) for loss, norm in zip(values, norms or [1.0] * len(values), strict=True)]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.floats(0.1, 100))
def test_ordinary_noise_is_no_spike_and_a_jump_is(seed, size):
    rng = np.random.default_rng(seed)
    guard = Guard(StabilityConfig(policy="skip", loss_spike=10, norm_spike=10), 8, half=False)
    falling = size * (2 - np.arange(300) / 300 + 0.05 * rng.standard_normal(300))
    assert not any(feed(guard, falling.tolist()))
    assert guard.judge(5 * size, 1.0).why.startswith("loss ")
    assert guard.judge(size, 30.0).why.startswith("gradient norm ")
    assert guard.judge(size, 1.0) is None


def test_spikes_that_were_acted_on_do_not_become_the_rule():
    guard = Guard(StabilityConfig(policy="skip", loss_spike=6, limit=1000), 8, half=False)
    feed(guard, [1.0, 1.1] * 50)
    assert all(action.kind == "skip" for action in feed(guard, [9.0] * 200))


def test_acts_that_do_not_help_stop_the_run_and_good_steps_forgive():
    guard = Guard(StabilityConfig(policy="skip", limit=3), 8, half=False)
    assert [guard.judge(math.nan, 1.0).kind for _ in range(3)] == ["skip"] * 3
    feed(guard, [1.0] * WINDOW)
    assert [guard.judge(math.nan, 1.0).kind for _ in range(4)] == ["skip"] * 3 + ["stop"]


# --- runs


def test_a_batch_left_out_changes_nothing_else(tmp_path):
    """The run with a bad batch at step 6 is the run in which step 6 was not made."""
    run(tmp_path, rows=Poisoned(43), stability={"policy": "skip"}, ema=0.5)
    assert [(step, act["do"], act["rows"]) for step, act in acts(tmp_path)] == [(6, "skip", [40, 48])]
    record = read_record(tmp_path / "checkpoints" / "step-00000012")
    assert (record["rows"], record["guard"]["jumped"], len(record["guard"]["losses"])) == (96, 0, 11)

    seen = {}
    run(
        tmp_path / "again",
        rows=Poisoned(43),
        stability={"policy": "skip"},
        on_step=lambda step, r: seen.setdefault(step, r),
    )
    plain = {}
    run(tmp_path / "plain", on_step=lambda step, r: plain.setdefault(step, r))
    assert [seen[k]["loss"] for k in range(1, 6)] == [plain[k]["loss"] for k in range(1, 6)] and not math.isfinite(
        seen[6]["loss"]
    )
    assert seen[7]["loss"] != plain[7]["loss"]  # step 6 was not made


def test_going_back_jumps_over_the_data_that_hurt(tmp_path, capfd):
    rows = Poisoned(60)  # in the batch of step 8, rows 56 to 63; the checkpoint of step 4 stands at row 32
    result = run(tmp_path, rows=rows, stability={"policy": "rollback"}, keep=9)
    assert result.finished
    ((step, act),) = acts(tmp_path)
    assert (step, act) == (8, {"do": "rollback", "why": act["why"], "rows": [32, 64], "to": 4})
    assert re.fullmatch(r"loss \S+, gradient norm \S+", act["why"]) and re.search("inf|nan", act["why"])
    assert "step 8" in capfd.readouterr().err
    assert rows.asked == list(range(128))
    record = read_record(tmp_path / "checkpoints" / "step-00000012")
    assert (record["rows"], record["guard"]["jumped"], record["step"]) == (128, 32, 12)
    rates = [line["lr"] for line in log_lines(tmp_path) if "lr" in line]
    plain = tmp_path / "plain"
    run(plain)
    assert rates[-2:] == [line["lr"] for line in log_lines(plain) if "lr" in line][-2:]


def test_another_anomaly_leads_further_back_and_removes_what_came_after(tmp_path):
    """A good step lies between: the checkpoint may be sick. After the one of step 8, that of step 4 is tried."""
    result = run(tmp_path, rows=Poisoned(64, 85), stability={"policy": "rollback"}, keep=9)
    assert [(step, act["to"], act["rows"]) for step, act in acts(tmp_path)] == [(9, 8, [64, 72]), (10, 4, [32, 88])]
    assert result.finished
    assert sorted(int(p.name[-2:]) for p in (tmp_path / "checkpoints").iterdir()) == [4, 8, 12]
    assert read_record(tmp_path / "checkpoints" / "step-00000008")["rows"] == 88 + 32


def test_bad_batches_in_a_row_are_jumped_over_from_one_checkpoint(tmp_path):
    assert run(tmp_path, rows=Poisoned(70, 72, 85), stability={"policy": "rollback"}, keep=9).finished
    assert [(step, act["to"], act["rows"]) for step, act in acts(tmp_path)] == [
        (9, 8, [64, 72]),
        (9, 8, [64, 80]),
        (9, 8, [64, 88]),
    ]


def test_without_a_checkpoint_the_batch_is_left_out(tmp_path):
    run(tmp_path, rows=Poisoned(9), stability={"policy": "rollback"})
    assert [(step, act["do"]) for step, act in acts(tmp_path)] == [(2, "skip")]


def test_anomalies_without_end_are_one_line_that_says_what_was_tried(tmp_path):
    with pytest.raises(
        ValueError, match=r"^step 8: loss .* after 3 acts \(stability.limit\) .*Lower optimizer.lr"
    ) as error:
        run(tmp_path, rows=Poisoned(*range(32, 999)), stability={"policy": "skip", "limit": 3})
    assert "\n" not in str(error.value)


def test_a_run_that_stopped_goes_on_under_another_policy(tmp_path):
    with pytest.raises(ValueError, match=r"set stability.policy to skip or rollback"):
        run(tmp_path, rows=Poisoned(60))
    assert run(tmp_path, rows=Poisoned(60), stability={"policy": "skip"}).finished


def test_a_run_goes_on_where_options_have_been_added_since(tmp_path):
    """An option that the run did not know had the effect of its default, so that value alone may stand there now."""
    run(tmp_path)
    record = read_record(tmp_path / "checkpoints" / "step-00000012")
    newer = ("stability", "optimizer.schedule", "optimizer.decay_ratio")
    before = {name: value for name, value in record["settings"].items() if not name.startswith(newer)}
    known = {name: value for name, value in before.items() if not name.startswith("optimizer")}
    optimizer = OptimizerConfig(**{name[10:]: value for name, value in before.items() if name.startswith("optimizer.")})
    old = {**record, "settings": before}
    config = SFTConfig(init_from="x", train=TrainConfig(out="x"), data=DataConfig())
    new = {f.name: f.default for f in dataclasses.fields(config) if f.default is not dataclasses.MISSING}
    same = {**known, **new, "optimizer": optimizer, "stability": StabilityConfig()}
    check_settings(old, same, config)
    with pytest.raises(ValueError, match=r"^stability.ramp_from = 2: .*made with 0"):
        check_settings(old, {**same, "stability": StabilityConfig(ramp_from=2, ramp_rows=9)}, config)
    with pytest.raises(ValueError, match=r"^optimizer.schedule = 'constant': .*made with 'cosine'"):
        check_settings(old, {**same, "optimizer": dataclasses.replace(optimizer, schedule="constant")}, config)
    with pytest.raises(ValueError, match=r"^adapter = 'lora': .*made with 'none'"):
        check_settings(old, {**same, "adapter": "lora"}, config)


def test_a_run_goes_on_where_a_table_of_options_has_been_added_since():
    now = {"model": model_preset("nano"), "train.steps": 5, "rows": "a"}
    flat = json.loads(json.dumps(flatten(now)))
    old = {"step": 0, "settings": {name: value for name, value in flat.items() if not name.startswith("model.yarn")}}
    config = PretrainConfig(model=now["model"], train=TrainConfig(out="x", steps=5), data=DataConfig())
    check_settings(old, now, config)
    longer = dataclasses.replace(now["model"], yarn=Yarn(4, 512))
    with pytest.raises(ValueError, match=r"^model.yarn.attention_factor = 1.138.*made with 1.0"):
        check_settings(old, {**now, "model": longer}, config)


SCENES = {
    "skip": ({"policy": "skip"}, {}), "rollback": ({"policy": "rollback"}, {}), "shrink": ({"policy": "skip", "shrink_until": 5, "shrink_rise": 5}, {}),
    "ramp": ({"policy": "rollback", "ramp_from": 2, "ramp_step": 2, "ramp_rows": 40}, {"workers": 1}),
    "float16": ({"policy": "rollback", "loss_scale": 2.0**24, "loss_scale_window": 3}, {"dtype": "float16"}),
}  # fmt: skip


@pytest.mark.parametrize("scene", SCENES)
def test_a_broken_run_with_anomalies_equals_an_unbroken_one(tmp_path, scene):
    stability, changes = SCENES[scene]
    bad = (17, 61, 74) if scene != "ramp" else (5, 17, 29, 38)
    assert run(tmp_path / "whole", rows=Poisoned(*bad), stability=stability, **changes).finished
    for step in (3, 5, 9, 11):
        with pytest.raises(Crash):
            run(tmp_path / "broken", rows=Poisoned(*bad), on_step=crash_at(step), stability=stability, **changes)
    run(tmp_path / "broken", rows=Poisoned(*bad), stability=stability, **changes)
    assert acts(tmp_path / "whole")
    assert_same(tmp_path / "whole", tmp_path / "broken")


def test_batches_of_a_ramp_hold_all_rows_in_order(tmp_path):
    rows, sizes = Rows(), []
    stability = {"ramp_from": 2, "ramp_step": 2, "ramp_rows": 24}
    run(tmp_path, rows=rows, stability=stability, on_step=lambda _, r: sizes.append(r["rows"]))
    assert sizes == [2, 2, 2, 2, 4, 4, 6, 6, 8, 8, 8, 8]
    assert rows.asked == list(range(sum(sizes)))
    lines = [line for line in log_lines(tmp_path) if "tokens" in line]
    assert [line["tokens"] for line in lines] == [sum(sizes[: line["step"]]) * SEQ for line in lines]
    assert lines[-1]["lr"] == pytest.approx(1e-3)  # the cosine ends with the rows


# --- float16


def test_scaled_gradients_are_those_of_the_plain_loss():
    torch.manual_seed(0)
    model = Transformer(MODEL)
    model.initialize()
    batch = next(batches(Rows(), 0, 8, 0))
    found = []
    for scale, dtype in ((1.0, torch.float32), (65536.0, torch.float32), (65536.0, torch.float16)):
        WholeForwardBackward(model, ALONE, dtype, 8).gradient(batch, 50.0 / scale)
        unscale(model.parameters(), scale)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model.zero_grad()
    plain, scaled, half = found
    assert torch.equal(plain, scaled)  # powers of two round nothing
    assert float((half - plain).norm() / plain.norm()) < 5e-3


def test_small_gradients_need_the_scale():
    """The reason for all of it: without a scale float16 loses what lies below 6e-8."""
    torch.manual_seed(0)
    model = Transformer(MODEL)
    model.initialize()
    batch = next(batches(Rows(), 0, 8, 0))
    lost = []
    for scale in (1.0, 2.0**24):
        WholeForwardBackward(model, ALONE, torch.float16, 8).gradient(batch, 50.0 * 2**22 / scale)
        unscale(model.parameters(), scale)
        lost.append(float(sum((p.grad == 0).sum() for p in model.blocks.parameters())))
        model.zero_grad()
    assert lost[0] > 2 * lost[1]


def test_a_run_in_float16_finds_its_scale_and_learns(tmp_path):
    """From a scale that is far too large; what it left out, float32 leaves out as well."""

    class From(Rows):
        def row(self, i):
            return super().row(i + skipped)

    seen, plain = [], []
    stability = {"loss_scale": 2.0**32, "loss_scale_hysteresis": 1}
    run(tmp_path / "half", steps=60, dtype="float16", stability=stability, on_step=lambda _, r: seen.append(r))
    kinds = [act["do"] for _, act in acts(tmp_path / "half")]
    assert kinds and set(kinds) == {"scale"}
    kept = [r for r in seen if "act" not in r]
    assert all(math.isfinite(r["grad_norm"]) for r in kept) and len(kept) > 40
    skipped = 8 * next(i for i, r in enumerate(seen) if "act" not in r)
    run(tmp_path / "plain", rows=From(), steps=40, on_step=lambda _, r: plain.append(r))
    assert plain[0]["loss"] == pytest.approx(kept[0]["loss"], rel=1e-3)
    assert kept[-1]["loss"] < kept[0]["loss"] - 0.1


# --- the recipe


def test_the_recipe_of_glm_130b_has_the_published_numbers():
    """Facts: arXiv 2210.02414, appendix; the published training script for what the paper leaves out."""
    default = PretrainConfig(
        model=model_preset(read_toml(RECIPE)["preset"]), data=DataConfig(), train=TrainConfig(out="run", steps=1)
    )
    config = parse(PretrainConfig, ["--config", str(RECIPE)], "glm pretrain", "", default, ignore=("preset",))
    model, train_, data, optimizer, infilling, stability = (
        config.model,
        config.train,
        config.data,
        config.optimizer,
        config.infilling,
        config.stability,
    )
    assert (model.layers, model.hidden, model.heads, model.ffn_hidden) == (70, 12288, 96, 32768)
    assert (model.residual, model.activation, model.positions, model.norm_eps) == ("deepnorm", "geglu", "rope", 1e-5)
    assert (model.qk_layer_scaling, model.embedding_gradient_shrink) == (True, 0.1)
    assert (
        train_.seq_len,
        train_.batch_rows,
        train_.batch_rows // train_.accumulation,
        train_.dtype,
        train_.activation_checkpointing,
    ) == (2048, 4224, 24, "float16", True)
    assert (optimizer.name, optimizer.lr, optimizer.lr * optimizer.min_lr_ratio) == ("adamw", 8e-5, pytest.approx(8e-6))
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.weight_decay, optimizer.clip) == (
        0.9,
        0.95,
        1e-8,
        0.1,
        1.0,
    )
    assert (stability.ramp_from, stability.ramp_step, stability.ramp_rows) == (192, 24, 5_493_164)
    assert (
        stability.loss_scale,
        stability.loss_scale_window,
        stability.loss_scale_hysteresis,
        stability.loss_scale_minimum,
    ) == (65536, 2000, 2, 1)
    assert (infilling.mask_share, infilling.gmask_share, infilling.mask_ratio, infilling.mean_span) == (
        0.3,
        0.7,
        0.15,
        3,
    )
    assert (infilling.single_span_share, infilling.gmask_min_ratio) == (0.02, 0.2)
    weights = data.weights
    assert weights["instructions"] / sum(weights.values()) == pytest.approx(0.05)
    guard = Guard(stability, train_.batch_rows, half=True)
    rows = guard.planned(train_.steps) * train_.batch_rows
    assert rows == pytest.approx(197_753_905, abs=train_.batch_rows)  # samples of the cosine
    assert optimizer.warmup_ratio * rows == pytest.approx(1_098_632, rel=1e-3)


def test_processes_take_the_way_back_together(tmp_path):
    """Two data-parallel processes, of which one alone reads the row that hurts."""
    stability = {"policy": "rollback"}
    run_together(2, run_spread, tmp_path / "two", {"data": 2}, stability, (60, 90))
    run(tmp_path / "one", rows=Poisoned(60, 90), stability=stability)
    assert len(acts(tmp_path / "one")) == 2 and acts(tmp_path / "two") == acts(tmp_path / "one")
    (one, first, _), (two, second, _) = everything(tmp_path / "one"), everything(tmp_path / "two")
    assert first["rows"] == second["rows"] and first["guard"]["jumped"] == second["guard"]["jumped"] == 64
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, rtol=1e-3, atol=1e-4, msg=name)


def test_the_ordinary_run_is_untouched(tmp_path):
    """Policies and thresholds that never fire change nothing, bit for bit."""
    run(tmp_path / "plain")
    run(tmp_path / "guarded", stability={"policy": "rollback", "loss_spike": 1e9, "norm_spike": 1e9})
    plain, watched = (everything(tmp_path / kind)[0] for kind in ("plain", "guarded"))
    assert all(
        torch.equal(tensor, watched[kind][name]) for kind, named in plain.items() for name, tensor in named.items()
    )
