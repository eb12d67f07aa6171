import json

import pytest
from rich.console import Console

import steerkit as sk
from steerkit.cli.chains import print_summary, print_traces, verdict
from steerkit.cli.steer import SteerOption, steer_option
from steerkit.traces import Trace, Traces

PROMPT = "Use 3, 7, 8 to make 29."
OTHER = "Use 2, 5, 9 to make 33."


@pytest.fixture
def generate(run, model_folder):
    def call(*words):
        return run("generate", "--model", model_folder, "--max-new-tokens", 8, *words)

    return call


def test_json_holds_the_traces_in_row_order(generate, vectors, model_folder, tmp_path):
    words = ["--vectors", vectors, "--steer", "backtracking=-0.3,0,0.3"]
    words += ["--steer", "uncertainty=0.2@0,2", "--where", "generated", "--unit", "one"]
    result = generate(PROMPT, OTHER, *words, "--samples", 2, "--seed", 5, "--json")
    assert (result.code, result.err) == (0, "")
    v = sk.read_vectors(vectors)
    fixed = (0.2 * v["uncertainty"]).at(layer=(0, 2), where="generated", unit="one")
    steer = [
        (c * v["backtracking"]).at(where="generated", unit="one") + fixed for c in (-0.3, 0.0, 0.3)
    ]
    expected = sk.load(model_folder).generate(
        [PROMPT] * 3 + [OTHER] * 3, steer=steer * 2, samples=2, seed=5, max_new_tokens=8
    )
    assert result.json == json.loads(json.dumps([trace.to_json() for trace in expected]))
    coefficients = [r["metadata"]["steering"][0]["coefficient"] for r in result.json]
    assert coefficients == [-0.3, -0.3, 0, 0, 0.3, 0.3] * 2
    assert all(r["metadata"]["steering"][1]["layers"] == [0, 2] for r in result.json)
    assert len({r["id"] for r in result.json}) == 12
    # the printed objects are those of a traces file
    (tmp_path / "again.jsonl").write_text("\n".join(json.dumps(r) for r in result.json))
    assert len(sk.read_traces(tmp_path / "again.jsonl")) == 12


def test_without_steer_the_model_is_left_as_it_is(generate, model_folder):
    result = generate(PROMPT, "--json")
    plain = sk.load(model_folder).generate(PROMPT, max_new_tokens=8)
    assert result.json[0]["response"] == plain.response
    assert result.json[0]["metadata"]["steering"] == []


def test_a_coefficient_of_zero_is_the_unsteered_chain(generate, vectors):
    plain = generate(PROMPT, "--json").json[0]
    words = ["--vectors", vectors, "--steer", "backtracking=-1,0,1", "--json"]
    low, zero, high = generate(PROMPT, *words).json
    assert zero["token_ids"] == plain["token_ids"]
    # positive control: another coefficient is another chain
    assert plain["token_ids"] not in (low["token_ids"], high["token_ids"])


def test_default_vectors_are_those_of_extract(generate, vectors, tmp_path):
    missing = generate(PROMPT, "--steer", "backtracking=1")
    assert missing.code == 2 and "out/vectors.safetensors" in missing.err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "vectors.safetensors").write_bytes(vectors.read_bytes())
    assert generate(PROMPT, "--steer", "backtracking=1").code == 0


def test_cut_off_chains_are_said_to_be(generate):
    result = generate(PROMPT)
    assert result.code == 0
    assert "cut off by the token limit after 8 tokens" in result.out
    assert result.out.startswith(PROMPT)


def test_stream_prints_the_chain_as_it_comes(generate):
    whole = generate(PROMPT, "--json").json[0]["response"]
    result = generate(PROMPT, "--stream")
    assert result.out.startswith(whole + "\n") and "cut off" in result.out
    for words in ([PROMPT, "--samples", 2], [PROMPT, OTHER]):
        refused = generate(*words, "--stream")
        assert refused.code == 2 and refused.out == "" and "2 chains" in refused.err


def test_out_is_a_traces_file(generate, tmp_path):
    result = generate(PROMPT, "--out", "chains/own.jsonl")
    traces = sk.read_traces(tmp_path / "chains" / "own.jsonl")
    assert traces[0].response.strip() in result.out.replace("\n", " ")
    assert (traces[0].prompt, traces[0].truncated) == (PROMPT, True)


