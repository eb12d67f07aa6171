"""Published means: their contrasts are those of numpy, nothing runs, nothing goes unsaid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import steerkit as sk
from steerkit.directions import contrast as contrast_of
from steerkit.errors import (
    BehaviorError,
    ExtractionError,
    SteeringError,
    VectorsError,
)
from steerkit.published import CONTRASTS, read_published
from steerkit.vectors_file import read_vectors
from tests.tiny import LAYERS, WIDTH, tiny_model, tiny_traces

COUNTS = {"deduction": 70, "backtracking": 10, "uncertainty-estimation": 20, "overall": 5}


def means(layers: int = LAYERS, width: int = WIDTH, seed: int = 0) -> dict:
    """Random means in the published form."""
    generator = torch.Generator().manual_seed(seed)
    return {
        label: {"mean": torch.randn(layers, width, generator=generator) + 1.0, "count": count}
        for label, count in COUNTS.items()
    }


def written(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture
def file(tmp_path) -> Path:
    return written(means(), tmp_path / "means.pt")


def expected(name: str, contrast: str) -> np.ndarray:
    """A direction from the words of its definition, in float64 numpy."""
    held = {label: entry["mean"].double().numpy() for label, entry in means().items()}
    overall = held.pop("overall")
    own = held.pop(name)
    if contrast == "overall":
        return own - overall
    if contrast == "rest":
        return own - np.average(list(held.values()), axis=0, weights=[COUNTS[n] for n in held])
    if contrast == "balanced":
        return own - np.mean(list(held.values()), axis=0)
    return own - held[contrast.split(":")[1]]


@pytest.mark.parametrize("contrast", [*CONTRASTS, "backtracking:deduction"])
def test_directions_are_those_of_numpy(file: Path, contrast: str) -> None:
    vectors = read_published(file, contrast=contrast)
    names = ["backtracking"] if ":" in contrast else [n for n in COUNTS if n != "overall"]
    assert list(vectors) == names and vectors.provenance["contrast"] == contrast
    overall = means()["overall"]["mean"].double().numpy()
    for name, direction in vectors.items():
        raw = expected(name, contrast)
        np.testing.assert_allclose(direction.tensor, raw, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(direction.norm_of_mean, np.linalg.norm(overall, axis=1))
        u = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        np.testing.assert_allclose(
            direction.mean_projection, (overall * u).sum(axis=1), rtol=1e-5, atol=1e-5
        )
        assert direction.spans == COUNTS[name] and direction.tasks is None
        assert direction.layers == tuple(range(LAYERS)) and direction.layer is None
        assert not direction.calibrated and direction.split_half is None
    other = read_published(file, contrast="balanced" if contrast != "balanced" else "rest")
    with pytest.raises(AssertionError):  # the contrasts are not all the same
        np.testing.assert_allclose(other["backtracking"].tensor, expected(names[0], contrast))


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_means_of_a_model_give_the_directions_that_extraction_gives(tmp_path, contrast) -> None:
    moments = sk.collect(tiny_model(), tiny_traces(20))
    sums = torch.stack([moments.layer_sums(i)[0] for i in range(LAYERS)])
    n, spans = len(moments.labels), moments.counts[0]
    content = {
        label: {"mean": (sums[:, i] / spans[i]).float(), "count": int(spans[i])}
        for i, label in enumerate(moments.labels)
    }
    chains = int(moments.chains[0])
    content["overall"] = {"mean": (sums[:, 2 * n] / chains).float(), "count": chains}
    vectors = read_published(written(content, tmp_path / "m.pt"), contrast=contrast)
    for raw, direction in zip(contrast_of(moments, contrast), vectors.values(), strict=True):
        torch.testing.assert_close(direction.tensor, raw.float(), rtol=1e-4, atol=1e-4)


def test_contrasts_that_means_do_not_allow_are_refused(tmp_path: Path, file: Path) -> None:
    with pytest.raises(VectorsError, match=r"'within' cannot be computed from means.*balanced"):
        read_published(file, contrast="within")
    with pytest.raises(ExtractionError, match="unknown contrast 'sideways'"):
        read_published(file, contrast="sideways")
    with pytest.raises(ExtractionError, match="needs spans of 'initializing'"):
        read_published(file, contrast="backtracking:initializing")
    alone = {name: means()[name] for name in ("overall", "deduction")}
    path = written(alone, tmp_path / "alone.pt")
    assert list(read_published(path)) == ["deduction"]
    with pytest.raises(VectorsError, match="'rest' needs the mean of another behaviour"):
        read_published(path, contrast="rest")


def test_a_layer_is_named_for_all_or_for_each(file: Path) -> None:
    assert {d.layer for d in read_published(file, layers=2).values()} == {2}
    some = read_published(file, layers={"backtracking": 1, "uncertainty": 2})
    found = {name: d.layer for name, d in some.items()}
    assert found == {"deduction": None, "backtracking": 1, "uncertainty-estimation": 2}
    assert (0.3 * some["backtracking"]).resolved_layers() == (1,)
    with pytest.raises(SteeringError, match="no layer was chosen for 'deduction'"):
        (0.3 * some["deduction"]).resolved_layers()
    with pytest.raises(VectorsError, match=r"layer 3 of 'deduction' does not exist.*0 to 2"):
        read_published(file, layers=3)
    with pytest.raises(VectorsError, match="no mean of 'initializing'"):
        read_published(file, layers={"initializing": 1})
    with pytest.raises(BehaviorError, match="daydreaming"):
        read_published(file, layers={"daydreaming": 1})


def test_vectors_steer_at_once_in_the_papers_unit(file: Path) -> None:
    model, vectors = tiny_model(), read_published(file, layers=1)
    direction = vectors["backtracking"]
    term = 0.3 * direction
    assert term.unit == direction.default_unit == "paper"
    overall = means()["overall"]["mean"]
    torch.testing.assert_close(direction.vector(1).norm(), overall[1].norm())
    assert torch.equal(direction.vector(1), direction.vector(1, "paper"))
    options = {"max_new_tokens": 8, "temperature": 0.0}
    (steered,) = model.generate("Use 3, 7.", steer=3.0 * direction, **options)
    (same,) = model.generate("Use 3, 7.", steer=3.0 * direction.at(unit="paper"), **options)
    (plain,) = model.generate("Use 3, 7.", **options)
    assert steered.token_ids == same.token_ids != plain.token_ids
    assert steered.metadata["steering"][0]["unit"] == "paper"
    for operator in (direction.ablate(), direction.center(), direction.rotate(20)):
        model.generate("Use 3, 7.", steer=operator, **options)
    assert not model.read(plain, vectors)["projection"].isna().any()
    for make in (
        lambda: direction.at(unit="norm"),
        lambda: direction.vector(1, "norm"),
        lambda: model.read(plain, vectors, unit="norm"),
    ):
        with pytest.raises(
            SteeringError,
            match=r"mean norm of the layers of '(backtracking|deduction)'.*calibrate.*paper",
        ):
            make()


def test_the_same_file_gives_the_same_bytes_and_they_come_back(file: Path, tmp_path: Path) -> None:
    vectors = read_published(file, model="someone/model", layers={"backtracking": 1})
    path = vectors.save(tmp_path / "v.safetensors")
    again = read_published(file, model="someone/model", layers={"backtracking": 1})
    assert again.save(tmp_path / "again").read_bytes() == path.read_bytes()
    back = read_vectors(path)
    assert back.save(tmp_path / "back").read_bytes() == path.read_bytes()
    assert back.provenance == vectors.provenance and back.provenance["model"] == "someone/model"
    assert str(tmp_path) not in json.dumps(back.provenance)
    for name, direction in vectors.items():
        assert torch.equal(back[name].tensor, direction.tensor)
        assert back[name].mean_norm is None and back[name].tasks is None
        assert back[name].layer == direction.layer
    table = back.table().set_index("behavior")
    assert table["tasks"].isna().all() and table["norm"].isna().all()
    assert table["spans"].to_dict() == {n: c for n, c in COUNTS.items() if n != "overall"}
    assert back.layers_table()["mean_norm"].isna().all()
    assert "10 spans, layer 1 suggested, not calibrated" in repr(back["backtracking"])
    assert "<table" in back._repr_html_()


def test_the_papers_cosines_come_out(reference: Path) -> None:
    """arXiv 2506.18167: DeepSeek-R1-Distill-Qwen-1.5B, layer 17."""
    vectors = read_published(reference / "r1_distill_qwen_1.5b_mean_vectors.pt")
    assert vectors.provenance["published"]["left_out"] == {
        "summarizing": {"count": 1, "reason": "no known behaviour"}
    }
    counts = json.loads((reference / "paper_numbers.json").read_text())
    spans = counts["training_span_counts_from_mean_vectors_pt"]["qwen-1.5b"]
    assert {name: d.spans for name, d in vectors.items()} == {name: spans[name] for name in vectors}
    assert vectors.provenance["published"]["responses"] == spans["overall(responses)"]
    published = {
        ("backtracking", "uncertainty-estimation"): 0.646,
        ("backtracking", "deduction"): 0.604,
        ("uncertainty-estimation", "deduction"): 0.492,
    }
    for contrast, agrees in (("overall", True), ("rest", False)):
        vectors = read_published(
            reference / "r1_distill_qwen_1.5b_mean_vectors.pt", contrast=contrast
        )
        table = sk.compare_directions(vectors, vectors, layers=17)
        table = table.set_index(["behavior_a", "behavior_b"])["cosine"]
        assert all(abs(table[pair] - c) < 1e-3 for pair, c in published.items()) == agrees
