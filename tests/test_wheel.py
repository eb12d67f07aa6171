"""The wheel brings its data along: it works in an environment and a folder of its own."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email import message_from_bytes
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, **options) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT]
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", *build)
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_holds_the_data_and_nothing_of_the_repository(wheel) -> None:
    assert wheel.name.startswith("steerkit_thinking-")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"steerkit", next(name for name in tops if name.endswith(".dist-info"))}
    for asset in ("page.css", "page.js"):
        assert f"steerkit/viewing/{asset}" in names
    for needed in (
        "traces/countdown.jsonl",
        "tasks/countdown.jsonl",
        "traces/reasoning.jsonl",
        "tasks/reasoning.jsonl",
        "annotators/rules.toml",
        "annotators/classifier.safetensors",
        "models/countdown-base/model.safetensors",
        "models/countdown-thinking/model.safetensors",
        "models/qwen2.5-coder-1.5b-thinking/adapter_model.safetensors",
    ):
        assert f"steerkit/_data/{needed}" in names
    # two models, three snapshots of 5 MB each, and the adapter's 14 MB
    assert sum(entry.compress_size for entry in zipfile.ZipFile(wheel).infolist()) < 45e6


# required although no module of steerkit imports it, and why
IMPORTED_BY_OTHERS = {
    "accelerate": "transformers needs it for device_map",
}
# imported only where it is used, and brought by the extra named here
BY_EXTRA = {"math_verify": "math", "openai": "judge"}


def imported() -> set[str]:
    """Third-party modules that any module of steerkit imports, at the top or within."""
    names: set[str] = set()
    for path in (ROOT / "steerkit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add((node.module or "").split(".")[0])
    return names - sys.stdlib_module_names - {"steerkit"}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_wheel_requires_what_is_imported_and_nothing_else(wheel) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    lines = message_from_bytes(archive.read(metadata)).get_all("Requires-Dist")
    names = [re.match(r"[\w.-]+", line).group() for line in lines if "extra ==" not in line]
    required = {plain(name) for name in names}
    for package, extra in BY_EXTRA.items():
        assert package in imported()
        assert any(re.match(rf"{plain(package)}\b.*extra == .{extra}", line) for line in lines)
    known = packages_distributions()
    needed = {plain(known[module][0]) for module in imported() - set(BY_EXTRA)}
    assert needed >= {"torch", "rich"} and len(required) == len(names)
    assert required - set(IMPORTED_BY_OTHERS) == needed
    assert required >= set(IMPORTED_BY_OTHERS)


@pytest.mark.slow
def test_the_installed_wheel_extracts_from_another_folder(wheel, tmp_path) -> None:
    home, elsewhere = tmp_path / "environment", tmp_path / "elsewhere"
    elsewhere.mkdir()
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
    # the dependencies are those of this environment: a line on the path, no second copy
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    where = run(python, "-c", "import steerkit; print(steerkit.__file__)", cwd=elsewhere, env=clean)
    assert Path(where.strip()).is_relative_to(home)
    printed = run(home / "bin" / "steerkit", "extract", "--json", cwd=elsewhere, env=clean)
    found = json.loads(printed)
    assert found["model"] == "countdown-thinking"
    assert {entry["behavior"] for entry in found["behaviors"]} >= {"backtracking", "deduction"}
    assert (elsewhere / found["vectors"]).is_file()
    assert (elsewhere / "out" / "vectors.png").is_file()
