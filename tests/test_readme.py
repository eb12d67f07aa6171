"""What a reader reads: commands parse, code runs, links lead somewhere, results are not typed."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest

import steerkit as sk
from steerkit.cli import build_parser, main
from steerkit.resources import bundled_models
from tests.tiny import tiny_model

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TRANSCRIPT = ROOT / "docs" / "real_thinking_model.md"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
BY_PAGE = pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
R1 = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"


def blocks(page, *languages):
    """(language, text) of the fenced blocks in these languages, in order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [(language, text) for language, text in found if language in languages]


def commands(text):
    """Commands of a console block as lists of words; continued lines are joined."""
    lines = text.replace("\\\n", " ").splitlines()
    typed = [line[2:] for line in lines if line.startswith("$ ")]
    return [shlex.split(part) for line in typed for part in line.split("&&")]


def all_commands(page):
    return [words for _, text in blocks(page, "console") for words in commands(text)]


def parsers(parser):
    yield parser
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                yield from parsers(command)


# -- commands


def test_blocks_and_commands_are_found():
    assert commands("$ a 'b c' \\\n    d && e\noutput\n$ f\n") == [["a", "b c", "d"], ["e"], ["f"]]
    typed = {" ".join(words[:2]) for page in PAGES for words in all_commands(page)}
    assert {"make extract", "steerkit extract", "steerkit generate"} <= typed
    assert len(all_commands(TRANSCRIPT)) == 8


@BY_PAGE
def test_every_steerkit_command_parses(page):
    for words in all_commands(page):
        if words[0] == "steerkit":
            try:
                build_parser().parse_args(words[1:])
            except SystemExit:
                pytest.fail(f"does not parse: {shlex.join(words)}")


def test_a_command_that_does_not_parse_is_noticed():
    for words in (["generate", "x", "--steer", "backtracking"], ["extract", "--layer", "3"]):
        with pytest.raises(SystemExit):
            build_parser().parse_args(words)


@BY_PAGE
def test_every_option_and_make_target_exists(page):
    text = page.read_text()
    known = {o for parser in parsers(build_parser()) for o in parser._option_string_actions}
    # of python -m steerkit.puzzles, named in data/README.md
    known |= {"--pool", "--count", "--kinds"}
    # and of the benchmarks, whose commands stand beside their results
    for script in (ROOT / "benchmarks").glob("*.py"):
        known |= set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', script.read_text()))
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"<!--.*?-->", "", text)))
    assert mentioned <= known, mentioned - known
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"extract", "test"} <= targets
    made = {m[1] for m in re.finditer(r"(?:`|\$ )make (?:PYTHON=\S+ )?([a-z]+)", text)}
    assert made <= targets, made - targets


# -- links


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / "notebooks").glob("*.py")], ids=lambda p: p.name)
def test_every_relative_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name) if name else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), target


# -- the README's code


@pytest.mark.slow
def test_the_page_on_evaluation_runs_from_top_to_bottom(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    page = ROOT / "docs" / "evaluation.md"
    for _, text in blocks(page, "python"):
        exec(compile(text, str(page), "exec"), names)
    printed = capsys.readouterr().out
    assert "amplify" in printed and "suppress" in printed
    assert "backtracking-0.30@5" in names["made"].settings["conditions"], "as the page says"
    assert (tmp_path / "out" / "first" / "verdicts.csv").is_file()


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path):
    if "countdown-thinking" not in bundled_models():
        pytest.skip("no bundled model in this checkout")
    code = "\n".join(text for _, text in blocks(README, "python"))
    assert code.count("\n") >= 15
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "backtracking" in run.stdout and "+0.4:" in run.stdout
    assert "backtracking" in sk.read_vectors(tmp_path / "vectors.safetensors")


# -- the transcript with a real thinking model


def reply(text):
    """Stands in for an LLM: five words to a part, labels in turn, some slips of a copyist."""
    words = text.rsplit("Reply with the marked copy alone.", 1)[1].split()
    labels = ["deduction", "backtracking", "Uncertainty_Estimation", "3. example-testing"]
    parts = [" ".join(words[i : i + 5]) for i in range(0, len(words), 5)]
    marked = [f'["{labels[i % 4]}"] {part} ["end-section"]' for i, part in enumerate(parts)]
    return "\n".join([*marked, '["deduction"] a part that nobody wrote ["end-section"]'])


