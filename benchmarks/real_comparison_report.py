"""Parts of the page of `make real` that set models, or sets of chains, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from real_measures import MARKERS

BUNDLED = "qwen2.5-coder-1.5b-thinking"
EARLIER = {"digest": "2e159b8738adb370", "closed": 10}
"""The bundled adapter before this one, and how many of these 24 tasks' chains it closed."""


def does_it_think(results: Mapping[str, Any]) -> list[str]:
    """Both models on the same tasks, if there is an adapter."""
    adapter = results.get("adapter")
    if adapter is None or "thinking" not in adapter:
        return []
    both = {"plain": results["thinking"]["shares"], "with adapter": adapter["thinking"]["shares"]}
    names = {
        "closed": "chains that close their thinking section",
        "truncated": "chains cut off by the limit",
        "right": "right answers",
        **{name: f"chains with a marker of {name}" for name in MARKERS},
    }
    lines = [
        "",
        "## Does it think?",
        "",
        f"{both['plain']['tasks']} tasks with a gold answer that no chain of the training is of, "
        f"unsteered, one chain each at temperature 0.6, at most {adapter['thinking_tokens']} new "
        "tokens. Shares with 95 % Wilson intervals. Markers are counted in the thinking section, "
        "of the plain model in all of its text.",
        "",
        *_chosen_with(adapter),
        "| | " + " | ".join(both) + " |",
        "|---" * (len(both) + 1) + "|",
    ]
    for name, said in names.items():
        cells = [_share(shares[name]) for shares in both.values()]
        lines.append(f"| {said} | " + " | ".join(cells) + " |")
    tokens = " | ".join(f"{shares['tokens']:.0f}" for shares in both.values())
    lines.append(f"| tokens, mean | {tokens} |")
    return [*lines, *_by_annotator([results["thinking"], adapter["thinking"]], list(both))]


def _share(found: Mapping[str, float]) -> str:
    value, low, high = (f"{100 * found[name]:.0f}" for name in ("value", "low", "high"))
    return f"{value} % ({low} to {high})"


def _chosen_with(adapter: Mapping[str, Any]) -> list[str]:
    """What has to be known of the bundled adapter's recipe; nothing is known of others'."""
    if adapter["name"] != BUNDLED or adapter["digest"] == EARLIER["digest"]:
        return []
    return [
        "These tasks are held out from the training, not from the choice of its recipe: chains of "
        "an earlier adapter, fitted to all of the long chains and to no short ones, had been seen "
        f"on the same 24 tasks, of which {EARLIER['closed']} closed. Because of that the short "
        "chains were added and the longest left out. So read the share that closes as one that was "
        "aimed at; on other tasks it may be lower.",
        "",
    ]


def _by_annotator(both: list[Mapping[str, Any]], names: list[str]) -> list[str]:
    """Shares of chains with a labelled sentence, if the chains were labelled."""
    if not all("labelled" in part for part in both):
        return []
    lines = [
        "",
        "The same chains labelled sentence by sentence, the plain model's text as if all of it "
        "were a thinking section: chains with at least one sentence of a behaviour. Markers and "
        "`rules` go by words; the `classifier` was fitted on chains that bundled adapters are "
        "trained on too, so it knows their style best. How far either agrees with others' labels: "
        "`make agreement`. Longer chains have more chances.",
        "",
        "| annotator | chains with | " + " | ".join(names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for annotator in both[0]["labelled"]:
        found = [part["labelled"][annotator] for part in both]
        for label in found[0]["chains_with"]:
            cells = [_share(part["chains_with"][label]) for part in found]
            lines.append(f"| `{annotator}` | {label} | " + " | ".join(cells) + " |")
        cells = [f"{part['sentences']:,} ({part['unparsed']:,})" for part in found]
        lines.append(f"| `{annotator}` | sentences in all (unparsed) | " + " | ".join(cells) + " |")
    return lines


def from_which_chains(results: Mapping[str, Any]) -> list[str]:
    """Directions from the own chains beside those from the reference chains, if at hand."""
    found = results.get("reference")
    if found is None:
        return []
    own = results["extraction"]["contrasts"]["rest"]
    theirs = found["contrasts"]["rest"]
    published = all("cosine" in row for row in (*own.values(), *theirs.values()))
    lines = [
        "",
        "## From which chains?",
        "",
        f"The same model's directions from the own chains beside those from {found['chains']} "
        "annotated chains of DeepSeek-R1-Distill-Qwen-1.5B (the first "
        f"{results['tokens_per_chain']} tokens of each), at layer {found['layer']}. *Corrected*: "
        "the cosine freed of what too few spans take from it; *others*: mean cosine with the "
        "reference directions of the other labels"
        + ("; *published*: cosine of either with the published direction." if published else "."),
        "",
        "| direction | spans | of reference | cosine | low | high | corrected | others |"
        + (" published: own | published: reference |" if published else ""),
        "|---" * (10 if published else 8) + "|",
    ]
    for label, row in found["directions"].items():
        cells = [row[n] for n in ("cosine", "low", "high", "corrected")]
        cells.append(row["cosine_with_other_labels"])
        cells += [own[label]["cosine"], theirs[label]["cosine"]] if published else []
        lines.append(
            f"| {label} | {results['extraction']['spans'][label]} | {found['spans'][label]} | "
            + " | ".join(f"{value:.2f}" for value in cells)
            + " |"
        )
    return lines


def steered_from_either(results: Mapping[str, Any]) -> list[str]:
    """Steering by the own chains' directions beside that by the reference chains', if there."""
    adapter = results.get("adapter")
    models = {"plain": results} | ({} if adapter is None else {"with adapter": adapter})
    models = {name: part for name, part in models.items() if "reference_steering" in part}
    if not models:
        return []
    norms = [results[name]["mean_norm"] for name in ("extraction", "reference")]
    lines = [
        "",
        "## Steering by directions from either chains",
        "",
        "The same prompts and coefficients, once by the plain model's directions from the own "
        "chains and once by those from the reference chains. Markers per 100 words with 95 % "
        "bootstrap intervals over prompts. A coefficient counts in mean norms of the chains that "
        f"the direction is from ({norms[0]:.1f} and {norms[1]:.1f}).",
        "",
        "| model | direction | coefficient "
        + "".join(f"| {name}: own | reference " for name in MARKERS)
        + "| zlib: own | reference |",
        "|---" * (5 + 2 * len(MARKERS)) + "|",
    ]
    for model, part in models.items():
        rows = [
            {(row["direction"], row["coefficient"]): row for row in table}
            for table in (part["conditions"], part["reference_steering"]["conditions"])
        ]
        unsteered = False
        for direction, coefficient in rows[0]:
            if coefficient == 0:
                if unsteered:
                    continue  # one text for all directions
                unsteered = True
            pair = [table[direction, coefficient] for table in rows]
            cells = [
                f"{row[m]:.2f} ({row[f'{m}_low']:.2f} to {row[f'{m}_high']:.2f})"
                for m in MARKERS
                for row in pair
            ]
            cells += [f"{row['zlib']:.2f}" for row in pair]
            name = "none" if coefficient == 0 else direction
            lines.append(f"| {model} | {name} | {coefficient:+g} | " + " | ".join(cells) + " |")
    return lines
