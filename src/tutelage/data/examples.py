"""Examples have an identity: a content id, from which their place, their split and their random views follow.

The order of examples is the order of their ids, so that renaming, moving or shuffling files changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.data.draws import Stream, mix
from tutelage.errors import DataError, InputError

__all__ = ["Examples", "Splits", "as_model_input", "leaks", "listed", "split", "split_off"]

# Standardised images stay well below this, bytes that were turned into floats lie well above.
_UNSCALED = 16.0


@final
@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Inputs with labels, in memory; use `Examples.make`."""

    inputs: Tensor  # (N, C, H, W) uint8 images, or (N, …) float32 that is scaled already
    targets: Tensor  # (N,) int64
    ids: Tensor  # (N,) int64 content ids
    classes: tuple[str, ...]
    name: str

    @staticmethod
    def make(inputs: Tensor, targets: Tensor, classes: Sequence[str], name: str) -> Examples:
        """Check examples, give them ids, and put them in the order of these.

        Args:
            inputs: (N, C, H, W) uint8 images, or (N, …) float32.
            targets: (N,) integers, 0 … C − 1.
            classes: one name for each class, in the order of the labels.
            name: of the whole set.

        Raises:
            DataError: lengths or shapes do not fit, a label names no class, or an input is not finite.
        """
        _check_shapes(inputs, targets, name)
        if not 0 <= int(targets.min()) <= int(targets.max()) < len(classes):
            raise DataError(
                "a label names no class",
                where=name,
                given=f"labels {int(targets.min())} … {int(targets.max())}",
                expected=f"0 … {len(classes) - 1} for {len(classes)} classes",
            )
        if inputs.dtype == torch.float32:
            _refuse_odd_numbers(inputs, name)
        ids = _content_ids(inputs)
        # Equal inputs share an id; their label decides, so that even twins have one order.
        order = np.lexsort((targets.numpy(), ids))
        index = torch.from_numpy(order)
        made = Examples(inputs[index], targets[index].long(), torch.from_numpy(ids[order]), tuple(classes), name)
        _refuse_collisions(made)
        return made

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.inputs.shape[1:])

    @property
    def is_image(self) -> bool:
        """Whether an input has channels, rows and columns."""
        return self.inputs.ndim == 4

    @property
    def fingerprint(self) -> str:
        """SHA-256 over ids, labels and class names."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        digest.update(self.ids.numpy().tobytes())
        digest.update(self.targets.numpy().tobytes())
        return digest.hexdigest()

    def take(self, index: Tensor) -> Examples:
        """Some of them, in the order of `index`."""
        return Examples(self.inputs[index], self.targets[index], self.ids[index], self.classes, self.name)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """What is learned from, what decides, and what is looked at once."""

    train: Examples
    val: Examples
    test: Examples

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the three parts."""
        parts = "".join(part.fingerprint for part in (self.train, self.val, self.test))
        return hashlib.sha256(parts.encode()).hexdigest()


def as_model_input(raw: Tensor) -> Tensor:
    """Bytes become numbers in [0, 1]; float32 stays as it is."""
    return raw.to(torch.float32).div_(255.0) if raw.dtype == torch.uint8 else raw


def split(examples: Examples, *, val: float, test: float, seed: int = 0) -> Splits:
    """Cut a set in three, class by class; examples of the same content stay together.

    Every part gets at least one example of each class that has three. Which ones follows from (seed, id).

    Raises:
        InputError: the shares leave nothing to learn from.
        DataError: there are fewer than three examples for a class, so that some part would have none.
    """
    if not (0.0 < val < 1.0 and 0.0 < test < 1.0 and val + test < 1.0):
        raise InputError(
            "the shares of validation and test leave no three parts",
            given=f"val {val:g}, test {test:g}",
            expected="two numbers above 0 whose sum is below 1",
        )
    rest, tested = _cut(examples, test, seed, Stream.TEST)
    train, decided = _cut(rest, val / (1.0 - test), seed, Stream.VAL)
    parts = {"training": train, "validation": decided, "test": tested}
    for name, part in parts.items():
        _refuse_missing_classes(name, part)
    return Splits(train, decided, tested)


def split_off(train: Examples, *, fraction: float, seed: int = 0) -> tuple[Examples, Examples]:
    """Cut a part from the training part of a set whose other parts exist: (what stays, what was cut off).

    Raises:
        InputError: the fraction is not between 0 and 1.
        DataError: one of the two would lack a class.
    """
    if not 0.0 < fraction < 1.0:
        raise InputError("the share to split off is out of range", given=f"{fraction:g}", expected="between 0 and 1")
    rest, cut = _cut(train, fraction, seed, Stream.VAL)
    _refuse_missing_classes("training", rest)
    _refuse_missing_classes("split-off", cut)
    return rest, cut


def leaks(splits: Splits) -> dict[str, int]:
    """How many examples of validation and test also stand, by content, in an earlier part."""
    train, val, test = (part.ids.numpy() for part in (splits.train, splits.val, splits.test))
    return {
        "val in train": int(np.isin(val, train).sum()),
        "test in train": int(np.isin(test, train).sum()),
        "test in val": int(np.isin(test, val).sum()),
    }


