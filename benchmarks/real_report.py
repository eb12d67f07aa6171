"""The results page and files of `make real`."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from real_measures import MARKERS, PATTERNS

from steerkit.files import write_text_atomic

LABELS = (
    "deduction",
    "adding-knowledge",
    "example-testing",
    "uncertainty-estimation",
    "backtracking",
)
EARLIER = {
    "split_half": dict(zip(LABELS, (0.91, 0.89, 0.76, 0.94, 0.90), strict=True)),
    "cosine": dict(zip(LABELS, (0.71, 0.74, 0.72, 0.72, 0.59), strict=True)),
}
"""What an earlier quick run over the same chains found, contrast `rest`, layer 17."""

NOTES: tuple[str, ...] = ()
"""Where the figures differ from the earlier run's, and why: lines for the results page."""


def excerpt(row: Mapping[str, Any], marker: str | None, words: int = 60) -> str:
    """Some sixty words of a text, from a little before its first marker, on one line."""
    text = row["text"]
    first = PATTERNS[marker].search(text) if marker else None
    start = 0
    if first and first.start() > 150:
        start = max(text.rfind(". ", 0, first.start() - 100), text.rfind("\n", 0, first.start()))
        start = max(start + 1, 0)
    pieces = re.findall(r"\S+\s*", text[start:].lstrip())
    shown = " ".join("".join(pieces[:words]).split())
    return ("... " if start else "") + shown + (" ..." if len(pieces) > words else "")


def excerpts(rows: Sequence[Mapping[str, Any]], prompts: Mapping[str, str]) -> list[dict[str, Any]]:
    """One prompt three ways: unsteered, and at the highest coefficient of two behaviours.

    The prompt is the one where both steered texts show most of their markers among those
    that stay as little repetitive as the unsteered text (zlib ratio at least 0.8 of it).
    """
    top = max(r["coefficient"] for r in rows)
    at = {(r["prompt"], r["direction"], r["coefficient"]): r for r in rows}
    behaviors = ("backtracking", "uncertainty-estimation")

    def shows(prompt: str) -> tuple[bool, float]:
        plain, steered = at[prompt, "none", 0.0], [at[prompt, b, top] for b in behaviors]
        fluent = all(r["zlib"] >= 0.8 * plain["zlib"] for r in steered)
        return fluent, min(r[b] / r["words"] for r, b in zip(steered, behaviors, strict=True))

    prompt = max(prompts, key=shows)
    chosen = [("none", 0.0, None), *((b, top, b) for b in behaviors)]
    return [
        {
            "prompt": prompts[prompt],
            "direction": direction,
            "coefficient": coefficient,
            "text": excerpt(at[prompt, direction, coefficient], marker),
        }
        for direction, coefficient, marker in chosen
    ]


