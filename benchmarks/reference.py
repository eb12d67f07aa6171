"""The reference data that some benchmarks read, named by the environment variable.

Neither the annotated chains nor the published means come with this project.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import steerkit as sk

CHAINS = "r1_distill_qwen_1.5b_annotated.json"
MEANS = "r1_distill_qwen_1.5b_mean_vectors.pt"
R1 = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
LAYER = 17
"""The layer arXiv 2506.18167 uses for backtracking in the distilled model of this shape."""


def reference_folder(command: str, named: str | None = None) -> Path:
    """The folder that holds both files; says what is needed and exits without it."""
    named = named or os.environ.get("STEERKIT_REFERENCE")
    folder = Path(named) if named else None
    missing = [name for name in (CHAINS, MEANS) if folder is None or not (folder / name).is_file()]
    if folder is None or missing:
        state = f"holds no {' and no '.join(missing)}" if named else "is not set"
        print(
            f"{command}: STEERKIT_REFERENCE {state}.\n"
            "It must name a folder with\n"
            f"  {CHAINS}: annotated chains of DeepSeek-R1-Distill-Qwen-1.5B, a JSON list of\n"
            '    {"response", "annotated_response"} with ["label"] text ["end-section"] tags;\n'
            f"  {MEANS}: the published means, {{label: {{mean, count}}}}.\n"
            "Neither comes with this project.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    return folder


def reference_folder_if_named(command: str) -> Path | None:
    """The folder, or ``None``, with a line about it, where the variable is not set at all."""
    if os.environ.get("STEERKIT_REFERENCE"):
        return reference_folder(command)
    print(
        f"{command}: STEERKIT_REFERENCE is not set, so nothing is compared with the reference "
        "chains and the published means",
        file=sys.stderr,
    )
    return None


def head(trace: sk.Trace, model: sk.ThinkingModel, tokens: int) -> sk.Trace:
    """The chain's first ``tokens`` tokens, with the spans that lie wholly inside."""
    offsets = model.align(trace).offsets
    if len(offsets) <= tokens:
        return trace
    cut = offsets[tokens][0]
    return replace(
        trace,
        response=trace.response[:cut],
        spans=tuple(span for span in trace.spans if span.end <= cut),
        token_ids=None if trace.token_ids is None else trace.token_ids[:tokens],
        metadata={**trace.metadata, "truncated": True},
    )
