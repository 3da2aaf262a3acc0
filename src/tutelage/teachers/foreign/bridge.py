"""A teacher from another framework: arrays of numbers or texts go in, numbers come out, and all that could be
misunderstood on the way is checked: shapes, layout, the order of classes, whether these are probabilities at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.errors import InputError, ModelError
from tutelage.objective import read_view
from tutelage.teachers.foreign.order import Order, order_of
from tutelage.types import Batch, Outputs

__all__ = ["FLOOR", "GIVES", "ForeignTeacher", "Settings", "as_array", "fitted_shape", "looks_like"]

Array = NDArray[Any]
Asked = Array | list[str]

# A class without any probability: its logarithm has to be some number. In 1,000 classes of this size the others lose
# less than float32 can show, and at temperature T such a class weighs FLOOR ** (1 / T): 0.001 at 4, 0.06 at 10.
FLOOR = 1e-12
GIVES = ("logits", "probabilities", "classes")
_SUM = 1e-3  # how far from 1 the probabilities of a half-precision model may add up to
_ALIKE = 1e-3  # how far an answer may depend on the rest of its batch, as a share of the largest logit
_COMPARED = 4


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """What a user may say of every foreign teacher."""

    classes: tuple[str, ...] | None = None  # the names of the model's outputs in their order
    gives: str | None = None  # one of GIVES; found out where it is None
    floor: float = FLOOR  # the smallest probability of a class
    layout: str | None = None  # of pictures: "NCHW" or "NHWC"; by the model's own shape where it is None
    scale: float = 1.0  # inputs in [0, 1] are multiplied by it

    def __post_init__(self) -> None:
        if self.gives is not None and self.gives not in GIVES:
            raise InputError("a teacher gives something else", given=self.gives, expected="one of " + ", ".join(GIVES))
        if self.layout not in (None, "NCHW", "NHWC"):
            raise InputError("there is no such layout of pictures", given=self.layout, expected="NCHW or NHWC")
        for name, value, most in (("floor", self.floor, 0.1), ("scale", self.scale, 1e6)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value <= most:
                raise InputError(f"`{name}` of a teacher is out of range", given=value, expected=f"0 < {name} ≤ {most}")
        named = self.classes
        if named is not None and not (isinstance(named, tuple) and all(isinstance(one, str) for one in named)):
            raise InputError("`classes` of a teacher is a list of names", given=f"{named!r:.80}")


@final
class ForeignTeacher:
    """Answers with what a function of arrays says, as logits.

    The function is asked about numbers as float32, pictures in [0, 1]; about tokens as int64; about plain text as a
    list of str. Probabilities p become log(max(p, floor)): softmax at temperature 1 gives p back, whatever constant a
    row is moved by. A class that the model has no output for is given the floor's share.

    Args:
        answer: B inputs -> (B, K) numbers; (B, 1) or (B,) of a model of two classes are those of the second one; of
            `gives` "classes" (B,) numbers of the model's outputs, 0 … K − 1.
        gives: "logits" (nats; margins and raw scores of boosted trees are these), "probabilities" or "classes"; None
            finds out from the first answer whether rows are probabilities.
        own: what the model calls its outputs in their order: names, or numbers of classes; None where it does not know.
        classes: the data's classes in their order; None where they are not known, for numbered outputs only.
        digest: of all that decides its answers, or a function that says it anew.
        view: of the batch's inputs that it reads.
        name: what messages call it.
        settings: what the user said of it; names of outputs in there stand for `own`.
        shape: of one input as the model reads it, None where any number will do; None if it does not say.
        flat: whether it reads an input as one row of numbers.
        block: so many rows are asked about at a time, the last of them filled up, so that an answer has the same bits
            whoever else is in the batch; None for models that treat rows one by one, such as trees.
        fixed: whether the model takes no other number of rows.

    Raises:
        ModelError: names of outputs that are not those of the data.
    """

    def __init__(
        self,
        answer: Callable[[Any], Any],
        *,
        digest: str | Callable[[], str],
        gives: str | None = None,
        own: Sequence[object] | None = None,
        classes: Sequence[str] | None = None,
        view: str = "x",
        name: str = "teacher",
        settings: Settings | None = None,
        shape: Sequence[int | None] | None = None,
        flat: bool = False,
        block: int | None = 64,
        fixed: bool = False,
    ) -> None:
        self.settings = settings or Settings()
        self.view = view
        self.name = name
        self.block = block
        self._fixed = fixed
        self._answer = answer
        self._digest = digest
        self._said = self._gives = self.settings.gives or gives
        self._classes = None if classes is None else tuple(classes)
        self._own = self.settings.classes if self.settings.classes is not None else own
        self._shape = shape
        self._flat = flat
        self._checked = False
        # Names are compared before anything is asked; how many outputs there are without names comes out later.
        self._order = None if self._own is None else order_of(self._own, self._classes, len(self._own), name)

    def answer(self, batch: Batch) -> Outputs:
        """Logits (B, C) in float32, on the device of the inputs.

        Raises:
            ModelError: it cannot read the inputs, or its answer is not one row of sound numbers for each.
        """
        view = read_view(batch, self.view)
        inputs = self._inputs(view)
        if not self._checked and len(view):
            self._check(inputs)
        return Outputs(torch.from_numpy(self._logits(inputs, self.block)).to(view.device))

    def fingerprint(self) -> str:
        """A digest of the model, and of how its answers are read; the same before and after a run."""
        digest = self._digest if isinstance(self._digest, str) else self._digest()
        told = self.settings
        facts = [digest, self._said, told.classes, told.floor, told.layout, told.scale, self.block]
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def to(self, device: torch.device) -> None:
        """Nothing to do: its own framework decides where it computes, and answers come back to the inputs' device."""

    def _inputs(self, view: Tensor) -> Asked:
        inputs = as_array(view, self.settings.scale)
        if isinstance(inputs, list):
            return inputs
        if self._flat:
            return inputs.reshape(len(inputs), -1)
        return fitted_shape(inputs, self._shape, self.settings.layout, self.name)

    def _logits(self, inputs: Asked, block: int | None) -> NDArray[np.float32]:
        raw = self._raw(inputs) if block is None else self._in_blocks(inputs, block)
        if self._gives is None:
            self._gives = looks_like(raw)
        order = self._order
        if order is None:
            order = self._order = order_of(self._own, self._classes, self._outputs(raw), self.name)
        return _as_logits(raw, self._gives, order, self.settings.floor, self.name)

    def _outputs(self, raw: Array) -> int:
        """How many classes it knows, where it has no names for them."""
        if self._gives != "classes":
            return max(2, int(raw.shape[-1]))
        if self._classes is None:
            raise ModelError(
                f"the {self.name} names classes, and how many there are is not known here", fix="say classes=[…]"
            )
        return len(self._classes)

    def _in_blocks(self, inputs: Asked, block: int) -> Array:
        parts = []
        for start in range(0, len(inputs), block):
            part = inputs[start : start + block]
            count = len(part)
            if count < block:
                # The last row over and over.
                part = part + [part[-1]] * (block - count) if isinstance(part, list) else _filled(part, block)
            parts.append(self._raw(part)[:count])
        return np.concatenate(parts)

    def _raw(self, inputs: Asked) -> Array:
        """(B, K) numbers as they come, or (B,) classes."""
        try:
            raw = np.asarray(self._answer(inputs))
        except (InputError, ModelError):
            raise
        except Exception as error:  # every framework has its own kinds
            given = f"{len(inputs)} texts" if isinstance(inputs, list) else f"{inputs.dtype} {inputs.shape}"
            raise ModelError(
                f"the {self.name} cannot answer: {type(error).__name__}: {_line(error)}", given=given,
                fix="look at the shape, the layout and the kind of numbers that it was trained on",
            ) from error  # fmt: skip
        if self._gives != "classes" and raw.ndim == 1 and len(raw) == len(inputs):
            raw = raw[:, None]
        dimensions = 1 if self._gives == "classes" else 2
        if raw.ndim != dimensions or len(raw) != len(inputs) or raw.dtype.kind not in "fiub" or not raw.shape[-1]:
            raise ModelError(
                f"the {self.name} does not answer with one row of numbers for each example",
                given=f"{raw.dtype} {raw.shape}",
                expected=f"({len(inputs)}, C)" if dimensions == 2 else f"({len(inputs)},) numbers of classes",
            )
        return raw

    def _check(self, inputs: Asked) -> None:
        """The first rows asked alone, in another company, and twice: who answers otherwise has no answer to learn."""
        few = inputs[:_COMPARED]
        together = self._logits(few, self.block)
        least = self.block if self._fixed else 1
        others = [self._logits(few[row : row + 1], least)[0] for row in range(len(few))]
        difference = float(np.abs(np.stack(others) - together).max())
        most = _ALIKE * max(1.0, float(np.abs(together).max()))
        if difference > most:
            raise ModelError(
                f"the {self.name} answers the same example otherwise alone than in a batch, or otherwise every time",
                given=f"logits differ by {difference:.3g}",
                expected=f"at most {most:.3g}",
                fix="turn off what is for training only: dropout, statistics of the batch, sampling",
            )
        self._checked = True


