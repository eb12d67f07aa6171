"""`make agreement`: how far the bundled annotators agree with the labels of two sets of chains.

The sets are the 100 chains in plain English that come with steerkit (*own*) and, where
$STEERKIT_REFERENCE names them, 100 chains of DeepSeek-R1-Distill-Qwen-1.5B that a language model
labelled (*reference*). A classifier is never scored on tasks that it was fitted on: on the chains
it comes from it is fitted ten times, each time without a tenth of the tasks.

Every annotator labels twice: the spans of the labels it is compared with, compared span by span;
and sentences that it finds itself, compared by sentences and by tokens (of the tokenizer in the
reference folder; without it by characters). Results go to benchmarks/results/agreement.{json,md}.

    python benchmarks/agreement.py
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from real_measures import code_digest, machine
from reference import CHAINS, reference_folder_if_named

import steerkit as sk
from steerkit.annotation import Agreement, agree, cross_annotate, read_classifier
from steerkit.annotation.agreement import Tokenize
from steerkit.errors import SteerkitError
from steerkit.files import write_text_atomic

RESULTS = Path(__file__).parent / "results"
TOKENIZER = "tokenizer-deepseek-r1-distill-qwen"
FOLDS = 10
MEASURES = ("kappa", "macro_f1", "coverage", "kappa_labelled", "accuracy_labelled")
SETS = {"own": "these chains", "reference": "reference chains"}
"""What the page calls the sets of chains."""

Label = Callable[[sk.Traces, bool], sk.Traces]
"""Chains and whether their spans are kept, to the same chains with an annotator's labels."""


def contenders(of: str) -> dict[str, Label]:
    """Who labels a set of chains, by what the page calls it."""

    def crossed(chains: sk.Traces, keep: bool) -> sk.Traces:
        return cross_annotate(chains, folds=FOLDS, keep_spans=keep)

    def rules(chains: sk.Traces, keep: bool) -> sk.Traces:
        return sk.annotate(chains, "rules", keep_spans=keep)

    def bundled(threshold: float | None = None) -> Label:
        classifier = read_classifier()
        if threshold is not None:
            classifier = replace(classifier, threshold=threshold)
        return lambda chains, keep: sk.annotate(chains, classifier, keep_spans=keep)

    if of == "own":
        return {
            f"`classifier`, {FOLDS}-fold cross-validated": crossed,
            "`rules`, written after these chains": rules,
        }
    return {
        f"`classifier` as bundled, threshold {read_classifier().threshold:g}": bundled(),
        "the same, threshold 0": bundled(0.0),
        "`rules`": rules,
        f"`classifier` fitted on these, {FOLDS}-fold cross-validated": crossed,
    }


def measured(found: Agreement, unit: str) -> dict[str, Any]:
    """One unit's measures with their intervals, its F1 by label, and how many units there are."""
    table = found.summary[found.summary["unit"] == unit].set_index("measure")
    labels = found.labels[(found.labels["unit"] == unit) & found.labels["f1"].notna()]
    return {
        "count": int(table.loc["kappa", "count"]),
        "unlabelled": found.counts["unlabelled"][unit],
        **{
            name: {end: float(table.loc[name, end]) for end in ("value", "low", "high")}
            for name in MEASURES
        },
        "f1": {
            str(row.label): {"value": row.f1, "low": row.f1_low, "high": row.f1_high}
            for row in labels.itertuples()
            if row.label != "unparsed"
        },
    }


def compared(
    gold: sk.Traces, of: str, tokenize: Tokenize | None, resamples: int = 2000
) -> list[dict[str, Any]]:
    """One row an annotator: what it is called, and its measures by unit."""
    whole = "characters" if tokenize is None else "tokens"
    rows = []
    for name, label in contenders(of).items():
        started = time.perf_counter()
        given, alone = label(gold, True), label(gold, False)
        by_span = agree(gold, given, units=("spans",), resamples=resamples)
        by_text = agree(
            gold, alone, units=("sentences", whole), tokenize=tokenize, resamples=resamples
        )
        rows.append(
            {
                "of": of,
                "annotator": name,
                "name": by_span.annotators[1],
                "units": {
                    "spans": measured(by_span, "spans"),
                    "sentences": measured(by_text, "sentences"),
                    whole: measured(by_text, whole),
                },
            }
        )
        seconds = time.perf_counter() - started
        print(f"{SETS[of]}, {name}: {seconds:.0f} s", file=sys.stderr)
    return rows


