"""`make layers`: a score that agrees with the sweep is told from one that does not."""

from __future__ import annotations

import layers
import numpy as np
import pandas as pd


def table() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for behavior in ("backtracking", "deduction", "uncertainty-estimation"):
        truth = rng.permutation(8) / 10
        noise = rng.permutation(8) / 10
        for layer in range(8):
            for score, value in (
                ("sweep", truth[layer]),
                ("gain", 3 * truth[layer] + 0.01 * noise[layer]),
                ("auroc", noise[layer]),
                ("gradient", -truth[layer]),
            ):
                row = {"behavior": behavior, "layer": layer, "score": score, "value": value}
                row |= {"low": value - 0.02, "high": value + 0.02, "closed": 1.0, "parsed": 1.0}
                rows.append({**row, "up": value, "down": 0.0, "base": 0.1})
    return pd.DataFrame(rows)


def test_agreement_is_found_where_it_is_planted() -> None:
    found = layers.agreement(table()).set_index("score")
    assert found.correlation["gain"] == 1.0 and found.low["gain"] > 0.9
    assert found.best_two["gain"] == 3 == found.behaviors["gain"] and found.lost["gain"] == 0.0
    assert found.correlation["gradient"] == -1.0 and found.best_two["gradient"] == 0
    assert found.lost["gradient"] == 1.0
    assert abs(found.correlation["auroc"]) < 0.6
    assert (found.low <= found.correlation + 1e-9).all()


def test_the_page_names_every_score_and_layer() -> None:
    scores = table()
    content = {
        "model": "m",
        "tasks": 9,
        "coefficient": 0.2,
        "agreement": layers.agreement(scores).to_dict("records"),
        "chosen": {"sweep": {"backtracking": 3}, "gain": {"backtracking": 3}},
    }
    page = layers.markdown(content, scores)
    assert "| gain | 1.00 (" in page and "3 of 3" in page
    assert page.count("| backtracking |") == 9
