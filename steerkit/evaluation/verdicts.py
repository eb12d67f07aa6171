"""Verdicts: whether steering a behaviour up or down is more than chance, and than any push.

A claim is that a behaviour's direction amplifies it, or suppresses it, at the headline
coefficient, which was fixed before any task of the evaluation was run. It holds if

1. the change is in the claimed direction and not one of chance: the paired sign-flip test over
   tasks, two-sided and Holm-adjusted over all claims, gives p < 0.05;
2. it exceeds that of every random and every label-shuffled direction of the same length, at
   the same layer, on the same tasks, in the claimed direction;
3. the mean size of these controls' changes, of either kind, is at most a quarter of it;
4. the coefficient lies inside the range in which text was found to stay fluent.

The first says that this direction does something here, the second that an arbitrary push of
the same length does not do it too: among n + 1 exchangeable directions the claimed one is first
with a chance of 1 / (n + 1).

The third needs text. Where controls do nothing, their changes still have a mean size of about
0.8 sqrt(2 r (1 - r) / n) for a rate of r and n independent sentences a condition; for this to be
a quarter of an effect e, n must be 20 r (1 - r) / e^2: for a fall from 10 to 4 % 500 sentences,
and two or three times as many as sentences of a chain are alike. With fewer a claim fails for
want of text, which is no evidence against it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from steerkit.evaluation.claims import SAME, SIGNS, Claim, claims
from steerkit.evaluation.effects import CONTROLS, NUMBERS, effect_numbers
from steerkit.evaluation.pooled import Pooled, cells, pool, share
from steerkit.evaluation.resampling import ends, rates_drawn
from steerkit.statistics import holm

TARGETS = {"amplify": 2.0, "suppress": 0.4}
"""Ratios to the unsteered rate that a strong effect reaches; no part of the verdict."""
LEVEL, MOST_CONTROL, FEWEST_CONTROLS = 0.05, 0.25, 19
"""p, size of controls over that of the effect, and controls (both kinds) for a verdict: to
exceed fewer than 19 is chance in more than one of 20 cases."""

_CLAIM = ["annotator", "behavior", "sign", "condition", "layer", "coefficient"]
_AGAINST = ["", "_beaten", "_mean", "_most", "_p"]
_VERDICT = [
    *_CLAIM,
    "relation",
    "base",
    "rate",
    *NUMBERS[:6],
    "target",
    "meets_target",
    "effect_size",
    "tasks",
    "unpaired",
    "p",
    "p_holm",
    "control_tasks",
    "control_change",
    *(kind + what for kind in CONTROLS for what in _AGAINST),
    "significant",
    "exceeds",
    "specific",
    "fluent",
    "holds",
    "reason",
]
_CONTROL = [
    *_CLAIM[:3],
    "kind",
    "control",
    *_CLAIM[3:],
    "tasks",
    "change",
    "low",
    "high",
    "steered",
    "exceeded",
]


def verdicts(generations: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Whether each claim holds: a behaviour is amplified, or suppressed, by its direction.

    Parameters
    ----------
    generations:
        One row a generation and annotator, with the columns of ``generations.csv``; claims are
        the steered conditions marked ``headline``.
    settings:
        ``settings["ranges"][behavior]["fluent"]``, the range found on other tasks, is read. No
        claim holds where it is not known. So is ``settings["annotators"]``, for how each stands
        to those that labelled what the directions come from.

    Returns
    -------
    One row an annotator, behaviour and sign (``amplify``, ``suppress``), for behaviours that the
    annotator can give. All numbers are shares of spans:

    - ``relation`` of the annotator (:func:`steerkit.independence.annotator_relation`), missing
      where the settings do not tell; no part of the verdict;
    - ``condition``, ``layer``, ``coefficient``, ``base`` and ``rate`` (unsteered and steered),
      ``change``, ``low``, ``high``, ``ratio``, ``ratio_low``, ``ratio_high``, ``effect_size``,
      ``tasks``, ``unpaired``, ``p`` as in :func:`steerkit.evaluation.effects.effects`, and
      ``p_holm``, adjusted over the annotator's claims;
    - ``target`` (2 or 0.4) and ``meets_target``: whether the ratio reaches it;
    - ``control_tasks`` and ``control_change``: tasks that all controls were run on, and the
      steered change on these; for each kind of control ``random`` (their number),
      ``random_beaten`` (how many the claim exceeds), ``random_mean`` (mean size of their
      changes), ``random_most`` (the furthest in the claimed direction), ``random_p``
      ((1 + those not exceeded) / (1 + all)); the same with ``shuffled``;
    - ``significant``, ``exceeds``, ``specific``, ``fluent`` (missing where no range is known):
      the four conditions; ``holds``; ``reason``: all that speaks against it, else empty.

    With fewer than 19 controls of both kinds together no claim holds: to exceed them all would
    not be improbable enough. Do not choose coefficients by these numbers and test them again on
    the same tasks. Raises :class:`StatisticsError` for what is no table of generations.
    """
    ranges = settings.get("ranges") or {}
    fluent = {name: (found or {}).get("fluent") for name, found in ranges.items()}
    related = {e["name"]: e.get("relation") for e in settings.get("annotators") or ()}
    rows = [
        {**row, "relation": related.get(pooled.annotator)}
        for pooled in pool(generations)
        for row in judged(pooled, fluent)
    ]
    return pd.DataFrame(rows, columns=_VERDICT)


