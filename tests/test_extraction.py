"""Extraction: planted directions come back, from the right tasks, the same every time."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import steerkit as sk
from steerkit.collection import collect, trace_digest
from steerkit.directions import CONTRASTS, contrast
from steerkit.errors import BehaviorError, ExtractionError, TraceError
from steerkit.layer_choice import auroc
from steerkit.models import ThinkingModel
from steerkit.positions import Window
from steerkit.reliability import split_half
from steerkit.tasks import task_hash
from steerkit.traces import Span, Traces
from tests.test_residual import hooks_in
from tests.tiny import LAYERS, SENTENCES, WIDTH, tiny_model, tiny_trace, tiny_traces

LABELS = ("initializing", "deduction", "example-testing", "uncertainty-estimation", "backtracking")


def planted_model(strength: float, words: tuple[str, ...] = ("does", "not", "work")):
    """A tiny model whose embeddings of some words carry a direction, and that direction."""
    model = tiny_model()
    generator = torch.Generator().manual_seed(7)
    direction = torch.randn(WIDTH, generator=generator)
    direction /= direction.norm()
    with torch.no_grad():
        embedding = model.hf.get_input_embeddings().weight
        for word in words:
            for form in (word, f" {word}"):
                embedding[model.tokenizer.convert_tokens_to_ids(form)] += strength * direction
    return model, direction


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.cosine_similarity(a.double(), b.double(), dim=-1))


@pytest.mark.parametrize("name", [*CONTRASTS, "backtracking:deduction"])
def test_a_planted_direction_is_recovered_at_every_layer(name: str) -> None:
    model, planted = planted_model(400.0, ("does", "work"))
    window = sk.Window(1, 10)  # the words stand inside of the spans
    vectors = sk.extract(model, tiny_traces(40), contrast=name, window=window)
    direction = vectors["backtracking"]
    for layer in range(LAYERS):
        assert cosine(direction.vector(layer, "raw"), planted) >= 0.99
    assert direction.split_half is not None and float(direction.split_half.min()) >= 0.99
    plain = sk.extract(tiny_model(), tiny_traces(40), contrast=name, window=window)
    for layer in range(LAYERS):  # without the plant there is nothing to recover
        assert abs(cosine(plain["backtracking"].vector(layer, "raw"), planted)) < 0.3


def test_directions_are_the_contrast_of_the_extract_tasks() -> None:
    model, traces = tiny_model(), tiny_traces(30)
    vectors = sk.extract(model, traces, contrast="rest", choose_by="auroc")
    used, kept = traces.split("extract"), traces.split("select")
    moments = collect(model, used)
    expected = contrast(moments, "rest").float()
    assert tuple(vectors) == moments.labels
    curves = auroc(model, kept, {n: d.tensor for n, d in vectors.items()}, range(LAYERS))
    halves = split_half(moments, "rest")
    for k, (label, direction) in enumerate(vectors.items()):
        assert torch.equal(direction.tensor, expected[k])
        assert direction.layers == (0, 1, 2) and direction.n_layers == LAYERS
        assert direction.spans == used.counts()[label]
        assert direction.tasks == len({t.task_id for t in used if label in Traces([t]).counts()})
        assert torch.equal(direction.mean_norm, moments.mean_norm.float())
        assert torch.equal(direction.norm_of_mean, moments.norm_of_mean.float())
        assert direction.split_half is not None
        torch.testing.assert_close(direction.split_half, halves[label].float())
        assert direction.auroc is not None and direction.chosen_by == "auroc"
        assert direction.layer == int(curves[label].argmax())
        torch.testing.assert_close(direction.auroc, curves[label].float())
        assert direction.cone is not None and bool((direction.cone > 0).all())
    assert hooks_in(model.residual) == 0


@pytest.mark.parametrize("behaviors", [None, ["backtracking", "deduction"]])
def test_cosines_are_those_of_the_extract_tasks(behaviors: list[str] | None) -> None:
    model, traces = tiny_model(), tiny_traces(60)
    vectors = sk.extract(model, traces, behaviors=behaviors, contrast="balanced")
    moments = collect(model, traces.split("extract"))
    expected = sk.cosines(moments, "balanced", behaviors).table()
    found = vectors.cosines()
    assert list(found["behavior_a"].unique()) == list(behaviors or LABELS)
    # which direction is weak is not known of moments alone
    measured = found.drop(columns="note")
    pd.testing.assert_frame_equal(measured, expected, rtol=1e-5, atol=1e-6)
    assert found["low"].notna().all() and (found["low"] <= found["high"]).all()
    alone = sk.extract(model, traces, contrast="backtracking:deduction").cosines()
    assert len(alone) == LAYERS and (alone["low"] == 1).all()


def test_sets_of_tasks_are_disjoint_and_evaluate_is_never_read() -> None:
    model, traces = tiny_model(), tiny_traces(40)
    vectors = sk.extract(model, traces)
    extracted = set(vectors.provenance["extract_tasks"])
    selected = set(vectors.provenance["select_tasks"])
    evaluated = {task_hash(t.prompt or "") for t in traces.split("evaluate")}
    assert extracted and selected and evaluated
    assert not extracted & selected and not (extracted | selected) & evaluated
    # a chain of an evaluate task that cannot even be aligned changes nothing
    broken = Traces(replace(t, token_ids=(5, 5, 5)) if t.split == "evaluate" else t for t in traces)
    again = sk.extract(model, broken)
    assert again.provenance == vectors.provenance
    assert all(torch.equal(again[n].tensor, vectors[n].tensor) for n in vectors)
    for name in ("extract", "select"):
        with pytest.raises(TraceError, match="do not spell"):
            sk.extract(
                model,
                Traces(replace(t, token_ids=(5, 5)) if t.split == name else t for t in traces),
            )


def test_select_chains_choose_the_layer_but_not_the_direction() -> None:
    model, traces = tiny_model(), tiny_traces(40)
    used, kept = traces[:30], traces[30:]
    vectors = sk.extract(model, used, select=kept)
    assert set(vectors.provenance["extract_tasks"]) == {task_hash(t.prompt or "") for t in used}
    assert vectors["deduction"].spans == used.counts()["deduction"]
    other = sk.extract(model, used, select=Traces())
    for name, direction in vectors.items():
        assert torch.equal(direction.tensor, other[name].tensor)
        assert direction.layer is not None and other[name].layer is None
        assert other[name].auroc is None
    with pytest.raises(ExtractionError, match=r"1 tasks are both.*task 'task-29' in both"):
        sk.extract(model, used, select=traces[29:])


def test_a_behaviour_that_select_tasks_do_not_show_has_no_layer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, traces = tiny_model(), tiny_traces(20)
    few = Traces(
        t.with_spans([s for s in t.spans if s.label != "backtracking"], None)
        for t in tiny_traces(30)[20:]
    )
    with caplog.at_level(logging.WARNING):
        vectors = sk.extract(model, traces, select=few)
    assert vectors["backtracking"].layer is None and vectors["deduction"].layer is not None
    assert "no layer chosen for backtracking" in caplog.text
    table = vectors.table().set_index("behavior")
    assert table["layer"].isna().to_dict() == {n: n == "backtracking" for n in vectors}


def test_provenance_says_where_vectors_come_from_without_paths_or_times() -> None:
    model, traces = tiny_model(), tiny_traces(24)
    vectors = sk.extract(model, traces, seed=3, window=Window(0, 5), contrast="balanced")
    provenance = vectors.provenance
    used, kept = traces.split("extract"), traces.split("select")
    assert provenance["model"] == "tiny-qwen2" and provenance["revision"] is None
    assert provenance["tokenizer_hash"] == model.tokenizer_hash
    assert (provenance["d_model"], provenance["n_layers"]) == (WIDTH, LAYERS)
    assert provenance["dtype"] == "float32"
    assert provenance["traces"] == sorted(trace_digest(t) for t in used)
    assert provenance["select_traces"] == sorted(trace_digest(t) for t in kept)
    assert provenance["annotators"] == ["planted"]
    assert provenance["annotator_chains"] == {"planted": len(used)}
    assert provenance["contrast"] == "balanced" and provenance["seed"] == 3
    assert provenance["window"] == {"before": 0, "length": 5}
    assert provenance["counts"]["chains"] == len(used)
    assert provenance["counts"]["spans"] == sum(used.counts().values())
    assert len(provenance["outliers"]) == LAYERS
    assert set(provenance["replicates_used"]) == set(vectors)
    assert {"torch", "transformers", "transformer-lens"} <= set(provenance["versions"])
    text = json.dumps(provenance)
    assert str(Path.cwd()) not in text and "/tmp" not in text
    assert not any(word in text.lower() for word in ('"date', '"time', '"path', '"host', '"user'))


def test_the_same_run_writes_the_same_bytes(tmp_path: Path) -> None:
    traces = tiny_traces(24)
    files = []
    for n in range(2):
        vectors = sk.extract(tiny_model(), traces, batch_tokens=300)
        files.append(vectors.save(tmp_path / str(n) / "vectors.safetensors").read_bytes())
    assert files[0] == files[1]
    other = sk.extract(tiny_model(seed=1), traces, batch_tokens=300)
    assert other.save(tmp_path / "other").read_bytes() != files[0]


def test_a_model_is_read_unsteered_inside_its_context(tmp_path: Path) -> None:
    """Moments and vectors, every bit of them: collection, choice of the layer, norms."""
    model, traces = tiny_model(), tiny_traces(30)
    plain, vectors = collect(model, traces), sk.extract(model, traces)
    expected = vectors.save(tmp_path / "plain.safetensors").read_bytes()
    with model.steer(2.0 * vectors["backtracking"].at(layer=1)):
        model.hf(input_ids=torch.tensor([model.align(traces[0]).ids]))
        inside = collect(model, traces)
        found = sk.extract(model, traces).save(tmp_path / "inside.safetensors")
    assert torch.equal(inside.mean_norm, plain.mean_norm)
    assert torch.equal(contrast(inside, "rest"), contrast(plain, "rest"))
    assert found.read_bytes() == expected


def test_behaviours_layers_and_contrasts_can_be_chosen() -> None:
    model, traces = tiny_model(), tiny_traces(24)
    whole = sk.extract(model, traces)
    few = sk.extract(model, traces, behaviors=["uncertainty", "backtracking"], layers=[2, 1])
    assert tuple(few) == ("uncertainty-estimation", "backtracking")
    for name, direction in few.items():
        assert direction.layers == (1, 2) and direction.layer in (1, 2)
        # the other behaviours still serve as contrast
        torch.testing.assert_close(direction.tensor, whole[name].tensor[1:])
    pair = sk.extract(model, traces, contrast="uncertainty:deduction")
    assert tuple(pair) == ("uncertainty-estimation",)


def test_layers_of_numpy_and_one_behaviour_by_its_name(tmp_path: Path) -> None:
    model, traces = tiny_model(), tiny_traces(30)
    plain = sk.extract(model, traces, behaviors=["backtracking"], layers=[0, 1])
    vectors = sk.extract(model, traces, behaviors="backtracking", layers=np.arange(2))
    assert vectors.save(tmp_path / "a").read_bytes() == plain.save(tmp_path / "b").read_bytes()
    assert sk.extract(model, traces, layers=1)["backtracking"].layers == (1,)


def test_any_sequence_of_traces_is_extracted_from(tmp_path: Path) -> None:
    model, traces = tiny_model(), tiny_traces(30)
    expected = sk.extract(model, traces).save(tmp_path / "a").read_bytes()
    for given in (list(traces), tuple(traces), iter(traces)):
        assert sk.extract(model, given).save(tmp_path / "b").read_bytes() == expected
    with_select = sk.extract(model, list(traces.split("extract")), select=traces.split("select"))
    assert with_select.save(tmp_path / "c").read_bytes() == expected


@pytest.mark.usefixtures("unchecked")
def test_a_path_is_no_traces() -> None:
    for read in (sk.extract, collect):
        for path in ("chains.jsonl", Path("chains.jsonl")):
            with pytest.raises(TraceError, match=r"a path is no traces.*sk\.read_traces"):
                read(tiny_model(), path)  # type: ignore[operator]


def test_the_default_contrast_and_the_seed() -> None:
    model, traces = tiny_model(), tiny_traces(24)
    default = sk.extract(model, traces)
    assert default.provenance["contrast"] == "balanced"
    assert default.provenance["window"] == {"before": 1, "length": 0}
    fitted = sk.extract(model, traces, method="lda", behaviors="deduction")
    assert fitted.provenance["contrast"] == "rest"  # it knows no other
    other = sk.extract(model, traces, seed=1)
    direction, again = default["deduction"], other["deduction"]
    assert torch.equal(direction.tensor, again.tensor)
    assert direction.cone is not None and again.cone is not None
    assert not torch.equal(direction.cone, again.cone)


def test_progress_counts_every_pass() -> None:
    model, traces = tiny_model(), tiny_traces(24)
    seen: list[tuple[int, int]] = []
    sk.extract(model, traces, progress=lambda done, total: seen.append((done, total)))
    kept = len(traces.split("select"))
    total = len(traces.split("extract")) + 2 * kept  # read, told apart, and scored
    assert seen[-1] == (total, total) and {t for _, t in seen} == {total}
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


def test_what_cannot_be_extracted_is_named() -> None:
    model, traces = tiny_model(), tiny_traces(24)
    bare = Traces(t.with_spans([], None) for t in traces)
    with pytest.raises(ExtractionError, match=r"no annotated spans.*whole file has 0.*annotate"):
        sk.extract(model, bare)
    elsewhere = Traces(t if t.split == "evaluate" else t.with_spans([], None) for t in traces)
    count = sum(elsewhere.counts().values())
    with pytest.raises(ExtractionError, match=rf"whole file has {count}"):
        sk.extract(model, elsewhere)
    with pytest.raises(BehaviorError, match="unknown behaviour 'wishing'"):
        sk.extract(model, traces, behaviors=["wishing"])
    with pytest.raises(ExtractionError, match=r"no spans of 'adding-knowledge'.*deduction \d+"):
        sk.extract(model, traces, behaviors=["adding-knowledge"])
    with pytest.raises(ExtractionError, match="unknown contrast 'others'"):
        sk.extract(model, traces, contrast="others")
    with pytest.raises(ExtractionError, match="needs spans of 'adding-knowledge'"):
        sk.extract(model, traces, contrast="deduction:adding-knowledge")
    with pytest.raises(ExtractionError, match=r"layer 7 does not exist.*0 to 2"):
        sk.extract(model, traces, layers=[7])
    single = Traces([tiny_trace(["deduction", "deduction"])])
    with pytest.raises(ExtractionError, match=r"deduction: nothing to set.*deduction 2"):
        sk.extract(model, single, select=Traces())
    with pytest.raises(ExtractionError, match=r"'within' .deduction: nothing to.*one chain"):
        sk.extract(
            model,
            Traces([*single, tiny_trace(["backtracking"], 1)]),
            behaviors=["deduction"],
            contrast="within",
            select=Traces(),
        )


def with_one_alone(traces: Traces) -> Traces:
    """The chains, of which every third holds backtracking alone and the others none."""
    made = []
    for i, trace in enumerate(traces):
        spans = [s for s in trace.spans if (s.label == "backtracking") == (i % 3 == 0)]
        made.append(trace.with_spans(spans, "planted"))
    return Traces(made)


def test_what_is_left_out_is_said_and_written_down(caplog) -> None:
    model, traces = tiny_model(), with_one_alone(tiny_traces(40))
    assert sum(t.split == "extract" and i % 3 == 0 for i, t in enumerate(traces)) > 2
    with caplog.at_level("WARNING", "steerkit"):
        vectors = sk.extract(model, traces, method="pca", choose_by="auroc")
    assert set(vectors) == set(LABELS) - {"backtracking"}
    reason = vectors.provenance["left_out"]["backtracking"]
    assert "to be paired with at layer 0" in reason
    assert f"backtracking is left out: {reason}" in caplog.text
    with pytest.raises(ExtractionError, match=r"backtracking: no span has .*layer 0"):
        sk.extract(model, traces, method="pca", behaviors=["deduction", "backtracking"])
    # spans in other chains only, and behaviours that no chain shares with another
    moved = Traces(
        t.with_spans([s for s in t.spans if s.label != "initializing"], "planted")
        if t.split == "extract"
        else t
        for t in traces
    )
    vectors = sk.extract(model, moved, contrast="within", choose_by="auroc")
    left_out = vectors.provenance["left_out"]
    assert set(left_out) == {"initializing", "backtracking"}
    assert left_out["initializing"].startswith("no span in the chains to extract from")
    assert left_out["backtracking"].startswith("nothing to set its spans against")
    caplog.clear()
    assert sk.extract(model, tiny_traces(40)).provenance["left_out"] == {}
    assert "left out" not in caplog.text


def test_a_behaviour_whose_windows_are_empty_is_left_out() -> None:
    traces = Traces(
        t.with_spans(
            [
                Span(s.start, s.start + 1, s.label) if s.label == "deduction" else s
                for s in t.spans
                if s.start > 0
            ],
            "a",
        )
        for t in tiny_traces(24)
    )
    vectors = sk.extract(tiny_model(), traces, window=Window(0, 10), select=Traces())
    assert "deduction" not in vectors
    assert "no span of it could be read" in vectors.provenance["left_out"]["deduction"]


def test_empty_windows_are_counted_and_never_nan() -> None:
    model = tiny_model()
    traces = Traces(
        t.with_spans([*t.spans[1:], Span(t.spans[0].start, t.spans[0].start + 1, "deduction")], "a")
        for t in tiny_traces(24)
        if t.spans[0].label != "deduction" and t.response[0] != " "
    )
    vectors = sk.extract(model, traces, window=Window(0, 10), select=Traces())
    assert vectors.provenance["counts"]["empty windows"] == len(traces)
    for direction in vectors.values():
        assert bool(direction.tensor.isfinite().all())
        assert bool(direction.mean_norm.isfinite().all())


def test_out_of_memory_gives_the_same_vectors() -> None:
    from tests.test_streaming import fail_above

    model, traces = tiny_model(), tiny_traces(24)
    expected = sk.extract(model, traces)
    limit = 2 * max(len(model.align(trace).ids) for trace in traces)
    error = torch.OutOfMemoryError("full")
    handle = fail_above(model.hf.get_input_embeddings(), limit, error)
    found = sk.extract(model, traces)
    handle.remove()
    for name, direction in found.items():
        torch.testing.assert_close(direction.tensor, expected[name].tensor, rtol=1e-4, atol=1e-4)
        assert direction.spans == expected[name].spans


def test_another_architecture_in_half_precision() -> None:
    model: ThinkingModel = tiny_model("gemma3")
    model.hf.bfloat16()
    vectors = sk.extract(model, tiny_traces(16))
    assert set(vectors) == set(LABELS) == set(SENTENCES)
    for direction in vectors.values():
        assert direction.tensor.dtype == torch.float32
        assert direction.tensor.shape == (LAYERS, WIDTH)


def test_layers_are_chosen_by_the_gradient_unless_told_otherwise() -> None:
    from steerkit.layer_choice.scores import chosen_layers, score_layers

    model, traces = tiny_model(), tiny_traces(60)
    vectors = sk.extract(model, traces)
    some = {"scores": ("auroc", "gradient", "gain"), "chains": 12}
    scores = score_layers(model, vectors, traces, **some)
    for score in ("gradient", "auroc", "gain"):
        chosen = vectors if score == "gradient" else sk.extract(model, traces, choose_by=score)
        assert {n: d.layer for n, d in chosen.items()} == chosen_layers(scores, score)
        assert {d.chosen_by for d in chosen.values()} == {score}
        assert chosen.provenance["layer_choice"]["score"] == score
        for name, direction in chosen.items():  # whatever chooses, the rest stays
            assert torch.equal(direction.tensor, vectors[name].tensor)
            assert torch.equal(direction.auroc, vectors[name].auroc)
    by_score = [chosen_layers(scores, score) for score in ("auroc", "gradient")]
    assert by_score[0] != by_score[1]  # or the test could not fail
    few = vectors.provenance["layer_choice"]
    assert few == {"score": "gradient", "chains": 12, "tokens": 384}
    bare = sk.extract(model, traces, select=Traces())
    assert "layer_choice" not in bare.provenance
    assert {d.chosen_by for d in bare.values()} == {""}
    with pytest.raises(ExtractionError, match=r"suggested by 'sweep'.*steerkit layers"):
        sk.extract(model, traces, choose_by="sweep")