def test_the_transcript_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    """On a tiny model with random weights: commands and code fit together, whatever comes out."""
    from steerkit.puzzles.tasks import generate_tasks

    model = tiny_model(max_position_embeddings=2048)  # the bundled chains are long
    model.hf.save_pretrained(tmp_path / "tiny")
    model.tokenizer.save_pretrained(tmp_path / "tiny")
    tasks = [task.to_task() for task in generate_tasks("heldout", count=40)]
    sk.write_tasks(tasks, tmp_path / "my_tasks.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "my_llm", types.SimpleNamespace(ask=reply))
    here = {R1: str(tmp_path / "tiny"), "cuda": "cpu", "1000": "60"}
    names: dict[str, object] = {}
    ran = []
    for language, text in blocks(TRANSCRIPT, "console", "python"):
        for there, instead in here.items():
            text = text.replace(there, instead)
        if language == "python":
            exec(compile(text, str(TRANSCRIPT), "exec"), names)
            ran.append("python")
            continue
        for words in commands(text):
            if words[0] == "steerkit":
                code = main(words[1:])
                assert code == 0, (words, capsys.readouterr().err)
                ran.append(words[1])
    labels = ["extract", *["annotate"] * 3, "python", "python"]
    assert ran == ["generate", *labels, "extract", "generate", "python"]
    assert sk.read_traces("out/r1_own.jsonl").counts()["deduction"] > 0
    (who,) = sk.read_vectors("out/r1_bundled.safetensors").provenance["annotators"]
    assert who == "authors"
    vectors = sk.read_vectors("out/r1.safetensors")
    assert {"backtracking", "uncertainty-estimation", "example-testing"} <= set(vectors)
    printed = capsys.readouterr().out
    assert printed.count("markers per 100 words") == 6
    assert "not found | deduction | a part that nobody wrote" in printed


def test_the_page_on_steering_runs_from_top_to_bottom(capsys):
    names: dict[str, object] = {}
    page = ROOT / "docs" / "steering.md"
    for _, text in blocks(page, "python"):
        exec(compile(text, str(page), "exec"), names)
    printed = capsys.readouterr().out
    assert "rotate(-20 * backtracking)" in printed and "True" in printed
    assert printed.count("'") >= 10, "five tokens of the stream"
    assert len(names["chains"]) == 3 and names["written"].shape[1] > names["ids"].shape[1]


@pytest.mark.slow
def test_the_page_on_annotation_runs_from_top_to_bottom(capsys):
    names: dict[str, object] = {}
    page = ROOT / "docs" / "annotation.md"
    for _, text in blocks(page, "python"):
        exec(compile(text, str(page), "exec"), names)
    printed = capsys.readouterr().out
    assert "phrase=" in printed and "requests," in printed
    assert "same other" in printed and "is exact on them" in printed
    assert "questions@1" in printed and names["estimate"].chains == 10


def test_the_page_on_directions_runs_from_top_to_bottom(capsys):
    names: dict[str, object] = {}
    page = ROOT / "docs" / "directions.md"
    for _, text in blocks(page, "python"):
        exec(compile(text, str(page), "exec"), names)
    printed = capsys.readouterr().out
    assert all(method in printed for method in ("mass-mean", "lda", "probe", "pca"))
    assert len(names["choice"].layers) == 6 and "predicted" in printed


@pytest.mark.slow
def test_the_page_on_geometry_runs_from_top_to_bottom(capsys):
    names: dict[str, object] = {}
    page = ROOT / "docs" / "geometry.md"
    ran = blocks(page, "python")
    assert len(ran) == 3
    for _, text in ran:
        exec(compile(text, str(page), "exec"), names)
    printed = capsys.readouterr().out
    assert re.search(r"^-?0\.\d\d \(-?0\.\d\d to -?0\.\d\d\)$", printed, re.MULTILINE)
    assert names["matrix"].shape == (6, 6) and len(names["table"]) == 10
    assert "'tied': True" in printed
    tokens = names["table"].query("sign == 'up'")["token"].str.strip()
    # the words with which the bundled chains go back; nobody told the lens
    assert set(tokens) & {"dead", "turn", "another", "else", "wait", "Wait", "work"}


def test_the_page_on_seeing_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    page = ROOT / "docs" / "seeing.md"
    for _, text in blocks(page, "python"):
        exec(compile(text, str(page), "exec"), names)
    printed = capsys.readouterr().out
    assert "ChainView(5 chains, 2 annotators" in printed and "of doubts are gone" in printed
    assert (tmp_path / "chains.html").stat().st_size > 10_000
    ((_, log),) = blocks(page, "json")
    (tmp_path / "log.jsonl").write_text(log)
    ((trace,), unread) = sk.read_chat_log(tmp_path / "log.jsonl")
    assert (trace.id, trace.answer, unread) == ("sheep-1", "9", [])


# -- examples of file formats


def test_the_example_trace_and_task_can_be_read(tmp_path):
    (_, trace), (_, task) = (
        blocks(ROOT / "docs" / f"{n}.md", "json")[0] for n in ("concepts", "real_thinking_model")
    )
    (tmp_path / "x.jsonl").write_text(json.dumps(json.loads(trace)) + "\n")
    read = sk.read_traces(tmp_path / "x.jsonl")[0]
    assert [read.response[s.start : s.end] for s in read.spans] == [
        "17 - 9 = 8.",
        'Wait, "all but 9" means that 9 stay.',
    ]
    (tmp_path / "y.jsonl").write_text(task)
    assert sk.read_tasks(tmp_path / "y.jsonl")[0].id == "sheep"


@pytest.mark.parametrize("kind", ["tasks", "traces"])
def test_the_data_card_names_every_field(kind):
    with sk.data(f"{kind}/countdown.jsonl").open() as lines:
        fields = set(json.loads(next(lines)))
    card = (ROOT / "data" / "README.md").read_text().split(f"## {kind}/", 1)[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", card, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == fields


def test_the_table_of_behaviors_is_the_codes():
    from steerkit.behaviors import BUILT_IN

    text = (ROOT / "docs" / "concepts.md").read_text()
    table = re.findall(r"^\| `([\w-]+)` \| ([^;|]+?)(?:;[^|]*)? \|$", text, re.MULTILINE)
    described = dict(table)
    assert {b.name: described.get(b.name) for b in BUILT_IN} == {
        b.name: b.definition for b in BUILT_IN
    }


# -- results


@pytest.fixture
def generator():
    return runpy.run_path(str(ROOT / "docs" / "generate_results.py"), run_name="generate_results")


def test_no_result_on_a_page_is_stale(generator):
    texts = [page.read_text() for page in generator["PAGES"]]
    shown = [name for text in texts for name in re.findall(r"<!-- results: (\w+) -->", text)]
    assert sorted(shown) == sorted(generator["BLOCKS"])
    assert all(text == generator["page"](text) for text in texts), "run: make docs"
    others = set(PAGES) - set(generator["PAGES"])
    assert not any("<!-- results:" in page.read_text() for page in others)


def test_a_missing_result_is_said_to_be_missing(generator, tmp_path):
    text = "a\n<!-- results: memory -->\nan old number: 7\n<!-- end -->\nb\n"
    said = "a\n<!-- results: memory -->\n*Not measured yet: `make memory` measures it.*\n"
    assert generator["page"](text, tmp_path) == said + "<!-- end -->\nb\n"
    assert generator["page"](text, tmp_path) != text
    with pytest.raises(KeyError):
        generator["page"](text.replace("memory", "guess"), tmp_path)


def test_what_measures_a_result_exists(generator):
    """A make target, or a benchmark with options that it takes."""
    import sys

    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import layers
    finally:
        sys.path.pop(0)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(generator["MADE_BY"]) == set(generator["BLOCKS"])
    for name, command in generator["MADE_BY"].items():
        program, *words = shlex.split(command)
        if program == "make":
            assert words[0] in targets, name
        else:
            assert words[0] == "benchmarks/layers.py"
            asked = layers.arguments(words[1:])
            assert "~/.cache" in asked.model and (asked.window, asked.contrast) == ("1,10", "rest")
            assert ("thinking" in name) == ("--adapter" in words)


def test_blocks_are_filled_from_the_result_files(generator, tmp_path):
    (tmp_path / "pairing.md").write_text("| a | b |\n|---|---|\n| 1 | 2 |\n")
    drawn = tmp_path / "report" / "figures" / "dose_response.png"
    drawn.parent.mkdir(parents=True)
    drawn.write_bytes(b"")
    (tmp_path / "real.md").write_text(
        "# A real model\n\nOn what.\n\n## Directions at layer 17\n\nHow.\n\n| main |\n|---|\n\n"
        "The other contrasts: more.\n\n| rest |\n\n## Steering\n\n| table |\n\n- *unsteered*: x\n\n"
        "## Against an earlier quick run\n\nNotes.\n\n## Time and memory\n\nSeconds.\n"
    )
    run = {"chains": 200, "thinking_tokens": 12345, "spans": 678, "seconds": 1.6, "peak_mib": 500.4}
    facts = {"source": "bundled", "model": "m", "layers": 6}
    memory = {"runs": [run | facts, run | {"chains": 2000}], "growth": 0.0123, "within": 0.05}
    (tmp_path / "collection_memory.json").write_text(json.dumps(memory))
    wanted = "".join(f"<!-- results: {n} -->\n<!-- end -->\n" for n in generator["BLOCKS"])
    filled = generator["page"](wanted, tmp_path)
    assert filled == generator["page"](filled, tmp_path), "filling twice changes nothing"
    assert "| 1 | 2 |" in filled
    assert "](benchmarks/results/report/figures/dose_response.png)" in filled
    assert "**Directions at layer 17.** How.\n\n| main |\n|---|\n\n**Steering.**" in filled
    assert "- *unsteered*: x" in filled and "On what." in filled
    assert not re.search(r"The other contrasts|\| rest|Notes\.|Seconds\.|^#", filled, re.MULTILINE)
    assert "| 2,000 | 12,345 | 678 | 2 | 500 MiB |" in filled
    assert "+1.2 %; 5 % are allowed" in filled


@pytest.mark.parametrize("adapter", ["", "\nWith the adapter thinker:\n\n| adapter |\n\n"])
def test_the_block_of_the_real_model_says_everything_once(generator, tmp_path, adapter):
    (tmp_path / "real.md").write_text(
        "# A real model\n\nOn what.\n\n## Directions at layer 17\n\nHow.\n\n## Steering\n\n"
        f"8 prompts, greedy.\n\n| plain |\n\nThe texts with most markers: x\n{adapter}"
        "\n## Time and memory\n\nSeconds.\n"
    )
    found = generator["_real"](tmp_path)
    assert found.count("8 prompts, greedy.") == 1
    assert ("| plain |" in found, "| adapter |" in found) == (not adapter, bool(adapter))
    assert "most markers" not in found and "cosines with" not in found
    row = {"cosine": 0.844, "low": 0.62, "high": 0.966, "corrected": 0.86}
    reference = {"directions": {"uncertainty-estimation": row, "deduction": row}}
    (tmp_path / "real.json").write_text(json.dumps({"reference": None}))
    assert generator["_real"](tmp_path) == found
    (tmp_path / "real.json").write_text(json.dumps({"reference": reference}))
    lines = generator["_real"](tmp_path).splitlines()
    (line,) = [line for line in lines if "cosines with" in line]
    assert line.endswith(": uncertainty-estimation 0.84 (0.62 to 0.97).")


def test_the_results_page_has_the_headings_that_the_readme_takes():
    report = (ROOT / "benchmarks" / "real_report.py").read_text()
    for heading in ('"## Directions at layer', '"The other contrasts', '"## Steering"'):
        assert report.count(heading) == 1, heading


# -- versions


def test_the_changelog_tells_of_this_version_in_short_lines():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (\S+)", text, re.MULTILINE)[0] == sk.__version__
    lines = re.findall(r"^- (.+)$", text, re.MULTILINE)
    assert lines and max(len(line.split()) for line in lines) <= 25


def test_the_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (\S+)$", text, re.MULTILINE) == [sk.__version__]
