"""The façade of DeepSpeed: its curves are those of a plain loop in one process (and of DeepSpeed, where it is installed), and what it cannot do it names."""

import argparse
import functools
import json
import math
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from helpers import deepspeed_script
from helpers.deepspeed_script import ROWS, LanguageModel, batch, parameter_groups
from helpers.processes import run_together

import openglm.deepspeed as deepspeed
from openglm.deepspeed.config import settings
from openglm.deepspeed.schedules import LossScale, schedule

STEPS, HALF, PROCESSES, ACCUMULATION, CLIP, RATE, WARMUP, TOTAL = 8, 4, 2, 2, 0.5, 1e-2, 4, 30
CONFIG = {
    "train_micro_batch_size_per_gpu": ROWS,
    "gradient_accumulation_steps": ACCUMULATION,
    "gradient_clipping": CLIP,
    "optimizer": {
        "type": "Adam",
        "params": {"lr": RATE, "weight_decay": 0.1, "betas": [0.9, 0.95], "torch_adam": True},
    },
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {
            "warmup_num_steps": WARMUP,
            "warmup_max_lr": RATE,
            "total_num_steps": TOTAL,
            "warmup_type": "linear",
        },
    },
}
CASES = {
    f"stage {stage}": {"config": {**CONFIG, "zero_optimization": {"stage": stage}}, "steps": STEPS}
    for stage in range(4)
}
CASES["stage 2, bf16"] = {"config": {**CASES["stage 2"]["config"], "bf16": {"enabled": True}}, "steps": STEPS}
CASES["stage 1, resumed"] = {**CASES["stage 1"], "save_at": HALF}
CASES["stage 1, model-parallel"] = {**CASES["stage 1"], "model_parallel": True}


def run_script(library: str, folder: Path) -> dict[str, dict[str, list[float]]]:
    """All cases in two processes of the script, with one import or the other."""
    cases = {name: {**case, "folder": str(folder / "saved")} for name, case in CASES.items()}
    run_together(PROCESSES, deepspeed_script.run, library, cases, folder / "result.json")
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("deepspeed")


@pytest.fixture(scope="module")
def curves(folder):
    return run_script("openglm.deepspeed", folder)


@pytest.fixture(scope="module", autouse=True)
def alone():
    """One thread, for layers this small gain nothing from more; and no process group left behind."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    if dist.is_initialized():
        dist.destroy_process_group()


def rate(step: int) -> float:
    """Of optimizer step 0, 1, ...: DeepSpeed's schedule says 0 twice, then rises and falls in straight lines."""
    n = step - 1
    return RATE * (max(n, 0) / WARMUP if n < WARMUP else (TOTAL - n) / (TOTAL - WARMUP))


@functools.cache
def plain(
    rows: int = ROWS * PROCESSES, embedding_parts: int = 1, dtype: torch.dtype = torch.float32
) -> dict[str, list[float]]:
    """The same training without any of this: whole batches, fp32 weights, gradients of a copy in `dtype`."""
    model, lean = LanguageModel(1), LanguageModel(1).to(dtype)
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=RATE, weight_decay=0.1, betas=(0.9, 0.95))
    weights = [embedding_parts if name == "network.embedding.weight" else 1 for name, _ in model.named_parameters()]
    found = {"losses": [], "norms": []}
    for step in range(STEPS):
        for master, weight in zip(model.parameters(), lean.parameters(), strict=True):
            weight.data.copy_(master)
        losses = [lean(batch(step * ACCUMULATION + micro, rows)) for micro in range(ACCUMULATION)]
        gradients = [g.float() for g in torch.autograd.grad(sum(losses) / ACCUMULATION, list(lean.parameters()))]
        norm = math.sqrt(sum(parts * g.square().sum().item() for parts, g in zip(weights, gradients, strict=True)))
        for master, gradient in zip(model.parameters(), gradients, strict=True):
            master.grad = gradient * min(1.0, CLIP / norm)
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
        found["losses"].append(sum(losses).item() / ACCUMULATION)
        found["norms"].append(norm)
    return found


