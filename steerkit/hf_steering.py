"""Steering of forward passes that others make: Hugging Face's own ``generate``, or a plain call."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerkit.errors import SteeringError
from steerkit.places import Positions
from steerkit.positions import PAD, PROMPT, THINK
from steerkit.residual import StopForward
from steerkit.response import Response, first_phase, follow
from steerkit.response_start import ResponseStart

if TYPE_CHECKING:
    from steerkit.models import ThinkingModel
    from steerkit.steering import RowSteering
    from steerkit.terms import Terms


_CACHES = ("past_key_values", "cache")
"""Names of the cache among the arguments and outputs of a forward pass."""
_TURN = 16
"""More tokens than a chat template writes for the model's turn."""


class ForwardSteering:
    """Edits every forward pass of ``model.hf`` by the same terms, following each row.

    A pass with an empty cache begins new sequences. Where a response begins is told from the
    first of them: after the chat template's last turn of the model; where there is none, at the
    last opening think string; without that at the end of the input, which is then the prompt.
    Later passes go on from there, with a cache or with the whole sequence given again.

    Terms that act at every position, without a schedule, need none of this: they act whatever
    is done with the cache, in beam search as well. For all others rows keep their order and the
    cache grows by what is passed. Beam search, assisted generation, prompts in pieces
    (``prefill_chunk_size``) and caches of other sequences are refused.

    Parameters
    ----------
    model, terms:
        What is steered, and how. :meth:`before` and :meth:`after` are called around every
        forward pass, :meth:`close` at the end.
    """

    def __init__(self, model: ThinkingModel, terms: Terms) -> None:
        self._model, self._terms = model, terms
        self._start = ResponseStart(model)
        self._everywhere = all(t.where == "all" and t.schedule is None for t in terms)
        self._hooks = ExitStack()
        self._hooked = self._whole = False  # edits are attached; a pass came to its end since
        self._steering: RowSteering | None = None
        self._rows = 0
        self._width = 0  # positions passed so far, padding included
        self._keys: weakref.ref[Tensor] | None = None
        self._prompts: list[int] = []
        self._told: list[bool] = []
        self._sequences: list[list[int]] = []
        self._responses: list[Response] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> ForwardSteering:
        # hooks cannot be copied and are not wanted: a copy of the model has had no pass yet
        return ForwardSteering(copy.deepcopy(self._model, memo), self._terms)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within it passes of ``model.hf`` are edited, but for those of an inner context and
        within :meth:`~steerkit.models.ThinkingModel.own_passes`; nothing is left behind.

        Raises :class:`ModelError` on leaving if whole passes left out a layer that is edited.
        """
        model, outer = self._model, self._model.following

        # functions, not methods: a copy of the model shares them, and a method's would copy this
        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if module is model.hf and model.following is self:
                self.before(args, kwargs)

        def after(module: Any, _: Any, kwargs: dict[str, Any], output: Any) -> None:
            if module is model.hf and model.following is self:
                self._whole = True
                self.after(kwargs, output)

        if outer is not None:
            outer.release()
        handles = [
            model.hf.register_forward_pre_hook(before, with_kwargs=True),
            model.hf.register_forward_hook(after, with_kwargs=True),
        ]
        model.following = self
        try:
            yield
        except BaseException as problem:
            self.release(problem)
            raise
        else:
            self.release()
        finally:
            model.following = outer
            for handle in handles:
                handle.remove()

    def release(self, problem: BaseException | None = None) -> None:
        """Take the edits off until the next pass; sequences then go on from where they are.

        Told of an exception it checks nothing. Nor does it when no pass came to its end: one that
        failed or was stopped need not have come as far as the layers that are edited.
        """
        if problem is None and not self._whole:
            problem = StopForward()
        hooks, self._hooks, self._hooked = self._hooks, ExitStack(), False
        if problem is None:
            hooks.close()
        else:
            hooks.__exit__(type(problem), problem, problem.__traceback__)

    def before(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Called before every forward pass with its arguments; raises :class:`SteeringError`
        for one without token ids, and for one that does not go on from the last."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(ids, Tensor):
            raise SteeringError(
                "a steered forward pass needs token ids",
                found="inputs_embeds" if "inputs_embeds" in kwargs else "no input_ids",
                fix="pass input_ids",
            )
        cached = next((kwargs[n] for n in _CACHES if kwargs.get(n)), None)
        past = 0 if cached is None else int(cached.get_seq_length())
        mask = kwargs.get("attention_mask")
        shown = torch.ones_like(ids) if mask is None or mask.ndim != 2 else mask
        shown = shown[:, -ids.shape[1] :].cpu()
        if ids.shape[0] != self._rows:
            past = self._begin(ids.shape[0], past)
        if past:
            self._check_cache(cached, past)
        self._place(ids.cpu(), shown, past)
        if not self._hooked:
            assert self._steering is not None
            self._whole, self._hooked = False, True
            self._hooks.enter_context(self._steering.attached())
        self._width = past + ids.shape[1]
        self._keys = None

    def after(self, kwargs: Mapping[str, Any], output: Any) -> None:
        """Called after every forward pass with its arguments and what it gave."""
        parts = output if isinstance(output, tuple) else [getattr(output, n, None) for n in _CACHES]
        found = [*parts, *(kwargs.get(n) for n in _CACHES)]
        cache = next((c for c in found if hasattr(c, "get_seq_length")), None)
        keys = _newest_keys(cache)
        self._keys = None if keys is None else weakref.ref(keys)

    def _check_cache(self, cached: Any, past: int) -> None:
        """Refuse a cache that is not as the last pass left it, as far as the terms ask for it."""
        keys = _newest_keys(cached)
        # every change of a cache, also one of the order of its rows, makes new tensors
        kept = keys is None or (self._keys is not None and self._keys() is keys)
        if past > self._width or not (self._everywhere or (past == self._width and kept)):
            changed = " that were changed since" if past == self._width else ""
            raise SteeringError(
                "the cache is not that of the last steered pass",
                expected=f"{self._width} cached positions, as the last pass left them",
                found=f"{past}{changed}",
                fix="beam search, assisted generation and caches made elsewhere are followed by "
                'terms with where="all" and no schedule only',
            )

    def _begin(self, rows: int, past: int) -> int:
        from steerkit.steering import RowSteering

        if past:
            raise SteeringError(
                "the model goes on with rows whose beginning was not steered",
                expected=f"{self._rows} rows",
                found=f"{rows} rows and {past} cached positions",
                fix="enter model.steer(...) before the first forward pass",
            )
        self.release()
        self._steering = RowSteering(self._model, [self._terms] * rows)
        self._rows, self._responses = rows, []
        return past

    def _place(self, ids: Tensor, shown: Tensor, past: int) -> None:
        shape = (self._rows, ids.shape[1])
        if self._everywhere:
            # they name all that is no padding: nothing else of a position is asked for
            phase = torch.where(shown != 0, THINK, PAD).to(torch.int8)
            zeros = torch.zeros(shape, dtype=torch.int64)
            self._tell(Positions(phase, zeros, zeros, zeros.bool()))
            return
        at = Positions(
            phase=torch.full(shape, PAD, dtype=torch.int8),
            index=torch.zeros(shape, dtype=torch.int64),
            step=torch.full(shape, -1),
            starts=torch.zeros(shape, dtype=torch.bool),
        )
        listed = [
            [token for token, real in zip(*pair, strict=True) if real]
            for pair in zip(ids.tolist(), shown.tolist(), strict=True)
        ]
        if not past and not self._goes_on(listed):
            self._find_prompts(listed)
        elif past:
            self._check_prompts(listed)
        for number, (row, response) in enumerate(zip(listed, self._responses, strict=True)):
            prompt = self._prompts[number]
            # tokens of the response that are in this pass, the ones known already left out
            known = 0 if past else len(response.ids)
            fresh = row if past else row[prompt + known :]
            first = prompt + len(response.ids) if past else 0
            if past:
                self._sequences[number].extend(row)
            else:
                self._sequences[number] = row
            for token in fresh:
                follow(self._model, response, token)
            columns = shown[number].nonzero()[:, 0]
            places = torch.arange(first, first + len(row))
            at.index[number, columns] = places
            steps = places - prompt + 1
            phases = torch.tensor(response.phases, dtype=torch.int8)
            at.step[number, columns] = steps.clamp(min=-1)
            at.starts[number, columns] = torch.tensor(response.starts)[steps.clamp(min=0)]
            at.starts[number, columns] &= steps >= 0
            at.phase[number, columns] = torch.where(
                steps >= 0, phases[steps.clamp(min=0)], torch.tensor(PROMPT, dtype=torch.int8)
            )
        at.step[at.step < 0] = -1
        self._tell(at)

    def _tell(self, at: Positions) -> None:
        assert self._steering is not None
        self._steering.place(at)

    def _goes_on(self, listed: Sequence[Sequence[int]]) -> bool:
        """Whether these are the sequences of before, with more at their ends."""
        return bool(self._responses) and all(
            len(row) > len(known) and row[: len(known)] == known
            for row, known in zip(listed, self._sequences, strict=True)
        )

    def _find_prompts(self, listed: Sequence[list[int]]) -> None:
        """Where the responses of new sequences begin."""
        starts = []
        for row in listed:
            start = self._start.after_template(row)
            starts.append(self._start.by_opening(row) if start is None else start)
        self._told = [start is not None for start in starts]
        self._prompts = [
            len(row) if start is None else start for row, start in zip(listed, starts, strict=True)
        ]
        self._sequences = list(listed)
        self._responses = [Response(phases=[first_phase(self._model)]) for _ in listed]

    def _check_prompts(self, listed: Sequence[list[int]]) -> None:
        """Refuse tokens over a cache that are of the prompt: what was taken for the beginning of
        the response has been edited already."""
        for number, row in enumerate(listed):
            several, told = len(row) > 1, self._told[number]
            # one token alone may end a prompt whose other pieces came before
            if not several and (told or len(self._responses[number].ids) > _TURN):
                continue
            start = self._start.after_template([*self._sequences[number], *row])
            if (several and start is None and not told) or (start or 0) > self._prompts[number]:
                raise SteeringError(
                    "the prompt goes on after its first forward pass",
                    expected="the whole prompt in one pass",
                    found=f"{len(row)} more tokens",
                    where=f"row {number}",
                    fix="leave prefill_chunk_size out, or give a conversation's next turn without "
                    'a cache; terms with where="all" and no schedule need neither',
                )


def _newest_keys(cache: Any) -> Tensor | None:
    """The keys of the last layer that has any, as one tensor; ``None`` for other caches."""
    layers = reversed(getattr(cache, "layers", None) or [])
    found = (getattr(layer, "keys", None) for layer in layers)
    return next((keys for keys in found if isinstance(keys, Tensor)), None)
