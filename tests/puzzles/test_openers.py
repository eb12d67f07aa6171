import pytest

import steerkit as sk
from steerkit.errors import TaskError
from steerkit.puzzles.chains import write_chain
from steerkit.puzzles.openers import forbid, openers
from steerkit.puzzles.phrases import PHRASES
from steerkit.puzzles.tasks import generate_tasks
from steerkit.training.tokenizer import build_tokenizer

TELLING = ("backtracking", "example-testing", "uncertainty-estimation")


def test_openers_of_backtracking():
    found = openers("backtracking")
    assert {"Wait", "No", "Actually"} <= found[()]
    assert "does" in found[("That",)] and "leaves" not in found[("That",)]
    assert found[("Let", "me")] == {"go", "start"}


@pytest.mark.parametrize("label", TELLING)
def test_every_sentence_of_the_behaviour_is_stopped_and_no_other(label):
    tokenizer = build_tokenizer()
    ban = forbid(label, tokenizer)
    stopped = passed = 0
    for number, task in enumerate(generate_tasks("train", count=120)):
        chain = write_chain(task, number)
        ids = tokenizer(chain.response, add_special_tokens=False)["input_ids"]
        banned = [place for place, token in enumerate(ids) if token in ban(ids[:place])]
        text, expected = "", []
        for separator, (sentence, meant) in zip(chain.separators, chain.sentences, strict=True):
            begin = len(tokenizer(text + separator, add_special_tokens=False)["input_ids"])
            text += separator + sentence
            end = len(tokenizer(text, add_special_tokens=False)["input_ids"])
            hits = sum(begin - 1 <= place < end for place in banned)
            assert hits == (meant == label), sentence
            expected.append(hits)
            stopped, passed = stopped + hits, passed + 1 - hits
        assert len(banned) == sum(expected)  # nothing in the answer
    assert stopped > 50 and passed > 500


def test_a_space_of_its_own_does_not_let_an_opener_pass():
    tokenizer = build_tokenizer()
    ban = forbid("backtracking", tokenizer)
    vocabulary = tokenizer.get_vocab()
    spaces = [i for piece, i in vocabulary.items() if piece and not piece.strip(" ")]
    ids = tokenizer("Let me", add_special_tokens=False)["input_ids"]
    assert len(ids) == 2 and spaces
    assert ban([ids[0], spaces[0], ids[1]]) == ban(ids) != []
    assert ban([*ids, vocabulary["."], spaces[0]]) == ban([]) != ban(ids)


def test_a_tokenizer_that_cuts_the_openers_is_refused():
    class Other:
        def get_vocab(self):
            return {"W": 0, "a": 1, "it": 2}

    with pytest.raises(TaskError, match="openers as tokens"):
        forbid("backtracking", Other())


def test_a_model_never_says_what_is_forbidden():
    model = sk.load("countdown-thinking", device="cpu")
    tasks = [task.to_task() for task in generate_tasks("heldout", count=16, kinds=["countdown-3"])]
    plain = sk.annotate(model.generate(tasks)).counts()
    ban = forbid("backtracking", model.tokenizer)
    without = sk.annotate(model.generate(tasks, forbid=ban)).counts()
    assert plain["backtracking"] > 5 and "backtracking" not in without
    assert without["deduction"] > 20


def test_behaviours_that_do_not_show_themselves_are_refused():
    with pytest.raises(TaskError, match="cannot be told"):
        openers("deduction")
    with pytest.raises(TaskError, match="no phrases"):
        openers("humming")


def test_the_beginnings_are_those_of_no_other_behaviour():
    for label in TELLING:
        for beginning, words in openers(label).items():
            for word in words:
                text = " ".join([*beginning, word])
                for phrase in (phrase for phrases in PHRASES.values() for phrase in phrases):
                    if phrase.template.startswith((f"{text} ", f"{text},")):
                        assert phrase.label == label
