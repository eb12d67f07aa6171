"""SteeringVectors: the directions that were extracted together, and where they come from."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from steerkit.behaviors import behaviors
from steerkit.direction import CURVES, NORMS, UNITS, Direction, Unit
from steerkit.errors import BehaviorError, VectorsError
from steerkit.layers import Layers

if TYPE_CHECKING:
    import pandas as pd

    from steerkit.cosine_matrix import Cosines
    from steerkit.models import ThinkingModel
    from steerkit.streaming import Progress, TooLong
    from steerkit.traces import Trace

__all__ = ["CURVES", "NORMS", "UNITS", "Direction", "SteeringVectors", "Unit"]

_T = TypeVar("_T")
_NO_LAYER = "no layer chosen"
_logger = logging.getLogger(__name__)


def weaknesses(directions: Mapping[str, Direction]) -> dict[str, str]:
    """Why not to trust directions yet, by behaviour; none of those that can be."""
    return {name: why for name, direction in directions.items() if (why := direction.weakness)}


class SteeringVectors(Mapping[str, Direction]):
    """Directions by behaviour, with where they come from.

    ``vectors["backtracking"]`` is a :class:`Direction`; short names work. In a notebook it
    shows as a table. Made by :func:`steerkit.extract`,
    read by :func:`steerkit.vectors_file.read_vectors`.

    Attributes
    ----------
    provenance:
        Model, tokenizer hash, hashes of chains and tasks, window, contrast, counts of what
        was left out, versions. Holds no paths and no times, so that the same run writes
        the same bytes.
    geometry:
        What extraction knew of the cosines between the directions, or ``None``: see
        :meth:`cosines`.
    """

    def __init__(
        self,
        directions: Mapping[str, Direction],
        provenance: Mapping[str, Any],
        geometry: Cosines | None = None,
    ) -> None:
        self._directions = dict(directions)
        self.provenance = dict(provenance)
        self.geometry = geometry

    def __getitem__(self, name: str) -> Direction:
        for known in behaviors():
            if name == known.short:
                name = known.name
        if name not in self._directions:
            raise BehaviorError(
                f"no direction of {name!r} here",
                expected="one of " + ", ".join(self._directions),
                fix="extract it first, or choose one of these",
            )
        return self._directions[name]

    @overload
    def get(self, name: str, /) -> Direction | None: ...
    @overload
    def get(self, name: str, /, default: Direction | _T) -> Direction | _T: ...
    def get(self, name: str, /, default: Any = None) -> Any:
        """The direction of that name, or ``default`` where there is none."""
        return self[name] if name in self else default  # noqa: SIM401 - this is get

    def __contains__(self, name: object) -> bool:
        return name in self._directions or any(
            name == known.short and known.name in self._directions for known in behaviors()
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._directions)

    def __len__(self) -> int:
        return len(self._directions)

    def __repr__(self) -> str:
        return f"SteeringVectors({', '.join(self)}; model {self.provenance.get('model')})"

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>" + (self.table().style.format(precision=3).to_html() or "")

    def table(self) -> pd.DataFrame:
        """One row a behaviour, its numbers at the suggested layer.

        ``norm`` is the raw difference's length as a share of the layer's mean norm;
        ``split_half`` stands beside that for shuffled labels; ``chosen_by`` is the score that is
        largest at ``layer``; ``note`` says why a direction should not be trusted yet, and that it
        has no layer. Without a suggested layer the numbers are missing, and so is ``norm`` where
        the direction is not calibrated.
        """
        import pandas as pd

        rows = []
        for name, direction in self.items():
            curves = dict.fromkeys(("norm", *CURVES[:3]), float("nan"))
            if direction.layer is not None:
                i = direction.row(direction.layer)
                if direction.mean_norm is not None:
                    curves["norm"] = float(direction.tensor[i].norm() / direction.mean_norm[i])
                for curve in CURVES[:3]:
                    values = getattr(direction, curve)
                    curves[curve] = float("nan") if values is None else float(values[i])
            rows.append(
                {
                    "behavior": name,
                    "spans": direction.spans,
                    "tasks": direction.tasks,
                    **curves,
                    "layer": direction.layer,
                    "chosen_by": direction.chosen_by,
                    "note": "; ".join(
                        filter(None, (direction.weakness, _NO_LAYER * (direction.layer is None)))
                    ),
                }
            )
        return pd.DataFrame(rows).astype({"layer": "Int64", "tasks": "Int64"})

    def layers_table(self) -> pd.DataFrame:
        """One row a behaviour and layer: norms and reliability, tidy, with the ``note`` of
        :meth:`table` on why not to trust the direction yet."""
        import pandas as pd

        rows = []
        for name, direction in self.items():
            for i, layer in enumerate(direction.layers):
                curves = {}
                for curve in CURVES:
                    values = getattr(direction, curve)
                    curves[curve] = float("nan") if values is None else float(values[i])
                rows.append(
                    {
                        "behavior": name,
                        "layer": layer,
                        "norm": float(direction.tensor[i].norm()),
                        "mean_norm": float("nan")
                        if direction.mean_norm is None
                        else float(direction.mean_norm[i]),
                        "norm_of_mean": float(direction.norm_of_mean[i]),
                        **curves,
                        "note": direction.weakness,
                    }
                )
        return pd.DataFrame(rows)

    def cosines(self, layers: Layers | None = None) -> pd.DataFrame:
        """Cosines between the directions, one row for every layer and ordered pair, tidy.

        Columns ``behavior_a``, ``behavior_b``, ``layer``; ``cosine`` of the directions as they
        are; ``corrected``, the estimate freed of sampling noise, and ``low``, ``high``, its
        95 % interval: see :func:`steerkit.geometry.cosines`. These three are missing in
        vectors made without them. ``note`` says which of the two should not be trusted yet, and
        why. A matrix is
        ``table.pivot(index="behavior_a", columns="behavior_b", values="cosine")``.

        ``layers`` is one layer or several, by default all that every direction has. Raises
        :class:`VectorsError` for one that is not there.
        """
        from steerkit.cosine_matrix import between

        found = between(self)
        if self.geometry is not None:
            found = found.with_intervals_of(self.geometry)
        table, weak = found.table(layers), weaknesses(self)
        table["note"] = [
            "; ".join(f"{name}: {weak[name]}" for name in dict.fromkeys(pair) if name in weak)
            for pair in zip(table["behavior_a"], table["behavior_b"], strict=True)
        ]
        return table

    def subset(self, names: Iterable[str]) -> SteeringVectors:
        """The vectors of these behaviours, in this order; all else stays as it is."""
        chosen = {self[name].behavior: self[name] for name in names}
        geometry = None if self.geometry is None else self.geometry.subset(chosen)
        return SteeringVectors(chosen, self.provenance, geometry)

    def check(self, model: ThinkingModel) -> None:
        """Refuse a model that these vectors do not fit; warn about one they were not made from.

        Directions of a base are used on it with an adapter without a warning: what they move
        there is what the two share. Chains name the model with its adapter, and the direction.

        Raises :class:`VectorsError` for another width or number of layers.
        """
        for direction in self.values():
            found = (direction.d_model, direction.n_layers)
            if found != (model.d_model, model.n_layers):
                raise VectorsError(
                    f"these vectors do not fit the model {model.name}",
                    expected=f"width {model.d_model} and {model.n_layers} layers",
                    found=f"width {found[0]} and {found[1]} layers, "
                    f"of {self.provenance.get('model')}",
                    fix="extract vectors from this model, or load the one they were made from",
                )
        made_from = self.provenance.get("model")
        if made_from not in (None, model.name):
            known = model.adapter is not None and made_from == model.base_name
            level = logging.INFO if known else logging.WARNING
            _logger.log(level, "vectors of %s are used on %s", made_from, model.name)
        elif made_from is not None and model.adapter is not None:
            digest = (self.provenance.get("adapter") or {}).get("digest")
            if digest != model.adapter.digest:
                _logger.warning("vectors of another state of %s are used on it", model.name)

    def calibrate(
        self,
        model: ThinkingModel,
        traces: Iterable[Trace],
        *,
        batch_tokens: int | None = None,
        too_long: TooLong = "refuse",
        progress: Progress | None = None,
    ) -> SteeringVectors:
        """The same directions with the norms of ``model``: see
        :func:`steerkit.calibration.calibrate`."""
        from steerkit.calibration import calibrate

        return calibrate(
            self,
            model,
            traces,
            batch_tokens=batch_tokens,
            too_long=too_long,
            progress=progress,
        )

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, atomically; the same vectors give the same bytes."""
        from steerkit.vectors_file import write_vectors

        return write_vectors(self, path)
