"""`glm plan`: memory, time, cost and best layout of a large run."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from openglm.cli.options import parse
from openglm.config import ModelConfig, require
from openglm.presets import model_preset

SEARCHED = ("data", "tensor", "pipeline", "micro_batch", "zero", "recompute", "schedule", "chunks")
# What a layout given in full means where it says no more: the large runs of 2021 and 2022 (GLM-130B, Megatron-LM,
# BLOOM, OPT).
CLASSIC = {"recompute": "full", "schedule": "1f1b"}
CLASSIC_PIPELINE = {"zero": 1, "micro_batch": 1}


@dataclass
class PlanOptions:
    """Estimate a training run; layout options that you leave out are searched for the best."""

    devices: int
    """number of accelerators"""
    batch: int
    """rows in one optimizer step"""
    model: str = ""
    """preset such as glm-130b or glm-4-9b; or give layers, hidden, heads and vocab instead"""
    layers: int = 0
    """transformer blocks"""
    hidden: int = 0
    """width of the residual stream"""
    heads: int = 0
    """query heads"""
    vocab: int = 0
    """rows of the embedding table"""
    kv_heads: int = 0
    """key/value heads; 0: the same as heads"""
    ffn: int = 0
    """inner width of a gated feed-forward network; 0: four times hidden, without a gate"""
    causal: bool = False
    """attention looks only backward (GPT, Llama), which halves the work; presets know it of themselves"""
    untied: bool = False
    """the logits have a table of their own (Llama); otherwise they share the embedding's"""
    seq: int = 2048
    """tokens per row"""
    device: str = "a100-80g"
    """kind of accelerator: a100-40g, a100-80g, h100, v100, 3090, ascend-910, dcu or sw26010-pro"""
    node_size: int = 0
    """devices per node; 0: as usual for the device"""
    network: float = 0.0
    """bandwidth out of a node in GB/s, all adapters together; 0: as usual for the device"""
    data: int = 0
    """data-parallel replicas"""
    tensor: int = 0
    """devices that split each layer"""
    pipeline: int = 0
    """pipeline stages. If data, tensor and pipeline are all given, the other options default to
    full recomputation, plain attention, ZeRO-1, 1F1B and micro-batches of one row"""
    micro_batch: int = 0
    """rows in one pass through the network"""
    zero: Literal["auto", "0", "1", "2", "3"] = "auto"
    """ZeRO stage: what replicas shard. 1: optimizer state; 2: gradients too; 3: weights too"""
    recompute: Literal["auto", "none", "selective", "full"] = "auto"
    """what the backward pass computes again: nothing, whole layers (full), or (selective) attention scores; with
    fused attention every second product"""
    schedule: Literal["auto", "gpipe", "1f1b", "interleaved", "zero-bubble"] = "auto"
    """order of the pipeline's forward and backward passes"""
    chunks: int = 0
    """parts of the network on each stage, for the interleaved schedule"""
    attention: Literal["auto", "fused", "plain"] = "auto"
    """fused: scores stay on the chip (FlashAttention); plain: scores go to memory"""
    sequence_parallel: bool = False
    """also split norms and dropout along the sequence"""
    split_boundary: bool = False
    """each tensor-parallel rank sends only its share between stages (Megatron-LM's scatter/gather)"""
    gradient_bytes: int = 2
    """bytes per weight for gradients: 2; 4 if summed in fp32; 6 if a 16-bit copy is kept as well"""
    tokens: float = 0.0
    """tokens to train on, such as 400e9; adds the number of days to the report, and with --price the cost"""
    price: float = 0.0
    """price of one device for one hour"""
    picture: str = ""
    """PNG file to draw the pipeline's schedule and the scaling curve in (needs matplotlib)"""
    json: bool = False
    """print one JSON object instead of text"""


def run(argv: list[str]) -> int:
    options = parse(PlanOptions, argv, "glm plan", "Estimate memory, time, cost and the best layout of a large run.")
    from openglm.plan.planner import reasons, search

    fixed = fixed_options(options)
    job = job_of(options, pinned={"data", "tensor", "pipeline"} <= fixed.keys())
    found = search(job, **fixed)
    report = as_json(found.best, options, reasons(found))
    if options.picture:
        picture(found.best, options.picture)
    if options.json:
        print(json.dumps(report))
    else:
        show(found.best, report)
    return 0


def job_of(options: PlanOptions, pinned: bool):
    """What is to be trained, checked."""
    from openglm.plan.devices import GB, device
    from openglm.plan.layout import Job

    for name in ("devices", "batch", "seq"):
        require(getattr(options, name) > 0, name, getattr(options, name), "must be a positive whole number")
    for name in ("node_size", "network", "data", "tensor", "pipeline", "micro_batch", "chunks", "tokens", "price"):
        require(getattr(options, name) >= 0, name, getattr(options, name), "must not be negative")
    require(options.gradient_bytes in (2, 4, 6), "gradient_bytes", options.gradient_bytes, "must be 2, 4 or 6")
    machine = device(options.device)
    machine = dataclasses.replace(
        machine, node=options.node_size or machine.node, network=options.network * GB or machine.network
    )
    fused = options.attention == "fused" or (options.attention == "auto" and not pinned)
    return Job(model_of(options), options.seq, options.batch, options.devices, machine, fused, options.gradient_bytes)


