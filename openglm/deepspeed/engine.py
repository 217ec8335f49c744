"""The engine that deepspeed.initialize returns: a model sharded over the data-parallel processes, its optimizer, and
DeepSpeed's steps.

Weights are kept in fp32 and sharded (stages 1 to 3) or whole (stage 0); what computes is gathered from them, in half
precision if so configured. Stages differ in what stays gathered: 0 and 1 exchange gradients once a step, 2 after each
micro-batch, 3 also lets weights go after each layer's forward pass.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._composable.replicate_with_fsdp import replicate
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.utils._pytree import tree_leaves

from openglm.config import require
from openglm.deepspeed import saving
from openglm.deepspeed.config import Settings, settings
from openglm.deepspeed.groups import data_parallel, model_parallel, own_device
from openglm.deepspeed.schedules import LossScale, schedule
from openglm.parallel.apply import gather_gradients, reshard
from openglm.runtime import launched, say


class Engine(nn.Module):
    """Call it like the model; then `backward(loss)` and `step()` for each micro-batch."""

    def __init__(
        self,
        args: Any,
        model: nn.Module,
        parameters: Any,
        mpu: Any,
        values: dict[str, Any],
        optimizer: Any,
        lr_scheduler: Any,
    ) -> None:
        super().__init__()
        self.dp_group = data_parallel(mpu)
        self.mp_group, self.mp_rank = model_parallel(mpu)
        self.dp_world_size, self.dp_rank = dist.get_world_size(self.dp_group), dist.get_rank(self.dp_group)
        self.settings = settings(values, self.dp_world_size)
        self.device = own_device(args)
        self.micro_steps = self.global_steps = self.global_samples = self.skipped_steps = 0
        self.local_rank = launched()[1] if self.device.index is None else self.device.index
        self.global_rank = dist.get_rank()
        self._synchronizes, self._in_backward = True, False
        if values.get("wall_clock_breakdown") and self.global_rank == 0:
            say("wall_clock_breakdown: no times are printed here")
        self.scaler = LossScale(**self.settings.scale)
        self._grad_norm: float | None = None
        names = {parameter: name for name, parameter in model.named_parameters()}
        # Megatron-LM's mark of a parameter that each model-parallel process holds a part of: the others are the same
        # everywhere and count once in the norm.
        counted = {
            name
            for parameter, name in names.items()
            if self.mp_rank == 0
            or any(getattr(parameter, mark, False) for mark in ("model_parallel", "tensor_model_parallel"))
        }
        groups = optimizer.param_groups if isinstance(optimizer, torch.optim.Optimizer) else _groups(model, parameters)
        members = [[_name(names, parameter) for parameter in group["params"]] for group in groups]
        self.module = _prepare(model, self.settings, self.dp_group, self.device)
        now = dict(self.module.named_parameters())
        self._counted = {now[name] for name in counted}
        for group, own in zip(groups, members, strict=True):
            group["params"] = [now[name] for name in own]
        # Any: what `_optimizer` adds for scripts to read, torch's class does not know.
        self.optimizer: Any = self._optimizer(optimizer, groups)
        if self.optimizer and self.settings.dtype and self.settings.stage == 0:
            self._step_on_nothing()
        self.lr_scheduler = self._schedule(lr_scheduler)

    def _optimizer(self, given: Any, groups: list[dict[str, Any]]) -> torch.optim.Optimizer | None:
        if isinstance(given, torch.optim.Optimizer):
            made = given
        elif given is not None:
            made = given(groups)
        elif self.settings.optimizer is None:
            return None
        else:
            kind, options = self.settings.optimizer
            fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
            made = kind(groups, fused=fused, **options)
        # What scripts read from DeepSpeed's wrapper stands on the optimizer itself, so that torch's schedules take it
        # too. Weights are kept once: nothing to refresh.
        made.optimizer, made.overflow, made.cur_scale = made, False, self.scaler.value
        made.refresh_fp32_params = lambda: None
        return made

    def _step_on_nothing(self) -> None:
        """DeepSpeed's half-precision optimizer of stage 0 makes its state by a step on zero gradients. Adam counts it,
        and its curve shows that."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.module.zero_grad()

    def _schedule(self, given: Any) -> Any:
        if given is not None:
            return given(self.optimizer) if callable(given) and not hasattr(given, "step") else given
        named = self.settings.scheduler if self.optimizer else None
        return schedule(self.optimizer, *named) if named else None

    def __getattr__(self, name: str) -> Any:
        """The model's own attributes, as in DeepSpeed."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(super().__getattr__("module"), name)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        result = self.module(*inputs, **options)
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                value.register_hook(self._check_backward)
        return result

    def _check_backward(self, _: Tensor) -> None:
        """A backward pass that the engine does not know of would leave out the loss scale, the division by micro-batches
        and the exchange."""
        require(self._in_backward, "deepspeed loss.backward()", "called", "call engine.backward(loss) instead")

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes inside only add up gradients; the next one outside exchanges them. Stages 0 and 1."""
        stage, remedy = self.settings.stage, "shares gradients out at once; use 0 or 1"
        require(stage < 2, "deepspeed no_sync, zero_optimization.stage", stage, remedy)
        self._synchronizes = False
        try:
            yield
        finally:
            self._synchronizes = True

    def is_gradient_accumulation_boundary(self) -> bool:
        return (self.micro_steps + 1) % self.settings.accumulation == 0

    def backward(self, loss: Tensor, retain_graph: bool = False, scale_wrt_gas: bool = True) -> Tensor:
        """Add the gradients of one micro-batch. Returns the loss as it enters the step: divided by the number of
        micro-batches."""
        last = self._synchronizes and self.is_gradient_accumulation_boundary()
        gather_gradients(self.module, last, self.settings.stage)
        if scale_wrt_gas:
            loss = loss / self.settings.accumulation
        self._in_backward = True
        try:
            (loss.float() * self.scaler.value).backward(retain_graph=retain_graph)
        finally:
            self._in_backward = False
        return loss

    def step(self) -> None:
        """After each micro-batch; the last one of a step moves the weights, unless gradients overflowed."""
        require(self._synchronizes, "deepspeed engine.step()", "inside no_sync()", "call it after the block")
        if self.is_gradient_accumulation_boundary():
            self._step()
        self.micro_steps += 1

    def _step(self) -> None:
        remedy = "missing; name one in the configuration or give initialize() one"
        require(self.optimizer is not None, "deepspeed optimizer", None, remedy)
        reshard(self.module)
        norm = self._norm() / self.scaler.value
        self._grad_norm = norm
        overflow = self.settings.check_overflow and not norm < float("inf")
        if overflow:
            self.skipped_steps += 1
        else:
            clip = self.settings.clip / (norm + 1e-6) if self.settings.clip else 1.0
            self._scale_gradients(min(1.0, clip) / self.scaler.value)
            self.optimizer.step()
            if self.lr_scheduler is not None:
                self.lr_scheduler.step()
        self.scaler.update(overflow)
        self.optimizer.overflow, self.optimizer.cur_scale = overflow, self.scaler.value
        self.module.zero_grad()
        self.global_steps += 1
        self.global_samples += self.settings.train_batch
        every = self.settings.steps_per_print
        if every and self.global_steps % every == 0 and dist.get_rank() == 0:
            say(
                f"step={self.global_steps}, skipped={self.skipped_steps}, lr={self.get_lr()}, norm={norm:.4g}, loss "
                f"scale={self.scaler.value:g}"
            )

    def _gradients(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    yield parameter, parameter.grad.to_local()

    def _norm(self) -> float:
        """Of all gradients together, over all shards and all model-parallel parts."""
        counted = [grad for parameter, grad in self._gradients() if parameter in self._counted]
        total = torch.nn.utils.get_total_norm(counted).to(self.device).square()
        if self.settings.stage > 0:
            dist.all_reduce(total, group=self.dp_group)
        if self.mp_group is not None:
            dist.all_reduce(total, group=self.mp_group)
        return total.sqrt().item()

    def _scale_gradients(self, factor: float) -> None:
        gradients = [grad for _, grad in self._gradients()]
        if factor != 1.0 and gradients:
            torch._foreach_mul_(gradients, factor)

    def get_global_grad_norm(self) -> float | None:
        """Of the last step, before clipping; None before the first."""
        return self._grad_norm

    def get_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def train_batch_size(self) -> int:
        return self.settings.train_batch

    def train_micro_batch_size_per_gpu(self) -> int:
        return self.settings.micro_batch

    def gradient_accumulation_steps(self) -> int:
        return self.settings.accumulation

    def zero_optimization_stage(self) -> int:
        return self.settings.stage

    def save_checkpoint(
        self,
        save_dir: str | Path,
        tag: str | None = None,
        client_state: dict[str, Any] | None = None,
        save_latest: bool = True,
    ) -> bool:
        """Write save_dir/tag, whole or not at all, then the file `latest`. All processes must call this. See saving.py
        for what `client_state` may hold."""
        reshard(self.module)
        tag = f"global_step{self.global_steps}" if tag is None else str(tag)
        saving.save(self, Path(save_dir), tag, client_state or {}, save_latest)
        return True

    def save_16bit_model(self, save_dir: str | Path, save_filename: str = "model.safetensors") -> bool:
        """Write the whole model's weights in half precision (bf16 unless fp16 is enabled) as one file. All processes
        must call this."""
        reshard(self.module)
        saving.save_weights(self, Path(save_dir), save_filename, self.settings.dtype or torch.bfloat16)
        return True

    def load_checkpoint(
        self,
        load_dir: str | Path,
        tag: str | None = None,
        load_module_strict: bool = True,
        load_optimizer_states: bool = True,
        load_lr_scheduler_states: bool = True,
        load_module_only: bool = False,
    ) -> tuple[str | None, dict[str, Any] | None]:
        """(path, client_state) of load_dir/tag, or of what `latest` names; (None, None) where there is no such file.
        Any stage and number of processes may have saved it."""
        reshard(self.module)
        tag, rest = None if tag is None else str(tag), not load_module_only
        optimizer, schedule = rest and load_optimizer_states, rest and load_lr_scheduler_states
        return saving.load(self, Path(load_dir), tag, load_module_strict, optimizer, schedule, rest)


def _groups(model: nn.Module, parameters: Any) -> list[dict[str, Any]]:
    """Parameter groups from what initialize() may be given: groups, tensors, or nothing. Empty groups go, as in
    DeepSpeed."""
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    given = list(trained if parameters is None else parameters)
    groups = [dict(group) for group in given if isinstance(group, dict)] or [{"params": given}]
    for group in groups:
        group["params"] = list(group["params"])
    return [group for group in groups if group["params"]]


def _name(names: dict[nn.Parameter, str], parameter: nn.Parameter) -> str:
    remedy = "a tensor of this shape is not a parameter of the model"
    require(parameter in names, "model_parameters", tuple(parameter.shape), remedy)
    return names[parameter]


def _prepare(model: nn.Module, choice: Settings, group: dist.ProcessGroup, device: torch.device) -> nn.Module:
    """Move, make equal in all data-parallel processes, and shard: each layer by itself, so that its exchange overlaps
    its neighbours' work, then the rest."""
    model.to(device)
    for name, parameter in model.named_parameters():
        if choice.dtype is not None and parameter.is_floating_point():
            parameter.data = parameter.data.float()
        fits = not parameter.is_floating_point() or parameter.dtype == torch.float32
        require(fits, name, str(parameter.dtype), "weights must be float32 unless fp16 or bf16 is enabled")
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.data, dist.get_global_rank(group, 0), group=group)
    options = {
        "mesh": DeviceMesh.from_group(group, device.type),
        "mp_policy": MixedPrecisionPolicy(choice.dtype, choice.reduce_dtype, cast_forward_inputs=choice.cast_inputs),
        "offload_policy": CPUOffloadPolicy() if choice.offload and device.type != "cpu" else OffloadPolicy(),
    }
    wrap = partial(fully_shard, reshard_after_forward=choice.stage == 3) if choice.stage else replicate
    for layer in _layers(model):
        wrap(layer, **options)
    return wrap(model, **options)


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """Members of the outermost ModuleLists that share no parameter with the rest of the model: FSDP2 needs shared ones
    in one group."""
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    below: set[nn.Module] = set()
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList) and module not in below:
            below.update(module.modules())
            for layer in module:
                inside = Counter(id(parameter) for _, parameter in layer.named_parameters(remove_duplicate=False))
                if inside and all(uses[key] == count for key, count in inside.items()):
                    yield layer
