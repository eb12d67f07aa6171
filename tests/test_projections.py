"""Every token's projection is that of its own position in a plain forward pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
import torch

from steerkit.errors import ExtractionError, SteeringError, VectorsError
from tests.test_steering import direction
from tests.tiny import ARCHITECTURES, tiny_model, tiny_traces

D, OTHER = direction(), direction(2, layer=0, name="deduction")


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen2")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_projections_equal_a_plain_pass_chain_by_chain(architecture) -> None:
    model, traces = tiny_model(architecture), tiny_traces(7)
    table = model.read(traces, [D, OTHER], batch_tokens=150)
    assert table["trace"].drop_duplicates().tolist() == [trace.id for trace in traces]
    for trace in traces:
        chain = model.align(trace)
        with torch.no_grad():
            states = model.hf(
                input_ids=torch.tensor([chain.ids]), output_hidden_states=True
            ).hidden_states
        part = table[table["trace"] == trace.id]
        for d, layer, norm in ((D, 1, 5.0), (OTHER, 0, 3.0)):
            u = d.tensor[layer] / d.tensor[layer].norm()
            expected = (states[layer + 1][0, chain.prompt_length :] @ u / norm).double()
            found = part[part["behavior"] == d.behavior]
            torch.testing.assert_close(
                torch.tensor(found["projection"].to_numpy()).double(),
                expected,
                rtol=1e-4,
                atol=1e-5,
            )
            assert found["token"].tolist() == list(range(len(expected)))
            assert "".join(found["text"]) == trace.response
            assert found["layer"].unique().tolist() == [layer]


def test_labels_phases_and_characters_are_those_of_the_trace(model) -> None:
    (trace,) = tiny_traces(1)
    table = model.read(trace, D)
    for span in trace.spans:
        held = table[(table["start"] < span.end) & (table["end"] > span.start)]
        assert set(held["label"].dropna()) == {span.label}
    closing = table[table["id"] == model.closing_id].iloc[0]
    before = table[table["token"] < closing["token"]]
    after = table[table["token"] >= closing["token"]]
    assert set(before["phase"]) == {"think"} and set(after["phase"]) == {"answer"}
    assert after["label"].isna().all()


def test_layers_and_units_are_as_asked(model) -> None:
    traces = tiny_traces(3)
    norm, one = (model.read(traces, D, layers=[0, 2], unit=unit) for unit in ("norm", "one"))
    assert norm["layer"].unique().tolist() == [0, 2]
    for layer, length in ((0, 3.0), (2, 7.0)):
        a, b = (t[t["layer"] == layer]["projection"] for t in (norm, one))
        pd.testing.assert_series_equal(a * length, b, rtol=1e-4, atol=1e-5, check_exact=False)
    with pytest.raises(SteeringError, match="layer 9"):
        model.read(traces, D, layers=9)
    with pytest.raises(SteeringError, match="no direction"):
        model.read(traces, [])


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_model_is_read_unsteered_whatever_is_in_force(model, layer) -> None:
    """Below, at and above the layer that is edited."""
    (trace,) = tiny_traces(1)
    plain = model.read(trace, D, layers=layer)
    with model.steer(0.4 * D):
        pd.testing.assert_frame_equal(model.read(trace, D, layers=layer), plain, check_exact=True)
        model.hf(input_ids=torch.tensor([model.align(trace).ids]))  # leaves its edits attached
        pd.testing.assert_frame_equal(model.read(trace, D, layers=layer), plain, check_exact=True)


def test_directions_of_another_model_are_refused(model) -> None:
    wide = replace(D, tensor=torch.randn(3, 33))
    deep = replace(D, n_layers=4)
    for other in (wide, deep):
        with pytest.raises(VectorsError, match=r"does not fit the model tiny-qwen2.*32 and 3"):
            model.read(tiny_traces(1), [D, other])


def test_chains_of_one_id_keep_rows_of_their_own(model) -> None:
    first, second = tiny_traces(2)
    twin = replace(second, id=first.id)
    expected = [model.read(trace, D, batch_tokens=1) for trace in (first, twin)]
    assert expected[0]["id"].tolist() != expected[1]["id"].tolist()
    table = model.read([first, twin, first], D, batch_tokens=1)
    together = pd.concat([*expected, expected[0]], ignore_index=True)
    pd.testing.assert_frame_equal(table, together)


def test_no_chain_is_a_table_without_rows(model) -> None:
    some = model.read(tiny_traces(1), [D, OTHER])
    none = model.read([], [D, OTHER])
    assert len(none) == 0 and none.dtypes.to_dict() == some.dtypes.to_dict()
    assert list(none) == list(some) and none.attrs["counts"] == {}


def test_upper_layers_never_run_and_long_chains_are_refused_or_counted(model) -> None:
    ran = Counter()
    handles = [
        layer.register_forward_pre_hook(lambda *_, n=n: ran.update([n]))
        for n, layer in enumerate(model.hf.model.layers)
    ]
    model.read(tiny_traces(3), OTHER)
    for handle in handles:
        handle.remove()
    assert set(ran) == {0}
    (trace,) = tiny_traces(1)
    long = replace(trace, id="long", response="3 + 8 = 11. " * 200, spans=())
    with pytest.raises(ExtractionError, match="longer"):
        model.read([trace, long], D)
    table = model.read([trace, long], D, too_long="skip")
    assert table["trace"].unique().tolist() == [trace.id]
    assert table.attrs["counts"]["chains skipped: longer than the context"] == 1
    empty = model.read(long, D, too_long="skip")
    assert len(empty) == 0 and list(empty) == list(table)
