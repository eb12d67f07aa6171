"""`make real-defaults`: swings are those that were planted, and what was not run has no row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from real_defaults import ANNOTATORS, BEHAVIORS, KINDS, PLAIN, compared, counted, markdown

import steerkit as sk
from tests.tiny import tiny_traces

ONSET = ("rest", "1,0")
CONTENT = {
    "model": "m",
    "layer": 17,
    "coefficient": 0.2,
    "chains": 50,
    "tasks": 60,
    "tokens": 320,
}


def planted(pushes: dict[tuple[str, str], float]) -> pd.DataFrame:
    """40 sentences a chain, 4 of each behaviour on average; a push takes or gives that share."""
    rng, parts = np.random.default_rng(0), []
    keys = [PLAIN]
    keys += [(*kind, name, sign) for kind in pushes for name in BEHAVIORS for sign in (-1, 1)]
    for key in keys:
        contrast, window, name, sign = key
        for annotator in ANNOTATORS:
            for task in range(60):
                rates = dict.fromkeys(BEHAVIORS, 4.0)
                if sign:
                    rates[name] *= 1 + sign * pushes[contrast, window]
                row = {b: int(rng.poisson(rate)) for b, rate in rates.items()}
                row |= dict(zip(("contrast", "window", "behavior", "sign"), key, strict=True))
                row |= {"annotator": annotator, "task": f"t{task}", "sentences": 40}
                parts.append(row | {"closed": sign <= 0, "zlib": 0.5})
    return pd.DataFrame(parts)


def test_swings_are_what_was_planted() -> None:
    table = compared(planted({KINDS[0]: 0.5, ONSET: 0.0}))
    found = table[table["behavior"] == "both"].set_index(["annotator", "contrast", "window"])
    assert len(table) == 2 * 2 * 3, "what was not run has no row"
    for annotator in ANNOTATORS:
        pushed, idle = (found.loc[(annotator, *kind)] for kind in (KINDS[0], ONSET))
        assert pushed["swing"] == pytest.approx(1.0, abs=0.15)
        assert pushed["low"] < 1.0 < pushed["high"] and pushed["low"] > 0
        assert abs(idle["swing"]) < 0.2 < 0.5 < pushed["low"]
    row = table[table["behavior"] == BEHAVIORS[0]].iloc[0]
    assert (row["closed down"], row["closed up"]) == (1.0, 0.0)
    assert row["down"] < row["unsteered"] < row["up"]


def test_the_page_has_a_line_a_kind_and_annotator() -> None:
    page = markdown(CONTENT, planted({KINDS[0]: 0.5, ONSET: 0.0}))
    assert page.count("| `rest, 1,10` |") == page.count("| `rest, 1,0` |") == len(ANNOTATORS)
    assert "Unsteered, 100 % of the chains close" in page and "nan" not in page


def test_chains_are_counted_by_both_annotators() -> None:
    traces = sk.Traces(tiny_traces(3))
    table = counted(traces, (*KINDS[0], BEHAVIORS[0], 1))
    assert list(table["annotator"]) == [name for name in ANNOTATORS for _ in traces]
    assert (table["sentences"] > 0).all() and (table["window"] == KINDS[0][1]).all()
    for annotator in ANNOTATORS:
        labels = [s.label for t in sk.annotate(traces, annotator) for s in t.spans]
        mine = table[table["annotator"] == annotator]
        assert int(mine[list(BEHAVIORS)].to_numpy().sum()) == sum(map(labels.count, BEHAVIORS))
