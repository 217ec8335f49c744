"""How inference is run."""

from dataclasses import dataclass
from typing import Literal

from openglm.config.checks import Count, Whole, check_fields, require


@dataclass(frozen=True)
class EngineConfig:
    """How many requests are served at once, and with how much memory."""

    kv_tokens: Whole = 0
    """size of the KV cache in tokens, for all requests together; 0: room for max_sequences full contexts, up to 1 GiB,
    or for one full context where half of the free memory holds it
    """
    block_size: Count = 16
    """tokens in one cache block; requests that begin alike share whole blocks"""
    kv_dtype: Literal["auto", "float32", "float16", "bfloat16", "int8"] = "auto"
    """type of stored keys and values; auto: the compute type; int8: with one scale per token and head"""
    max_sequences: Count = 32
    """maximum number of requests computed at once; the others wait"""
    step_tokens: Count = 512
    """maximum number of tokens computed in one step; longer prompts are split, so that other answers keep flowing"""
    share_prefixes: bool = True
    """keep the cache blocks of finished requests, for later requests that begin alike"""
    draft_tokens: Whole = 0
    """maximum number of tokens to guess ahead from repetitions in the text; 0: none.
    Guesses are checked in one step and never change the answer"""
    runner: Literal["auto", "native", "torch"] = "auto"
    """native: CPU kernels; torch: any device; auto: the CPU kernels if they can run the model"""
    compile: bool = False
    """torch runner: use torch.compile (on a CPU this needs a C++ compiler)"""
    keep_weights: bool = True
    """native runner: keep the original model usable as well; its weights then take twice the memory"""

    def __post_init__(self) -> None:
        check_fields(self, "engine.")
        require(
            self.step_tokens >= self.max_sequences,
            "engine.step_tokens",
            self.step_tokens,
            f"must be at least engine.max_sequences ({self.max_sequences})",
        )
