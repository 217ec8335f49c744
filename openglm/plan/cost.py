"""Seconds of one optimizer step, by part, and the floating-point operations in it.

A product's rate falls with its smallest sides; everything between products moves bytes through memory; collectives are
rings over the slowest link they
cross. Constants are physical and shared by all devices; the two of a device kind are in devices.py. Not modelled:
stragglers, data loading, checkpoints.
"""

from __future__ import annotations

import math
from itertools import groupby
from operator import attrgetter

from openglm.config import ModelConfig
from openglm.plan.devices import Device
from openglm.plan.layout import Job, Layout

STREAM = 0.75  # share of the memory bandwidth that element-wise kernels reach
WIRE = 0.77  # share of a link that large ring collectives reach (NCCL: about 230 of 300 GB/s inside a DGX A100)
LATENCY = 20e-6  # of one collective
HIDDEN = 0.5  # share of the data-parallel exchange that computation can hide: both compete for the memory and for the processors that drive the network
BACKWARD_TRAFFIC = 1.5  # bytes that element-wise backward passes move, against forward: norms 6 for 4, GELU 24 for 16, dropout and residual 11 for 7


def forward_flops(model: ModelConfig, seq: int) -> float:
    """Of one token in the products of the network: weights, attention over the whole row, logits."""
    attention = 4 * seq * model.heads * model.head_dim
    return model.layers * (2 * model.layer_weights + attention) + 2 * model.hidden * model.vocab_size


def model_flops(job: Job) -> float:
    """Of one step, without anything that is computed twice."""
    return 3 * forward_flops(job.model, job.seq) * job.batch * job.seq


def hardware_flops(job: Job, recompute: str) -> float:
    """Of one step, with what the backward pass computes again."""
    model = job.model
    scores = 4 * job.seq * model.heads * model.head_dim
    again = {"none": 0, "selective": 0 if job.fused_attention else scores, "full": 2 * model.layer_weights + scores}[
        recompute
    ]
    return model_flops(job) + model.layers * again * job.batch * job.seq


def efficiency(device: Device, *sides: float) -> float:
    """Share of the peak that a product of these sides reaches."""
    return device.products * math.prod(side / (side + device.half) for side in sides)


def product(device: Device, m: float, n: float, k: float) -> float:
    return 2 * m * n * k / (device.peak * efficiency(device, m, n, k))


def stream(device: Device, traffic: float) -> float:
    return traffic / (device.bandwidth * STREAM)


def ring(members: int, traffic: float, rate: float) -> float:
    """An all-gather or reduce-scatter of `traffic` bytes; an all-reduce is two of them."""
    return 0.0 if members == 1 else traffic * (members - 1) / members / (rate * WIRE) + LATENCY


def layer_products(job: Job, layout: Layout) -> float:
    """Seconds of one layer's products forward; matrices that read the same are one."""
    t, tokens = layout.tensor, job.seq * layout.micro_batch
    seconds = 0.0
    for _, joined in groupby(job.model.layer_matrices(), key=attrgetter("reads")):
        matrices = list(joined)
        rows, columns, by_rows = sum(m.rows for m in matrices), matrices[0].columns, matrices[0].cut == "rows"
        seconds += product(job.device, tokens, rows / t if by_rows else rows, columns if by_rows else columns / t)
    return seconds


def attention_core(job: Job, layout: Layout) -> tuple[float, float]:
    """Scores and their product with the values, forward and backward."""
    model, seq, device = job.model, job.seq, job.device
    heads = model.heads / layout.tensor * layout.micro_batch
    if (
        job.fused_attention
    ):  # tiles stay on the chip: only the head's width limits them; backward makes the scores again (5 products for 2)
        flops = 4 * seq * seq * model.head_dim * heads * (0.5 if model.mask == "causal" else 1)
        forward = flops / (device.peak * efficiency(device, model.head_dim))
        return forward, 2.5 * forward
    products = heads * 2 * product(device, seq, seq, model.head_dim)
    softmax = stream(device, 9 * heads * seq * seq)  # softmax reads and writes 2 + 2, dropout 2 + 2 + 1 bytes a score
    return products + softmax, 2 * products + BACKWARD_TRAFFIC * softmax


def layer_traffic(job: Job, layout: Layout) -> float:
    """Bytes that one layer's element-wise kernels move in the forward pass."""
    model, t = job.model, layout.tensor
    outer = (
        22 * model.hidden / (t if layout.sequence_parallel else 1)
    )  # two norms (2 + 2), two dropouts with residual (2 + 2 + 2 + 1)
    if model.residual == "sandwich":
        outer += 8 * model.hidden
    inner = 2 * model.ffn_hidden * (3 if model.gated else 2) + 4 * model.head_dim * (
        model.heads + model.kv_heads
    )  # activation; rotary or permuted heads
    return job.seq * layout.micro_batch * (outer + inner / t)


