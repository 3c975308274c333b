"""One thread for small tensors: worker processes that spin on each other's cores are many times slower."""

import pytest
import torch


@pytest.fixture(autouse=True)
def threads():
    """Run on one thread; a test may call the fixture's value to choose another number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)
