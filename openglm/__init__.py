"""OpenGLM: pre-train, align, shrink, serve and measure GLM models. Public names load on first use, so that `glm --help`
is quick."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "load_model": "openglm.checkpoints.load",
    "load_tokenizer": "openglm.text.load",
    "generate": "openglm.model.generate",
    "Engine": "openglm.engine.engine",
    "SamplingParams": "openglm.engine.params",
    "Assistant": "openglm.assistant",
    "Tools": "openglm.tools.registry",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'openglm' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
