"""Rewrite a checkpoint as ours, in the layout that `transformers` and vLLM load, or as GGUF for llama.cpp: matrix after
matrix, types kept unless others are asked for. Nothing is computed with the network.
"""

import dataclasses
import itertools
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from openglm.checkpoints.adapters import fold, prefix_tensors, read_adapter
from openglm.checkpoints.layouts import LAYOUTS, Leaves, Weights, to_layout
from openglm.checkpoints.library import write_library_files
from openglm.checkpoints.load import Checkpoint, choose_type, open_checkpoint
from openglm.checkpoints.native import CONFIG, TYPES, write_model, write_tensors
from openglm.checkpoints.published import hf_config
from openglm.config import SpecialTokens, require
from openglm.files import write_folder, write_json
from openglm.model.adapters import Prefix
from openglm.runtime import progress, say
from openglm.text.beside import GENERATION, read_beside
from openglm.text.generation import settled
from openglm.text.load import load_tokenizer
from openglm.text.published import find
from openglm.text.tokenizer import Tokenizer

TARGETS = ("openglm", "hf", "gguf")
_GGUF_KINDS = ("f16", "q8_0", "q4_0")
_SHOWN = 1 << 30  # bytes; a larger checkpoint takes long enough for a progress bar
# Files of a tokenizer, which go along as they are. Code never does.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "ice_text.model",
    "cog-pretrain.model",
    "vocab.json",
    "merges.txt",
)


def convert(
    source: Path | str,
    out: Path | str,
    to: str,
    dtype: str | None = None,
    config: str | None = None,
    format: str | None = None,
    adapter: str | None = None,
) -> Path:
    """Write `out`, a folder (for gguf a file), in one go; returns its path.

    dtype: float32, float16 or bfloat16 for weights that are not codes, None keeps each tensor's own; for gguf f16
    (None), q8_0 or q4_0.
    config, format: as for `load_model`. adapter: folder of a LoRA, which is folded into the weights, or of a prefix,
    which is written beside them. Raises ValueError for a network that the target cannot hold, and all that `load_model`
    raises.
    """
    require(to in TARGETS, "to", to, f"choose one of {', '.join(TARGETS)}")
    kinds = _GGUF_KINDS if to == "gguf" else TYPES
    require(dtype is None or dtype in kinds, "dtype", dtype, f"{to} holds {', '.join(kinds)}")
    checkpoint, out = open_checkpoint(source, config, verify=True, format=format), Path(out).resolve()
    _add(checkpoint, adapter)
    tokenizer = load_tokenizer(checkpoint.folder, format) if find(checkpoint.folder) else None
    if tokenizer:
        checkpoint = _settled(checkpoint, tokenizer)
    if to == "gguf":
        return _write_gguf(checkpoint, out, dtype or "f16", tokenizer)
    kind = choose_type(checkpoint.config, checkpoint.source.dtype, torch.device("cpu"), dtype) if dtype else None
    if to == "openglm":
        named = itertools.chain(_named(_shown(checkpoint)), checkpoint.source.prefix())
        return write_model(out, checkpoint.config, named, tokenizer, kind, checkpoint.family)
    _require_whole(checkpoint, to)
    description = hf_config(checkpoint.config, str(kind or checkpoint.source.dtype).removeprefix("torch."))

    def fill(target: Path) -> None:
        write_tensors(target, to_layout(_shown(checkpoint), LAYOUTS["hf"], checkpoint.config), kind)
        write_json(target / CONFIG, description)
        if tokenizer:
            _copy_tokenizer(checkpoint.folder, target, checkpoint.config.tokens, tokenizer)

    return write_folder(out.parent, out.name, fill)


def _settled(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Checkpoint:
    """Weights are worth converting with a wrong tokenizer beside them, but not without a word."""
    try:
        return dataclasses.replace(checkpoint, config=settled(checkpoint.config, tokenizer))
    except ValueError as error:
        say(f"warning: {error}")
        return checkpoint


def _add(checkpoint: Checkpoint, adapter: str | None) -> None:
    """Let the checkpoint be read with an adapter, if there is one."""
    if adapter is None:
        return
    source, added = checkpoint.source, read_adapter(adapter, checkpoint.config)
    if isinstance(added, Prefix):
        source.adapter_prefix = list(prefix_tensors(Path(adapter)))
        return
    source.change = partial(fold, added)
    again = f", which were int{source.bits}: widened, changed and quantized again" if source.bits else ""
    say(f"{adapter}: folded into {len(added.names)} matrices{again}")


def _copy_tokenizer(folder: Path, target: Path, tokens: SpecialTokens, tokenizer: Tokenizer) -> None:
    """`transformers` gets the files as they are, or those that it needs in place of code."""
    for name in (*_TOKENIZER_FILES, GENERATION):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    sampling = {**tokenizer.format.sampling.described(), "pad_token_id": tokens.pad, **read_beside(folder, GENERATION)}
    write_json(target / GENERATION, {**sampling, "eos_token_id": [*tokens.stop]})
    if not (target / "tokenizer.json").is_file():
        write_library_files(target, tokenizer)


def _shown(checkpoint: Checkpoint) -> Iterator[tuple[str, Leaves]]:
    with progress("converting", len(checkpoint.source.ours), "matrices", checkpoint.nbytes > _SHOWN) as advance:
        for item in checkpoint.source.modules():
            yield item
            advance()


def _named(modules: Iterator[tuple[str, Leaves]]) -> Iterator[tuple[str, Tensor]]:
    return ((f"{path}.{leaf}", tensor) for path, leaves in modules for leaf, tensor in leaves.items())


def _require_whole(checkpoint: Checkpoint, to: str) -> None:
    """Refuse what the target cannot hold."""
    bits, prefix = checkpoint.source.bits, any(checkpoint.source.prefix())
    for there, what, remedy in (
        (bits, f"int{bits} codes", "convert the checkpoint that was not quantized, or to openglm"),
        (prefix, "a P-Tuning prefix", "convert to openglm, or a folder without the tensors prefix_encoder.*"),
        (checkpoint.config.score, "a layer for scores, as reward models have", "convert to openglm"),
    ):
        require(not there, "source", str(checkpoint.folder), f"holds {what}, which {to} has no form for; {remedy}")


def _write_gguf(checkpoint: Checkpoint, out: Path, kind: str, tokenizer: Tokenizer | None) -> Path:
    from openglm.checkpoints.gguf import write_gguf

    _require_whole(checkpoint, "gguf")
    out.parent.mkdir(parents=True, exist_ok=True)
    return write_gguf(out, Weights(checkpoint.source), checkpoint.config, tokenizer, kind)
