"""Sampling with reproducible noise: the same task, sample and step see the same randomness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int32
from numpy.typing import NDArray
from torch import Tensor

from steerkit.errors import GenerationError
from steerkit.tasks import task_hash

_LARGE = 8192
"""Tokens from which on it pays to work out the noise of few."""
_NEAR = 10.0
"""Logits further than this below the largest win only by large noise."""
_MOST = 23.0
"""No noise is above this: the largest, at u = 1 - 2^-33, is 22.9."""
_BLOCK = 32768
"""Hashes worked out at once: what a core's own cache holds."""
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


def _mix_array(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """:func:`_mix` of a numpy array, in place: its shifts need no masks."""
    scratch = np.empty_like(x)
    for shift, constant in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, None)):
        np.right_shift(x, shift, out=scratch)
        np.bitwise_xor(x, scratch, out=x)
        if constant is not None:
            np.multiply(x, np.uint32(constant), out=x)
    return x


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

    def gumbel(
        self, keys: NDArray[np.uint64], steps: int | Sequence[int]
    ) -> Float[Tensor, "row vocabulary"]:
        """Standard Gumbel noise of one step of every row.

        Parameters
        ----------
        keys:
            Row keys (:func:`row_key`).
        steps:
            Number of tokens that precede in the response, of all rows or of every row.
        """
        halves = self._halves(keys, steps)
        mixed = _mix(_mix(self._tokens ^ halves[:, :1]) ^ halves[:, 1:])
        return gumbel_of(mixed)

    def _halves(
        self, keys: NDArray[np.uint64], steps: int | Sequence[int]
    ) -> Int32[Tensor, "row 2"]:
        """What a row and step contribute to the hash."""
        words = _splitmix(keys ^ _splitmix(self._seed ^ np.asarray(steps, dtype=np.uint64)))
        return torch.from_numpy(words.view(np.int32).reshape(-1, 2).copy()).to(self._device)

    def winners(
        self,
        scaled: Float[Tensor, "row vocabulary"],
        keys: NDArray[np.uint64],
        steps: int | Sequence[int],
    ) -> Int[Tensor, " row"]:
        """argmax of ``scaled`` plus noise in every row.

        On a CPU with a large vocabulary the noise is worked out only where it can decide: where
        logits are near the largest, and where the hash is so rare that its noise is large.
        """
        if self._device.type != "cpu" or scaled.shape[-1] < _LARGE:
            return (scaled + self.gumbel(keys, steps)).argmax(dim=-1)
        halves = self._halves(keys, steps)
        logits = scaled.numpy()
        top = logits.max(axis=1)
        near = {row: np.flatnonzero(logits[row] > top[row] - _NEAR) for row in range(len(top))}
        best, tokens = self._best(scaled, halves, near)
        # the others are at least _NEAR below the top: they win by noise above this, or never
        needed = best - (top - _NEAR)
        rare = {}
        for row, low in enumerate(needed.tolist()):
            far = np.flatnonzero(logits[row] > best[row] - _MOST)
            if len(far) > len(near[row]):
                found = far if low < 1 else self._rare(halves[row], far, low)
                if len(found):
                    rare[row] = found
        if rare:
            rows = np.array(list(rare))
            higher, others = self._best(scaled, halves, rare)
            tokens[rows] = np.where(higher > best[rows], others, tokens[rows])
        return torch.from_numpy(tokens)

    def _rare(self, halves: Tensor, ids: NDArray[np.intp], needed: float) -> NDArray[np.intp]:
        """Which of the tokens have noise above ``needed``, and perhaps a few that just miss it."""
        first, second = halves.numpy().view(np.uint32)
        tokens = self._tokens.numpy().view(np.uint32)
        few = 4 * len(ids) < len(tokens)
        if few:
            tokens = tokens[ids]
        # bits count from the most negative integer: as unsigned ones they begin in the middle
        share = -math.expm1(-math.exp(-needed))
        least, limit = np.uint32(1 << 31), np.uint32(share * 1.00001 * 2**32 + 2)
        found = []
        for start in range(0, len(tokens), _BLOCK):
            bits = _mix_array(_mix_array(tokens[start : start + _BLOCK] ^ first) ^ second)
            found.append(np.flatnonzero((bits ^ least) < limit) + start)
        rare = np.concatenate(found)
        return ids[rare] if few else rare

    def _best(
        self, scaled: Tensor, halves: Tensor, candidates: Mapping[int, NDArray[np.intp]]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The largest of logits plus noise among some tokens of some rows, and whose it is."""
        ids = list(candidates.values())
        lengths = [len(row) for row in ids]
        rows = torch.from_numpy(np.repeat(list(candidates), lengths))
        index = torch.from_numpy(np.concatenate(ids))
        mixed = _mix(_mix(self._tokens[index] ^ halves[rows, 0]) ^ halves[rows, 1])
        values = np.split((scaled[rows, index] + gumbel_of(mixed)).numpy(), np.cumsum(lengths[:-1]))
        places = [row.argmax() for row in values]
        best = np.array([row[place] for row, place in zip(values, places, strict=True)])
        return best, np.array([row[place] for row, place in zip(ids, places, strict=True)])


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


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from logits.

    With p = softmax(logits / temperature), in this order and each on what the one before left:
    ``top_k`` keeps the k likeliest tokens (Fan et al. 2018), ``top_p`` the likeliest ones until
    they hold at least that share of the probability (Holtzman et al. 2020), ``min_p`` those at
    least that many times as likely as the likeliest (Nguyen et al. 2024). ``None`` leaves a
    filter out; temperature 0 is greedy, and the filters have no say. Ties at a border are kept.

    Raises :class:`GenerationError` for numbers out of range.
    """

    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        # numpy's numbers are no JSON
        object.__setattr__(self, "temperature", float(self.temperature))
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise GenerationError(
                "the temperature is out of range",
                expected="0 (greedy) or more",
                found=self.temperature,
            )
        if self.top_k is not None:
            object.__setattr__(self, "top_k", int(self.top_k))
            if self.top_k < 1:
                raise GenerationError("top_k is out of range", expected="1 or more")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, float(value))
                if not 0 < value <= 1:
                    raise GenerationError(
                        f"{name} is out of range", expected="above 0, at most 1", found=value
                    )

    def to_json(self) -> dict[str, float | int]:
        """The temperature, and the filters that are on."""
        found = {"temperature": self.temperature, "top_p": self.top_p}
        found |= {"top_k": self.top_k, "min_p": self.min_p}
        return {name: value for name, value in found.items() if value is not None}

    def filtered(self, logits: Float[Tensor, "row vocabulary"]) -> Float[Tensor, "row vocabulary"]:
        """``logits`` / temperature, minus infinity where a filter leaves a token out."""
        scaled = logits if self.temperature == 1.0 else logits / self.temperature
        if self.top_k is not None and self.top_k < scaled.shape[-1]:
            least = scaled.topk(self.top_k, dim=-1).values[:, -1:]
            scaled = scaled.masked_fill(scaled < least, -torch.inf)
        if self.top_p is not None and self.top_p < 1:
            scaled = scaled.masked_fill(scaled < _nucleus(scaled, self.top_p), -torch.inf)
        if self.min_p is not None:
            # p >= min_p * max p, in logarithms
            least = scaled.amax(dim=-1, keepdim=True) + math.log(self.min_p)
            scaled = scaled.masked_fill(scaled < least, -torch.inf)
        return scaled


