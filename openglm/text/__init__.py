"""Text to token ids and back: the tokenizer of our own models and the one chat renderer."""

from openglm.text.tokenizer import SPECIAL_TOKENS, Tokenizer, load_tokenizer, train_tokenizer

__all__ = ["SPECIAL_TOKENS", "Tokenizer", "load_tokenizer", "train_tokenizer"]
