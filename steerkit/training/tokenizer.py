"""The tokenizer of the bundled models: one token a word, number or mark."""

from __future__ import annotations

import re
from string import Formatter
from typing import TYPE_CHECKING

from steerkit.puzzles.phrases import PHRASES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LARGEST_INTEGER = 200
BOS, EOS, PAD, UNK = "<|bos|>", "<|eos|>", "<|pad|>", "<|unk|>"
USER, ASSISTANT = "<|user|>", "<|assistant|>"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '" + USER + "' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '" + ASSISTANT + "' + message['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + THINK_OPEN + "\\n' }}{% endif %}"
)
"""As the newer DeepSeek-R1 templates do, it opens the thinking section itself."""

_PIECE = r" ?[A-Za-z]+| ?[0-9]+|\n| ?[^A-Za-z0-9\s]|\s"
_OTHER_TEXT = (
    "Use 3, 7, 8 to make 29.",
    "If 1 gives 5, 3 gives 9 and 4 gives 11, what does 6 give?",
    "The answer is 3 * 7 + 8.",
    "3 * x - 2",
    "I do not know.",
)
_MARKS = ".,?!:;'\"()+-*/=\n "


def vocabulary() -> list[str]:
    """Every piece except the special tokens, sorted; words, numbers and marks.

    Each exists with and without a space before it, so that joining pieces gives the text.
    """
    texts = [*_OTHER_TEXT]
    for role in PHRASES.values():
        for phrase in role:
            texts.extend(literal for literal, *_ in Formatter().parse(phrase.template))
    words = {word for text in texts for word in re.findall(r"[A-Za-z]+", text)}
    numbers = [str(n) for n in range(LARGEST_INTEGER + 1)]
    marks = [mark for mark in _MARKS if not mark.isspace()]
    pieces = [*sorted(words), *numbers, *marks]
    return ["\n", " ", *pieces, *(f" {piece}" for piece in pieces)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the bundled models, made from the grammar's phrases alone.

    A piece is a word, an integer from 0 to ``LARGEST_INTEGER``, a mark or a line break,
    with at most one space before it; ``decode(encode(text)) == text`` for text made of
    known pieces, anything else is ``<|unk|>``. ``<think>`` and ``</think>`` are tokens of
    their own that stay in decoded text. ``encode`` adds no special token: the chat
    template has the one at the beginning.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = [PAD, BOS, EOS, UNK, USER, ASSISTANT]
    pieces = [*special, THINK_OPEN, THINK_CLOSE, *vocabulary()]
    known = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    # not "special", so that decoding with skip_special_tokens=True keeps them
    tokenizer.add_tokens(
        [AddedToken(t, special=False, normalized=False) for t in (THINK_OPEN, THINK_CLOSE)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1024,
    )