def listed(offenders: Sequence[object], *, most: int = 10, separator: str = ", ") -> str:
    """The first offenders by name, and how many there are in all."""
    shown = separator.join(map(str, offenders[:most]))
    return shown if len(offenders) <= most else f"{shown}{separator}… ({len(offenders):,} in all)"


def _cut(examples: Examples, fraction: float, seed: int, stream: Stream) -> tuple[Examples, Examples]:
    ids, targets = examples.ids.numpy(), examples.targets.numpy()
    rank = mix(seed, stream, ids)
    taken = np.zeros(len(ids), dtype=bool)
    for label in range(len(examples.classes)):
        rows = np.flatnonzero(targets == label)
        # At least one on either side, however small the class.
        count = min(max(round(len(rows) * fraction), 1), max(len(rows) - 1, 0))
        taken[rows[np.argsort(rank[rows], kind="stable")[:count]]] = True
    # A content that was taken once is taken everywhere: twins on both sides would be a leak.
    taken = np.isin(ids, ids[taken])
    stays, goes = (torch.from_numpy(np.flatnonzero(part)) for part in (~taken, taken))
    return examples.take(stays), examples.take(goes)


def _check_shapes(inputs: Tensor, targets: Tensor, name: str) -> None:
    if targets.ndim != 1 or targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise DataError(
            "labels are not one integer for each example",
            where=name,
            given=f"shape {tuple(targets.shape)}, {targets.dtype}",
            fix="number the classes 0 … C − 1 and pass their names as classes",
        )
    if inputs.ndim < 1 or len(inputs) != len(targets):
        number = len(inputs) if inputs.ndim else 0
        raise DataError(
            "inputs and labels differ in number", where=name, given=f"{number:,} inputs, {len(targets):,} labels"
        )
    if not len(inputs):
        raise DataError("there are no examples", where=name)
    if inputs.ndim < 2 or inputs[0].numel() == 0:
        raise DataError(
            "an input holds no numbers of its own",
            where=name,
            given=f"inputs of shape {tuple(inputs.shape)}",
            expected="(N, features), (N, C, H, W), …",
        )
    if inputs.dtype == torch.uint8 and inputs.ndim != 4:
        raise DataError(
            "bytes that are not images",
            where=name,
            given=f"uint8 inputs of shape {tuple(inputs.shape)}",
            expected="(N, C, H, W)",
            fix="reshape them if they are images, or pass features as float32",
        )
    if inputs.dtype not in (torch.uint8, torch.float32):
        raise DataError(f"inputs are {inputs.dtype}", where=name, expected="uint8 images or float32 features")


def _refuse_missing_classes(part: str, examples: Examples) -> None:
    counts = torch.bincount(examples.targets, minlength=len(examples.classes))
    missing = [examples.classes[i] for i in (counts == 0).nonzero().flatten().tolist()]
    if missing:
        raise DataError(
            f"the {part} part has no example of {len(missing)} of {len(counts)} classes",
            where=examples.name,
            given=listed(missing),
            expected="three examples of different content for every class, one for each part",
            fix="give more examples of them, or leave them out",
        )


def _content_ids(inputs: Tensor) -> NDArray[np.int64]:
    """63 bits of BLAKE2b over dtype, shape and bytes of every input."""
    rows = np.ascontiguousarray(inputs.numpy()).reshape(len(inputs), -1)
    width = rows.shape[1] * rows.itemsize
    raw = memoryview(rows.view(np.uint8).reshape(-1))
    # A copied hasher has read the head already, which costs half of hashing it anew for every row.
    head = hashlib.blake2b(f"{inputs.dtype} {tuple(inputs.shape[1:])} ".encode(), digest_size=8)
    digests = bytearray()
    for start in range(0, len(raw), width):
        hasher = head.copy()
        hasher.update(raw[start : start + width])
        digests += hasher.digest()
    words = np.frombuffer(digests, dtype="<u8").astype(np.uint64)
    return (words >> np.uint64(1)).view(np.int64)


def _refuse_collisions(examples: Examples) -> None:
    # Two contents with one id would mean wrong answers later: improbable (n² / 2⁶⁴), but neighbours are cheap to compare.
    twins = (examples.ids[1:] == examples.ids[:-1]).nonzero().flatten()
    pairs = zip(twins.split(1024), (twins + 1).split(1024), strict=True)
    if any(not torch.equal(examples.inputs[one], examples.inputs[two]) for one, two in pairs):
        raise DataError(
            "two different examples have the same content id", where=examples.name, fix="remove one of the two"
        )


def _refuse_odd_numbers(inputs: Tensor, name: str) -> None:
    finite = torch.isfinite(inputs).reshape(len(inputs), -1).all(-1)
    rows = (~finite).nonzero().flatten().tolist()
    if rows:
        raise DataError(
            f"{len(rows):,} of {len(inputs):,} examples hold NaN or infinity",
            where=name,
            given=f"row{'s' * (len(rows) > 1)} {listed(rows)} (the first is row 0)",
            fix="mend or drop these rows",
        )
    if inputs.ndim == 4 and float(inputs.abs().max()) > _UNSCALED:
        raise DataError(
            f"these float images look unscaled: max {float(inputs.max()):g}",
            where=name,
            expected="values in 0 … 1, or standardised ones",
            fix="pass them as uint8, or divide by 255",
        )
