"""DeepSpeed's JSON configuration, read: what is honoured, what may stand there without effect, and what is refused by
name.

Defaults are those of DeepSpeed 0.19.8 (https://www.deepspeed.ai/docs/config-json/). docs/deepspeed.md is the table for
users.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from openglm.config import require

# Keys that are honoured, by section.
USED = {
    "": "train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps optimizer scheduler fp16 bf16 bfloat16 zero_optimization"
    " gradient_clipping activation_checkpointing steps_per_print communication_data_type",
    "optimizer.": "type params",
    "optimizer.params.": "lr betas eps weight_decay torch_adam adam_w_mode",
    "scheduler.": "type params",
    "fp16.": "enabled auto_cast loss_scale initial_scale_power loss_scale_window hysteresis consecutive_hysteresis min_loss_scale",
    "bf16.": "enabled check_grad_overflow",
    "zero_optimization.": "stage offload_optimizer offload_param cpu_offload",
    "activation_checkpointing.": "",
}
# Hints about memory, buckets and overlap that change no number: FSDP2 has its own ways.
HINTS = {
    "": "zero_allow_untested_optimizer zero_force_ds_cpu_optimizer dump_state disable_allgather aio",
    "optimizer.": "legacy_fusion",
    "optimizer.params.": "foreach fused",
    "bf16.": "immediate_grad_update",
    "zero_optimization.": "contiguous_gradients overlap_comm reduce_scatter reduce_bucket_size allgather_partitions allgather_bucket_size sub_group_size"
    " use_multi_rank_bucket_allreduce round_robin_gradients load_from_fp32_weights elastic_checkpoint ignore_unused_parameters memory_efficient_linear"
    " cpu_offload_use_pin_memory stage3_prefetch_bucket_size stage3_param_persistence_threshold stage3_model_persistence_threshold"
    " stage3_max_live_parameters stage3_max_reuse_distance stage3_module_granularity_threshold stage3_use_all_reduce_for_fetch_params"
    " stage3_gather_16bit_weights_on_model_save stage3_gather_fp16_weights_on_model_save log_trace_cache_warnings",
    "activation_checkpointing.": "number_checkpoints contiguous_memory_optimization synchronize_checkpoint_boundary",
}
# Keys of things that do not exist here, which configurations carry switched off.
OFF: dict[str, dict[str, Any]] = {
    "": {
        "wall_clock_breakdown": False,
        "memory_breakdown": False,
        "prescale_gradients": False,
        "sparse_gradients": False,
        "gradient_predivide_factor": 1.0,
    },
    "optimizer.params.": {"bias_correction": True, "amsgrad": False},
    "fp16.": {"fp16_master_weights_and_grads": False},
    "bf16.": {"bf16_master_weights_and_grads": False},
    "zero_optimization.": {
        "legacy_stage1": False,
        "zero_hpz_partition_size": 1,
        "zero_quantized_weights": False,
        "zero_quantized_gradients": False,
    },
    "activation_checkpointing.": {"partition_activations": False, "cpu_checkpointing": False, "profile": False},
}
# The same for whole sections: {"enabled": false}.
FEATURES = (
    "amp",
    "autotuning",
    "tensorboard",
    "wandb",
    "comet",
    "csv_monitor",
    "flops_profiler",
    "comms_logger",
    "elasticity",
    "curriculum_learning",
    "data_efficiency",
)
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Settings:
    """A configuration, checked, for a known number of data-parallel processes."""

    train_batch: int
    """rows of one optimizer step, all processes together"""
    micro_batch: int
    """rows of one forward pass of one process"""
    accumulation: int
    stage: int = 0
    dtype: torch.dtype | None = None
    """of weights in the forward and backward pass; None: as the model is"""
    reduce_dtype: torch.dtype | None = None
    cast_inputs: bool = False
    check_overflow: bool = False
    scale: dict[str, Any] = field(default_factory=dict)
    """options of LossScale"""
    clip: float = 0.0
    """largest norm of the gradient; 0: any"""
    offload: bool = False
    optimizer: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None
    scheduler: tuple[str, dict[str, Any]] | None = None
    steps_per_print: int = 0


def load(config: str | Path | dict[str, Any]) -> dict[str, Any]:
    """A dictionary, or the JSON file at a path."""
    if isinstance(config, dict):
        return config
    try:
        values = json.loads(Path(config).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"deepspeed_config = {str(config)!r}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"deepspeed_config = {str(config)!r}: not JSON ({error})") from None
    require(isinstance(values, dict), "deepspeed_config", str(config), "must hold one JSON object")
    return values


def section(values: dict[str, Any], name: str) -> dict[str, Any]:
    """One section, its keys checked; {} where it is missing. `name` ends in a dot; the whole configuration is ""."""
    if name:
        *_, key = name.removesuffix(".").split(".")
        values = values.get(key) or {}
        require(isinstance(values, dict), f"deepspeed {name}"[:-1], values, "must be a table of options")
    known = USED[name].split() + HINTS.get(name, "").split()
    off = OFF.get(name, {})
    for key, value in values.items():
        dull = (key in off and value == off[key]) or (
            not name and key in FEATURES and isinstance(value, dict) and value.get("enabled", False) is False
        )
        require(
            key in known or dull,
            f"deepspeed {name}{key}",
            value,
            f"only {off[key]!r} is supported" if key in off else "not supported; leave it out or switch it off",
        )
    return values


def settings(values: dict[str, Any], processes: int) -> Settings:
    """Check a configuration for so many data-parallel processes. Raises ValueError that names the key."""
    top = section(values, "")
    section(top, "activation_checkpointing.")
    batch, micro, accumulation = _batches(top, processes)
    zero = section(top, "zero_optimization.")
    stage = _number(zero, "zero_optimization.stage", 0, low=0, whole=True)
    require(stage <= 3, "deepspeed zero_optimization.stage", stage, "choose 0, 1, 2 or 3")
    return Settings(
        batch,
        micro,
        accumulation,
        stage,
        clip=_number(top, "gradient_clipping", 0.0, low=0),
        offload=_offload(zero),
        optimizer=_optimizer(top),
        scheduler=_scheduler(top),
        steps_per_print=_number(top, "steps_per_print", 0, low=0, whole=True),
        **_precision(top, stage),
    )


def _number(values: dict[str, Any], name: str, default: Any, low: float, whole: bool = False) -> Any:
    """A number not below `low`; its key is the last part of `name`. Whole numbers may be written 2e3."""
    value = values.get(name.rpartition(".")[2], default)
    if value is None or value is default:
        return default
    good = (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and low <= value < float("inf")
        and (not whole or value == int(value))
    )
    require(good, f"deepspeed {name}", value, f"must be a {'whole ' if whole else ''}number of at least {low}")
    return int(value) if whole else value


def _switch(values: dict[str, Any], name: str, default: bool = False) -> bool:
    value = values.get(name.rpartition(".")[2], default)
    require(isinstance(value, bool), f"deepspeed {name}", value, "must be true or false")
    return value


def _batches(top: dict[str, Any], processes: int) -> tuple[int, int, int]:
    """Two of batch = micro-batch x accumulation x processes give the third; with one of them the accumulation is 1."""
    batch, micro, steps = (
        _number(top, n, None, 1, True)
        for n in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    )
    require(batch or micro, "deepspeed train_batch_size", None, "missing; give it or train_micro_batch_size_per_gpu")
    if batch is None:
        steps = steps or 1
        batch = micro * steps * processes
    elif micro is None:
        steps = steps or 1
        micro = batch // processes // steps
    elif steps is None:
        steps = batch // micro // processes
    good = min(micro, steps) > 0 and batch == micro * steps * processes
    require(
        good,
        "deepspeed train_batch_size",
        batch,
        f"must be train_micro_batch_size_per_gpu x gradient_accumulation_steps x processes = {micro} x {steps} x {processes}",
    )
    return batch, micro, steps


def _offload(zero: dict[str, Any]) -> bool:
    """Both of DeepSpeed's offloads are FSDP2's one: weights, gradients and optimizer state on the CPU, computation on
    the accelerator."""
    devices = [_switch(zero, "zero_optimization.cpu_offload") and "cpu"]
    for key in ("offload_optimizer", "offload_param"):
        table = zero.get(key) or {}
        require(isinstance(table, dict), f"deepspeed zero_optimization.{key}", table, "must be a table of options")
        device = table.get("device", "none")
        require(device in ("none", "cpu"), f"deepspeed zero_optimization.{key}.device", device, "choose none or cpu")
        devices.append(device)
    return "cpu" in devices


def _precision(top: dict[str, Any], stage: int) -> dict[str, Any]:
    half, brain = section(top, "fp16."), section({"bf16": top.get("bf16") or top.get("bfloat16")}, "bf16.")
    fp16, bf16 = _switch(half, "fp16.enabled"), _switch(brain, "bf16.enabled")
    require(not (fp16 and bf16), "deepspeed bf16.enabled", True, "fp16 is enabled too; choose one")
    name = top.get("communication_data_type") or ("fp16" if fp16 else "bf16" if bf16 else "fp32")
    require(name in TYPES, "deepspeed communication_data_type", name, "choose fp16, bf16 or fp32")
    found: dict[str, Any] = {
        "dtype": torch.float16 if fp16 else torch.bfloat16 if bf16 else None,
        "reduce_dtype": TYPES[name],
    }
    if bf16:
        found["check_overflow"] = _switch(brain, "bf16.check_grad_overflow", True)
    if fp16:
        found |= {"check_overflow": True, "cast_inputs": _switch(half, "fp16.auto_cast")}
        found["scale"] = {
            "static": _number(half, "fp16.loss_scale", 0.0, 0),
            "power": _number(half, "fp16.initial_scale_power", 16, 0, True),
            "window": _number(half, "fp16.loss_scale_window", 1000, 1, True),
            "hysteresis": _number(half, "fp16.hysteresis", 2, 1, True)
            if stage
            else 1,  # DeepSpeed's optimizer of stage 0 has none
            "refill": _switch(half, "fp16.consecutive_hysteresis"),
            "smallest": _number(half, "fp16.min_loss_scale", 1.0, 2**-24),
        }
    return found


def _optimizer(top: dict[str, Any]) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    if not (table := section(top, "optimizer.")):
        return None
    kind = table.get("type")
    name = str(kind).lower()
    require(
        name in ("adam", "adamw"),
        "deepspeed optimizer.type",
        kind,
        "choose Adam or AdamW, or give initialize() an optimizer",
    )
    given = section(table, "optimizer.params.")
    decoupled = _switch(given, "optimizer.params.adam_w_mode", True) or name == "adamw"
    # DeepSpeed's own Adam decays nothing by default; torch_adam asks for torch's class and so for its defaults.
    decay = 1e-2 if _switch(given, "optimizer.params.torch_adam") and decoupled else 0.0
    betas = given.get("betas", (0.9, 0.999))
    good = (
        isinstance(betas, (list, tuple))
        and len(betas) == 2
        and all(isinstance(beta, (int, float)) and 0 <= beta < 1 for beta in betas)
    )
    require(good, "deepspeed optimizer.params.betas", betas, "must be two numbers from 0 to below 1")
    options = {
        "lr": _number(given, "optimizer.params.lr", 1e-3, 0),
        "betas": tuple(betas),
        "eps": _number(given, "optimizer.params.eps", 1e-8, 0),
        "weight_decay": _number(given, "optimizer.params.weight_decay", decay, 0),
    }
    return (torch.optim.AdamW if decoupled else torch.optim.Adam), options


def _scheduler(top: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    table = section(top, "scheduler.")
    if not table or table.get("type") is None:
        return None
    params = table.get("params") or {}
    require(isinstance(params, dict), "deepspeed scheduler.params", params, "must be a table of options")
    return table["type"], params
