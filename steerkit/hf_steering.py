"""Steering of forward passes that others make: Hugging Face's own ``generate``, or a plain call."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerkit.errors import SteeringError
from steerkit.places import Positions
from steerkit.positions import PAD, PROMPT
from steerkit.residual import StopForward
from steerkit.response import Response, first_phase, follow

if TYPE_CHECKING:
    from steerkit.models import ThinkingModel
    from steerkit.steering import RowSteering
    from steerkit.terms import Terms


class ForwardSteering:
    """Edits every forward pass of ``model.hf`` by the same terms, following each row.

    A pass with an empty cache begins new sequences. Where a response begins is told from the
    first of them: after the last opening think string, or, where there is none, at the end of
    the input, which is then the prompt. Later passes go on from there, with a cache or with the
    whole sequence given again. Rows keep their order: beam search, which changes it, is refused
    by nobody and must not be used.

    Parameters
    ----------
    model, terms:
        What is steered, and how; :meth:`attached` is where it happens.
    """

    def __init__(self, model: ThinkingModel, terms: Terms) -> None:
        self._model, self._terms = model, terms
        self._hooks = ExitStack()
        self._hooked = self._whole = False  # edits are attached; a pass came to its end since
        self._steering: RowSteering | None = None
        self._rows = 0
        self._prompts: list[int] = []
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

        def after(module: Any, _: Any, __: Any) -> None:
            self._whole |= module is model.hf and model.following is self

        if outer is not None:
            outer.release()
        handles = [
            model.hf.register_forward_pre_hook(before, with_kwargs=True),
            model.hf.register_forward_hook(after),
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
        for one without token ids."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(ids, Tensor):
            raise SteeringError(
                "a steered forward pass needs token ids",
                found="inputs_embeds" if "inputs_embeds" in kwargs else "no input_ids",
                fix="pass input_ids",
            )
        cached = next((kwargs[n] for n in ("past_key_values", "cache") if kwargs.get(n)), None)
        past = 0 if cached is None else int(cached.get_seq_length())
        mask = kwargs.get("attention_mask")
        shown = torch.ones_like(ids) if mask is None or mask.ndim != 2 else mask
        shown = shown[:, -ids.shape[1] :].cpu()
        if ids.shape[0] != self._rows:
            past = self._begin(ids.shape[0], past)
        self._place(ids.cpu(), shown, past)
        if not self._hooked:
            assert self._steering is not None
            self._whole, self._hooked = False, True
            self._hooks.enter_context(self._steering.attached())

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
            self._prompts = [self._prompt_length(row) for row in listed]
            self._responses = [Response(phases=[first_phase(self._model)]) for _ in listed]
        for number, (row, response) in enumerate(zip(listed, self._responses, strict=True)):
            prompt = self._prompts[number]
            # tokens of the response that are in this pass, the ones known already left out
            known = 0 if past else len(response.ids)
            fresh = row if past else row[prompt + known :]
            first = prompt + len(response.ids) if past else 0
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
        assert self._steering is not None
        self._steering.place(at)

    def _goes_on(self, listed: Sequence[Sequence[int]]) -> bool:
        """Whether these are the sequences of before, with more at their ends."""
        return bool(self._responses) and all(
            len(row) > prompt + len(response.ids)
            and list(row[prompt : prompt + len(response.ids)]) == response.ids
            for row, prompt, response in zip(listed, self._prompts, self._responses, strict=True)
        )

    def _prompt_length(self, row: Sequence[int]) -> int:
        opening = self._model.tokenizer(self._model.think[0], add_special_tokens=False)["input_ids"]
        for end in range(len(row), len(opening) - 1, -1):
            if list(row[end - len(opening) : end]) == list(opening):
                # white space of the template after it is the prompt's
                while end < len(row) and self._blank(row[end]):
                    end += 1
                return end
        return len(row)

    def _blank(self, token: int) -> bool:
        return not self._model.tokenizer.decode([token]).strip()
