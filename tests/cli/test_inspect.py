import json
import math

import pytest

import steerkit as sk
from steerkit.lens import TIED
from steerkit.vectors import SteeringVectors
from tests.test_published import means, written
from tests.tiny import LAYERS, SENTENCES

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def without_intervals(path, out):
    vectors = sk.read_vectors(path)
    return SteeringVectors(dict(vectors), vectors.provenance).save(out)


def rows_under(lines, heading):
    """Words of the table's rows after the line that holds ``heading``, up to the next gap."""
    at = next(i for i, line in enumerate(lines) if heading in line)
    start = next(i for i in range(at, len(lines)) if set(lines[i]) == {"─"}) + 1
    stop = next((i for i in range(start, len(lines)) if not lines[i].strip()), len(lines))
    return [line.split() for line in lines[start:stop]]


def test_shows_directions_cosines_and_intervals(run, vectors, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "120")
    result = run("inspect", vectors)
    assert (result.code, result.err) == (0, "")
    known = sk.read_vectors(vectors)
    layers = sorted(d.layer for d in known.values())
    middle = layers[(len(layers) - 1) // 2]
    lines = result.out.splitlines()
    assert f"Cosines at layer {middle}, the middle one of those suggested:" in lines
    assert "directions of tiny, contrast balanced, layers 0 to 2" in lines[0]
    for row, name in zip(rows_under(lines, "behaviour"), known, strict=True):
        assert row[0] == name and int(row[7]) == known[name].layer
    table = known.cosines(middle).set_index(["behavior_a", "behavior_b"])
    names = list(known)
    matrix = rows_under(lines, "Cosines at layer")
    assert len(matrix) == len(names)
    for i, (name, row) in enumerate(zip(names, matrix, strict=True)):
        assert row[:2] == [str(i + 1), name + "*" * bool(known[name].weakness)]
        expected = [table.loc[(name, other), "cosine"] for other in names[: i + 1]]
        assert [float(cell) for cell in row[2:]] == pytest.approx(expected, abs=0.006)
    weak = [f"{name} {d.weakness}" for name, d in known.items() if d.weakness]
    assert (f"* Not to be trusted yet: {', '.join(weak)}." in lines) == bool(weak)
    pairs = rows_under(lines, "95 % interval")
    assert len(pairs) == len(names) * (len(names) - 1) // 2
    for a, b, cosine, corrected, low, to, high in pairs:
        row = table.loc[(a.rstrip(",*"), b.rstrip("*"))]
        assert float(cosine) == pytest.approx(row["cosine"], abs=0.006)
        if corrected == "-":
            assert math.isnan(row["corrected"])
        else:
            assert float(corrected) == pytest.approx(row["corrected"], abs=0.006)
        assert to == "to"
        assert [float(low), float(high)] == pytest.approx([row["low"], row["high"]], abs=0.006)
    assert not list(tmp_path.iterdir()), "nothing is written unless asked for"


def test_the_layer_and_behaviours_can_be_named(run, vectors, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    result = run("inspect", vectors, "--layer", 0, "--behavior", "uncertainty", "--behavior")
    assert result.code == 2
    words = ["--layer", 0, "--behavior", "uncertainty", "--behavior", "backtracking"]
    result = run("inspect", vectors, *words)
    lines = result.out.splitlines()
    assert "Cosines at layer 0:" in lines
    names = [row[0] for row in rows_under(lines, "behaviour")]
    assert names == ["uncertainty-estimation", "backtracking"]
    assert len(rows_under(lines, "95 % interval")) == 1
    alone = run("inspect", vectors, "--behavior", "backtracking")
    assert alone.code == 0 and "Cosines" not in alone.out


def test_json_is_one_object_and_nothing_else(run, vectors):
    result = run("inspect", vectors, "--json", "--layer", 1)
    found = json.loads(result.out)
    assert result.out.count("\n") == 1 and result.err == ""
    names = ["vectors", "figure", "model", "contrast", "annotators"]
    names += ["behaviors", "layer", "cosines", "lens"]
    assert list(found) == names
    assert (found["vectors"], found["figure"], found["lens"]) == (str(vectors), None, None)
    assert (found["layer"], found["contrast"]) == (1, "balanced")
    assert [row["behavior"] for row in found["behaviors"]] == list(SENTENCES)
    table = sk.read_vectors(vectors).cosines(1).set_index(["behavior_a", "behavior_b"])
    assert len(found["cosines"]) == 10
    for row in found["cosines"]:
        expected = table.loc[(row["behavior_a"], row["behavior_b"])]
        for part in ("cosine", "corrected", "low", "high"):
            assert row[part] == pytest.approx(expected[part], nan_ok=True) or (
                row[part] is None and math.isnan(expected[part])
            )


def test_the_lens_is_the_librarys(run, vectors, model_folder):
    words = ["inspect", vectors, "--model", model_folder, "--lens", "--top", 3]
    found = run(*words, "--json").json["lens"]
    model, known = sk.load(model_folder), sk.read_vectors(vectors)
    assert [read["behavior"] for read in found] == list(known)
    for read in found:
        direction = known[read["behavior"]]
        assert (read["layer"], read["tied"]) == (direction.layer, True)
        assert read["tokens"] == sk.logit_lens(model, direction, top=3).to_dict("records")
    assert {read["layer"] for read in run(*words, "--json", "--layer", 0).json["lens"]} == {0}
    result = run(*words)
    assert result.code == 0, result.err
    assert result.out.count("Tokens of ") == len(known) and TIED in result.out
    lines = result.out.splitlines()
    for read in found:
        shown = rows_under(lines, f"Tokens of {read['behavior']} at")
        assert len(shown) == 3
        text = " ".join(" ".join(row) for row in shown)
        for token in read["tokens"]:
            assert repr(token["token"]).split()[-1] in text


def test_the_figure_is_the_librarys(run, vectors, tmp_path):
    from steerkit.plots import save_figure

    for words, layer in (([], None), (["--layer", 0], 0)):
        result = run("inspect", vectors, "--figure", "out/a.png", *words)
        assert result.code == 0 and "Figure: out/a.png" in result.out
        expected = save_figure(sk.plot_cosines(sk.read_vectors(vectors), layer), tmp_path / "b.png")
        found = (tmp_path / "out" / "a.png").read_bytes()
        assert found.startswith(SIGNATURE) and found == expected.read_bytes()


def test_a_file_without_intervals_is_shown_all_the_same(run, vectors, tmp_path):
    old = without_intervals(vectors, tmp_path / "old.safetensors")
    result = run("inspect", old)
    assert result.code == 0 and "no intervals of cosines" in result.out
    assert len(rows_under(result.out.splitlines(), "Cosines at layer")) == len(SENTENCES)
    for row in run("inspect", old, "--json").json["cosines"]:
        assert row["cosine"] is not None and row["low"] is row["high"] is row["corrected"] is None


def test_options_that_do_nothing_are_told(run, vectors):
    for words in (["--model", "countdown-base"], ["--top", 3]):
        result = run("inspect", vectors, *words)
        assert result.code == 0
        assert result.err == f"steerkit: warning: {words[0]} does nothing without --lens\n"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--layer", LAYERS], f"no cosines at layer {LAYERS}"),
        (["--layer", "two"], "counted from 0"),
        (["--behavior", "daydreaming"], "no direction of 'daydreaming'"),
        (["--figure", "cosines.bmp"], ".png"),
        (["--figure", "a.png", "--behavior", "backtracking"], "two directions"),
        (["--top", "0"], "at least 1"),
        (["--lens"], "do not fit the model countdown-thinking"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(
    run, vectors, tmp_path, words, named
):
    result = run("inspect", vectors, *words)
    assert result.code == 2 and named in result.err, result.err
    assert result.out == "" and not list(tmp_path.iterdir())


def test_the_vectors_file_is_never_overwritten(run, vectors, tmp_path):
    copy = tmp_path / "vectors.png"
    copy.write_bytes(vectors.read_bytes())
    result = run("inspect", "vectors.png", "--figure", "./vectors.png")
    assert result.code == 2 and "would overwrite" in result.err
    assert copy.read_bytes() == vectors.read_bytes()
    assert "no such vectors file" in run("inspect").err


def test_published_means_are_inspected_too(run, tmp_path):
    """Nobody wrote down how many tasks they are of."""
    vectors = sk.read_published(written(means(), tmp_path / "means.pt"), contrast="overall")
    vectors.save(tmp_path / "p.safetensors")
    result = run("inspect", tmp_path / "p.safetensors", "--layer", 1)
    assert result.code == 0, result.err
    assert "backtracking" in result.out and "no intervals of cosines" in result.out
    found = run("inspect", tmp_path / "p.safetensors", "--layer", 1, "--json").json
    assert {row["tasks"] for row in found["behaviors"]} == {None}
    assert {row["cone"] for row in found["behaviors"]} == {None}
