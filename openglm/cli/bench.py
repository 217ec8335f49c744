"""`glm bench`: how fast this machine reads prompts and writes answers with a model, and how much of the machine that
uses.

Random weights cost as much as trained ones, so a shape, or some of its layers, can be tried before anything is
downloaded.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from openglm.cli.options import parse
from openglm.config import ModelConfig, require

if TYPE_CHECKING:
    from openglm.engine.engine import Engine
    from openglm.model.transformer import Transformer

_PROBE_BYTES = 512 << 20  # far more than any cache


@dataclass
class BenchOptions:
    """Measure the speed of a model, or of a shape with random weights."""

    model: Annotated[str, tyro.conf.Positional] = ""
    """folder of a model, or the name of a bundled model"""
    shape: str = ""
    """preset to run with random weights, instead of a model"""
    layers: int = 0
    """use only this many layers of the shape; 0: all"""
    quantize: Literal["none", "int8", "int4"] = "none"
    """quantize the weights to 8 or 4 bits"""
    prompt_tokens: int = 512
    """tokens in each prompt"""
    new_tokens: int = 64
    """tokens in each answer"""
    requests: int = 1
    """number of answers computed at once"""
    rounds: int = 1
    """number of repetitions, each with other prompts; the report gives medians"""
    device: str = "auto"
    """device to run on: auto, cpu, cuda, mps, ..."""
    json: bool = False
    """print one JSON object instead of text"""

    def __post_init__(self) -> None:
        require(bool(self.model) != bool(self.shape), "--shape", self.shape, "name either a model or a shape")
        require(
            not self.layers or bool(self.shape),
            "--layers",
            self.layers,
            "cuts a shape, not a model; use it with --shape",
        )
        for name in ("prompt_tokens", "requests", "rounds"):
            require(
                getattr(self, name) > 0,
                f"--{name.replace('_', '-')}",
                getattr(self, name),
                "must be a positive whole number",
            )
        require(
            self.new_tokens > 1, "--new-tokens", self.new_tokens, "must be at least 2: the first comes with the prompt"
        )
        require(self.prompt_tokens > 2, "--prompt-tokens", self.prompt_tokens, "must be at least 3")


def run(argv: list[str]) -> int:
    options = parse(BenchOptions, argv, "glm bench", BenchOptions.__doc__ or "")
    report = measure(options)
    if options.json:
        print(json.dumps(report))
    else:
        for name, value in report.items():
            print(
                f"{name:28s} {value if isinstance(value, str) else f'{value:,.3f}' if value < 100 else f'{value:,.0f}'}"
            )
    return 0


def measure(options: BenchOptions) -> dict[str, float | str]:
    """The report. Its keys stay."""
    from openglm.checkpoints.load import load_model
    from openglm.config import EngineConfig
    from openglm.engine.engine import Engine
    from openglm.presets import model_preset
    from openglm.runtime import choose_device, progress

    bits = None if options.quantize == "none" else options.quantize
    with progress("measuring", options.rounds, "rounds") as advance:
        if options.shape:
            cut = {"layers": options.layers} if options.layers else {}
            model = random_model(model_preset(options.shape, **cut), bits).to(choose_device(options.device))
        else:
            model = load_model(options.model, device=options.device, quantize=bits)
        weights, read = weight_bytes(model)
        tokens = options.requests * (options.prompt_tokens + options.new_tokens + 2 * 16)
        config = EngineConfig(
            kv_tokens=tokens, max_sequences=options.requests, step_tokens=max(512, options.requests), keep_weights=False
        )
        engine = Engine(model, config)
        one_round(engine, 1, 16, 2, seed=0)  # threads and code are awake from here on
        rounds = []
        for number in range(options.rounds):
            rounds.append(
                one_round(engine, options.requests, options.prompt_tokens, options.new_tokens, seed=number + 1)
            )
            advance()
    first, prefill, decode = (statistics.median(column) for column in zip(*rounds, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    achieved, machine = read * decode / options.requests, read_bandwidth()
    return {
        "prefill_tokens_per_s": prefill,
        "decode_tokens_per_s": decode,
        "time_to_first_token_s": first,
        "weight_bytes": weights,
        "peak_rss_bytes": peak,
        "read_bandwidth_bytes_per_s": achieved,
        "machine_bandwidth_bytes_per_s": machine,
        "read_bandwidth_share": achieved / machine,
        "runner": type(engine.runner).__name__,
        "requests": options.requests,
    }


def one_round(engine: Engine, count: int, prompt_tokens: int, new_tokens: int, seed: int) -> tuple[float, float, float]:
    """Seconds to the first token of all, prompt tokens a second until every request has one, and new tokens a second
    from then on.
    """
    from openglm.engine.params import SamplingParams

    params, waiting, late = SamplingParams(max_tokens=new_tokens, ignore_eos=True), set(), 0
    start = time.perf_counter()
    for number in range(count):
        waiting.add(
            engine.add_request(random_prompt(engine.model.config, prompt_tokens, seed * count + number), params)
        )
    first = begun = 0.0
    while engine.busy:
        events = engine.step()
        late += len(events) if begun else 0
        waiting -= {event.id for event in events}
        now = time.perf_counter() - start
        first = first or (now if events else 0.0)
        begun = begun or (0.0 if waiting else now)
    return first, count * prompt_tokens / begun, late / (now - begun)


def random_prompt(shape: ModelConfig, length: int, seed: int) -> list[int]:
    """Ordinary tokens, and what a prompt of the family ends with."""
    import random

    special = {
        shape.tokens.pad,
        shape.tokens.mask,
        shape.tokens.gmask,
        shape.tokens.smask,
        shape.tokens.sop,
        shape.tokens.eop,
        *shape.tokens.stop,
    }
    ordinary = [token for token in range(min(shape.vocab_size, 4096)) if token not in special]
    return [*random.Random(seed).choices(ordinary, k=length - 2), shape.tokens.gmask, shape.tokens.sop]


def random_model(shape: ModelConfig, quantize: str | None) -> Transformer:
    """A network with random weights, made in the format it runs in: it never exists in full precision if it is
    quantized.
    """
    import numpy as np
    import torch
    from torch import nn

    from openglm.checkpoints.load import GROUP, matrix_format
    from openglm.model.transformer import Transformer
    from openglm.quant.layers import QuantizedEmbedding, QuantizedLinear, StoredEmbedding

    if quantize is None:
        model = Transformer(shape)
        model.initialize(torch.Generator().manual_seed(0))
        return model.eval().requires_grad_(False)
    with torch.device("meta"):
        model = Transformer(shape)
    draw = np.random.default_rng(0)
    if model.head is not None:  # left in its file by `load_model`: here rows that overlap and take hardly any memory
        rows, columns = model.embedding.weight.shape
        model.embedding = StoredEmbedding(
            torch.from_numpy(draw.normal(0, 0.02, 8 * rows + columns)).half().as_strided((rows, columns), (8, 1)),
            torch.float32,
        )
    wanted = 4 if quantize == "int4" else 8
    for path, layer in list(model.named_modules()):
        matrix = shape.matrices().get(path)
        if matrix and matrix.quantized_bits(wanted) and isinstance(layer, (nn.Linear, nn.Embedding)):
            rows, columns = matrix.rows, matrix.columns
            bits, group = matrix_format(matrix, wanted, GROUP)
            codes = torch.from_numpy(draw.integers(0, 256, (rows, columns * bits // 8), np.uint8))
            scales = torch.full(
                (rows, columns // (group or columns)), 0.08 / 2**bits, dtype=torch.float16
            )  # weights of about 0.02
            kind = QuantizedEmbedding if isinstance(layer, nn.Embedding) else QuantizedLinear
            model.set_submodule(path, kind.holding(layer, codes if bits == 4 else codes.view(torch.int8), scales))
    for module in model.modules():
        for name, tensor in (
            list(module.named_parameters(recurse=False)) if not isinstance(module, StoredEmbedding) else ()
        ):
            setattr(module, name, nn.Parameter(torch.full(tensor.shape, float(name == "weight" and tensor.dim() == 1))))
    return model.eval().requires_grad_(False)


def weight_bytes(model: Transformer) -> tuple[int, int]:
    """Of all weights in memory, and of those that every step reads whole: a table that is only looked up is not, and
    may stay in its file.
    """
    from openglm.quant.layers import StoredEmbedding

    held = (module for module in model.modules() if not isinstance(module, StoredEmbedding))
    sizes = {
        module: sum(t.nbytes for t in [*module.parameters(recurse=False), *module.buffers(recurse=False)])
        for module in held
    }
    looked_up = [model.position_embedding, model.block_position_embedding] + (
        [model.embedding] if model.head is not None else []
    )
    total = sum(sizes.values())
    return total, total - sum(sizes.get(table, 0) for table in looked_up)


def read_bandwidth() -> float:
    """Bytes a second that this machine's processor reads from memory, the best of several passes."""
    import torch

    from openglm.kernels.library import load
    from openglm.kernels.program import Arena

    library, times = load(), []
    # In huge pages, like the weights: small ones would make the machine look slower than it is. Written once, for pages
    # that never were are all the same one.
    memory = (Arena(library).take(_PROBE_BYTES) if library else torch.empty(_PROBE_BYTES, dtype=torch.uint8)).fill_(1)
    words = memory.view(torch.int64)
    for _ in range(7):
        start = time.perf_counter()
        library.glm_read(memory.data_ptr(), _PROBE_BYTES) if library else words.max()
        times.append(time.perf_counter() - start)
    return _PROBE_BYTES / min(times)
