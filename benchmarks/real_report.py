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

NOTES = (
    "- Directions: split-half cosines and cosines with the published directions agree with the "
    "earlier run's to 0.02, but for example-testing (0.70 against 0.76 split-half, from 99 spans).",
    "- Uncertainty: 0.0 to 5.1 markers per 100 words at +0.5; earlier 0.0 to 6.9.",
    "- Backtracking: 0.0 to 0.3 at +0.5; earlier 0.2 to 1.25. The eight prompts and the list of "
    "markers are this benchmark's own, the earlier ones were not kept, and the interval here is "
    "as wide as its mean: what of the difference is due to the prompts cannot be told. Steered "
    "texts repeat themselves more than unsteered ones (zlib), so part of the effect is damage.",
    "- A random direction at +0.5 hardly changes either rate, as before.",
    "- Time: 499 s against 209 s. Nearly all of it is the model's own forward pass, so it is this "
    "machine's speed in bfloat16 that differs, not what is read.",
)
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
    """For each behaviour the text with most of its markers per word at the top coefficient.

    Before them stands the unsteered answer to the first one's prompt. They are the most telling
    texts, not typical ones; the table is what the rates are read from.
    """
    top = max(r["coefficient"] for r in rows)
    at = {(r["prompt"], r["direction"], r["coefficient"]): r for r in rows}
    chosen = []
    for behavior in ("uncertainty-estimation", "backtracking"):
        steered = [at[prompt, behavior, top] for prompt in prompts]
        best = max(steered, key=lambda r: r[behavior] / max(r["words"], 1))
        if not chosen:
            chosen.append((at[best["prompt"], "none", 0.0], None))
        chosen.append((best, behavior))
    return [
        {
            "prompt": prompts[row["prompt"]],
            "direction": row["direction"],
            "coefficient": row["coefficient"],
            "zlib": row["zlib"],
            "text": excerpt(row, marker),
        }
        for row, marker in chosen
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
    lines += ["", "The texts with most markers (the most telling, not the typical ones):", ""]
    for item in results["excerpts"]:
        unsteered = item["direction"] == "none"
        name = "unsteered" if unsteered else f"{item['direction']} {item['coefficient']:+g}"
        lines += [f"- *{name}* (zlib {item['zlib']:.2f}). {item['prompt']}<br>“{item['text']}”"]
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
