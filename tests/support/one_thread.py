"""One thread: small stacks gain nothing from more, and tests run side by side."""

from collections.abc import Iterator

import pytest
import torch
import torch._inductor.config  # reads CXX when imported: before a test takes the compiler away


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
