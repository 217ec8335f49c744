"""What one request asks for, and what it gets."""

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from openglm.config import ModelConfig, require

# name: smallest, largest. The upper ends only keep absurd requests from costing memory.
_WHOLE = {
    "max_tokens": (1, 1 << 31),
    "top_k": (0, 1 << 31),
    "seed": (0, (1 << 64) - 1),
    "logprobs": (0, 64),
    "branch": (0, 1 << 31),
}
_REAL = {
    "temperature": (0.0, 1e6),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-3, 1e3),
    "frequency_penalty": (-1e3, 1e3),
    "presence_penalty": (-1e3, 1e3),
}
_MOST_STOPS, _LONGEST_STOP = 64, 1024


@dataclass(frozen=True)
class SamplingParams:
    """How to choose the tokens of one answer, and when to end it. Raises ValueError that names the option."""

    max_tokens: int = 16
    """longest answer"""
    temperature: float = 0.0
    """0 always takes the likeliest token; higher is more varied"""
    top_k: int = 0
    """draw from so many of the likeliest tokens; 0: from all"""
    top_p: float = 1.0
    """draw from the likeliest tokens that together have this probability"""
    min_p: float = 0.0
    """draw from tokens with at least this share of the likeliest one's probability"""
    repetition_penalty: float = 1.0
    """above 1: tokens of the prompt and the answer become less likely (arXiv 1909.05858)"""
    frequency_penalty: float = 0.0
    """taken off a token's logit each time the answer has it"""
    presence_penalty: float = 0.0
    """taken off a token's logit once the answer has it"""
    logit_bias: dict[int, float] = field(default_factory=dict)
    """added to the logits of single tokens"""
    seed: int | None = None
    """the same seed repeats the answer, whoever else is served; None: a fresh one"""
    stop: tuple[str, ...] = ()
    """texts that end the answer and are left out of it"""
    stop_ids: tuple[int, ...] = ()
    """tokens that end the answer, besides the model's own"""
    ignore_eos: bool = False
    """the model's own stop tokens do not end the answer"""
    logprobs: int | None = None
    """report the log-probability of each token and of so many likeliest ones, by the model's own distribution"""
    logprobs_as_drawn: bool = False
    """report them at the temperature instead, as training on drawn answers needs them"""
    schema: dict[str, Any] | str | None = None
    """JSON schema that the answer must follow"""
    regex: str | None = None
    """regular expression that the answer must match"""
    continues: bytes | None = None
    """the answer goes on inside a text, of which these bytes (maybe none) were taken back from the prompt: its
    tokens begin with them, its text leaves them out, and tokens that only repeat them do not count for max_tokens;
    None: the answer is a text of its own"""
    branch: int = 0
    """how many of the likeliest tokens are passed over at the first place of choice that can show text: 0 none"""
    forced: tuple[int, ...] = ()
    """these tokens are the answer, for their logprobs; nothing is chosen, and max_tokens is their number"""

    def __post_init__(self) -> None:
        if self.forced:
            object.__setattr__(self, "max_tokens", len(self.forced))
        for name in ("stop", "stop_ids"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, (str, int)) else tuple(value))
        for name, (low, high) in _WHOLE.items():
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
            require(
                whole or (value is None and name in ("seed", "logprobs")),
                name,
                value,
                f"must be a whole number from {low} to {high}",
            )
        for name, (least, most) in _REAL.items():
            require(
                _real(getattr(self, name)) and least <= getattr(self, name) <= most,
                name,
                getattr(self, name),
                f"must be a number from {least:g} to {most:g}",
            )
        require(self.top_p > 0, "top_p", self.top_p, "must lie in (0, 1]")
        require(len(self.stop) <= _MOST_STOPS, "stop", f"{len(self.stop)} texts", f"give at most {_MOST_STOPS}")
        for text in self.stop:
            short = isinstance(text, str) and 0 < len(text) <= _LONGEST_STOP
            require(
                short,
                "stop",
                text if not isinstance(text, str) or not text else text[:20] + "...",
                f"must be text of 1 to {_LONGEST_STOP} characters",
            )
        require(
            all(map(_real, self.logit_bias.values())),
            "logit_bias",
            self.logit_bias,
            "must be finite numbers by token id",
        )
        require(
            self.schema is None or self.regex is None, "regex", self.regex, "cannot be combined with schema; choose one"
        )
        require(
            not self.continues or self.schema is self.regex is None,
            "continues",
            self.continues,
            "cannot be combined with schema or regex; choose one",
        )
        drawn = self.temperature > 0 or not self.logprobs_as_drawn
        require(drawn, "temperature", self.temperature, "must be positive for logprobs_as_drawn: nothing is drawn at 0")


def _real(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_request(
    prompt: Iterable[int], params: SamplingParams, shape: ModelConfig, room: int, has_text: bool
) -> list[int]:
    """The prompt's ids, once all is known to fit: a request that could never be served must not wait for ever. `room`:
    tokens that the cache holds.
    """
    try:
        ids = [operator.index(token) for token in prompt]
    except TypeError:
        raise ValueError("prompt: must be a list of token ids") from None
    require(len(ids) > 0, "prompt", ids, "must have at least one token")
    given = {"stop_ids": params.stop_ids, "logit_bias": params.logit_bias, "forced": params.forced}
    for option, tokens in {"prompt": ids, **given}.items():
        wrong = next((t for t in tokens if not isinstance(t, int) or not 0 <= t < shape.vocab_size), None)
        require(wrong is None, option, wrong, f"outside the vocabulary of {shape.vocab_size} tokens")
    # In the worst case each byte that was taken back is a token again.
    total, which = (
        len(ids) + len(params.continues or b"") + params.max_tokens,
        f"with a prompt of {len(ids)} tokens exceeds",
    )
    require(
        total <= shape.max_positions,
        "max_tokens",
        params.max_tokens,
        f"{which} the model's context of {shape.max_positions}",
    )
    require(
        total <= room,
        "max_tokens",
        params.max_tokens,
        f"{which} the cache of {room} tokens; raise engine.kv_tokens",
    )
    for option in ("stop", "schema", "regex", "continues", "branch"):
        require(
            has_text or not getattr(params, option),
            option,
            getattr(params, option),
            "needs the text of tokens; give the engine a tokenizer",
        )
    return ids


EngineRequest = tuple[Sequence[int], SamplingParams]
"""what is put to an engine: prompt ids, and how to answer them"""


@dataclass
class TokenLogprob:
    """Natural logarithms of probabilities by the model's own distribution, before temperature, penalties and
    constraints.
    """

    token: int
    logprob: float
    top: dict[int, float]


@dataclass
class Result:
    """A finished request."""

    ids: list[int]
    """new tokens; one that ended the answer is the last"""
    finish_reason: str
    """stop, length, cancelled or error"""
    text: str = ""
    """the answer without what ended it, where the engine was given a tokenizer"""
    error: str = ""
    """one line, where the request failed"""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """tokens of the prompt that needed no computing, for an earlier request began alike"""
    repeated: int = 0
    """how many of the first `ids` only repeat what was taken back from the prompt"""


@dataclass
class Event:
    """One new token of a request, or its end, or both. `text` holds the characters that are now certain to belong to
    the answer.
    """

    id: int
    token: int | None = None
    text: str = ""
    logprob: TokenLogprob | None = None
    result: Result | None = None
