"""The section on the directions: by layer, between one another, and how reliable they are."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from steerkit.evaluation.record import VECTORS
from steerkit.report.checks import range_text
from steerkit.report.grids import Cell, Grid, Row, color_of, records
from steerkit.report.numbers import MISSING, known, percent, plain
from steerkit.report.numbers import whole as count
from steerkit.report.pictures import picture
from steerkit.report.sections import Scope, Section

if TYPE_CHECKING:
    from steerkit.evaluation.record import Evaluation
    from steerkit.vectors import SteeringVectors


def find_vectors(evaluation: Evaluation) -> SteeringVectors | None:
    """The vectors that were evaluated, from the evaluation's folder.

    ``None`` where they are not there, or not those whose hash the settings hold.
    """
    from steerkit.vectors_file import read_vectors

    path = evaluation.folder / VECTORS
    digest = str(evaluation.settings.get("vectors", {}).get("digest", ""))
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest().startswith(digest):
        return read_vectors(path)
    return None


def direction_section(scope: Scope, vectors: SteeringVectors | None) -> Section:
    """Curves over layers, cosines, reliability; from the settings alone without the vectors."""
    section = Section("directions", "The directions")
    if vectors is None:
        grid = _settings_grid(scope.settings.get("vectors", {}).get("behaviours", {}))
        texts = [
            f"The vectors file is not beside this evaluation (as {VECTORS}), so that only what the "
            "settings keep of it is shown."
        ]
        return Section(section.id, section.title, texts, grids=[grid] if grid.rows else [])
    from steerkit.plots import plot_layers

    pictures = [
        picture(
            plot_layers(vectors),
            scope.folder,
            "layers",
            "The directions by layer.",
            "Length, reliability between two halves of the tasks (dashed: the same for shuffled "
            "labels), and how well the projection foretells a span.",
            _layers_alt(vectors),
        )
    ]
    if len(vectors) > 1:
        from steerkit.cosine_plot import plot_cosines

        pictures.append(
            picture(
                plot_cosines(vectors),
                scope.folder,
                "cosines",
                "Cosines between the directions.",
                "Below the diagonal as they are, above it freed of sampling noise.",
                _cosines_alt(vectors),
            )
        )
    texts = [
        "A direction whose halves do not agree, or agree no better than those of shuffled labels, "
        "is not to be trusted, whatever steering along it does."
    ]
    grids = [_grid(vectors)]
    return Section(section.id, section.title, texts, pictures=pictures, grids=grids)


def _grid(vectors: SteeringVectors) -> Grid:
    rows = []
    for row in records(vectors.table()):
        direction = vectors[row["behavior"]]
        cone = None
        if direction.cone is not None and direction.layer is not None:
            cone = float(direction.cone[direction.row(direction.layer)])
        rows.append(
            Row(
                row["behavior"],
                (
                    Cell(count(row["layer"]), direction.chosen_by),
                    Cell(count(row["spans"])),
                    Cell(count(row["tasks"])),
                    Cell(percent(row["norm"], 0)),
                    Cell(plain(row["split_half"])),
                    Cell(plain(row["split_half_shuffled"])),
                    Cell(f"{plain(cone, 0)}°" if known(cone) else MISSING),
                    Cell(plain(row["auroc"])),
                    Cell(range_text(direction.fluent) if direction.fluent else MISSING),
                    Cell(range_text(direction.free) if direction.free else MISSING),
                    Cell(row["note"] or "none"),
                ),
                color_of(row["behavior"]),
            )
        )
    return Grid(
        "The directions at the layers that were steered. Length: of the difference of means, in "
        "mean norms; cone: holds 95\u00a0% of bootstrap replicates",
        (
            "direction",
            "layer",
            "spans",
            "tasks",
            "length",
            "halves agree",
            "shuffled labels",
            "cone",
            "AUROC",
            "fluent",
            "accuracy kept",
            "weakness",
        ),
        tuple(rows),
    )


def _settings_grid(kept: Any) -> Grid:
    rows = [
        Row(
            name,
            tuple(
                Cell(text(facts.get(key)))
                for key, text in (
                    ("layer", count),
                    ("spans", count),
                    ("tasks", count),
                    ("split_half", plain),
                    ("cone", plain),
                    ("weakness", lambda value: str(value or "none")),
                )
            ),
            color_of(name),
        )
        for name, facts in kept.items()
    ]
    return Grid(
        "The directions at the layers that were steered",
        ("direction", "layer", "spans", "tasks", "halves agree", "cone, degrees", "weakness"),
        tuple(rows),
    )


def _layers_alt(vectors: SteeringVectors) -> str:
    said = [
        f"{row['behavior']} at layer {count(row['layer'])}: halves agree by "
        f"{plain(row['split_half'])}, shuffled labels by {plain(row['split_half_shuffled'])}, "
        f"AUROC {plain(row['auroc'])}."
        for row in records(vectors.table())
    ]
    return f"Curves over layers. {' '.join(said)}"


def _cosines_alt(vectors: SteeringVectors) -> str:
    from steerkit.cosine_matrix import middle_layer

    layer = middle_layer(vectors)
    pairs = [
        row for row in records(vectors.cosines(layer)) if row["behavior_a"] < row["behavior_b"]
    ]
    said = [f"{r['behavior_a']} and {r['behavior_b']} {plain(r['cosine'])}" for r in pairs]
    return f"Heatmap of cosines at layer {layer}: {', '.join(said)}."
