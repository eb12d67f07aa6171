"""Which positions generation edits, and by how much, counted token by token.

The residual stream is recorded by plain torch hooks around the edit at every forward pass; what
should have been edited is worked out from the finished token ids alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.models import ThinkingModel
from steerkit.places import PLACES, Mask, Steps
from steerkit.sampling import row_key
from steerkit.terms import Term, Terms
from steerkit.training.tokenizer import THINK_OPEN, build_tokenizer
from tests.test_steering import direction
from tests.tiny import tiny_hf, tiny_model

LAYER, LIMIT = 1, 20
ENDS = {".", "?", "!", "\n"}
# who closes when, who never does, who is cut off by the limit, who ends at once
TEXTS = {
    "Use 3, 7, 8 to make 29.": "3 + 8 = 11. Wait, no.\nLet me try?</think>7 .",
    "Use 5, 6, 20 to make 14.": "</think>7 . 20",
    "Use 2, 9 to make 18.": "2 * 9 = 18.</think>\n 9 * 2. ! 2 * 9 . 18 + 2 = 20 . 9",
    "Use 7, 9 to make 63 and 63 and 63.": "7 * 9 = 63. Wait. 7 * 9 = 63! 7 + 9 = 16 . 9",
    "Use 4, 4 to make 8.": "4 + 4 = 8. \n\n 8.</think>4 + 4",
    "Use 9 to make 9.": "9.",
}


@dataclass
class Position:
    """One position at the hooked layer: before and after the edit, and the width of its pass."""

    before: Tensor
    after: Tensor
    width: int

    @property
    def edited(self) -> bool:
        """Whether any bit differs."""
        return not torch.equal(self.before, self.after)


@dataclass
class Record:
    """Every position that was run, by chain and place in its sequence, and the finished chains.

    ``along`` are the positions of rows that were finished and ran along.
    """

    prompts: list[list[int]]
    responses: list[list[int]]
    at: list[dict[int, Position]]
    along: list[Position]

    def edited(self, chain: int) -> set[int]:
        """Positions of a chain that were edited."""
        return {index for index, position in self.at[chain].items() if position.edited}


def opened() -> ThinkingModel:
    """Its template opens the thinking section."""
    return tiny_model()


def opening() -> ThinkingModel:
    """It writes ``<think>`` itself, as older R1 models do."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(THINK_OPEN + "\\n", "")
    return ThinkingModel(tiny_hf(), tokenizer, name="tiny", think=("<think>", "</think>"))


def record(model: ThinkingModel, steer: Any, monkeypatch: Any, batch_size: int = 4) -> Record:
    """Generate the planted texts under ``steer``, and note every position of every pass."""
    begin = "<think>\n" if model.waits_for_opening else ""
    prompts = list(TEXTS)
    scripts = [
        model.tokenizer(begin + text, add_special_tokens=False)["input_ids"]
        for text in TEXTS.values()
    ]
    chain_of = {int(row_key(prompt, 0)): n for n, prompt in enumerate(prompts)}
    passes: list[dict[str, Any]] = []

    def inputs(module: Any, args: Any, kwargs: Any) -> None:
        index = kwargs["position_ids"]
        real = kwargs["attention_mask"][:, -index.shape[1] :].bool()
        passes.append({"index": index.clone(), "real": real})

    def before(module: Any, args: Any, output: Any) -> None:
        passes[-1]["before"] = (output if isinstance(output, Tensor) else output[0]).clone()

    def after(module: Any, args: Any, kwargs: Any) -> None:
        passes[-1]["after"] = (args[0] if args else kwargs["hidden_states"]).clone()

    def planted(logits: Any, sampling: Any, noise: Any, keys: Any, steps: Any) -> Tensor:
        passes[-1]["chains"] = chains = [chain_of[int(key)] for key in keys]
        end = next(iter(model.eos_ids))
        return torch.tensor(
            [[*scripts[n], end, end][min(s, len(scripts[n]))] for n, s in zip(chains, steps)]  # noqa: B905
        )

    layers = model.hf.model.layers
    handles = [
        model.hf.register_forward_pre_hook(inputs, with_kwargs=True),
        layers[LAYER].register_forward_hook(before, prepend=True),
        layers[LAYER + 1].register_forward_pre_hook(after, with_kwargs=True),
    ]
    monkeypatch.setattr("steerkit.writing.choose", planted)
    # rows leave once half have finished, so that in so small a batch some run along as well
    monkeypatch.setattr("steerkit.decoding._SHARE", 2)
    try:
        traces = model.generate(prompts, steer=steer, max_new_tokens=LIMIT, batch_size=batch_size)
    finally:
        for handle in handles:
            handle.remove()
    made = Record(
        [model.render(prompt) for prompt in prompts],
        [list(trace.token_ids) for trace in traces],
        [{} for _ in prompts],
        [],
    )
    assert made.responses == [script[:LIMIT] for script in scripts]
    for one in passes:
        width = one["index"].shape[1]
        for row, chain in enumerate(one["chains"]):
            for column in one["real"][row].nonzero().flatten().tolist():
                index = int(one["index"][row, column])
                position = Position(one["before"][row, column], one["after"][row, column], width)
                if index in made.at[chain] or index >= ran(made, chain):
                    made.along.append(position)
                else:
                    made.at[chain][index] = position
    return made


