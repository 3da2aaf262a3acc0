"""How an answer becomes a row of bytes, and a row an answer again: whole, rounded, cut to the largest, or drawn.

    fp32                  exact
    fp16, bf16            half the bytes; fp16 keeps 11 bits and ends at 65,504, bf16 keeps 8 and ends nowhere near
    int8                  a quarter: one byte per class, with the middle and the step of its row
    top-K                 the K largest logits, and the log of the mass of all others at one temperature
    sample-N              N classes drawn from the distribution at one temperature: in the mean it is the distribution

Shapes:  B rows · C classes · K kept or drawn classes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor

from tutelage.data.draws import Stream, mix
from tutelage.errors import InputError, ModelError
from tutelage.losses.targets import positive, top_k
from tutelage.types import Logits, Sampled, TopK

__all__ = ["Codec", "codec_of", "half_of"]

Columns = dict[str, Tensor]
_FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Codec(Protocol):
    """One way to write logits; what decides its bytes is in its facts."""

    @property
    def name(self) -> str: ...

    def facts(self) -> dict[str, Any]:
        """What the key of a store holds of it."""
        ...

    def row_bytes(self, classes: int) -> int: ...

    def encode(self, logits: Tensor, ids: Tensor, view: int) -> Columns:
        """Logits (B, C) float32 -> columns, each with B rows."""
        ...

    def decode(self, columns: Mapping[str, Tensor], classes: int) -> Logits:
        """Columns -> what losses read."""
        ...

    def difference(self, logits: Tensor, decoded: Logits) -> float:
        """How far stored answers are from live ones, in units of what this codec allows: at most 1 where they agree."""
        ...


def codec_of(text: str, temperature: float = 1.0) -> Codec:
    """`fp32`, `fp16`, `bf16`, `int8`, `top-16`, `sample-64` -> a codec.

    Args:
        text: the name.
        temperature: at which losses will read it; it matters for `top-…` and `sample-…` only.

    Raises:
        InputError: there is no such codec.
    """
    if text in _FLOATS:
        return Dense(text)
    if text == "int8":
        return Int8()
    found = re.fullmatch(r"(top|sample)-([1-9][0-9]{0,4})", text)
    if not found:
        raise InputError(
            f"no codec `{text}`", expected="fp32, fp16, bf16, int8, top-K or sample-N, such as top-16 or sample-64"
        )
    positive("temperature", temperature)
    number, temperature = int(found[2]), float(temperature)
    return Largest(number, temperature) if found[1] == "top" else Drawn(number, temperature)


def half_of(codec: Codec) -> torch.dtype:
    """The type in which features are stored beside these logits."""
    return _FLOATS[codec.name] if isinstance(codec, Dense) else torch.float16


@final
@dataclass(frozen=True, slots=True)
class Dense:
    """All logits in one floating-point type."""

    name: str

    def facts(self) -> dict[str, Any]:
        return {"codec": self.name}

    def row_bytes(self, classes: int) -> int:
        return classes * _FLOATS[self.name].itemsize

    def encode(self, logits: Tensor, ids: Tensor, view: int) -> Columns:
        stored = logits.to(_FLOATS[self.name])
        # Rounding is monotone, so that the two extremes tell for all.
        if not bool(torch.stack(logits.aminmax()).to(stored.dtype).isfinite().all()):
            raise _too_large(logits, self.name, torch.finfo(stored.dtype).max)
        return {"logits": stored}

    def decode(self, columns: Mapping[str, Tensor], classes: int) -> Tensor:
        return columns["logits"]

    def difference(self, logits: Tensor, decoded: Logits) -> float:
        assert isinstance(decoded, Tensor)
        return _apart(decoded.float(), logits, torch.finfo(_FLOATS[self.name]).eps)


@final
@dataclass(frozen=True, slots=True)
class Int8:
    """One byte per class: 254 even steps between the smallest and the largest logit of the row."""

    name: str = "int8"

    def facts(self) -> dict[str, Any]:
        return {"codec": self.name}

    def row_bytes(self, classes: int) -> int:
        return classes + 8

    def encode(self, logits: Tensor, ids: Tensor, view: int) -> Columns:
        low, high = logits.aminmax(dim=-1)
        if not bool((high - low).isfinite().all()):
            raise _too_large(logits, self.name, torch.finfo(torch.float32).max / 2)
        middle = low + (high - low) / 2
        step = ((high - low) / 254).clamp(min=torch.finfo(torch.float32).tiny)
        numbers = ((logits - middle[:, None]) / step[:, None]).round().clamp(-127, 127).to(torch.int8)
        return {"logits": numbers, "middle": middle, "step": step}

    def decode(self, columns: Mapping[str, Tensor], classes: int) -> Tensor:
        return columns["logits"].float() * columns["step"][:, None] + columns["middle"][:, None]

    def difference(self, logits: Tensor, decoded: Logits) -> float:
        assert isinstance(decoded, Tensor)
        steps = (logits.amax(-1) - logits.amin(-1)) / 254
        return float(((decoded - logits).abs().amax(-1) / (steps * 0.75 + _noise(logits))).max())


@final
@dataclass(frozen=True, slots=True)
class Largest:
    """The k largest logits in float32, their classes, and the tail's log-mass: a divergence over k + 1 outcomes."""

    k: int
    temperature: float

    @property
    def name(self) -> str:
        return f"top-{self.k}"

    def facts(self) -> dict[str, Any]:
        return {"codec": self.name, "temperature": self.temperature}

    def row_bytes(self, classes: int) -> int:
        return self.k * (4 + _index_type(classes).itemsize) + 4

    def encode(self, logits: Tensor, ids: Tensor, view: int) -> Columns:
        _fits(self.name, self.k, logits.shape[-1])
        kept = top_k(logits, self.k, temperature=self.temperature)
        return {
            "values": kept.values,
            "indices": kept.indices.to(_index_type(logits.shape[-1])),
            "tail": kept.tail.float(),
        }

    def decode(self, columns: Mapping[str, Tensor], classes: int) -> TopK:
        indices = columns["indices"].to(torch.int64)
        return TopK(columns["values"], indices, columns["tail"], classes, self.temperature)

    def difference(self, logits: Tensor, decoded: Logits) -> float:
        assert isinstance(decoded, TopK)
        # By value, not by class: two classes that tie may have changed places.
        again = logits.gather(-1, decoded.indices)
        apart = _apart(decoded.values, again, torch.finfo(torch.float32).eps)
        if self.k == decoded.classes:
            return apart
        rest = (logits / self.temperature).scatter(-1, decoded.indices, -math.inf).logsumexp(-1)
        off = (rest - decoded.tail).abs() * self.temperature / _noise(logits)
        return max(apart, float(off.max()))


