"""Telling exhausted memory from all other errors: it is a result of the stack's width, not a fault of the workload.

CUDA has its own exception. The CPU allocator of torch raises a plain RuntimeError, numpy and Python raise
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
"""Texts in RuntimeErrors, and in ImportErrors of compiled modules, that mean exhausted memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or one in its chain of causes, means that memory is exhausted."""
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