def test_tasks_come_after_prompts_and_many_are_summed_up(generate, tmp_path):
    tasks = [sk.Task(id=f"t-{i}", category="made", prompt=f"Use {i}, 2 to make 9.") for i in "123"]
    sk.write_tasks(tasks, tmp_path / "tasks.jsonl")
    found = generate(PROMPT, "--tasks", "tasks.jsonl", "--json").json
    assert [r["prompt"] for r in found] == [PROMPT, *(task.prompt for task in tasks)]
    assert [r["category"] for r in found] == ["", "made", "made", "made"]
    shown = generate("--tasks", "tasks.jsonl", "--samples", 2).out
    assert shown.count("cut off by") == 6 and "unsteered" in shown
    many = [sk.Task(id=f"t-{i}", prompt=f"Use {i}, 2 to make 9.") for i in range(11)]
    sk.write_tasks(many, tmp_path / "many.jsonl")
    summary = generate("--tasks", "many.jsonl", "--out", "many.out.jsonl").out
    assert "cut off by" not in summary and summary.splitlines()[2].split()[1] == "11"


def test_words_that_the_model_does_not_know_are_named(generate):
    result = generate("Use 3, 7, 8 to make a xylophone.", "--json")
    assert result.code == 0 and "warning" in result.err and "'xylophone'" in result.err
    assert generate(PROMPT).err == ""
    assert generate("Use a xylophone.", "--quiet").err == ""


@pytest.mark.parametrize(
    ("option", "value"), [("--vectors", "x"), ("--where", "all"), ("--unit", "paper")]
)
def test_steering_options_without_steer_are_said_to_do_nothing(generate, option, value):
    result = generate(PROMPT, option, value)
    assert result.code == 0 and f"{option} does nothing without --steer" in result.err
    assert result.err.count("does nothing") == 1


def test_where_and_unit_are_all_and_norm_unless_named(generate, vectors):
    words = ["--vectors", vectors, "--steer", "backtracking=1", "--json"]
    (term,) = generate(PROMPT, *words).json[0]["metadata"]["steering"]
    assert (term["where"], term["unit"]) == ("all", "norm")


def test_the_revision_reaches_the_model(generate, run):
    assert generate(PROMPT, "--revision", "v2", "--json").json[0]["revision"] == "v2"
    refused = run("generate", PROMPT, "--revision", "v2")
    assert refused.code == 2 and "has one revision" in refused.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--steer", "backtracking=1,2", "--steer", "deduction=1,2"], "more than one --steer"),
        (["--steer", "backtracking=1@9"], "layer 9"),
        (["--steer", "daydreaming=1"], "daydreaming"),
        (["--temperature", "-1"], "temperature"),
        (["--tasks", "missing.jsonl"], "missing.jsonl"),
        (["--max-new-tokens", "5000"], "5000"),
        (["--out", "."], "it is a folder"),
    ],
)
def test_what_cannot_be_done_is_refused(generate, vectors, tmp_path, words, named):
    result = generate(PROMPT, "--vectors", vectors, "--quiet", *words)
    assert result.code == 2 and named in result.err, result.err
    assert result.out == "" and not list(tmp_path.iterdir())


def test_vectors_of_another_model_are_refused(run, vectors, tmp_path):
    from steerkit.training.tokenizer import build_tokenizer
    from tests.tiny import tiny_hf

    tiny_hf(num_hidden_layers=2).save_pretrained(tmp_path / "other")
    build_tokenizer().save_pretrained(tmp_path / "other")
    words = ["--vectors", vectors, "--steer", "backtracking=1", "--max-new-tokens", 2]
    result = run("generate", PROMPT, "--model", "other", *words)
    assert result.code == 2 and "do not fit the model other" in result.err


def test_steer_option_is_read_as_written():
    assert steer_option("backtracking=-0.3") == SteerOption("backtracking", (-0.3,))
    assert steer_option("a=-.4,0,1e-1@4") == SteerOption("a", (-0.4, 0.0, 0.1), (4,))
    assert steer_option("a=1@2,5-6").layers == (2, 5, 6)


def chain(response, prompt=PROMPT, tokens=5, **metadata):
    return Trace("x", "x", response, prompt=prompt, token_ids=(1,) * tokens, metadata=metadata)


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        (chain("So.\n</think>\nThe answer is 3 * 7 + 8."), "[right, 5 tokens]"),
        (chain("So.\n</think>\nThe answer is 3 + 7 + 8."), "the result is another one"),
        (chain("So.\n</think>\nThe answer is 29."), "not every number is used exactly once"),
        (chain("So.\n</think>\nI do not know."), "there is no answer"),
        (chain("So."), "without closing its thinking"),
        (chain("So.\n</think>\nThe answer is 3 * 7", truncated=True), "cut off"),
        (chain("So.\n</think>\nHello.", prompt="Say hello."), "[5 tokens]"),
    ],
)
def test_verdict_says_what_became_of_a_chain(trace, said):
    assert said in verdict(trace).plain


