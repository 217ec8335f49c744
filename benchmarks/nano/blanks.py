"""How often a model fills a hole in held-out text with the very tokens that were cut out.

Items: a piece of a document, 96 tokens before the hole and 32 after it; the hole is one token, or a span of Poisson length (3 in the mean, at most 8).
Readers: "both sides" is the GLM way, before [MASK] after <sop>, greedy; "left only" is [gMASK] <sop> before, greedy, for any model;
"re-ranked" is any model's best effort on one-token holes: its 50 tokens likeliest from the left, re-ranked by the likelihood of the text after the hole.
All are told the length of the hole and cannot answer with special tokens. Only the exact token counts, though another may be as good.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from left_to_right import HeldOut, batches, log_probabilities

from openglm.model.cache import KVCache
from openglm.model.positions import describe
from openglm.runtime import progress

BEFORE, AFTER, MEAN_SPAN, LONGEST, CANDIDATES = 96, 32, 3.0, 8, 50


@dataclass
class Blank:
    before: list[int]
    answer: list[int]
    after: list[int]


def make_blanks(held: list[HeldOut], count: int, single: bool, seed: int = 1) -> list[Blank]:
    """Holes in documents drawn in proportion to their length, with at least 8 tokens on either side. Fewer than `count` only where no document is long enough."""
    rng = np.random.default_rng([seed, single])
    documents = [d for h in held for d in h.documents if len(d) >= 16 + LONGEST]
    if not documents:
        return []
    share = np.array([len(d) for d in documents]) / sum(map(len, documents))
    blanks = []
    for i in rng.choice(len(documents), count, p=share):
        size = 1 if single else int(np.clip(rng.poisson(MEAN_SPAN), 1, LONGEST))
        at = int(rng.integers(8, len(documents[i]) - 8 - size + 1))
        text = documents[i].tolist()
        blanks.append(Blank(text[max(0, at - BEFORE) : at], text[at : at + size], text[at + size : at + size + AFTER]))
    return blanks


@torch.no_grad()
def _greedy(
    model, prompts: list[list[int]], sizes: list[int], special: list[int], batch_tokens: int, what: str
) -> list[list[int]]:
    """Continue each prompt by its number of tokens, none of them special. (`openglm.generate` cannot leave tokens out.)"""
    answers: list[list[int]] = [[] for _ in prompts]
    with progress(what, len(prompts), "holes") as advance:
        for group in batches([len(p) + size for p, size in zip(prompts, sizes, strict=True)], batch_tokens):
            longest, steps = max(len(prompts[i]) for i in group), max(sizes[i] for i in group)
            ids = torch.tensor([[0] * (longest - len(prompts[i])) + prompts[i] for i in group], device=model.device)
            real = torch.tensor(
                [[False] * (longest - len(prompts[i])) + [True] * (len(prompts[i]) + steps) for i in group],
                device=model.device,
            )
            cache = KVCache(model.config, len(group), longest + steps, model.device, model.embedding.weight.dtype)
            for _ in range(steps):
                positions, mask = describe(ids, real[:, : ids.shape[1]], model.config)
                done = cache.length
                last = model.project(model(ids[:, done:], positions[:, :, done:], mask[:, :, done:], cache)[:, -1])
                last[:, special] = -torch.inf
                ids = torch.cat([ids, last.argmax(-1, keepdim=True)], 1)
            for i, row in zip(group, ids[:, longest:].tolist(), strict=True):
                answers[i] = row[: sizes[i]]
            advance(len(group))
    return answers


def fill_both_sides(model, blanks: list[Blank], special: list[int], batch_tokens: int = 8192) -> list[list[int]]:
    """The GLM way: [MASK] stands for the hole, the answer follows <sop>."""
    t = model.config.tokens
    again = 1 if model.config.span_positions == "gapped" else 0  # tokens on the left that open the answer once more
    prompts = [[*b.before, t.mask, *b.after, t.sop, *b.before[len(b.before) - again :]] for b in blanks]
    return _greedy(model, prompts, [len(b.answer) for b in blanks], special, batch_tokens, "both sides")


def fill_left_only(model, blanks: list[Blank], special: list[int], batch_tokens: int = 8192) -> list[list[int]]:
    """Continuation of the text before the hole."""
    t = model.config.tokens
    return _greedy(
        model,
        [[t.gmask, t.sop, *b.before] for b in blanks],
        [len(b.answer) for b in blanks],
        special,
        batch_tokens,
        "left only",
    )


def _branches(model, prompt: list[int], rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions [1, 2, T] and mask [1, 1, T, T] of one row: a prompt, then continuations [candidates, length] that see it and themselves, not each other."""
    (candidates, length), device = rows.shape, rows.device
    one = torch.cat([torch.tensor(prompt, device=device), rows[0]])
    positions = describe(one[None], None, model.config)[0]
    behind = positions[:, :, len(prompt) :].repeat(1, 1, candidates)
    branch = torch.cat([torch.full((len(prompt),), -1), torch.arange(candidates).repeat_interleave(length)]).to(device)
    index = torch.arange(len(branch), device=device)
    mask = ((branch[:, None] == branch) | (branch < 0)) & (index[:, None] >= index[None, :])
    return torch.cat([positions[:, :, : len(prompt)], behind], 2), mask[None, None]