def model_of(options: PlanOptions) -> ModelConfig:
    """The preset, or a GPT of the given shape."""
    names = ("layers", "hidden", "heads", "vocab", "kv_heads", "ffn", "untied")
    shape = {name: getattr(options, name) for name in names}
    if options.model:
        given = [name for name, value in shape.items() if value]
        require(
            not given,
            ", ".join(given),
            [shape[name] for name in given],
            f"already set by model ({options.model}); give one or the other",
        )
        return model_preset(options.model, **({"mask": "causal"} if options.causal else {}))
    for name in ("layers", "hidden", "heads", "vocab"):
        require(shape[name] > 0, name, shape[name], "must be a positive whole number where no --model is given")
    return ModelConfig(
        vocab_size=options.vocab,
        layers=options.layers,
        hidden=options.hidden,
        heads=options.heads,
        kv_heads=options.kv_heads,
        max_positions=options.seq,
        ffn_hidden=options.ffn or 4 * options.hidden,
        activation="swiglu" if options.ffn else "gelu",
        norm="layernorm",
        bias="all",
        mask="causal" if options.causal else "prefix",
        tied=not options.untied,
    )


def fixed_options(options: PlanOptions) -> dict[str, Any]:
    """The options of the layout that the search must keep."""
    fixed = {name: getattr(options, name) for name in SEARCHED if getattr(options, name) not in (0, "auto")}
    if "zero" in fixed:
        fixed["zero"] = int(fixed["zero"])
    if {"data", "tensor", "pipeline"} <= fixed.keys():
        chunked = {"schedule": "interleaved"} if "chunks" in fixed else {}
        fixed = {**CLASSIC, **(CLASSIC_PIPELINE if options.pipeline > 1 else {}), **chunked, **fixed}
    return fixed | {"sequence_parallel": options.sequence_parallel, "split_boundary": options.split_boundary}


def as_json(plan, options: PlanOptions, why: list[str]) -> dict[str, Any]:
    steps = options.tokens / (plan.job.batch * plan.job.seq)
    report = {
        "step_seconds": plan.seconds["total"],
        "seconds": {name: value for name, value in plan.seconds.items() if name != "total"},
        "tokens_per_second": plan.tokens_per_second,
        "model_tflops_per_device": plan.model_rate / 1e12,
        "hardware_tflops_per_device": plan.hardware_rate / 1e12,
        "model_flops_share": plan.model_rate / plan.job.device.peak,
        "memory_bytes": {name: round(value) for name, value in plan.memory.items()},
        "device_memory_bytes": round(plan.job.device.memory),
        "fits": plan.fits,
        "bubble": plan.bubble,
        "layout": {
            **dataclasses.asdict(plan.layout),
            "micro_batches": plan.layout.micro_batches(plan.job),
            "attention": "fused" if plan.job.fused_attention else "plain",
        },
        "parameters": plan.job.model.parameters,
        "checked_against": plan.job.device.checked,
        "why": why,
    }
    if options.tokens:
        days = steps * plan.seconds["total"] / 86400
        report |= {"steps": steps, "days": days}
        if options.price:
            report["cost"] = days * 24 * plan.job.devices * options.price
    return report


def picture(plan, path: str) -> None:
    import matplotlib  # noqa: F401  (missing: say so before the search of the curve)

    from openglm.plan.draw import draw
    from openglm.plan.planner import scaling
    from openglm.runtime import progress

    job, plans = dataclasses.replace(plan.job, fused_attention=True), []
    with progress("searching layouts from a node to 10,000 devices") as bar:
        for better in scaling(job):
            plans.append(better)
            bar(1)
    draw(path, plan, plans)


def show(plan, report: dict[str, Any]) -> None:
    """The plan as tables."""
    from rich.console import Console
    from rich.table import Table

    from openglm.plan.planner import describe

    console, device = Console(), plan.job.device
    console.print(
        f"[bold]{describe(plan.layout)}[/bold], {plan.layout.micro_batches(plan.job)} micro-batches per replica, "
        f"{report['layout']['attention']} attention"
    )
    console.print(
        f"{plan.job.devices} x {device.name}, {report['parameters'] / 1e9:.1f} B weights, {plan.job.batch} rows of "
        f"{plan.job.seq} tokens"
    )
    table = Table("memory per device", "GB", "time per step", "s")
    memory = [(name, f"{value / 1e9:.1f}") for name, value in plan.memory.items() if name != "total"]
    seconds = [(name, f"{value:.2f}") for name, value in plan.seconds.items() if name != "total" and value >= 0.005]
    for i in range(max(len(memory), len(seconds))):
        table.add_row(*(memory[i] if i < len(memory) else ("", "")), *(seconds[i] if i < len(seconds) else ("", "")))
    table.add_section()
    table.add_row(
        f"total (of {device.memory / 1e9:.1f})",
        f"{plan.memory['total'] / 1e9:.1f}",
        "total",
        f"{plan.seconds['total']:.2f}",
    )
    console.print(table)
    rates = f"{report['model_tflops_per_device']:.1f} model and {report['hardware_tflops_per_device']:.1f} hardware TFLOP/s per device"
    console.print(
        f"{rates} ({100 * report['model_flops_share']:.1f} % MFU), bubble {100 * plan.bubble:.1f} %, "
        f"{plan.tokens_per_second:,.0f} tokens/s"
    )
    if not plan.fits:
        console.print(
            f"[bold red]does not fit:[/bold red] {(plan.memory['total'] - device.memory) / 1e9:.1f} GB too much per "
            "device"
        )
    if "days" in report:
        console.print(
            f"{report['steps']:,.0f} steps, {report['days']:.1f} days"
            + (f", cost {report['cost']:,.0f}" if "cost" in report else "")
        )
    for line in report["why"]:
        console.print(line, highlight=False)
    guess = f"No published run of a known layout on {device.name}: times are estimated from its data sheet."
    console.print(f"Times on {device.name} were checked against {device.checked}." if device.checked else guess)