def _filled(part: Array, block: int) -> Array:
    rest = np.broadcast_to(part[-1:], (block - len(part), *part.shape[1:]))
    return np.concatenate([part, rest])


def as_array(view: Tensor, scale: float = 1.0) -> Asked:
    """An input view as other frameworks read it.

    Args:
        view: (B, …) tokens, numbers, pictures as bytes or in [0, 1], or plain text as bytes (B, L).
        scale: what numbers in [0, 1] are multiplied by.
    """
    view = view.detach().cpu()
    if view.dtype == torch.uint8 and view.ndim == 2:
        from tutelage.data.encoders.text import texts_of

        return list(texts_of(view))
    if view.dtype == torch.uint8:
        view = view.float() / 255.0
    if view.is_floating_point():
        numbers = view.float() if scale == 1.0 else view.float() * scale
        return np.ascontiguousarray(numbers.numpy())
    return np.ascontiguousarray(view.long().numpy())


def fitted_shape(inputs: Array, wanted: Sequence[int | None] | None, layout: str | None, name: str) -> Array:
    """Inputs in the shape that a model reads: as they are, with channels last, or as one row of numbers.

    Args:
        inputs: (B, …).
        wanted: of one input, None where any number will do; None if the model does not say.
        layout: what the user said of pictures; decides before the model's shape.

    Raises:
        ModelError: none of these fits.
    """
    if inputs.ndim == 4 and layout == "NHWC":
        inputs = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
    if wanted is None or _fits(inputs.shape[1:], wanted):
        return inputs
    if inputs.ndim == 4 and layout is None:
        turned = inputs.transpose(0, 2, 3, 1)
        if _fits(turned.shape[1:], wanted):
            return np.ascontiguousarray(turned)
    flat = inputs.reshape(len(inputs), -1)
    if _fits(flat.shape[1:], wanted):
        return flat
    if inputs.ndim == 4 and inputs.shape[1] == 1 and _fits(inputs.shape[2:], wanted):
        return inputs[:, 0]
    raise ModelError(
        f"the {name} reads other inputs than the data has",
        given=f"examples of shape {inputs.shape[1:]}",
        expected="(" + ", ".join("any" if one is None else str(one) for one in wanted) + ")",
        fix="give the data the size that the teacher was trained on, or choose another teacher",
    )


