"""A training script as one writes it for DeepSpeed. Only the module it imports is chosen: `deepspeed` or `openglm.deepspeed`.

torchrun --nproc-per-node 2 deepspeed_script.py MODULE CASES.json RESULT.json
A case: {"config": DeepSpeed's JSON, "steps": optimizer steps; optional: "save_at": after which to save, forget and load, "folder": where,
"model_parallel": true for one model in all processes together}.
"""

import importlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from openglm.model.transformer import Transformer
from openglm.presets import model_preset

ROWS, TOKENS, VOCABULARY = 2, 24, 64


class LanguageModel(nn.Module):
    """The loss of the next token, from a small GLM."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        options = dict(
            vocab_size=VOCABULARY,
            layers=2,
            hidden=32,
            heads=2,
            kv_heads=2,
            head_dim=16,
            ffn_hidden=48,
            max_positions=TOKENS,
        )
        self.network = Transformer(model_preset("nano", **options))
        self.network.initialize(torch.Generator().manual_seed(seed))

    def forward(self, rows: Tensor) -> Tensor:
        ids, targets = rows[:, :-1], rows[:, 1:]
        running = torch.arange(ids.shape[1]).expand_as(ids)
        hidden = self.network(ids, torch.stack([running, torch.zeros_like(running)], dim=1))
        return F.cross_entropy(self.network.project(hidden).float().flatten(0, 1), targets.flatten())


def parameter_groups(model: nn.Module) -> list[dict]:
    """Matrices decay, the rest does not (as GLM's own scripts)."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1]},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def batch(micro_step: int, count: int) -> Tensor:
    """`count` arithmetic progressions of ids: what comes next can be learned."""
    generator = torch.Generator().manual_seed(micro_step)
    start = torch.randint(VOCABULARY, (count, 1), generator=generator)
    stride = torch.randint(1, 4, (count, 1), generator=generator)
    return (start + stride * torch.arange(TOKENS)) % VOCABULARY


class ModelParallel:
    """As Megatron-LM's mpu: all processes hold one model together, each is a data-parallel group of its own."""

    def __init__(self) -> None:
        alone = [dist.new_group([rank]) for rank in range(dist.get_world_size())][dist.get_rank()]
        for kind, group in (("data", alone), ("model", dist.group.WORLD)):
            for name, value in (
                ("group", group),
                ("rank", dist.get_rank(group)),
                ("world_size", dist.get_world_size(group)),
            ):
                setattr(self, f"get_{kind}_parallel_{name}", lambda value=value: value)


def train(deepspeed, case: dict) -> dict[str, list[float]]:
    """Mean loss of all processes and norm of the gradients at each optimizer step."""
    deepspeed.init_distributed(dist_backend="gloo")
    mpu = ModelParallel() if case.get("model_parallel") else None
    rank, world = (0, 1) if mpu else (dist.get_rank(), dist.get_world_size())

    def start(seed: int):
        model = LanguageModel(seed + rank)  # only the first process's weights count
        model.network.embedding.weight.model_parallel = True  # each model-parallel process's part counts in the norm
        return deepspeed.initialize(
            model=model,
            model_parameters=parameter_groups(model),
            mpu=mpu,
            config_params=case["config"],
            dist_init_required=False,
        )

    engine, _, _, _ = start(1)
    losses, norms, accumulation = [], [], engine.gradient_accumulation_steps()
    for step in range(case["steps"]):
        total = torch.zeros(())
        for micro in range(accumulation):
            rows = batch(step * accumulation + micro, ROWS * world)[rank * ROWS : (rank + 1) * ROWS]
            loss = engine(rows)
            engine.backward(loss)
            if micro == step == 1:  # an evaluation at the worst moment
                engine.eval()
                with torch.no_grad():
                    engine(rows)
                engine.train()
            engine.step()
            total += loss.detach() / accumulation / world
        if world > 1:
            dist.all_reduce(total)
        losses.append(total.item())
        norms.append(float(engine.get_global_grad_norm() or 0))
        if step + 1 == case.get("save_at"):
            engine.save_checkpoint(case["folder"], tag="half", client_state={"step": step, "order": (3, 1, 2)})
            if hasattr(engine, "destroy"):
                engine.destroy()
            engine, _, _, _ = start(50)
            _, client = engine.load_checkpoint(case["folder"])
            assert client["step"] == step and client["order"] == (3, 1, 2)
    return {"losses": losses, "norms": norms}


def run(library: str, cases: dict[str, dict], result: str | Path) -> None:
    """All cases, one after another; the first process writes their curves."""
    deepspeed = importlib.import_module(library)
    curves = {name: train(deepspeed, case) for name, case in cases.items()}
    if dist.get_rank() == 0:
        Path(result).write_text(json.dumps(curves))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), sys.argv[3])
