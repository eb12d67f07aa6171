"""Chains end where they are told to, think for as long as they may, and answer when they must."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steerkit.decoding import Row
from steerkit.errors import GenerationError
from steerkit.models import ThinkingModel
from steerkit.positions import ANSWER, PROMPT, THINK
from steerkit.sampling import row_key
from steerkit.stopping import Stop, closing_ids
from steerkit.traces import Trace
from steerkit.training.tokenizer import THINK_OPEN, build_tokenizer
from steerkit.writing import Writing
from tests.tiny import tiny_hf

PROMPT_TEXT = "Use 3, 7, 8 to make 29."
THOUGHT = "3 + 8 = 11.\nWait, 7 * 3 = 21.\nLet me try 3 * 7 + 8."
CHAIN = THOUGHT + "\n</think>\n\nThe answer is 3 * 7 + 8.\nI do not know.\n"


def thinking(style: str = "token") -> ThinkingModel:
    """``token``: the template opens the thinking section; ``old``: the model writes the opening
    token itself; ``plain``: it knows both strings as text of several tokens only."""
    tokenizer = build_tokenizer()
    if style != "token":
        tokenizer.chat_template = tokenizer.chat_template.replace(THINK_OPEN + "\\n", "")
    tokenizer.add_tokens(["\\boxed{", "{", "}"])
    think = ("( 1", "1 )") if style == "plain" else ("<think>", "</think>")
    hf = tiny_hf(vocab_size=len(tokenizer))
    return ThinkingModel(hf, tokenizer, name="tiny", think=think)


@pytest.fixture(scope="module")
def model() -> ThinkingModel:
    return thinking()


def ids_of(model: ThinkingModel, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def plant(monkeypatch, model: ThinkingModel, text: str, **others: str) -> list[int]:
    """Let the model choose these tokens, and then its end token; ``others`` are by prompt."""
    ends = [model.tokenizer.eos_token_id]
    chains = {row_key(prompt, 0): ids_of(model, it) + ends for prompt, it in others.items()}
    chain = ids_of(model, text) + ends

    def planted(logits: Any, sampling: Any, noise: Any, keys: Any, steps: list[int]) -> Any:
        rows = [chains.get(int(key), chain) for key in keys]
        return torch.tensor(
            [row[min(step, len(row) - 1)] for row, step in zip(rows, steps, strict=True)]
        )

    monkeypatch.setattr("steerkit.writing.choose", planted)
    return chain[:-1]


def ended(monkeypatch) -> list[Row]:
    """Rows that became traces, for their phases."""
    found: list[Row] = []
    traces = Writing.traces

    def spy(self: Writing, rows: Any) -> Any:
        found.extend(rows)
        return traces(self, rows)

    monkeypatch.setattr(Writing, "traces", spy)
    return found


def phases(model: ThinkingModel, trace: Trace) -> list[int]:
    """Phases of the last prompt position and of every token's, by the trace alone."""
    aligned = model.align(trace)
    assert aligned.ids[aligned.prompt_length :] == trace.token_ids
    return aligned.phases[aligned.prompt_length - 1 :].tolist()


def thoughts(model: ThinkingModel, trace: Trace) -> int:
    """Tokens that a thinking position predicted."""
    return phases(model, trace)[:-1].count(THINK)


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ("end", CHAIN),
        ("think", THOUGHT + "\n</think>"),
        # neither line breaks of the thinking nor those before the answer end its first line
        ("answer", THOUGHT + "\n</think>\n\nThe answer is 3 * 7 + 8.\n"),
        (lambda text: text.endswith("11"), "3 + 8 = 11"),
        (lambda text: "Wait, 7" in text, "3 + 8 = 11.\nWait, 7"),
        (lambda text: False, CHAIN),
    ],
)
def test_a_chain_ends_where_it_is_told_to(model, until, expected, monkeypatch) -> None:
    plant(monkeypatch, model, CHAIN)
    trace = model.generate(PROMPT_TEXT, until=until)[0]
    assert trace.response == expected and trace.token_ids == tuple(ids_of(model, expected))
    assert not trace.truncated and trace.closed == ("</think>" in expected)
    named = f"function {until.__qualname__}" if callable(until) else until
    assert trace.metadata.get("until", "end") == named
    # it is the text that ended it, not a limit of that length
    longer = model.generate(PROMPT_TEXT, until=until, max_new_tokens=len(trace.token_ids))[0]
    assert longer.response == expected and longer.truncated == (expected == CHAIN)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "\\boxed{1} 7</think> \\boxed{3 * {7} + 8} I",
            "\\boxed{1} 7</think> \\boxed{3 * {7} + 8}",
        ),
        ("7</think>The \\boxed{8\nI do", "7</think>The \\boxed{8\n"),
        ("7</think>The answer is { 8 } I do", "7</think>The answer is { 8 } I do"),
        ("7</think>", "7</think>"),
    ],
)
def test_a_closed_box_in_the_answer_ends_it(model, text, expected, monkeypatch) -> None:
    """A box in the thinking does not, nor an inner brace, nor one that is still open."""
    plant(monkeypatch, model, text)
    assert model.generate(PROMPT_TEXT, until="answer")[0].response == expected


