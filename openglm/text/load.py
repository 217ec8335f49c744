"""`load_tokenizer`: opens our tokenizers and those of the published checkpoints."""

import os
from pathlib import Path

from openglm.config import shown
from openglm.files import ASSETS
from openglm.text.published import FILES, find, open_tokenizer
from openglm.text.tokenizer import Tokenizer


def load_tokenizer(path_or_name: str | os.PathLike[str], format: str | None = None) -> Tokenizer:
    """A tokenizer from a model's folder, ours or a published one, from a tokenizer's file, or by a bundled name
    ("nano").

    The kind follows from the files; nothing in the folder is run. format: the form of its conversations (formats.py),
    where files do not tell it or tell it wrong. Raises ValueError that names what is missing or damaged.
    """
    path = Path(path_or_name)
    candidates = [path]
    if path.name == str(path_or_name):  # a bare name, which cannot lead out of the bundled folder
        candidates.append(ASSETS / path)
    found = next(filter(None, map(find, candidates)), None)
    reason = f"no such file, and no folder with one of {', '.join(FILES)}; make one with `glm tokenizer`"
    if (path / "config.json").is_file():
        reason = f"a model without a tokenizer; copy the tokenizer files of its base model there ({', '.join(FILES)})"
    if found is None:
        raise ValueError(f"tokenizer = {shown(str(path_or_name))}: {reason}")
    return open_tokenizer(found, format)
