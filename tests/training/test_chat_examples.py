from collections import Counter
from dataclasses import replace

import pytest
import torch

from steerkit.errors import TrainingError
from steerkit.training.adapter_config import AdapterConfig
from steerkit.training.chat_examples import chat_examples, micro_batches, steps_of_pass
from tests.tiny import tiny_model, tiny_trace, tiny_traces
from tests.training.adapters import PLAIN, plain_model

LABELS = ["initializing", "deduction", "backtracking"]
CONFIG = AdapterConfig(held_out=2, chains=3)


def only(model, trace, **options):
    found = chat_examples(model, [trace], AdapterConfig(held_out=0, **options))
    (example,) = found.train
    return example, found


def test_ids_are_those_of_the_rendered_text_and_the_loss_begins_with_the_response():
    model, trace = tiny_model(), tiny_trace(LABELS)
    (ids, start), found = only(model, trace)
    whole = model.render_text(trace.prompt) + trace.response + model.tokenizer.eos_token
    assert ids == model.tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert start == len(model.render(trace.prompt)) and found.chat_template is None
    assert ids[:-1] == list(model.align(trace).ids)
    text = model.tokenizer.decode(ids[start:])
    assert "</think>" in text and "The answer is" in text
    assert ids[-1] == model.tokenizer.eos_token_id


def test_an_opening_string_in_the_response_is_not_doubled():
    model, trace = tiny_model(), tiny_trace(LABELS)
    opened = replace(trace, response="<think>\n" + trace.response, spans=())
    assert only(model, opened)[0] == only(model, trace)[0]


def test_a_template_that_opens_plain_text_is_made_and_the_opening_counts():
    model = plain_model()
    trace = tiny_trace(LABELS)
    (ids, start), found = only(model, trace)
    tokenizer = model.tokenizer
    assert tokenizer.decode(ids[start:]).strip().startswith(PLAIN[0])
    assert ids[:start] == model.render(trace.prompt)  # the model's own template is unchanged
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": trace.prompt}],
        chat_template=found.chat_template,
        tokenize=False,
        add_generation_prompt=True,
    )
    assert rendered == model.render_text(trace.prompt) + PLAIN[0] + "\n"
    assert ids[-1] == tokenizer.eos_token_id
    # with that template the model opens its own thinking, and aligns chains to the same ids
    tokenizer.chat_template = found.chat_template
    del model.__dict__["opens_thinking"], model.__dict__["waits_for_opening"]
    assert model.opens_thinking
    own = replace(
        trace,
        response=trace.response.replace("</think>", PLAIN[1]),
        spans=(),
        metadata={"think": list(PLAIN)},
    )
    assert list(model.align(own).ids) == ids[:-1]
    assert only(model, own)[0][0] == ids


def test_what_cannot_be_trained_on_is_left_out_and_counted():
    model, whole = tiny_model(), tiny_traces(10)
    closed = [trace for trace in whole if trace.closed]
    odd = [
        replace(closed[0], prompt=None),
        replace(closed[1], response=closed[1].thinking + "</think>\n", spans=()),
        replace(closed[2], metadata={"truncated": True}),
        tiny_trace(LABELS * 20, 99),
    ]
    found = chat_examples(model, [*closed[3:], *odd, *whole[4:5]], replace(CONFIG, longest=100))
    assert found.skipped == Counter(
        {
            "without a prompt": 1,
            "without an answer": 1,
            "without a closed thinking section": 2,
            "longer than 100 tokens": 1,
        }
    )
    assert len(found.train) + len(found.held_out) == len(closed) - 3
    assert not whole[4].closed  # the control: one of the two came unclosed


def test_held_out_tasks_are_apart_from_those_trained_on():
    model = tiny_model()
    twice = [trace for trace in tiny_traces(12) if trace.closed]
    twice += [replace(trace, id=f"{trace.id}-again") for trace in twice]
    found = chat_examples(model, twice, CONFIG)
    assert len(found.held_out) == 4  # both chains of two tasks
    prompts = [
        {tuple(ids[:start]) for ids, start in part} for part in (found.train, found.held_out)
    ]
    assert not prompts[0] & prompts[1] and len(found.tasks) == len(prompts[0])
    again = chat_examples(model, twice, CONFIG)
    assert again == found and again.digest == found.digest
    other = chat_examples(model, twice, replace(CONFIG, seed=1))
    assert other.held_out != found.held_out and other.digest != found.digest


def test_too_few_chains_are_refused_with_what_was_left_out():
    unclosed = [tiny_trace(LABELS, i, closed=False) for i in range(3)]
    with pytest.raises(TrainingError, match=r"too few.*0 tasks; left out: 3 without a closed"):
        chat_examples(tiny_model(), unclosed, CONFIG)
    model = tiny_model()
    model.tokenizer.chat_template = None
    with pytest.raises(TrainingError, match="no chat template"):
        chat_examples(model, tiny_traces(10), CONFIG)


def test_a_pass_takes_every_chain_once_in_an_order_of_its_own():
    dice = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 200, (70,), generator=dice).tolist()
    examples = [([i] * length, 1) for i, length in enumerate(lengths)]
    config = AdapterConfig(chains=4)
    passes = [steps_of_pass(examples, config, number) for number in (0, 1)]
    for steps in passes:
        assert sorted(ids[0] for step in steps for ids, _ in step) == list(range(70))
        assert sorted(map(len, steps))[1:] == [4] * 17  # the remainder is a step of its own
    assert passes[0] == steps_of_pass(examples, config, 0) != passes[1]

    def padded(steps):
        return sum(len(step) * max(len(ids) for ids, _ in step) for step in steps)

    in_order = [examples[i : i + 4] for i in range(0, 70, 4)]
    assert padded(passes[0]) < 1.2 * sum(lengths) < padded(in_order)


def test_parts_of_a_step_keep_within_the_positions_allowed():
    examples = [([0] * n, 1) for n in (10, 3, 9, 40, 5)]
    parts = micro_batches(examples, 20)
    assert [[len(ids) for ids, _ in part] for part in parts] == [[40], [10, 9], [5, 3]]
