"""Sections: what stands under each heading of the page, in the order of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.report.checks import range_text
from steerkit.report.claims import SIGNS, Claim, claims, verdict_grid
from steerkit.report.effect_grids import control_grid, curve_grid, effect_grid, specificity_grid
from steerkit.report.examples import Example, find_examples
from steerkit.report.grids import Grid, records
from steerkit.report.numbers import coefficient, counted, listed, percent, points, short_name
from steerkit.report.pictures import Picture, picture, write_figure

if TYPE_CHECKING:
    from steerkit.evaluation.record import Evaluation


@dataclass(frozen=True)
class Section:
    """A heading and what is under it; ``id`` is its anchor."""

    id: str
    title: str
    texts: Sequence[str] = ()
    claims: Sequence[Claim] = ()
    pictures: Sequence[Picture] = ()
    grids: Sequence[Grid] = ()
    examples: Sequence[Example] = ()
    code: str = ""
    notes: Sequence[str] = ()
    settings: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Scope:
    """What every section is made from.

    Attributes
    ----------
    evaluation:
        The evaluation that is shown.
    folder:
        Of the page, into which its figures go.
    annotators:
        All who labelled, the one whose labels the claims are shown by first.
    examples:
        How many examples of every behaviour.
    labeller:
        What labels the examples' chains: a name or an annotator.
    """

    evaluation: Evaluation
    folder: Path
    annotators: tuple[str, ...]
    examples: int
    labeller: Any = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the evaluation."""
        return self.evaluation.settings

    @property
    def first(self) -> str:
        """Whose labels the claims are shown by."""
        return self.annotators[0]

    def named(self, name: str, annotator: str) -> str:
        """A name for files: those of further annotators carry theirs."""
        return name if annotator == self.first else f"{name}-{short_name(annotator)}"


def claims_section(scope: Scope) -> Section:
    """The claim and the verdict of every behaviour."""
    return Section(
        "claims",
        "Claims and verdicts",
        [
            "A claim holds when all four of these do: the change is more than chance (p below "
            "0.05, adjusted for all claims that were tested); it exceeds every control direction; "
            "the controls move the rate by at most a quarter of it; and the coefficient lies "
            "where text stays whole. The coefficients were fixed before any of these tasks was "
            "run. Whether a claim reaches its target (twice the rate, or 0.4 times) is a separate "
            "question.",
        ],
        claims=claims(scope.evaluation, scope.first),
        grids=[verdict_grid(scope.evaluation)],
    )


def dose_section(scope: Scope) -> Section:
    """Dose-response figures, and the shape of each curve."""
    from steerkit.evaluation.dose_response_plot import plot_dose_response

    found, settings = scope.evaluation, scope.settings
    # one figure for all behaviours is kept as a file; on a phone one by one is read more easily
    whole = plot_dose_response(found.rates, found.controls, settings, annotator=scope.first)
    write_figure(whole, scope.folder, "dose_response")
    pictures = []
    for annotator in scope.annotators:
        rates = found.rates[found.rates["annotator"] == annotator]
        steered = rates[(rates["kind"] == "steered") & (rates["label"] == rates["behavior"])]
        for name in dict.fromkeys(steered["behavior"]):
            mine = rates[(rates["behavior"] == name) | (rates["kind"] == "baseline")]
            against = found.controls[found.controls["behavior"] == name]
            pictures.append(
                picture(
                    plot_dose_response(mine, against, settings, annotator=annotator),
                    scope.folder,
                    scope.named(f"dose_response-{name}", annotator),
                    f"Rate of {name} over the coefficient, labelled by {short_name(annotator)}.",
                    "",
                    _dose_alt(name, records(steered, behavior=name, measure="spans")),
                )
            )
    return Section(
        "dose",
        "Dose and response",
        [
            "Every behaviour's own rate as its direction is pushed from strongly against to "
            "strongly along. All coefficients of one task and sample saw the same noise, so that "
            "differences are paired. Intervals are of 95\u00a0%; bands show what control "
            "directions of the same length do at the coefficients where claims are tested."
        ],
        pictures=pictures,
        grids=[curve_grid(found)],
    )


def controls_section(scope: Scope) -> Section:
    """Control directions and the prompt."""
    settings = scope.settings
    run = settings.get("controls", {})
    texts = [
        f"{counted(int(run.get('random', 0)), 'random direction')} and "
        f"{counted(int(run.get('shuffled', 0)), 'direction')} from the same chains with labels "
        "shuffled within each chain, as long as the behaviour's own and at the same layer, pushed "
        "as far. Compared on the tasks that the controls ran on."
    ]
    if settings.get("vectors", {}).get("contrast") == "overall":
        texts.append(
            "Under the contrast 'overall' directions of shuffled labels keep what starts of spans "
            "have in common, whatever their label: they are a harder control than chance."
        )
    asked = (scope.evaluation.generations["kind"] == "prompt").any()
    texts.append(
        "What steering must justify itself against, on models that take instructions, is a prompt "
        "that simply asks for the behaviour"
        + (": the last column, without any steering." if asked else f". {_not_asked(settings)}")
    )
    return Section(
        "controls", "Controls", texts, grids=[control_grid(scope.evaluation, scope.first)]
    )


