"""Chains are those of a plain loop without cache, whatever the batch, and only where steered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from steerkit.errors import GenerationError, SteerkitError, VectorsError
from steerkit.generation import generate
from steerkit.models import ThinkingModel
from steerkit.places import PLACES, Positions, where_mask
from steerkit.sampling import Noise, Sampling, choose, row_key
from steerkit.tasks import Task
from steerkit.terms import Terms
from steerkit.traces import Traces, read_traces, write_traces
from tests.test_steering import direction
from tests.tiny import ARCHITECTURES, tiny_hf, tiny_model, tiny_traces

ROOT = Path(__file__).parents[1]
PROMPTS = ["Use 3, 7, 8 to make 29.", "Use 5, 6, 20 to make 14.", "Use 2, 9 to make 18."]
LONGER = "Use 3, 7, 8 to make 29. Use 3, 7, 8 to make 29."


@pytest.fixture(scope="module")
def model() -> ThinkingModel:
    return tiny_model("qwen2")


def plain_chain(model, prompt, term=None, *, sample=0, seed=0, temperature=1.0, n=12) -> list[int]:
    """A slow oracle: no cache, no batch, no padding; the edit by a torch hook on layer 1."""
    ids, start = model.render(prompt), len(model.render(prompt))
    noise = Noise(seed, len(model.tokenizer), torch.device("cpu"))
    key = np.array([row_key(prompt, sample)], dtype=np.uint64)
    while len(ids) < start + n:
        handle = None
        if term is not None:
            closing = [i for i in range(start, len(ids)) if ids[i] == model.closing_id]
            phase = torch.zeros(len(ids), dtype=torch.int8)
            phase[start - 1 :] = 1
            if closing:
                phase[closing[0] :] = 2
            index = torch.arange(len(ids))
            texts = [model.tokenizer.decode(i) for i in ids]
            starts = torch.tensor([text.strip(" ") in {".", "?", "!", "\n"} for text in texts])
            starts[start - 1] = True
            at = Positions(*(t[None] for t in (phase, index, index - start + 1, starts)))
            mask = where_mask(term.where, at)[0]
            push = term.coefficient * term.direction.vector(1, term.unit) * mask[:, None]

            def edit(module, args, output, push=push):
                first = output if isinstance(output, torch.Tensor) else output[0]
                changed = first + push
                return changed if first is output else (changed, *output[1:])

            handle = model.hf.model.layers[1].register_forward_hook(edit)
        with torch.no_grad():
            logits = model.hf(input_ids=torch.tensor([ids])).logits[:, -1, : len(model.tokenizer)]
        if handle is not None:
            handle.remove()
        token = int(choose(logits, Sampling(temperature), noise, key, len(ids) - start)[0])
        if token in model.eos_ids:
            break
        ids.append(token)
    return ids[start:]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_hugging_face_generate(architecture) -> None:
    model = tiny_model(architecture)
    traces = model.generate(PROMPTS, temperature=0.0, max_new_tokens=24)
    for prompt, trace in zip(PROMPTS, traces, strict=True):
        ids = torch.tensor([model.render(prompt)])
        found = model.hf.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=24,
            do_sample=False,
            temperature=None,
            pad_token_id=model.pad_id,
        )[0, ids.shape[1] :].tolist()
        ends = [i for i, token in enumerate(found) if token in model.eos_ids]
        assert list(trace.token_ids) == found[: ends[0] if ends else None]


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_steered_chains_equal_a_loop_without_cache(model, where, temperature) -> None:
    term = (8.0 if where == "sentences" else 2.0) * direction().at(where=where)
    traces = model.generate(PROMPTS, steer=term, temperature=temperature, max_new_tokens=12)
    changed = 0
    for prompt, trace in zip(PROMPTS, traces, strict=True):
        expected = plain_chain(model, prompt, term, temperature=temperature)
        assert list(trace.token_ids) == expected
        changed += expected != plain_chain(model, prompt, None, temperature=temperature)
    # positive control: the oracle itself moves (answers are hardly reached by random weights)
    assert changed or where == "answer"


def test_answer_and_think_are_told_apart_by_the_closing_token(model) -> None:
    """A model pushed to close at once is steered in its answer from there on."""
    closing = model.hf.get_input_embeddings().weight[model.closing_id].clone()
    d = direction()
    d.tensor[1] = closing
    close, plain = 40.0 * d.at(where="think"), 0.0 * d
    push = 1.5 * direction(3, name="deduction").at(where="answer", layer=1)
    for steer in (close, close + push):
        trace = model.generate(PROMPTS[0], steer=steer, temperature=0.0, max_new_tokens=16)[0]
        assert trace.token_ids[0] == model.closing_id and trace.closed and not trace.thinking
    steered = model.generate(PROMPTS[0], steer=close + push, temperature=0.0, max_new_tokens=16)
    alone = model.generate(PROMPTS[0], steer=close + plain, temperature=0.0, max_new_tokens=16)
    # the first answer token is chosen at the position that holds the closing token
    assert steered[0].token_ids[:1] == alone[0].token_ids[:1]
    assert steered[0].token_ids != alone[0].token_ids


def test_the_first_generated_token_is_steered(model) -> None:
    wanted = model.tokenizer.convert_tokens_to_ids("Wait")
    d = direction(layer=2)
    d.tensor[2] = model.hf.get_input_embeddings().weight[wanted]
    first = model.generate(PROMPTS[0], temperature=0.0, max_new_tokens=1)[0].token_ids[0]
    assert first != wanted
    for where in ("generated", "think", "all"):
        steer = 50.0 * d.at(where=where)
        trace = model.generate(PROMPTS[0], steer=steer, temperature=0.0, max_new_tokens=1)[0]
        assert trace.token_ids == (wanted,)
    before = 50.0 * d.at(where="prompt")
    assert model.generate(PROMPTS[0], steer=before, temperature=0.0, max_new_tokens=1)[
        0
    ].token_ids == (first,)


def test_strength_zero_is_no_steering_alone_and_beside_steered_rows(model) -> None:
    d = direction()
    plain = model.generate([PROMPTS[0]] * 3, max_new_tokens=40)
    zero = model.generate([PROMPTS[0]] * 3, steer=0.0 * d, max_new_tokens=40)
    beside = model.generate([PROMPTS[0]] * 3, steer=[0.9 * d, 0.0 * d, -0.9 * d], max_new_tokens=40)
    assert [t.token_ids for t in plain] == [t.token_ids for t in zero]
    assert beside[1].token_ids == plain[1].token_ids
    assert beside[0].token_ids != plain[0].token_ids != beside[2].token_ids
    again = model.generate([PROMPTS[0]] * 3, max_new_tokens=40)
    assert again == plain


def test_batch_order_padding_and_neighbours_do_not_change_a_chain() -> None:
    model = tiny_model("qwen2")
    # many ways to end, so that rows leave the batch at different steps
    model.hf.generation_config.eos_token_id = list(range(40, 80))
    prompts = [*PROMPTS, LONGER]
    d = direction()
    steer = [0.5 * d, None, -0.5 * d, 0.2 * d]
    options = {"samples": 2, "max_new_tokens": 40, "seed": 3}
    whole = model.generate(prompts, steer=steer, **options)
    for size in (1, 3):
        other = model.generate(prompts, steer=steer, batch_size=size, **options)
        assert [t.token_ids for t in other] == [t.token_ids for t in whole]
    turned = model.generate(prompts[::-1], steer=steer[::-1], **options)
    pairs = [turned[i : i + 2] for i in range(0, 8, 2)][::-1]
    assert [t.token_ids for pair in pairs for t in pair] == [t.token_ids for t in whole]
    solo = model.generate(prompts[1], **options)
    assert [t.token_ids for t in solo] == [t.token_ids for t in whole[2:4]]
    assert whole[2].token_ids != whole[3].token_ids
    assert len({len(t.token_ids) for t in whole}) > 3


@pytest.mark.parametrize("where", ["generated", "think", "prompt"])
def test_a_chain_that_goes_on_from_a_prefix_of_its_own_is_the_same_chain(model, where) -> None:
    """Steps, phases, noise and edits go on as if the prefix had been written just now."""
    term = 0.9 * direction().at(where=where)
    options = {"steer": term, "max_new_tokens": 20, "seed": 5}
    whole = model.generate(PROMPTS, **options)
    for cut in (0, 1, 7):
        begun = [trace.token_ids[:cut] for trace in whole]
        rest = model.generate(PROMPTS, **(options | {"max_new_tokens": 20 - cut}), prefix=begun)
        assert [trace.token_ids for trace in rest] == [trace.token_ids for trace in whole]
        assert [t.metadata.get("prefix_tokens", 0) for t in rest] == [cut] * 3
        assert [t.truncated for t in rest] == [t.truncated for t in whole]
    plain = model.generate(PROMPTS, **(options | {"steer": None}))
    assert [t.token_ids for t in plain] != [t.token_ids for t in whole]


def test_a_prefix_is_steered_where_its_positions_are(model) -> None:
    """A prefix that closes the thinking section leaves nothing of it to be steered."""
    push, text = 30.0 * direction(), "3 + 8 = 11.\n</think>\nThe"
    ids = tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    options = {"prefix": text, "temperature": 0.0, "max_new_tokens": 6}
    plain, thought, answer = (
        model.generate(PROMPTS[0], steer=steer, **options)[0]
        for steer in (None, push.at(where="think"), push.at(where="answer"))
    )
    assert plain.token_ids[: len(ids)] == ids and plain.closed
    assert plain.response.startswith(text)
    assert answer.token_ids != plain.token_ids
    # the cache still holds the steered thoughts, so the answer may feel them
    assert thought.metadata["prefix_tokens"] == len(ids)
    assert len({plain.id, thought.id, answer.id}) == 3


@pytest.mark.parametrize(
    ("prefix", "message"),
    [(["Wait"], "does not match"), ([[10**6], None, None], "no embedding"), ("<eos>", "end token")],
)
def test_a_prefix_that_cannot_be_is_refused(model, prefix, message) -> None:
    if prefix == "<eos>":
        prefix = [[next(iter(model.eos_ids))]] * 3
    with pytest.raises(SteerkitError, match=message):
        model.generate(PROMPTS, prefix=prefix)


def test_seeds_samples_and_tasks_differ(model) -> None:
    def chains(**options):
        traces = model.generate(PROMPTS[:1], max_new_tokens=20, **options)
        return [trace.token_ids for trace in traces]

    assert chains() == chains() != chains(seed=1)
    assert len(set(chains(samples=4))) == 4
    assert chains(samples=4)[:2] == chains(samples=2)


def test_phases_are_those_of_the_aligned_trace(model, monkeypatch) -> None:
    import steerkit.decoding as decoding

    seen: list[list[int]] = [[] for _ in range(8)]
    place = decoding.RowSteering.place

    def spy(self, at):
        for row in range(at.phase.shape[0]):
            seen[row] += at.phase[row].tolist()
        place(self, at)

    monkeypatch.setattr(decoding.RowSteering, "place", spy)
    closing = direction()
    closing.tensor[1] = model.hf.get_input_embeddings().weight[model.closing_id]
    traces = generate(
        model, [PROMPTS[0]] * 2, steer=[None, 40.0 * closing], max_new_tokens=12, temperature=0.0
    )
    for row, trace in enumerate(traces):
        aligned = model.align(trace)
        # what the last token would predict was never asked for
        assert seen[row][: len(aligned.ids) - 1] == aligned.phases[:-1].tolist()
    assert traces[1].closed and 2 in seen[1]


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("old", "<think> 3 + 8</think> 7"),
        ("old", "\n<think>\n3 + 8\n</think>\n7"),
        ("old", "3 + 8</think> 7"),  # it was expected to open its thinking and did not
        ("plain", "( 1 3 + 8 1 ) 7"),
        ("plain", "3 + 8 1 ) 7"),
        ("plain", "3 + 8"),
    ],
)
def test_phases_without_a_template_that_opens(style, text, monkeypatch) -> None:
    """Older R1 templates leave the opening to the model; other models know it as text only."""
    import steerkit.decoding as decoding
    from steerkit.training.tokenizer import THINK_OPEN, build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(THINK_OPEN + "\\n", "")
    think = ("<think>", "</think>") if style == "old" else ("( 1", "1 )")
    model = ThinkingModel(tiny_hf(), tokenizer, name="tiny", think=think)
    assert not model.opens_thinking and model.waits_for_opening == (style == "old")
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    seen: list[int] = []
    place = decoding.RowSteering.place

    def spy(self, at):
        seen.extend(at.phase[0].tolist())
        place(self, at)

    monkeypatch.setattr(decoding.RowSteering, "place", spy)
    planted = iter(ids)
    monkeypatch.setattr("steerkit.writing.choose", lambda *_: torch.tensor([next(planted)]))
    trace = model.generate(PROMPTS[0])[0]
    assert trace.response == text
    assert seen == model.align(trace).phases.tolist()


def test_traces_say_how_they_were_made_and_can_be_kept(model, tmp_path) -> None:
    d = direction()
    task = Task(id="sum", prompt=PROMPTS[0], category="countdown")
    traces = model.generate(
        [task, PROMPTS[1], task],
        steer=[0.5 * d.at(where="think"), None, None],
        samples=2,
        seed=9,
        temperature=0.7,
        max_new_tokens=9,
    )
    assert isinstance(traces, Traces) and len(traces) == 6
    first = traces[0]
    assert (first.task_id, first.category, first.prompt) == ("sum", "countdown", PROMPTS[0])
    assert first.metadata["steering"] == [
        {
            "behavior": "backtracking",
            "direction": d.digest,
            "coefficient": 0.5,
            "layers": [1],
            "operator": "add",
            "where": "think",
            "unit": "norm",
        }
    ]
    assert [t.metadata["sample"] for t in traces] == [0, 1] * 3
    assert traces[2].metadata["steering"] == [] and traces[2].metadata["seed"] == 9
    cut = [t for t in traces if len(t.token_ids) == 9]
    assert cut and all(t.truncated == (len(t.token_ids) == 9) for t in traces)
    assert read_traces(write_traces(traces, tmp_path / "chains.jsonl")) == traces
    assert all(not model.align(t).retokenized or t.token_ids for t in traces)


def test_pieces_join_to_the_response(model) -> None:
    heard: dict[int, list[str]] = {}

    def hear(row: int, step: int, piece: str) -> None:
        assert step == len(heard.setdefault(row, []))
        heard[row].append(piece)

    traces = model.generate(PROMPTS, max_new_tokens=15, on_token=hear)
    for row, trace in enumerate(traces):
        assert "".join(heard.get(row, [])) == trace.response


def test_what_is_called_along_the_way_may_use_the_model(model) -> None:
    """Reading, and writing, from ``on_token`` and ``progress``: neither sees the other's edits."""
    d = direction()
    options = {"max_new_tokens": 6, "temperature": 0.0}
    expected = model.generate(PROMPTS, steer=0.9 * d, **options)
    (trace,) = tiny_traces(1)
    plain = model.read(trace, d, layers=2)
    alone = model.generate(PROMPTS[0], steer=-0.9 * d, **options)
    calls = []

    def use(*_: object) -> None:
        calls.append(1)
        pd.testing.assert_frame_equal(model.read(trace, d, layers=2), plain)
        assert model.generate(PROMPTS[0], steer=-0.9 * d, **options) == alone

    for told in ({"on_token": use}, {"progress": use}):
        calls.clear()
        assert model.generate(PROMPTS, steer=0.9 * d, **options, **told) == expected and calls