@pytest.mark.parametrize(
    ("style", "text", "end"),
    [
        ("plain", "3 + 8 1 ) 7 1 ) 8.\n 3", "3 + 8 1 )"),
        ("plain", "( 1 3 + 8 1 ) 7.\n 3", "( 1 3 + 8 1 )"),
        ("old", "\n<think>\n3 + 8</think> 7\n3", "\n<think>\n3 + 8</think>"),
        ("old", "3 + 8</think> 7\n3", "3 + 8</think>"),
    ],
)
def test_the_closing_string_is_seen_however_it_is_written(style, text, end, monkeypatch) -> None:
    model, rows = thinking(style), ended(monkeypatch)
    plant(monkeypatch, model, text)
    closed = model.generate(PROMPT_TEXT, until="think")[0]
    assert closed.response == end and closed.closed
    answered = model.generate(PROMPT_TEXT, until="answer")[0]
    assert answered.response == text[: text.rindex("\n") + 1]
    for row, trace in zip(rows, (closed, answered), strict=True):
        assert row.phases == phases(model, trace) and row.phases[-1] == ANSWER


def test_a_function_is_asked_after_every_token_of_the_response_so_far(model, monkeypatch) -> None:
    ids = plant(monkeypatch, model, CHAIN)
    asked: list[str] = []
    model.generate(PROMPT_TEXT, until=lambda text: bool(asked.append(text)), prefix=[ids[:4]])
    assert asked == [model.tokenizer.decode(ids[:n]) for n in range(5, len(ids) + 1)]


@pytest.mark.parametrize("style", ["token", "old", "plain"])
@pytest.mark.parametrize("budget", [1, 4, 9])
def test_a_spent_budget_cuts_the_chain_off(style, budget, monkeypatch) -> None:
    model, rows = thinking(style), ended(monkeypatch)
    opening = "<think>" if style == "old" else ""  # is no thought
    ids = plant(monkeypatch, model, opening + THOUGHT)
    trace = model.generate(PROMPT_TEXT, thinking_budget=budget)[0]
    assert trace.token_ids == tuple(ids[: budget + bool(opening)])
    assert thoughts(model, trace) == budget
    assert trace.truncated and not trace.closed and "forced_answer" not in trace.metadata
    assert trace.metadata["thinking_budget"] == budget
    assert rows[0].phases == phases(model, trace) and rows[0].ended == "budget"
    assert (rows[0].phases[0] == PROMPT) == (style == "old")


@pytest.mark.parametrize("style", ["token", "old", "plain"])
@pytest.mark.parametrize("budget", [1, 4, 9])
@pytest.mark.parametrize("own", [False, True])
def test_an_answer_is_forced_once_the_budget_is_spent(style, budget, own, monkeypatch) -> None:
    """The text is written as it is, and the model goes on behind it."""
    model, rows = thinking(style), ended(monkeypatch)
    opening, closing = "<think>" if style == "old" else "", model.think[1]
    text = f" Wait.\n{closing}\nThe answer is" if own else f"\n{closing}\n"
    written = ids_of(model, text)
    ids = plant(monkeypatch, model, opening + THOUGHT + "I do not know. The answer is 3 * 7.")
    options = {"thinking_budget": budget, "force_answer": text if own else True}
    trace = model.generate(PROMPT_TEXT, **options)[0]
    kept = budget + bool(opening)
    assert list(trace.token_ids) == [*ids[:kept], *written, *ids[kept + len(written) :]]
    assert len(trace.token_ids) == len(ids) and trace.closed and not trace.truncated
    assert trace.metadata["forced_answer"] is True
    assert rows[0].phases == phases(model, trace) and not rows[0].forced
    assert rows[0].phases[-1] == ANSWER and rows[0].closed_for_it
    # all that leads to the closing string was predicted by a thinking position
    ends = [n for n in range(len(written)) if closing in model.tokenizer.decode(written[: n + 1])]
    assert thoughts(model, trace) == budget + ends[0] + 1