@final
@dataclass(frozen=True, slots=True)
class Drawn:
    """Classes drawn from softmax(z / T), and how often each one came.

    The n draws of a row are evenly spaced with one random offset (systematic sampling), a function of (id, view): every
    class is expected n·p times and comes ⌊n·p⌋ or ⌈n·p⌉ times, so the weights are unbiased as with independent draws,
    and vary less. The proposal is the teacher's own distribution, under which all importance weights are equal.

    Source: Anshumann and others 2025 (RS-KD), arXiv 2503.16870, section 4, with independent draws.
    """

    draws: int
    temperature: float

    @property
    def name(self) -> str:
        return f"sample-{self.draws}"

    def facts(self) -> dict[str, Any]:
        return {"codec": self.name, "temperature": self.temperature}

    def row_bytes(self, classes: int) -> int:
        return self.draws * (_index_type(classes).itemsize + _index_type(self.draws + 1).itemsize)

    def encode(self, logits: Tensor, ids: Tensor, view: int) -> Columns:
        offset = (mix(view, Stream.SAMPLE, ids.numpy()) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        # In float64: a thousand float32 probabilities may add up to less than the last draw.
        mass = (logits.double() / self.temperature).softmax(-1).cumsum(-1)
        points = (torch.arange(self.draws, dtype=torch.float64) + torch.from_numpy(offset)[:, None]) / self.draws
        drawn = torch.searchsorted(mass / mass[:, -1:], points, right=True).clamp_(max=logits.shape[-1] - 1)
        # Draws come in the order of classes, so equal ones stand together: the first of each run carries the count.
        first = torch.ones_like(drawn, dtype=torch.bool)
        first[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
        place = first.cumsum(-1) - 1
        counts = torch.zeros_like(drawn).scatter_add_(-1, place, torch.ones_like(drawn))
        indices = torch.zeros_like(drawn).scatter_(-1, place, drawn)
        kinds = _index_type(logits.shape[-1]), _index_type(self.draws + 1)
        return {"indices": indices.to(kinds[0]), "counts": counts.to(kinds[1])}

    def decode(self, columns: Mapping[str, Tensor], classes: int) -> Sampled:
        weights = columns["counts"].to(torch.float32) / self.draws
        return Sampled(columns["indices"].to(torch.int64), weights, classes, self.temperature)

    def difference(self, logits: Tensor, decoded: Logits) -> float:
        assert isinstance(decoded, Sampled)
        # n·p draws of a class come ⌊n·p⌋ or ⌈n·p⌉ times: other weights than that are another teacher's.
        expected = (logits / self.temperature).softmax(-1) * self.draws
        counts = torch.zeros_like(expected).scatter_add(-1, decoded.indices, decoded.weights * self.draws)
        off = (counts - expected).abs() - 1.0
        return float((off / (0.01 + 1e-3 * self.draws)).max().clamp(min=0.0))


def _too_large(logits: Tensor, codec: str, most: float) -> ModelError:
    return ModelError(
        f"the teacher's logits do not fit {codec}",
        given=f"up to {float(logits.abs().max()):g}",
        expected=f"at most {most:g}",
        fix="use the codec fp32" if codec != "fp16" else "use the codec bf16 or fp32",
    )


def _index_type(count: int) -> torch.dtype:
    """The smallest type that numbers this many things."""
    if count <= 1 << 8:
        return torch.uint8
    return torch.uint16 if count <= 1 << 16 else torch.int32


def _fits(name: str, k: int, classes: int) -> None:
    if k > classes:
        raise InputError(
            f"the codec {name} keeps more classes than there are",
            where="teacher.store.codec",
            given=f"{classes} classes",
            expected=f"top-1 … top-{classes}",
        )


def _apart(stored: Tensor, live: Tensor, eps: float) -> float:
    """The greatest distance between two sets of logits, in units of rounding plus what another machine may compute."""
    allowed = live.abs() * eps + _noise(live)[..., None]
    return float(((stored.float() - live).abs() / allowed).max())


def _noise(logits: Tensor) -> Tensor:
    """What the same net may answer differently in another batch, on another processor, or under autocast's kernels."""
    return 1e-3 * logits.abs().amax(-1).clamp(min=1.0)
