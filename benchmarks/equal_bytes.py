"""ChatGLM-6B's shape here beside a GLM-4-9B-like one of as many bytes in llama.cpp, which has no ChatGLM-6B: random weights, in turn, round by round.

    python benchmarks/equal_bytes.py --folder FOLDER [--rounds 5] [--json out.json]

FOLDER gets the GGUF file, 3.9 GB; what is there already is used again. GLM-4-9B keeps its widths and gets as many layers as make one token read
the same bytes in both: ours int4 in groups of 64 with the logits in int8, llama.cpp Q4_0 with its logits in Q8_0. A round: a prompt of 512 tokens, 32 tokens behind it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

import measure
import peers
import torch
import workers
from open_chatglm_6b import Pool
from torch import Tensor

from openglm.checkpoints.gguf import write_gguf
from openglm.cli.bench import random_model, weight_bytes
from openglm.config import ModelConfig
from openglm.model.transformer import Transformer
from openglm.presets import model_preset

Q4_0, Q8_0 = 18 / 32, 34 / 32  # bytes a weight
WORK = ("prefill", "decode")


class RandomWeights(Mapping[str, Tensor]):
    """Every parameter of a network, made when it is asked for."""

    def __init__(self, config: ModelConfig) -> None:
        with torch.device("meta"):
            self.shapes = {name: weight.shape for name, weight in Transformer(config).named_parameters()}
        self.pool = Pool()

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shapes[name]
        return torch.full(shape, float(name.endswith("weight"))) if len(shape) == 1 else self.pool.piece(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class Ours(peers.Ours):
    def load(self, weights: Path):
        return random_model(model_preset("chatglm-6b"), "int4")

    def measure(self, seed: int) -> dict[str, float]:
        return dict(zip(WORK, self.round(self.engine, 1, peers.PROMPT, peers.NEW, seed)[1:], strict=True))


class LlamaCpp(peers.LlamaCpp):
    def measure(self, seed: int) -> dict[str, float]:
        return dict(zip(WORK, self._round(1, peers.PROMPT), strict=True))


READERS = {"ours": Ours, "llama.cpp": LlamaCpp}


def read_bytes(config: ModelConfig) -> float:
    """Bytes of a llama.cpp file that every token reads."""
    with torch.device("meta"):
        model = Transformer(config)
    blocks = sum(p.numel() for p in model.blocks.parameters() if p.dim() == 2)
    return blocks * Q4_0 + model.head.weight.numel() * Q8_0


def like_glm4(wanted: int) -> ModelConfig:
    """GLM-4-9B with the number of layers that comes nearest to reading so many bytes a token."""
    return min(
        (model_preset("glm-4-9b", layers=n) for n in range(1, 41)), key=lambda config: abs(read_bytes(config) - wanted)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", required=True, help="where the weights are kept")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", help="write all figures here")
    parser.add_argument("--worker", choices=list(READERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = Path(args.folder)
    if args.worker:
        workers.work(READERS[args.worker](folder, args.threads))
        return
    wanted = weight_bytes(random_model(model_preset("chatglm-6b"), "int4"))[1]
    config = like_glm4(wanted)
    file = folder / "q4_0.gguf"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_gguf(file, RandomWeights(config), config, kind="q4_0")
    result = workers.compare(__file__, list(READERS), folder, args.rounds, args.threads)
    print(
        f"a token reads {wanted / 1e9:.2f} GB of ours, {read_bytes(config) / 1e9:.2f} GB of llama.cpp's, whose GLM-4-9B has {config.layers} layers here"
    )
    for job in WORK:
        ours, theirs = ([figures[job] for figures in result["rounds"][name]] for name in READERS)
        print(
            f"{peers.NAMES[job]}: ours {statistics.median(ours):.2f} tokens/s, llama.cpp {statistics.median(theirs):.2f}, ratio {measure.ratio(ours, theirs):.2f}"
        )
    measure.write_json(args.json, result)


if __name__ == "__main__":
    main()
