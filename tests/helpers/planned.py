"""A network that the papers on large runs give figures for."""

from openglm.config import ModelConfig


def gpt(layers=96, hidden=12288, heads=96, vocab=51200):
    """GPT-3's shape, or another of its kind."""
    return ModelConfig(
        vocab_size=vocab,
        layers=layers,
        hidden=hidden,
        heads=heads,
        ffn_hidden=4 * hidden,
        activation="gelu",
        norm="layernorm",
        bias="all",
    )