def _fits(shape: tuple[int, ...], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(w is None or w == s for s, w in zip(shape, wanted, strict=True))


def looks_like(raw: Array) -> str:
    """Whether rows are probabilities or logits, which no softmax ever leaves at a sum of 1 without a number below 0."""
    if raw.shape[-1] == 1:
        raise ModelError(
            "one number for each example may be a probability or a logit", given=f"shape {raw.shape}",
            expected="that you say which it is", fix="write gives: probabilities, or gives: logits",
        )  # fmt: skip
    rows = raw.astype(np.float64)
    proper = bool((rows >= 0.0).all()) and bool((np.abs(rows.sum(-1) - 1.0) <= _SUM).all())
    return "probabilities" if proper else "logits"


def _as_logits(raw: Array, gives: str, order: Order, floor: float, name: str) -> NDArray[np.float32]:
    """(B, K) of the model, or (B,) classes, to (B, C) logits in the order of the data."""
    if gives == "classes":
        return _of_classes(raw, order, floor, name)
    numbers = raw.astype(np.float64)
    if not np.isfinite(numbers).all():
        broken = ~np.isfinite(numbers).all(-1)
        raise ModelError(
            f"the {name} answered with NaN or infinity for {int(broken.sum())} of {len(raw)} examples",
            given=f"row {int(broken.argmax())} first", fix="look at its inputs: are they scaled as in its training?",
        )  # fmt: skip
    if gives == "probabilities":
        numbers = _logarithms(numbers, floor, name)
    elif raw.shape[-1] == 1:
        numbers = np.concatenate([np.zeros_like(numbers), numbers], axis=-1)
    return order.spread(numbers, floor, name).astype(np.float32)


def _logarithms(p: NDArray[np.float64], floor: float, name: str) -> NDArray[np.float64]:
    if p.shape[-1] == 1:  # of the second class, as a sigmoid says it
        p = np.concatenate([1.0 - p, p], axis=-1)
    total = p.sum(-1)
    wrong = (p < -_SUM).any(-1) | (np.abs(total - 1.0) > _SUM)
    if wrong.any():
        row = int(wrong.argmax())
        raise ModelError(
            f"the {name} gives no probabilities for {int(wrong.sum())} of {len(p)} examples",
            given=f"row {row}: from {p[row].min():.4g} to {p[row].max():.4g}, sum {total[row]:.4g}",
            expected="numbers from 0 to 1 that add up to 1",
            fix="write gives: logits, if that is what they are",
        )
    found: NDArray[np.float64] = np.log(np.maximum(p, floor))
    return found


def _of_classes(raw: Array, order: Order, floor: float, name: str) -> NDArray[np.float32]:
    named = raw.astype(np.int64)
    if (named < 0).any() or (named >= len(order.places)).any() or (named != raw).any():
        raise ModelError(
            f"the {name} names a class that there is not", given=f"{raw.min()} … {raw.max()}",
            expected=f"whole numbers, 0 … {len(order.places) - 1}",
        )  # fmt: skip
    p = np.full((len(raw), len(order.places)), floor)
    p[np.arange(len(raw)), named] = 1.0
    return order.spread(np.log(p), floor, name).astype(np.float32)


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:240] if lines else type(error).__name__
