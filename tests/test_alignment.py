"""Traces as tokens: spans by character offsets, stored ids first, phases by prediction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import steerkit as sk
from steerkit.alignment import AlignedTrace, align, stored_offsets
from steerkit.behaviors import UNPARSED
from steerkit.errors import ModelError, TraceError
from steerkit.positions import ANSWER, PROMPT, THINK
from steerkit.tasks import task_hash
from steerkit.traces import Span, Trace
from tests.tiny import SENTENCES, tiny_model, tiny_trace, tiny_traces


@lru_cache
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte: every character beyond ASCII is several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@lru_cache
def sentencepiece_like_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2 and Phi-3 have it: the decoder strips a space from the first token it gets."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    letters = ["\u2581", *"abcdefghijklmnopqrstuvwxyz.</>\n"]
    pieces = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), *letters, "\u2581a", "\u2581b"]
    merges = [("\u2581", "a"), ("\u2581", "b")]
    model = models.BPE(
        {p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True
    )
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def owners(
    spans: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]], text: str
) -> list[int | None]:
    """Which span every token belongs to, word by word from the definition."""
    result: list[int | None] = []
    for left, right in offsets:
        touched = [n for n, (a, b) in enumerate(spans) if a < right and left < b]
        if len(touched) > 1:
            first = next((c for c in range(left, right) if not text[c].isspace()), left)
            touched = [n for n in touched if spans[n][0] <= first < spans[n][1]] or touched
        result.append(touched[0] if touched else None)
    return result


def check_against_definition(trace: Trace, chain: AlignedTrace) -> None:
    """Every labelled span holds exactly the tokens that the definition gives it."""
    named = [span for span in trace.spans if span.label != UNPARSED]
    owner = owners([(s.start, s.end) for s in named], chain.offsets, trace.response)
    assert [label for _, _, label in chain.spans] == [span.label for span in named]
    for n, (start, end, _) in enumerate(chain.spans):
        tokens = [i + chain.prompt_length for i, found in enumerate(owner) if found == n]
        assert tokens == list(range(start, end))


def spelled(trace: Trace, chain: AlignedTrace, start: int, end: int) -> str:
    """The characters of the response that positions [start, end) cover."""
    offsets = chain.offsets[start - chain.prompt_length : end - chain.prompt_length]
    return trace.response[offsets[0][0] : offsets[-1][1]] if offsets else ""


def test_spans_thinking_and_phases_of_a_plain_chain() -> None:
    model = tiny_model()
    trace = tiny_trace(["initializing", "deduction", "backtracking"])
    chain = model.align(trace)
    assert (chain.trace_id, chain.task_id) == (trace.id, trace.task_id)
    assert chain.task_key == task_hash(trace.prompt or "")
    assert [label for *_, label in chain.spans] == ["initializing", "deduction", "backtracking"]
    for start, end, label in chain.spans:
        assert spelled(trace, chain, start, end).strip() == SENTENCES[label]
    assert spelled(trace, chain, *chain.thinking) == trace.thinking
    assert model.tokenizer.decode(chain.ids[chain.prompt_length :]) == trace.response
    assert not chain.retokenized
    # a position has the phase of the token it predicts
    names = model.tokenizer.convert_ids_to_tokens(chain.ids)
    closing = names.index("</think>")
    opened = chain.prompt_length - 1
    phases = chain.phases.tolist()
    assert phases == [PROMPT] * opened + [THINK] * (closing - opened) + [ANSWER] * (
        len(names) - closing
    )


def test_a_chain_that_never_closes_thinks_to_its_end() -> None:
    model = tiny_model()
    trace = tiny_trace(["deduction", "backtracking"], closed=False)
    chain = model.align(trace)
    assert chain.thinking == (chain.prompt_length, len(chain.ids))
    assert ANSWER not in chain.phases.tolist()


def test_many_random_chains_follow_the_definition() -> None:
    model = tiny_model()
    for trace in tiny_traces(30):
        check_against_definition(trace, model.align(trace))


@pytest.mark.parametrize("tokenizer", [byte_tokenizer, sentencepiece_like_tokenizer])
@settings(max_examples=60, deadline=None)
@given(text=st.text("ab \u00e9\U0001f600\u4e2d.\n", min_size=1, max_size=60), data=st.data())
def test_any_text_and_spans_follow_the_definition(tokenizer, text: str, data) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), min_size=2, max_size=6)))
    spans = [(a, b) for a, b in pairwise(cuts) if text[a:b].strip()][::2]
    made = tuple(Span(a, b, "deduction") for a, b in spans)
    trace = Trace("c", "t", text, spans=made)
    try:
        chain = align(trace, tokenizer=tokenizer(), prompt_ids=[1])
    except TraceError as problem:  # only where another span owns its one token
        assert "holds no token" in str(problem)
        return
    check_against_definition(trace, chain)


def test_the_definition_would_notice_a_shift() -> None:
    model, trace = tiny_model(), tiny_trace(["deduction", "backtracking"])
    moved = Span(trace.spans[0].start + 2, trace.spans[0].end, "deduction")
    with pytest.raises(AssertionError):
        check_against_definition(
            Trace("c", "t", trace.response, trace.prompt, spans=(moved, *trace.spans[1:])),
            model.align(trace),
        )


def test_unparsed_text_is_no_span() -> None:
    trace = tiny_trace(["deduction", "backtracking"])
    first, second = trace.spans
    changed = trace.with_spans([Span(first.start, first.end, UNPARSED), second], "a")
    assert [label for *_, label in tiny_model().align(changed).spans] == ["backtracking"]


def test_a_span_without_a_token_of_its_own_is_named() -> None:
    model = tiny_model()
    trace = Trace("odd", "t", "I need  29.", prompt="?", spans=(Span(2, 4, "deduction"),))
    inside = Trace(
        "odd", "t", "I need 29.", spans=(Span(2, 4, "deduction"), Span(4, 6, "backtracking"))
    )
    assert len(model.align(trace).spans) == 1
    with pytest.raises(TraceError, match=r"trace 'odd', span \[4, 6\) 'backtracking'.*no token"):
        model.align(inside)


def test_only_the_prompt_goes_through_the_template() -> None:
    model = tiny_model()
    trace = tiny_trace(["deduction", "backtracking"])
    chain = model.align(trace)
    assert list(chain.ids[: chain.prompt_length]) == model.render(trace.prompt or "")
    alone = model.tokenizer(trace.response, add_special_tokens=False)["input_ids"]
    assert list(chain.ids[chain.prompt_length :]) == alone
    # a template that rewrites assistant messages changes nothing of the response
    other = tiny_model()
    other.tokenizer.chat_template = other.tokenizer.chat_template.replace(
        "message['content'] + eos_token", "'gone'"
    )
    assert other.align(trace).ids == chain.ids


def test_stored_token_ids_win_and_mismatches_are_flagged() -> None:
    model = tiny_model()
    tokenizer = model.tokenizer
    response = "I need  29.\n</think>\nThe answer is 29."  # two spaces, one a token of its own
    again = tokenizer(response, add_special_tokens=False)["input_ids"]
    space, need = tokenizer.convert_tokens_to_ids([" ", "need"])
    other = [tokenizer.convert_tokens_to_ids("I"), space, need, *again[2:]]
    assert tokenizer.decode(other) == response and other != again
    spans = (Span(2, 6, "deduction"), Span(8, 11, "backtracking"))

    same = Trace("c", "t", response, prompt="?", token_ids=tuple(again), spans=spans)
    assert not model.align(same).retokenized
    stored = Trace("c", "t", response, prompt="?", token_ids=tuple(other), spans=spans)
    chain = model.align(stored)
    assert chain.retokenized
    assert list(chain.ids[chain.prompt_length :]) == other
    assert [tokenizer.decode(chain.ids[a:b]) for a, b, _ in chain.spans] == ["need", " 29."]
    check_against_definition(stored, chain)


def test_stored_ids_of_another_text_or_tokenizer_are_refused() -> None:
    model = tiny_model()
    ids = model.tokenizer("I need 29.", add_special_tokens=False)["input_ids"]
    for wrong in (ids[:-1], [*ids, ids[0]], [ids[1], *ids[1:]], []):
        trace = Trace("c9", "t", "I need 29.", prompt="?", token_ids=tuple(wrong))
        with pytest.raises(TraceError, match=r"trace 'c9', character \d+.*do not spell"):
            model.align(trace)
    size = len(model.tokenizer)
    trace = Trace("c9", "t", "I need 29.", prompt="?", token_ids=(*ids, size))
    with pytest.raises(TraceError, match=rf"another tokenizer.*below {size}; found {size}"):
        model.align(trace)


@pytest.mark.parametrize("tokenizer", [byte_tokenizer, sentencepiece_like_tokenizer])
@settings(max_examples=60, deadline=None)
@given(text=st.text("ab \u00e9\U0001f600\u4e2d.\n", min_size=1, max_size=120))
def test_offsets_of_stored_ids_are_those_of_the_tokenizer(tokenizer, text: str) -> None:
    encoded = tokenizer()(text, add_special_tokens=False, return_offsets_mapping=True)
    trace = Trace("c", "t", text)
    if tokenizer().decode(encoded["input_ids"]) != text:
        return  # a leading space that its decoder strips
    found = stored_offsets(encoded["input_ids"], tokenizer(), trace)
    covered = {i for a, b in found for i in range(a, b)}
    assert covered == set(range(len(text)))
    for (a, b), (left, right) in zip(found, encoded["offset_mapping"], strict=True):
        if (left, right) != (0, 0) and a < b:  # the prepended space has no character
            assert (a, b) == (left, right)


def test_a_long_text_in_a_tokenizer_that_strips_its_first_space() -> None:
    """Offsets are found in stretches; no stretch may lose the space that it begins with."""
    tokenizer = sentencepiece_like_tokenizer()
    text = "a" + " b" * 100 + " \u00e9 b \U0001f600" * 20 + " b" * 40
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = stored_offsets(ids, tokenizer, Trace("c", "t", text))
    assert found[50] == (99, 101) and text[99:101] == " b"
    assert found[-1] == (len(text) - 2, len(text))


def test_tokens_that_share_a_character_all_get_its_range() -> None:
    tokenizer = byte_tokenizer()
    text = "a\u00e9\U0001f600b"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == 1 + 2 + 4 + 1
    expected = [(0, 1), (1, 2), (1, 2), (2, 3), (2, 3), (2, 3), (2, 3), (3, 4)]
    assert stored_offsets(ids, tokenizer, Trace("c", "t", text)) == expected
    spans = (Span(1, 2, "deduction"), Span(2, 3, "backtracking"))
    for stored in (None, tuple(ids)):
        chain = align(
            Trace("c", "t", text, spans=spans, token_ids=stored),
            tokenizer=tokenizer,
            prompt_ids=[0, 0],
        )
        assert chain.spans == ((3, 5, "deduction"), (5, 9, "backtracking"))
        assert not chain.retokenized


def test_a_chain_cut_inside_a_character_aligns() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer("ab \U0001f600", add_special_tokens=False)["input_ids"][:-2]
    response = tokenizer.decode(ids)
    assert response.endswith("\ufffd")
    trace = Trace("c", "t", response, token_ids=tuple(ids), spans=(Span(0, 2, "deduction"),))
    chain = align(trace, tokenizer=tokenizer, prompt_ids=[0])
    assert chain.retokenized and list(chain.ids[1:]) == ids
    assert chain.spans == ((1, 3, "deduction"),)


def test_a_bare_chain_begins_with_the_beginning_and_is_its_own_task() -> None:
    model = tiny_model()
    trace = Trace("c", "t", "I need 29.\n</think>", prompt=None)
    chain = model.align(trace)
    assert chain.ids[0] == model.tokenizer.bos_token_id and chain.prompt_length == 1
    assert chain.task_key == task_hash("t")
    other = tiny_model()
    other.tokenizer.bos_token = None
    assert other.align(trace).prompt_length == 0


def test_a_beginning_that_the_model_has_no_embedding_of_is_left_out_of_bare_chains(caplog) -> None:
    model = tiny_model(vocab_size=500, bos_token_id=1)
    model.tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    assert model.tokenizer.bos_token_id > 500
    chain = model.align(Trace("c", "t", "AAAA.", prompt=None))
    assert chain.prompt_length == 0 and "begin without '<|begin|>'" in caplog.text
    with pytest.raises(ModelError, match=r"trace 'c'.*no embedding of.*<\|begin\|>"):
        model.align(Trace("c", "t", "AAAA.", prompt="?"))


def test_thinking_that_holds_nothing_is_empty_and_predicted_by_the_opening() -> None:
    model = tiny_model()
    chain = model.align(Trace("c", "t", "</think>The answer is 3.", prompt="?"))
    assert chain.thinking[0] == chain.thinking[1]
    phases = chain.phases.tolist()
    assert phases[chain.prompt_length - 1 : chain.prompt_length + 1] == [THINK, ANSWER]


@pytest.fixture(scope="module")
def real(reference: Path):
    """The 100 reference chains and the tokenizer that wrote them."""
    traces, _ = sk.read_tagged(reference / "r1_distill_qwen_1.5b_annotated.json")
    tokenizer = AutoTokenizer.from_pretrained(reference / "tokenizer-deepseek-r1-distill-qwen")
    return traces, tokenizer


def test_all_reference_chains_align_under_the_real_tokenizer(real) -> None:
    traces, tokenizer = real
    assert len(traces) == 100
    opening, closing = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    aligned = 0
    for trace in traces:
        chain = align(trace, tokenizer=tokenizer, prompt_ids=[tokenizer.bos_token_id], waits=True)
        check_against_definition(trace, chain)
        aligned += len(chain.spans)
        start, end = chain.thinking
        assert chain.ids[start - 1] == opening and chain.ids[end] == closing
        assert chain.ids.count(closing) == 1
        assert spelled(trace, chain, start, end) == trace.thinking
        assert all(start <= a < b <= end for a, b, _ in chain.spans)
        phases = chain.phases.tolist()
        assert phases[start - 1] == THINK and phases[start - 2] == PROMPT
        assert phases[end] == ANSWER and phases[end - 1] == THINK
        # spans hold their text but for the token that reaches over a border
        for span, (a, b, _) in zip(trace.spans, chain.spans, strict=True):
            text = trace.response[span.start : span.end].strip()
            assert text[:40].strip() in spelled(trace, chain, a, b) + " " * 40 or b - a < 3
    assert aligned == sum(len(trace.spans) for trace in traces) >= 2950


def test_stored_ids_of_reference_chains_give_the_tokenizers_offsets(real) -> None:
    traces, tokenizer = real
    for trace in traces[:15]:
        encoded = tokenizer(trace.response, add_special_tokens=False, return_offsets_mapping=True)
        found = stored_offsets(encoded["input_ids"], tokenizer, trace)
        assert found == [tuple(pair) for pair in encoded["offset_mapping"]]
