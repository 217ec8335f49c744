"""Rewrite a checkpoint, ours or published, with int8 or int4 weights in our own format.

Without a text, matrix after matrix: the memory is one matrix. With one, the codes of the blocks are calibrated on it
(openglm/quant/calibrate.py),
for which the whole network is held in fp32.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from openglm.checkpoints.load import Checkpoint, load_model, matrix_format, open_checkpoint
from openglm.checkpoints.native import write_model
from openglm.config import ModelConfig, require
from openglm.model.positions import describe
from openglm.quant.calibrate import calibrate_blocks
from openglm.quant.codes import check_format, quantize
from openglm.quant.layers import QuantizedEmbedding, QuantizedLinear
from openglm.runtime import progress
from openglm.text.generation import settled
from openglm.text.load import load_tokenizer
from openglm.text.published import find
from openglm.text.tokenizer import Tokenizer

_ROW, _MOST_ROWS = 512, 64  # tokens of a calibration row, and rows


def quantize_checkpoint(
    source: Path | str,
    out: Path | str,
    bits: int,
    group: int,
    calibrate: Path | str | None = None,
    config: str | None = None,
) -> Path:
    """Write the folder `out` in one go; returns its path.

    group: columns that share a scale, 0: whole rows; rows that no group divides get one scale. calibrate: a UTF-8 text
    file, some ten thousand
    tokens of what the model will read. config: as for `load_model`. Raises ValueError for weights that are codes
    already, too little text, a full disk.
    """
    check_format(bits, group, max(group, 2))
    checkpoint = open_checkpoint(source, config, verify=True)
    had = checkpoint.source.bits
    require(not had or bits < had, "source", str(source), f"holds int{had} codes already; quantize the whole weights")
    if had:
        checkpoint.source.narrow(bits)
    tokenizer = load_tokenizer(checkpoint.folder) if find(checkpoint.folder) else None
    shape = settled(checkpoint.config, tokenizer) if tokenizer else checkpoint.config
    require(
        not calibrate or tokenizer is not None,
        "calibrate",
        str(calibrate),
        f"{checkpoint.folder} has no tokenizer to read a text with; put its files there",
    )
    tensors = (
        _calibrated(source, config, bits, group, tokenizer, Path(calibrate))
        if calibrate and tokenizer
        else _plain(checkpoint, bits, group)
    )

    named = itertools.chain(tensors, checkpoint.source.prefix())
    return write_model(out, shape, named, tokenizer, family=checkpoint.family)


def _plain(checkpoint: Checkpoint, bits: int, group: int) -> Iterator[tuple[str, Tensor]]:
    with progress("quantizing", len(checkpoint.source.ours), "matrices") as advance:
        for path, leaves in checkpoint.source.modules():
            matrix = checkpoint.config.matrices().get(path)
            if matrix and matrix.quantized_bits(bits) and "weight" in leaves:
                weight = leaves.pop("weight")
                leaves["codes"], leaves["scales"] = quantize(weight, *matrix_format(matrix, bits, group))
            yield from ((f"{path}.{leaf}", tensor.contiguous()) for leaf, tensor in leaves.items())
            advance()


def _calibrated(
    source: Path | str, config: str | None, bits: int, group: int, tokenizer: Tokenizer, text: Path
) -> Iterator[tuple[str, Tensor]]:
    network = load_model(source, config=config, device="cpu", dtype="float32")
    rows = calibration_rows(tokenizer, network.config, text)
    with progress("calibrating", network.config.layers, "blocks") as advance:
        calibrate_blocks(network, rows, *describe(rows, None, network.config), bits, group, advance)
    matrices = network.config.matrices()
    network.embedding = QuantizedEmbedding.of(network.embedding, *matrix_format(matrices["embedding"], bits, group))
    if network.head is not None:
        network.head = QuantizedLinear.of(network.head, *matrix_format(matrices["head"], bits, group))
    yield from ((name, tensor) for name, tensor in network.state_dict().items() if not name.startswith("prefix."))


def calibration_rows(tokenizer: Tokenizer, config: ModelConfig, text: Path) -> Tensor:
    """[rows, tokens] of a text, each row `[gMASK] <sop>` and a piece of it: what every generation of the family reads
    before it writes.
    """
    require(text.is_file(), "calibrate", str(text), "no such file; give a text file")
    try:
        ids = tokenizer.encode(text.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"calibrate = {str(text)!r}: not UTF-8 at byte {error.start}; save the file as UTF-8"
        ) from None
    # A configuration with another vocabulary than the published one does not tell these ids.
    pairs = ((config.tokens.gmask, tokenizer.tokens.gmask), (config.tokens.sop, tokenizer.tokens.sop))
    head = [number for ours, theirs in pairs if (number := ours if ours >= 0 else theirs) >= 0]
    remedy = f"the model has {config.vocab_size} rows; the tokenizer beside it belongs to another model"
    largest = max([*ids, *head], default=0)
    require(largest < config.vocab_size, "calibrate", f"id {largest}", remedy)
    length = min(_ROW, config.max_positions) - len(head)
    whole = [ids[start : start + length] for start in range(0, max(len(ids) - length + 1, 1), length)][:_MOST_ROWS]
    return torch.tensor([head + row for row in whole])
