"""How inference is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openglm.config.checks import check_choices, require


@dataclass(frozen=True)
class EngineConfig:
    """How many requests are served at once, and with how much memory."""

    kv_tokens: int = 0
    """tokens whose keys and values fit the cache, over all requests; 0: max_sequences whole contexts, but at most 1 GiB"""
    block_size: int = 16
    """tokens in one block of the cache; whole blocks are shared between requests that begin alike"""
    kv_dtype: Literal["auto", "float32", "float16", "bfloat16", "int8"] = "auto"
    """storage of keys and values; auto: that of the computation; int8: with a scale for each token and head"""
    max_sequences: int = 32
    """requests computed at once; more wait their turn"""
    step_tokens: int = 512
    """tokens computed in one step; longer prompts are cut into chunks, so that the answers of others go on meanwhile"""
    share_prefixes: bool = True
    """keep the blocks of finished requests for later ones that begin alike"""
    draft_tokens: int = 0
    """guess up to so many tokens ahead from repetitions in the text and check them in one step; the answer stays the same"""
    runner: Literal["auto", "native", "torch"] = "auto"
    """native: the CPU kernels; torch: any device; auto: the kernels where they can run the model"""
    compile: bool = False
    """torch runner: fuse the network with torch.compile (needs a C++ compiler on a CPU)"""
    keep_weights: bool = True
    """native runner: leave the model usable beside the engine, which takes the memory of its weights twice"""

    def __post_init__(self) -> None:
        check_choices(self, "engine.")
        for name in ("block_size", "max_sequences", "step_tokens"):
            require(getattr(self, name) > 0, f"engine.{name}", getattr(self, name), "must be a positive whole number")
        for name in ("kv_tokens", "draft_tokens"):
            require(getattr(self, name) >= 0, f"engine.{name}", getattr(self, name), "must not be negative")
        require(
            self.step_tokens >= self.max_sequences,
            "engine.step_tokens",
            self.step_tokens,
            f"must be at least engine.max_sequences ({self.max_sequences})",
        )
