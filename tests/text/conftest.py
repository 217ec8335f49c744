"""One small bilingual tokenizer of ours, and one of every published kind, for this room's tests."""

from pathlib import Path

import pytest
from helpers.text_samples import TEXTS, VOCAB_SIZE
from helpers.tokenizer_files import make_folders
from hypothesis import settings

from openglm.text import Tokenizer, load_tokenizer, train_tokenizer

settings.register_profile("patient", deadline=None, max_examples=60)  # a busy machine is no failure
settings.load_profile("patient")


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Tokenizer, str]:
    folder = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer(iter(TEXTS), VOCAB_SIZE, folder), str(folder)


@pytest.fixture(scope="session")
def tokenizer(trained) -> Tokenizer:
    return trained[0]


@pytest.fixture(scope="session")
def folders(tokenizer, tmp_path_factory) -> dict[str, Path]:
    return make_folders(tmp_path_factory.mktemp("family"), tokenizer)


@pytest.fixture(scope="session")
def family(folders, tokenizer) -> dict[str, Tokenizer]:
    return {"openglm": tokenizer} | {kind: load_tokenizer(folder) for kind, folder in folders.items()}
