"""Ours beside llama.cpp, ik_llama.cpp, OpenVINO and transformers on a processor: the same random weights, in turn, round by round.

    python benchmarks/peers.py --shapes glm-4-0.4b glm-4-1.5b --folder FOLDER [--rounds 5] [--json out.json] [--plot out.png]

FOLDER gets the weights (2 bytes each) and the GGUF files, some 6 GB for both shapes; what is there already is used
again. Ours reads them as int4 in groups of 64 with the logits in int8, llama.cpp and ik_llama.cpp (PyPI
`ik-llama-cpp-python`) as Q4_0 with logits in Q8_0, transformers in fp32. Each reader is a process of its own that waits
while the others run. A round: a prompt of 512 tokens read, 32 tokens written behind it, and 8 answers of 32 tokens at
once behind prompts of 128. Ours goes through the engine, sampler included; the llama.cpps through their C interface,
without a sampler. Medians, and the median of the rounds' ratios.

ik_llama.cpp built for this processor: set IK_LLAMA_CPP_LIB_PATH to its libllama.so. OpenVINO GenAI reads FOLDER/SHAPE/ov,
which Optimum (with transformers 4) writes: optimum-cli export openvino -m FOLDER/SHAPE/hf --task
text-generation-with-past --weight-format int4 --group-size 64 --ratio 1.0 --sym FOLDER/SHAPE/ov (logits in int8 too).
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from pathlib import Path
from typing import Any

import measure
import workers

PROMPT, NEW, REQUESTS, SHORT = 512, 32, 8, 128
WORK = ("prefill", "decode", "batch")
NAMES = {
    "prefill": f"prompt of {PROMPT} tokens",
    "decode": f"one answer behind {PROMPT} tokens",
    "batch": f"{REQUESTS} answers at once behind {SHORT} tokens, total",
}


class Ours:
    def __init__(self, weights: Path, threads: int) -> None:
        import os

        os.environ["OPENGLM_THREADS"] = str(threads)
        from openglm.cli.bench import one_round, weight_bytes
        from openglm.config import EngineConfig
        from openglm.engine.engine import Engine

        model = self.load(weights)
        self.read = weight_bytes(model)[1]
        config = EngineConfig(
            kv_tokens=REQUESTS * (PROMPT + NEW + 32),
            max_sequences=REQUESTS,
            step_tokens=PROMPT,
            keep_weights=False,
            share_prefixes=False,
        )
        self.engine, self.round = Engine(model, config), one_round
        assert type(self.engine.runner).__name__ == "NativeRunner", "the kernels are not installed"

    def load(self, weights: Path):
        from openglm.checkpoints.load import load_model

        return load_model(weights / "whole", device="cpu", quantize="int4")

    def measure(self, seed: int) -> dict[str, float]:
        _, prefill, decode = self.round(self.engine, 1, PROMPT, NEW, seed)
        return {"prefill": prefill, "decode": decode, "batch": self.round(self.engine, REQUESTS, SHORT, NEW, seed)[2]}

    def about(self) -> dict[str, float]:
        from openglm.cli.bench import read_bandwidth

        return {"read_bytes": self.read, "machine_bandwidth": read_bandwidth()}


class LlamaCpp:
    module, loading = "llama_cpp", {}

    def __init__(self, weights: Path, threads: int) -> None:
        self.api = api = importlib.import_module(self.module)
        api.llama_backend_init()
        options = api.llama_model_default_params()
        for name, value in self.loading.items():
            setattr(options, name, value)
        model = api.llama_model_load_from_file(str(weights / "q4_0.gguf").encode(), options)
        self.contexts = {sequences: self._context(model, sequences, threads) for sequences in (1, REQUESTS)}
        self.batch = api.llama_batch_init(PROMPT, 0, 1)

    def _context(self, model, sequences: int, threads: int):
        options = self.api.llama_context_default_params()
        options.n_ctx, options.n_seq_max, options.n_batch, options.n_ubatch = (
            1024 * sequences,
            sequences,
            PROMPT,
            PROMPT,
        )
        options.n_threads = options.n_threads_batch = threads
        self._choose(options, sequences)
        return self.api.llama_init_from_model(model, options)

    def _choose(self, options, sequences: int) -> None:
        """Its best setting: one answer is faster without flash attention, several with (measured beside each other)."""
        options.flash_attn_type = -1 if sequences > 1 else 0

    def _clear(self, context) -> None:
        self.api.llama_memory_clear(self.api.llama_get_memory(context), True)

    def _decode(self, sequences: int, tokens: list[tuple[int, int, int, bool]]) -> None:
        """tokens: (sequence, position, id, whether its logits are wanted)."""
        for i, (sequence, position, token, wanted) in enumerate(tokens):
            self.batch.token[i], self.batch.pos[i], self.batch.n_seq_id[i], self.batch.logits[i] = (
                token,
                position,
                1,
                wanted,
            )
            self.batch.seq_id[i][0] = sequence
        self.batch.n_tokens = len(tokens)
        assert self.api.llama_decode(self.contexts[sequences], self.batch) == 0
        self.api.llama_get_logits_ith(self.contexts[sequences], -1)  # waits until they are there

    def _round(self, sequences: int, prompt: int) -> tuple[float, float]:
        self._clear(self.contexts[sequences])
        start = time.perf_counter()
        for sequence in range(sequences):
            self._decode(sequences, [(sequence, i, 100 + i, i == prompt - 1) for i in range(prompt)])
        read = time.perf_counter()
        for step in range(NEW - 1):
            self._decode(sequences, [(sequence, prompt + step, 200 + step, True) for sequence in range(sequences)])
        return sequences * prompt / (read - start), sequences * (NEW - 1) / (time.perf_counter() - read)

    def measure(self, seed: int) -> dict[str, float]:
        prefill, decode = self._round(1, PROMPT)
        return {"prefill": prefill, "decode": decode, "batch": self._round(REQUESTS, SHORT)[1]}

    def about(self) -> dict[str, float]:
        return {}


class IkLlamaCpp(LlamaCpp):
    module, loading = "ik_llama_cpp._ctypes_api", {"repack_tensors": True}

    def _choose(self, options, sequences: int) -> None:
        options.flash_attn = True

    def _clear(self, context) -> None:
        self.api.llama_kv_cache_clear(context)


class OpenVino:
    """OpenVINO GenAI with its defaults for a processor: int8 keys and values, activations in int8 where that is faster."""

    def __init__(self, weights: Path, threads: int) -> None:
        import numpy as np
        import openvino_genai as genai
        from openvino import Tensor

        self.pipeline = genai.LLMPipeline(str(weights / "ov"), "CPU", INFERENCE_NUM_THREADS=threads)
        self.config = genai.GenerationConfig(max_new_tokens=NEW, ignore_eos=True, do_sample=False)

        def prompts(count: int, length: int, seed: int) -> Any:
            ids = np.random.default_rng(seed).integers(100, 4096, (count, length))
            return genai.TokenizedInputs(Tensor(ids), Tensor(np.ones_like(ids)))

        self.prompts = prompts

    def measure(self, seed: int) -> dict[str, float]:
        prefill, decode = self._round(1, PROMPT, seed)
        return {"prefill": prefill, "decode": decode, "batch": self._round(REQUESTS, SHORT, seed)[1]}

    def _round(self, count: int, length: int, seed: int) -> tuple[float, float]:
        metrics = self.pipeline.generate(self.prompts(count, length, seed), self.config).perf_metrics
        first, whole = metrics.get_ttft().mean, metrics.get_generate_duration().mean  # milliseconds
        return 1e3 * count * length / first, 1e3 * count * (NEW - 1) / (whole - first)

    def about(self) -> dict[str, float]:
        return {}


class Transformers:
    """GlmForCausalLM of the same shape in fp32, `generate` with its cache. One answer alone."""

    def __init__(self, weights: Path, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self.model = AutoModelForCausalLM.from_pretrained(weights / "hf", dtype=torch.float32)

    def measure(self, seed: int) -> dict[str, float]:
        import torch

        ids, times = torch.arange(100, 100 + PROMPT)[None], []
        for new in (1, 1, 17):
            start = time.perf_counter()
            self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
            )
            times.append(time.perf_counter() - start)
        return {"prefill": PROMPT / min(times[:2]), "decode": 16 / (times[2] - min(times[:2]))}

    def about(self) -> dict[str, float]:
        return {}


READERS = {
    "ours": Ours,
    "llama.cpp": LlamaCpp,
    "ik_llama.cpp": IkLlamaCpp,
    "openvino": OpenVino,
    "transformers": Transformers,
}


def make_weights(shape: str, folder: Path) -> Path:
    """The weights in our format, for llama.cpp and for transformers."""
    import torch

    from openglm.checkpoints.convert import convert
    from openglm.checkpoints.native import save_model
    from openglm.model.transformer import Transformer
    from openglm.presets import model_preset

    target = folder / shape
    if not (target / "whole").is_dir():
        model = Transformer(model_preset(shape))
        model.initialize(torch.Generator().manual_seed(0))
        save_model(target / "whole", model, None, dtype="float16")
    if not (target / "q4_0.gguf").is_file():
        convert(target / "whole", target / "q4_0.gguf", "gguf", "q4_0")
    if not (target / "hf").is_dir():
        convert(target / "whole", target / "hf", "hf")
    return target


def rows(results: dict[str, dict]) -> list[tuple[str, str, dict[str, float], dict[str, float]]]:
    """Shape, work, median of each reader, median ratio of ours to each other one."""
    out = []
    for shape, result in results.items():
        for job in WORK:
            series = {name: [r[job] for r in rounds] for name, rounds in result["rounds"].items() if job in rounds[0]}
            medians = {name: statistics.median(values) for name, values in series.items()}
            ratios = {name: measure.ratio(series["ours"], values) for name, values in series.items() if name != "ours"}
            out.append((shape, job, medians, ratios))
    return out


def table(results: dict[str, dict]) -> str:
    others = [name for name in READERS if any(name in result["rounds"] for result in results.values())][1:]
    columns = ["shape", "work", "ours, tokens/s", *(cell for name in others for cell in (name, f"ours / {name}"))]
    cells_of = []
    for shape, job, medians, ratios in rows(results):
        cells = [shape, NAMES[job], f"{medians['ours']:.1f}"]
        for name in others:
            cells += [f"{medians[name]:.1f}", f"**{ratios[name]:.2f}**"] if name in ratios else ["–", "–"]
        cells_of.append(cells)
    lines = [measure.table(columns, cells_of)]
    for shape, result in results.items():
        rate = result["read_bytes"] * statistics.median(r["decode"] for r in result["rounds"]["ours"])
        machine = result["machine_bandwidth"]
        lines.append(
            f"\n{shape}: one answer reads {rate / 1e9:.1f} GB/s of weights, {100 * rate / machine:.0f} % of the {machine / 1e9:.1f} GB/s that a plain pass reads here."
        )
    return "\n".join(lines)


def plot(results: dict[str, dict], path: str) -> None:
    from matplotlib.figure import Figure

    colours = {
        "ours": "#2a6fb0",
        "llama.cpp": "#d98c3f",
        "ik_llama.cpp": "#b8563f",
        "openvino": "#7a5ea8",
        "transformers": "#999999",
    }
    figure = Figure((11, 2.6 * len(results) + 0.6), layout="tight")
    axes = figure.subplots(len(results), len(WORK), squeeze=False)
    for axis, (shape, job, medians, _) in zip(axes.flat, rows(results), strict=True):
        axis.barh(list(medians), list(medians.values()), color=[colours[name] for name in medians])
        for i, value in enumerate(medians.values()):
            axis.text(value, i, f" {value:.0f}", va="center", fontsize=8)
        axis.set_title(f"{shape}\n{NAMES[job]}", fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set_xlabel("tokens/s", fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["glm-4-0.4b", "glm-4-1.5b"], help="presets of GLM-4's kind")
    parser.add_argument("--readers", nargs="+", default=list(READERS), choices=list(READERS), help="ours first")
    parser.add_argument("--folder", required=True, help="where weights are kept")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", help="write all figures here")
    parser.add_argument("--plot", help="picture to write")
    parser.add_argument("--worker", choices=list(READERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        workers.work(READERS[args.worker](Path(args.folder), args.threads))
        return
    results = {}
    for shape in args.shapes:
        weights = make_weights(shape, Path(args.folder))
        results[shape] = workers.compare(__file__, args.readers, weights, args.rounds, args.threads)
    measure.write_json(args.json, results)
    if args.plot:
        plot(results, args.plot)
    print(table(results))


if __name__ == "__main__":
    main()
