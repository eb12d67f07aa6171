"""`make defaults`: the rule that chooses, and the measures that it chooses by."""

from __future__ import annotations

import default_candidates
import defaults
import numpy as np
import pandas as pd
import pushes
import pytest
import torch
from default_candidates import BEHAVIORS, KINDS, Kind, SideEffect, candidates, matched
from defaults import counts, measured, rivals, row_of, verdict
from defaults_report import draw, markdown

import steerkit as sk
from steerkit.behaviors import UNPARSED
from steerkit.plots import figure_bytes
from steerkit.positions import THINK
from tests.tiny import tiny_model, tiny_traces

CURRENT = Kind("mean-difference", "rest", sk.Window(1, 10))
TODAY = CURRENT.name


# -- the candidates


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    model, traces = tiny_model(), tiny_traces(60)
    folder = tmp_path_factory.mktemp("candidates")
    found = candidates(model, traces, CURRENT, folder)
    again = candidates(model, traces, CURRENT, folder)  # read, not made
    assert [c.seconds for c in again] == [c.seconds for c in found]
    return model, traces, again


def test_candidates_are_what_extraction_gives(made) -> None:
    model, traces, found = made
    assert [c.kind for c in found] == list(KINDS) and CURRENT in KINDS
    assert len({c.name for c in found}) == len(KINDS)
    for candidate in (found[1], found[6], found[8], found[13], found[-1]):
        kind = candidate.kind
        vectors = sk.extract(
            model,
            traces,
            method=kind.method,
            contrast=kind.contrast,
            window=kind.window,
            behaviors=BEHAVIORS,
        )
        for name, direction in candidate.directions.items():
            torch.testing.assert_close(direction.tensor, vectors[name].tensor)
            assert direction.layer == found[1].directions[name].layer
            expected = vectors[name].auroc[direction.layer]
            assert candidate.facts()[name]["auroc"] == pytest.approx(float(expected), abs=1e-6)
    lengths = {
        float(c.directions[BEHAVIORS[0]].tensor[0].norm())
        for c in found
        if c.kind.contrast == "rest" and c.kind.window == CURRENT.window
    }
    assert max(lengths) == pytest.approx(min(lengths), rel=1e-5)


def test_side_effect_is_the_divergence_of_the_whole_model(made) -> None:
    model, traces, found = made
    chains, direction = traces[:3], found[1].directions[BEHAVIORS[1]]
    term = 0.3 * direction
    total, positions = 0.0, 0
    for trace in chains:
        aligned = model.align(trace)
        ids = torch.tensor([aligned.ids])
        thinking = aligned.phases == THINK
        step = 0.3 * direction.vector(direction.layer)
        before = model.hf(ids).logits[0, thinking].log_softmax(-1)
        for sign in (-1, 1):
            add = model.residual.hooked(
                direction.layer, lambda hidden, hook, move=sign * step: hidden + move
            )
            with add:
                after = model.hf(ids).logits[0, thinking].log_softmax(-1)
            total += float((before.exp() * (before - after)).sum())
            positions += int(thinking.sum())
    side = SideEffect(model, chains)
    assert side.of(term) == pytest.approx(total / positions, rel=1e-3)
    assert side.of(0.01 * direction) < side.of(0.1 * direction) < side.of(term)
    reached = side.matched(direction, side.of(0.3 * direction))
    assert side.of(reached * direction) == pytest.approx(side.of(term), rel=0.15)


def test_matched_coefficients_follow_a_power_law_and_stop() -> None:
    grid = (0.1, 0.2, 0.4)
    values = [3 * c**1.7 for c in grid]
    for c in (0.05, 0.1, 0.27, 0.45):
        assert matched(grid, values, 3 * c**1.7) == pytest.approx(c, abs=1e-3)
    assert matched(grid, values, 100.0) == default_candidates.STRONGEST


# -- the measures


def planted(push: float, right: float, seed: int = 0, tasks: int = 80) -> pd.DataFrame:
    rng, rows = np.random.default_rng(seed), []
    for name in BEHAVIORS:
        for sign in (-1, 1) if push else (0,):
            for task in range(tasks):
                row = {"behavior": name, "sign": sign, "task": f"t{task}", "sentences": 40}
                row |= {"own": int(rng.poisson(4 * (1 + sign * push))), "unparsed": 1}
                rows.append({**row, "closed": task != 0, "correct": rng.random() < right})
    return pd.DataFrame(rows)


def test_swing_and_loss_are_what_was_planted() -> None:
    plain = planted(0.0, 0.6)
    found = row_of(measured(planted(0.4, 0.5), plain))
    assert found["swing"] == pytest.approx(0.8, abs=0.1)
    assert found["swing low"] < 0.8 < found["swing high"]
    assert found["lost low"] < 10 < found["lost high"]
    assert found["per point"] == pytest.approx(found["swing"] / found["lost"])
    assert found["closed"] == pytest.approx(79 / 80) and found["unclosed"] == pytest.approx(0)
    assert found["parsed"] == pytest.approx(39 / 40)
    gained = row_of(measured(planted(0.4, 0.95), plain))
    assert gained["lost"] < 0 and np.isnan(gained["per point"])


# -- the rule


