"""DeepSpeed's JSON configuration, read: what is honoured, what may stand there without effect, and what is refused by
name, all of it at once.

Defaults are those of DeepSpeed 0.19.8 (https://www.deepspeed.ai/docs/config-json/). docs/deepspeed.md is the table for
users.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from openglm.config import require, shown
from openglm.deepspeed.schedules import check_schedule

# Keys that are honoured, by section.
USED = {
    "": "train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps gradient_clipping steps_per_print"
    " communication_data_type",
    "optimizer.": "type params",
    "optimizer.params.": "lr betas eps weight_decay torch_adam adam_w_mode",
    "scheduler.": "type params",
    "fp16.": "enabled auto_cast loss_scale initial_scale_power loss_scale_window hysteresis consecutive_hysteresis"
    " min_loss_scale",
    "bf16.": "enabled check_grad_overflow",
    "data_types.": "grad_accum_dtype",
    "zero_optimization.": "stage offload_optimizer offload_param cpu_offload cpu_offload_param",
    "activation_checkpointing.": "",
    "checkpoint.": "",
}
# Hints about memory, buckets and overlap that change no number: FSDP2 has its own ways.
HINTS = {
    "": "zero_allow_untested_optimizer zero_force_ds_cpu_optimizer dump_state disable_allgather aio"
    " wall_clock_breakdown memory_breakdown seq_parallel_communication_data_type",
    "optimizer.": "legacy_fusion",
    "optimizer.params.": "foreach fused",
    "bf16.": "immediate_grad_update",
    "zero_optimization.": "contiguous_gradients overlap_comm reduce_scatter reduce_bucket_size allgather_partitions"
    " allgather_bucket_size sub_group_size use_multi_rank_bucket_allreduce round_robin_gradients load_from_fp32_weights"
    " elastic_checkpoint ignore_unused_parameters memory_efficient_linear cpu_offload_use_pin_memory"
    " stage3_prefetch_bucket_size stage3_param_persistence_threshold stage3_model_persistence_threshold"
    " stage3_max_live_parameters stage3_max_reuse_distance stage3_module_granularity_threshold"
    " stage3_use_all_reduce_for_fetch_params stage3_gather_16bit_weights_on_model_save"
    " stage3_gather_fp16_weights_on_model_save log_trace_cache_warnings",
    "activation_checkpointing.": "number_checkpoints contiguous_memory_optimization synchronize_checkpoint_boundary",
    "checkpoint.": "tag_validation parallel_write",
}
# Keys of things that do not exist here, which configurations carry switched off.
OFF: dict[str, dict[str, Any]] = {
    "": {
        "prescale_gradients": False,
        "sparse_gradients": False,
        "gradient_predivide_factor": 1.0,
    },
    "optimizer.params.": {"bias_correction": True, "amsgrad": False, "max_grad_norm": 0},
    "fp16.": {"fp16_master_weights_and_grads": False},
    "bf16.": {"bf16_master_weights_and_grads": False},
    "zero_optimization.": {
        "legacy_stage1": False,
        "zero_hpz_partition_size": 1,
        "zero_quantized_weights": False,
        "zero_quantized_gradients": False,
    },
    "activation_checkpointing.": {"partition_activations": False, "cpu_checkpointing": False, "profile": False},
    "checkpoint.": {"load_universal": False, "use_node_local_storage": False},
}
WAYS_OUT = {"max_grad_norm": "use gradient_clipping, which this became", "bfloat16": "it is called bf16"}
AUTO = "stands for a value that transformers' Trainer fills in; nothing does so here: write the value"
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


Faults = list[tuple[str, str]]  # key and value, and what is wrong with them


def section(values: dict[str, Any], name: str) -> dict[str, Any]:
    """One section, its keys checked; {} where it is missing. `name` ends in a dot."""
    faults: Faults = []
    found = _sift(values.get(name[:-1]), name, faults)
    _refuse(faults)
    return found


def _sift(values: Any, name: str, faults: Faults) -> dict[str, Any]:
    """What can be used of a section and of those inside it; `faults` takes the rest."""
    if not isinstance(values, dict):
        if values:
            faults.append((f"{name[:-1]} = {shown(values)}", "must be a table of options"))
        return {}
    found = {}
    known, hints, off = USED[name].split(), HINTS.get(name, "").split(), OFF.get(name, {})
    for key, value in values.items():
        inner = f"{name}{key}.".replace("bfloat16.", "bf16.")
        if inner in USED:
            found[inner.removeprefix(name)[:-1]] = _sift(value, inner, faults)
        elif key in known:
            table = {f".{inside}": given for inside, given in value.items()} if isinstance(value, dict) else {"": value}
            open_ones = [inside for inside, given in table.items() if given == "auto"]
            faults += [(f"{name}{key}{inside} = 'auto'", AUTO) for inside in open_ones]
            if not open_ones:
                found[key] = value
        elif not (key in hints or (key in off and value == off[key]) or _is_off(value)):
            way_out = (
                f"only {off[key]!r} is supported" if key in off else "not supported; leave it out or switch it off"
            )
            faults.append((f"{name}{key} = {shown(value)}", WAYS_OUT.get(key, way_out)))
    return found


def _is_off(value: Any) -> bool:
    """Features that do not exist here, which configurations carry switched off: {"enabled": false, ...}."""
    return isinstance(value, dict) and value.get("enabled") is False


def _refuse(faults: Faults) -> None:
    """Raise ValueError of one line with all faults, those of one kind together."""
    kinds: dict[str, list[str]] = {}
    for what, why in faults:
        kinds.setdefault(why, []).append(what)
    if faults:
        raise ValueError("deepspeed " + "; ".join(f"{', '.join(these)}: {why}" for why, these in kinds.items()))


def settings(values: dict[str, Any], processes: int) -> Settings:
    """Check a configuration for so many data-parallel processes. Raises ValueError that names all keys at fault."""
    faults: Faults = []
    top = _sift(values, "", faults)

    def checked(check: Callable[..., Any], *given: Any, part: str = "") -> Any:
        """What a check makes of its part; a value that nobody filled in is a fault already."""
        if any(what.startswith(part) and why == AUTO for what, why in faults if part):
            return None
        try:
            return check(*given)
        except ValueError as error:
            what, _, why = str(error).partition(": ")
            faults.append((what.removeprefix("deepspeed "), why))

    zero = top.get("zero_optimization", {})
    offloads = [checked(_offload, zero, key) for key in ("offload_optimizer", "offload_param")]
    found = {
        "batches": checked(_batches, top, processes, part="train_"),
        "stage": checked(_stage, zero),
        "offload": any(offloads),
        "clip": checked(_number, top, "gradient_clipping", 0.0, 0),
        "optimizer": checked(_optimizer, top, part="optimizer"),
        "scheduler": checked(_scheduler, top),
        "steps_per_print": checked(_number, top, "steps_per_print", 0, 0, True),
        "precision": checked(_precision, top),
    }
    _refuse(faults)
    train_batch, micro_batch, accumulation = found.pop("batches")
    precision = found.pop("precision")
    if precision.get("scale") and not found["stage"]:
        precision["scale"]["hysteresis"] = 1  # DeepSpeed's optimizer of stage 0 has none
    return Settings(train_batch, micro_batch, accumulation, **found, **precision)


def _stage(zero: dict[str, Any]) -> int:
    stage = _number(zero, "zero_optimization.stage", 0, low=0, whole=True)
    require(stage <= 3, "deepspeed zero_optimization.stage", stage, "choose 0, 1, 2 or 3")
    return stage


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
        f"must be train_micro_batch_size_per_gpu x gradient_accumulation_steps x processes = {micro} x {steps} x "
        f"{processes}",
    )
    return batch, micro, steps


def _offload(zero: dict[str, Any], key: str) -> bool:
    """Both of DeepSpeed's offloads are FSDP2's one: weights, gradients and optimizer state on the CPU, computation on
    the accelerator."""
    old = "cpu_offload" if key == "offload_optimizer" else "cpu_offload_param"
    table = zero.get(key) or {}
    require(isinstance(table, dict), f"deepspeed zero_optimization.{key}", table, "must be a table of options")
    device = table.get("device") or "none"
    require(device in ("none", "cpu"), f"deepspeed zero_optimization.{key}.device", device, "choose none or cpu")
    return _switch(zero, f"zero_optimization.{old}") or device == "cpu"


def _precision(top: dict[str, Any]) -> dict[str, Any]:
    half, brain = top.get("fp16", {}), top.get("bf16", {})
    fp16, bf16 = _switch(half, "fp16.enabled"), _switch(brain, "bf16.enabled")
    require(not (fp16 and bf16), "deepspeed bf16.enabled", True, "fp16 is enabled too; choose one")
    compute = "fp16" if fp16 else "bf16" if bf16 else "fp32"
    names = {
        "communication_data_type": top.get("communication_data_type") or compute,
        "data_types.grad_accum_dtype": top.get("data_types", {}).get("grad_accum_dtype") or compute,
    }
    for key, name in names.items():
        require(name in TYPES, f"deepspeed {key}", name, "choose fp16, bf16 or fp32")
    found: dict[str, Any] = {
        "dtype": None if compute == "fp32" else TYPES[compute],
        # FSDP2 adds up in the type that it exchanges: the wider of the two serves both.
        "reduce_dtype": max((TYPES[name] for name in names.values()), key=lambda dtype: dtype.itemsize),
    }
    if bf16:
        found["check_overflow"] = _switch(brain, "bf16.check_grad_overflow", True)
    if fp16:
        found |= {"check_overflow": True, "cast_inputs": _switch(half, "fp16.auto_cast"), "scale": _scale(half)}
    return found


def _scale(half: dict[str, Any]) -> dict[str, Any]:
    """Options of LossScale."""
    return {
        "static": _number(half, "fp16.loss_scale", 0.0, 0),
        "power": _number(half, "fp16.initial_scale_power", 16, 0, True),
        "window": _number(half, "fp16.loss_scale_window", 1000, 1, True),
        "hysteresis": _number(half, "fp16.hysteresis", 2, 1, True),
        "refill": _switch(half, "fp16.consecutive_hysteresis"),
        # 0 is no floor. Below 2^-24 gradients that overflow are not finite at all.
        "smallest": _number(half, "fp16.min_loss_scale", 1.0, 0) or 2**-24,
    }


def _optimizer(top: dict[str, Any]) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    if not (table := top.get("optimizer")):
        return None
    kind = table.get("type")
    name = str(kind).lower()
    require(
        name in ("adam", "adamw"),
        "deepspeed optimizer.type",
        kind,
        "choose Adam or AdamW, or give initialize() an optimizer",
    )
    given = table.get("params", {})
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
    table = top.get("scheduler")
    if not table or table.get("type") is None:
        return None
    params = table.get("params") or {}
    require(isinstance(params, dict), "deepspeed scheduler.params", params, "must be a table of options")
    check_schedule(table["type"], params)
    return table["type"], params
