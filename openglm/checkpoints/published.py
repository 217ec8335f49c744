"""What a published `config.json` (or the arguments of a training run) says, as a `ModelConfig`; and the way back, for
`transformers`.

Each generation is a preset plus what its configuration names. An option that would need another network is refused,
never passed over.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

from openglm.checkpoints.native import model_config
from openglm.config import ModelConfig, SpecialTokens, Yarn, from_dict, require, shown
from openglm.presets import PRESETS
from openglm.text.beside import GENERATION, declared_ends, read_beside
from openglm.text.generation import chatglm_generation, require_generation

# Names of the same thing in the configurations of all generations; where two stand together the later one counts.
_OPTIONS = {
    "num_layers": "layers",
    "num_hidden_layers": "layers",
    "hidden_size": "hidden",
    "num_attention_heads": "heads",
    "inner_hidden_size": "ffn_hidden",
    "ffn_hidden_size": "ffn_hidden",
    "intermediate_size": "ffn_hidden",
    "multi_query_group_num": "kv_heads",
    "num_key_value_heads": "kv_heads",
    "kv_channels": "head_dim",
    "head_dim": "head_dim",
    "max_sequence_length": "max_positions",
    "seq_length": "max_positions",
    "max_position_embeddings": "max_positions",
    "vocab_size": "vocab_size",
    "padded_vocab_size": "vocab_size",
    "layernorm_epsilon": "norm_eps",
    "rms_norm_eps": "norm_eps",
    "rope_theta": "rope_theta",
}
# What every network of these generations has in common with its siblings; another value asks for another network.
_FIXED = {
    "add_bias_linear": False,
    "rmsnorm": True,
    "post_layer_norm": True,
    "apply_residual_connection_post_layernorm": False,
    "block_position_encoding": True,
    "relative_encoding": False,
    "attention_scale": 1.0,
    "hidden_act": "silu",
    "layernorm_order": "post",
}
# What transformers' classes glm and glm4 take where their configuration leaves it out.
_HF_DEFAULTS = {
    "attention_bias": True,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-07,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
}
_YARN = {
    "factor": "factor",
    "original_max_position_embeddings": "original_positions",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
    "truncate": "truncate",
}
_ROPE = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "mscale", "mscale_all_dim", *_YARN}
_KNOWN = "ChatGLM-6B (both releases), ChatGLM2-6B, ChatGLM3-6B, GLM-4-9B (chatglm or glm), GLM-4-0414 (glm4), GLM-10B (glm), GLM-130B"
# GLM-10B's special tokens follow <|endoftext|>, which is also its padding, at these offsets.
_GLM10B_OFFSETS = {
    "glm-10b": {"pad": 0, "sop": 1, "eop": 2, "mask": 4, "gmask": 7, "smask": 8},
    "glm-10b-chinese": {"pad": 0, "mask": 3, "sop": 6, "eop": 7, "smask": 8, "gmask": 9},
}
# What transformers' classes glm and glm4 run, and llama.cpp, by our options.
RUNS: dict[str, tuple[Any, ...]] = {
    "norm": ("rmsnorm",),
    "activation": ("swiglu",),
    "positions": ("rope_half",),
    "mask": ("causal",),
    "bias": ("qkv", "none"),
    "residual": ("pre", "sandwich"),
    "qk_norm": (False,),
}
_HF_NAMES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
)
_HF_KNOWS = "transformers runs ChatGLM2, ChatGLM3, GLM-4-9B (glm) and GLM-4-0414 (glm4) without their own code, no others; convert to openglm instead"
_RESIZED = 0.02  # of a published table
_SAT_TOKENS = {"MASK": "mask", "gMASK": "gmask", "sMASK": "smask", "sop": "sop", "eop": "eop"}


def recognize(
    values: dict[str, Any], sharded: bool = False, folder: Path | None = None, format: str | None = None
) -> tuple[str, ModelConfig]:
    """The generation (a preset's name) and the network that a configuration describes. sharded: it stands for the files
    of a training run. folder: what lies there helps to tell the generation. format: that of conversations, which tells
    ChatGLM2 from ChatGLM3.

    Raises ValueError for an unknown generation, and for an option that asks for another network.
    """
    quantized = values.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else "unknown"
        require(
            False,
            "config.quantization_config",
            method,
            "codes of this kind are not read; give the model's whole weights, and --quantize int4 or glm quantize",
        )
    name = _generation(values, folder, format)
    library = name.startswith("glm-4") and values["model_type"] != "chatglm"  # a class of transformers
    rotary = _rotary(_HF_DEFAULTS | values)
    if library:
        values = _HF_DEFAULTS | values
    else:
        plain = "yarn" not in rotary and rotary["rotary_factor"] == 0.5
        asked = values.get("rope_scaling") or values.get("partial_rotary_factor")
        require(plain, "config.rope_scaling", asked, f"asks for another network than {name} is")
    options = {ours: values[theirs] for theirs, ours in _OPTIONS.items() if values.get(theirs) is not None}
    for option, value in values.items():
        require(
            value == _FIXED.get(option, value),
            f"config.{option}",
            value,
            f"asks for another network than {name} is; known: {_FIXED.get(option)!r}",
        )
    if PRESETS[name].get("mask") == "causal":
        options |= _causal(name, values, rotary)
    elif name in _GLM10B_OFFSETS:
        options.setdefault("ffn_hidden", 4 * _number(values, "hidden_size"))
        # The released class has the exact GELU, the code that trained the weights the tanh form.
        options["activation"] = "gelu_tanh" if sharded else "gelu"
    base = {key: value for key, value in PRESETS[name].items() if key not in ("kv_heads", "head_dim")}
    ends = declared_ends(values, read_beside(folder, GENERATION) if folder else {})
    tokens = dataclasses.asdict(_tokens(name, values, ends))
    return name, model_config({**base, **options, "tokens": tokens}, "config.json")


def _generation(values: dict[str, Any], folder: Path | None, format: str | None) -> str:
    """By the options that no other generation has, and by the folder where several share them."""
    kind, vision = values.get("model_type"), "vision_config" in values
    if kind in ("glm", "glm4") and "num_hidden_layers" in values:
        return "glm-4-0414-9b" if kind == "glm4" else "glm-4-9b-chat"
    if kind in ("chatglm", None) and "inner_hidden_size" in values:
        release = "chatglm-6b" if values.get("gmask_token_id") is not None else "chatglm-6b-first"
        return "glm-130b" if kind is None else release
    if kind in ("glm", None) and "num_layers" in values:
        chinese = (
            values.get("vocab_size") == PRESETS["glm-10b-chinese"]["vocab_size"]
            or _end_offset(values) == _GLM10B_OFFSETS["glm-10b-chinese"]["eop"]
        )
        return "glm-10b-chinese" if chinese else "glm-10b"
    if kind == "chatglm" and "ffn_hidden_size" in values and not vision:
        name = chatglm_generation(folder, values, format)
        if values.get("rope_ratio", 1) != 1:  # it means another thing in each
            require_generation(name, str(folder or "config.json"))
        return "glm-4-9b-chat" if name == "glm-4" else name or "chatglm2-6b"
    raise ValueError(
        f"model_type = {shown(kind)}{' with a vision part' if vision else ''}: an unknown generation; known: {_KNOWN}"
    )


def _causal(name: str, values: dict[str, Any], rotary: dict[str, Any]) -> dict[str, Any]:
    """Options of ChatGLM2 and later that are not a number by another name."""
    if values["model_type"] != "chatglm":
        return {
            "bias": "qkv" if values["attention_bias"] else "none",
            "tied": bool(values.get("tie_word_embeddings", False)),
            **rotary,
        }
    ratio = values.get("rope_ratio", 1)
    require(
        ratio == 1 or name != "chatglm2-6b",
        "config.rope_ratio",
        ratio,
        "ChatGLM2 divides positions by it, later models multiply the base; positions that are divided are not read",
    )
    options = {
        "bias": "qkv" if values.get("add_qkv_bias") else "none",
        "rope_theta": 10000.0 * _number({"rope_ratio": 1, **values}, "rope_ratio"),
    }
    return options if values.get("multi_query_attention") else {**options, "kv_heads": 0}


def _rotary(values: dict[str, Any]) -> dict[str, Any]:
    """Options of the rotary embedding, as transformers reads them. Raises ValueError for another form than YaRN."""
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    require(isinstance(rope, dict), "config.rope_scaling", rope, "must be a table")
    for option in rope:
        require(option in _ROPE, "config.rope_scaling", option, "unknown; it may ask for another network")
    rope = {key: values[key] for key in ("rope_theta", "partial_rotary_factor")} | rope
    options = {"rope_theta": rope["rope_theta"], "rotary_factor": _number(rope, "partial_rotary_factor")}
    kind, trained = rope.get("rope_type", rope.get("type", "default")), _number(values, "max_position_embeddings")
    require(kind in ("default", "yarn"), "config.rope_scaling", kind, "asks for another network; known: default, yarn")
    if kind == "default":
        return options
    rope = {"original_max_position_embeddings": trained} | rope
    original = _number(rope, "original_max_position_embeddings")
    given = {ours: rope[theirs] for theirs, ours in _YARN.items() if rope.get(theirs) is not None}
    yarn = from_dict(Yarn, {"factor": trained / max(original, 1), **given}, "model.yarn.")
    if rope.get("mscale") and rope.get("mscale_all_dim") and "attention_factor" not in given:
        lengths = [0.1 * _number(rope, name) * math.log(yarn.factor) + 1 for name in ("mscale", "mscale_all_dim")]
        yarn = dataclasses.replace(yarn, attention_factor=lengths[0] / lengths[1])
    # A configuration extended by hand keeps the trained context in max_position_embeddings.
    longer = trained if trained > original else int(original * yarn.factor)
    return {**options, "max_positions": longer, "yarn": dataclasses.asdict(yarn)}


def _tokens(name: str, values: dict[str, Any], ends: tuple[int, ...]) -> SpecialTokens:
    """Special tokens. Ids that a configuration leaves out are known for the published vocabulary, also where its table
    has got more rows, or fewer of padding."""
    rows, known = values.get("padded_vocab_size", values.get("vocab_size")), PRESETS[name]
    near = isinstance(rows, int) and abs(rows / known["vocab_size"] - 1) < _RESIZED
    published = known["tokens"] if near else SpecialTokens()
    found = {
        ours: values[theirs]
        for theirs, ours in (("pad_token_id", "pad"), ("mask_token_id", "mask"), ("gmask_token_id", "gmask"))
        if values.get(theirs) is not None
    }
    if name.startswith("chatglm-6b"):
        found |= {"sop": _number(values, "bos_token_id"), "eop": _number(values, "eos_token_id")}
        if name == "chatglm-6b-first":
            found |= {"mask": found["sop"] - 4, "gmask": found["sop"] - 3}
    elif name in _GLM10B_OFFSETS:
        first = _number({"pad_token_id": published.pad, **values}, "pad_token_id")
        require(
            first >= 0,
            "config.pad_token_id",
            first,
            "must be the id of <|endoftext|>, from which the other special tokens follow",
        )
        found = {ours: first + offset for ours, offset in _GLM10B_OFFSETS[name].items()}
        ends = (found["eop"], first)
    elif isinstance(values.get("special"), dict):
        found = {ours: values["special"][theirs] for theirs, ours in _SAT_TOKENS.items() if theirs in values["special"]}
    return dataclasses.replace(published, **found, stop=tuple(dict.fromkeys((*ends, *published.stop))))


def _end_offset(values: dict[str, Any]) -> int | None:
    """How far the end of a GLM-10B answer stands behind its padding."""
    pad, end = values.get("pad_token_id"), values.get("eos_token_id")
    return end - pad if isinstance(pad, int) and isinstance(end, int) else None


def _number(values: dict[str, Any], option: str) -> Any:
    value = values.get(option)
    require(
        isinstance(value, (int, float)) and not isinstance(value, bool), f"config.{option}", value, "must be a number"
    )
    return value


def hf_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """The `config.json` with which transformers' GlmForCausalLM or Glm4ForCausalLM (and vLLM) run this network. Raises
    ValueError where neither can."""
    for option, can in RUNS.items():
        value = getattr(config, option)
        require(value in can, f"model.{option}", value, _HF_KNOWS)
    kind = "glm4" if config.residual == "sandwich" else "glm"
    rope = {"rope_type": "yarn", **{theirs: getattr(config.yarn, ours) for theirs, ours in _YARN.items()}}
    tokens = {
        "eos_token_id": list(config.tokens.stop) or None,
        "pad_token_id": config.tokens.pad if config.tokens.pad >= 0 else None,
    }
    return {
        "architectures": [f"{kind.title()}ForCausalLM"],
        "model_type": kind,
        **{theirs: getattr(config, _OPTIONS[theirs]) for theirs in _HF_NAMES},
        "hidden_act": "silu",
        "partial_rotary_factor": config.rotary_factor,
        **({"rope_scaling": rope} if config.yarn.factor > 1 else {}),
        "attention_bias": config.bias == "qkv",
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tied,
        "torch_dtype": dtype,
        "use_cache": True,
        **tokens,
    }
