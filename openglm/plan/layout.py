"""What is trained (`Job`) and how it is spread over devices (`Layout`), and which layouts a job admits."""

from dataclasses import dataclass
from typing import Literal

from openglm.config import ModelConfig, require
from openglm.parallel.stages import divisors, near, stage_counts, stage_layers
from openglm.plan.devices import Device


@dataclass(frozen=True)
class Job:
    """A model, a batch, and the machine."""

    model: ModelConfig
    seq: int
    """tokens in a row"""
    batch: int
    """rows in one optimizer step"""
    devices: int
    device: Device
    fused_attention: bool = True
    """scores never reach memory (FlashAttention); false: the products, softmax and dropout of 2020 to 2022"""
    gradient_bytes: int = 2
    """bytes in which a gradient is summed over micro-batches"""


@dataclass(frozen=True)
class Layout:
    """One way to spread a job. Ranks are numbered tensor first, then data, then pipeline, as Megatron-LM does."""

    data: int
    tensor: int
    pipeline: int
    micro_batch: int = 1
    """rows that pass through the network at once"""
    zero: int = 1
    """what the data-parallel group shares out: 0 nothing, 1 optimizer state, 2 and gradients, 3 and weights"""
    recompute: Literal["none", "selective", "full"] = "full"
    """done again in the backward pass: nothing; attention scores (with fused attention, which keeps none: every second
    product and what lies between); everything inside a layer"""
    schedule: Literal["gpipe", "1f1b", "interleaved", "zero-bubble"] = "1f1b"
    """order of forward and backward passes in the pipeline"""
    chunks: int = 1
    """pieces of the network that a stage holds (interleaved schedule)"""
    sequence_parallel: bool = False
    """norms and dropout are split along the sequence too (Korthikanti et al. 2022)"""
    split_boundary: bool = False
    """each tensor-parallel rank sends its share of the activation between stages (scatter/gather of Megatron-LM)"""

    @property
    def replica(self) -> int:
        return self.tensor * self.pipeline

    def micro_batches(self, job: Job) -> int:
        return job.batch // (self.data * self.micro_batch)

    def stage_layers(self, job: Job) -> tuple[int, int, int]:
        """Layers of the first, an inner and the last stage."""
        layers = stage_layers(job.model.layers, self.pipeline)
        return layers[0], layers[len(layers) // 2], layers[-1]

    def ends(self) -> set[int]:
        """Stages that differ: the first, an inner and the last one."""
        return {0, min(1, self.pipeline - 1), self.pipeline - 1}

    def stage_weights(self, job: Job, stage: int) -> float:
        """Weights on a device of one pipeline stage: of its layers, and of the tables at the ends."""
        model, last = job.model, self.pipeline - 1
        layers = self.stage_layers(job)[0 if stage == 0 else 2 if stage == last else 1]
        tables = (stage == 0) + (stage == last and (last > 0 or not model.tied))
        return (layers * model.layer_weights + tables * model.vocab_size * model.hidden) / self.tensor


def check(job: Job, layout: Layout) -> None:
    """Raise the one-line error of the first thing that does not divide, with the numbers that would.

    The vocabulary is padded, as Megatron-LM does.
    """
    _check_tensor(job, layout)
    _check_pipeline(job, layout)
    _check_rows(job, layout)
    _check_schedule(job, layout)


def _check_tensor(job: Job, layout: Layout) -> None:
    model, t, p, d = job.model, layout.tensor, layout.pipeline, layout.data
    product = f"data x tensor x pipeline is {d} x {t} x {p} = {d * t * p}"
    require(d * t * p == job.devices, "devices", job.devices, product)
    require(t <= job.device.node, "tensor", t, f"must fit in one node of {job.device.node} devices")
    fits = [n for n in divisors(model.kv_heads) if n <= job.device.node]
    require(t in fits, "tensor", t, f"must divide the key/value heads ({model.kv_heads}); these would: {near(fits, t)}")
    require(model.ffn_hidden % t == 0, "tensor", t, f"must divide the feed-forward width ({model.ffn_hidden})")


def _check_pipeline(job: Job, layout: Layout) -> None:
    layers, p = job.model.layers, layout.pipeline
    stages = stage_counts(layers)
    way_out = f"must divide the {layers} layers, or {layers + 2} with lighter end stages; these would: "
    require(p in stages, "pipeline", p, way_out + near(stages, p))


def _check_rows(job: Job, layout: Layout) -> None:
    d, size = layout.data, layout.micro_batch
    fits = divisors(job.batch)
    require(job.batch % d == 0, "data", d, f"must divide the batch ({job.batch}); these would: {near(fits, d)}")
    rows = job.batch // d
    way_out = f"must divide a replica's {rows} rows; these would: {near(divisors(rows), size)}"
    require(rows % size == 0, "micro_batch", size, way_out)


def _check_schedule(job: Job, layout: Layout) -> None:
    p, chunks = layout.pipeline, layout.chunks
    require(
        layout.zero < 2 or p == 1,
        "zero",
        layout.zero,
        "2 and 3 share gradients out after every micro-batch, which a pipeline cannot wait for: "
        "use 0 or 1, or pipeline 1",
    )
    if layout.schedule != "interleaved":
        require(chunks == 1, "chunks", chunks, f"is for the interleaved schedule, not {layout.schedule}")
        return
    pieces = [n for n in divisors(layout.stage_layers(job)[1]) if n > 1]
    way_out = f"must divide the layers of a stage and be above 1; these would: {near(pieces, chunks)}"
    require(p > 1 and chunks in pieces, "chunks", chunks, way_out)
    m = layout.micro_batches(job)
    way_out = f"needs a number of micro-batches ({m}) that is a multiple of the stages ({p})"
    require(m % p == 0, "schedule", "interleaved", way_out)
