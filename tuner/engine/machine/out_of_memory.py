"""Telling an exhausted memory from every other error: a result of the stack's width, never a fault of the workload.

CUDA has an exception of its own. The CPU allocator of torch raises a plain RuntimeError, numpy and Python raise
MemoryError, C++ libraries std::bad_alloc, which arrives as a RuntimeError; compilers and frameworks wrap any of them.
"""

import errno

import torch

SIGNS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "std::bad_alloc",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "cannot map zero-fill pages",
    "failed to map segment from shared object",
)
"""What the messages of RuntimeErrors, and of ImportErrors of compiled modules, say that mean it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that there is no memory left."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(seen, OSError) and seen.errno == errno.ENOMEM:
            return True
        if isinstance(seen, RuntimeError | ImportError) and any(sign in str(seen) for sign in SIGNS):
            return True
        seen = seen.__cause__
    return False
