"""The results page and the figure of `make effect`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from steerkit.behaviors import behavior

RANDOM = "#999999"


def _with_interval(row: pd.Series, name: str, form: str = "{:.2f}") -> str:
    value, low, high = (form.format(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value} ({low} to {high})"


def _share(row: pd.Series, name: str) -> str:
    return f"{100 * row[name]:.0f} %"


def markdown(summary: pd.DataFrame, result: Mapping[str, Any]) -> str:
    """The results as a page; the README shows its table."""
    verdict, name = result["verdict"], result["behavior"]
    tested = verdict["coefficient"]
    lines = [
        f"| direction | coefficient | {name} sentences per chain | change, paired | accuracy "
        "| tokens | closed | parsed | zlib |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    own = summary[summary.direction.isin(["none", name])].sort_values("coefficient")
    for _, row in own.iterrows():
        baseline = row["direction"] == "none"
        change = "" if baseline else _with_interval(row, f"{name}_change", "{:+.2f}")
        label = "unsteered" if baseline else name
        lines.append(
            f"| {label} | {row['coefficient']:+g} | {_with_interval(row, name)} | {change} "
            f"| {_share(row, 'correct')} | {row['tokens']:.0f} | {_share(row, 'closed')} "
            f"| {_share(row, 'parsed')} | {row['zlib']:.2f} |"
        )
    for sign in (-1, 1):
        at = summary[
            summary.direction.str.startswith("random") & (summary.coefficient == sign * tested)
        ]
        changes = at[f"{name}_change"]
        lines.append(
            f"| {len(at)} random | {sign * tested:+g} | {at[name].mean():.2f} on average "
            f"| {changes.min():+.2f} to {changes.max():+.2f} | {100 * at['correct'].mean():.0f} % "
            f"| {at['tokens'].mean():.0f} | {100 * at['closed'].mean():.0f} % "
            f"| {100 * at['parsed'].mean():.0f} % | {at['zlib'].mean():.2f} |"
        )
    minus, plus = verdict["minus"], verdict["plus"]
    pushes = summary[summary.direction.str.startswith("random")][f"{name}_change"].abs()
    smaller = min(abs(minus["change"]), abs(plus["change"]))
    said = "both hold" if verdict["holds"] else "this does not hold"
    lines += [
        "",
        f"{result['tasks']} held-out tasks, one chain each at temperature 1, the same noise under "
        f"every condition; layer {result['layer']} (chosen on other tasks), contrast "
        f"`{result['contrast']}`, every position; coefficients in mean norms of the residual "
        "stream. 95 % bootstrap intervals over tasks. "
        + _choice(result)
        + f"{tested:g}: the change has the right sign and its interval excludes zero, and it "
        f"exceeds that of each of {plus['random_directions']} random directions of the same norm "
        f"at that sign (largest: {minus['largest_random']:.2f} and "
        f"{plus['largest_random']:.2f}): {said}. Of all {len(pushes)} random pushes, both signs "
        f"together, {int((pushes >= smaller).sum())} moved it as far as the smaller of the two "
        f"effects, {smaller:.2f}. "
        "*Parsed*: sentences that the exact grammar knows; *zlib*: compressed over plain size, "
        "lower is more repetitive.",
        "",
    ]
    return "\n".join(lines)


def _choice(result: Mapping[str, Any]) -> str:
    """How the tested coefficient came about."""
    if result.get("chosen_on") is None:
        return "Tested at both signs of "
    return (
        "Tested at both signs of the largest coefficient at which chains on other tasks stay "
        f"fluent (closed, and sentences known to the grammar, at least {result['fluent']:.0%} "
        "at both signs), "
    )


def draw(summary: pd.DataFrame, result: Mapping[str, Any]) -> Figure:
    """Behaviour per chain over the coefficient, controls beside it; then the side effects."""
    name, tested = result["behavior"], result["verdict"]["coefficient"]
    color = behavior(name).color
    figure = Figure(figsize=(9.6, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    own = summary[summary.direction.isin(["none", name])].sort_values("coefficient")
    controls = summary[summary.direction.str.startswith("random")]
    x = own["coefficient"]
    spread = [own[name] - own[f"{name}_low"], own[f"{name}_high"] - own[name]]
    left.scatter(
        controls["coefficient"],
        controls[name],
        s=14,
        color=RANDOM,
        alpha=0.7,
        zorder=2,
        label=f"{result['verdict']['plus']['random_directions']} random directions",
    )
    left.errorbar(
        x,
        own[name],
        spread,
        color=color,
        marker="o",
        capsize=3,
        zorder=3,
        label=f"{name} direction",
    )
    baseline = float(own.loc[own["coefficient"] == 0, name].iloc[0])
    left.axhline(baseline, color="black", linewidth=0.8, linestyle=":", zorder=1)
    left.set(
        xlabel="coefficient (mean norms of the residual stream)",
        ylabel=f"{name} sentences per chain",
        ylim=(0, None),
    )
    left.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.52, 0.02))
    for measure, label, style, scale in (
        ("correct", "right answers", "-", 100),
        ("closed", "chains closed", "--", 100),
        ("parsed", "sentences the grammar knows", ":", 100),
    ):
        right.plot(x, scale * own[measure], style, marker="o", markersize=4, label=label)
    right.set(
        xlabel="coefficient (mean norms of the residual stream)",
        ylabel="share (%)",
        ylim=(0, 104),
    )
    right.legend(frameon=False, fontsize=8, loc="center", bbox_to_anchor=(0.5, 0.76))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{result['model']}, layer {result['layer']}: {result['tasks']} held-out tasks, one chain "
        "each under every condition, same noise.\nBars: 95 % bootstrap intervals over tasks. "
        f"Random directions have the same norm (at {-tested:+g} and {tested:+g}).",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    return figure