def ran(made: Record, chain: int) -> int:
    """How many positions a chain's tokens were predicted from; the end token is predicted too."""
    written = len(made.responses[chain])
    return len(made.prompts[chain]) + written - (written == LIMIT)


def named(where: Any, model: ThinkingModel, prompt: list[int], response: list[int]) -> set[int]:
    """Positions of a finished chain that a place names, read off its token ids."""
    ids = prompt + response
    everything = set(range(len(ids) - (len(response) == LIMIT)))
    last = len(prompt) - 1  # predicts the first token of the response
    opens, closes = (model.tokenizer.convert_tokens_to_ids(t) for t in ("<think>", "</think>"))
    first = ids.index(opens, last) if opens in response else last
    close = ids.index(closes, last) if closes in response else len(ids)
    if isinstance(where, Steps):
        stop = len(ids) if where.stop is None else where.stop
        return everything & set(range(last + where.start, last + stop))
    if isinstance(where, Mask):
        return everything & {i for i, chosen in enumerate(where.positions) if chosen}
    thinking = everything & set(range(first, close))
    if where == "sentences":
        found, begins = set(), True
        for i in sorted(thinking):
            text = model.tokenizer.decode([ids[i]])
            if i > first and (text.strip() or "\n" in text):
                begins = (text.strip(" ") or text) in ENDS
            found |= {i} if begins else set()
        return found
    return {
        "all": everything,
        "prompt": everything & set(range(first)),
        "think": thinking,
        "answer": everything & set(range(close, len(ids))),
        "generated": everything & set(range(last, len(ids))),
    }[where]


WHERES = [
    *PLACES,
    Steps(2, 7),
    Steps(4),
    Mask([n % 3 == 1 for n in range(22)]),
]


@pytest.mark.parametrize("make", [opened, opening])
@pytest.mark.parametrize("where", WHERES, ids=str)
@pytest.mark.parametrize("unsteered", [(), (1, 4)])
def test_what_is_edited_is_what_the_token_ids_say(make, where, unsteered, monkeypatch) -> None:
    """Position by position, in a batch whose rows close and end at different steps."""
    model, term = make(), 0.4 * direction().at(where=where)
    steer = [None if n in unsteered else term for n in range(len(TEXTS))]
    made = record(model, steer, monkeypatch)
    some = set()
    for chain, (prompt, response) in enumerate(zip(made.prompts, made.responses, strict=True)):
        # every position was run once, the prompt in one pass and the rest token by token
        assert set(made.at[chain]) == set(range(ran(made, chain)))
        widths = [made.at[chain][index].width for index in sorted(made.at[chain])]
        assert min(widths[: len(prompt)]) >= len(prompt) and set(widths[len(prompt) :]) <= {1}
        expected = named(where, model, prompt, response) if chain not in unsteered else set()
        assert made.edited(chain) == expected, chain
        some |= {(chain, index) for index in expected}
    assert made.along and not any(position.edited for position in made.along)
    assert some  # the place is reached: an engine that edits nothing would fail


def test_the_chains_close_at_different_steps_and_one_never_does() -> None:
    """What the other tests stand on, and their oracle by hand."""
    model = tiny_model()
    tokens = [
        model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS.values()
    ]
    closed = [ids.index(model.closing_id) if model.closing_id in ids else None for ids in tokens]
    assert closed == [15, 0, 6, None, 11, None]
    assert sorted(len(ids) >= LIMIT for ids in tokens) == [False] * 4 + [True] * 2
    prompt, response = [1, 2, 3], tokens[0]
    assert named("think", model, prompt, response) == set(range(2, 18))
    assert named("answer", model, prompt, response) == {18, 19, 20}
    assert named("prompt", model, prompt, response) == {0, 1}
    assert named("sentences", model, prompt, response) == {2, 8, 12, 13, 17}


