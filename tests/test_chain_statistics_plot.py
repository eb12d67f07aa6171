"""The figure shows every number of the tables, and no text lies on another."""

from __future__ import annotations

import pytest

from steerkit.chain_statistics import describe_chains
from steerkit.chain_statistics_plot import plot_chain_statistics
from steerkit.plots import figure_bytes
from tests.test_chain_statistics import D, chain, markov
from tests.tiny import tiny_traces

GROUPS = {"tiny": tiny_traces(20), "planted": markov(30), "more": markov(25, seed=1)}


@pytest.fixture(scope="module")
def found():
    return describe_chains({name: GROUPS[name] for name in ("tiny", "planted")})


@pytest.fixture(scope="module")
def figure(found):
    return plot_chain_statistics(found)


def test_points_are_shares_and_positions(found, figure) -> None:
    shares, positions = figure.axes[:2]
    for axes, table, value in (
        (shares, found.shares.query("unit == 'spans'"), "share"),
        (positions, found.positions, "mean"),
    ):
        points = {line.get_gid(): line for line in axes.lines if line.get_gid()}
        drawn = 0
        for row in table.to_dict("records"):
            line = points.get(f"{row['group']} {row['behavior']}")
            if line is None:
                assert not row["count"]
                continue
            drawn += 1
            assert line.get_xdata()[0] == pytest.approx(row[value])
        assert drawn == len(points) >= 8
    assert "share" in shares.get_xlabel() and "thinking" in positions.get_xlabel()


def test_matrices_hold_shares_and_counts_of_every_group(found, figure) -> None:
    for axes, group in zip(figure.axes[2:], found.groups, strict=True):
        assert axes.get_title(loc="left") == f"What follows what: {group}"
        shown, counts = found.matrix(group), found.matrix(group, "count")
        texts = {text.get_position(): text for text in axes.texts}
        seconds = [label.get_text() for label in axes.get_xticklabels()]
        firsts = [label.get_text() for label in axes.get_yticklabels()]
        written = 0
        for i, first in enumerate(firsts):
            for j, second in enumerate(seconds):
                if first not in shown.index or not counts.loc[first, second]:
                    assert (j, i - 0.12) not in texts
                    continue
                written += 1
                assert texts[j, i - 0.12].get_text() == f"{shown.loc[first, second]:.2f}"
                assert texts[j, i + 0.25].get_text() == f"{counts.loc[first, second]:,}"
        assert written * 2 == len(axes.texts)


def test_bold_are_transitions_that_are_more_frequent_than_by_chance(found, figure) -> None:
    axes = figure.axes[3]
    rows = found.transitions.query("group == 'planted' and count > 0")
    telling = rows[rows["low"] > rows["expected"]]
    bold = [text for text in axes.texts if text.get_fontweight() == "bold"]
    assert 0 < len(bold) == len(telling) < len(rows)


@pytest.mark.parametrize("names", [["tiny"], ["tiny", "planted"], ["tiny", "planted", "more"]])
def test_texts_keep_off_each_other_and_inside_the_figure(names) -> None:
    figure = plot_chain_statistics(describe_chains({name: GROUPS[name] for name in names}))
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    panels = [axes.get_tightbbox(renderer) for axes in figure.axes]
    boxes = [artist.get_window_extent(renderer) for artist in (*figure.legends, *figure.texts)]
    for i, box in enumerate((*boxes, *panels)):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, i
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, i
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in (*panels, *boxes[i + 1 :])), i
    for i, panel in enumerate(panels):
        assert not any(panel.overlaps(other) for other in panels[i + 1 :]), i


def test_the_caption_tells_what_was_counted_and_left_out() -> None:
    cut = chain([D, D], 9, metadata={"truncated": True})
    figure = plot_chain_statistics(describe_chains([*markov(5), cut]))
    words = " ".join(figure.texts[-1].get_text().split())
    assert "6 chains of 6 tasks" in words and "1 chains cut off" in words
    assert "labelled by unknown" in words and "quartiles" in words


def test_the_same_tables_give_the_same_bytes(found, figure) -> None:
    first = figure_bytes(figure, "png")
    assert figure_bytes(plot_chain_statistics(found), "png") == first
    other = plot_chain_statistics(describe_chains(GROUPS["more"]))
    assert figure_bytes(other, "png") != first
