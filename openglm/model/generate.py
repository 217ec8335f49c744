"""The plain generation loop with a KV cache: slow, obvious, and the oracle for the engine."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from openglm.config import require
from openglm.model.cache import KVCache
from openglm.model.positions import describe
from openglm.model.transformer import Transformer, check_ids


def sample(logits_BV: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> Tensor:
    """Next ids [B]: the most likely at temperature 0, else a draw from the smallest set of tokens that holds `top_p` of
    the probability."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    probabilities, order = torch.softmax(logits_BV / temperature, -1).sort(-1, descending=True)
    before = probabilities.cumsum(-1) - probabilities
    choice = torch.multinomial(probabilities.masked_fill(before >= top_p, 0.0), 1, generator=generator)
    return order.gather(-1, choice)[:, 0]


@torch.no_grad()
def stream(
    model: Transformer,
    input_ids: Tensor,
    max_new_tokens: int,
    padding_mask: Tensor | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
) -> Iterator[Tensor]:
    """New ids [B], one token a step, without end but `max_new_tokens`. Errors are ValueErrors, raised before the first
    token."""
    check_ids(input_ids, model.config)
    total = input_ids.shape[1] + max_new_tokens
    require(max_new_tokens >= 0, "max_new_tokens", max_new_tokens, "must not be negative")
    context = model.config.max_positions
    require(
        total <= context,
        "max_new_tokens",
        max_new_tokens,
        f"with a prompt of {input_ids.shape[1]} tokens exceeds the model's context of {context}",
    )
    require(temperature >= 0, "temperature", temperature, "must not be negative; 0 takes the most likely token")
    require(0 < top_p <= 1, "top_p", top_p, "must lie in (0, 1]")
    if model.config.mask == "prefix":
        started = bool((input_ids == model.config.tokens.sop).any(1).all())
        require(
            started,
            "input_ids",
            "no <sop>",
            "this model reads its prompt both ways: end it with [gMASK] <sop>, or put [MASK] where text is missing "
            "and <sop> at the end",
        )
    generator = None if seed is None else torch.Generator(model.device).manual_seed(seed)
    ids = input_ids.to(model.device)
    real = torch.ones_like(ids, dtype=torch.bool) if padding_mask is None else padding_mask.to(model.device).bool()
    cache = KVCache(model.config, ids.shape[0], total, model.device, model.dtype, model.prefix)
    virtual = cache.length
    for _ in range(max_new_tokens):
        # Positions are derived afresh from all ids: the one rule serves prompts and answers alike.
        positions, mask = describe(ids, real, model.config)
        mask = model.prefix.widen(mask) if model.prefix else mask
        done = cache.length - virtual
        hidden = model(ids[:, done:], positions[:, :, done:], mask[:, :, done:], cache)
        token = sample(model.project(hidden[:, -1]).float(), temperature, top_p, generator)
        yield token
        ids = torch.cat([ids, token[:, None]], 1)
        real = torch.cat([real, torch.ones_like(token[:, None], dtype=torch.bool)], 1)


def generate(
    model: Transformer,
    input_ids: Tensor,
    max_new_tokens: int = 16,
    padding_mask: Tensor | None = None,
    temperature: float = 0.0,
    stop_ids: tuple[int, ...] | None = None,
    top_p: float = 1.0,
    seed: int | None = None,
) -> Tensor:
    """Continue every row; returns prompt and answer, [B, T + new].

    padding_mask: True = real token; prompts of different length are padded on the left. stop_ids: a row is over after
    one of these (it is kept) and is filled with padding; the loop ends when all rows are over. temperature 0 is greedy.
    """
    stops = torch.tensor(stop_ids or (), device=model.device, dtype=torch.long)
    rows, over = [input_ids.to(model.device)], torch.zeros(input_ids.shape[0], dtype=torch.bool, device=model.device)
    fill = max(model.config.tokens.pad, 0)
    for token in stream(model, input_ids, max_new_tokens, padding_mask, temperature, top_p, seed):
        token = token.masked_fill(over, fill)
        rows.append(token[:, None])
        over |= torch.isin(token, stops)
        if bool(over.all()):
            break
    return torch.cat(rows, 1)
