"""The last step of the recipe: the tuned model, in half precision, becomes the bundled `nano`. python recipes/nano/publish.py [MODEL FOLDER]"""

import sys

from openglm.checkpoints.load import load_model
from openglm.checkpoints.native import ASSETS, save_model
from openglm.text.tokenizer import load_tokenizer

source = sys.argv[1] if len(sys.argv) > 1 else "runs/nano/sft/model"
print(save_model(ASSETS / "nano", load_model(source, device="cpu"), load_tokenizer(source), dtype="float16"))