U = direction().tensor[LAYER].double() / direction().tensor[LAYER].double().norm()
NORM, MEAN = 5.0, 0.7  # of layer 1: its mean norm, and a reference mean along the direction


def turned(hidden: Tensor, degrees: float) -> Tensor:
    """h turned toward u by a rotation of the plane of both, never past it."""
    across = hidden - (hidden @ U) * U
    basis = torch.stack([U, across / across.norm()])
    x, y = basis @ hidden
    size = torch.hypot(x, y)
    left = torch.rad2deg(torch.atan2(y, x)) - degrees
    left = torch.deg2rad(left.clamp(0.0, 180.0))
    return size * (torch.cos(left) * basis[0] + torch.sin(left) * basis[1])


def known() -> Any:
    return replace(direction(), mean_projection=torch.tensor([0.1, MEAN, 0.3]))


OPERATORS = {
    "add": (lambda d: 0.4 * d, lambda h: h + 0.4 * NORM * U),
    "add, backwards": (lambda d: -0.8 * d, lambda h: h - 0.8 * NORM * U),
    "ablate": (lambda d: d.ablate(), lambda h: h - (h @ U) * U),
    "ablate, half": (lambda d: d.ablate(0.5), lambda h: h - 0.5 * (h @ U) * U),
    "center": (lambda d: d.center(), lambda h: h + (MEAN - h @ U) * U),
    "clamp": (lambda d: d.clamp(0.6), lambda h: h + (0.6 * NORM - h @ U) * U),
    "rotate": (lambda d: d.rotate(12.0), lambda h: turned(h, 12.0)),
    "rotate, all the way": (lambda d: d.rotate(-180.0), lambda h: turned(h, -180.0)),
}


def term_of(name: str, where: str) -> Term:
    return OPERATORS[name][0](known()).at(where=where)


def assert_formulas(made: Record, names: list[str | None], model: Any, where: str) -> int:
    """Every position is what the operator's formula makes of it; how many were one-token steps."""
    steps, moved = 0, []
    for chain, name in enumerate(names):
        wanted = named(where, model, made.prompts[chain], made.responses[chain])
        for index, position in made.at[chain].items():
            if name is None or index not in wanted:
                assert not position.edited
                continue
            expected = OPERATORS[name][1](position.before.double())
            torch.testing.assert_close(position.after.double(), expected, rtol=1e-5, atol=1e-5)
            moved.append(float((expected - position.before).norm()))
            steps += position.width == 1
    assert min(moved) > 0 and sum(moved) / len(moved) > 0.1  # not a test of nothing
    return steps


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("where", ["generated", "think"])
def test_one_token_steps_are_edited_by_the_formula(name, where, monkeypatch) -> None:
    """All rows alike: where every one is edited, adding takes a path of its own."""
    model = opened()
    made = record(model, term_of(name, where), monkeypatch)
    assert assert_formulas(made, [name] * len(TEXTS), model, where) > 30


def test_rows_with_operators_of_their_own_are_each_edited_by_theirs(monkeypatch) -> None:
    model = opened()
    names = ["rotate", "add", None, "clamp", "center", "ablate, half"]
    steer = [name and term_of(name, "generated") for name in names]
    made = record(model, steer, monkeypatch, batch_size=6)
    assert assert_formulas(made, names, model, "generated") > 30


def test_rows_that_only_add_are_each_moved_as_far_as_their_own_terms_say(monkeypatch) -> None:
    """Different coefficients, places and sums side by side, at every one-token step."""
    model, d, other = opened(), direction(), direction(3, name="deduction")
    terms = [
        Terms((0.3 * d,)),
        Terms((-0.5 * d.at(where="generated"),)),
        0.3 * d + -0.2 * other.at(where="answer", layer=LAYER),
        Terms((0.9 * other.at(layer=LAYER),)),
        0.1 * d.at(where="think") + 0.2 * d,
        Terms((0.7 * d,)),
    ]
    made = record(model, terms, monkeypatch, batch_size=6)
    for chain, row in enumerate(terms):
        for index, position in made.at[chain].items():
            push = torch.zeros(model.d_model, dtype=torch.float64)
            for term in row:
                if index in named(term.where, model, made.prompts[chain], made.responses[chain]):
                    u = term.direction.tensor[LAYER].double()
                    push += term.coefficient * NORM * u / u.norm()
            moved = position.after.double() - position.before.double()
            torch.testing.assert_close(moved, push, rtol=1e-5, atol=1e-5)
