import os

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # in the processes that tests start: no spinning for a core that another test uses

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny networks: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
