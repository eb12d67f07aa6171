"""The figure of a training run: what stands in the log, and nothing over anything else."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from steerkit.behaviors import behaviors
from steerkit.plots import save_figure
from steerkit.training.plots import plot_training
from steerkit.training.rl import log_columns


def made(rows=40, kinds=("countdown-3", "rules")):
    draw = np.random.default_rng(0)
    log = pd.DataFrame({name: draw.random(rows) for name in log_columns()})
    log["step"] = np.arange(1, rows + 1)
    log["tokens"] = 1000 * log["step"]
    for name in log.columns:
        if name.startswith("heldout"):
            log.loc[log["step"] % 10 != 1, name] = np.nan
        if "accuracy_" in name and name.rpartition("accuracy_")[2] not in kinds:
            log[name] = np.nan
    return log


def curves(figure):
    return {line.get_gid(): line for axes in figure.axes for line in axes.lines if line.get_gid()}


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_curves_are_running_means_in_the_behaviors_own_colors():
    log = made()
    found = curves(plot_training(log))
    for behavior in behaviors():
        line = found[behavior.name]
        assert to_hex(line.get_color()) == behavior.color.lower()
        # 40 rows: a mean over five, the middle one's
        height = log[behavior.name].iloc[18:23].mean()
        assert line.get_xdata()[20] == 21 and line.get_ydata()[20] == pytest.approx(height)
    thin = [line for line in plot_training(log).axes[0].lines if not line.get_gid()]
    np.testing.assert_array_equal(thin[0].get_ydata(), log["reward"])


def test_held_out_points_are_as_measured_and_absent_kinds_are_left_out():
    log = made()
    found = curves(plot_training(log))
    for name in ("heldout_accuracy", "heldout_accuracy_rules"):
        measured = log.loc[[0, 10, 20, 30], name]
        np.testing.assert_array_equal(found[name].get_ydata(), measured)
        assert list(found[name].get_xdata()) == [1, 11, 21, 31]
    assert "accuracy_rules" in found and "accuracy_countdown-4" not in found


def test_a_supervised_run_shows_its_loss_as_it_is():
    log = pd.DataFrame({"step": [50, 100, 150], "tokens": [1, 2, 3], "loss": [5.0, 2.0, 1.0]})
    log["heldout_loss"] = [np.nan, 1.9, np.nan]
    log["accuracy"] = np.nan
    figure = plot_training(log)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["Loss"]
    np.testing.assert_array_equal(curves(figure)["loss"].get_ydata(), log["loss"])
    assert "reward" not in curves(figure) and "loss" not in curves(plot_training(made()))


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_texts_keep_off_the_panels_and_off_each_other(rows):
    log = made(rows)
    for behavior in behaviors():
        log[behavior.name] = 0.1  # all end at one height
    figure = plot_training(log)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    panels = [axes.get_window_extent(renderer) for axes in figure.axes]
    boxes = [
        text.get_window_extent(renderer)
        for texts in (figure.texts, *(axes.texts for axes in figure.axes))
        for text in texts
    ]
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in (*panels, *boxes[i + 1 :]))
    for axes in figure.axes:
        assert axes.get_xlabel() == "optimizer step" and axes.get_ylabel()
    assert any(f"{rows} rows of the log" in text.get_text() for text in figure.texts)
    (behaviours,) = [a for a in figure.axes if a.get_title(loc="left") == "Behaviours"]
    assert {b.short or b.name for b in behaviors()} < set(texts(behaviours))


def test_same_log_same_bytes(tmp_path):
    first = save_figure(plot_training(made()), tmp_path / "a.png").read_bytes()
    assert save_figure(plot_training(made()), tmp_path / "b.png").read_bytes() == first
    other = save_figure(plot_training(made(39)), tmp_path / "c.png")  # positive control
    assert other.read_bytes() != first
