"""The results page and the figure of `make noise`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from steerkit.behaviors import behaviors
from steerkit.plots import FAINT, GRID, STYLE, ReportFigure

KINDS = {"random": "Wrong at random", "confused": "Wrong as a classifier is"}
ENOUGH = 0.9
DEFAULTS: dict[str, Any] = {
    "tasks": 80,
    "steered_draws": 3,
    "few": 40,
    "coefficient": 0.2,
    "tokens": 448,
}
"""What `make noise` takes where nothing else is asked for."""
NAMES = {
    "tasks": "tasks",
    "steered_draws": "steered draws",
    "few": "chains of the small set",
    "coefficient": "as the coefficient",
    "tokens": "tokens a chain",
}
"""What the page calls these settings."""


def _interval(row: Any, name: str, form: str = "{:.2f}", scale: float = 1.0) -> str:
    values = [getattr(row, key) for key in (name, f"{name}_low", f"{name}_high")]
    if np.isnan(values[0]):
        return "-"
    value, low, high = (form.format(scale * v) for v in values)
    return f"{value} ({low} to {high})"


def _label(kind: str, share: float) -> str:
    if kind == "exact":
        return "exact | 0 %"
    return f"{kind} | {100 * share:.0f} %"


def _table(
    table: pd.DataFrame, names: list[str], cell: Any, *, kappa: bool = False, exact: bool = True
) -> list[str]:
    """One row a kind and share, one column a behaviour."""
    head = ["labels", "wrong", *(["kappa"] if kappa else []), *names]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (kind, share), part in table.groupby(["kind", "share"], sort=False):
        if kind == "exact" and not exact:
            continue
        rows = {row.behavior: row for row in part.itertuples()}
        cells = [_label(str(kind), float(share))]
        if kappa:
            cells.append(f"{part.kappa.iloc[0]:.2f}")
        cells += [cell(rows[name]) if name in rows else "-" for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _kept(row: Any, known: set[str]) -> str:
    """How much is kept of the true labels' effect; nothing where that may be none at all."""
    if row.behavior not in known or np.isnan(row.kept):
        return ""
    return f"; {100 * row.kept:.0f} %"


def _known(table: pd.DataFrame) -> set[str]:
    """Behaviours whose true labels' direction has an effect with an interval without 0."""
    exact = table[(table.kind == "exact") & table.effect.notna()]
    return set(exact[(exact.effect_low > 0) | (exact.effect_high < 0)].behavior)


def _made_by(content: Mapping[str, Any]) -> str:
    """What made these results; settings other than those of `make noise` are named."""
    other = [
        f"{content[name]:g} {said} instead of {DEFAULTS[name]:g}"
        for name, said in NAMES.items()
        if content.get(name, DEFAULTS[name]) != DEFAULTS[name]  # older results lack some
    ]
    return "`make noise`" + (f", but with {', '.join(other)}" if other else "")


def enough(table: pd.DataFrame, names: list[str], kind: str, cosine: float = ENOUGH) -> str:
    """The largest share up to which every named behaviour keeps that cosine on average."""
    part = table[(table.kind == kind) & (table.chains == "all") & table.behavior.isin(names)]
    lowest = part.groupby("share").cosine.min()
    good = [share for share in lowest.index if (lowest[lowest.index <= share] >= cosine).all()]
    return f"{100 * max(good):.0f} %" if good else "none that was tried"


def markdown(content: Mapping[str, Any], table: pd.DataFrame) -> str:
    """The results as a page."""
    every, names = list(content["layers"]), list(content["steered"])
    whole = table[table.chains == "all"]
    small = table[table.chains == str(content["few"])]
    layers = ", ".join(f"{name} {layer}" for name, layer in content["layers"].items())
    shares = ", ".join(f"{name} {100 * s:.0f} %" for name, s in content["shares"].items())
    coverage = ", ".join(
        f"`{kind}` {100 * share:.0f} %"
        for kind, share in content["coverage"].items()
        if kind not in ("exact", *KINDS)
    )
    steps = f"{content['coefficient']:g}"
    known = _known(whole)
    rest = [name for name in names if name not in known]
    unknown = f" (not so for {', '.join(rest)}: this run cannot tell)" if rest else ""
    lines = [
        "# How good does an annotator have to be?",
        "",
        f"{content['model']}, {content['chains']} chains with {content['spans']:,} spans labelled "
        f"exactly ({shares}), contrast `{content['contrast']}`; made by "
        f"{_made_by(content)}. Of the "
        f"labels, 5 to 40 % are wrong, in {content['draws']} draws each. `random`: of every "
        "label the same share, replaced by others as frequent as they are in the chains. "
        "`confused`: mistaken as often, and for which, as the classifier mistakes labels in "
        "plain English, all its rates of error multiplied by one number. `rules` and `classifier` "
        "are the bundled annotators for plain English on these spans, which they were not made "
        f"for (they label {coverage} of them; *wrong* is of those).",
        "",
        f"The largest share of wrong labels up to which {', '.join(names)} all keep a mean cosine "
        f"of {ENOUGH:g} with the directions of the true labels, of those tried: "
        f"{enough(table, names, 'random')} at random, "
        f"{enough(table, names, 'confused')} as a classifier confuses them.",
        "",
        "## Cosine with the direction of the true labels",
        "",
        *_table(whole, every, lambda row: _interval(row, "cosine"), kappa=True, exact=False),
        "",
        f"Same chains, layers chosen by `gradient` ({layers}); mean of the draws, and where 95 % "
        "of them lie. *Kappa* is that of the labels with the true ones.",
        "",
        f"## From {content['few']} chains",
        "",
        *_table(small, every, lambda row: _interval(row, "others")),
        "",
        f"Cosine of the direction from {content['few']} chains (others in every draw) with that "
        "of the true labels of all other chains: few chains and wrong labels together. What "
        "wrong labels cost is the difference to the first row.",
        "",
        "## Steering",
        "",
        *_table(
            whole,
            names,
            lambda row: f"{_interval(row, 'effect', '{:+.1f}', 100)}{_kept(row, known)}",
        ),
        "",
        f"Share of the behaviour's sentences at +{steps} minus that at -{steps} mean norms, in "
        "points, with 95 % bootstrap intervals over tasks; then, where the interval of the true "
        "labels' direction excludes 0, how much that is of what this direction does"
        f"{unknown}. {content['tasks']} select tasks, one chain each at temperature "
        f"1, same noise, every position; {content['steered_draws']} draws together where labels "
        "are drawn. All directions are pushed equally far, however long the difference is.",
        "",
        "![Cosine and effect over the share of wrong labels](label_noise.png)",
        "",
    ]
    return "\n".join(lines)


