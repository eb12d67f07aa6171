"""The one place that knows where bundled data lives."""

from __future__ import annotations

from pathlib import Path

from steerkit.errors import ResourceError

_HERE = Path(__file__).resolve().parent
# An installed wheel carries the data inside the package; a checkout has it beside it.
_ROOTS = (_HERE / "_data", _HERE.parent / "data")


def data(name: str = "") -> Path:
    """Path of a bundled file or folder, such as ``traces/countdown.jsonl``.

    Raises :class:`ResourceError`, listing what there is, for a name that is not bundled.
    """
    root = next((root for root in _ROOTS if root.is_dir()), _ROOTS[-1])
    path = root / name
    inside = path.resolve().is_relative_to(root.resolve())
    if inside and path.exists():
        return path
    present = sorted(str(p.relative_to(root)) for p in root.glob("*/*"))
    raise ResourceError(f"no bundled data named {name!r}", expected="one of " + ", ".join(present))


def bundled_models() -> dict[str, Path]:
    """Bundled models by name; none in a checkout that holds no models yet."""
    return _folders_with("config.json")


def bundled_adapters() -> dict[str, Path]:
    """Bundled adapters by name, in peft's folder format: see :mod:`steerkit.adapters`."""
    return _folders_with("adapter_config.json")


def _folders_with(file: str) -> dict[str, Path]:
    try:
        folder = data("models")
    except ResourceError:
        return {}
    return {path.name: path for path in sorted(folder.iterdir()) if (path / file).is_file()}
