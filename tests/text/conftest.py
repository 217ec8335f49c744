"""One small bilingual tokenizer for this room's tests."""

import pytest
from text_samples import TEXTS, VOCAB_SIZE

from openglm.text import Tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Tokenizer, str]:
    folder = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer(iter(TEXTS), VOCAB_SIZE, folder), str(folder)


@pytest.fixture(scope="session")
def tokenizer(trained) -> Tokenizer:
    return trained[0]
