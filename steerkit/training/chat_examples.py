"""Chains of thought as token ids for a chat model: what an adapter is fitted on."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steerkit.errors import TrainingError
from steerkit.models import ThinkingModel
from steerkit.traces import Trace
from steerkit.training.adapter_config import AdapterConfig
from steerkit.training.batches import Example

_MARK = "steerkit-response"  # stands for a response while the template is looked at


@dataclass(frozen=True)
class ChatExamples:
    """Chains to train on and to hold out, encoded for one model.

    Attributes
    ----------
    train, held_out:
        Token ids of prompt, response and end token, and the place from which on they count for
        the loss. No task is in both.
    tasks:
        Hashes of the tasks trained on (:func:`steerkit.tasks.task_hash`).
    skipped:
        Chains that were left out, by reason.
    chat_template:
        The template that opens the thinking section, where the model's own does not and the
        opening string is plain text; else ``None``.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    tasks: tuple[str, ...]
    skipped: Counter[str]
    chat_template: str | None

    @property
    def digest(self) -> str:
        """First 16 digits of the SHA-256 of all ids, in order: which data this is."""
        content = repr((self.train, self.held_out)).encode()
        return hashlib.sha256(content).hexdigest()[:16]


def chat_examples(
    model: ThinkingModel, traces: Iterable[Trace], config: AdapterConfig
) -> ChatExamples:
    """Encode chains with a prompt, a closed thinking section and an answer.

    The prompt is rendered through the model's chat template and the response's ids appended:
    thinking section, closing think string, answer, and the token that ends a turn. Spans play
    no part. The loss counts from the response on. A model that knows think strings as plain text
    gets a template that opens the thinking section; the opening string counts for the
    loss there, so that the model also writes it under its old template.

    Parameters
    ----------
    model, traces:
        The base, and chains of any model; their think strings become this model's.
    config:
        ``longest``, ``held_out`` and ``seed``: held-out tasks are those whose hashes come
        first in an order that the seed decides.

    Raises :class:`TrainingError` for a model without a chat template, and where no chain is
    left to train on or not one task to hold out.
    """
    template = _opening_template(model)
    end = _end_id(model)
    skipped: Counter[str] = Counter()
    encoded: list[tuple[str, Example]] = []
    for trace in traces:
        reason = _unusable(trace)
        if reason is None:
            example = _encode(model, trace, template, end)
            model.check_ids(example[0], f"trace {trace.id!r}")
            limit = min(config.longest, model.context or config.longest)
            if len(example[0]) > limit:
                reason = f"longer than {limit} tokens"
        if reason is None:
            encoded.append((trace.task_key, example))
        else:
            skipped[reason] += 1
    tasks = sorted({key for key, _ in encoded}, key=lambda key: _order(config.seed, key))
    if len(tasks) <= config.held_out:
        left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
        raise TrainingError(
            "too few chains to train on",
            expected=f"more than the {config.held_out} tasks that are held out",
            found=f"{len(tasks)} tasks" + (f"; left out: {left_out}" if left_out else ""),
            fix="give more chains, raise --longest, or hold out fewer tasks",
        )
    kept = set(tasks[: config.held_out])
    return ChatExamples(
        train=tuple(example for key, example in encoded if key not in kept),
        held_out=tuple(example for key, example in encoded if key in kept),
        tasks=tuple(sorted(tasks[config.held_out :])),
        skipped=skipped,
        chat_template=template,
    )


def steps_of_pass(
    examples: Sequence[Example], config: AdapterConfig, number: int
) -> list[list[Example]]:
    """The steps of one pass over the chains: every chain once, in an order of its own.

    Chains are shuffled, sorted by length eight steps at a time, and cut into steps, which come
    in random order: chains of like length share a step, so that little of it is padding, and
    with others in every pass. The plan depends on the configuration and the number alone.
    """
    dice = random.Random(f"pass {config.seed} {number}")
    order = list(examples)
    dice.shuffle(order)
    size = config.chains
    steps = []
    for first in range(0, len(order), 8 * size):
        part = sorted(order[first : first + 8 * size], key=lambda example: len(example[0]))
        steps += [part[i : i + size] for i in range(0, len(part), size)]
    dice.shuffle(steps)
    return steps


def micro_batches(examples: Sequence[Example], batch_tokens: int) -> list[list[Example]]:
    """Examples in parts of at most ``batch_tokens`` positions, padding included, longest first."""
    parts: list[list[Example]] = []
    for example in sorted(examples, key=lambda example: -len(example[0])):
        if parts and (len(parts[-1]) + 1) * len(parts[-1][0][0]) <= batch_tokens:
            parts[-1].append(example)
        else:
            parts.append([example])
    return parts


def _unusable(trace: Trace) -> str | None:
    if trace.prompt is None:
        return "without a prompt"
    if not trace.closed or trace.truncated:
        return "without a closed thinking section"
    return None if trace.answer else "without an answer"


def _order(seed: int, key: str) -> str:
    return hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).hexdigest()


def _opening_template(model: ThinkingModel) -> str | None:
    template = model.tokenizer.chat_template
    if not isinstance(template, str):
        raise TrainingError(
            f"{model.name} has no chat template",
            expected="one, so that prompt and response can be told apart",
            fix="train a chat model, or give its tokenizer a chat template",
        )
    if model.opens_thinking or model.waits_for_opening:
        return None
    opening = f"{model.think[0]}\n".replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return template + "{%- if add_generation_prompt %}{{- '" + opening + "' }}{%- endif %}"


def _encode(model: ThinkingModel, trace: Trace, template: str | None, end: int) -> Example:
    opening, closing = model.think
    start, stop = trace.thinking_bounds
    thought = trace.response[start:stop]
    after = trace.response[stop + len(trace.think[1]) :]
    messages = [{"role": "user", "content": trace.prompt}]
    rendered = str(
        model.tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True
        )
    )
    if template is not None or model.opens_thinking:
        # white space after the opening string is the template's
        thought = thought.lstrip() if rendered != rendered.rstrip() else thought
    else:
        thought = opening + thought
    prompt = _ids(model, rendered)
    counted = len(prompt)
    if template is not None:
        head = rendered.rstrip().removesuffix(opening)
        bare = _ids(model, head)
        counted = len(bare) if prompt[: len(bare)] == bare else counted
    return [*prompt, *_ids(model, thought + closing + after), end], counted


def _ids(model: ThinkingModel, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _end_id(model: ThinkingModel) -> int:
    """The token that the chat template writes after a response, or the tokenizer's end token."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
    text = str(model.tokenizer.apply_chat_template(turns, tokenize=False))
    written = _ids(model, text.rpartition(_MARK)[2])
    if written and written[0] in model.eos_ids:
        return written[0]
    end = model.tokenizer.eos_token_id
    if end is None:
        raise TrainingError(
            f"{model.name} has no token that ends a response", fix="give its tokenizer an eos_token"
        )
    return int(end)
