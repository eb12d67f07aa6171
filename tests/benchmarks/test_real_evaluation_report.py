"""What steering recovers is the planted share, and the page says what the tables say."""

from __future__ import annotations

import pytest
import real_evaluation_report
from real_evaluation_report import figure, keep, page, recovered

from tests.evaluations import GRAMMAR, planted_evaluation, stored


def two_models(folder, effect: float = 5.0):
    """A plain model and one whose unsteered chains are those of the plain one steered by 0.2."""
    made = planted_evaluation(folder / "plain", tasks=40, samples=4, controls=1, effect=effect)
    table = made.generations
    others = table[table["condition"] != "baseline"]
    twin = table[table["condition"] == "backtracking+0.20@2"].assign(
        condition="baseline", kind="baseline", behavior=None, layer=None, coefficient=0.0
    )
    assert len(twin)
    import pandas as pd

    from steerkit.evaluation.record import Evaluation

    thinking = Evaluation(
        folder / "thinking", made.settings, pd.concat([twin, others], ignore_index=True)
    )
    return made, thinking


def row_of(found, coefficient: float, behavior: str = "backtracking", measure: str = "spans"):
    rows = found[
        (found["annotator"] == GRAMMAR)
        & (found["behavior"] == behavior)
        & (found["coefficient"] == coefficient)
        & (found["measure"] == measure)
    ]
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_model_steered_to_where_the_other_stands_recovers_all(tmp_path) -> None:
    plain, thinking = two_models(tmp_path)
    found = recovered(plain, thinking)
    same = row_of(found, 0.2)
    # the very same chains: nothing is left to chance
    assert same["recovered"] == pytest.approx(1) and same["low"] == pytest.approx(1)
    more = row_of(found, 0.4)
    assert more["low"] > 1
    assert more["recovered"] == pytest.approx(
        (more["steered"] - more["plain"]) / (more["thinking"] - more["plain"])
    )
    # negative control: where steering does nothing, nothing is brought back
    other = row_of(found, 0.4, "uncertainty-estimation")
    assert not other["low"] > 1


def test_models_that_do_not_differ_have_nothing_to_recover(tmp_path) -> None:
    plain, _ = two_models(tmp_path)
    found = recovered(plain, plain)
    assert found["recovered"].isna().all()
    assert "the models do not differ" in page({"plain": plain, "thinking": plain})


def test_the_page_and_the_figure_show_both_models(tmp_path) -> None:
    plain, thinking = two_models(tmp_path)
    stored(plain)
    text = keep({"thinking": thinking, "plain": plain}, tmp_path / "results")
    assert (tmp_path / "results" / "real_evaluation.md").read_text() == text
    kept = {path.name for path in (tmp_path / "results" / "real_evaluation" / "plain").iterdir()}
    assert "verdicts.csv" in kept and "generations.csv" not in kept
    assert (tmp_path / "results" / "real_evaluation" / "recovered.csv").is_file()
    assert text.count("| backtracking | -0.4 at layer 2 |") == 4  # two models, two annotators
    drawn = figure({"thinking": thinking, "plain": plain})
    curves = [line.get_gid() for axes in drawn.axes for line in axes.lines]
    assert {"thinking backtracking", "plain backtracking"} <= set(curves)
    assert "2 random and shuffled" in drawn.texts[0].get_text().replace("\n", " ")


def test_one_model_alone_has_a_page_without_recovery(tmp_path) -> None:
    plain, _ = two_models(tmp_path)
    assert "bring back" not in real_evaluation_report.page({"plain": plain})
