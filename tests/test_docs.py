import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def generator():
    return runpy.run_path(str(DOCS / "generate_help.py"), run_name="generate_help")


def test_help_page_is_what_the_parsers_say(generator):
    written = (DOCS / "help.md").read_text(encoding="utf-8")
    assert written == generator["page"](), "run: python docs/generate_help.py"


def test_help_page_has_every_command_within_its_width(generator, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    page = generator["page"]()
    titles = re.findall(r"^## (.+)$", page, flags=re.MULTILINE)
    commands = ["extract", "methods", "layers", "inspect", "generate", "evaluate"]
    commands += ["annotate", "agree", "import", "compare"]
    commands += ["report", "train", "train sft", "train rl"]
    assert titles == ["steerkit", *(f"steerkit {command}" for command in commands)]
    longest = max(len(line) for line in page.splitlines())
    assert 90 < longest <= 100, "wrapped at another width than the page's"


def test_every_option_has_a_full_sentence(generator):
    from steerkit.cli import build_parser

    for parser in generator["_parsers"](build_parser()):
        for action in parser._actions:
            if action.option_strings or action.metavar in ("PROMPT", "FILE", "VECTORS"):
                assert re.fullmatch(r"[A-Z].*[.]", action.help or ""), (parser.prog, action)
