"""One small random network of every kind in the family, for the tests of all rooms."""

import functools

import torch

from openglm import generate
from openglm.config import ModelConfig
from openglm.model.transformer import Transformer
from openglm.presets import model_preset

TOKENS = dict(pad=0, mask=1, gmask=2, smask=3, sop=4, eop=5)
# One small network of every kind in the family, by the preset whose options it takes.
KINDS = [
    "glm-10b",
    "glm-130b",
    "chatglm-6b",
    "chatglm-6b-first",
    "chatglm2-6b",
    "glm-4-9b-chat",
    "glm-4-0414-9b",
    "glm-4-0414-32b",
    "nano",
    "nano, gapped",
]


def small(preset: str, **changes) -> ModelConfig:
    preset, _, gapped = preset.partition(", ")
    if gapped:
        changes = dict(mask="causal", span_positions="gapped", **changes)
    kv_heads = 2 if model_preset(preset).kv_heads < model_preset(preset).heads else 4
    shape = dict(
        vocab_size=64,
        layers=3,
        hidden=32,
        heads=4,
        kv_heads=kv_heads,
        head_dim=8,
        ffn_hidden=48,
        max_positions=64,
        tokens=TOKENS,
    )
    return model_preset(preset, **{**shape, **changes})


def network(config: ModelConfig, seed: int = 0) -> Transformer:
    model, generator = Transformer(config), torch.Generator().manual_seed(seed)
    for weight in model.parameters():  # larger than at the start of training, so that every option shows in the numbers
        torch.nn.init.normal_(weight, 0.5 if weight.dim() == 1 else 0.0, 0.3, generator)
    return model.eval()


def prompt(config: ModelConfig, length: int, seed: int) -> list[int]:
    """Random text with [gMASK] <sop> at the end, as every generation of the family can read it."""
    ids = torch.randint(8, config.vocab_size, (length - 2,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [*ids, TOKENS["gmask"], TOKENS["sop"]]


@functools.cache
def model_of(kind: str):
    return network(small(kind, layers=2))


@functools.cache
def plain_answer(kind: str, prompt: tuple[int, ...], count: int) -> list[int]:
    return generate(model_of(kind), torch.tensor([prompt]), count)[0, len(prompt) :].tolist()