def test_what_does_not_count() -> None:
    facts = {name: {"split_half": 0.95} for name in BEHAVIORS}
    row = {"unclosed": 1.0, "parsed": 0.97}
    assert counts(facts, row) == ""
    assert "halves" in counts({**facts, "x": {"split_half": 0.89}}, row)
    assert "halves" in counts({**facts, "x": {"split_half": float("nan")}}, row)
    assert "closed" in counts(facts, {**row, "unclosed": 5.1})
    assert "known" in counts(facts, {**row, "parsed": 0.94})


def test_rivals_are_the_best_three_and_the_default() -> None:
    swings = {"a": 0.1, TODAY: 0.2, "b": 0.5, "c": 0.4, "d": 0.3}
    assert rivals(swings, TODAY) == [TODAY, "b", "c", "d"]
    assert rivals({"a": 1.0}, TODAY) == [TODAY, "a"]


def drawn(swing: float, lost: float, spread: float = 0.1) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0).normal(size=2001)
    noise[0] = 0
    return {"swing": swing + spread * noise, "lost": lost + spread * noise[::-1]}


def test_the_default_goes_only_for_something_reliably_better() -> None:
    base = drawn(0.5, 3.0, 0.0)
    assert verdict({TODAY: base, "a": drawn(0.6, 3.0)}, TODAY)[0] == TODAY
    assert verdict({TODAY: base, "a": drawn(0.8, 3.0)}, TODAY)[0] == "a"
    assert verdict({TODAY: base, "a": drawn(0.8, 3.4)}, TODAY)[0] == TODAY, "costs accuracy"
    winner, rows = verdict(
        {TODAY: base, "a": drawn(0.8, 3.0), "b": drawn(0.9, 2.0), "c": drawn(0.2, 1.0)}, TODAY
    )
    assert winner == "b" and [row["better"] for row in rows] == [True, True, False]
    # 95 % would do for 0.21, 98.3 % does not
    assert verdict({TODAY: base, "a": drawn(0.71, 3.0)}, TODAY)[0] == TODAY


# -- the chains


def test_pushes_are_counted_by_behaviour_sign_and_task() -> None:
    model = sk.load("countdown-thinking")
    tasks = [sk.Task(f"t{i}", f"Use 3, {i}, 8 to make 29.") for i in (5, 7)]
    vectors = sk.extract(
        model,
        sk.read_traces(sk.data("traces/countdown.jsonl"))[:80],
        behaviors=("backtracking", "deduction"),
        layers=4,
        select=sk.Traces(),
    )
    terms = {name: 0.3 * d.at(layer=4) for name, d in vectors.items()}
    table = pushes.pushed(model, terms, tasks, tokens=96)
    keys = [(n, s, t) for n in terms for s in (-1, 1) for t in ("t5", "t7")]
    assert list(zip(table.behavior, table.sign, table.task, strict=True)) == keys
    chain = model.generate(tasks[1], steer=-1 * terms["deduction"], max_new_tokens=96)
    labels = [span.label for span in sk.annotate(chain)[0].spans]
    row = table.iloc[5]
    assert (row.own, row.sentences) == (labels.count("deduction"), len(labels))
    assert row.unparsed == labels.count(UNPARSED)
    plain = pushes.unpushed(model, list(terms), tasks, tokens=96)
    assert len(plain) == 4 and set(plain.sign) == {0}
    weights = pushes.task_weights(2)
    rate = pushes.drawn_rate(plain[:2], ["t5", "t7"], weights, "own", "sentences")
    assert rate[0] == pytest.approx(plain.own[:2].sum() / plain.sentences[:2].sum())
    assert len(rate) == 1 + pushes.RESAMPLES


# -- the page


def test_the_page_says_what_stays_and_why() -> None:
    plain = planted(0.0, 0.6)
    rows = []
    names = [kind.name for kind in KINDS]
    cases = [("screen", n, s) for n in names for s in defaults.STRENGTHS]
    cases += [("final", n, "side effect") for n in names[:4]]
    found = {}
    for number, (stage, name, strength) in enumerate(cases):
        found[stage, name] = measured(planted(0.3 + 0.01 * number, 0.55, number), plain)
        row = {"stage": stage, "candidate": name, "strength": strength} | row_of(found[stage, name])
        rows.append({**row, "auroc": 0.9, "split_half": 0.95, "shuffled": 0.2, "seconds": 1.0})
    winner, differences = verdict({n: found["final", n] for n in names[:4]}, TODAY)
    content = {
        "model": "m",
        "today": TODAY,
        "winner": winner,
        "left_out": {"pca, rest, 1,0": "halves agree by 0.50"},
        "differences": differences,
        "layers": dict.fromkeys(BEHAVIORS, 5),
        "divergence": dict.fromkeys(BEHAVIORS, 0.0123),
        "coefficient": 0.2,
        "tasks": {"screen": 50, "final": 200},
    }
    table = pd.DataFrame(rows)
    page = markdown(content, table)
    said = {True: "which stays the default", False: "takes the place of"}
    assert said[winner == TODAY] in page and "halves agree by 0.50 |" in page
    assert page.count("| `mean-difference, ") == 14 and "nan" not in page
    assert "takes the place" in markdown({**content, "winner": "pca, rest, 1,0"}, table)
    assert "stays the default" in markdown({**content, "winner": TODAY}, table)
    assert len(figure_bytes(draw(content, table), "png")) > 20_000
