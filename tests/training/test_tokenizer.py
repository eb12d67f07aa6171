import random

import pytest
from transformers import AutoTokenizer

from steerkit.puzzles.chains import write_chain
from steerkit.puzzles.phrases import PHRASES
from steerkit.puzzles.rules import all_rules
from steerkit.puzzles.tasks import KINDS, generate_tasks
from steerkit.training.tokenizer import LARGEST_INTEGER, build_tokenizer, vocabulary


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def texts():
    tasks = generate_tasks("train", seed=0, count=240)
    assert {task.kind for task in tasks} == set(KINDS)
    return [f"{task.prompt} <think>\n{write_chain(task, 0).response}" for task in tasks]


def test_decoding_gives_the_text_back(tokenizer, texts):
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_known_pieces_in_any_order_come_back(tokenizer):
    pieces = vocabulary()
    dice = random.Random(0)
    for _ in range(300):
        text = "".join(dice.choices(pieces, k=20))
        # without spaces between them words would join to words that are not known
        text = (
            " ".join(text.split(" "))
            if tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
            else "".join(f" {piece.strip()}" for piece in dice.choices(pieces[2:], k=20))
        )
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_offsets_cover_the_text_in_order(tokenizer, texts):
    for text in texts[:50]:
        encoded = tokenizer(text, return_offsets_mapping=True)
        place = 0
        for index, (start, end) in zip(
            encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            assert start == place and text[start:end] == tokenizer.decode([index])
            place = end
        assert place == len(text)


@pytest.mark.parametrize("number", [0, 9, 29, LARGEST_INTEGER])
def test_an_integer_is_one_token(tokenizer, number):
    for text in (f"{number}", f" {number}"):
        (index,) = tokenizer(text)["input_ids"]
        assert index != tokenizer.unk_token_id
    assert tokenizer("9 * 8 = 72")["input_ids"] == [
        tokenizer.convert_tokens_to_ids(piece) for piece in ("9", " *", " 8", " =", " 72")
    ]


def test_every_phrase_is_known(tokenizer):
    slots = {
        "n": 29,
        "right": 21,
        "left": "(3 + 7) * 8",
        "pair": "3 / 7",
        "numbers": "3, 7, 8 and 9",
        "rule": "3 * x - 2",
        "given": "1 to 5, 3 to 9 and 4 to 11",
    }
    for phrases in PHRASES.values():
        for phrase in phrases:
            text = phrase.template.format(**slots)
            for opening in ("", " ", "\n"):
                assert tokenizer.unk_token_id not in tokenizer(opening + text)["input_ids"], text


def test_every_rule_and_every_prompt_is_known(tokenizer):
    texts = [f"So the rule is {rule}." for rule in all_rules()]
    texts += [task.prompt for task in generate_tasks("heldout", seed=1, count=90)]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text


def test_unknown_words_become_the_unknown_token(tokenizer):
    ids = tokenizer("Use 3, 7 banana 201.")["input_ids"]
    assert ids.count(tokenizer.unk_token_id) == 2


def test_template_opens_the_thinking_section(tokenizer):
    messages = [{"role": "user", "content": "Use 3, 7, 8 to make 29."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|bos|><|user|>Use 3, 7, 8 to make 29.<|assistant|><think>\n"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.convert_tokens_to_ids("<think>")) == 1
    closed = tokenizer.apply_chat_template(messages, tokenize=False)
    assert closed == "<|bos|><|user|>Use 3, 7, 8 to make 29."


def test_think_tokens_stay_visible_and_markers_do_not(tokenizer):
    ids = tokenizer("<|bos|><think>\n3 * 7 = 21.\n</think>\nI do not know.<|eos|>")["input_ids"]
    shown = tokenizer.decode(ids, skip_special_tokens=True)
    assert shown == "<think>\n3 * 7 = 21.\n</think>\nI do not know."


def test_saved_tokenizer_is_the_same(tokenizer, texts, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.eos_token == tokenizer.eos_token and loaded.pad_token == tokenizer.pad_token
    for text in texts[:20]:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.decode(loaded(text)["input_ids"]) == text