def markdown(results: Mapping[str, Any]) -> str:
    """The results as a page."""
    figures, computer = results["extraction"], results["machine"]
    rest, generation = figures["contrasts"]["rest"], results["generation"]
    lines = [
        "# A real model by the same calls",
        "",
        f"Written by `make real`. Model: {results['model']}, bfloat16, think strings as plain "
        f"text. Chains: {figures['chains']} annotated chains of DeepSeek-R1-Distill-Qwen-1.5B, "
        f"the first {results['tokens_per_chain']} tokens of each "
        f"({figures['thinking_tokens']:,} thinking tokens, "
        f"{sum(figures['spans'].values()):,} spans).",
        "",
        f"## Directions at layer {figures['layer']}",
        "",
        "Contrast `rest` (minus the mean of the other labels' spans). *Shuffled*: the same with "
        "labels shuffled within chains. *Published*: cosine with the direction from the means "
        "published with arXiv 2506.18167, same contrast; *others*: mean cosine with the published "
        "directions of the other labels. Chance: a random direction has standard deviation "
        f"{figures['chance']['standard_deviation']:.3f}.",
        "",
        "| direction | spans | split-half | shuffled | published | others "
        "| earlier quick run: split-half | published |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, row in rest.items():
        earlier = [
            f"{EARLIER[key][label]:.2f}" if label in LABELS else "-"
            for key in ("split_half", "cosine")
        ]
        lines.append(
            f"| {label} | {figures['spans'][label]} | {row['split_half']:.2f} "
            f"| {row['split_half_shuffled']:.2f} | {row['cosine']:.2f} "
            f"| {row['cosine_with_other_labels']:.2f} | {earlier[0]} | {earlier[1]} |"
        )
    if len(figures["contrasts"]) > 1:
        lines += [
            "",
            "The other contrasts: split-half cosine (shuffled) / cosine with the published "
            "direction of the same contrast; `within` cannot be made from published means and is "
            "set against the published `rest`.",
            "",
            "| direction | " + " | ".join(f"`{name}`" for name in figures["contrasts"]) + " |",
            "|---" * (len(figures["contrasts"]) + 1) + "|",
        ]
        for label in rest:
            cells = [contrast[label] for contrast in figures["contrasts"].values()]
            lines.append(
                f"| {label} | "
                + " | ".join(
                    f"{c['split_half']:.2f} ({c['split_half_shuffled']:.2f}) / {c['cosine']:.2f}"
                    for c in cells
                )
                + " |"
            )
    lines += [
        "",
        "## Steering",
        "",
        f"{results['conditions'][0]['prompts']} prompts, greedy, at most "
        f"{results['max_new_tokens']} new tokens, one "
        f"direction at layer {figures['layer']} on every position; coefficients in mean norms of "
        f"the residual stream ({figures['mean_norm']:.1f} there). Markers per 100 words, with "
        "95 % bootstrap intervals over prompts; zlib: compressed over plain bytes, mean over "
        "texts (lower is more repetitive).",
        "",
        "| direction | coefficient | backtracking markers | uncertainty markers | zlib | words |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["conditions"]:
        cells = [f"{row[m]:.2f} ({row[f'{m}_low']:.2f} to {row[f'{m}_high']:.2f})" for m in MARKERS]
        lines.append(
            f"| {row['direction']} | {row['coefficient']:+g} | {cells[0]} | {cells[1]} "
            f"| {row['zlib']:.2f} | {row['words']} |"
        )
    lines += ["", f"**The same prompt three ways.** {results['excerpts'][0]['prompt']}", ""]
    for item in results["excerpts"]:
        unsteered = item["direction"] == "none"
        name = "unsteered" if unsteered else f"{item['direction']} {item['coefficient']:+g}"
        lines += [f"- *{name}*: {item['text']}"]
    lines += ["", "## Against an earlier quick run", "", *NOTES, ""]
    seconds, memory = figures["seconds"], figures["peak_memory_bytes"] / 1e9
    alone = ""
    if "one layer" in seconds:
        alone = (
            f" (layer {figures['layer']} alone, the layers above it not run: "
            f"{seconds['one layer']:.0f} s)"
        )
    lines += [
        "## Time and memory",
        "",
        f"Extraction at all layers: {seconds['all layers']:.0f} s, peak memory {memory:.1f} GB"
        f"{alone}. Steering: {generation['tokens']:,} tokens in "
        f"{generation['seconds']:.0f} s ({generation['tokens'] / generation['seconds']:.0f} a "
        f"second, {generation['rows']} rows a batch). One-time conversion: "
        f"{results['conversion']['seconds']['convert']:.0f} s, "
        f"{results['conversion']['peak_memory_bytes'] / 1e9:.1f} GB. "
        f"Load average when the extraction began: {figures['load_average_at_start']}.",
        "",
        ", ".join(f"{key} {value}" for key, value in computer.items()) + ".",
        "",
    ]
    return "\n".join(lines)


def write_results(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """benchmarks/results/real.{json,csv,md}."""
    folder = Path(__file__).parent / "results"
    text = json.dumps({**results, "texts": rows}, indent=1, ensure_ascii=False, sort_keys=True)
    write_text_atomic(folder / "real.json", text + "\n")
    buffer = io.StringIO()
    fields = [name for name in rows[0] if name != "text"]
    table = csv.DictWriter(buffer, fields, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows({**row, "zlib": round(row["zlib"], 4)} for row in rows)
    write_text_atomic(folder / "real.csv", buffer.getvalue())
    write_text_atomic(folder / "real.md", markdown(results))
