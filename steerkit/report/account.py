"""Account: who labelled, what was cut off or left out, every setting; nothing silently dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steerkit.report.grids import Cell, Grid, Row, color_of
from steerkit.report.numbers import MISSING, coefficient, counted, percent, short_name, whole

if TYPE_CHECKING:
    import pandas as pd

    from steerkit.vectors import SteeringVectors

_LONG = 12  # entries of a list that are printed, more of them are counted; lines of a mapping
_KINDS = {
    "baseline": "unsteered",
    "prompt": "asked for in the prompt",
    "random": "random directions",
    "shuffled": "directions of shuffled labels",
}


def annotator_texts(settings: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """A sentence or two about every annotator: its agreement, and whether it is independent."""
    known = {entry.get("name"): entry for entry in settings.get("annotators", ())}
    texts = []
    for name in names:
        entry = known.get(name, {})
        same = entry.get("same_as_extraction")
        agreement = entry.get("agreement")
        text = f"{name}: "
        if short_name(name) == "grammar":
            text += "exact on chains of the bundled models, whose grammar it knows; "
        if note := entry.get("note"):
            text = f"{note} "
        elif same is True:
            text += (
                "it also labelled the chains that the directions come from, so that a mistake "
                "it makes in both places can pass for an effect. "
            )
        elif same is False:
            text += "it did not label the chains that the directions come from. "
        else:
            text += "whether it labelled the chains that the directions come from is not known. "
        text += f"Agreement: {agreement}." if agreement else "No agreement was measured."
        texts.append(text)
    return texts


def censored_texts(generations: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """What was cut off or left out, and what that does to the numbers."""
    chains = generations.drop_duplicates(["condition", "task", "sample"])
    cut, open_ = int(chains["truncated"].sum()), int((~chains["closed"].astype(bool)).sum())
    empty = int((generations["sentences"] == 0).sum())
    unchecked = int(chains["correct"].isna().sum())
    texts = [
        f"{counted(len(chains), 'chain')} in all; {cut:,} ({percent(cut / max(len(chains), 1))}) "
        "were cut off by the limit on tokens. They are censored, not dropped: rates are per "
        "sentence written and hold for them too, but a count per chain is a lower bound there, "
        "and an answer that was never reached counts as not given.",
        f"{open_:,} chains never closed their thinking section.",
    ]
    if empty:
        texts.append(
            f"{counted(empty, 'row')} of a chain without a single sentence add nothing to either "
            "side of a rate."
        )
    if unchecked == len(chains):
        texts.append("No answer could be checked, so there is no accuracy.")
    elif unchecked:
        texts.append(
            f"The answers of {counted(unchecked, 'chain')} could not be checked; accuracy is over "
            "the others."
        )
    listed = [name for name in ("skipped", "left_out", "unpaired") if settings.get(name)]
    return texts + [
        f"{name.replace('_', ' ').capitalize()}: {_text(settings[name])}." for name in listed
    ]


def censored_grid(generations: pd.DataFrame) -> Grid:
    """By condition: chains, tasks, cut off, not closed, empty, unparsed, answers checked."""
    first = generations[generations["annotator"] == generations["annotator"].iloc[0]]
    import pandas as pd

    keys = pd.Series([_group(row) for row in first.to_dict("records")], index=first.index)
    rows = []
    for (head, behavior), part in first.groupby(keys, sort=False):
        n, spans = len(part), int(part["sentences"].sum())
        lost = int(part["spans:unparsed"].fillna(0).sum()) if "spans:unparsed" in part else 0
        cut, closed = int(part["truncated"].sum()), int(part["closed"].sum())
        rows.append(
            Row(
                head,
                (
                    Cell(whole(part["condition"].nunique())),
                    Cell(whole(part["task"].nunique())),
                    Cell(whole(n)),
                    Cell(whole(cut), percent(cut / n)),
                    Cell(whole(n - closed), percent((n - closed) / n)),
                    Cell(whole((part["sentences"] == 0).sum())),
                    Cell(percent(lost / spans) if spans else MISSING),
                    Cell(whole(part["correct"].notna().sum())),
                ),
                color_of(behavior),
            )
        )
    return Grid(
        "What was written, and what of it is censored or empty; unparsed: sentences that the "
        f"annotator ({first['annotator'].iloc[0]}) did not know",
        (
            "condition",
            "conditions",
            "tasks",
            "chains",
            "cut off",
            "not closed",
            "no sentence",
            "unparsed",
            "answers checked",
        ),
        tuple(rows),
        "generations",
    )


def _group(row: Mapping[str, Any]) -> tuple[str, str]:
    """Controls by kind, behaviour and coefficient; everything else by its condition."""
    behavior = row["behavior"] if isinstance(row["behavior"], str) else ""
    if row["kind"] == "steered":
        return f"{behavior} {coefficient(row['coefficient'])}", behavior
    kind = _KINDS.get(row["kind"], str(row["kind"]))
    if row["kind"] in ("random", "shuffled"):
        size = coefficient(row["coefficient"])
        at = f"±{size[1:]}" if row["kind"] == "random" else size
        return f"{kind}{f' for {behavior}' if behavior else ''}, {at}", behavior
    return (f"{behavior}, {kind}" if behavior else kind), behavior


def setting_rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every setting by its path, as text; lists of many entries are counted."""
    return [(name, _text(value)) for name, value in _flat(settings)]


def vectors_rows(vectors: SteeringVectors | None) -> list[tuple[str, str]]:
    """The same for where the directions come from, and the hash of each of them."""
    if vectors is None:
        return []
    digests = {f"direction {name}": d.digest for name, d in vectors.items()}
    return [(name, _text(value)) for name, value in _flat({**vectors.provenance, **digests})]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in sorted(settings):
        value = settings[name]
        if isinstance(value, Mapping) and len(value) > _LONG:
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
            for number, entry in enumerate(value, start=1):
                yield from _flat({str(number): entry}, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(value[name])}" for name in sorted(value)) or "none"
    if isinstance(value, list | tuple):
        shown = ", ".join(_text(entry) for entry in value[:_LONG])
        return shown + (f" ... {len(value):,} in all" if len(value) > _LONG else "") or "none"
    return str(value)