def layer(job: Job, layout: Layout) -> dict[str, float]:
    """Seconds of one layer and micro-batch, forward and backward with recomputation: products, attention, element-wise,
    tensor-parallel communication.
    """
    products, (scores, scores_back) = layer_products(job, layout), attention_core(job, layout)
    element = stream(job.device, layer_traffic(job, layout))
    reduce = 2 * 2 * ring(layout.tensor, 2 * job.seq * layout.micro_batch * job.model.hidden, job.device.link)
    full = layout.recompute == "full"
    again = full or (layout.recompute == "selective" and not job.fused_attention)
    return {
        "products": products * (4 if full else 3),
        "attention": scores * (2 if again else 1) + scores_back,
        "element": element * (1 + BACKWARD_TRAFFIC + full),
        "tensor": reduce * (3 if full else 2),
    }


def head(job: Job, layout: Layout) -> float:
    """Seconds of logits and loss of one micro-batch, forward and backward."""
    tokens, rows = job.seq * layout.micro_batch, job.model.vocab_size / layout.tensor
    return 3 * product(job.device, tokens, rows, job.model.hidden) + stream(job.device, 20 * tokens * rows)


def micro_batch(job: Job, layout: Layout) -> dict[str, float]:
    """Seconds of one micro-batch on the slowest pipeline stage."""
    _, inner, last = layout.stage_layers(job)
    per_layer = layer(job, layout)
    extra = head(job, layout)
    layers, extra = max((inner, 0.0), (last, extra), key=lambda stage: stage[0] * sum(per_layer.values()) + stage[1])
    parts = {name: layers * seconds for name, seconds in per_layer.items()}
    parts["head"] = extra
    if layout.micro_batches(job) > 1:  # gradients are added up: one is read, the sum is read and written
        parts["element"] += stream(
            job.device, layers * job.model.layer_weights / layout.tensor * (2 + 2 * job.gradient_bytes)
        )
    if layout.pipeline > 1:  # sent both ways; both directions of the wire work at once
        boundary = (
            2
            * job.seq
            * layout.micro_batch
            * job.model.hidden
            / (layout.tensor if layout.split_boundary or layout.sequence_parallel else 1)
        )
        parts["pipeline"] = 2 * layout.chunks * (boundary / (pipeline_rate(job) * WIRE) + LATENCY)
    return parts


def pipeline_rate(job: Job) -> float:
    return job.device.link if job.devices <= job.device.node else job.device.network / job.device.node


def data_rate(job: Job, layout: Layout) -> float:
    """Bytes/s of a data-parallel ring: as many rings leave a node as there are tensor-parallel ranks in it."""
    inside = layout.tensor * layout.data <= job.device.node
    return job.device.link if inside else min(job.device.link, job.device.network / layout.tensor)


def exposed(exchange: float, work: float) -> float:
    """What is left of an exchange beside `work` seconds of computation."""
    return max(exchange * (1 - HIDDEN), exchange - work)


def data_parallel(job: Job, layout: Layout, weights: float, work: float) -> float:
    """Seconds of gradient and weight exchange that add to a step. `work`: computing one micro-batch."""
    d, rate, m = layout.data, data_rate(job, layout), layout.micro_batches(job)
    gradients, gather = ring(d, job.gradient_bytes * weights, rate), ring(d, 2 * weights, rate)
    if layout.zero < 2:  # once a step; the gathered weights of ZeRO-1 have nothing to hide behind
        return exposed(gradients * (2 if layout.zero == 0 else 1), work * 2 / 3) + (gather if layout.zero else 0.0)
    if layout.zero == 2:
        return m * exposed(gradients, work * 2 / 3) + gather
    return m * exposed(gradients + 2 * gather, work)  # weights come for the forward and again for the backward pass


def bubble(layout: Layout, m: int) -> float:
    """Share of a pipeline's time in which it fills and drains: (p - 1) / (p - 1 + m) with chunks and zero-bubble's
    filling (ZB-H1) taken off.
    """
    idle = (layout.pipeline - 1) / layout.chunks
    if (
        layout.schedule == "zero-bubble"
    ):  # weight gradients, one pass of three (of four with recomputation), move into the gaps: f + b - w of f + b + w is left
        idle *= 1 / 2 if layout.recompute == "full" else 1 / 3
    return idle / (idle + m)


def step(job: Job, layout: Layout) -> dict[str, float]:
    """Seconds of one optimizer step by part, with their `total`."""
    m, t = layout.micro_batches(job), layout.tensor
    one = micro_batch(job, layout)
    parts = {name: m * seconds for name, seconds in one.items()}
    share = bubble(layout, m)
    parts["bubble"] = m * sum(one.values()) * share / (1 - share)
    first, inner, _ = layout.stage_layers(job)
    weights = (
        max(inner * job.model.layer_weights, first * job.model.layer_weights + job.model.vocab_size * job.model.hidden)
        / t
    )
    parts["data"] = data_parallel(job, layout, weights, sum(one.values()))
    shard = weights / (layout.data if layout.zero else 1)
    parts["optimizer"] = stream(
        job.device, 30 * shard + job.gradient_bytes * weights
    )  # Adam reads 16 and writes 14 bytes a weight; the norm reads gradients
    return {**parts, "total": sum(parts.values())}
