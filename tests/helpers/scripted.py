"""An assistant that writes what a test tells it to. Its network, engine and cache work as ever; only the choice of the next token is the test's."""

import dataclasses

import torch

from openglm.assistant import Assistant
from openglm.config import EngineConfig
from openglm.engine.engine import Engine
from openglm.model.transformer import Transformer
from openglm.presets import model_preset


def with_marks(tokenizer, text: str) -> list[int]:
    """Ids of a text in which the names of special tokens stand for the tokens, where the tokenizer has them."""
    names = [name for name in tokenizer.special if name in text]
    if not names:
        return tokenizer.encode(text)
    name = max(names, key=len)
    before, _, behind = text.partition(name)
    return [*with_marks(tokenizer, before), tokenizer.special[name], *with_marks(tokenizer, behind)]


class Script:
    """Stands in front of an engine's runner: notes the tokens that are computed, and makes the written ones likeliest."""

    def __init__(self, runner, ids):
        self.runner, self.left, self.computed = runner, list(ids), []

    def __getattr__(self, name):
        return getattr(self.runner, name)

    def run(self, step):
        self.computed.append(step.ids.tolist())
        logits = torch.zeros_like(self.runner.run(step))
        for row in logits:
            row[self.left.pop(0)] = 10.0
        return logits


def scripted(tokenizer, text: str, tools=None, context: int = 4096, web=None, reflect: bool = False) -> Assistant:
    """text: what the model generates, with the names of special tokens; what tools return is not in it."""
    mask = "prefix" if tokenizer.format.name == "openglm" else "causal"
    shape = dict(layers=1, hidden=32, heads=2, kv_heads=1, head_dim=16, ffn_hidden=48, mask=mask)
    vocabulary = dict(vocab_size=tokenizer.rows, tokens=dataclasses.asdict(tokenizer.tokens), max_positions=context)
    model = Transformer(model_preset("nano", **shape, **vocabulary)).eval()
    model.initialize(torch.Generator().manual_seed(1))
    made = Assistant.__new__(Assistant)
    made.tokenizer, made.model, made.tools, made.web, made.adapters = tokenizer, model, tools, web, {}
    made.reflect = reflect
    made.fingerprint_with = lambda adapter: "scripted"
    made.engine = Engine(model, EngineConfig(max_sequences=2, runner="torch"), tokenizer=tokenizer)
    made.engine.runner = made.script = Script(made.engine.runner, with_marks(tokenizer, text))
    return made