def specificity_section(scope: Scope) -> Section:
    """What else moves."""
    from steerkit.evaluation.specificity_plot import plot_specificity

    table = scope.evaluation.specificity
    pictures = [
        picture(
            plot_specificity(table, annotator=name),
            scope.folder,
            scope.named("specificity", name),
            f"What steering one behaviour does to the others, labelled by {short_name(name)}.",
            "Rows: the behaviour that is steered. Columns: the one that is counted. Change of its "
            "share of sentences, in points.",
            _specificity_alt(records(table, annotator=name)),
        )
        for name in scope.annotators
    ]
    return Section(
        "specificity",
        "What else it moves",
        [
            "Shares add up to one: where one behaviour is written more, others must be less. Room "
            "is the change that this alone would make, were every other label to lose or gain in "
            "proportion; what goes beyond it is moved by the direction."
        ],
        pictures=pictures,
        grids=[specificity_grid(scope.evaluation, scope.first)],
    )


def cost_section(scope: Scope) -> Section:
    """Side effects, beside the rate of every condition."""
    from steerkit.evaluation.side_effect_plot import plot_side_effects

    found = scope.evaluation
    ranges = scope.settings.get("ranges", {})
    fluent = [
        f"{name} {range_text(entry['fluent'])}"
        for name, entry in ranges.items()
        if entry.get("fluent")
    ]
    texts = [
        "Changes are against the unsteered chains of the same tasks. Zlib ratio: compressed over "
        "plain size, lower is more repetitive. Loop: tokens of the longest passage that repeats "
        "one n-gram. KL: how far predictions move on unsteered text."
    ]
    if fluent:
        texts.append(
            f"Fluent ranges: {listed(fluent)}. Rows outside are in italics and grey: text there "
            "is not what the model usually writes, and no claim rests on it."
        )
    figure = picture(
        plot_side_effects(found.side_effects, scope.settings),
        scope.folder,
        "side_effects",
        "Side effects over the coefficient.",
        "Accuracy, endings, length and repetition; 95\u00a0% intervals over tasks.",
        _cost_alt(records(found.side_effects, annotator=scope.first, measure="accuracy")),
    )
    return Section(
        "cost",
        "What it costs",
        texts,
        pictures=[figure],
        grids=[effect_grid(found, name) for name in scope.annotators],
    )


def examples_section(scope: Scope) -> Section:
    """Chains of one task at several coefficients."""
    found = find_examples(scope.evaluation, scope.examples, scope.first, scope.labeller)
    texts = [
        "The same task under the same noise at several coefficients. They are chosen by a rule: "
        "shown are the chains whose change is nearest to the median change of all, not the best "
        "ones. Behaviours are underlined in their colours, what the annotator did not know is "
        "dashed."
    ]
    return Section("examples", "Examples", texts, examples=found)


def _not_asked(settings: Mapping[str, Any]) -> str:
    words = settings.get("unreadable") or ()
    if not words:
        return "None was tried here."
    return f"None was tried here: the model cannot read {listed([repr(str(w)) for w in words])}."


def failed(section: Section, why: object) -> Section:
    """A section that could not be made, and why: a page with a gap is better than none."""
    return replace(section, texts=[f"Not shown: {why}"])


def _dose_alt(name: str, rows: list[dict[str, Any]]) -> str:
    rows = sorted(rows, key=lambda row: row["coefficient"])
    values = [f"{percent(row['value'])} at {coefficient(row['coefficient'])}" for row in rows]
    return f"Dose-response curve of {name}: {', '.join(values)}."


def _specificity_alt(rows: list[dict[str, Any]]) -> str:
    strongest = []
    for name in dict.fromkeys((row["behavior"], row["sign"]) for row in rows):
        others = [
            row
            for row in rows
            if (row["behavior"], row["sign"]) == name and row["label"] != row["behavior"]
        ]
        if others:
            most = max(others, key=lambda row: abs(row["change"]))
            strongest.append(
                f"{name[0]} {SIGNS.get(name[1], name[1])} moves {most['label']} most, by "
                f"{points(most['change'])} points"
            )
    return f"Heatmap of changes. Besides the behaviour itself, {'; '.join(strongest)}."


def _cost_alt(rows: list[dict[str, Any]]) -> str:
    values = [
        f"{percent(row['value'])} under {row['condition']}"
        for row in rows
        if row["kind"] in ("baseline", "steered")
    ]
    said = f" Accuracy: {', '.join(values)}." if values else ""
    return f"Curves of side effects over the coefficient.{said}"