@pytest.mark.parametrize("name", [name for name in CASES if "bf16" not in name and "parallel" not in name])
def test_two_processes_have_the_curve_of_one_plain_loop(curves, name):
    expected = plain()
    assert curves[name]["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert curves[name]["norms"] == pytest.approx(expected["norms"], rel=1e-4)
    assert (
        expected["losses"][-1] < expected["losses"][0] - 0.5 and max(expected["norms"]) > CLIP
    )  # it learns, and clipping is at work


def test_half_precision_keeps_full_precision_weights(curves):
    assert curves["stage 2, bf16"]["losses"] == pytest.approx(plain(dtype=torch.bfloat16)["losses"], rel=2e-3)


def test_model_parallel_processes_sum_the_norms_of_their_parts_alone(curves):
    """The embedding is marked as a part, so it counts once for each process; everything else is the same in both and counts once."""
    expected = plain(rows=ROWS, embedding_parts=PROCESSES)
    assert curves["stage 1, model-parallel"]["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert curves["stage 1, model-parallel"]["norms"] == pytest.approx(expected["norms"], rel=1e-4)


def test_deepspeed_itself_has_the_same_curves(curves, tmp_path):
    pytest.importorskip("deepspeed.runtime")
    theirs = run_script("deepspeed", tmp_path)
    for name, curve in curves.items():
        assert curve["losses"] == pytest.approx(theirs[name]["losses"], rel=1e-3 if "bf16" in name else 1e-5), name


def engine_of(model=None, **changes):
    model = model or LanguageModel(1)
    return deepspeed.initialize(
        model=model,
        model_parameters=parameter_groups(model),
        config={**CONFIG, "gradient_accumulation_steps": 1, **changes},
    )[0]


def move(engine, count: int = 1, start: int = 0) -> list[float]:
    losses = []
    for step in range(start, start + count):
        losses.append(engine(batch(step, 4)))
        engine.backward(losses[-1])
        engine.step()
    return [loss.item() for loss in losses]


def test_a_checkpoint_of_two_processes_goes_on_in_one_and_in_another_stage(curves, folder):
    engine = engine_of(
        LanguageModel(9),
        train_micro_batch_size_per_gpu=ROWS * PROCESSES,
        gradient_accumulation_steps=ACCUMULATION,
        zero_optimization={"stage": 3},
    )
    path, client = engine.load_checkpoint(folder / "saved")
    assert (
        path == str(folder / "saved" / "half")
        and client == {"step": HALF - 1, "order": (3, 1, 2)}
        and engine.global_steps == HALF
    )
    losses = []
    for micro in range(HALF * ACCUMULATION, STEPS * ACCUMULATION):
        losses.append(engine(batch(micro, ROWS * PROCESSES)))
        engine.backward(losses[-1])
        engine.step()
    means = [(a.item() + b.item()) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)]
    assert means == pytest.approx(curves["stage 1, resumed"]["losses"][HALF:], rel=1e-5)


def test_random_states_come_back_from_a_checkpoint_without_pickle(tmp_path):
    """What GLM's scripts put into client_state."""
    engine, state = (
        engine_of(),
        {
            "random": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "nested": {3: [None, True, 1.5]},
        },
    )
    engine.save_checkpoint(tmp_path, "a", client_state=state)
    expected = random.random(), np.random.random(), torch.rand(1).item()
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {"", ".json", ".safetensors"}
    _, client = engine.load_checkpoint(tmp_path)
    random.setstate(client["random"])
    np.random.set_state(client["numpy"])
    torch.set_rng_state(client["torch"])
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected and client["nested"] == state[
        "nested"
    ]


def test_bad_checkpoints_are_refused_in_one_line(tmp_path):
    engine = engine_of()
    move(engine)
    engine.save_checkpoint(tmp_path, "good")
    with pytest.raises(ValueError, match=r"client_state = 'set': cannot be saved without pickle"):
        engine.save_checkpoint(tmp_path, "good", client_state={"seen": {1}})
    assert engine.load_checkpoint(tmp_path)[0] == str(tmp_path / "good")
    for tag in ("..", "a/b", ""):
        with pytest.raises(ValueError, match="plain name"):
            engine.save_checkpoint(tmp_path, tag)
    assert engine_of().load_checkpoint(tmp_path / "nowhere") == (None, None)
    with pytest.raises(ValueError, match="holds no checkpoint"):
        engine.load_checkpoint(tmp_path, "missing")
    with pytest.raises(ValueError, match="one of another model"):
        other = torch.nn.Linear(2, 2)
        deepspeed.initialize(model=other, config={**CONFIG, "scheduler": {}})[0].load_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"save_checkpoint: .*nothing was changed"):
        engine.save_checkpoint(tmp_path / "file", "a")
    shard = next((tmp_path / "good" / "mp_rank_00").glob("shard*"))
    whole = shard.read_bytes()
    for damaged in (whole[:-100], whole[: len(whole) // 2], b"\xff" * 100, b""):
        shard.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged checkpoint") as caught:
            engine.load_checkpoint(tmp_path)
        assert "\n" not in str(caught.value)
    shard.write_bytes(whole)
    state = shard.parent / "state.json"
    for damaged in ("", "[]", '{"dict": []}', '{"tensor": "99"}', '{"a": 1, "b": 2}'):
        state.write_text(damaged)
        with pytest.raises(ValueError, match="damaged checkpoint"):
            engine.load_checkpoint(tmp_path)


def test_a_checkpoint_that_lost_a_file_is_refused(curves, folder, tmp_path):
    for number in (1, 2):
        shutil.copytree(folder / "saved", tmp_path / str(number))
        next((tmp_path / str(number) / "half" / "mp_rank_00").glob(f"shard-0000{number}*")).unlink()
        with pytest.raises(ValueError, match=r"a file is missing|has shape|another model"):
            engine_of().load_checkpoint(tmp_path / str(number))


def test_steps_that_overflow_are_skipped_and_halve_the_scale():
    engine = engine_of(
        fp16={"enabled": True, "initial_scale_power": 24, "hysteresis": 1, "loss_scale_window": 1000},
        zero_optimization={"stage": 1},
    )
    before = [p.full_tensor().clone() for p in engine.module.parameters()]
    while engine.skipped_steps == engine.global_steps:
        scale, last = engine.optimizer.cur_scale, [p.full_tensor().clone() for p in engine.module.parameters()]
        move(engine)
        if engine.optimizer.overflow:
            assert engine.optimizer.cur_scale == scale / 2 and engine.lr_scheduler.last_batch_iteration == -1
            assert all(torch.equal(a, b) for a, b in zip(before, last, strict=True))
    assert 2 <= engine.skipped_steps <= 20 and engine.lr_scheduler.last_batch_iteration == 0


def test_a_loss_scale_changes_no_curve():
    curves = [
        move(engine_of(fp16={"enabled": True, "loss_scale": scale}, zero_optimization={"stage": 2}), 6)
        for scale in (1, 512)
    ]
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
    assert engine_of(fp16={"enabled": True}).optimizer.cur_scale == 2**16


def test_loss_scale_waits_for_as_many_overflows_as_asked():
    scale, values = LossScale(static=0, power=10, window=3, hysteresis=2, smallest=128), []
    for overflow in (1, 1, 1, 0, 0, 0, 0, 1, 1, 1):
        scale.update(bool(overflow))
        values.append(scale.value)
    # Two overflows for the first halving, one for the next; the third good step after the next doubles, and two overflows are needed again.
    assert values == [1024, 512, 256, 256, 256, 256, 512, 512, 256, 128]
    with pytest.raises(ValueError, match=r"fp16.min_loss_scale = 128: gradients overflow"):
        scale.update(True)


def test_schedules_reach_what_they_promise():
    def rates(kind, steps, **params):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        plan = schedule(optimizer, kind, params)
        return [optimizer.param_groups[0]["lr"] for _ in range(steps) if plan.step() is None]

    for kind in ("linear", "log"):
        up = rates("WarmupLR", 12, warmup_min_lr=0.5, warmup_max_lr=2.0, warmup_num_steps=10, warmup_type=kind)
        assert up[0] == 0.5 and up[10:] == [2.0, 2.0] and up == sorted(up)
    down = rates("WarmupDecayLR", 31, warmup_max_lr=2.0, warmup_num_steps=10, total_num_steps=30, warmup_type="linear")
    assert down[5] == 1.0 and down[10] == 2.0 and down[20] == 1.0 and down[30] == 0.0
    wave = rates("WarmupCosineLR", 40, warmup_num_steps=10, total_num_steps=30, cos_min_ratio=0.1)
    assert (
        wave[9] == 2.0
        and wave[19] == pytest.approx(2.0 * 0.55)
        and wave[29] == pytest.approx(0.2)
        and wave[39] == pytest.approx(0.2)
    )


def test_schedules_and_loss_scale_are_deepspeeds():
    theirs = pytest.importorskip("deepspeed.runtime.lr_schedules")
    shared = {"warmup_num_steps": 7}
    for kind, params in (
        ("WarmupLR", {"warmup_min_lr": 0.1, "warmup_max_lr": 1.0}), ("WarmupLR", {}), ("WarmupDecayLR", {"total_num_steps": 20, "warmup_max_lr": 1.0}),
        ("WarmupCosineLR", {"total_num_steps": 20, "warmup_min_ratio": 0.2}), ("WarmupCosineLR", {"total_num_steps": 5}),
    ):  # fmt: skip
        for shape in ("log", "linear"):
            pair = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0) for _ in range(2)]
            options = {**shared, **params, "warmup_type": shape}
            plans = schedule(pair[0], kind, options), getattr(theirs, kind)(pair[1], **options)
            for _ in range(30):
                assert pair[0].param_groups[0]["lr"] == pytest.approx(pair[1].param_groups[0]["lr"], rel=1e-12), (
                    kind,
                    options,
                )
                for plan in plans:
                    plan.step()
    from deepspeed import init_distributed
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    deepspeed.init_distributed()
    init_distributed()  # their scaler asks for its rank
    for seed in range(20):
        draw = random.Random(seed)
        window, hysteresis, refill = draw.randint(1, 5), draw.randint(2, 4), draw.random() < 0.5
        ours = LossScale(0, 30, window, hysteresis, refill, 1.0)
        scaler = DynamicLossScaler(2.0**30, window, 1.0, hysteresis, refill)
        for _ in range(60):
            overflow = draw.random() < 0.3
            ours.update(overflow)
            scaler.update_scale(overflow)
            assert ours.value == scaler.cur_scale


