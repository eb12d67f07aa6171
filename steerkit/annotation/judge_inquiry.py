"""Inquiry: parts of chains put to an endpoint until each has labels, or a reason why not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from steerkit.annotation.judge_answers import Answer, read_answer
from steerkit.annotation.judge_cost import JudgeReport, Price, expected_tokens
from steerkit.annotation.judge_endpoint import Endpoint, RequestError
from steerkit.annotation.judge_prompt import Message, Piece, complaint
from steerkit.annotation.judge_request import Reply
from steerkit.annotation.threads import as_done
from steerkit.behaviors import UNPARSED
from steerkit.errors import AnnotationError

GIVE_UP = 3
"""Requests without any reply, one after another, that end a run: the server must be down."""

_REPEATED = 4_000  # characters of an unusable answer that are shown to the model again


class Labelled(NamedTuple):
    """What came of one piece.

    ``labels`` has one for every sentence; ``failed`` are those, from 0, that are ``unparsed``
    because of ``problem``; ``lost`` says that there was no reply at all.
    """

    labels: tuple[str, ...]
    failed: tuple[int, ...] = ()
    problem: str = ""
    lost: bool = False


@dataclass(eq=False)
class Inquiry:
    """One run: whom to ask, for which labels, and what to do with good answers.

    Attributes
    ----------
    endpoint:
        The server; it is opened and closed by :meth:`run`.
    labels:
        Names of the behaviours to choose from.
    answers:
        How many answers are asked for, at most, until one can be used.
    threads:
        Requests under way at once.
    keep:
        Called with a piece, its labels and the reply as soon as an answer is good.
    report, price:
        What is counted, and at which price.
    """

    endpoint: Endpoint
    labels: Sequence[str]
    answers: int
    threads: int
    keep: Callable[[Piece, tuple[str, ...], Reply], None]
    report: JudgeReport
    price: Price | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def run(
        self, pieces: Sequence[Piece], *, replied: bool
    ) -> Generator[tuple[Piece, Labelled], None, None]:
        """Every piece with what came of it, in the order in which answers come.

        ``replied`` says that the server has been seen to answer before, so that one piece
        that it never answers does not end every run. Raises :class:`AnnotationError` where
        the server answers nobody, and what :meth:`Endpoint.ask` raises.
        """
        if not pieces:
            return
        self.endpoint.open()
        lost = 0
        try:
            for number, found in as_done(self.ask, pieces, self.threads, self.endpoint.stop):
                replied = replied or not found.lost
                lost = lost + 1 if found.lost else 0
                if lost >= GIVE_UP or (lost == len(pieces) and not replied):
                    raise AnnotationError(
                        "the server does not answer",
                        found=found.problem,
                        where=self.endpoint.shown_url,
                        fix="see that it runs, and run the same again: answers that came are kept",
                    )
                yield pieces[number], found
        finally:
            self.report.requests = self.endpoint.sent
            self.endpoint.close()

    def ask(self, piece: Piece) -> Labelled:
        """Labels of one piece; called in several threads at once."""
        asked: Message = {"role": "user", "content": piece.message}
        messages = [asked]
        answer = Answer(())
        for _ in range(self.answers):
            try:
                reply = self.endpoint.ask(messages, sum(expected_tokens(piece)))
            except RequestError as failed:
                return _without(piece, str(failed), lost=failed.lost)
            answer = Answer((), reply.problem)
            if not reply.problem:
                answer = read_answer(reply.text, piece.length, self.labels)
            self._count(reply, good=not answer.problem)
            if not answer.problem:
                labels = tuple(label or UNPARSED for label in answer.labels)
                self.keep(piece, labels, reply)
                return Labelled(labels)
            messages = [asked]
            if reply.text.strip():
                told = complaint(answer.problem, piece.length)
                messages.append({"role": "assistant", "content": reply.text[:_REPEATED]})
                messages.append({"role": "user", "content": told})
        if not answer.labels:
            return _without(piece, answer.problem)
        # numbers are all there, so the labels that are known belong to their sentences
        failed_ones = tuple(i for i, label in enumerate(answer.labels) if label is None)
        labels = tuple(label or UNPARSED for label in answer.labels)
        return Labelled(labels, failed_ones, answer.problem)

    def _count(self, reply: Reply, *, good: bool) -> None:
        with self._lock:
            self.report.malformed += not good
            self.report.prompt_tokens += reply.prompt_tokens
            self.report.answer_tokens += reply.answer_tokens
            self.report.served[reply.served] += 1
            if self.price is not None:
                spent = self.price.of(reply.prompt_tokens, reply.answer_tokens)
                self.report.cost = (self.report.cost or 0.0) + spent


def _without(piece: Piece, problem: str, *, lost: bool = False) -> Labelled:
    return Labelled((UNPARSED,) * piece.length, tuple(range(piece.length)), problem, lost)