def tokens_of(folder: Path) -> Tokenize | None:
    """What cuts text into the tokens of the tokenizer in the reference folder, if it is there."""
    if not (folder / TOKENIZER).is_dir():
        print(f"make agreement: {folder} holds no {TOKENIZER}: characters", file=sys.stderr)
        return None
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / TOKENIZER)

    def tokenize(text: str) -> Any:
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return read["offset_mapping"]

    return tokenize


def _cell(found: Mapping[str, float]) -> str:
    if found["low"] == found["high"]:  # as coverage is of one that never abstains
        return f"{found['value']:.2f}"
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _table(rows: list[Mapping[str, Any]], unit: str) -> list[str]:
    lines = [
        "| annotator | of | kappa | macro F1 | coverage | right where it labels |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        unit_of_row = row["units"][unit]
        cells = [
            _cell(unit_of_row[n]) for n in ("kappa", "macro_f1", "coverage", "accuracy_labelled")
        ]
        lines.append(f"| {row['annotator']} | {SETS[row['of']]} | " + " | ".join(cells) + " |")
    return lines


def _by_label(rows: list[Mapping[str, Any]]) -> list[str]:
    labels = list(dict.fromkeys(label for row in rows for label in row["units"]["spans"]["f1"]))
    lines = [
        "| annotator | of | " + " | ".join(labels) + " |",
        "|---" * (len(labels) + 2) + "|",
    ]
    for row in rows:
        f1 = row["units"]["spans"]["f1"]
        cells = [_cell(f1[label]) if label in f1 else "-" for label in labels]
        lines.append(f"| {row['annotator']} | {SETS[row['of']]} | " + " | ".join(cells) + " |")
    return lines


def markdown(results: Mapping[str, Any]) -> str:
    """The results as a page."""
    rows = results["rows"]
    sets = results["sets"]
    whole = next(unit for unit in rows[0]["units"] if unit not in ("spans", "sentences"))
    reference = sets.get("reference")
    reference_said = (
        "The reference chains were not at hand in this run."
        if reference is None
        else f"Reference chains: {reference['chains']} of DeepSeek-R1-Distill-Qwen-1.5B with "
        f"{reference['spans']:,} spans, labelled by a language model "
        f"({reference['unplaced']} more could not be placed)."
    )
    return "\n".join(
        [
            "# How far annotators agree with labels",
            "",
            "Cohen's kappa, macro F1 and coverage (the share of labelled units that the annotator "
            "labels too), with 95 % intervals over tasks; made by `make agreement`. `unparsed` "
            "counts as a disagreement, but not where it says *right where it labels*. These "
            f"chains: the {sets['own']['chains']} that come with steerkit, {sets['own']['spans']:,}"
            " spans, written and labelled for it by a language model under the authors' "
            f"direction. {reference_said}",
            "",
            "## Spans, their bounds given",
            "",
            *_table(rows, "spans"),
            "",
            "## Sentences that the annotator finds itself",
            "",
            *_table(rows, "sentences"),
            "",
            f"## {whole.capitalize()}, sentences found by the annotator itself",
            "",
            *_table(rows, whole),
            "",
            "## F1 by label, spans given",
            "",
            *_by_label(rows),
            "",
        ]
    )


def write_results(results: Mapping[str, Any], folder: Path) -> str:
    """``agreement.json`` and ``agreement.md`` in a folder; the page."""
    write_text_atomic(folder / "agreement.json", json.dumps(results, indent=1) + "\n")
    page = markdown(results)
    write_text_atomic(folder / "agreement.md", page)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="only write the page again")
    arguments = parser.parse_args()
    if arguments.report:
        kept = json.loads((arguments.folder / "agreement.json").read_text())
        print(write_results(kept, arguments.folder))
        return
    folder = reference_folder_if_named("make agreement")
    tokenize = None if folder is None else tokens_of(folder)
    sets = {"own": (sk.read_traces(sk.data("traces/reasoning.jsonl")), 0)}
    if folder is not None:
        chains, unplaced = sk.read_tagged(folder / CHAINS)
        sets["reference"] = (chains, len(unplaced))
    results = {
        "sets": {
            of: {
                "chains": len(chains),
                "spans": sum(len(trace.spans) for trace in chains),
                "unplaced": lost,
            }
            for of, (chains, lost) in sets.items()
        },
        "rows": [row for of, (chains, _) in sets.items() for row in compared(chains, of, tokenize)],
        "folds": FOLDS,
        "code": code_digest()[:12],
        "machine": machine(),
    }
    print(write_results(results, arguments.folder))


if __name__ == "__main__":
    try:
        main()
    except SteerkitError as problem:
        print(f"make agreement: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
