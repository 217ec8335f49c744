"""The command `glm`: finds the verb, runs it, and turns every error of a user into one line on standard error."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import sys

VERBS = {
    "chat": "talk to a model, or answer one prompt",
    "fill": "fill the blanks of a text",
    "serve": "serve a model over HTTP: OpenAI's API and a web page",
    "index": "make folders and web pages searchable, for answers with sources",
    "ask": "answer a question from an index or the web, with checked citations",
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
_TUNING = ("reward", "dpo", "ppo", "grpo")  # one file has these
_PACKAGES = {"starlette": "fastapi", "yaml": "pyyaml"}  # where a module is not called like what brings it


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
    verb = argv[0] if argv else ""
    try:
        return _run(verb, argv[1:])
    except ValueError as error:
        _complain(verb, str(error))
    except BrokenPipeError:  # whoever read our output has seen enough; nothing may be left to flush at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _complain(verb, f"{error.filename or 'the system'}: {error.strerror or error}")
    except ModuleNotFoundError as error:
        _complain(verb, f"the Python package {error.name!r} is missing; install it with: {remedy(error.name or '')}")
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    return 1


def _run(verb: str, rest: list[str]) -> int:
    try:
        if verb in ("", "-h", "--help", "--version"):
            print(usage())
            return 0 if verb else 2
        if verb not in VERBS:
            print(f"glm: {verb[:40]!r} is not a verb; known: {', '.join(VERBS)}", file=sys.stderr)
            return 2
        if verb in _TUNING:
            return importlib.import_module("openglm.cli.align").run(rest, verb)
        return importlib.import_module(f"openglm.cli.{verb}").run(rest) or 0
    finally:
        sys.stdout.flush()  # here, where a reader that has gone can still be met


def _complain(verb: str, error: str) -> None:
    """Print an error, without its middle where it quotes something endless."""
    from openglm.config import shorten

    print(f"glm {verb}: {shorten(error, 10_000)}", file=sys.stderr)


def remedy(module: str) -> str:
    """The line that installs a module: with its extra, unless the base install should have it."""
    top = module.split(".")[0]
    package = _PACKAGES.get(top, top.replace("_", "-")).lower()
    for requirement in importlib.metadata.requires("openglm") or ():
        found = re.match(r"([\w.-]+).*; extra == .(\w+)", requirement)
        if found and found[1].replace("_", "-").lower() == package:
            return f"pip install 'openglm[{found[2]}]'"
    return "pip install openglm"


if __name__ == "__main__":
    sys.exit(main())
