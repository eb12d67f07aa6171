"""`make noise`: labels are as wrong as is said, and directions are those of an extraction."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import label_noise
import numpy as np
import pandas as pd
import pytest
import torch
from label_noise_report import draw, enough, markdown
from noisy_labels import (
    NONE,
    Labelling,
    agreement,
    aligned,
    confused_flow,
    corrupted,
    cosines,
    mean_directions,
    random_flow,
    read_means,
)

import steerkit as sk
from steerkit.collection import collect, trace_digest
from steerkit.directions import contrast
from steerkit.errors import SteerkitError
from steerkit.plots import figure_bytes
from tests.tiny import SENTENCES, tiny_model, tiny_traces

NAMES = tuple(SENTENCES)
TRUTH = np.repeat(np.arange(5), (600, 6000, 1500, 900, 1000))
NOTED = list(label_noise.STEERED)


@pytest.fixture(scope="module")
def read_chains(tmp_path_factory):
    model, traces = tiny_model(), tiny_traces(60)
    folder = tmp_path_factory.mktemp("means")
    read, vectors = read_means(model, traces, "rest", folder)
    again, stored = read_means(model, traces, "rest", folder)  # read, not made
    torch.testing.assert_close(again.means, read.means, rtol=0, atol=0)
    assert again.spans == read.spans and again.names == read.names
    for name, direction in sk.extract(model, traces, contrast="rest").items():
        torch.testing.assert_close(vectors[name].tensor, direction.tensor)
        assert stored[name].layer == vectors[name].layer is not None
    return model, traces.split("extract"), again


# -- wrong labels


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_random_errors_are_drawn_by_the_frequencies_of_the_others(share: float) -> None:
    found = corrupted(TRUTH, share, random_flow(TRUTH, 5), seed=0)
    assert (found != TRUTH).mean() == pytest.approx(share, abs=1e-4)
    for label in range(5):
        own = label == TRUTH
        assert (found != TRUTH)[own].mean() == pytest.approx(share, abs=1e-3)
    wrong = found[(TRUTH == 0) & (found != 0)]
    expected = np.array([6000, 1500, 900, 1000]) / 9400
    drawn = np.bincount(wrong, minlength=5)[1:] / len(wrong)
    assert np.abs(drawn - expected).max() < 4 * (0.25 / len(wrong)) ** 0.5
    again = corrupted(TRUTH, share, random_flow(TRUTH, 5), seed=0)
    assert (again == found).all()
    assert (corrupted(TRUTH, share, random_flow(TRUTH, 5), seed=1) != found).any()
    assert (np.repeat(np.arange(5), (600, 6000, 1500, 900, 1000)) == TRUTH).all()


def test_confused_errors_are_those_of_the_matrix() -> None:
    table = pd.DataFrame(np.diag([90, 95, 80, 60, 50]), index=NAMES, columns=NAMES)
    table.loc["backtracking", "uncertainty-estimation"] = 50  # half of it, always for this one
    table.loc["uncertainty-estimation", ["backtracking", "deduction"]] = (30, 10)
    table["unparsed"] = 7
    flow = confused_flow(table, NAMES)
    assert flow[4].tolist() == [0, 0, 0, 0.5, 0] and flow[3].tolist() == [0, 0.1, 0, 0, 0.3]
    found = corrupted(TRUTH, 0.05, flow, seed=0)
    pairs = Counter(zip(TRUTH.tolist(), found.tolist(), strict=True))
    changed = {pair: n for pair, n in pairs.items() if pair[0] != pair[1]}
    assert set(changed) == {(4, 3), (3, 4), (3, 1)} and sum(changed.values()) == 500
    # 1000 spans at rate 0.5 and 900 at 0.4, times one number
    assert changed[4, 3] == pytest.approx(500 * 500 / 860, abs=1)
    assert changed[3, 4] / changed[3, 1] == pytest.approx(3, rel=0.4)
    # no label is more than wholly wrong: the other one takes more
    most = corrupted(TRUTH, 0.18, flow, seed=0)
    assert (most != TRUTH).mean() == pytest.approx(0.18, abs=1e-3)
    assert (most != TRUTH)[TRUTH == 4].mean() == 1.0


def test_agreement_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import cohen_kappa_score

    found = corrupted(TRUTH, 0.2, random_flow(TRUTH, 5), seed=3)
    found[::7] = NONE
    expected = cohen_kappa_score(TRUTH, np.where(found == NONE, 5, found))
    assert agreement(TRUTH, found, 5) == pytest.approx(expected)
    assert agreement(TRUTH, TRUTH, 5) == 1.0 > expected


# -- directions


def relabelled(chains: sk.Traces, spans, labels: list[str]) -> sk.Traces:
    """The chains with other labels, given in the order of the span means."""
    by_chain: dict[str, list[str]] = {}
    for span, label in zip(spans, labels, strict=True):
        by_chain.setdefault(span.chain, []).append(label)
    return sk.Traces(
        trace.with_spans(
            [
                replace(span, label=label)
                for span, label in zip(trace.spans, by_chain[trace_digest(trace)], strict=True)
            ],
            "wrong",
        )
        for trace in chains
    )


@pytest.mark.parametrize("name", ["rest", "balanced", "backtracking:deduction"])
def test_directions_are_those_of_corrupting_and_reading_again(read_chains, name: str) -> None:
    model, chains, read = read_chains
    wrong = corrupted(read.labels, 0.3, random_flow(read.labels, 5), seed=0)
    other = relabelled(chains, read.spans, [read.names[i] for i in wrong])
    expected = contrast(collect(model, other, labels=read.names), name)
    found = mean_directions(read, wrong, name)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    # positive control: the true labels give others
    clean = mean_directions(read, read.labels, name)
    assert (clean - expected).norm() > 0.1 * expected.norm()


def test_spans_without_a_label_are_left_out(read_chains) -> None:
    _, _, read = read_chains
    some = read.labels.copy()
    some[::3] = NONE
    rows = np.flatnonzero(some != NONE)
    left = mean_directions(read, some, "rest")
    torch.testing.assert_close(left, mean_directions(read, read.labels, "rest", rows))
    assert (left - mean_directions(read, read.labels, "rest")).abs().max() > 1e-3
    with pytest.raises(SteerkitError, match="overall"):
        mean_directions(read, some, "overall")


def test_labels_of_another_annotation_stand_in_the_order_of_the_means(read_chains) -> None:
    _, chains, read = read_chains
    wrong = corrupted(read.labels, 0.3, random_flow(read.labels, 5), seed=1)
    labels = [read.names[i] for i in wrong]
    assert aligned(read.spans, chains, relabelled(chains, read.spans, labels)) == labels
    with pytest.raises(SteerkitError, match="without a mean"):
        aligned(read.spans[:-1], chains, chains)
    with pytest.raises(SteerkitError, match="do not match"):
        aligned([read.spans[0]._replace(label="nothing"), *read.spans[1:]], chains, chains)


def test_cosines_fall_with_wrong_labels(read_chains) -> None:
    _, _, read = read_chains
    flow = random_flow(read.labels, 5)
    made = [Labelling("exact", 0.0, s, read.labels) for s in range(3)]
    made += [
        Labelling("random", share, s, corrupted(read.labels, share, flow, s))
        for share in (0.2, 0.6)
        for s in range(3)
    ]
    layers = dict.fromkeys(("backtracking", "deduction"), 1)
    table = cosines(read, made, layers, "rest", few=10)
    mean = table[table.chains == "all"].groupby(["kind", "share"]).cosine.mean()
    assert mean["exact", 0.0] == pytest.approx(1.0)
    assert 1 > mean["random", 0.2] > mean["random", 0.6]
    few = table[table.chains == "10"]
    assert few.others.notna().all() and (few[few.kind == "exact"].others < 0.9999).all()
    none = np.full_like(read.labels, NONE)
    empty = cosines(read, [Labelling("none", 1.0, 0, none)], layers, "rest", few=10)
    assert empty.cosine.isna().all()
    found = label_noise.summarised(table)
    row = found[(found.share == 0.6) & (found.chains == "all")].iloc[0]
    assert row.draws == 3 and row.cosine_low <= row.cosine <= row.cosine_high


# -- steering


def planted_counts(kind: str, share: float, push: float) -> pd.DataFrame:
    """Counts of 60 tasks where pushing adds sentences of the behaviour."""
    rng, rows = np.random.default_rng(0), []
    for task in range(60):
        for sign in (-1, 1):
            own = int(rng.poisson(4 + push * sign))
            row = {"kind": kind, "share": share, "behavior": "backtracking", "sign": sign}
            row |= {"task": f"t{task}", "own": own, "sentences": 20, "unparsed": 1}
            rows.append({**row, "correct": task % 2 == 0})
    return pd.DataFrame(rows)


def test_effect_and_what_is_kept_of_it_are_what_was_planted() -> None:
    parts = [planted_counts("random", 0.4, 1.0), planted_counts("exact", 0.0, 2.0)]
    found = label_noise.effects(pd.concat(parts)).set_index("kind")
    assert found.effect["exact"] == pytest.approx(4 / 20, abs=0.04)
    assert found.effect_low["random"] < 2 / 20 < found.effect_high["random"]
    assert found.kept["exact"] == 1 and found.kept_low["random"] < 0.5 < found.kept_high["random"]
    assert found.up["exact"] - found.down["exact"] == pytest.approx(found.effect["exact"])
    assert found.parsed["exact"] == pytest.approx(0.95) and found.correct["exact"] == 0.5


# -- the page


def results() -> tuple[dict, pd.DataFrame]:
    rows = []
    cases = [("exact", 0.0), *(("random", s) for s in label_noise.SHARES)]
    cases += [("confused", s) for s in label_noise.SHARES] + [("rules", 0.4321)]
    for kind, share in cases:
        for chains in ("all", "40"):
            for name in NOTED:
                fall = share if kind == "confused" else share / 10
                row = {"kind": kind, "share": share, "chains": chains, "behavior": name}
                row |= {"layer": 5, "draws": 20, "kappa": 1 - share, "cosine": 1 - fall}
                row |= {"cosine_low": 0.98 - fall, "cosine_high": 1 - fall / 2}
                row |= {"others": 0.9 - fall, "others_low": 0.8 - fall, "others_high": 0.95 - fall}
                if chains == "all":
                    row |= {"effect": 0.03, "effect_low": 0.01, "effect_high": 0.05, "kept": 0.9}
                rows.append(row)
    content = {
        "model": "m",
        "chains": 400,
        "spans": 10000,
        "contrast": "rest",
        "layers": dict.fromkeys(NOTED, 5),
        "shares": dict.fromkeys(NOTED, 1 / 3),
        "coverage": {"exact": 1.0, "random": 1.0, "rules": 0.5},
        "draws": 20,
        "steered": NOTED,
        "steered_draws": 3,
        "few": 40,
        "tasks": 80,
        "coefficient": 0.2,
    }
    return content, pd.DataFrame(rows)


def test_the_page_says_how_much_may_be_wrong() -> None:
    content, table = results()
    page = markdown(content, table)
    assert "40 % at random, 10 % as a classifier confuses them" in page
    assert "`rules` 50 %" in page and "| rules | 43 % | 0.57 |" in page
    assert "| exact | 0 % | 0.90 (0.80 to 0.95)" in page
    assert "+3.0 (+1.0 to +5.0); 90 %" in page and "nan" not in page
    assert enough(table, NOTED, "confused", 0.99) == "none that was tried"
    assert enough(table, NOTED, "confused", 0.5) == "40 %"
    assert len(figure_bytes(draw(content, table), "png")) > 20_000


def test_the_page_names_the_settings_of_the_run() -> None:
    content, table = results()
    assert "made by `make noise`." in markdown(content, table)
    page = markdown({**content, "tasks": 32, "steered_draws": 2, "tokens": 448}, table)
    said = "made by `make noise`, but with 32 tasks instead of 80, 2 steered draws instead of 3."
    assert said in page


def test_what_is_kept_of_an_effect_that_may_be_none_is_not_said() -> None:
    content, table = results()
    exact = (table.kind == "exact") & (table.behavior == "backtracking") & (table.chains == "all")
    table.loc[exact, "effect_low"] = -0.01
    page = markdown(content, table)
    steering = page.split("## Steering")[1]
    rows = [line.split(" | ") for line in steering.splitlines() if line.startswith("| ")]
    column = rows[0].index("backtracking")
    assert all(";" not in row[column] for row in rows)
    assert all("; 90 %" in row[column + 1] for row in rows[1:])
    assert "not so for backtracking: this run cannot tell" in steering
    # an effect that is surely negative is known as well
    table.loc[exact, ["effect", "effect_low", "effect_high"]] = (-0.03, -0.05, -0.01)
    assert "cannot tell" not in markdown(content, table)


def test_the_page_on_annotation_says_which_kappa_is_needed() -> None:
    root = Path(__file__).parents[2]
    table = pd.read_csv(root / "benchmarks/results/label_noise.csv", dtype={"chains": str})
    content = json.loads((root / "benchmarks/results/label_noise.json").read_text())
    page = " ".join((root / "docs" / "annotation.md").read_text().split())
    said = page.split("**Which kappa is needed?**")[1].split("###")[0]
    whole = table[table.chains == "all"]

    def lowest(kind: str) -> float:
        part = whole[(whole.kind == kind) & whole.behavior.isin(NOTED)]
        worst = part.groupby("share").agg(kappa=("kappa", "mean"), cosine=("cosine", "min"))
        return worst[worst.cosine >= 0.9].kappa.min()

    def cosine(kind: str, name: str, share: float | None, chains: str = "all") -> float:
        rows = table[(table.kind == kind) & (table.behavior == name) & (table.chains == chains)]
        rows = rows if share is None else rows[rows.share == share]
        return float(rows["cosine" if chains == "all" else "others"].iloc[0])

    doubt, test = "uncertainty-estimation", "example-testing"
    kappa = whole[whole.kind == "classifier"].kappa.mean()
    for sentence in (
        f"a kappa of {lowest('random'):.2f} if labels are wrong at random",
        f"and of {lowest('confused'):.2f} if they are confused",
        f"a cosine of {cosine('random', test, 0.4):.2f} and confusion "
        f"{cosine('confused', test, 0.4):.2f}",
        f"at a kappa of {kappa:.2f}, left `{doubt}` {cosine('classifier', doubt, None):.2f}",
        f"With {content['few']} chains",
        f"`{doubt}` kept {cosine('random', doubt, 0.4, '40'):.2f} with them and "
        f"{cosine('random', doubt, 0.4):.2f} with all {content['chains']}",
    ):
        assert sentence in said, sentence
