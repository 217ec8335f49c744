"""The last step of the recipe: the bundled `nano`, in int8. python recipes/nano/publish.py [PRETRAINED FOLDER] [TUNED FOLDER]

Its weights lie three quarters of the way from the pre-trained to the tuned ones (WiSE-FT, arXiv 2109.01903): it chats about as well as the tuned model and has forgotten
less of plain text.
"""

import sys

import torch

from openglm.checkpoints.load import load_model
from openglm.checkpoints.native import ASSETS, save_model
from openglm.quant.layers import quantize_model
from openglm.text.load import load_tokenizer

SHARE = 0.75

pretrained, tuned = sys.argv[1:] or ("runs/nano/finish/model", "runs/nano/sft/model")
model = load_model(pretrained, device="cpu")
with torch.no_grad():
    for weight, aim in zip(model.parameters(), load_model(tuned, device="cpu").parameters(), strict=True):
        weight.lerp_(aim, SHARE)
print(save_model(ASSETS / "nano", quantize_model(model, 8, 64), load_tokenizer(tuned)))
