"""Sampling with reproducible noise: the same task, sample and step see the same randomness."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int, Int32
from numpy.typing import NDArray
from torch import Tensor

from steerkit.errors import GenerationError
from steerkit.tasks import task_hash

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _splitmix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit depends on every bit."""
    with np.errstate(over="ignore"):
        x = x + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _signed(constant: int) -> int:
    return constant - (1 << 32) if constant >= 1 << 31 else constant


def _mix(x: Int32[Tensor, "*shape"]) -> Int32[Tensor, "*shape"]:
    """A 32-bit integer hash with little bias ("lowbias32", Wellons 2018), on the device."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * _signed(0x7FEB352D)
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * _signed(0x846CA68B)
    return x ^ ((x >> 16) & 0xFFFF)


def row_key(prompt: str, sample: int) -> int:
    """What names a row's noise: the normalised task and the number of the sample.

    Neither the coefficient nor the place in a batch takes part, so outcomes under
    different steering are paired.
    """
    words = np.array([int(task_hash(prompt), 16), sample], dtype=np.uint64)
    return int(_splitmix(words[:1] ^ _splitmix(words[1:]))[0])


class Noise:
    """Gumbel noise from a counter hash of (seed, row key, step, token id).

    The hash is integer arithmetic on 32 bits, so its bits are the same on every device;
    only the two logarithms at its end may differ in the last place.

    Parameters
    ----------
    seed:
        Of the whole generation.
    vocabulary:
        Number of tokens.
    device:
        Where the logits are.
    """

    def __init__(self, seed: int, vocabulary: int, device: torch.device) -> None:
        with np.errstate(over="ignore"):
            self._seed = _splitmix(np.array([seed % (1 << 64)], dtype=np.uint64))
        # the tokens' own part is the same for every row and step
        ids = torch.arange(vocabulary, dtype=torch.int32, device=device)
        self._tokens = _mix(ids * _signed(0x9E3779B1) + 1)
        self._device = device

    def gumbel(self, keys: NDArray[np.uint64], step: int) -> Float[Tensor, "row vocabulary"]:
        """Standard Gumbel noise of one step.

        Parameters
        ----------
        keys:
            Row keys (:func:`row_key`).
        step:
            Number of tokens generated so far.
        """
        words = _splitmix(keys ^ _splitmix(self._seed ^ np.uint64(step)))
        halves = torch.from_numpy(words.view(np.int32).reshape(-1, 2).copy()).to(self._device)
        mixed = _mix(_mix(self._tokens ^ halves[:, :1]) ^ halves[:, 1:])
        return gumbel_of(mixed)


def gumbel_of(bits: Int32[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Standard Gumbel values -log(-log(1 - u)) of u = (b + 0.5) / 2^32, always finite.

    b counts the 32 bits from the most negative integer. Small u give the large values, which
    decide who wins. Float32 is finest near zero, so the distance to the nearer end of (0, 1)
    is what is computed: no value is rounded to an end, where the noise would be infinite.
    """
    # b for the lower half of the range, 2^32 - 1 - b for the upper: both are small integers
    low = bits < 0
    near = torch.where(low, bits ^ -(2**31), bits ^ (2**31 - 1))
    end = (near.to(torch.float32) + 0.5) * 2.0**-32  # distance of u from 0 or from 1
    # -log(1 - u): exact at both ends
    exponential = torch.where(low, -torch.log1p(-end), -torch.log(end))
    return -torch.log(exponential)


def choose(
    logits: Float[Tensor, "row vocabulary"],
    temperature: float,
    noise: Float[Tensor, "row vocabulary"] | None,
) -> Int[Tensor, " row"]:
    """Next tokens: argmax of logits / temperature + Gumbel noise.

    With Gumbel noise that is an exact sample of softmax(logits / temperature) (Gumbel
    1954; "Gumbel-max"). Temperature 0 is greedy and takes no noise. Raises
    :class:`GenerationError` for logits without a largest finite value: what overflowed would
    be sampled as if it were a wish of the model.
    """
    if not bool(torch.isfinite(logits.amax(dim=-1)).all()):
        raise GenerationError(
            "the model's logits are not finite",
            found="NaN or infinity",
            fix="use bfloat16 or float32 instead of float16, or smaller coefficients",
        )
    if temperature == 0.0:
        return logits.argmax(dim=-1)
    if noise is None:
        raise GenerationError("sampling needs noise", fix="pass noise, or temperature 0")
    return (logits / temperature + noise).argmax(dim=-1)