def _nucleus(scaled: Float[Tensor, "row vocabulary"], share: float) -> Float[Tensor, "row 1"]:
    """The smallest logit of the likeliest tokens that hold ``share`` of the probability."""
    total = scaled.logsumexp(dim=-1, keepdim=True)
    if scaled.device.type == "cpu":
        rows = zip(scaled.numpy(), total[:, 0].tolist(), strict=True)
        return torch.tensor([[_border(row, mass, share)] for row, mass in rows])
    top = scaled.sort(dim=-1, descending=True).values
    mass = (top - total).exp()
    before = mass.cumsum(dim=-1) - mass
    return torch.where(before < share, top, torch.inf).amin(dim=-1, keepdim=True)


def _border(logits: NDArray[np.float32], total: float, share: float) -> float:
    """:func:`_nucleus` of one row; few tokens hold most of it, and only those are sorted."""
    top = logits.max()
    for window in (8.0, 20.0, math.inf):
        inside = np.sort(logits[logits >= top - window])[::-1]
        mass = np.exp(inside - np.float32(total), dtype=np.float64)
        until = np.cumsum(mass)
        if window == math.inf or until[-1] > share * (1 + 1e-5):
            break
    return float(inside[until - mass < share][-1])


def choose(
    logits: Float[Tensor, "row vocabulary"],
    sampling: Sampling,
    noise: Noise | None = None,
    keys: NDArray[np.uint64] | None = None,
    steps: int | Sequence[int] = 0,
) -> Int[Tensor, " row"]:
    """Next tokens: argmax of the filtered logits / temperature + Gumbel noise.

    With Gumbel noise that is an exact sample of the softmax (Gumbel 1954; "Gumbel-max").
    Temperature 0 is greedy and takes no noise; otherwise ``noise`` is asked for that of
    ``keys`` and ``steps`` (:meth:`Noise.gumbel`). Raises :class:`GenerationError` for logits
    without a largest finite value: what overflowed would be sampled as if it were a wish of
    the model.
    """
    if not bool(torch.isfinite(logits.amax(dim=-1)).all()):
        raise GenerationError(
            "the model's logits are not finite",
            found="NaN or infinity",
            fix="use bfloat16 or float32 instead of float16, or smaller coefficients",
        )
    if sampling.temperature == 0.0:
        return logits.argmax(dim=-1)
    if noise is None or keys is None:
        raise GenerationError("sampling needs noise", fix="pass noise, or temperature 0")
    return noise.winners(sampling.filtered(logits), keys, steps)
