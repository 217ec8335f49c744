import pytest
import torch
from helpers.pairs import SHAPE, tiny_model


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny networks: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Folder of a tiny model with nano's tokenizer."""
    return tiny_model(tmp_path_factory.mktemp("base") / "model", SHAPE)
