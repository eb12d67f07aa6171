"""Every notebook runs from its first cell to its last, in this environment."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from steerkit.resources import bundled_models

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))
KERNEL = "python3"


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A kernel called python3 that is this interpreter, whatever else is installed here."""
    folder = tmp_path / "jupyter" / "kernels" / KERNEL
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": KERNEL, "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    return tmp_path


def execute(notebook, folder):
    """Run every cell in ``folder``; a cell that fails raises ``CellExecutionError``."""
    from nbclient import NotebookClient

    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=900, kernel_name=KERNEL, resources=resources, allow_errors=False
    )
    return client.execute()


def on_the_bundled_model(text):
    """The notebook with its one line changed that names a model which is not at hand."""
    return re.sub(r'^MODEL = .*\n# (MODEL = "countdown-thinking")$', r"\1", text, flags=re.M)


def texts(notebook):
    """What cells printed or returned, as plain text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs]


def test_the_notebooks_are_there():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_first_steering_vector",
        "02_which_layer_how_strong_is_it_real",
        "03_from_your_own_thinking_model_to_a_report",
    ]


def test_one_line_makes_a_notebook_run_on_the_bundled_model():
    changed = on_the_bundled_model(NOTEBOOKS[2].read_text()).splitlines()
    before = NOTEBOOKS[2].read_text().splitlines()
    assert [line for line in changed if line not in before] == ['MODEL = "countdown-thinking"']
    assert len(before) - len(changed) == 1


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebook_runs(path, kernel):
    import jupytext
    from nbformat.v4 import new_code_cell

    if "countdown-thinking" not in bundled_models():
        pytest.skip("no bundled model in this checkout")
    notebook = jupytext.reads(on_the_bundled_model(path.read_text()), fmt="py:percent")
    assert notebook.metadata["kernelspec"]["name"] == KERNEL
    notebook.cells.append(new_code_cell("import sys, steerkit\nsys.executable, steerkit.__file__"))
    outputs = texts(execute(notebook, kernel))
    assert sys.executable in outputs[-1], "the notebook ran in another environment"
    assert str(FOLDER.parent / "steerkit") in outputs[-1], "another steerkit was imported"
    assert any("PNG" in o or "Figure" in o for o in outputs), "no figure was drawn"


def test_a_failing_cell_fails(kernel):
    import jupytext
    from nbclient.exceptions import CellExecutionError

    notebook = jupytext.reads("# %%\n1 / 0\n", fmt="py:percent")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(notebook, kernel)