@torch.no_grad()
def fill_reranked(model, blanks: list[Blank], special: list[int]) -> list[list[int]]:
    """One-token holes, any model: argmax over the 50 tokens c likeliest from the left of log p(c | before) + log p(after | before, c)."""
    t, answers = model.config.tokens, []
    with progress("re-ranked", len(blanks), "holes") as advance:
        for blank in blanks:
            prompt = [t.gmask, t.sop, *blank.before]
            scores = log_probabilities(model, [prompt])[0, -1]
            scores[special] = -torch.inf
            scores, candidates = scores.topk(min(CANDIDATES, len(scores) - len(special)))
            after = torch.tensor(blank.after, device=scores.device).expand(len(scores), -1)
            rows = torch.cat([candidates[:, None], after], 1)
            ids = torch.cat([torch.tensor(prompt, device=scores.device), rows.flatten()])
            hidden = model(ids[None], *_branches(model, prompt, rows))[0, len(prompt) :]
            log_p = model.project(hidden).float().log_softmax(-1).view(*rows.shape, -1)[:, :-1]
            scores += log_p.gather(2, after[..., None]).sum((1, 2))
            answers.append([int(candidates[scores.argmax()])])
            advance()
    return answers


def fill_most_frequent(counts: np.ndarray, blanks: list[Blank]) -> list[list[int]]:
    """The most frequent token everywhere. counts: [vocabulary] in the training text."""
    return [[int(counts.argmax())] * len(b.answer) for b in blanks]


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    p, scale = right / n, 1 + z * z / n
    middle, half = (p + z * z / (2 * n)) / scale, z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    return float(max(0, middle - half)), float(min(1, middle + half))


def accuracy(answers: list[list[int]], blanks: list[Blank]) -> dict[str, float]:
    """Share of tokens and of whole holes that are right, with 95 % intervals. That of tokens takes them as independent, which tokens of one hole are not."""
    tokens = [
        a == b for answer, blank in zip(answers, blanks, strict=True) for a, b in zip(answer, blank.answer, strict=True)
    ]
    spans = [answer == blank.answer for answer, blank in zip(answers, blanks, strict=True)]
    out: dict[str, float] = {}
    for name, hits in (("token", tokens), ("span", spans)):
        low, high = wilson(sum(hits), len(hits))
        out |= {name: sum(hits) / max(1, len(hits)), f"{name}_low": low, f"{name}_high": high, f"{name}s": len(hits)}
    return out