@pytest.mark.parametrize(("spare", "forced"), [(-1, True), (0, False), (1, False), (9, False)])
@pytest.mark.parametrize("force", [True, False])
def test_nothing_is_forced_where_the_model_closed_in_time(
    model, spare, forced, force, monkeypatch
) -> None:
    """The closing token is the last thought, so a budget that holds it is enough."""
    ids = plant(monkeypatch, model, CHAIN)
    budget = ids.index(model.closing_id) + 1 + spare
    trace = model.generate(PROMPT_TEXT, thinking_budget=budget, force_answer=force)[0]
    assert (list(trace.token_ids) == ids) == (not forced)
    assert trace.metadata.get("forced_answer", False) == (forced and force)
    assert trace.truncated == (forced and not force)


def test_an_answer_is_forced_once_however_long_the_rest(model, monkeypatch) -> None:
    """What the model thinks aloud after it is its answer."""
    plant(monkeypatch, model, THOUGHT + THOUGHT + THOUGHT)
    options = {"thinking_budget": 3, "force_answer": True}
    trace = model.generate(PROMPT_TEXT, **options)[0]
    assert trace.response.count("</think>") == 1 and trace.response.startswith("3 + 8\n</think>\n")


def test_until_and_limits_hold_within_and_after_what_is_forced(model, monkeypatch) -> None:
    plant(monkeypatch, model, CHAIN)
    options = {"thinking_budget": 3, "force_answer": True}
    stopped = model.generate(PROMPT_TEXT, until="think", **options)[0]
    assert stopped.response == "3 + 8\n</think>" and not stopped.truncated
    answered = model.generate(PROMPT_TEXT, until="answer", **options)[0]
    # what is planted goes on where the model does, with its seventh token
    assert answered.response == "3 + 8\n</think>\n\nWait, 7 * 3 = 21.\n"
    cut = model.generate(PROMPT_TEXT, max_new_tokens=4, **options)[0]
    assert cut.response == "3 + 8\n" and cut.truncated and not cut.closed


def test_rows_side_by_side_have_budgets_of_their_own(model, monkeypatch) -> None:
    """One closes in time, one is closed, one ends before; each as if it was alone."""
    texts = {"One": "3 + 8</think> 7. 3 + 8", "Two": THOUGHT, "Three": "3"}
    rows = ended(monkeypatch)
    plant(monkeypatch, model, CHAIN, **texts)
    options = {"thinking_budget": 5, "force_answer": True}
    together = model.generate(list(texts), **options)
    assert list(together) == [model.generate(prompt, **options)[0] for prompt in texts]
    assert [trace.response for trace in together][::2] == [texts["One"], texts["Three"]]
    assert ["forced_answer" in trace.metadata for trace in together] == [False, True, False]
    assert [row.phases for row in rows[:3]] == [phases(model, trace) for trace in together]


@pytest.mark.parametrize("force", [True, "7 * 3\n</think>\nThe answer is", False])
def test_budgets_hold_for_chains_of_a_random_model_in_any_batch(model, force) -> None:
    prompts = [PROMPT_TEXT, "Use 5, 6, 20 to make 14.", "7"]
    options = {"samples": 3, "max_new_tokens": 24, "thinking_budget": 6, "force_answer": force}
    found = model.generate(prompts, **options)
    assert found == model.generate(prompts, batch_size=1, **options)
    assert found == model.generate(prompts, batch_size=2, **options)
    written = (
        [] if not force else ids_of(model, force if isinstance(force, str) else "\n</think>\n")
    )
    for trace in found:
        assert trace.token_ids is not None
        if trace.metadata.get("forced_answer"):
            assert list(trace.token_ids[6 : 6 + len(written)]) == written
            assert model.closing_id not in trace.token_ids[:6]
        else:
            assert thoughts(model, trace) <= 6
            assert not force or trace.closed or len(trace.token_ids) <= 6
    spent = [t for t in found if t.metadata.get("forced_answer") or t.truncated]
    assert len(spent) > 4 and model.generate(prompts, samples=3, max_new_tokens=24) != found


