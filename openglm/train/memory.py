"""What a tuning run will need of memory, before anything is loaded, and the least change of options that would fit."""

import dataclasses
from collections.abc import Iterator

import torch

from openglm.checkpoints.load import GROUP, Checkpoint, choose_type
from openglm.config import ModelConfig, SFTConfig
from openglm.model.adapters import Lora, PrefixEncoder
from openglm.model.attention import PRODUCTS_UP_TO
from openglm.runtime import choose_device, choose_dtype, free_memory, say
from openglm.train.adapters import Adapter
from openglm.train.loss import positions_at_once

_GIB = 1 << 30


def estimate(checkpoint: Checkpoint, config: SFTConfig, processes: int) -> dict[str, float]:
    """Bytes of one process by part: weights; gradients, moments and the running average of what is trained; what waits
    for the backward pass (with recomputation the inputs of all layers, and one layer); logits."""
    model, train = checkpoint.config, config.train
    device = choose_device(train.device)
    trained, weights = model.parameters, 4.0 * model.parameters
    if config.adapter != "none":
        with torch.device("meta"):
            trained = sum(p.numel() for p in _adapter(config, model).parameters())
        weights = _frozen(checkpoint, config, device) + 4 * trained
    spread = processes if config.adapter == "none" else 1
    gated, query, kv = model.gated, model.heads * model.head_dim, model.kv_heads * model.head_dim
    layer = 5 * model.hidden + 3 * query + 3 * kv + (4 if gated else 2) * model.ffn_hidden  # numbers a token leaves
    dtype = choose_dtype(train.dtype, device)
    if device.type == "cpu" and dtype == torch.bfloat16 and train.seq_len <= PRODUCTS_UP_TO:
        layer += 3 * model.heads * train.seq_len  # the softmax, once in fp32 and once in bfloat16
    kept = model.hidden * model.layers + layer if train.activation_checkpointing else layer * model.layers
    tokens = train.batch_rows / processes / train.accumulation * train.seq_len
    return {
        "weights": weights / spread,
        "gradients": 4 * trained / spread,
        "optimizer": (12 if train.ema else 8) * trained / spread,
        "activations": dtype.itemsize * tokens * kept
        + 12 * positions_at_once(model.vocab_size, device) * model.vocab_size,
    }


def _adapter(config: SFTConfig, model: ModelConfig) -> Lora | PrefixEncoder:
    return Adapter(config, "").make(model)


def _frozen(checkpoint: Checkpoint, config: SFTConfig, device: torch.device) -> float:
    """Bytes of the weights under an adapter. On a CPU a table that is only looked up stays in its file."""
    bits = {"int8": 8, "int4": 4}.get(config.quantize, checkpoint.source.bits)
    whole = choose_type(checkpoint.config, checkpoint.source.dtype, device, None).itemsize
    total = 0.0
    for matrix in checkpoint.config.matrices().values():
        coded = matrix.quantized_bits(bits) / 8 + 2 / GROUP if bits and matrix.role != "positions" else whole
        in_file = bits and matrix.role == "lookup" and device.type == "cpu"
        total += 0 if in_file else matrix.size * coded
    return total


def _changes(config: SFTConfig) -> Iterator[tuple[str, SFTConfig]]:
    """Changes of options that need less memory, one added to another, those that change nothing else first."""
    said, train = "", config.train
    for count in range(train.accumulation + 1, train.batch_rows + 1):
        if train.batch_rows % count == 0:
            train = dataclasses.replace(config.train, accumulation=count)
            yield f"--train.accumulation {count}", dataclasses.replace(config, train=train)
            said = f"--train.accumulation {count}"
    if not train.activation_checkpointing:
        train = dataclasses.replace(train, activation_checkpointing=True)
        said = f"{said} --train.activation-checkpointing".strip()
    config = dataclasses.replace(config, train=train)
    yield said, config
    if config.adapter == "none":
        config, said = dataclasses.replace(config, adapter="lora"), f"{said} --adapter lora"
        yield said, config
    for quantize in ("int8", "int4"):
        yield f"{said} --quantize {quantize}", dataclasses.replace(config, quantize=quantize)


def say_memory(checkpoint: Checkpoint, config: SFTConfig, processes: int) -> None:
    """A line with the estimate, and where it does not fit what would."""
    parts, free = estimate(checkpoint, config, processes), free_memory(choose_device(config.train.device))
    total = sum(parts.values())
    each = ", ".join(f"{name} {size / _GIB:.2f}" for name, size in parts.items())
    known = f"; {free / _GIB:.2f} GiB are free" if free else ""
    say(f"memory, about: {total / _GIB:.2f} GiB ({each}){known}")
    if free and total > free:
        fits = (said for said, other in _changes(config) if sum(estimate(checkpoint, other, processes).values()) < free)
        least = next(fits, "")
        remedy = f"with {least} it would" if least else "take a shorter train.seq_len or a smaller model"
        say(f"this run may not fit; {remedy}")
