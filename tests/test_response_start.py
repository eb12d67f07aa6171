"""The response begins after the template's turn, or at the think string, however it is split."""

from __future__ import annotations

import pytest

from steerkit.models import ThinkingModel
from steerkit.response_start import ResponseStart
from steerkit.training.tokenizer import THINK_OPEN, build_tokenizer
from tests.tiny import tiny_hf, tiny_model


def test_it_is_after_the_last_turn_of_the_template() -> None:
    model = tiny_model()
    start, once = ResponseStart(model), model.render("Use 3, 7 to make 10.")
    more = model.tokenizer("3 + 7 = 10. <think> 3", add_special_tokens=False)["input_ids"]
    assert start.after_template(once) == len(once)
    assert start.after_template([*once, *more]) == len(once)
    assert start.after_template([*once, *more, *once, *more]) == 2 * len(once) + len(more)
    assert start.after_template(more) is None
    # the white space with which the template ends may be missing
    assert start.after_template(once[:-1]) == len(once) - 1


def test_without_a_turn_it_is_at_the_think_string_of_template_or_model() -> None:
    model = tiny_model()
    ids = model.tokenizer("Use 3, 7. <think>\n3 + 7", add_special_tokens=False)["input_ids"]
    opening = ids.index(model.tokenizer.convert_tokens_to_ids("<think>"))
    assert ResponseStart(model).by_opening(ids) == opening + 2
    assert ResponseStart(model).by_opening(ids[:opening]) is None
    tokenizer = build_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(THINK_OPEN + "\\n", "")
    older = ThinkingModel(tiny_hf(), tokenizer, name="tiny")
    assert ResponseStart(older).by_opening(ids) == opening


@pytest.mark.parametrize("opens", [True, False])
def test_a_think_string_of_text_is_found_where_tokens_join_it_with_what_follows(
    reference, opens
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reference / "tokenizer-deepseek-r1-distill-qwen")
    turn = "<reason>\n" if opens else ""
    tokenizer.chat_template = (
        "{{ messages[0].content }}{% if add_generation_prompt %} Go: " + turn + "{% endif %}"
    )
    hf = tiny_hf(vocab_size=len(tokenizer))
    model = ThinkingModel(hf, tokenizer, name="tiny", think=("<reason>", "</reason>"))
    assert model.opens_thinking == opens and not model.waits_for_opening
    ids = tokenizer("So it is.\n<reason>\nOkay", add_special_tokens=False)["input_ids"]
    alone = tokenizer("<reason>", add_special_tokens=False)["input_ids"]
    assert all(ids[i : i + len(alone)] != alone for i in range(len(ids)))  # else nothing is shown
    start = ResponseStart(model).by_opening(ids)
    before = tokenizer.decode(ids[:start])
    assert before == ("So it is.\n<reason>\n" if opens else "So it is.\n")
    chain = [*model.render("Why?"), *ids]
    if not opens:
        assert ResponseStart(model).after_template(chain) == len(chain) - len(ids)
