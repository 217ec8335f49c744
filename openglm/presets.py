"""The named sizes of the family, published and our own. Nothing here imports more than the standard library and
config.py."""

import dataclasses
import math
from typing import Any

from openglm.config import ModelConfig, SpecialTokens, from_dict, require

# The published sizes. Figures: configuration files and papers of each release; docs/architecture.md has the table of
# options.
_GLM10B: dict[str, Any] = {
    "vocab_size": 50304,
    "max_positions": 1024,
    "norm": "layernorm",
    "activation": "gelu_tanh",
    "positions": "learned_2d",
    "span_positions": "pinned",
    "bias": "all",
    "tokens": SpecialTokens(pad=50256, mask=50260, gmask=50263, smask=50264, sop=50257, eop=50258, stop=(50258, 50256)),
}
_GLM10B_CHINESE = {
    **_GLM10B,
    "vocab_size": 50048,
    "tokens": SpecialTokens(pad=50000, mask=50003, gmask=50009, smask=50008, sop=50006, eop=50007, stop=(50007, 50000)),
}
_DEEPNORM: dict[str, Any] = {
    "norm": "layernorm",
    "residual": "deepnorm",
    "rope_fp16_frequencies": True,
    "bias": "all",
    "qk_layer_scaling": True,
}
_CHATGLM6B: dict[str, Any] = {
    **_DEEPNORM,
    "layers": 28,
    "hidden": 4096,
    "heads": 32,
    "ffn_hidden": 16384,
    "activation": "gelu_tanh",
    "positions": "rope_2d",
    "tied": False,
}
_CHATGLM6B["deepnorm_alpha"] = math.sqrt(2 * 28)  # in the published code whatever the number of layers
_CHATGLM2_TOKENS = SpecialTokens(pad=0, mask=64789, gmask=64790, smask=64791, sop=64792, eop=64793, stop=(2,))
_CAUSAL: dict[str, Any] = {
    "positions": "rope_half",
    "mask": "causal",
    "span_positions": "running",
    "bias": "qkv",
    "tied": False,
    "kv_heads": 2,
}
_CHATGLM2 = {
    **_CAUSAL,
    "vocab_size": 65024,
    "layers": 28,
    "hidden": 4096,
    "heads": 32,
    "ffn_hidden": 13696,
    "max_positions": 32768,
    "tokens": _CHATGLM2_TOKENS,
}
_GLM4 = {
    **_CAUSAL,
    "vocab_size": 151552,
    "layers": 40,
    "hidden": 4096,
    "heads": 32,
    "ffn_hidden": 13696,
    "max_positions": 131072,
    "rope_theta": 5e6,
    "norm_eps": 1.5625e-07,
    "tokens": SpecialTokens(
        pad=151329, mask=151330, gmask=151331, smask=151332, sop=151333, eop=151334, stop=(151329, 151336, 151338)
    ),
}
_GLM4_0414 = {**_GLM4, "residual": "sandwich", "norm_eps": 1e-5, "rope_theta": 10000.0, "max_positions": 32768}
# Benchmark shapes of the GLM-4 kind that fit a laptop.
_GLM4_SMALL = {
    **_GLM4,
    "vocab_size": 65024,
    "heads": 16,
    "max_positions": 8192,
    "rope_theta": 10000.0,
    "tokens": _CHATGLM2_TOKENS,
}

PRESETS: dict[str, dict[str, Any]] = {
    "glm-base": {**_GLM10B, "layers": 12, "hidden": 768, "heads": 12, "ffn_hidden": 3072, "max_positions": 512},
    "glm-large": {**_GLM10B, "layers": 24, "hidden": 1024, "heads": 16, "ffn_hidden": 4096, "max_positions": 512},
    "glm-2b": {**_GLM10B, "layers": 36, "hidden": 2048, "heads": 32, "ffn_hidden": 8192},
    "glm-10b": {**_GLM10B, "layers": 48, "hidden": 4096, "heads": 64, "ffn_hidden": 16384},
    "glm-10b-chinese": {**_GLM10B_CHINESE, "layers": 48, "hidden": 4096, "heads": 64, "ffn_hidden": 16384},
    "glm-130b": {
        **_DEEPNORM,
        "vocab_size": 150528,
        "layers": 70,
        "hidden": 12288,
        "heads": 96,
        "ffn_hidden": 32768,
        "activation": "geglu",
        "embedding_gradient_shrink": 0.1,
        "tokens": SpecialTokens(
            pad=0, mask=150000, gmask=150001, smask=150002, sop=150004, eop=150005, stop=(150005, 20002)
        ),
    },
    "chatglm-6b": {
        **_CHATGLM6B,
        "vocab_size": 130528,
        "span_positions": "pinned",
        "tokens": SpecialTokens(pad=3, mask=130000, gmask=130001, smask=130002, sop=130004, eop=130005, stop=(130005,)),
    },
    "chatglm-6b-first": {
        **_CHATGLM6B,
        "vocab_size": 150528,
        "span_positions": "pinned_late",
        "tokens": SpecialTokens(pad=3, mask=150000, gmask=150001, smask=150002, sop=150004, eop=150005, stop=(150005,)),
    },
    "chatglm2-6b": _CHATGLM2,
    "chatglm3-6b": {
        **_CHATGLM2,
        "max_positions": 8192,
        "tokens": dataclasses.replace(_CHATGLM2_TOKENS, stop=(2, 64795, 64797)),
    },
    "glm-4-9b": {**_GLM4, "max_positions": 8192, "rope_theta": 10000.0},
    "glm-4-9b-chat": _GLM4,
    "glm-4-9b-chat-1m": {**_GLM4, "kv_heads": 4, "rope_theta": 1e8, "max_positions": 1048576},
    "glm-4-0414-9b": _GLM4_0414,
    "glm-4-0414-32b": {
        **_GLM4_0414,
        "layers": 61,
        "hidden": 6144,
        "heads": 48,
        "head_dim": 128,
        "ffn_hidden": 23040,
        "bias": "none",
    },
    "glm-4-0.4b": {**_GLM4_SMALL, "layers": 24, "hidden": 1024, "ffn_hidden": 2816},
    "glm-4-1.5b": {**_GLM4_SMALL, "layers": 28, "hidden": 2048, "ffn_hidden": 5632},
    # Trained by this repository; recipes/nano chooses its mask and the positions of its spans.
    "nano": {
        "vocab_size": 8192,
        "layers": 8,
        "hidden": 256,
        "heads": 4,
        "kv_heads": 2,
        "ffn_hidden": 704,
        "max_positions": 1024,
        "qk_norm": True,
        "tokens": SpecialTokens(pad=0, mask=1, gmask=2, smask=3, sop=4, eop=5, stop=(5, 7, 9)),
    },
}


def model_preset(name: str, **overrides: Any) -> ModelConfig:
    """The configuration of a named size, with some options changed. Raises ValueError that lists the names."""
    require(name in PRESETS, "model", name, f"unknown preset; known: {', '.join(PRESETS)}")
    return from_dict(ModelConfig, {**_plain(PRESETS[name]), **overrides}, "model.")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) and not isinstance(v, type) else v
        for k, v in values.items()
    }
