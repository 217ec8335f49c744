"""Fixtures of the engine's tests."""

import pytest
import torch
from helpers.families import model_of, plain_answer


def scores(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Log-probabilities of an answer's tokens, from one pass over the whole text."""
    logs = torch.log_softmax(model.logits(torch.tensor([[*prompt, *answer]]))[0, len(prompt) - 1 : -1], -1)
    return logs[torch.arange(len(answer)), answer]


@pytest.fixture
def hold():
    """Holds a result to the plain model: likeliest tokens, and their log-probabilities, where near misses show that tokens hide."""

    def check(model, prompt: list[int], result, expected: list[int]) -> None:
        assert result.ids == expected
        found = torch.tensor([one.logprob for one in result.logprobs])
        torch.testing.assert_close(found, scores(model, prompt, expected), rtol=0, atol=1e-3)

    return check


@pytest.fixture
def models():
    return model_of


@pytest.fixture
def plain():
    """The oracle: plain greedy tokens of one prompt alone."""
    return lambda kind, prompt, count: plain_answer(kind, tuple(prompt), count)
