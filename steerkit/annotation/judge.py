"""Judge: labels by a language model behind any OpenAI-compatible address."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from steerkit.annotation.annotator import fingerprint, units
from steerkit.annotation.answer_cache import AnswerCache, cache_folder, content_key
from steerkit.annotation.judge_cost import Estimate, Failure, JudgeReport, Price, estimated
from steerkit.annotation.judge_endpoint import Endpoint
from steerkit.annotation.judge_inquiry import Inquiry, Labelled
from steerkit.annotation.judge_prompt import VERSION, Piece, answer_schema, chain_pieces
from steerkit.annotation.judge_request import Reply, RequestForm
from steerkit.annotation.rate_limit import Clock, RateLimit
from steerkit.annotation.sentences import Bounds, splitter_name
from steerkit.behaviors import UNPARSED, behavior
from steerkit.behaviors import behaviors as known_behaviors
from steerkit.errors import AnnotationError
from steerkit.traces import Span, Trace

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Judge:
    """An annotator that asks a language model, which sees numbered sentences and gives labels.

    The model answers with numbers and labels only, so it cannot change a text. What it
    answers is checked: every number once, no other, known labels. An answer that fails is
    asked for again, with what is wrong with it; if that does not help, the sentences stay
    ``unparsed`` and are reported. Good answers are kept on disk by content, so a run that
    was killed goes on where it was, and one that is repeated asks nothing.

    Attributes
    ----------
    model:
        Name of the model as the server knows it.
    base_url:
        Address of the server, mostly ending in ``/v1``: OpenAI's by default (or what the
        environment variable ``OPENAI_BASE_URL`` says), or that of vLLM, Ollama, llama.cpp ...
    key_variable:
        Environment variable that holds the key: ``OPENAI_API_KEY`` where no ``base_url`` is
        given. With one, a key is sent only if its variable is named here. A key is never
        kept, logged or shown.
    behaviors:
        Behaviours to choose from, one or several names. Default: all that are known.
    temperature, max_tokens:
        Sent along unless ``None``. A model that refuses a temperature is asked without.
    sentences, context:
        Most sentences a request asks for; how many before them are shown with them, and half
        as many behind.
    concurrency:
        Requests under way at once.
    requests_per_minute, tokens_per_minute:
        Rate limits; ``None`` is none. What the server says in ``Retry-After`` is kept to
        anyway.
    timeout, attempts, backoff:
        As of :class:`steerkit.annotation.judge_endpoint.Endpoint`, in seconds.
    answers:
        How many answers are asked for, at most, until one can be used.
    cache:
        Folder of kept answers. ``True`` is the usual one
        (:func:`steerkit.annotation.answer_cache.cache_folder`), ``False`` keeps none.
    price:
        Of a million tokens, for :meth:`estimate` and the report.
    clock:
        What time is.
    labels:
        Full names of the behaviours that it can give.
    report:
        What became of the last run: :class:`steerkit.annotation.judge_cost.JudgeReport`.

    A language model's labels are neither gold nor stable: measure agreement with labels of
    your own first (:func:`steerkit.annotation.agree`), and do not let one model both label
    the chains that directions come from and score what they do. A name such as ``gpt-4o``
    may mean another model tomorrow; ``report.served`` says which answered.
    """

    model: str
    base_url: str | None = field(default=None, repr=False)
    key_variable: str | None = field(default=None, repr=False)
    behaviors: str | Sequence[str] | None = None
    temperature: float | None = 0.0
    max_tokens: int | None = None
    sentences: int = 50
    context: int = 8
    concurrency: int = 4
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 120.0
    attempts: int = 6
    backoff: float = 1.0
    answers: int = 3
    cache: bool | str | Path = True
    price: Price | None = None
    clock: Clock = field(default_factory=Clock, repr=False)
    labels: tuple[str, ...] = field(default=(), init=False)
    report: JudgeReport = field(default_factory=JudgeReport, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise AnnotationError("a judge needs the name of a model")
        for name in ("sentences", "concurrency", "attempts", "answers", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise AnnotationError(f"{name} is too small", expected="1 or more", found=value)
        if self.context < 0 or self.backoff < 0 or not self.timeout > 0:
            raise AnnotationError(
                "context and backoff are 0 or more, a timeout is more than 0",
                found=f"{self.context}, {self.backoff:g} and {self.timeout:g}",
            )
        if self.key_variable is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.key_variable):
            raise AnnotationError(  # what was given may be the key itself: it is not repeated
                "that is no name of an environment variable",
                expected="the name of the variable that holds the key, not the key",
            )
        asked = self.behaviors
        if asked is None:
            asked = [known.name for known in known_behaviors()]
        names = [asked] if isinstance(asked, str) else asked
        self.labels = tuple(dict.fromkeys(behavior(name).name for name in names))
        if not self.labels:
            raise AnnotationError("a judge needs behaviours to choose from")
        self._url = self._endpoint().shown_url

    @property
    def name(self) -> str:
        """``judge:`` and the model, then ``#`` and a hash of all else that decides."""
        defined = [[label, behavior(label).definition] for label in self.labels]
        settings = [
            *(VERSION, defined, self._url, self.temperature, self.max_tokens),
            *(self.sentences, self.context, splitter_name()),
        ]
        return f"judge:{self.model}#{fingerprint(settings, 3)}"

    def estimate(self, traces: Sequence[Trace], *, keep: bool = False) -> Estimate:
        """What labelling these traces would take; nothing is sent.

        ``keep`` is that of :meth:`spans`. Needs neither a key nor the package ``openai``.
        """
        pieces = self._pieces(traces, [units(trace, keep=keep) for trace in traces])
        known, todo = self._kept(pieces)
        chains = len({piece.trace for piece in pieces})
        return estimated(chains, todo, [piece for piece, _ in known], self.price)

    def spans(self, traces: Sequence[Trace], *, keep: bool = False) -> Iterator[list[Span]]:
        """The sentences of each trace; see :class:`steerkit.annotation.Annotator`.

        Raises :class:`AnnotationError` without the package ``openai``, without a key, and
        where the server cannot be reached or refuses everybody. Answers that came until then
        are kept. Where all answers are kept already, nothing of that is needed.
        """
        bounds = [units(trace, keep=keep) for trace in traces]
        pieces = self._pieces(traces, bounds)
        self.report = report = JudgeReport(len(pieces), cost=None if self.price is None else 0.0)
        cache = self._cache()
        if cache is not None and pieces:
            cache.check()
        known, todo = self._kept(pieces)
        report.cached = len(known)
        inquiry = Inquiry(
            self._endpoint(),
            self.labels,
            self.answers,
            self.concurrency,
            self._keep,
            report,
            self.price,
        )
        asked = inquiry.run(todo, replied=bool(known))
        answers = chain(known, asked)
        waiting = Counter(piece.trace for piece in pieces)
        labels: dict[tuple[int, int], tuple[str, ...]] = {}
        parts = Counter(waiting)
        try:
            for number, stretches in enumerate(bounds):
                while waiting[number]:
                    piece, found = next(answers)
                    labels[piece.trace, piece.first] = found.labels
                    waiting[piece.trace] -= 1
                    if found.failed:
                        failed = tuple(piece.first + i + 1 for i in found.failed)
                        report.failures.append(
                            Failure(traces[piece.trace].id, failed, found.problem)
                        )
                every: list[str] = []
                for _ in range(parts[number]):
                    every += labels.pop((number, len(every)))
                yield [Span(a, b, name) for (a, b), name in zip(stretches, every, strict=True)]
            for _ in asked:  # nothing is left, but threads are waited for
                pass
        finally:
            asked.close()
        if report.failures:
            _log.warning(
                "%d sentences were left %s: no usable answer came for %d of %d parts of chains",
                *(report.left_out, UNPARSED, len(report.failures), report.pieces),
            )

    def _pieces(self, traces: Sequence[Trace], bounds: Sequence[Sequence[Bounds]]) -> list[Piece]:
        options = {"size": self.sentences, "context": self.context}
        return [
            piece
            for number, (trace, stretches) in enumerate(zip(traces, bounds, strict=True))
            for piece in chain_pieces(number, trace, stretches, self.labels, **options)
        ]

    def _endpoint(self) -> Endpoint:
        return Endpoint(
            self.base_url,
            self.key_variable,
            RequestForm(self.model, self.temperature, self.max_tokens, answer_schema(self.labels)),
            timeout=self.timeout,
            attempts=self.attempts,
            backoff=self.backoff,
            limit=RateLimit(self.requests_per_minute, self.tokens_per_minute, self.clock),
            clock=self.clock,
        )

    def _cache(self) -> AnswerCache | None:
        if self.cache is False:
            return None
        return AnswerCache(cache_folder() if self.cache is True else Path(self.cache))

    def _key(self, piece: Piece) -> str:
        """What of a piece decides its answer; neither a key nor where the piece stands."""
        asked = [self._url, self.model, self.temperature, self.max_tokens]
        return content_key([*asked, VERSION, list(self.labels), piece.message])

    def _kept(self, pieces: Sequence[Piece]) -> tuple[list[tuple[Piece, Labelled]], list[Piece]]:
        """Pieces whose answers are kept, with them, and those that have to be asked about."""
        cache = self._cache()
        known: list[tuple[Piece, Labelled]] = []
        todo: list[Piece] = []
        for piece in pieces:
            kept = None
            if cache is not None:
                kept = cache.get(self._key(piece), piece.length, self.labels)
            if kept is None:
                todo.append(piece)
            else:
                known.append((piece, Labelled(kept)))
        return known, todo

    def _keep(self, piece: Piece, labels: tuple[str, ...], reply: Reply) -> None:
        cache = self._cache()
        if cache is not None:
            facts = {
                "served": reply.served,
                "prompt_tokens": reply.prompt_tokens,
                "answer_tokens": reply.answer_tokens,
            }
            cache.put(self._key(piece), labels, facts)
