"""Examples have an identity: a content id, from which their place, their split and their random views follow.

The order of examples is the order of their ids, so that renaming, moving or shuffling files changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.data.draws import mix
from tutelage.errors import DataError

__all__ = ["Examples", "Splits", "as_model_input", "leaks", "split", "split_off"]


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
            DataError: lengths differ, a label names no class, or an input is not finite.
        """
        if len(inputs) != len(targets):
            raise DataError("inputs and labels differ in number", given=f"{len(inputs)} inputs, {len(targets)} labels")
        if inputs.dtype not in (torch.uint8, torch.float32):
            raise DataError(f"inputs are {inputs.dtype}", where=name, expected="uint8 images or float32 features")
        if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < len(classes):
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
        return Examples(inputs[index], targets[index].long(), torch.from_numpy(ids[order]), tuple(classes), name)

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.inputs.shape[1:])

    @property
    def is_image(self) -> bool:
        return self.inputs.ndim == 4

    @property
    def fingerprint(self) -> str:
        """SHA-256 over ids, labels and class names."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
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

    Raises:
        DataError: the shares leave a part without examples of some class.
    """
    rest, tested = _cut(examples, test, seed, stream=1)
    train, decided = _cut(rest, val / (1.0 - test), seed, stream=2)
    return _checked(Splits(train, decided, tested))


def split_off(train: Examples, *, fraction: float, seed: int = 0) -> tuple[Examples, Examples]:
    """Cut a validation part from the training part of a set that has a test part of its own."""
    return _cut(train, fraction, seed, stream=2)


def leaks(splits: Splits) -> dict[str, int]:
    """How many examples of validation and test also stand, by content, in an earlier part."""
    train, val = splits.train.ids.numpy(), splits.val.ids.numpy()
    test = splits.test.ids.numpy()
    return {
        "val in train": int(np.isin(val, train).sum()),
        "test in train": int(np.isin(test, train).sum()),
        "test in val": int(np.isin(test, val).sum()),
    }


def _cut(examples: Examples, fraction: float, seed: int, *, stream: int) -> tuple[Examples, Examples]:
    ids, targets = examples.ids.numpy(), examples.targets.numpy()
    rank = mix(seed, 0x5917, stream, ids)
    taken = np.zeros(len(ids), dtype=bool)
    for label in range(len(examples.classes)):
        rows = np.flatnonzero(targets == label)
        count = round(len(rows) * fraction)
        taken[rows[np.argsort(rank[rows], kind="stable")[:count]]] = True
    # A content that was taken once is taken everywhere: twins on both sides would be a leak.
    taken = np.isin(ids, ids[taken])
    return examples.take(torch.from_numpy(np.flatnonzero(~taken))), examples.take(
        torch.from_numpy(np.flatnonzero(taken))
    )


def _checked(splits: Splits) -> Splits:
    for name, part in (("training", splits.train), ("validation", splits.val), ("test", splits.test)):
        counts = torch.bincount(part.targets, minlength=len(part.classes))
        missing = [part.classes[i] for i in (counts == 0).nonzero().flatten().tolist()]
        if missing:
            raise DataError(
                f"the {name} part has no example of {len(missing)} class(es)",
                given=", ".join(missing[:10]),
                fix="give more examples of them, or raise data.val and data.test",
            )
    return splits


def _content_ids(inputs: Tensor) -> NDArray[np.int64]:
    raw = np.ascontiguousarray(inputs.numpy()).reshape(len(inputs), -1).view(np.uint8)
    head = f"{inputs.dtype}{tuple(inputs.shape[1:])}".encode()
    digests = b"".join(hashlib.blake2b(row, digest_size=16, key=head[:64]).digest() for row in map(bytes, raw))
    words = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
    ids: NDArray[np.int64] = (words[:, 0] & np.uint64(0x7FFF_FFFF_FFFF_FFFF)).astype(np.int64)
    # Two contents with one id would mean wrong answers later: improbable (n² / 2⁶⁴), checked all the same.
    if len(np.unique(ids)) != len(np.unique(words, axis=0)):
        raise DataError("two different examples have the same content id", fix="remove one of them")
    return ids


def _refuse_odd_numbers(inputs: Tensor, name: str) -> None:
    rows = (~torch.isfinite(inputs.reshape(len(inputs), -1))).any(-1).nonzero().flatten().tolist()
    if rows:
        raise DataError(
            f"{len(rows)} example(s) hold NaN or infinity",
            where=name,
            given="rows " + ", ".join(map(str, rows[:10])) + (", …" if len(rows) > 10 else ""),
            fix="mend or drop these rows",
        )
    if inputs.ndim == 4 and inputs.numel() and float(inputs.abs().max()) > 16.0:
        raise DataError(
            f"these float images look unscaled: max {float(inputs.max()):g}",
            where=name,
            expected="values in 0 … 1 (or standardised), or uint8",
            fix="pass them as uint8, or divide by 255",
        )
