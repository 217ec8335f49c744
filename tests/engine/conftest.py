"""Networks and their plain answers, made once."""

import functools

import pytest
import torch
from families import network, small

from openglm import generate


@functools.cache
def model_of(kind: str):
    return network(small(kind))


@functools.cache
def plain_answer(kind: str, prompt: tuple[int, ...], count: int) -> list[int]:
    return generate(model_of(kind), torch.tensor([prompt]), count)[0, len(prompt) :].tolist()


@pytest.fixture
def models():
    return model_of


@pytest.fixture
def plain():
    """The oracle: plain greedy tokens of one prompt alone."""
    return lambda kind, prompt, count: plain_answer(kind, tuple(prompt), count)