def draw(content: Mapping[str, Any], table: pd.DataFrame) -> Figure:
    """Cosine above, steering below, over the share of wrong labels; a column a kind of error."""
    colors = {b.name: b.color for b in behaviors()}
    names = list(content["steered"])
    with matplotlib.rc_context(STYLE):
        figure = ReportFigure(figsize=(8.4, 7.4), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, 2, sharex=True, sharey="row")
        figure.subplots_adjust(
            left=0.09, right=0.985, top=0.94, bottom=0.255, wspace=0.1, hspace=0.18
        )
        for column, (kind, title) in enumerate(KINDS.items()):
            part = table[table.kind.isin(["exact", kind])]
            for number, name in enumerate(names):
                own = part[part.behavior == name].sort_values("share")
                color, shift = colors.get(name, "#7f7f7f"), 0.7 * (number - 1)
                for chains, style in (("all", "-"), (str(content["few"]), "--")):
                    curve = own[own.chains == chains]
                    what = "cosine" if chains == "all" else "others"
                    x = 100 * curve.share
                    axes[0, column].plot(x, curve[what], style, color=color, linewidth=1.6)
                    axes[0, column].fill_between(
                        x,
                        curve[f"{what}_low"],
                        curve[f"{what}_high"],
                        color=color,
                        alpha=0.12,
                        linewidth=0,
                    )
                curve = own[(own.chains == "all") & own.effect.notna()]
                spread = [curve.effect - curve.effect_low, curve.effect_high - curve.effect]
                axes[1, column].errorbar(
                    100 * curve.share + shift,
                    100 * curve.effect,
                    100 * np.array(spread),
                    color=color,
                    marker="o",
                    markersize=4,
                    capsize=2.5,
                    linewidth=1.4,
                )
            axes[0, column].set_title(title, loc="left", fontsize=10.5, fontweight="bold")
            axes[1, column].axhline(0, color=FAINT, linestyle=":", linewidth=1)
            axes[1, column].set_xlabel("wrong labels (%)")
        axes[0, 0].set_ylabel("cosine")
        axes[0, 0].set_ylim(top=1.01)
        axes[1, 0].set_ylabel("share of sentences, up minus down (points)")
        for axis in axes.flat:
            axis.grid(axis="y", color=GRID, linewidth=0.8)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        handles = [Line2D([], [], color=colors[n], linewidth=3, label=n) for n in names]
        handles.append(Line2D([], [], color=FAINT, label="all chains, with their true labels"))
        few = f"{content['few']} chains, with true labels of the others"
        handles.append(Line2D([], [], color=FAINT, linestyle="--", label=few))
        figure.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0.07, 0.115),
            ncols=3,
            frameon=False,
            fontsize=8,
        )
        text = (
            f"{content['model']}, {content['chains']} exactly labelled chains, contrast "
            f"{content['contrast']}. Above: cosine of the direction from wrong labels with that "
            f"from true ones, mean and 95 % of {content['draws']} draws. Below: what it does at "
            f"+{content['coefficient']:g} minus -{content['coefficient']:g} mean norms on "
            f"{content['tasks']} select tasks, {content['steered_draws']} draws, 95 % bootstrap "
            "over tasks (points are set apart sideways to be told apart). Right: labels are "
            "confused as the classifier confuses them in plain English, at higher and lower rates."
        )
        figure.text(0.07, 0.105, textwrap.fill(text, width=118), fontsize=8, color=FAINT, va="top")
    return figure