@pytest.mark.parametrize("number", range(9))
def test_what_is_to_be_forced_survives_a_shortage_of_memory(model, number) -> None:
    prompts = [PROMPT_TEXT, "Use 5, 6, 20 to make 14.", "7"]
    options = {"max_new_tokens": 12, "thinking_budget": 3, "force_answer": " Wait.\n</think>\n 7"}
    expected = model.generate(prompts, **options)
    calls = []

    def once(module: Any, args: Any) -> None:
        calls.append(1)
        if len(calls) == number + 1:
            raise torch.OutOfMemoryError("planted")

    handle = model.hf.register_forward_pre_hook(once)
    try:
        assert model.generate(prompts, **options) == expected and len(calls) > number + 1
    finally:
        handle.remove()
    assert sum(t.metadata.get("forced_answer", False) for t in expected) >= 2


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("begun", [1, 4])
def test_thoughts_of_a_prefix_count_for_the_budget(model, begun, force, monkeypatch) -> None:
    """As if the chain had written them just now."""
    ids, rows = plant(monkeypatch, model, CHAIN), ended(monkeypatch)
    options = {"thinking_budget": 5, "force_answer": force}
    whole = model.generate(PROMPT_TEXT, **options)[0]
    trace = model.generate(PROMPT_TEXT, prefix=[ids[:begun]], **options)[0]
    assert trace.token_ids == whole.token_ids and trace.token_ids[:5] == tuple(ids[:5])
    assert trace.token_ids[5:6] == ((ids_of(model, "\n")[0],) if force else ())
    assert rows[1].phases == rows[0].phases == phases(model, trace)
    # a limit counts what is new alone
    longer = {"thinking_budget": 9, "max_new_tokens": 5}
    new = model.generate(PROMPT_TEXT, prefix=[ids[:begun]], **longer)[0]
    assert len(new.token_ids) == min(begun + 5, 9) and new.truncated


def test_a_prefix_that_has_closed_its_thinking_spends_no_more_budget(model, monkeypatch) -> None:
    ids = plant(monkeypatch, model, CHAIN)
    begun = ids[: ids.index(model.closing_id) + 1]
    for budget in (1, len(begun), 200):
        trace = model.generate(
            PROMPT_TEXT, prefix=[begun], thinking_budget=budget, force_answer=True
        )[0]
        assert list(trace.token_ids) == ids and "forced_answer" not in trace.metadata


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"until": "nowhere"}, "unknown place to stop"),
        ({"until": None}, "unknown place to stop"),
        ({"thinking_budget": 0}, "budget of thinking is out of range"),
        ({"thinking_budget": -3, "force_answer": True}, "budget of thinking is out of range"),
        ({"force_answer": True}, "once a budget of thinking is spent|thinking_budget"),
        ({"force_answer": "\n</think>\n"}, "once a budget of thinking is spent|thinking_budget"),
        ({"force_answer": "The answer is", "thinking_budget": 3}, "must hold the closing string"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_is_refused_before_the_model_runs(
    model, options, message, monkeypatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        pytest.fail("it ran")

    monkeypatch.setattr(model.hf, "forward", never)
    with pytest.raises(GenerationError, match=message):
        model.generate(PROMPT_TEXT, **options)


def test_what_closes_is_tokenized_by_itself(model) -> None:
    assert closing_ids(model, "\n</think>\n") == tuple(ids_of(model, "\n</think>\n"))
    assert model.closing_id in closing_ids(model, " Wait.</think>")
    with pytest.raises(GenerationError, match="closing string"):
        closing_ids(model, "<think>")


def test_what_is_recorded_is_what_is_not_as_usual() -> None:
    assert Stop().to_json() == {}
    assert Stop("think").to_json() == {"until": "think"}
    assert Stop(budget=3, closing=(1, 2)).to_json() == {"thinking_budget": 3}
    assert Stop(str.isspace, 7).to_json() == {
        "until": "function str.isspace",
        "thinking_budget": 7,
    }