def test_nothing_is_left_behind(model) -> None:
    def hooks() -> int:
        return sum(
            len(m._forward_hooks) + len(m._forward_pre_hooks)
            for m in (*model.hf.modules(), *model.residual.modules())
        )

    before = hooks()

    def stop(row: int, step: int, piece: str) -> None:
        raise KeyboardInterrupt

    steer = 0.5 * direction()
    model.generate(PROMPTS[0], steer=steer, max_new_tokens=3)
    with pytest.raises(KeyboardInterrupt):
        model.generate(PROMPTS[0], steer=steer, on_token=stop)
    assert hooks() == before
    with pytest.raises(VectorsError):
        tiny_model("qwen2", hidden_size=48).generate(PROMPTS[0], steer=steer)


def test_a_context_steers_generate_and_can_be_overruled(model) -> None:
    term = 0.9 * direction()
    options = {"max_new_tokens": 20}
    plain = model.generate(PROMPTS[0], **options)
    steered = model.generate(PROMPTS[0], steer=term, **options)
    with model.steer(term):
        assert model.generate(PROMPTS[0], **options) == steered
        assert model.generate(PROMPTS[0], steer=Terms(), **options) == plain
    assert model.generate(PROMPTS[0], **options) == plain != steered


@pytest.mark.parametrize("calls", [0, 6])
def test_running_out_of_memory_halves_the_batch(model, calls) -> None:
    """Whether at once or in the middle of a chain: what was begun is begun anew."""
    closing = direction()
    closing.tensor[1] = model.hf.get_input_embeddings().weight[model.closing_id]
    options = {
        "samples": 3,
        "max_new_tokens": 10,
        "steer": 3.0 * closing.at(where="think") + 0.5 * direction(1).at(where="answer"),
    }
    expected = model.generate(PROMPTS, **options)
    assert any(trace.closed for trace in expected)
    sizes = []

    def small(module, args, kwargs):
        sizes.append(kwargs["input_ids"].shape[0])
        if sizes[-1] > 3 and len(sizes) > calls:
            raise torch.OutOfMemoryError("planted")

    handle = model.hf.register_forward_pre_hook(small, with_kwargs=True)
    try:
        found = model.generate(PROMPTS, **options)
    finally:
        handle.remove()
    assert max(sizes) == 9 and found == expected


