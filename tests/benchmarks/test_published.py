"""`make published`: directions that are shared are told from those that are not."""

from __future__ import annotations

import json

import pandas as pd
import published
import pytest
import torch
from published_report import summary

import steerkit as sk
from steerkit.directions import contrast
from steerkit.training.tokenizer import build_tokenizer
from tests.cli.test_extract import tagged
from tests.test_extraction import planted_model
from tests.tiny import tiny_traces


@pytest.fixture
def folder(tmp_path):
    """A reference folder: tagged chains, and the means that another model has on others."""
    model, _ = planted_model(6.0)
    model.hf.save_pretrained(tmp_path / "tiny-model")
    build_tokenizer().save_pretrained(tmp_path / "tiny-model")
    records = [tagged(trace) for trace in tiny_traces(30)]
    place = tmp_path / "reference"
    place.mkdir()
    (place / published.CHAINS).write_text(json.dumps(records))
    moments = sk.collect(model, tiny_traces(60, seed=9), window=sk.Window(1, 10))
    counts = moments.counts[0]
    means = {
        label: {
            "mean": torch.stack(
                [moments.layer_sums(i)[0, k] / counts[k] for i in range(len(moments.layers))]
            ).float(),
            "count": int(counts[k]),
        }
        for k, label in enumerate(moments.labels)
    }
    means["overall"] = {"mean": moments.mean.float(), "count": 60}
    torch.save(means, place / published.MEANS)
    return place


def test_a_run_is_gone_on_with_and_shared_directions_are_beyond_both_controls(
    folder, tmp_path, monkeypatch, capsys
):
    read = []
    plain = sk.collect

    def collect(model, chains, **options):
        read.append(len(chains))
        return plain(model, chains, **options)

    monkeypatch.setattr(sk, "collect", collect)
    options = {
        "model": tmp_path / "tiny-model",
        "reference": folder,
        "shard": 8,
        "layer": 1,
        "folder": tmp_path / "results",
        "state": tmp_path / "state",
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    assert published.main(words) == 0
    assert read == [8, 8, 8, 6]
    assert "# Does a model share its directions" in capsys.readouterr().out
    results = tmp_path / "results"
    made = {path.name: path.read_bytes() for path in results.iterdir()}
    assert set(made) == {f"published.{kind}" for kind in ("json", "csv", "md", "png")}
    found = pd.read_csv(results / "published.csv")
    own = found[(found.behavior == "backtracking") & (found.layer == 1)].iloc[0]
    assert own.cosine > 0.8 and own.beyond  # planted in both
    assert own.shuffled < own.cosine - 0.1 and own.others_highest < own.cosine - 0.1
    assert own.shuffled_low <= own.shuffled <= own.shuffled_high
    # nothing is read twice, and a run that was cut short reads the rest
    assert published.main(words) == 0 and read == [8, 8, 8, 6]
    assert (results / "published.csv").read_bytes() == made["published.csv"]
    state = tmp_path / "state"
    (last,) = state.glob("moments_*.safetensors")
    assert last.name == "moments_00030.safetensors"


def test_shards_add_up_to_one_pass(tmp_path):
    model, traces = planted_model(400.0)[0], tiny_traces(12)
    moments = published.collected(model, traces, tmp_path, 5)
    torch.testing.assert_close(
        contrast(moments),
        contrast(sk.collect(model, traces, window=sk.Window(1, 10))),
        rtol=1e-5,
        atol=1e-5,
    )
    assert len(list(tmp_path.glob("moments_*.safetensors"))) == 1  # the last one holds all
    again = published.collected(model, traces, tmp_path, 5)
    assert torch.equal(contrast(again), contrast(moments))


def test_the_summary_is_counted_by_hand():
    rows = [
        ("backtracking", "backtracking", 0.7),
        ("backtracking", "deduction", -0.2),
        ("backtracking", "initializing", 0.4),
    ]
    table = pd.DataFrame(
        [
            {
                **{"behavior_a": a, "behavior_b": b, "cosine": c, "matched": a == b},
                **{"layer": 3, "low": c - 0.1, "high": c + 0.1, "corrected": c},
            }
            for a, b, c in rows
        ]
    )
    twins = pd.concat(
        [table.assign(twin=n, cosine=table.cosine * 0 + c) for n, c in enumerate((0.1, 0.3, 0.65))]
    )
    (row,) = summary(table, twins).to_dict("records")
    assert (row["behavior"], row["layer"], row["cosine"]) == ("backtracking", 3, 0.7)
    assert row["others"] == pytest.approx(0.1) and row["others_highest"] == 0.4
    assert row["shuffled"] == pytest.approx(0.35)
    assert (row["shuffled_low"], row["shuffled_high"]) == (0.1, 0.65) and row["beyond"]
    higher = twins.assign(cosine=twins.cosine + 0.1)
    assert not summary(table, higher).beyond.iloc[0]


def test_without_reference_data_it_says_what_is_needed(monkeypatch, capsys):
    monkeypatch.delenv("STEERKIT_REFERENCE", raising=False)
    with pytest.raises(SystemExit) as stop:
        published.main([])
    assert stop.value.code == 2 and "mean_vectors.pt" in capsys.readouterr().err
