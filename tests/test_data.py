"""The bundled models, their tasks and their chains are what their cards say."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

import steerkit as sk
from steerkit.annotation import annotate
from steerkit.behaviors import UNPARSED, behaviors
from steerkit.puzzles.tasks import KINDS, parse_prompt
from steerkit.resources import bundled_adapters, bundled_models
from steerkit.tasks import SPLITS, normalized, split_of, task_hash
from steerkit.training.adapter_config import AdapterConfig

BASE, THINKING = "countdown-base", "countdown-thinking"
MODELS = bundled_models()
WEIGHTS = "model.safetensors"
SHARED = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.fixture(scope="module")
def chains() -> sk.Traces:
    return sk.read_traces(sk.data("traces/countdown.jsonl"))


def digest(name: str) -> str:
    return hashlib.sha256((MODELS[name] / WEIGHTS).read_bytes()).hexdigest()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_small_and_whole(name) -> None:
    files = {path.name: path.stat().st_size for path in MODELS[name].iterdir()}
    assert sum(files.values()) <= 10_000_000
    assert {WEIGHTS, *SHARED} <= files.keys()
    weights = load_file(MODELS[name] / WEIGHTS)
    assert sum(tensor.numel() for tensor in weights.values()) <= 5_000_000
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}


@pytest.mark.parametrize("name", [BASE, THINKING])
def test_a_model_has_a_card_and_the_log_of_its_training(name) -> None:
    folder = MODELS[name]
    assert f"# {name}\n" in (folder / "README.md").read_text()
    assert (folder / "training.csv").is_file() and (folder / "training.png").is_file()


def test_the_pair_differs_by_reinforcement_learning_alone() -> None:
    """Same tokenizer, same architecture; the base's weights are what it began with."""
    snapshots = [name for name in MODELS if name.startswith(f"{THINKING}-step-")]
    assert len(snapshots) >= 3
    for name in (THINKING, *snapshots):
        for shared in SHARED:
            assert (MODELS[name] / shared).read_bytes() == (MODELS[BASE] / shared).read_bytes()
    assert len({digest(name) for name in MODELS}) == len(MODELS)
    assert digest(BASE) in (MODELS[THINKING] / "README.md").read_text()
    log = (MODELS[THINKING] / "training.csv").read_text()
    assert f",{digest(BASE)[:16]}," in log and digest(THINKING)[:16] not in log


def test_chains_are_the_models_own_on_the_bundled_tasks(chains) -> None:
    tasks = {task.id: task for task in sk.read_tasks(sk.data("tasks/countdown.jsonl"))}
    assert len(chains) >= 500 and len({trace.task_id for trace in chains}) == len(chains)
    for trace in chains:
        assert trace.prompt == tasks[trace.task_id].prompt
        assert (trace.model, trace.revision) == (THINKING, digest(THINKING)[:16])
        assert trace.metadata["steering"] == [] and trace.metadata["temperature"] == 1.0
    assert {trace.split for trace in chains} == set(SPLITS)
    counts = [sum(trace.category == kind for trace in chains) for kind in KINDS]
    assert max(counts) - min(counts) <= 1


def test_the_model_writes_these_chains_again(chains) -> None:
    model = sk.load(THINKING, device="cpu")
    tasks = sk.read_tasks(sk.data("tasks/countdown.jsonl"))[:8]
    again = model.generate(tasks)
    same = sum(a.token_ids == b.token_ids for a, b in zip(again, chains, strict=False))
    assert same >= 7  # another machine may round a tie the other way
    other = model.generate(tasks, seed=1)
    assert sum(a.token_ids == b.token_ids for a, b in zip(other, chains, strict=False)) <= 1


def test_labels_are_exact_and_every_behaviour_is_there(chains) -> None:
    assert annotate(chains) == chains
    counts = chains.counts()
    assert all(counts[known.name] >= 100 for known in behaviors()[:6])
    # optional: chains without each of the five that are not a step
    for known in behaviors()[:6]:
        if known.name != "deduction":
            without = sum(all(s.label != known.name for s in t.spans) for t in chains)
            assert without / len(chains) > 0.1, known.name


def test_held_out_chains_close_parse_and_are_often_right(chains) -> None:
    tasks = [parse_prompt(trace.prompt) for trace in chains]
    assert all(task.pool == "heldout" for task in tasks)
    assert sum(trace.closed for trace in chains) / len(chains) >= 0.98
    counts = chains.counts()
    assert counts[UNPARSED] / sum(counts.values()) <= 0.03
    right = [task.verify(t.answer).correct for task, t in zip(tasks, chains, strict=True)]
    assert sum(right) / len(chains) >= 0.35


# -- adapters

