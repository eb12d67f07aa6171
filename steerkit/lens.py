"""The logit lens: which tokens a direction speaks for, read through the unembedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from steerkit.direction import Direction
from steerkit.errors import ModelError, SteeringError, VectorsError
from steerkit.layers import Layer
from steerkit.models import ThinkingModel
from steerkit.residual import decoder_layers
from steerkit.terms import layer_ranges

if TYPE_CHECKING:
    import pandas as pd

NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f")
"""What the final norm is called beside the decoder layers, in known architectures."""
TIED = (
    "the unembedding is also the input embedding: a token may stand here because the direction "
    "holds it as what was read, not because it makes it likelier"
)
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_ROWS = 16_384  # of the unembedding, widened to float32 at once


def logit_lens(
    model: ThinkingModel,
    direction: Direction | Float[Tensor, " d_model"],
    layer: Layer | None = None,
    top: int = 10,
) -> pd.DataFrame:
    """The tokens that a direction, read as if it were the last layer's, makes likelier or not.

    With u the unit vector of the direction, gamma the scale of the model's final norm and W_U
    its unembedding ``[token, d_model]``,

        logit = W_U (gamma * u)                for RMSNorm (Gemma's scale is 1 + its weight),
        logit = W_U (gamma * (u - mean(u)))    for LayerNorm, which centers

    in float32; biases of norm and unembedding do not change with the direction and are left
    out. Times c / s, this is how the logits change to first order when c u is added to the last
    layer's output h and is orthogonal to it (to its part about the mean, for LayerNorm); s is
    what the norm divides by, the root mean square of h or its standard deviation. So a logit
    compares tokens within one direction and has no unit of its own; factors and soft caps that
    a model puts on its logits do not enter. The logit lens is nostalgebraist's (2020).

    Parameters
    ----------
    model:
        Whose norm and unembedding read it; the model does not run.
    direction:
        A :class:`Direction`, or a vector ``[d_model]`` of any length but zero.
    layer:
        Which of the direction's layers; by default the suggested one.
    top:
        Tokens listed at either end, fewer where the vocabulary is smaller.

    Returns
    -------
    A tidy frame: ``token_id``, ``token`` (its text), ``logit``, ``sign`` (``up``: largest first;
    ``down``: smallest first). ``attrs`` has ``behavior``, ``layer``, ``tied`` and, where the
    unembedding is tied to the input embedding, a ``note`` on what that means. Rows of the
    unembedding that are no token of the tokenizer are left out.

    Raises :class:`ModelError` where no final norm or unembedding is found or the norm is of
    another kind, :class:`VectorsError` for another width, :class:`SteeringError` for a layer
    that is not there. Do not take it for what steering does: the layers between, which turn
    the direction into something else, are skipped; far below the last layer the tokens say
    little.
    """
    import pandas as pd

    if isinstance(top, bool) or top < 1:
        raise SteeringError("how many tokens to list is a whole number from 1 on", found=top)
    if isinstance(direction, Direction):
        chosen = direction.layer if layer is None else layer
        if chosen is None:
            raise SteeringError(
                f"no layer was chosen for {direction.behavior!r}",
                expected="one of layers " + layer_ranges(direction.layers),
                fix="name one: layer=...",
            )
        at = direction.layers[direction.row(chosen)]
        unit, name = direction.unit_vector(at), direction.behavior
    else:
        at, name = None, None
        if layer is not None:
            raise SteeringError("a bare vector has no layers", fix="leave layer away")
        if not float(direction.norm()) > 0 or not bool(direction.isfinite().all()):
            raise SteeringError("a vector of length zero, or not finite, points nowhere")
        unit = direction / direction.norm()
    if len(unit) != model.d_model:
        raise VectorsError(
            f"the direction does not fit the model {model.name}",
            expected=f"width {model.d_model}",
            found=f"width {len(unit)}",
        )
    head = _unembedding(model)
    with model.inference():
        gamma, centers = norm_scale(model)
        read = unit.detach().float().cpu()
        read = gamma * (read - read.mean()) if centers else gamma * read
        values = _logits(head, read, model)
    ids = _token_ids(model, len(values))
    order = values[ids].argsort(descending=True, stable=True)
    ends = (("up", order[:top]), ("down", order.flip(0)[:top]))
    rows = [
        (int(ids[i]), token_text(model, int(ids[i])), float(values[ids[i]]), sign)
        for sign, chosen in ends
        for i in chosen
    ]
    table = pd.DataFrame(rows, columns=["token_id", "token", "logit", "sign"])
    tied = tied_embedding(model)
    table.attrs |= {"behavior": name, "layer": at, "tied": tied}
    if tied:
        table.attrs["note"] = TIED
    return table


def final_norm(hf: nn.Module) -> nn.Module:
    """The norm between the last decoder layer and the unembedding.

    Raises :class:`ModelError` for a model that does not have it beside its decoder layers
    under a name of :data:`NORMS`.
    """
    layers = decoder_layers(hf)
    for owner in hf.modules():
        if any(child is layers for child in owner.children()):
            for name in NORMS:
                found = getattr(owner, name, None)
                if isinstance(found, nn.Module):
                    return found
    raise ModelError(
        "cannot find the final norm of this model",
        expected="beside the decoder layers, one of " + ", ".join(NORMS),
        found=type(hf).__name__,
    )


def norm_scale(model: ThinkingModel) -> tuple[Float32[Tensor, " d_model"], bool]:
    """What the final norm multiplies by, ``[d_model]``, and whether it centers before.

    Read off its outputs, whatever its class: for a vector of plus and minus one, a norm that
    divides by the root mean square or the standard deviation gives its scale; for a constant
    vector, one that centers gives nothing. Raises :class:`ModelError` for a norm that does
    neither, found out with a random vector.
    """
    norm, width = final_norm(model.hf), model.d_model
    signs = torch.ones(width)
    signs[1::2] = -1.0
    noise = torch.randn(width, generator=torch.Generator().manual_seed(0))
    noise -= noise.mean()
    noise /= noise.square().mean().sqrt()
    constant = torch.ones(width)
    # large enough that the norm's epsilon does not count; odd parts, so that a bias does not
    probes = 1024.0 * torch.stack([signs, constant, noise])
    there, back = _run(norm, probes, model), _run(norm, -probes, model)
    of_signs, of_constant, of_noise = (there - back) / 2
    gamma = of_signs * signs
    size = float(gamma.abs().max())
    slack = 2e-2 * size  # half precision
    centers = bool((of_constant.abs() <= slack).all())
    plain = bool(((of_constant - gamma).abs() <= slack).all())
    if (
        not size > 0
        or centers == plain
        or bool(((of_noise - gamma * noise).abs() > 4 * slack).any())
    ):
        raise ModelError(
            "the final norm is of an unknown kind",
            expected="RMSNorm or LayerNorm",
            found=type(norm).__name__,
        )
    return gamma, centers


def _run(
    norm: nn.Module, probes: Float32[Tensor, "probe d_model"], model: ThinkingModel
) -> Float32[Tensor, "probe d_model"]:
    weight = next(norm.parameters(), None)
    here = weight is not None and weight.device.type != "meta"
    device = weight.device if weight is not None and here else model.device
    batch = probes[None].to(device)
    try:
        found = norm(batch)
    except RuntimeError:  # PyTorch's LayerNorm takes its own type alone
        found = norm(batch.to(model.dtype))
    return found[0].float().cpu()


def _unembedding(model: ThinkingModel) -> nn.Module:
    head = model.hf.get_output_embeddings()
    if not isinstance(head, nn.Module):
        raise ModelError(
            "this model has no unembedding",
            expected="a causal language model with get_output_embeddings()",
            found=type(model.hf).__name__,
        )
    width = getattr(head, "in_features", model.d_model)
    if width != model.d_model:
        raise ModelError(
            "the unembedding reads another width than the residual stream has",
            expected=model.d_model,
            found=width,
        )
    return head


def _logits(
    head: nn.Module, read: Float32[Tensor, " d_model"], model: ThinkingModel
) -> Float32[Tensor, " row"]:
    weight = getattr(head, "weight", None)
    if isinstance(weight, Tensor) and weight.dtype in _FLOATS and weight.device.type != "meta":
        vector = read.to(weight.device)
        parts = [part.float() @ vector for part in weight.detach().split(_ROWS)]
        return torch.cat(parts).cpu()
    # quantised or offloaded: the module knows how to multiply; what it adds is taken off
    batch = torch.stack([read, torch.zeros_like(read)])[None].to(model.device, model.dtype)
    found, bias = head(batch)[0].float().cpu()
    return found - bias


def _token_ids(model: ThinkingModel, rows: int) -> Int64[Tensor, " token"]:
    """Rows of the unembedding that are tokens, ascending."""
    known = {i for i in model.tokenizer.get_vocab().values() if 0 <= i < rows}
    return torch.tensor(sorted(known), dtype=torch.int64)


def token_text(model: ThinkingModel, token: int) -> str:
    """A token as text; as the tokenizer spells it where it is no whole character."""
    text = model.tokenizer.decode([token], skip_special_tokens=False)
    if not text or "\ufffd" in text:
        text = model.tokenizer.convert_ids_to_tokens(token)
    return str(text)


def tied_embedding(model: ThinkingModel) -> bool:
    """Whether the unembedding is the input embedding, one tensor for both."""
    parts = (model.hf.get_input_embeddings(), model.hf.get_output_embeddings())
    weights: list[Any] = [getattr(part, "weight", None) for part in parts]
    if weights[0] is weights[1]:
        return weights[0] is not None
    if all(isinstance(w, Tensor) and w.device.type != "meta" for w in weights):
        return bool(weights[0].data_ptr() == weights[1].data_ptr())
    return bool(getattr(model.hf.config.get_text_config(), "tie_word_embeddings", False))
