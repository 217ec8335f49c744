"""Write a model as one GGUF file that llama.cpp loads. GGUF files are not read here.

llama.cpp runs two networks of the family: `chatglm` (ChatGLM2, ChatGLM3, GLM-4-9B: pre-norm) and `glm4` (GLM-4-0414:
sandwich norms), both causal, RMSNorm, SwiGLU, rotary pairs in the first part of each head; others are refused. Its
rotation takes pairs that lie side by side, as ours does, so no row of a matrix is moved; queries, keys and
values are laid one under another, and so are gate and up.
Norms and biases stay in fp32. The `gguf` package (extra `convert`) knows the container and the block formats.
"""

import contextlib
import math
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openglm.checkpoints.gguf_vocabulary import add_vocabulary
from openglm.checkpoints.published import RUNS
from openglm.config import ModelConfig, Yarn, require
from openglm.files import replacing
from openglm.model.transformer import Transformer
from openglm.text.tokenizer import Tokenizer

try:
    from gguf import (
        GGML_QUANT_SIZES,
        GGML_QUANT_VERSION,
        GGMLQuantizationType,
        GGUFWriter,
        LlamaFileType,
        RopeScalingType,
        quants,
    )
except ImportError as error:
    raise ValueError(
        f"to write GGUF, {error.name} is needed and not installed; run: pip install 'openglm[convert]'"
    ) from None

Shape = tuple[int, ...]

_KINDS = ("f16", "q8_0", "q4_0")
_ARCHITECTURES = {"pre": "chatglm", "sandwich": "glm4"}  # by the residual form

# llama.cpp's names and ours, without `.weight` and `.bias`; several of ours are laid one under another.
_TABLES = {"token_embd": ("embedding",), "output_norm": ("final_norm",), "output": ("head",)}
_BLOCK = {
    "attn_norm": ("attention_norm",),
    "attn_qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attn_output": ("attention.o_proj",),
    "post_attention_norm": ("attention_post_norm",),
    "ffn_norm": ("ffn_norm",),
    "ffn_up": ("ffn.gate_proj", "ffn.up_proj"),
    "ffn_down": ("ffn.down_proj",),
    "post_ffw_norm": ("ffn_post_norm",),
}
_STRANGERS = "the weights and the configuration do not belong together"
_CHUNK = 1 << 20  # numbers turned into their stored form at a time


