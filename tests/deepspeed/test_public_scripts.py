"""Configurations and calls as public scripts for DeepSpeed have them: each runs, or all that stands in its way is said at once."""

import contextlib

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

import openglm.deepspeed as deepspeed
from openglm.deepspeed.config import settings

FP16 = {"enabled": True, "loss_scale": 0, "loss_scale_window": 1000, "hysteresis": 2, "min_loss_scale": 1}
ZERO_2 = {"stage": 2, "reduce_scatter": True, "reduce_bucket_size": 5e7, "allgather_bucket_size": 5e8}
ADAM = {"type": "Adam", "params": {"lr": 1e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}}
NO_CHECKPOINTING = {"partition_activations": False, "contiguous_memory_optimization": False}
OFF = {"enabled": False, "max_out_tokens": 512}

# What runs, reduced to what is particular to it.
RUN = {
    "THUDM/GLM, 10B": {
        "train_micro_batch_size_per_gpu": 4,
        "steps_per_print": 50,
        "gradient_clipping": 1.0,
        "zero_optimization": {**ZERO_2, "contiguous_gradients": False, "overlap_comm": True},
        "zero_allow_untested_optimizer": True,
        "fp16": FP16,
        "optimizer": ADAM,
        "activation_checkpointing": NO_CHECKPOINTING,
        "wall_clock_breakdown": False,
    },
    "THUDM/GLM, large Chinese: no ZeRO": {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 1,
        "fp16": FP16,
        "optimizer": ADAM,
        "activation_checkpointing": NO_CHECKPOINTING,
    },
    "DeepSpeed-Chat: sections and devices that are off": {
        "train_batch_size": 4,
        "zero_optimization": {
            "stage": 2,
            "offload_param": {"device": "none"},
            "offload_optimizer": {"device": "none"},
            "memory_efficient_linear": False,
        },
        "fp16": {"enabled": True, "loss_scale_window": 100},
        "prescale_gradients": False,
        "hybrid_engine": {**OFF, "inference_tp_size": 1},
    },
    "cifar": {
        "train_batch_size": 4,
        "steps_per_print": 2000,
        "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "betas": [0.8, 0.999], "weight_decay": 3e-7}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": 0, "warmup_max_lr": 0.1, "warmup_num_steps": 2}},
        "fp16": {**FP16, "fp16_master_weights_and_grads": False, "initial_scale_power": 15},
        "zero_optimization": {**ZERO_2, "cpu_offload": True},
    },
    "no floor of the loss scale": {"train_batch_size": 4, "fp16": {**FP16, "min_loss_scale": 0.0}},
    "type of sums": {"train_batch_size": 4, "bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}},
    "timers": {"train_batch_size": 4, "wall_clock_breakdown": True},
    "more that is off": {"train_batch_size": 4, "torch_autocast": OFF, "compile": OFF, "comms_logger": OFF},
    "checkpoints": {"train_batch_size": 4, "checkpoint": {"tag_validation": "Warn", "load_universal": False}},
    "offloaded": {
        "train_batch_size": 4,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": True, "ratio": 0.3}},
    },
}

# What does not, and every key that must be named.
REFUSED = {
    "ChatGLM-6B, ptuning": (
        {
            "train_micro_batch_size_per_gpu": "auto",
            "fp16": {**FP16, "enabled": "auto"},
            "zero_optimization": {**ZERO_2, "overlap_comm": False},
        },
        ["train_micro_batch_size_per_gpu = 'auto'", "fp16.enabled = 'auto'", "transformers"],
    ),
    "bing_bert": (
        {
            "train_batch_size": 4096,
            "optimizer": {"type": "Adam", "params": {"lr": 2e-4, "max_grad_norm": 1.0, "bias_correction": False}},
            "fp16": FP16,
        },
        ["optimizer.params.max_grad_norm = 1.0", "gradient_clipping", "optimizer.params.bias_correction = False"],
    ),
    "cifar, with half-precision master weights": (
        {
            "train_batch_size": 4,
            "fp16": {**FP16, "fp16_master_weights_and_grads": True},
            "zero_optimization": {**ZERO_2, "cpu_offload": True},
            "scheduler": {"type": "OneCycle", "params": {"cycle_min_lr": 1e-5}},
        },
        ["fp16.fp16_master_weights_and_grads = True", "scheduler.type = 'OneCycle'"],
    ),
    "everything at once": (
        {
            "train_batch_size": "auto",
            "gradient_clipping": "auto",
            "flops_profiler": {"enabled": True},
            "zero_optimization": {
                "stage": 5,
                "reduce_bucket_size": "auto",
                "offload_optimizer": {"device": "nvme"},
                "offload_param": {"device": "nvme"},
                "stage3_param_persitance_threshold": 1e5,
            },
            "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": "auto"}},
            "activation_checkpointing": {"partition_activations": True},
        },
        [
            "train_batch_size = 'auto'",
            "gradient_clipping = 'auto'",
            "flops_profiler",
            "zero_optimization.stage = 5",
            "offload_optimizer.device = 'nvme'",
            "offload_param.device = 'nvme'",
            "stage3_param_persitance_threshold",
            "scheduler.params.warmup_num_steps = 'auto'",
            "partition_activations = True",
        ],
    ),
}


