"""The results page and files of `make real`."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
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
EARLIER_MARKERS = {"backtracking": (0.17, 1.25), "uncertainty-estimation": (0.0, 6.9)}
"""Its markers per 100 words, unsteered and at +0.5 along the behaviour's own direction."""
EARLIER_SECONDS = 209


def notes(results: Mapping[str, Any]) -> list[str]:
    """This run beside the earlier one: lines for the page, every figure taken from the results."""
    figures = results["extraction"]
    rest = figures["contrasts"]["rest"]
    apart = {
        (label, key): abs(rest[label][key] - EARLIER[key][label])
        for key in EARLIER
        for label in LABELS
    }
    (label, key), most = max(apart.items(), key=lambda entry: entry[1])
    lines = [
        f"- Directions: split-half cosines and cosines with the published directions differ by "
        f"{statistics.median(apart.values()):.2f} in the median, and by {most:.2f} at most "
        f"({label}, {key.replace('_', '-')}, from {figures['spans'][label]} spans)."
    ]
    for name, (before, after) in EARLIER_MARKERS.items():
        own = {r["coefficient"]: r for r in results["conditions"] if r["direction"] == name}
        lines.append(
            f"- {name}: {own[0.0][name]:.2f} to {own[0.5][name]:.2f} markers per 100 words at +0.5 "
            f"(interval {own[0.5][f'{name}_low']:.2f} to {own[0.5][f'{name}_high']:.2f}); earlier "
            f"{before:.2f} to {after:.2f}. zlib {own[0.0]['zlib']:.2f} to {own[0.5]['zlib']:.2f}: "
            "where it falls, the text repeats itself and part of the effect is damage."
        )
    return [
        *lines,
        "- The prompts and the list of markers are this benchmark's own and the earlier ones were "
        "not kept, so what of a difference in markers is due to them cannot be told.",
        f"- Extraction: {figures['seconds']['all layers']:.0f} s; earlier {EARLIER_SECONDS} s, on "
        "another machine. Nearly all of it is the model's own forward pass in bfloat16.",
    ]


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
    lines += ["", "## Against an earlier quick run", "", *notes(results), ""]
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
