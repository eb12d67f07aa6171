"""The results page and files of `make real`."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from real_comparison_report import does_it_think, from_which_chains, steered_from_either
from real_measures import MARKERS, PATTERNS

from steerkit.files import write_text_atomic


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
    return "\n".join(
        [
            *_head(results),
            *_directions(results),
            *_steering(results),
            *does_it_think(results),
            *from_which_chains(results),
            *steered_from_either(results),
            *_costs(results),
        ]
    )


def _head(results: Mapping[str, Any]) -> list[str]:
    figures = results["extraction"]
    spans = sum(figures["spans"].values())
    return [
        "# A real model by the same calls",
        "",
        f"Written by `make real`. Model: {results['model']}, {results.get('dtype', 'bfloat16')}, "
        f"think strings as plain text. Chains: the {figures['chains']} labelled chains in plain "
        f"English that come with steerkit ({figures['thinking_tokens']:,} thinking tokens, "
        f"{spans:,} spans).",
    ]


def _directions(results: Mapping[str, Any]) -> list[str]:
    figures = results["extraction"]
    rest = figures["contrasts"]["rest"]
    published = all("cosine" in row for row in rest.values())
    columns = ["direction", "spans", "split-half", "shuffled"]
    columns += ["published", "others"] if published else []
    explained = (
        "*Published*: cosine with the direction from the means "
        "published with arXiv 2506.18167 for DeepSeek-R1-Distill-Qwen-1.5B, same contrast; "
        "*others*: mean cosine with the published directions of the other labels. "
    )
    lines = [
        "",
        f"## Directions at layer {figures['layer']}",
        "",
        "Contrast `rest` (minus the mean of the other labels' spans). *Shuffled*: the same with "
        f"labels shuffled within chains. {explained if published else ''}"
        "Chance: a random direction has standard deviation "
        f"{figures['chance']['standard_deviation']:.3f}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    for label, row in rest.items():
        cells = [f"{row['split_half']:.2f}", f"{row['split_half_shuffled']:.2f}"]
        if published:
            cells += [f"{row['cosine']:.2f}", f"{row['cosine_with_other_labels']:.2f}"]
        lines.append(f"| {label} | {figures['spans'][label]} | " + " | ".join(cells) + " |")
    if len(figures["contrasts"]) > 1:
        lines += [
            "",
            "The other contrasts: split-half cosine (shuffled)"
            + (" / cosine with the published " if published else "")
            + (
                "direction of the same contrast; `within` cannot be made from published means and "
                "is set against the published `rest`."
                if published
                else "."
            ),
            "",
            "| direction | " + " | ".join(f"`{name}`" for name in figures["contrasts"]) + " |",
            "|---" * (len(figures["contrasts"]) + 1) + "|",
        ]
        for label in rest:
            cells = [
                f"{c['split_half']:.2f} ({c['split_half_shuffled']:.2f})"
                + (f" / {c['cosine']:.2f}" if published else "")
                for c in (contrast[label] for contrast in figures["contrasts"].values())
            ]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def _steering(results: Mapping[str, Any]) -> list[str]:
    figures, adapter = results["extraction"], results.get("adapter")
    lines = [
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
        *([] if adapter is None else [f"The plain model, {results['model']}:", ""]),
        *_conditions(results["conditions"]),
        *_telling(results["excerpts"]),
    ]
    if adapter is not None:
        lines += [
            "",
            f"With the adapter {adapter['name']} (digest {adapter['digest']}), which makes it "
            "think, steered by the same directions, those of the plain model:",
            "",
            *_conditions(adapter["conditions"]),
            *_telling(adapter["excerpts"]),
        ]
    return lines


def _conditions(conditions: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| direction | coefficient | backtracking markers | uncertainty markers | zlib | words |",
        "|---|---|---|---|---|---|",
    ]
    for row in conditions:
        cells = [f"{row[m]:.2f} ({row[f'{m}_low']:.2f} to {row[f'{m}_high']:.2f})" for m in MARKERS]
        lines.append(
            f"| {row['direction']} | {row['coefficient']:+g} | {cells[0]} | {cells[1]} "
            f"| {row['zlib']:.2f} | {row['words']} |"
        )
    return lines


def _telling(items: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["", "The texts with most markers (the most telling, not the typical ones):", ""]
    for item in items:
        unsteered = item["direction"] == "none"
        name = "unsteered" if unsteered else f"{item['direction']} {item['coefficient']:+g}"
        lines += [f"- *{name}* (zlib {item['zlib']:.2f}). {item['prompt']}<br>“{item['text']}”"]
    return lines


def _costs(results: Mapping[str, Any]) -> list[str]:
    figures, generation = results["extraction"], results["generation"]
    seconds, memory = figures["seconds"], figures["peak_memory_bytes"] / 1e9
    alone = ""
    if "one layer" in seconds:
        alone = (
            f" (layer {figures['layer']} alone, the layers above it not run: "
            f"{seconds['one layer']:.0f} s)"
        )
    conversion = results["conversion"]
    once = ""
    if conversion is not None:
        once = (
            f"One-time conversion: {conversion['seconds']['convert']:.0f} s, "
            f"{conversion['peak_memory_bytes'] / 1e9:.1f} GB. "
        )
    return [
        "",
        "## Time and memory",
        "",
        f"Extraction at all layers: {seconds['all layers']:.0f} s, peak memory {memory:.1f} GB"
        f"{alone}. Steering: {generation['tokens']:,} tokens in "
        f"{generation['seconds']:.0f} s ({generation['tokens'] / generation['seconds']:.0f} a "
        f"second, {generation['rows']} rows a batch). {once}"
        f"Load average when the extraction began: {figures['load_average_at_start']}.",
        "",
        ", ".join(f"{key} {value}" for key, value in results["machine"].items()) + ".",
        "",
    ]


def write_results(results: Mapping[str, Any], folder: Path) -> str:
    """``real.json``, ``real.csv`` (a row a text) and ``real.md`` in a folder; the page."""
    text = json.dumps(results, indent=1, ensure_ascii=False, sort_keys=True)
    results = json.loads(text)  # in the order in which the page is written again from the file
    write_text_atomic(folder / "real.json", text + "\n")
    adapter = results.get("adapter")
    models = [("plain", results)] + ([] if adapter is None else [("adapter", adapter)])
    rows = [
        {"model": name, "directions_from": chains, **row}
        for name, whole in models
        for chains, part in (("own", whole), ("reference", whole.get("reference_steering", {})))
        for row in part.get("texts", ())
    ]
    buffer = io.StringIO()
    fields = [name for name in rows[0] if name != "text"]
    table = csv.DictWriter(buffer, fields, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows({**row, "zlib": round(row["zlib"], 4)} for row in rows)
    write_text_atomic(folder / "real.csv", buffer.getvalue())
    page = markdown(results)
    write_text_atomic(folder / "real.md", page)
    return page
