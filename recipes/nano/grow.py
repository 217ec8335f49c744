"""Weights of an earlier nano in a larger shape and another vocabulary: python recipes/nano/grow.py MODEL TOKENIZER OUT

Nothing is unlearnt: a block that is put in between is a copy of the one before it whose outputs are zero, and added rows
of the feed-forward layers write nothing, until training goes on. A piece that the old vocabulary lacks begins as the mean of
its old pieces. So `nano` with six blocks became one with eight (its tokens are not read twice).
"""

import sys

import torch
from tokenizers import Tokenizer
from torch import Tensor

from openglm.checkpoints.load import load_model
from openglm.checkpoints.native import save_model
from openglm.files import ASSETS
from openglm.model.transformer import Transformer
from openglm.presets import model_preset
from openglm.text.load import load_tokenizer

ADDED = (2, 5)  # places of the new blocks among the eight
SPECIAL = 64  # pieces below are special tokens and single bytes: none is made of others


def main(old_name: str, tokenizer: str, out: str) -> None:
    old = load_model(old_name, device="cpu", dtype="float32")
    torch.manual_seed(0)
    new = Transformer(model_preset("nano", mask="causal", span_positions="gapped"))
    source = [at - sum(added <= at for added in ADDED) for at in range(len(new.blocks))]
    weights = old.state_dict()
    with torch.no_grad():
        for at, block in enumerate(new.blocks):
            for name, weight in block.named_parameters():
                silent = at in ADDED and name.endswith(("o_proj.weight", "down_proj.weight"))
                grow(weight, weights[f"blocks.{source[at]}.{name}"] * (not silent))
        new.final_norm.weight.copy_(old.final_norm.weight)
        embed(new.embedding.weight, old.embedding.weight, pieces(f"{ASSETS}/{old_name}"), pieces(tokenizer))
    print(save_model(out, new, load_tokenizer(tokenizer)))


def grow(weight: Tensor, old: Tensor) -> None:
    """Columns that are new read nothing, rows that are new are small and random."""
    weight.mul_(old.std() / weight.std() if len(old) < len(weight) else 0.0)
    weight[tuple(slice(size) for size in old.shape)] = old


def embed(weight_VH: Tensor, old_VH: Tensor, old: Tokenizer, new: Tokenizer) -> None:
    weight_VH.mul_(old_VH.std() / weight_VH.std())
    known = old.get_vocab()
    for piece, at in new.get_vocab().items():
        text = new.decode([at], skip_special_tokens=False)
        if piece in known:
            weight_VH[at] = old_VH[known[piece]]
        elif at >= SPECIAL and "\N{REPLACEMENT CHARACTER}" not in text:
            weight_VH[at] = old_VH[old.encode(text, add_special_tokens=False).ids].mean(0)


def pieces(folder: str) -> Tokenizer:
    return Tokenizer.from_file(f"{folder}/tokenizer.json")


if __name__ == "__main__":
    main(*sys.argv[1:])
