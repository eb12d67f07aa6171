import json
import logging
import subprocess
import sys

import pytest

from steerkit.cli import extract, generate, main
from steerkit.cli.parser import layers

HEAVY = ("torch", "transformers", "transformer_lens", "numpy", "pandas", "rich", "matplotlib")


def process(*words, **options):
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=120, **options
    )


@pytest.mark.parametrize("words", [["--help"], ["extract", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words):
    code = (
        "import json, sys; from steerkit.cli import main; code = main(sys.argv[1:]);"
        f"print(json.dumps([code, [m for m in {HEAVY!r} if m in sys.modules]]))"
    )
    done = process("-c", code, *words)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []], done.stderr
    assert "steerkit" in done.stdout


def test_module_runs_as_the_command():
    done = process("-m", "steerkit", "--version")
    assert (done.returncode, done.stdout[:9], done.stderr) == (0, "steerkit ", "")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["explain"],
        ["extract", "--layers", "5-3"],
        ["extract", "--contrast"],
        ["extract", "--trace", "x"],
        ["generate", "x", "--steer", "backtracking"],
        ["generate", "x", "--steer", "backtracking=nan"],
        ["generate", "x", "--steer", "backtracking=1@"],
        ["generate", "x", "--json", "--stream"],
        ["train", "sft"],
        ["extract", "--traces", "missing.jsonl"],
        ["annotate", "missing.jsonl"],
        ["generate"],
        ["generate", "x", "--model", "no-such-model"],
        ["generate", "x", "--steer", "backtracking=1", "--vectors", "missing.safetensors"],
    ],
)
def test_bad_input_is_one_message_and_code_2(run, words, tmp_path):
    result = run(*words)
    assert result.code == 2 and result.out == ""
    assert result.err.startswith("steerkit") and "Traceback" not in result.err
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_the_error_names_the_missing_file(run):
    assert "missing.jsonl: no such file" in run("extract", "--traces", "missing.jsonl").err


def test_verbose_shows_where_an_error_was_raised(run):
    for words in (["--verbose", "annotate", "x.jsonl"], ["annotate", "x.jsonl", "--verbose"]):
        result = run(*words)
        assert result.code == 2 and "Traceback" in result.err


def test_interrupt_is_130(run, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(extract, "run", interrupted)
    result = run("extract")
    assert (result.code, result.err) == (130, "steerkit: interrupted\n")


def test_a_defect_is_not_hidden(run, monkeypatch):
    def defective(arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(extract, "run", defective)
    with pytest.raises(ZeroDivisionError):
        main(["extract"])


def test_closed_pipe_is_quiet(chains, tmp_path):
    code = "import sys; from steerkit.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["annotate", str(chains), "--out", "-", "--quiet"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    ) as process:
        process.stdout.close()  # before anything can have been written
        error = process.stderr.read()
    assert (process.returncode, error) == (1, b"")


def test_log_is_as_before_after_a_command(run):
    log = logging.getLogger("steerkit")
    before = (log.level, log.propagate, list(log.handlers))
    run("annotate", "missing.jsonl", "--verbose")
    assert (log.level, log.propagate, list(log.handlers)) == before


def test_layers_are_numbers_and_ranges():
    assert layers("3,5-9, 7") == (3, 5, 6, 7, 8, 9)


def test_choices_are_those_of_the_library():
    from steerkit.annotation import ANNOTATORS
    from steerkit.cli.parser import build_parser
    from steerkit.direction import UNITS
    from steerkit.directions import DEFAULT_CONTRAST
    from steerkit.methods import METHODS
    from steerkit.places import PLACES
    from steerkit.positions import Window
    from steerkit.stopping import NAMES
    from steerkit.terms import OPERATORS

    assert extract.CONTRAST == DEFAULT_CONTRAST and tuple(METHODS) == extract.METHODS
    assert (generate.WHERES, generate.UNITS) == (PLACES, UNITS)
    # a clamp needs a target, which the command does not take
    assert tuple(name for name in OPERATORS if name != "clamp") == generate.OPERATORS
    assert generate.UNTILS == NAMES
    assert Window.parse(build_parser().parse_args(["extract"]).window) == Window()
    for name in ANNOTATORS:
        build_parser().parse_args(["annotate", "x", "--annotator", name])
