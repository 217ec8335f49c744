"""`ModelConfig.matrices`, from which weights are counted, cut and quantized, is the list of the real network's matrices."""

import pytest
import torch
from torch import nn

from openglm.model.transformer import Transformer
from openglm.presets import PRESETS, model_preset


def meta(name: str) -> Transformer:
    with torch.device("meta"):
        return Transformer(model_preset(name))


@pytest.mark.parametrize("name", PRESETS)
def test_it_lists_the_parameters_of_the_network(name):
    network = meta(name)
    listed = network.config.matrices()
    assert all(matrix.name == key for key, matrix in listed.items())
    expected = {f"{key}.weight": (matrix.rows, matrix.columns) for key, matrix in listed.items()}
    expected |= {f"{key}.bias": (matrix.rows,) for key, matrix in listed.items() if matrix.bias}
    shapes = {key: tuple(weight.shape) for key, weight in network.named_parameters() if "norm" not in key}
    assert shapes == expected


@pytest.mark.parametrize("name", PRESETS)
def test_matrices_that_read_the_same_have_the_same_input(name):
    """Run on random hidden states: the inputs of a layer's products are the same tensor, or another one."""
    shape = dict(layers=1, hidden=32, heads=4, kv_heads=2, head_dim=8, ffn_hidden=48, vocab_size=64, max_positions=16)
    config = model_preset(name, **shape, tokens={"mask": 1, "gmask": 2, "sop": 3})
    network, seen = Transformer(config), {}
    for key, module in network.blocks[0].named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs, key=key: seen.update({key: inputs[0]}))
    network.logits(torch.tensor([[9, 10, 11, 2, 3, 12]]))
    matrices = config.layer_matrices()
    assert seen.keys() == {matrix.name for matrix in matrices}
    for one in matrices:
        for other in matrices:
            assert (seen[one.name] is seen[other.name]) == (one.reads == other.reads), (one.name, other.name)


@pytest.mark.parametrize("tied", [True, False])
def test_the_matrix_of_the_logits_keeps_more_bits(tied):
    matrices = model_preset("nano", tied=tied, positions="learned_2d").matrices()
    bits = {key: matrix.quantized_bits(4) for key, matrix in matrices.items() if not key.startswith("blocks.")}
    others = {"position_embedding": 0, "block_position_embedding": 0}
    assert bits == ({"embedding": 8, **others} if tied else {"embedding": 4, "head": 8, **others})
    assert {matrix.quantized_bits(4) for key, matrix in matrices.items() if key.startswith("blocks.")} == {4}
