"""Optimizers, learning-rate schedule and clipping. AdamW for everything (GLM-130B, arXiv 2210.02414, section 2.3) or
Muon for the matrices of the blocks and AdamW for the rest (GLM-4.5, arXiv 2508.06471, section 2.4)."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from openglm.config import OptimizerConfig, require
from openglm.parallel.processes import Processes, align_gradient, copies, local_part, local_shard, whole

# Quintic Newton-Schulz coefficients of Keller Jordan's Muon; GLM-4.5: 5 iterations, momentum .95, update RMS .2.
_NEWTON_SCHULZ, _ITERATIONS, _MOMENTUM, _UPDATE_RMS = (3.4445, -4.7750, 2.0315), 5, 0.95, 0.2


def learning_rate(step: float, steps: float, config: OptimizerConfig) -> float:
    """Rate of step 1..steps: a linear rise from 0, a constant part, then a fall to min_lr_ratio * lr at the last step.

    The fall takes `decay_ratio` of the steps after the warm-up. A pure function of the step.
    """
    warmup = round(config.warmup_ratio * steps)
    if step <= warmup:
        return config.lr * step / warmup
    fall = round(config.decay_ratio * (steps - warmup))
    progress = max(0.0, (step - (steps - fall)) / max(1, fall))
    if config.schedule == "constant" or progress == 0.0:
        return config.lr
    floor = config.lr * config.min_lr_ratio
    left = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return floor + (config.lr - floor) * left


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalized (arXiv 2502.16982), in the form that shares AdamW's learning rate and
    weight decay.

    The same numbers as `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`, which computes in bfloat16 only: a hundred
    times slower on a processor that emulates it. Here `dtype` says, and matrices of one shape go through the products
    together. Of a matrix that processes share, each orthogonalizes the whole and keeps its part.
    """

    def __init__(self, groups: list[dict], lr: float, weight_decay: float, dtype: torch.dtype) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for shape, parameters in _by_shape(group["params"]).items():
                update = torch.stack([whole(self._momentum(p)) for p in parameters])
                update = orthogonalize(update.to(self.dtype)).to(parameters[0].dtype)
                held, scale = [local_part(p) for p in parameters], _UPDATE_RMS * math.sqrt(max(shape))
                torch._foreach_mul_(held, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(
                    held,
                    [local_shard(u, p) for u, p in zip(update, parameters, strict=True)],
                    alpha=-group["lr"] * scale,
                )

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - _MOMENTUM)
        return parameter.grad.lerp(state["momentum"], _MOMENTUM)  # Nesterov


def orthogonalize(matrices_NRC: Tensor) -> Tensor:
    """About the nearest (semi-)orthogonal matrix of each: Newton-Schulz drives every singular value into 0.7 .. 1.2."""
    a, b, c = _NEWTON_SCHULZ
    tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x = matrices_NRC.mT if tall else matrices_NRC
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _by_shape(parameters: list[Tensor]) -> dict[torch.Size, list[Tensor]]:
    shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            shapes[parameter.shape].append(parameter)
    return shapes


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Every trained parameter in exactly one group: `muon` (matrices of the blocks, unless the optimizer is AdamW),
    `decay` (other matrices and embeddings, AdamW with weight decay), `plain` (norms and biases, AdamW without)."""
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {"muon": [], "decay": [], "plain": []}
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        inside = name.startswith("blocks.") and parameter.ndim == 2
        kind = "plain" if parameter.ndim < 2 else "muon" if inside and config.name == "muon" else "decay"
        groups[kind].append((name, parameter))
    return groups


class Optimizers:
    """The optimizers of a run, stepped together; their state is read and written as named tensors."""

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        config: OptimizerConfig,
        dtype: torch.dtype,
        group: Processes,
    ) -> None:
        """parameters: names and what this process holds of them. dtype: compute type of the model's products; Muon's
        follow it."""
        groups = parameter_groups(parameters, config)
        self.config, self.names, self.group = config, {p: name for group in groups.values() for name, p in group}, group
        self.shares = {p: self._share_of_norm(p) for p in self.names} if group.mesh else {}
        decays = {"decay": config.weight_decay, "plain": 0.0}
        adamw = [
            {"params": held, "weight_decay": decay}
            for kind, decay in decays.items()
            for held in _by_mesh([p for _, p in groups[kind]])
        ]
        fused = all(p.device.type in ("cpu", "cuda") for p in self.names)
        adamw = torch.optim.AdamW(adamw, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=fused)
        self.all: list[torch.optim.Optimizer] = [adamw]
        if groups["muon"]:
            self.all.append(Muon([{"params": [p for _, p in groups["muon"]]}], config.lr, config.weight_decay, dtype))

    def step(self, lr: float) -> None:
        """One update at this learning rate; the gradients are freed."""
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def clip(self) -> float:
        """Scale the gradients of the whole network down to the norm `clip`; returns the norm before."""
        for parameter in self.names:
            align_gradient(parameter)
        held = [(p, local_part(p.grad)) for p in self.names if p.grad is not None]
        gradients = [gradient for _, gradient in held]
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(1)
        if self.group.mesh is None:
            norm = float(torch.linalg.vector_norm(norms))
        else:
            once = torch.tensor([self.shares[p] for p, _ in held], dtype=torch.float64)
            norm = math.sqrt(self.group.sum(float((norms.double().cpu() ** 2 * once).sum()))[0])
        if gradients and norm > self.config.clip:
            torch._foreach_mul_(gradients, self.config.clip / (norm + 1e-6))
        return norm

    def _share_of_norm(self, parameter: Tensor) -> float:
        """What this process counts of a parameter's square: copies of a number count together once, as does the table
        of a tied network in two stages."""
        stages = self.group.size("pipeline")
        twice = self.names[parameter] == "embedding.weight" and stages > 1 and self.group.rank("pipeline") == stages - 1
        return 0.0 if twice else 1 / copies(parameter, self.group)

    def state(self) -> dict[str, Tensor]:
        """Every moment as `parameter name|moment`."""
        return {
            f"{self.names[p]}|{key}": value
            for optimizer in self.all
            for p, moments in optimizer.state.items()
            for key, value in moments.items()
        }

    def blank_state(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Zeros, cut as the parameters are, for those of the moments that belong to parameters of this process."""
        parameters = {name: p for p, name in self.names.items()}
        own = [(key, *key.rpartition("|")[::2]) for key in keys]
        return {
            key: torch.zeros((), device=parameters[name].device)
            if moment == "step"
            else torch.zeros_like(parameters[name])
            for key, name, moment in own
            if name in parameters
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`, without copies. Raises ValueError when a moment belongs to no parameter of this
        process or has the wrong shape."""
        parameters = {name: p for p, name in self.names.items()}
        owners = {
            id(p): optimizer for optimizer in self.all for group in optimizer.param_groups for p in group["params"]
        }
        for key, value in tensors.items():
            name, _, moment = key.rpartition("|")
            require(
                name in parameters,
                "optimizer state",
                key,
                "belongs to no parameter of this model; resume with the configuration of the run",
            )
            parameter = parameters[name]
            expected = torch.Size([]) if moment == "step" else parameter.shape
            require(
                value.shape == expected, "optimizer state", key, f"has shape {list(value.shape)}, not {list(expected)}"
            )
            owners[id(parameter)].state[parameter][moment] = value


def _by_mesh(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters that are cut over the same processes together: one fused update cannot mix them."""
    found: dict[object, list[nn.Parameter]] = defaultdict(list)
    for parameter in parameters:
        found[parameter.device_mesh if isinstance(parameter, DTensor) else None].append(parameter)
    return list(found.values())
