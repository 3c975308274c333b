"""What counts as running out of memory."""

import numpy as np
import pytest
import torch

from tuner.engine.machine.out_of_memory import is_out_of_memory

HUGE = 10**15


def test_every_allocator_says_it_in_its_own_way() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(HUGE)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(HUGE)
    assert is_out_of_memory(of_torch.value) and is_out_of_memory(of_numpy.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("std::bad_alloc")) and is_out_of_memory(OSError(12, "no memory"))
    assert is_out_of_memory(ImportError("/lib/x.so: cannot map zero-fill pages"))


def test_what_wraps_it_counts_and_what_only_mentions_memory_does_not() -> None:
    wrapped = RuntimeError("backend failed")
    wrapped.__cause__ = MemoryError()
    assert is_out_of_memory(wrapped)
    assert not is_out_of_memory(RuntimeError("the memory of the LSTM has another shape"))
    assert not is_out_of_memory(OSError(28, "no space")) and not is_out_of_memory(ImportError("no module"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator: can't allocate memory"))
