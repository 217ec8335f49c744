"""Seconds of one optimizer step, by part, and the floating-point operations in it.

A product's rate falls with its smallest sides; everything between products moves bytes through memory; collectives are
rings over the slowest link they cross, and each message pays for every device it passes. Constants are physical and
shared by all devices; the two of a device kind are in devices.py. Not modelled: stragglers, data loading, checkpoints.
"""

import math
from itertools import groupby
from operator import attrgetter

from openglm.config import ModelConfig
from openglm.plan.devices import Device
from openglm.plan.layout import Job, Layout

STREAM = 0.75  # share of the memory bandwidth that element-wise kernels reach
WIRE = 0.77  # share of a link that large ring collectives reach (NCCL: about 230 of 300 GB/s inside a DGX A100)
# Seconds until a message starts, and for each device and each node that it passes: the figures by which NCCL chooses
# between its algorithms (src/graph/tuning.cc: base, NVLink and network latency of the "simple" protocol).
START, HOP, NODE_HOP = 8.4e-6, 3.4e-6, 14e-6
# Share of an exchange that computation can hide: both compete for the memory and for the processors that drive the
# network.
HIDDEN = 0.5
# Bytes that element-wise backward passes move, against forward: norms 6 for 4, GELU 24 for 16, dropout and residual
# 11 for 7.
BACKWARD_TRAFFIC = 1.5


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
    selective = model.layer_weights if job.fused_attention else scores
    again = {"none": 0, "selective": selective, "full": 2 * model.layer_weights + scores}
    return model_flops(job) + model.layers * again[recompute] * job.batch * job.seq


def efficiency(device: Device, *sides: float) -> float:
    """Share of the peak that a product of these sides reaches."""
    return device.products * math.prod(side / (side + device.half) for side in sides)


def product(device: Device, m: float, n: float, k: float) -> float:
    return 2 * m * n * k / (device.peak * efficiency(device, m, n, k))


def stream(device: Device, traffic: float) -> float:
    return traffic / (device.bandwidth * STREAM)


def ring(members: int, traffic: float, rate: float, messages: int = 1, nodes: int = 1) -> float:
    """An all-gather or reduce-scatter of `traffic` bytes in so many messages, by members that stand on so many nodes.
    Each message passes every member in turn."""
    if members == 1:
        return 0.0
    crossings = nodes if nodes > 1 else 0
    around = max(members - 1 - crossings, 0) * HOP + crossings * NODE_HOP
    return traffic * (members - 1) / members / (rate * WIRE) + messages * (START + around)


def all_reduce(members: int, traffic: float, rate: float, messages: int = 1, nodes: int = 1) -> float:
    """The bytes of two rings; messages climb a tree of nodes and come down again."""
    if members == 1:
        return 0.0
    climb = (members / nodes - 1) * HOP + math.log2(nodes) * NODE_HOP
    return 2 * traffic * (members - 1) / members / (rate * WIRE) + messages * (START + 2 * climb)


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
    full, selective = layout.recompute == "full", layout.recompute == "selective"
    again = full or (selective and not job.fused_attention)
    # Without scores to drop, selective means every second product and all between them (torchtitan).
    half = selective and job.fused_attention
    # Gathers and scatters along the sequence can run beside products: those of the weights' gradients (Korthikanti et
    # al.), and their own, piece by piece (Transformer Engine).
    seen = 1 - HIDDEN if layout.sequence_parallel else 1
    return {
        "products": products * (4 if full else 3.5 if half else 3),
        "attention": scores * (2 if again else 1) + scores_back,
        "element": element * (1 + BACKWARD_TRAFFIC + (full or half)),
        "tensor": reduce * seen * (3 if full else 2),
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
    if layout.pipeline > 1:
        parts["pipeline"] = boundary(job, layout)
    return parts


def boundary(job: Job, layout: Layout) -> float:
    """Seconds of a micro-batch's transfers between stages: sent both ways; both directions of the wire work at once."""
    share = layout.tensor if layout.split_boundary or layout.sequence_parallel else 1
    traffic = 2 * job.seq * layout.micro_batch * job.model.hidden / share
    seconds = 2 * layout.chunks * (traffic / (pipeline_rate(job) * WIRE) + START + NODE_HOP)
    # With several chunks a stage has other work while it waits for one.
    return seconds * (1 - HIDDEN) if layout.chunks > 1 else seconds


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
    d, m = layout.data, layout.micro_batches(job)
    rate, nodes = data_rate(job, layout), math.ceil(d * layout.tensor / job.device.node)
    layers = layout.stage_layers(job)[1]
    # FSDP moves a layer at once. The others move a matrix or norm, as ZeRO-1 gives each an owner.
    messages = layers if layout.zero == 3 else layers * (len(job.model.layer_matrices()) + job.model.layer_norms)
    forward, backward = work / 3, work * 2 / 3
    if layout.zero == 0:
        return exposed(all_reduce(d, job.gradient_bytes * weights, rate, messages, nodes), backward)
    gradients = ring(d, job.gradient_bytes * weights, rate, messages, nodes)
    gather = ring(d, 2 * weights, rate, messages, nodes)
    if layout.zero == 3:  # weights come for the forward and again for the backward pass
        return m * exposed(gradients + 2 * gather, work)
    # Gathered weights have nothing to hide behind, but a stage's later chunks come while its first one computes.
    waiting = exposed(gather, forward) if layout.chunks > 1 else gather
    return (m if layout.zero == 2 else 1) * exposed(gradients, backward) + waiting


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
    m = layout.micro_batches(job)
    one = micro_batch(job, layout)
    parts = {name: m * seconds for name, seconds in one.items()}
    share = bubble(layout, m)
    parts["bubble"] = m * sum(one.values()) * share / (1 - share)
    weights = max(layout.stage_weights(job, stage) for stage in layout.ends())
    parts["data"] = data_parallel(job, layout, weights, sum(one.values()))
    shard = weights / (layout.data if layout.zero else 1)
    # Adam reads 16 and writes 14 bytes a weight; the norm reads gradients.
    parts["optimizer"] = stream(job.device, 30 * shard + job.gradient_bytes * weights)
    return {**parts, "total": sum(parts.values())}
