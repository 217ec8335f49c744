"""Calibrated quantization: codes that make a layer's outputs, on real text, rather than its weights least wrong (GPTQ,
arXiv 2210.17323).

Columns are rounded one after another; the error of each is made up for by the columns still to come, by the second
moments of the
layer's inputs. Blocks are done in order, each on what the quantized blocks before it give. Memory: the calibration
rows' hidden states and
one square matrix [I, I] for each kind of input of one block.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from openglm.config import ModelConfig
from openglm.quant.codes import check_format, fitting_format, nearest_codes, pack, quantize
from openglm.quant.layers import QuantizedLinear

_DAMPING = 0.01  # of the mean diagonal, added to it: the paper's value
_FEWEST_TOKENS = 256
_LINEAR = (nn.Linear, QuantizedLinear)  # int8 codes may become int4


def quantize_calibrated(weight_OI: Tensor, hessian_II: Tensor, bits: int, group: int = 0) -> tuple[Tensor, Tensor]:
    """Codes and scales of a matrix for inputs x with sum of x x^T = `hessian_II`. Scales are searched as in `quantize`,
    on the corrected weights.
    """
    rows, columns = weight_OI.shape
    check_format(bits, group, columns)
    group = group or columns
    factor = _inverse_factor(hessian_II)
    work, codes = weight_OI.float().clone(), torch.empty(rows, columns, dtype=torch.int8)
    scales = torch.empty(rows, columns // group, dtype=torch.float16)
    for number, first in enumerate(range(0, columns, group)):
        last, errors = first + group, torch.empty(rows, group)
        _, scale = quantize(work[:, first:last], bits)
        for column in range(first, last):
            codes[:, column] = nearest_codes(work[:, column, None], scale[:, 0], bits)[:, 0]
            rounded = codes[:, column].float() * scale[:, 0].float()
            errors[:, column - first] = error = (work[:, column] - rounded) / factor[column, column]
            work[:, column:last] -= error[:, None] * factor[column, column:last]
        work[:, last:] -= errors @ factor[first:last, last:]
        scales[:, number] = scale[:, 0]
    return (pack(codes) if bits == 4 else codes), scales


def _inverse_factor(hessian_II: Tensor) -> Tensor:
    """Upper Cholesky factor of the damped inverse: row i says how an error in column i is best made up for by the later
    columns.
    """
    hessian = hessian_II.double().clone()
    diagonal = hessian.diagonal()
    diagonal += max(_DAMPING * float(diagonal.mean()), 1e-8)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True).float()


@torch.no_grad()
def calibrate_blocks(
    model: nn.Module,
    ids_BT: Tensor,
    positions_B2T: Tensor,
    mask: Tensor | None,
    bits: int,
    group: int,
    advance: Callable[[], object] = lambda: None,
) -> None:
    """Quantize the linear layers of a Transformer's blocks in place, calibrated on token rows; `advance` is called
    after each block.

    Not here: embedding and output layer; the Hessians of their inputs would not pay for the square of the vocabulary.
    Raises ValueError for too little text.
    """
    if ids_BT.numel() < _FEWEST_TOKENS:
        raise ValueError(
            f"calibrate: {ids_BT.numel()} tokens of text; at least {_FEWEST_TOKENS} are needed, some ten thousand "
            "are good"
        )
    hidden = model.embed(ids_BT, positions_B2T)
    same_input = _same_input(model.config)
    for block in model.blocks:
        run = partial(_run_block, model, block, positions=positions_B2T, mask=mask)
        hessians = _input_hessians(block, run, hidden, same_input)
        for name, layer in [(n, m) for n, m in block.named_modules() if isinstance(m, _LINEAR)]:
            parent, _, leaf = name.rpartition(".")
            kind = fitting_format(layer.weight.shape[1], bits, group)
            codes, scales = quantize_calibrated(layer.weight.detach(), hessians[same_input[leaf]], *kind)
            setattr(block.get_submodule(parent), leaf, QuantizedLinear.holding(layer, codes, scales))
        hidden = run(hidden)
        advance()


def _run_block(
    model: nn.Module, block: nn.Module, hidden_BTH: Tensor, positions: Tensor, mask: Tensor | None
) -> Tensor:
    """One block over all rows, row by row: the memory of one row's activations."""
    outputs = []
    for i in range(len(hidden_BTH)):
        angles = None if model.rotary is None else model.rotary.angles(positions[i : i + 1])
        outputs.append(
            block(hidden_BTH[i : i + 1], model.rotary, angles, None if mask is None else mask[i : i + 1], None)
        )
    return torch.cat(outputs)


def _same_input(config: ModelConfig) -> dict[str, str]:
    """For each matrix of a layer the first that reads what it reads, both by the end of their names."""
    first: dict[str, str] = {}
    leaves = [(matrix.name.rpartition(".")[2], matrix.reads) for matrix in config.layer_matrices()]
    return {leaf: first.setdefault(reads, leaf) for leaf, reads in leaves}


def _input_hessians(
    block: nn.Module, run: Callable[[Tensor], Tensor], hidden: Tensor, same_input: dict[str, str]
) -> dict[str, Tensor]:
    """Sum of x x^T over the inputs x of each linear layer, by the layer's own name; layers with the same input share
    it.
    """
    sums: dict[str, Tensor] = {}

    def add(leaf: str, inputs: tuple[Tensor]) -> None:
        x = inputs[0].flatten(0, -2).float()
        sums[leaf] = sums[leaf] + x.T @ x if leaf in sums else x.T @ x

    leaves = [
        (name.rpartition(".")[2], module) for name, module in block.named_modules() if isinstance(module, _LINEAR)
    ]
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, leaf=leaf: add(leaf, inputs))
        for leaf, module in leaves
        if same_input[leaf] == leaf
    ]
    run(hidden)
    for hook in hooks:
        hook.remove()
    return sums
