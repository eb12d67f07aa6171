"""What says that memory ran out is told from every other failure, on every device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steerkit.memory import MEMORY_ERRORS, out_of_memory


@pytest.mark.parametrize(
    "problem",
    [
        torch.OutOfMemoryError("x"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.1 GB, max allowed: 9.0 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
        MemoryError(),
    ],
)
def test_what_counts_as_out_of_memory(problem: Exception) -> None:
    assert out_of_memory(problem) and isinstance(problem, MEMORY_ERRORS)


def test_what_numpy_and_the_allocator_really_raise_counts() -> None:
    with pytest.raises(MEMORY_ERRORS) as numpys:
        np.empty(1 << 60, dtype=np.uint8)
    with pytest.raises(MEMORY_ERRORS) as torchs:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert out_of_memory(numpys.value) and out_of_memory(torchs.value)


@pytest.mark.parametrize(
    "problem",
    [
        RuntimeError("shapes do not match"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`"),
        ValueError("out of memory"),
        KeyboardInterrupt(),
    ],
)
def test_other_failures_do_not(problem: BaseException) -> None:
    assert not out_of_memory(problem)
