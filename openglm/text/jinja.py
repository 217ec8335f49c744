"""Run as a program of its own: renders the chat template that came with a model. Reads JSON {template, ...variables}
and writes the text.

A template is foreign code, if a tame one: Jinja's sandbox keeps it from Python's objects, and the limits on time and
memory end one that never does.
"""

import json
import sys
from typing import NoReturn

_SECONDS, _BYTES = 1, 1 << 29


def main() -> None:
    """Raises what Jinja raises; the parent reads the exit code."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    except (ImportError, ValueError, OSError):
        pass  # a system without them; the parent's deadline holds
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )  # as transformers has it
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = _refuse
    variables = json.load(sys.stdin)
    text = environment.from_string(variables.pop("template")).render(**variables)
    sys.stdout.buffer.write(text.encode())


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


if __name__ == "__main__":
    main()
