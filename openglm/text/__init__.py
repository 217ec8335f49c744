"""Text to token ids and back: tokenizers, ours and the published ones, the one chat renderer and its inverse."""

from openglm.text.bpe_training import train_tokenizer
from openglm.text.load import load_tokenizer
from openglm.text.native import SPECIAL_TOKENS
from openglm.text.tokenizer import Tokenizer

__all__ = ["SPECIAL_TOKENS", "Tokenizer", "load_tokenizer", "train_tokenizer"]