ADAPTERS = bundled_adapters()


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_small_and_whole(name) -> None:
    folder = ADAPTERS[name]
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sum(files.values()) <= 15_000_000
    assert {"adapter_model.safetensors", "adapter_config.json", "chat_template.jinja"} <= set(files)
    assert {"README.md", "training.json", "training.csv", "training.png"} <= set(files)
    weights = load_file(folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    # a B of zeros would be the base again
    assert all(tensor.abs().max() > 0 for tensor in weights.values())
    record = json.loads((folder / "training.json").read_text())
    config = json.loads((folder / "adapter_config.json").read_text())
    assert record["base"] == config["base_model_name_or_path"] == "Qwen/Qwen2.5-Coder-1.5B-Instruct"
    assert record["think"] == ["<think>", "</think>"]
    assert "<think>" in (folder / "chat_template.jinja").read_text()
    numbers = sum(tensor.numel() for tensor in weights.values())
    assert numbers == record["figures"]["adapter_weights"]
    recipe = record["recipe"]
    assert (config["r"], config["lora_alpha"]) == (recipe["rank"], recipe["alpha"])
    assert sorted(config["target_modules"]) == recipe["targets"]


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapters_card_says_what_its_record_says(name) -> None:
    folder = ADAPTERS[name]
    card = " ".join((folder / "README.md").read_text().split())
    record = json.loads((folder / "training.json").read_text())
    recipe, figures, chains = record["recipe"], record["figures"], record["chains"]
    ((why, left_out),) = chains["left_out"].items()
    before, after = (figures[f"heldout_loss_{when}"] for when in ("before", "after"))
    assert after < before
    for said in (
        f"# {name} ",
        f"base_model: {record['base']} ",
        f"to {chains['train']} chains ({chains['name']}). Left out: {left_out} {why}.",
        f"`{recipe['data']}`",
        f"`{recipe['weights']}`",
        f"Rank {recipe['rank']}, alpha {recipe['alpha']:g}, dropout {recipe['dropout']:g}, on",
        f"{figures['adapter_weights']:,} numbers, stored in float16",
        f"{figures['steps']} steps of up to {recipe['chains']} chains",
        f"at most {recipe['longest']} tokens ({recipe['passes']:.2f} passes)",
        f"{figures['tokens']:,} tokens.",
        f"{figures['seconds'] / 60:.0f} minutes of training",
        f"Loss on {chains['held_out']} chains of tasks that were held out",
        f"{before:.3f} without the adapter, {after:.3f} with it",
    ):
        assert said in card, said
    rows = (folder / "training.csv").read_text().splitlines()
    assert rows[-1].startswith(f"{figures['steps']},{figures['tokens']},")


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_saw_bundled_chains_by_the_default_recipe_and_no_evaluate_task(name) -> None:
    record = json.loads((ADAPTERS[name] / "training.json").read_text())
    files = [f"traces/{file}" for file in record["chains"]["name"].split(", ")]
    traces = [trace for file in files for trace in sk.read_traces(sk.data(file))]
    known = {task_hash(trace.prompt) for trace in traces}
    evaluate = {
        task_hash(task.prompt)
        for task in sk.read_tasks(sk.data("tasks/reasoning.jsonl"))
        if split_of(task.prompt) == "evaluate"
    }
    trained = set(record["chains"]["tasks"])
    assert trained and trained <= known and not trained & evaluate
    counts = record["chains"]
    total = counts["train"] + counts["held_out"] + sum(counts["left_out"].values())
    assert total == len(traces) == 146
    # the command in data/README.md names no option of the recipe
    recipe = record["recipe"]
    for field in ("rank", "alpha", "longest", "chains", "passes", "held_out", "learning_rate"):
        assert recipe[field] == getattr(AdapterConfig(), field), field


# -- the tasks and chains in plain English

CATEGORIES = {
    "causal-reasoning",
    "creative-problem-solving",
    "lateral-thinking",
    "mathematical-logic",
    "pattern-recognition",
    "probabilistic-thinking",
    "scientific-reasoning",
    "spatial-reasoning",
    "systems-thinking",
    "verbal-logic",
}
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@pytest.fixture(scope="module")
def reasoning() -> sk.Traces:
    return sk.read_traces(sk.data("traces/reasoning.jsonl"))


def repeated(texts, *, words=5, most=2):
    """Sentences of at least so many words that occur in more than so many of the texts."""
    found = Counter()
    for text in texts:
        sentences = (" ".join(s.casefold().split()) for s in SENTENCE_END.split(text))
        found.update({s for s in sentences if len(s.split()) >= words})
    return {sentence: n for sentence, n in found.items() if n > most}


def diversity(texts, words):
    """Distinct 4-grams over all 4-grams, in the first so many words; none crosses two texts."""
    seen, total, left = set(), 0, words
    for text in texts:
        kept = text.casefold().split()[:left]
        left -= len(kept)
        grams = list(zip(*(kept[i:] for i in range(4)), strict=False))
        seen.update(grams)
        total += len(grams)
    assert left == 0, "fewer words than asked for"
    return len(seen) / total


def test_reasoning_tasks_are_as_many_as_the_card_says_and_no_two_alike() -> None:
    tasks = sk.read_tasks(sk.data("tasks/reasoning.jsonl"))
    counts = Counter(task.category for task in tasks)
    assert len(tasks) >= 200 and set(counts) == CATEGORIES and set(counts.values()) == {20}
    everything = [*tasks, *sk.read_tasks(sk.data("tasks/countdown.jsonl"))]
    assert len({task.id for task in everything}) == len(everything)
    words = {normalized(task.prompt) for task in tasks}
    assert len(words) == len(tasks)
    assert words.isdisjoint(normalized(task.prompt) for task in everything[len(tasks) :])
    assert all(task.id.rsplit("-", 1)[0] == task.category for task in tasks)
    for category in CATEGORIES:
        answers = [t.answer for t in tasks if t.category == category and t.answer is not None]
        assert len(answers) >= 14, category
        assert all(answer == answer.strip() and 0 < len(answer) <= 40 for answer in answers)
    assert {split_of(task.prompt) for task in tasks} == set(SPLITS)


def test_reasoning_chains_are_of_their_tasks_and_end_in_the_gold_answer(reasoning) -> None:
    tasks = {task.id: task for task in sk.read_tasks(sk.data("tasks/reasoning.jsonl"))}
    assert len(reasoning) >= 60 and len({t.task_id for t in reasoning}) == len(reasoning)
    assert Counter(trace.category for trace in reasoning) == dict.fromkeys(CATEGORIES, 10)
    for trace in reasoning:
        task = tasks[trace.task_id]
        assert (trace.prompt, trace.category) == (task.prompt, task.category)
        assert trace.closed and trace.response.startswith("<think>\n")
        assert (trace.annotator, trace.model, trace.revision) == ("authors", None, None)
        assert 250 <= len(trace.thinking.split()) <= 600, trace.id
        if task.answer is None:
            assert "**Answer:" not in trace.answer and len(trace.answer.split()) >= 20
        else:
            assert trace.answer.splitlines()[-1] == f"**Answer: {task.answer}**"
    # what an evaluation asks was never shown
    assert {trace.split for trace in reasoning} == {"extract", "select"}


def test_short_chains_are_held_to_the_same_and_are_short(reasoning) -> None:
    tasks = {task.id: task for task in sk.read_tasks(sk.data("tasks/reasoning.jsonl"))}
    short = sk.read_traces(sk.data("traces/short.jsonl"))
    assert len(short) >= 40 and len({t.task_id for t in short}) == len(short)
    for trace in short:
        task = tasks[trace.task_id]
        assert (trace.prompt, trace.category) == (task.prompt, task.category)
        assert trace.closed and trace.response.startswith("<think>\n") and not trace.spans
        assert 100 <= len(trace.thinking.split()) <= 240, trace.id
        if task.answer is not None:
            assert trace.answer.splitlines()[-1] == f"**Answer: {task.answer}**"
    # what is chosen on or evaluated on was never shown
    assert {trace.split for trace in short} == {"extract"}
    assert not repeated(trace.response for trace in [*reasoning, *short])


def test_reasoning_spans_cover_every_word_and_every_behaviour(reasoning) -> None:
    counts = reasoning.counts()
    assert sum(counts.values()) >= 1_500
    assert set(counts) == {known.name for known in behaviors()[:6]}
    assert min(counts.values()) >= 100
    within = 0
    for trace in reasoning:
        start, end = trace.thinking_bounds
        at = start
        for span in trace.spans:
            text = trace.response[span.start : span.end]
            assert text == text.strip() and len(text.split()) <= 65, (trace.id, text)
            assert not trace.response[at : span.start].strip(), trace.id
            # a span that begins or ends inside a sentence
            within += text[0].islower() or text[-1] == ","
            at = span.end
        assert not trace.response[at:end].strip(), trace.id
        assert {"backtracking", "uncertainty-estimation"} <= {span.label for span in trace.spans}
    assert within >= 200


def test_no_reasoning_chain_repeats_another(reasoning) -> None:
    assert repeated([trace.thinking for trace in reasoning]) == {}
    openings = Counter(" ".join(trace.thinking.split()[:4]) for trace in reasoning)
    assert max(openings.values()) <= 2


def test_repetition_would_be_seen() -> None:
    texts = [
        "Let me try it once more. No.",
        "Hm. Let me try  it\nonce more.",
        "LET me try it once more.",
    ]
    assert repeated(texts) == {}
    assert repeated([*texts, texts[0]]) == {"let me try it once more.": 3}
    assert repeated(["I see it now."] * 9) == {}, "four words may come back"


def test_reasoning_chains_are_as_varied_as_a_models(reasoning, reference) -> None:
    texts = [trace.thinking for trace in reasoning]
    records = json.loads((reference / "r1_distill_qwen_1.5b_annotated.json").read_text())
    others = [record["thinking_process"] for record in records]
    words = min(sum(len(text.split()) for text in group) for group in (texts, others))
    assert words > 20_000
    own = diversity(texts, words)
    assert own >= diversity(others, words)
    # positive control: half of the chains, twice
    half = texts[: len(texts) // 2] * 2
    twice = sum(len(text.split()) for text in half)
    assert diversity(half, min(twice, words)) < 0.7 * own