RIGHT, WRONG = "Hm.\n</think>\nThe answer is 3 * 7 + 8.", "Hm.\n</think>\nThe answer is 1."


@pytest.mark.parametrize(("width", "beside"), [(100, True), (50, False)])
def test_coefficients_stand_side_by_side_where_there_is_room(width, beside):
    console = Console(width=width, force_terminal=True, color_system=None, record=True, quiet=False)
    with console.capture() as captured:
        print_traces(console, Traces([chain(RIGHT), chain(WRONG)]), ["low", "high"], 1)
    lines = captured.get().splitlines()
    together = any("3 * 7 + 8" in line and "answer is 1." in line for line in lines)
    assert together is beside
    assert max(map(len, lines)) <= width


def test_summary_counts_every_way_of_steering():
    cut = chain("Hm.", truncated=True)
    rows = [chain(RIGHT), cut, chain(WRONG), chain(WRONG), chain(RIGHT), cut, chain(RIGHT), cut]
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        print_summary(console, Traces(rows), ["low", "high"], 2)
    low, high = (line.split() for line in captured.get().splitlines()[2:4])
    # chains: low 0, 1, 4, 5; high 2, 3, 6, 7
    assert low == ["low", "4", "5.0", "2", "2", "2", "of", "2", "100.0", "%"]
    assert high == ["high", "4", "5.0", "3", "1", "1", "of", "3", "33.3", "%"]


def test_sampling_and_stopping_options_are_those_of_the_library(generate, model_folder):
    words = ["--top-p", 0.9, "--top-k", 5, "--min-p", 0.01, "--temperature", 0.7]
    words += ["--until", "think", "--thinking-budget", 4, "--force-answer", "--seed", 3]
    (found,) = generate(PROMPT, *words, "--json").json
    (expected,) = sk.load(model_folder).generate(
        PROMPT,
        top_p=0.9,
        top_k=5,
        min_p=0.01,
        temperature=0.7,
        until="think",
        thinking_budget=4,
        force_answer=True,
        seed=3,
        max_new_tokens=8,
    )
    assert found == json.loads(json.dumps(expected.to_json()))
    assert found["metadata"]["top_k"] == 5 and found["metadata"]["forced_answer"]


@pytest.mark.parametrize("operator", ["ablate", "center", "rotate"])
def test_operators_and_steps_reach_the_terms(generate, vectors, model_folder, operator):
    words = ["--vectors", vectors, "--steer", "backtracking=0,20", "--steps", "1-4"]
    plain, found = generate(PROMPT, *words, "--operator", operator, "--json").json
    (term,) = found["metadata"]["steering"]
    assert (term["operator"], term["coefficient"]) == (operator, 20.0)
    assert term["where"] == {"steps": [1, 4]}
    direction = sk.read_vectors(vectors)["backtracking"]
    wanted = getattr(direction, operator)(20.0).at(where=sk.Steps(1, 4))
    (expected,) = sk.load(model_folder).generate(PROMPT, steer=wanted, max_new_tokens=8)
    assert list(expected.token_ids) == found["token_ids"]
    assert f"{operator} backtracking" in generate(PROMPT, *words, "--operator", operator).out
    assert found["id"] != plain["id"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--steps", "5-5"], "such as 0-50"),
        (["--steps", "x-5"], "such as 0-50"),
        (["--steps", "0-5", "--where", "think"], "Leave --where away"),
        (["--force-answer"], "thinking_budget"),
        (["--top-p", "1.5"], "top_p"),
    ],
)
def test_options_out_of_range_are_refused(generate, vectors, words, named):
    result = generate(PROMPT, "--vectors", vectors, "--steer", "backtracking=1", *words)
    assert result.code == 2 and named in result.err and result.out == ""


def test_an_interrupt_keeps_the_chains_that_are_finished(generate, monkeypatch, tmp_path):
    from steerkit.decoding import Decoder

    run = Decoder.run

    def interrupted(self):
        for finished in run(self):
            yield finished
            if finished:
                raise KeyboardInterrupt

    monkeypatch.setattr(Decoder, "run", interrupted)
    result = generate(PROMPT, OTHER, "--out", "kept.jsonl", "--until", "think", "--samples", 40)
    assert result.code == 130
    kept = sk.read_traces(tmp_path / "kept.jsonl")
    assert 0 < len(kept) < 80 and f"{len(kept)} of 80 chains in kept.jsonl" in result.err
