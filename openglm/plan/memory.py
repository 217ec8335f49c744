"""Bytes on the fullest device of a run, by part.

Activations after Korthikanti et al. 2022 (arXiv 2205.05198, table 2) with the shapes of grouped queries and gated
feed-forward networks; weights, gradients, master weights and Adam moments after ZeRO (arXiv 1910.02054):
2 + 2 + 4 + 4 + 4 bytes a weight. Says nothing about time.
"""

from openglm.plan.layout import Job, Layout

CONTEXT = 5e9  # driver context, communication library and workspaces of one process, as nvidia-smi counts them
BUCKET = 5e8  # elements of the two communication buckets (DeepSpeed's default)
# Of what comes and goes during a step of a pipeline that recomputes, where blocks of many sizes and lifetimes mix
# (fitted to BigScience's sweep). Without recomputation a micro-batch leaves blocks that fit the next one.
FRAGMENTATION = 0.25


def layer_activations(job: Job, layout: Layout, recompute: str) -> float:
    """Bytes of one layer's activations for one micro-batch that wait for its backward pass."""
    model, t = job.model, layout.tensor
    spread = t if layout.sequence_parallel else 1
    tokens = job.seq * layout.micro_batch
    if recompute == "full":
        return tokens * 2 * model.hidden / spread
    q, kv = model.heads * model.head_dim, model.kv_heads * model.head_dim
    wide = model.ffn_hidden * (2 if model.gated else 1)
    if recompute == "selective" and job.fused_attention:  # input, attended values, and every second product
        return tokens * ((2 + 2) * model.hidden / spread + (2 * q + q + 2 * kv + wide) / t)
    inner = 2 * (2 * q + 2 * kv) + 4 * wide
    scores = 0 if job.fused_attention or recompute == "selective" else 5 * model.heads * job.seq
    # Norms 8 bytes; the masks of two dropouts, which networks with fused attention have no longer.
    outer = 8 if job.fused_attention else 10
    return tokens * (outer * model.hidden / spread + (inner + scores) / t)


def in_flight(job: Job, layout: Layout, stage: int) -> float:
    """Micro-batches whose activations a stage holds at once, as a number of passes through all its layers (tests hold
    it to the simulation).
    """
    m, p, v = layout.micro_batches(job), layout.pipeline, layout.chunks
    waiting = {"gpipe": m, "1f1b": p - stage, "interleaved": p + (p - 1 - 2 * stage) / v, "zero-bubble": p}
    return min(m, waiting[layout.schedule])


def stage_memory(job: Job, layout: Layout, stage: int) -> dict[str, float]:
    """Bytes by part on a device of one pipeline stage."""
    model, t, p, d = job.model, layout.tensor, layout.pipeline, layout.data
    layers = layout.stage_layers(job)[0 if stage == 0 else 2 if stage == p - 1 else 1]
    weights = layout.stage_weights(job, stage)
    shard = [d if layout.zero >= level else 1 for level in (3, 2, 1)]
    # What a stage hands on is kept until its backward pass.
    boundary = layer_activations(job, layout, "full") * layout.chunks if p > 1 else 0
    activations = in_flight(job, layout, stage) * (layers * layer_activations(job, layout, layout.recompute) + boundary)
    if layout.recompute != "none":
        activations += layer_activations(job, layout, "none")  # the layer that is being recomputed
    if stage == p - 1:  # logits and their gradient in 16 bits, probabilities in 32
        activations += 8 * job.seq * layout.micro_batch * model.vocab_size / t
    parts = {
        "weights": 2 * weights / shard[0],
        "gradients": job.gradient_bytes * weights / shard[1],
        "master": 4 * weights / shard[2],
        "adam": 8 * weights / shard[2],
        "activations": activations,
    }
    # Buckets; the 32-bit copy that Adam reads.
    moving = (2 * 2 * BUCKET if d > 1 else 0) + (4 * weights / shard[2] if job.gradient_bytes == 2 else 0)
    if layout.zero == 3:
        moving += 2 * 2 * model.layer_weights / t  # the layer at work and the one fetched ahead
    lost = FRAGMENTATION * (moving + activations) if p > 1 and layout.recompute != "none" else 0
    parts["buffers"] = CONTEXT + moving + lost
    return parts


def memory(job: Job, layout: Layout) -> dict[str, float]:
    """Bytes by part on the fullest device, with their `total`."""
    parts = max((stage_memory(job, layout, stage) for stage in layout.ends()), key=lambda parts: sum(parts.values()))
    return {**parts, "total": sum(parts.values())}