@pytest.fixture(scope="module", autouse=True)
def alone():
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))


def engine_of(**config):
    config.setdefault("train_batch_size", 4)
    config.setdefault("optimizer", {"type": "AdamW", "params": {"lr": 0.1}})
    return deepspeed.initialize(model=network(), config=config)[0]


def rows(seed: int, count: int = 4) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", RUN)
def test_configurations_that_run(name, capsys):
    config = dict(RUN[name])
    if "train_micro_batch_size_per_gpu" in config:
        config["train_batch_size"] = 4
    engine = engine_of(**config)
    before = [p.full_tensor().clone() for p in engine.module.parameters()]
    for step in range(3):
        engine.backward(engine(rows(step).to(engine.settings.dtype or torch.float32)).float().square().mean())
        engine.step()
    assert engine.global_steps == 3 and engine.skipped_steps == 0
    assert not any(torch.equal(a, b.full_tensor()) for a, b in zip(before, engine.module.parameters(), strict=True))
    assert ("no times" in capsys.readouterr().err) == (name == "timers")


@pytest.mark.parametrize("name", REFUSED)
def test_configurations_that_do_not_say_all_reasons_in_one_line(name):
    config, named = REFUSED[name]
    with pytest.raises(ValueError) as caught:
        settings(config, 1)
    said = str(caught.value)
    assert "\n" not in said and all(part in said for part in named), said
    assert "reduce_bucket_size" not in said  # what has no effect may stand there


def test_sums_are_as_wide_as_asked():
    def sums(**more):
        return settings({"train_batch_size": 4, "bf16": {"enabled": True}, **more}, 1).reduce_dtype

    assert (sums(), sums(data_types={"grad_accum_dtype": "fp32"})) == (torch.bfloat16, torch.float32)
    assert sums(communication_data_type="fp32", data_types={"grad_accum_dtype": "bf16"}) == torch.float32
    with pytest.raises(ValueError, match=r"data_types.grad_accum_dtype = 'fp8': choose"):
        sums(data_types={"grad_accum_dtype": "fp8"})


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_backward_pass_beside_the_engine_is_an_error(stage):
    """It would leave out the loss scale, the division by micro-batches and the exchange, without a word."""
    engine = engine_of(zero_optimization={"stage": stage})
    loss = engine(rows(0)).square().mean()
    with pytest.raises(ValueError, match=r"loss.backward\(\).*engine.backward\(loss\)"):
        loss.backward()
    engine.backward(engine(rows(0)).square().mean())
    engine.step()


@pytest.mark.parametrize("stage", [0, 1])
def test_no_sync_adds_up_as_one_larger_batch(stage):
    whole, parts = (engine_of(zero_optimization={"stage": stage}) for _ in range(2))
    both = torch.cat([rows(1), rows(2)])
    whole.backward(whole(both).square().mean())
    for seed, quiet in ((1, parts.no_sync()), (2, contextlib.nullcontext())):
        with quiet:
            parts.backward(parts(rows(seed)).square().mean() / 2)
    for engine in (whole, parts):
        engine.step()
    assert parts.get_global_grad_norm() == pytest.approx(whole.get_global_grad_norm(), rel=1e-5)
    with pytest.raises(ValueError, match=r"inside no_sync"), parts.no_sync():
        parts.step()
    with (
        pytest.raises(ValueError, match=r"no_sync, zero_optimization.stage = 2"),
        engine_of(zero_optimization={"stage": 2}).no_sync(),
    ):
        pass


def test_weights_in_half_precision_are_one_file(tmp_path):
    engine = engine_of(zero_optimization={"stage": 3})
    assert engine.save_16bit_model(tmp_path / "out")
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert saved.keys() == network().state_dict().keys()
    for name, tensor in network().state_dict().items():
        assert torch.equal(saved[name], tensor.bfloat16())
    with pytest.raises(ValueError, match=r"save_filename = 'pytorch_model.bin': no pickle"):
        engine.save_16bit_model(tmp_path, "pytorch_model.bin")


def test_names_that_scripts_use():
    engine = engine_of()
    assert engine.local_rank == engine.global_rank == deepspeed.comm.get_rank() == 0
    assert deepspeed.comm.get_world_size() == 1 and deepspeed.comm.is_initialized()
    with deepspeed.zero.Init(config_dict_or_path={}, enabled=True):
        model = network()
    with deepspeed.zero.GatheredParameters(model.parameters(), modifier_rank=0):
        model[0].weight.data.zero_()
    with (
        pytest.raises(ValueError, match=r"GatheredParameters.*full_tensor"),
        deepspeed.zero.GatheredParameters(engine.module[0].weight),
    ):
        pass
    with pytest.raises(AttributeError, match=r"no 'PipelineModule'; it has Engine"):
        _ = deepspeed.PipelineModule
    with pytest.raises(AttributeError, match=r"'all_reduce_coalesced_fast'"):
        _ = deepspeed.comm.all_reduce_coalesced_fast
