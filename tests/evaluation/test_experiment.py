"""Experiment: every chain is the one that generate writes, once; kills and changes are survived."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest

import steerkit as sk
from steerkit.annotation import read_rules
from steerkit.errors import AnnotationError, EvaluationError
from steerkit.evaluation import chain_writing
from steerkit.evaluation.chain_writing import generate
from steerkit.evaluation.conditions import condition_name
from steerkit.independence import annotator_relation, independence_note
from steerkit.tasks import Task, split_of
from steerkit.traces import Traces
from tests.tiny import tiny_model, tiny_traces

TASKS = [Task(f"e{i}", f"Use {i}, 9 to make 18.", "sums") for i in range(40)]
TASKS = [task for task in TASKS if split_of(task.prompt) == "evaluate"][:4]
CHAINS = tiny_traces(24)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def vectors(model):
    found = sk.extract(model, CHAINS, select=Traces())
    made = {
        name: replace(d, layer=1, fluent=(-0.25, 0.35), free=(-0.1, 0.1))
        for name, d in found.items()
        if name in ("backtracking", "deduction")
    }
    return sk.SteeringVectors(made, found.provenance)


@pytest.fixture
def evaluate(model, vectors, tmp_path):
    def call(**changed):
        options = {
            "tasks": TASKS,
            "traces": CHAINS,
            "coefficients": [-0.3, -0.2, 0.2, 0.3],
            "samples": 2,
            "control_tasks": 2,
            "random": 2,
            "shuffled": 1,
            "annotators": "grammar",
            "max_new_tokens": 6,
            "out": tmp_path / "evaluation",
            **changed,
        }
        return sk.evaluate(model, vectors, **options)

    return call


@pytest.fixture
def counted(monkeypatch):
    """Prompts that were put to the model for chains, in the order of the calls."""
    calls = []

    def counting(model, prompts, **options):
        calls.append(len(prompts))
        return generate(model, prompts, **options)

    monkeypatch.setattr(chain_writing, "generate", counting)
    return calls


def test_every_chain_is_the_one_that_generate_writes(model, vectors, evaluate) -> None:
    made = evaluate()
    table = made.generations
    # 1 + 2 x 4 conditions on 4 tasks; 2 random at 0.2 and 0.3, 1 shuffle at 2 x 2 on 2 tasks
    assert len(table) == 2 * (4 * 9 + 2 * (4 + 4))
    assert set(table["kind"]) == {"baseline", "steered", "random", "shuffled"}
    tasks = list(dict.fromkeys(table["task"]))
    for name, coefficient in (("backtracking", -0.2), ("deduction", 0.3)):
        condition = condition_name(name, coefficient, 1)
        rows = table[table["condition"] == condition]
        assert bool(rows["headline"].all()) and set(rows["layer"]) == {1}
        by_id = {task.id: task for task in TASKS}
        plain = model.generate(
            [by_id[name] for name in tasks],
            steer=coefficient * vectors[name],
            samples=2,
            max_new_tokens=6,
        )
        assert list(rows["text"]) == [trace.response for trace in plain]
        assert list(rows["tokens"]) == [len(trace.token_ids or ()) for trace in plain]
        again = made.traces(condition)
        assert [t.response for t in again] == list(rows["text"])
        assert {t.annotator for t in again} == {"grammar"}
    assert not table[table["coefficient"] == -0.3]["headline"].any()  # outside the fluent range
    controls = table[table["kind"] == "random"]
    assert set(controls["task"]) == set(tasks[:2]) and set(controls["coefficient"]) == {0.2, 0.3}


def test_nothing_is_written_twice(evaluate, counted, tmp_path) -> None:
    first = evaluate()
    written, texts = sum(counted), first.generations.set_index("trace")["text"].to_dict()
    again = evaluate(annotators=["rules", "grammar"])
    assert sum(counted) == written  # another annotator needs no other chain
    assert set(again.generations["annotator"]) == set(again.annotators)
    assert again.annotators[1] == "grammar" and again.annotators[0].startswith("rules@")
    rows = again.generations[again.generations["annotator"] == "grammar"].reset_index(drop=True)
    common = [c for c in first.generations if c in rows]
    pd.testing.assert_frame_equal(rows[common], first.generations[common])
    # more tasks for controls, more controls and coefficients: only what is new is written
    wider = evaluate(control_tasks=3, random=3, coefficients=[-0.3, -0.2, 0.1, 0.2, 0.3])
    assert sum(counted) - written == 2 * 4 + 2 * 3 + 2 * 2 + 4 * 1
    assert texts.items() <= wider.generations.set_index("trace")["text"].to_dict().items()


def test_annotators_may_be_files(evaluate, tmp_path) -> None:
    bundled = sk.data("annotators/rules.toml").read_text()
    file = tmp_path / "mine.toml"
    file.write_text(bundled.replace('otherwise = "unparsed"', 'otherwise = "deduction"'))
    name = read_rules(file).name
    assert name != read_rules().name
    for asked in (str(file), file, [file], ["grammar", str(file)]):
        made = evaluate(annotators=asked)
        assert made.annotators[-1] == name
    assert made.annotators == ["grammar", name]
    assert set(made.generations["annotator"]) == {"grammar", name}


def test_changed_settings_begin_anew_and_the_old_chains_are_kept(evaluate, counted) -> None:
    first = evaluate()
    written = sum(counted)
    other = evaluate(seed=1)
    assert sum(counted) == 2 * written
    assert list(other.generations["text"]) != list(first.generations["text"])
    back = evaluate()
    assert sum(counted) == 2 * written
    pd.testing.assert_frame_equal(back.generations, first.generations)


def test_a_kill_loses_only_what_was_not_stored(evaluate, monkeypatch, tmp_path) -> None:
    whole = evaluate(out=tmp_path / "whole")
    monkeypatch.setattr(chain_writing, "STORED_AFTER", 0.0)
    calls = []

    def dying(model, prompts, **options):
        if len(calls) == 3:
            raise MemoryError("killed")
        calls.append(len(prompts))
        return generate(model, prompts, **options)

    monkeypatch.setattr(chain_writing, "generate", dying)
    with pytest.raises(MemoryError):
        evaluate(batch_size=6)
    folder = tmp_path / "evaluation"
    with pytest.raises(EvaluationError, match="not finished"):
        sk.read_evaluation(folder)
    assert json.loads((folder / "settings.json").read_text())["spent"] >= 0
    done = list(calls)
    monkeypatch.setattr(
        chain_writing,
        "generate",
        lambda m, p, **o: (calls.append(len(p)), generate(m, p, **o))[1],
    )
    resumed = evaluate(batch_size=6)
    assert done == [3, 3, 3] and sum(calls) == 4 * 9 + 2 * 8
    # other batches and an interruption change no chain
    pd.testing.assert_frame_equal(resumed.generations, whole.generations)


def test_an_interrupt_keeps_what_is_finished(evaluate, monkeypatch, tmp_path) -> None:
    def interrupted(model, prompts, *, steer, **options):
        written = generate(model, prompts[:3], steer=steer[:3], **options)
        cut = Traces([*written][:-1])  # the last task lacks a sample
        cut.interrupted = True
        return cut

    monkeypatch.setattr(chain_writing, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate()
    calls = []
    monkeypatch.setattr(
        chain_writing,
        "generate",
        lambda m, p, **o: (calls.append(len(p)), generate(m, p, **o))[1],
    )
    evaluate()
    assert sum(calls) == 4 * 9 + 2 * 8 - 2


def test_it_is_read_back_as_it_was_written(evaluate, vectors, tmp_path) -> None:
    told, steps = [], []
    made = evaluate(
        tell=told.append, progress=lambda *step: steps.append(step), command="steerkit evaluate"
    )
    assert told[0].startswith("about ") and "chains in" in told[0]
    assert steps[-1] == (104, 104) and [d for d, _ in steps] == sorted(d for d, _ in steps)
    back = sk.read_evaluation(tmp_path / "evaluation")
    assert back.settings == json.loads(json.dumps(made.settings))
    numbers = ["zlib", "repeated", "parsed"]
    pd.testing.assert_frame_equal(back.generations, made.generations, rtol=1e-9)
    assert back.generations[numbers].dtypes.equals(made.generations[numbers].dtypes)
    facts = back.settings
    assert facts["headline"]["backtracking"] == {"amplify": 0.3, "suppress": -0.2}
    assert facts["ranges"]["backtracking"]["fluent"] == [-0.25, 0.35]
    assert facts["command"] == "steerkit evaluate" and facts["seconds"] > 0
    assert facts["controls"] == {"random": 2, "shuffled": 1} and facts["forced"] == []
    found = facts["annotators"][0]
    assert found["name"] == "grammar" and found["agreement"] is None
    assert found["relation"] == annotator_relation(vectors, "grammar")
    assert found["note"] == independence_note(vectors, "grammar")
    assert facts["sets"]["evaluate"]["tasks"] == 4 and facts["requests"] == {}
    assert facts["unreadable"] and facts["answers"] == {"puzzle rules": 104}
    assert sk.read_vectors(tmp_path / "evaluation" / "vectors.safetensors")["deduction"].layer == 1
    for name in ("generations", "rates", "effects", "verdicts", "side_effects"):
        assert (tmp_path / "evaluation" / f"{name}.csv").stat().st_size > 0
    assert len(back.verdicts) == 4 and not back.verdicts["holds"].any()  # noise proves nothing


def test_ranges_are_found_on_select_tasks_where_none_is_known(model, vectors, evaluate) -> None:
    bare = sk.SteeringVectors(
        {"backtracking": replace(vectors["backtracking"], fluent=None, free=None)},
        vectors.provenance,
    )
    tasks = [Task(f"s{i}", f"Use {i}, 9, 2 to make 18.") for i in range(30)]
    select = [task for task in tasks if split_of(task.prompt) == "select"][:2]

    def call(**more):
        return sk.evaluate(
            model,
            bare,
            TASKS,
            traces=CHAINS,
            coefficients=[-0.1, 0.1],
            random=1,
            shuffled=0,
            max_new_tokens=4,
            annotators="grammar",
            **more,
        )

    with pytest.raises(EvaluationError, match="no tasks to find out on"):
        call(out="unused")
    folder = evaluate().folder / "again"
    made = call(select=select, out=folder)
    found = made.settings["ranges"]["backtracking"]
    assert found["found_on"] == 2 and found["fluent"][0] <= 0 <= found["fluent"][1]
    assert made.settings["sets"]["select"]["tasks"] >= 2
    unknown = call(find_range=False, out=folder)
    assert unknown.settings["ranges"] == {} and not unknown.verdicts["holds"].any()
    # a range that the vectors bring is one of every position: at others it is found anew, and
    # the vectors that are kept do not take it for theirs
    elsewhere = call(select=select, where="sentences", out=folder)
    assert elsewhere.settings["where"] == "sentences"
    assert sk.read_vectors(folder / "vectors.safetensors")["backtracking"].fluent is None
    assert made.settings["where"] == "all"


def test_what_cannot_be_evaluated_is_refused_before_anything_is_written(
    model, vectors, evaluate, tmp_path
) -> None:
    seen = [Task("seen", CHAINS[0].prompt or "")]
    with pytest.raises(EvaluationError, match="not made with"):
        evaluate(tasks=[*TASKS, *seen])
    for wrong, message in (
        ({"tasks": []}, "no tasks to evaluate on"),
        ({"tasks": None}, "no tasks to evaluate tiny"),
        ({"samples": 0}, "samples is out of range"),
        ({"coefficients": [0.0]}, "no coefficient but 0"),
        ({"annotators": []}, "nobody labels"),
        ({"traces": None}, "need the chains"),
        ({"headline": [0.1, 0.2]}, "one below|below zero"),
    ):
        with pytest.raises(EvaluationError, match=message):
            evaluate(**wrong)
    for nobody in ("oracle", ["grammar", "oracle"]):
        with pytest.raises(AnnotationError, match="unknown annotator 'oracle'"):
            evaluate(annotators=nobody)
    assert not (tmp_path / "evaluation" / "traces").exists()
    forced = evaluate(tasks=[*TASKS, *seen], force=True)
    assert forced.settings["forced"] == ["seen"]
    with pytest.raises(EvaluationError, match="no condition 'nothing'"):
        forced.traces("nothing")
    with pytest.raises(EvaluationError, match="no evaluation here"):
        sk.read_evaluation(tmp_path)
