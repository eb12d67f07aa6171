"""The residual stream of an untouched Hugging Face model as TransformerLens hook points."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformer_lens.hook_points import HookPoint
from transformer_lens.HookedRootModule import HookedRootModule

from steerkit.errors import ModelError

HookFunction = Callable[..., Tensor | None]


class StopForward(Exception):  # noqa: N818 - a signal, not an error
    """Ends a forward pass once the last layer asked for has run."""


def decoder_layers(hf: nn.Module) -> nn.ModuleList:
    """The decoder layers of a causal language model, in order.

    Raises :class:`ModelError` for a model whose layers are not where any known
    architecture keeps them.
    """
    candidates: list[Any] = [getattr(hf, "original_model", None), hf]
    for candidate in [c for c in candidates if isinstance(c, nn.Module)]:
        own: Any = getattr(candidate, "get_decoder", None)
        decoder = candidate if own is None else own()
        for root in (decoder, candidate):
            for path in ("layers", "model.layers", "language_model.layers", "h", "transformer.h"):
                found: Any = root
                for name in path.split("."):
                    found = getattr(found, name, None)
                if isinstance(found, nn.ModuleList) and len(found):
                    return found
    raise ModelError(
        "cannot find the decoder layers of this model",
        expected="a causal language model with get_decoder().layers",
        found=type(hf).__name__,
        fix="pass the model that holds the language model's layers",
    )


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hook_resid_pre = HookPoint()
        self.hook_resid_post = HookPoint()


class ResidualStream(HookedRootModule):
    """Hook points ``blocks.N.hook_resid_pre`` and ``blocks.N.hook_resid_post``.

    They sit on the decoder layers of a Hugging Face model by forward hooks; the model is
    not owned, wrapped or changed, and keeps its numerics, attention kernel and
    ``generate``. ``blocks.N.hook_resid_post`` is the output of layer N, which is
    ``hidden_states[N + 1]`` for all but the last layer (Hugging Face's last entry comes
    after the final norm). Everything that TransformerLens's ``HookedRootModule`` offers
    works: ``run_with_cache``, ``run_with_hooks``, ``hooks()``, ``add_hook``,
    ``names_filter``. A hook point without hooks costs a check, nothing more.

    The forward hooks last as long as the stream: once nothing refers to it they come off.
    They see the model that they were put on, never a copy of it; a copy of the stream is
    another stream, on a copy of the model.

    Parameters
    ----------
    hf:
        A Hugging Face causal language model. Raises :class:`ModelError` if its layers
        cannot be found.
    """

    def __init__(self, hf: nn.Module) -> None:
        super().__init__()
        layers = decoder_layers(hf)
        self.blocks = nn.ModuleList([_Block() for _ in layers])
        self.setup()
        # in a tuple, so that the model is no submodule of this one
        self._hf = (hf,)
        self._forwards = 0
        self._stop: int | None = None
        self._handles: list[RemovableHandle] = []
        weakref.finalize(self, _remove, self._handles).atexit = False
        self.attach()

    def __deepcopy__(self, memo: dict[int, Any]) -> ResidualStream:
        return ResidualStream(copy.deepcopy(self._hf[0], memo))

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.blocks)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own forward pass."""
        return self._hf[0](*args, **kwargs)

    def attach(self) -> None:
        """Put the hooks on the model's layers, once."""
        if self._handles:
            return
        for number, layer in enumerate(decoder_layers(self._hf[0])):
            hook = self._before(number, layer)
            before = layer.register_forward_pre_hook(hook, with_kwargs=True)
            after = layer.register_forward_hook(self._after(number, layer))
            self._handles += [before, after]

    def detach(self) -> None:
        """Take every hook off the model; the hook points fall silent."""
        _remove(self._handles)

    @contextmanager
    def stop_after(self, layer: int) -> Iterator[None]:
        """Within it, a forward pass raises :class:`StopForward` once ``layer`` has run."""
        self._check(layer)
        before, self._stop = self._stop, layer
        try:
            yield
        finally:
            self._stop = before

    @contextmanager
    def hooked(self, layer: int, function: HookFunction) -> Iterator[None]:
        """Within it, ``function(hidden, hook=...)`` sees the output of ``layer``.

        What it returns, if anything, takes the place of the output. Raises
        :class:`ModelError` on leaving if forward passes ran and the hook never fired;
        after an exception only the hook is removed.
        """
        self._check(layer)
        point: HookPoint = self.blocks[layer].hook_resid_post  # type: ignore[assignment]
        fired = False
        forwards = self._forwards

        def call(hidden: Tensor, hook: HookPoint) -> Tensor | None:
            nonlocal fired
            fired = True
            return function(hidden, hook=hook)

        handle = point.add_hook(call)  # type: ignore[arg-type]
        try:
            yield
        finally:
            handle.hook.remove()
            if handle in point.fwd_hooks:
                point.fwd_hooks.remove(handle)
        if self._forwards > forwards and not fired:
            raise ModelError(
                f"the hook at layer {layer} never fired although the model ran",
                fix="check that this model runs the layers that were hooked",
            )

    def _check(self, layer: int) -> None:
        if not 0 <= layer < self.n_layers:
            raise ModelError(
                f"layer {layer} does not exist",
                expected=f"layers 0 to {self.n_layers - 1}",
            )

    # The hooks hold the stream weakly, for the layers would else keep it alive. Copying a
    # layer copies the references to its hooks, so each makes sure that it is at home.

    def _before(self, number: int, layer: nn.Module) -> Callable[..., Any]:
        point: HookPoint = self.blocks[number].hook_resid_pre  # type: ignore[assignment]
        this, home = weakref.ref(self), weakref.ref(layer)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            stream = this()
            if stream is None or module is not home():
                return None
            if number == 0:
                stream._forwards += 1
            if not _listening(point):
                return None
            if args:
                return (point(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": point(kwargs["hidden_states"])}

        return hook

    def _after(self, number: int, layer: nn.Module) -> Callable[..., Any]:
        point: HookPoint = self.blocks[number].hook_resid_post  # type: ignore[assignment]
        this, home = weakref.ref(self), weakref.ref(layer)

        def hook(module: nn.Module, _: Any, output: Any) -> Any:
            stream = this()
            if stream is None or module is not home():
                return None
            changed = None
            if _listening(point):
                if isinstance(output, torch.Tensor):
                    changed = point(output)
                else:
                    changed = (point(output[0]), *output[1:])
            if stream._stop == number:
                raise StopForward
            return changed

        return hook


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()


def _listening(point: HookPoint) -> bool:
    return bool(point._forward_hooks or point._backward_hooks or point._forward_pre_hooks)
