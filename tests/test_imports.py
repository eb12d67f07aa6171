"""``import steerkit`` is light, and every public name is where it says."""

from __future__ import annotations

import ast
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import steerkit

HEAVY = {"torch", "transformers", "transformer_lens", "pandas", "matplotlib"}
PUZZLES = [
    f"puzzles.{found.name}"
    for found in pkgutil.iter_modules([str(Path(steerkit.__file__).parent / "puzzles")])
]
DATA_SIDE = ["errors", "behaviors", "tasks", "traces", "files", "resources", "annotation"]


def heavy_after(code: str) -> set[str]:
    """Heavy modules that a fresh interpreter holds after running ``code``."""
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(steerkit.__file__).parents[1])},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return HEAVY & set(run.stdout.split())


def test_importing_steerkit_is_light():
    assert heavy_after("import steerkit") == set()


def test_the_check_can_fail():
    assert heavy_after("import steerkit, pandas, matplotlib") == {"pandas", "matplotlib"}
    assert "torch" in heavy_after("import steerkit.positions")


def test_data_side_and_puzzles_need_no_torch():
    named = ("countdown", "rules", "tasks", "verdicts", "phrases", "grammar", "chains")
    assert {f"puzzles.{name}" for name in named} <= set(PUZZLES)
    imports = "\n".join(f"import steerkit.{name}" for name in [*DATA_SIDE, *PUZZLES])
    names = "from steerkit import Behavior, Span, Task, Trace, annotate, data, read_traces"
    assert heavy_after(f"{imports}\n{names}") == set()


@pytest.mark.parametrize("name", steerkit.__all__)
def test_every_public_name_resolves(name):
    value = getattr(steerkit, name)
    assert value is getattr(steerkit, name) and name in dir(steerkit)
    if name != "__version__":
        home = value.__module__
        assert home.startswith("steerkit.") and value.__name__ == name, (name, home)


def test_no_public_name_is_also_a_module():
    """Importing a module binds it in the package and would hide a name of the same spelling."""
    modules = {found.name for found in pkgutil.iter_modules(steerkit.__path__)}
    assert "traces" in modules
    assert modules & set(steerkit.__all__) == set()


def test_a_type_checker_sees_the_same_names():
    tree = ast.parse(Path(steerkit.__file__).read_text())
    seen = {
        (node.module, alias.name)
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == alias.asname
    }
    lazy = {
        (f"steerkit.{module}", name) for module, names in steerkit._HOMES.items() for name in names
    }
    assert seen == lazy
    assert set(steerkit.__all__) == {name for _, name in lazy} | {"__version__"}


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'extrakt'"):
        _ = steerkit.extrakt
    assert not hasattr(steerkit, "torch")