def write_gguf(
    path: Path | str,
    weights: Mapping[str, Tensor],
    config: ModelConfig,
    tokenizer: Tokenizer | None = None,
    kind: str = "f16",
) -> Path:
    """Write `path` in one go; an earlier file stays until the new one is whole.

    weights: by our parameter names, such as dict(model.named_parameters()), or a mapping that reads them from a disk:
    each is asked for once, and only one is held, beside its stored form. tokenizer: None gives a file that takes and
    yields ids alone.
    kind: f16, q8_0 or q4_0, where the matrix that makes the logits stays q8_0; rows that are no multiple of 32 stay
    f16.
    Raises ValueError (one line) for a network that llama.cpp has not got, a tensor that is missing, of another shape or
    not finite, and a full disk.
    """
    require(kind in _KINDS, "kind", kind, f"choose one of {', '.join(_KINDS)}")
    _check_network(config)
    with torch.device("meta"):
        shapes = {name: tuple(weight.shape) for name, weight in Transformer(config).named_parameters()}
    for name in sorted(shapes.keys() ^ weights.keys()):
        raise ValueError(f"tensor {name!r} is {'missing' if name in shapes else 'unknown'}; {_STRANGERS}")
    placed = dict(layout(config.layers, shapes))
    stored = {name: _stored(name, shapes[sources[0]], kind, config.tied) for name, sources in placed.items()}
    with replacing(path) as beside, contextlib.closing(GGUFWriter(beside, _ARCHITECTURES[config.residual])) as writer:
        _add_shape(writer, config)
        writer.add_file_type(LlamaFileType[f"MOSTLY_{kind.upper()}"])
        writer.add_quantization_version(GGML_QUANT_VERSION)
        add_vocabulary(writer, tokenizer, config)
        for name, sources in placed.items():
            shape = (sum(shapes[source][0] for source in sources), *shapes[sources[0]][1:])
            writer.add_tensor_info(name, shape, np.dtype(np.float32), _bytes(shape, stored[name]), stored[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, sources in placed.items():
            writer.write_tensor_data(_data(sources, weights, shapes, stored[name]))
    return Path(path)


def _check_network(config: ModelConfig) -> None:
    known = "llama.cpp runs ChatGLM2, ChatGLM3, GLM-4-9B and GLM-4-0414 alone; keep this model in our own format"
    for option, values in {**RUNS, "rope_fp16_frequencies": (False,)}.items():
        require(getattr(config, option) in values, f"model.{option}", getattr(config, option), known)
    require(config.yarn.truncate, "model.yarn.truncate", False, known)
    width = config.heads * config.head_dim
    require(
        config.residual == "sandwich" or width == config.hidden,
        "model.head_dim",
        config.head_dim,
        f"llama.cpp's chatglm needs heads * head_dim = hidden ({config.hidden})",
    )


def layout(layers: int, names: Container[str]) -> Iterator[tuple[str, list[str]]]:
    """Every tensor of a file, with those of our `names` that lie in it one under another."""
    parts: list[tuple[str, str, Mapping[str, tuple[str, ...]]]] = [("", "", _TABLES)]
    parts += ((f"blk.{layer}.", f"blocks.{layer}.", _BLOCK) for layer in range(layers))
    for there, here, table in parts:
        for name, ours in table.items():
            for leaf in ("weight", "bias"):
                sources = [f"{here}{part}.{leaf}" for part in ours]
                if sources[0] in names:
                    yield f"{there}{name}.{leaf}", sources


def _add_shape(writer: GGUFWriter, config: ModelConfig) -> None:
    writer.add_type("model")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden)
    writer.add_feed_forward_length(config.ffn_hidden)
    writer.add_block_count(config.layers)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.turned)
    writer.add_rope_freq_base(config.rope_theta)
    if (yarn := config.yarn).factor > 1:
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(yarn.factor)
        writer.add_rope_scaling_orig_ctx_len(yarn.original_positions)
        writer.add_rope_scaling_yarn_beta_fast(yarn.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(yarn.beta_slow)
        # llama.cpp multiplies by the usual length itself.
        writer.add_rope_scaling_attn_factors(yarn.attention_factor / Yarn(yarn.factor, 1).attention_factor)


def _stored(name: str, shape: Shape, kind: str, tied: bool) -> GGMLQuantizationType:
    """The type of a tensor in the file."""
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    if kind == "q4_0" and name == ("token_embd.weight" if tied else "output.weight"):
        kind = "q8_0"  # logits suffer most; llama.cpp too spends more bits here
    wanted = GGMLQuantizationType[kind.upper()]
    return wanted if shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0 else GGMLQuantizationType.F16


def _bytes(shape: Shape, stored: GGMLQuantizationType) -> int:
    block, size = GGML_QUANT_SIZES[stored]
    return math.prod(shape) // block * size


def _data(
    sources: list[str], weights: Mapping[str, Tensor], shapes: Mapping[str, Shape], stored: GGMLQuantizationType
) -> np.ndarray:
    """The bytes of one tensor of the file."""
    sizes = [_bytes(shapes[source], stored) for source in sources]
    data = np.empty(sum(sizes), np.uint8)
    for source, part in zip(sources, np.split(data, np.cumsum(sizes)[:-1]), strict=True):
        _encode(source, weights[source].detach(), shapes[source], stored, part)
    return data


def _encode(name: str, tensor: Tensor, shape: Shape, stored: GGMLQuantizationType, out: np.ndarray) -> None:
    """Fill `out` with the stored form of one of our tensors, some rows at a time."""
    if tuple(tensor.shape) != shape or not tensor.is_floating_point():
        raise ValueError(
            f"tensor {name!r} has shape {list(tensor.shape)} of {tensor.dtype}, not {list(shape)} of floats; "
            f"{_STRANGERS}"
        )
    largest = torch.finfo(torch.float16 if stored == GGMLQuantizationType.F16 else torch.float32).max
    step, out = max(1, _CHUNK // math.prod(shape[1:])), out.reshape(shape[0], -1)
    for start in range(0, shape[0], step):
        rows = tensor[start : start + step].to("cpu", torch.float32).contiguous()
        low, high = map(float, rows.aminmax())
        require(
            -largest <= low and high <= largest,
            f"tensor {name!r}",
            high if low >= -largest else low,
            f"not finite, or beyond {stored.name}; no file was written",
        )
        out[start : start + step] = quants.quantize(rows.numpy(), stored).view(np.uint8).reshape(len(rows), -1)