def controls(generations: pd.DataFrame) -> pd.DataFrame:
    """Every control direction beside the claim that it controls for, on the same tasks.

    Returns
    -------
    One row an annotator, behaviour, sign and control direction: ``annotator``, ``behavior``,
    ``sign``, ``kind`` (``random``, ``shuffled``), ``control``, ``condition``, ``layer``,
    ``coefficient`` (of the control), ``tasks``, ``change`` of the behaviour's share of spans
    against the baseline, ``low``, ``high`` (95 % over tasks), ``steered`` (the change by the
    behaviour's own direction on the same tasks), ``exceeded`` (whether that is larger in the
    claimed direction). A random direction stands once for every claim that it controls for.
    """
    rows = [row for pooled in pool(generations) for row in _control_rows(pooled)]
    return pd.DataFrame(rows, columns=_CONTROL)


def judged(pooled: Pooled, fluent: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of :func:`verdicts` from one annotator's pooled outcomes; fluent ranges by behaviour."""
    made = claims(pooled)
    rows = [_judged(pooled, claim) for claim in made]
    adjusted = holm([1.0 if np.isnan(row["p"]) else row["p"] for row in rows])
    for claim, row, p in zip(made, rows, adjusted, strict=True):
        row["p_holm"] = float(p)
        row["significant"] = bool(p < LEVEL and row["direct"])
        bounds = fluent.get(claim.behavior)
        row["fluent"] = None if bounds is None else _inside(row["coefficient"], bounds)
        row["reason"] = "; ".join(_objections(claim, row))
        enough = sum(row[kind] for kind in CONTROLS) >= FEWEST_CONTROLS
        met = [row[name] for name in ("significant", "exceeds", "specific", "fluent")]
        row["holds"] = bool(enough and all(met))
    return rows


def _judged(pooled: Pooled, claim: Claim) -> dict[str, Any]:
    """What is known of one claim, before the family of claims is looked at."""
    described = pooled.conditions.iloc[claim.row].to_dict()
    numbers = effect_numbers(pooled, claim.behavior, "spans", [claim.row])
    row: dict[str, Any] = {str(name): value for name, value in described.items()}
    row |= {"annotator": pooled.annotator} | {n: v[0].item() for n, v in numbers.items()}
    row["sign"] = SIGNS[claim.sign]
    tasks = np.flatnonzero(pooled.ran[claim.row] & pooled.ran[pooled.baseline])
    tops, bottoms = (part[:, tasks] for part in pooled.fraction(claim.behavior, "spans"))
    rates = share(tops.sum(axis=1), bottoms.sum(axis=1))
    row["base"], row["rate"] = float(rates[pooled.baseline]), float(rates[claim.row])
    shares = share(tops, bottoms)
    differences = shares[claim.row] - shares[pooled.baseline]
    # rates weigh long chains more, the test weighs tasks the same: they must agree
    row["direct"] = bool(claim.sign * row["change"] > 0 and claim.sign * np.nansum(differences) > 0)
    row["target"] = TARGETS[row["sign"]]
    row["meets_target"] = bool(claim.sign * (row["ratio"] - row["target"]) >= 0)
    row["control_tasks"], row["control_change"] = len(claim.tasks), claim.steered
    moved = claim.sign * claim.steered
    for kind in CONTROLS:
        changes = claim.changes[kind]
        signed = claim.sign * changes
        beaten = int((signed < moved).sum())
        row[kind], row[f"{kind}_beaten"] = len(changes), beaten
        row[f"{kind}_p"] = (1 + len(changes) - beaten) / (1 + len(changes))
        some = len(changes) > 0 and not np.isnan(signed).all()
        row[f"{kind}_mean"] = float(np.nanmean(np.abs(changes))) if some else np.nan
        row[f"{kind}_most"] = claim.sign * float(np.nanmax(signed)) if some else np.nan
    row["exceeds"] = all(row[kind] and row[kind] == row[f"{kind}_beaten"] for kind in CONTROLS)
    row["specific"] = all(row[f"{kind}_mean"] <= MOST_CONTROL * moved for kind in CONTROLS)
    return row


def _objections(claim: Claim, row: Mapping[str, Any]) -> Iterator[str]:
    """All that speaks against a claim, in words."""
    moved = claim.sign * claim.steered
    if not row["direct"]:
        yield "the rate did not move in the claimed direction"
    elif not row["significant"]:
        yield f"could be chance: p = {row['p_holm']:.2g} (Holm-adjusted)"
    if row["direct"] and not moved > 0:
        yield "on the tasks of the controls the rate did not move in the claimed direction"
    for kind in CONTROLS:
        number, name = row[kind], f"{kind} direction" + "s" * (row[kind] != 1)
        if not number:
            yield f"no {kind} directions were run"
        elif moved > 0 and row[f"{kind}_beaten"] < number:
            yield f"{number - row[f'{kind}_beaten']} of {number} {name} do as much"
        if number and moved > 0 and not row[f"{kind}_mean"] <= MOST_CONTROL * moved:
            part = 100 * row[f"{kind}_mean"] / moved
            yield f"{kind} directions move it {part:.3g} % as far on average (at most 25 %)"
    number = row["random"] + row["shuffled"]
    if row["random"] and row["shuffled"] and number < FEWEST_CONTROLS:
        yield (
            f"{number} control directions are too few: by chance alone one exceeds them all in "
            f"1 of {number + 1} cases"
        )
    if row["fluent"] is None:
        yield "no range of fluent text is known"
    elif not row["fluent"]:
        yield "outside the range in which text stays fluent"


def _inside(coefficient: float, bounds: Any) -> bool:
    low, high = bounds
    return bool(low - SAME <= coefficient <= high + SAME)


def _control_rows(pooled: Pooled) -> Iterator[dict[str, Any]]:
    for claim in claims(pooled):
        tops, bottoms = pooled.fraction(claim.behavior, "spans")
        for kind in CONTROLS:
            rows = claim.controls[kind]
            if not rows:
                continue
            found = np.full((2, len(rows)), np.nan)
            if len(claim.tasks):
                at = cells([pooled.baseline, *rows], claim.tasks)
                _, drawn = rates_drawn(tops[at], bottoms[at])
                found[:] = ends(drawn[1:] - drawn[:1], len(claim.tasks))
            described = pooled.conditions.iloc[rows].to_dict("records")
            for about, change, low, high in zip(
                described, claim.changes[kind], *found, strict=True
            ):
                yield {
                    **{str(name): value for name, value in about.items()},
                    "annotator": pooled.annotator,
                    "behavior": claim.behavior,
                    "sign": SIGNS[claim.sign],
                    "tasks": len(claim.tasks),
                    "change": float(change),
                    "low": float(low),
                    "high": float(high),
                    "steered": claim.steered,
                    "exceeded": bool(claim.sign * (claim.steered - change) > 0),
                }