def test_recomputed_dropout_is_the_same_inside_and_outside_the_tracker():
    weight = torch.randn(8, 8, requires_grad=True)

    def layer(x):
        x = torch.nn.functional.dropout(x @ weight, 0.5)
        with deepspeed.checkpointing.get_cuda_rng_tracker().fork():
            return torch.nn.functional.dropout(x @ weight, 0.5)

    gradients = []
    for run in (lambda f, x: f(x), deepspeed.checkpointing.checkpoint):
        deepspeed.checkpointing.model_parallel_cuda_manual_seed(5)
        x = torch.ones(4, 8)
        for _ in range(2):
            x = run(layer, x)
        (gradient,) = torch.autograd.grad(x.sum(), weight)
        gradients.append(
            (gradient, torch.rand(2), deepspeed.checkpointing.get_cuda_rng_tracker().get_states()["model-parallel-rng"])
        )
    for plainly, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plainly, recomputed) and plainly.float().abs().sum() > 0


def test_the_ways_glms_scripts_call_it(tmp_path):
    """A command line with a file, a schedule of the script's own, a loader, an optimizer of its own."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({key: value for key, value in CONFIG.items() if key != "scheduler"}))
    args = deepspeed.add_config_arguments(argparse.ArgumentParser()).parse_args(
        ["--deepspeed", "--deepspeed_config", str(path)]
    )
    deepspeed.checkpointing.configure(None, deepspeed_config=args.deepspeed_config, num_checkpoints=2)
    assert args.deepspeed and deepspeed.checkpointing.is_configured()
    model, rows = LanguageModel(1), list(batch(0, 8))
    engine, optimizer, loader, plan = deepspeed.initialize(
        args,
        model,
        model_parameters=parameter_groups(model),
        training_data=rows,
        lr_scheduler=lambda made: torch.optim.lr_scheduler.LambdaLR(made, lambda step: 1 / (1 + step)),
    )
    assert {tuple(row.tolist()) for rows in loader for row in rows} == {tuple(row.tolist()) for row in rows} and len(
        next(iter(loader))
    ) == ROWS
    for _ in range(ACCUMULATION):
        engine.backward(engine(next(iter(loader))))
        engine.step()
    assert (
        engine.global_steps == 1
        and engine.get_lr() == plan.get_last_lr() == [RATE / 2] * 2
        and engine.network is model.network
        and not optimizer.overflow
    )
    with pytest.raises(ValueError, match="deepspeed_config"):
        deepspeed.initialize(args, LanguageModel(1), config=CONFIG)
    with pytest.raises(ValueError, match=r"nowhere.json': cannot be read"):
        deepspeed.initialize(model=LanguageModel(1), config=str(tmp_path / "nowhere.json"))
    own = LanguageModel(1)
    given = torch.optim.SGD(own.parameters(), lr=0.1)
    engine, returned, _, _ = deepspeed.initialize(model=own, optimizer=given, config={"train_batch_size": 4})
    before = engine.module.network.final_norm.weight.full_tensor().clone()
    move(engine)
    assert returned is given and not torch.equal(engine.module.network.final_norm.weight.full_tensor(), before)


def test_tied_layers_and_frozen_weights_train_as_ever():
    """A layer that shares its weight with the rest of the model, one that is frozen, one that is used twice."""

    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(3))
            self.layers[1].weight.requires_grad_(False)
            self.out = torch.nn.Linear(6, 6)
            self.out.weight = self.layers[0].weight

        def forward(self, x):
            for layer in (*self.layers, self.layers[2]):
                x = layer(x).tanh()
            return self.out(x).square().mean()

    x, plain_model = torch.randn(5, 6), Odd()
    optimizer = torch.optim.SGD([p for p in plain_model.parameters() if p.requires_grad], lr=0.5)
    expected = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = plain_model(x)
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    for stage in range(4):
        config = {"train_batch_size": 5, "zero_optimization": {"stage": stage}}
        engine, *_ = deepspeed.initialize(
            model=Odd(), optimizer=lambda groups: torch.optim.SGD(groups, lr=0.5), config=config
        )
        losses = []
        for _ in expected:
            losses.append(engine(x))
            engine.backward(losses[-1])
            engine.step()
        assert [loss.item() for loss in losses] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage = 4"),
        (
            {"zero_optimization": {"stage": 3, "zero_quantized_weights": True}},
            "zero_optimization.zero_quantized_weights = True",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
            "zero_optimization.offload_param.device = 'nvme'",
        ),
        ({"zero_optimization": True}, "zero_optimization = True"),
        ({"optimizer": {"type": "OneBitAdam"}}, "optimizer.type = 'OneBitAdam'"),
        ({"optimizer": {"type": "Adam", "params": {"lr": "auto"}}}, "optimizer.params.lr = 'auto'"),
        ({"optimizer": {"type": "Adam", "params": {"momentum": 1}}}, "optimizer.params.momentum = 1"),
        ({"scheduler": {"type": "OneCycle", "params": {}}}, "scheduler.type = 'OneCycle'"),
        ({"scheduler": {"type": "WarmupLR", "params": {"total_num_steps": 5}}}, "scheduler.params.total_num_steps = 5"),
        ({"scheduler": {"type": "WarmupDecayLR", "params": {}}}, "scheduler.params.total_num_steps = None"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, "bf16.enabled = True"),
        ({"fp16": {"enabled": True, "loss_scale": -1}}, "fp16.loss_scale = -1"),
        ({"fp16": {"enabled": "yes"}}, "fp16.enabled = 'yes'"),
        ({"gradient_clipping": float("nan")}, "gradient_clipping = nan"),
        (
            {"activation_checkpointing": {"partition_activations": True}},
            "activation_checkpointing.partition_activations = True",
        ),
        ({"compression_training": {}}, "compression_training"),
        ({"flops_profiler": {"enabled": True}}, "flops_profiler"),
        ({"prescale_gradients": True}, "prescale_gradients = True"),
        ({"train_batch_size": 7}, "train_batch_size = 7"),
    ],
)
def test_what_is_not_supported_is_named_in_one_line(change, named):
    with pytest.raises(ValueError) as caught:
        engine_of(**change)
    assert f"deepspeed {named}" in str(caught.value) and "\n" not in str(caught.value)


def test_configurations_of_glm_are_accepted():
    """Keys of the JSON files in THUDM/GLM (config_block_10B.json) and SwissArmyTransformer (deepspeed_zero2.json)."""
    zero = {
        "stage": 2,
        "contiguous_gradients": False,
        "overlap_comm": True,
        "reduce_scatter": True,
        "reduce_bucket_size": 4e7,
        "allgather_bucket_size": 1e8,
    }
    zero |= {"load_from_fp32_weights": False, "round_robin_gradients": False, "cpu_offload": False}
    found = settings(
        {
            "train_micro_batch_size_per_gpu": 16, "gradient_accumulation_steps": 1, "steps_per_print": 100, "gradient_clipping": 1.0, "zero_optimization": zero,
            "zero_allow_untested_optimizer": True, "wall_clock_breakdown": False, "bf16": {"enabled": False},
            "fp16": {"enabled": True, "loss_scale": 0, "loss_scale_window": 1000, "hysteresis": 2, "min_loss_scale": 1},
            "optimizer": {"type": "Adam", "params": {"lr": 0.0002, "weight_decay": 0.1, "betas": [0.9, 0.98], "eps": 1e-6}},
            "activation_checkpointing": {"partition_activations": False, "contiguous_memory_optimization": False},
        },
        8,
    )  # fmt: skip
    assert (found.train_batch, found.stage, found.dtype, found.optimizer[0]) == (
        128,
        2,
        torch.float16,
        torch.optim.AdamW,
    )


@pytest.mark.parametrize(
    ("given", "batch_micro_steps"),
    [
        ((64, 4, 2), (64, 4, 2)),
        ((64, 4, None), (64, 4, 2)),
        ((64, None, 2), (64, 4, 2)),
        ((None, 4, 2), (64, 4, 2)),
        ((64, None, None), (64, 8, 1)),
        ((None, 4, None), (32, 4, 1)),
    ],
)
def test_two_batch_sizes_give_the_third(given, batch_micro_steps):
    keys = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    found = settings({key: value for key, value in zip(keys, given, strict=True) if value is not None}, 8)
    assert (found.train_batch, found.micro_batch, found.accumulation) == batch_micro_steps
