"""What the comparison with published directions comes to, and the page of `make published`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd


def summary(table: pd.DataFrame, shuffled: pd.DataFrame) -> pd.DataFrame:
    """One row a behaviour and layer.

    ``cosine`` with the same behaviour's published direction, with ``low`` and ``high`` (published
    means come without halves, so it can't be corrected for noise); ``others`` and
    ``others_highest``: mean and largest cosine with other behaviours'; ``shuffled``,
    ``shuffled_low``, ``shuffled_high``: mean, least and largest cosine of directions of shuffled
    labels with the same behaviour's; ``beyond``: whether the cosine exceeds every one of both.
    """
    rows = []
    for (name, layer), part in table.groupby(["behavior_a", "layer"], sort=False):
        same = part[part.matched]
        if same.empty:
            continue
        own, others = same.iloc[0], part[~part.matched].cosine.dropna()
        drawn = shuffled[
            shuffled.matched & (shuffled.behavior_a == name) & (shuffled.layer == layer)
        ].cosine
        rows.append(
            {
                "behavior": name,
                "layer": int(layer),
                "cosine": own.cosine,
                "low": own.low,
                "high": own.high,
                "others": others.mean(),
                "others_highest": others.max(),
                "shuffled": drawn.mean(),
                "shuffled_low": drawn.min(),
                "shuffled_high": drawn.max(),
                "beyond": bool(own.cosine > max(others.max(), drawn.max())),
            }
        )
    return pd.DataFrame(rows)


def markdown(content: Mapping[str, Any], found: pd.DataFrame) -> str:
    """The results page; every figure is taken from the data."""
    layer = content["layer"]
    lines = [
        "# Does a model share its directions with published ones?",
        "",
        f"Made by `make published`. {content['model']} ({content['dtype']}) against the published "
        f"means of {content['published']}, contrast `{content['contrast']}` on both sides. "
        f"{content['chains']} annotated chains of the latter, the first "
        f"{content['tokens_per_chain']} tokens of each "
        f"({content['thinking_tokens']:,} thinking tokens, "
        f"{sum(content['spans'].values()):,} spans), read by the former.",
        "",
        f"At layer {layer}. Interval: of the cosine that unlimited data would give, 95 %, from the "
        "bootstrap cone of the first side; the published side is taken as it stands. Others: the "
        "published directions of the other behaviours, mean (largest). Shuffled: labels shuffled "
        f"within chains, mean of {content['shuffles']} shuffles (least to largest). Chance: 95 of "
        f"100 random directions stay within {content['chance']:.2f}.",
        "",
        "| behaviour | spans | cosine | interval | others | shuffled |",
        "|---|---|---|---|---|---|",
    ]
    at = found[found.layer == layer]
    lines += [
        f"| {r.behavior} | {content['spans'][r.behavior]:,} | {r.cosine:.2f} | "
        f"{r.low:.2f} to {r.high:.2f} | "
        f"{r.others:.2f} ({r.others_highest:.2f}) | "
        f"{r.shuffled:.2f} ({r.shuffled_low:.2f} to {r.shuffled_high:.2f}) |"
        for r in at.itertuples()
    ]
    lines += [
        "",
        f"At layer {layer} the cosine exceeds every shuffle and every other behaviour for "
        f"{int(at.beyond.sum())} of {len(at)} behaviours; over all {found.layer.nunique()} layers, "
        f"in {int(found.beyond.sum())} of {len(found)} cases.",
        "",
        "![Cosines by layer, with those of other behaviours and of shuffled labels.]"
        "(published.png)",
        "",
        "Both sides were made from chains that the published model wrote: what the "
        "text alone brings with it is shared. The controls share it too, which is why they are "
        "what to compare with, not zero.",
        "",
        f"Reading took {content['seconds']:,.0f} s. "
        + ", ".join(f"{key} {value}" for key, value in content["machine"].items())
        + ".",
        "",
    ]
    return "\n".join(lines)