def test_numbers_of_numpy_are_numbers() -> None:
    """In a process of its own: here the type checker of the tests would stop them."""
    code = (
        "import json, numpy as np; from tests.tiny import tiny_model; model = tiny_model();"
        "a = model.generate('Use 3, 7, 8.', temperature=0.5, seed=3, max_new_tokens=4,"
        " top_p=0.5, top_k=50, min_p=0.25, thinking_budget=3, batch_size=2, samples=2);"
        "b = model.generate('Use 3, 7, 8.', temperature=np.float32(0.5), seed=np.int64(3),"
        " max_new_tokens=np.int64(4), top_p=np.float32(0.5), top_k=np.int64(50),"
        " min_p=np.float64(0.25), thinking_budget=np.int64(3), batch_size=np.int64(2),"
        " samples=np.int64(2));"
        "assert a == b; json.dumps([trace.to_json() for trace in b])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_filters_are_recorded_and_decide_what_may_come(model, tmp_path) -> None:
    """The oracle is a row of its own without cache, filtered and drawn by the same noise."""
    options = {"top_p": 0.9, "top_k": 40, "min_p": 0.02}
    found = model.generate(PROMPTS, max_new_tokens=12, temperature=0.7, **options)
    plain = model.generate(PROMPTS, max_new_tokens=12, temperature=0.7)
    assert [t.token_ids for t in found] != [t.token_ids for t in plain]
    noise = Noise(0, len(model.tokenizer), torch.device("cpu"))
    for prompt, trace, free in zip(PROMPTS, found, plain, strict=True):
        assert trace.metadata | options == trace.metadata and trace.metadata["temperature"] == 0.7
        assert not set(options) & set(free.metadata) and trace.id != free.id
        key, ids = np.array([row_key(prompt, 0)], dtype=np.uint64), model.render(prompt)
        for step, token in enumerate(trace.token_ids):
            with torch.no_grad():
                input_ids = torch.tensor([[*ids, *trace.token_ids[:step]]])
                logits = model.hf(input_ids=input_ids).logits[:, -1, : len(model.tokenizer)]
            drawn = choose(logits, Sampling(0.7, **options), noise, key, step)
            assert drawn.tolist() == [token]
    only = model.generate(PROMPTS[0], max_new_tokens=2, top_k=5)[0].metadata
    assert only["top_k"] == 5 and not {"top_p", "min_p"} & set(only)
    assert read_traces(write_traces(found, tmp_path / "chains.jsonl")) == found


class Interrupting:
    """Ctrl-C at one of the tokens, whosever it is."""

    def __init__(self, at: int) -> None:
        self.at, self.heard = at, 0

    def __call__(self, row: int, step: int, piece: str) -> None:
        self.heard += 1
        if self.heard == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("batch_size", [2, 3, 64])
def test_an_interrupt_keeps_the_chains_that_are_finished(batch_size, tmp_path) -> None:
    """As they are without one, to their metadata and names; what was half written is dropped."""
    model = tiny_model("qwen2")
    model.hf.generation_config.eos_token_id = list(range(40, 80))
    options = {
        "steer": [0.5 * direction(), None, -0.5 * direction()],
        "samples": 3,
        "max_new_tokens": 16,
        "top_p": 0.95,
        "batch_size": batch_size,
    }
    counted = Interrupting(-1)
    whole = model.generate(PROMPTS, on_token=counted, **options)
    assert not whole.interrupted and len(whole) == 9
    kept = set()
    for at in (counted.heard // 2, counted.heard - 1):
        stopped = Interrupting(at)
        found = model.generate(PROMPTS, on_token=stopped, **options)
        assert found.interrupted and stopped.heard == at
        assert 0 < len(found) < len(whole)
        names = {trace.id for trace in found}
        assert list(found) == [trace for trace in whole if trace.id in names]
        assert any(trace.metadata["steering"] for trace in found)
        assert list(read_traces(write_traces(found, tmp_path / f"{at}.jsonl"))) == list(found)
        kept.add(len(found))
        with pytest.raises(KeyboardInterrupt):
            model.generate(PROMPTS, on_token=Interrupting(at), on_interrupt="raise", **options)
    assert len(kept) == 2
    # what is asked for afterwards is whole again
    again = model.generate(PROMPTS, **options)
    assert again == whole and not again.interrupted


@pytest.mark.parametrize("on_interrupt", ["return", "raise"])
def test_an_interrupt_before_any_chain_is_finished_is_raised(model, on_interrupt) -> None:
    stopped = Interrupting(4)
    with pytest.raises(KeyboardInterrupt):
        model.generate(PROMPTS, on_token=stopped, on_interrupt=on_interrupt, max_new_tokens=20)
    assert stopped.heard == 4


def test_overflow_is_an_error_and_not_a_chain() -> None:
    model = tiny_model("qwen2")
    model.hf.to(torch.float16)
    with pytest.raises(GenerationError, match="not finite"):
        model.generate(PROMPTS[0], steer=1e5 * direction(), max_new_tokens=3)


def test_progress_counts_rows(model) -> None:
    seen = []
    model.generate(
        PROMPTS, batch_size=2, max_new_tokens=2, progress=lambda *counts: seen.append(counts)
    )
    assert seen == [(2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "no prompt"),
        ("  ", {}, "empty"),
        ("Use \ud83d 7", {}, "Unicode"),
        (PROMPTS[0], {"samples": 0}, "samples"),
        (PROMPTS[0], {"max_new_tokens": 0}, "max_new_tokens"),
        (PROMPTS[0], {"batch_size": 0}, "batch_size"),
        (PROMPTS[0], {"temperature": -1.0}, "temperature"),
        (PROMPTS[0], {"temperature": float("nan")}, "temperature"),
        (PROMPTS[0], {"max_new_tokens": 500}, "longer than the context"),
        (" 7" * 600, {}, "longer than the context"),
    ],
)
def test_what_cannot_be_started_is_refused(model, prompts, options, message) -> None:
    with pytest.raises(GenerationError, match=message):
        model.generate(prompts, **options)


def test_forbidden_tokens_never_come_and_the_others_keep_their_odds(model):
    """The oracle is the noise itself: among what is allowed, the same argmax."""
    seen: list[list[int]] = []
    even = list(range(0, len(model.tokenizer), 2))

    def forbid(ids):
        seen.append(list(ids))
        return even if len(ids) % 2 == 0 else []

    chains = generate(model, PROMPTS, max_new_tokens=10, forbid=forbid, batch_size=2)
    plain = generate(model, PROMPTS, max_new_tokens=10)
    assert [] in seen and max(map(len, seen)) == 9
    noise = Noise(0, len(model.tokenizer), torch.device("cpu"))
    changed = 0
    for prompt, chain, free in zip(PROMPTS, chains, plain, strict=True):
        assert all(token % 2 for token in chain.token_ids[::2])
        changed += chain.token_ids != free.token_ids
        ids, start = model.render(prompt), len(model.render(prompt))
        for step, token in enumerate(chain.token_ids):
            with torch.no_grad():
                input_ids = torch.tensor([[*ids, *chain.token_ids[:step]]])
                logits = model.hf(input_ids=input_ids).logits[0, -1, : len(model.tokenizer)]
            keys = np.array([row_key(prompt, 0)], dtype=np.uint64)
            wished = logits + noise.gumbel(keys, step)[0]
            if step % 2 == 0:
                wished[even] = -torch.inf
            assert int(wished.argmax()) == token and len(ids) == start
    assert changed
