"""Memory: whether an exception says that there was too little of it, on any device."""

from __future__ import annotations

import torch

_SAYS = (
    "out of memory",  # CUDA, HIP, XPU; MPS raises a plain RuntimeError with these words
    "can't allocate memory",  # PyTorch's allocator on a CPU
    "not enough memory",  # the same on Windows
    "STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, hipBLAS: their workspace found no room
)

MEMORY_ERRORS = (RuntimeError, MemoryError)
"""What to catch before :func:`out_of_memory` is asked; numpy raises a ``MemoryError``."""


def out_of_memory(problem: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the CPU."""
    if isinstance(problem, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(problem, RuntimeError) and any(words in str(problem) for words in _SAYS)
