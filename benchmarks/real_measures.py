"""What is counted in a steered text, and the machine it was counted on, for `make real`."""

from __future__ import annotations

import hashlib
import os
import platform
import random
import re
import resource
import statistics
import sys
import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

MARKERS = {
    "backtracking": [
        r"wait",
        r"no(?=[,.!])",
        r"hold on",
        r"actually",
        r"oops",
        r"scratch that",
        r"on second thought",
        r"(?:let me|let's|i'll|i will|i should|i need to) (?:go back|start over|re-?think|"
        r"reconsider|re-?check|re-?examine|re-?evaluate|try (?:again|another|a different))",
        r"(?:go|going) back",
        r"(?:made|make|making) an? (?:mistake|error)",
        r"mis(?:understood|read|interpreted|calculated)",
        r"i was wrong",
        r"that(?:'s| is| was) (?:not right|not correct|wrong|incorrect)",
        r"that (?:isn't|can't be|cannot be) (?:right|correct)",
    ],
    "uncertainty-estimation": [
        r"maybe",
        r"perhaps",
        r"i think",
        r"i guess",
        r"i suppose",
        r"i believe",
        r"(?:not|un)[ -]?sure",
        r"(?:not|un)[ -]?certain",
        r"might",
        r"probably",
        r"possibly",
        r"could be",
        r"i wonder",
        r"hmm+",
        r"confus(?:ed|ing)",
        r"(?:seems|sounds) (?:like|to be|right|reasonable|odd|strange)",
    ],
}
"""Words and phrases that count as signs of a behaviour: whole words, any case."""

PATTERNS = {
    name: re.compile(rf"\b(?:{'|'.join(parts)})(?!\w)", re.IGNORECASE)
    for name, parts in MARKERS.items()
}


def measure(text: str) -> dict[str, Any]:
    """Words, markers by behaviour, and the zlib ratio (compressed over plain bytes) of a text."""
    plain = text.encode()
    return {
        "words": len(re.findall(r"[\w'\u2019]+", text)),
        **{name: len(pattern.findall(text)) for name, pattern in PATTERNS.items()},
        "zlib": len(zlib.compress(plain, 9)) / max(len(plain), 1),
    }


def rate(rows: Sequence[Mapping[str, Any]], marker: str) -> float:
    """Markers per 100 words, as a ratio of sums."""
    return 100 * sum(row[marker] for row in rows) / max(sum(row["words"] for row in rows), 1)


def interval(rows: Sequence[Mapping[str, Any]], marker: str) -> tuple[float, float]:
    """95 % percentile bootstrap of :func:`rate` over prompts (2,000 resamples, fixed seed)."""
    draw = random.Random(0)
    rates = sorted(rate(draw.choices(rows, k=len(rows)), marker) for _ in range(2000))
    return rates[49], rates[1949]


def code_digest() -> str:
    """SHA-256 of the package's source and of PyTorch's version: what results depend on."""
    import torch

    import steerkit

    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted(Path(steerkit.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def peak_memory() -> int:
    """Most memory this process has held so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine() -> dict[str, Any]:
    """Processor, cores and versions, as they stand beside every timing."""
    import torch

    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    flags: set[str] = set()
    if cpuinfo.is_file():
        fields = dict(
            line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line
        )
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        processor = fields.get("model name", processor)
        flags = set(fields.get("flags", "").split())
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "avx512_bf16": "avx512_bf16" in flags,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{
            name: version(name)
            for name in ("torch", "transformers", "transformer-lens", "safetensors")
        },
    }


def load_at_start() -> float | None:
    """Processes that wanted a core in the last minute: 0 on an idle machine."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def summarise(
    rows: Sequence[Mapping[str, Any]], directions: Sequence[str], coefficients: Sequence[float]
) -> list[dict[str, Any]]:
    """One row a condition: markers per 100 words with intervals, zlib ratio, length."""
    table = []
    for direction in directions:
        for coefficient in sorted({0.0, *coefficients}):
            key = ("none", 0.0) if coefficient == 0 else (direction, coefficient)
            chosen = [r for r in rows if (r["direction"], r["coefficient"]) == key]
            row: dict[str, Any] = {
                "direction": direction,
                "coefficient": coefficient,
                "prompts": len(chosen),
                "words": sum(r["words"] for r in chosen),
            }
            for marker in MARKERS:
                row[marker] = round(rate(chosen, marker), 3)
                row[f"{marker}_low"], row[f"{marker}_high"] = (
                    round(value, 3) for value in interval(chosen, marker)
                )
            row["zlib"] = round(statistics.fmean(r["zlib"] for r in chosen), 3)
            row["truncated"] = sum(r["truncated"] for r in chosen)
            table.append(row)
    return table


def share_of_chains(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of one chain a task: shares that closed, answered rightly, hold a marker; mean length.

    Shares come with 95 % Wilson intervals.
    """
    from steerkit.statistics import share_interval

    marked = {name: sum(row[name] > 0 for row in rows) for name in MARKERS}
    counts = {name: sum(row[name] for row in rows) for name in ("closed", "right", "truncated")}
    shares = {}
    for name, count in {**counts, **marked}.items():
        found = share_interval(count, len(rows))
        shares[name] = {"value": found.value, "low": found.low, "high": found.high}
    tokens = statistics.fmean(row["tokens"] for row in rows)
    return {"tasks": len(rows), "tokens": round(tokens, 1), **shares}
