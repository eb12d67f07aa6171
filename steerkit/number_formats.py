"""Number formats of weights: their names, and which one a processor is quick in."""

from __future__ import annotations

import logging
import platform
from pathlib import Path
from typing import Any

import torch

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}

_log = logging.getLogger(__name__)


def in_quick_format(hf: Any) -> Any:
    """A bfloat16 model on the CPU, in float32 if this processor has no instructions for bfloat16.

    It reads text several times faster then. The values are the same; the memory is twice as
    much, and where there is too little of it the model stays as it is and a warning says so.
    """
    if native_bfloat16():
        return hf
    size = sum(parameter.numel() for parameter in hf.parameters())
    free = available_memory()
    # a matrix in float32 takes the place of its own half: what is new is as much as there was
    if free is not None and free < 2.5 * size:
        _log.warning(
            "this processor is slow in bfloat16, and there is no room for float32 "
            "(%.1f GB more needed, %.1f GB free)",
            2.5 * size / 1e9,
            free / 1e9,
        )
        return hf
    _log.info("bfloat16 weights become float32: this processor has no bfloat16 instructions")
    return hf.float()


def native_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16; yes where nothing tells."""
    known = getattr(torch.cpu, "get_capabilities", None)
    if known is not None:
        names = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")
        return any(known().get(name) for name in names)
    older = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return older is None or platform.machine() not in ("x86_64", "AMD64") or bool(older())


def available_memory() -> int | None:
    """Bytes that can be taken without swapping; ``None`` where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None
