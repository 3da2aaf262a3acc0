"""Three parts of a set: what is learned from, what decides, and what is looked at once.

A part is chosen by a hash of (seed, id), class by class. Examples of the same content have the same id and stay
together: a copy of a training example in the test part would be a leak. Where examples belong to groups, such as voices
or patients, whole groups are chosen, by a hash of (seed, group), whatever their classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from collections.abc import Set as Names
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.data.draws import Stream, mix
from tutelage.data.examples import Examples, listed
from tutelage.errors import DataError, InputError

__all__ = ["Splits", "assemble", "leaks", "split", "split_off"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """What is learned from, what decides, and what is looked at once."""

    train: Examples
    val: Examples
    test: Examples
    own_test: bool = False  # whether the set brought its test part along
    rest: Examples | None = None  # examples of the set that have no labels, where they were asked for

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the three parts."""
        parts = "".join(part.fingerprint for part in (self.train, self.val, self.test))
        return hashlib.sha256(parts.encode()).hexdigest()

    def reading(self, view: str) -> Splits:
        """The same as somebody sees them who reads this view."""
        return self.each(lambda part: part.reading(view))

    def keeping(self, views: Names[str]) -> Splits:
        """The same without the views that nobody reads beside the students' own."""
        return self.each(
            lambda part: replace(
                part, views={k: v for k, v in part.views.items() if k in views} if views - {part.reads} else {}
            )
        )

    def each(self, change: Callable[[Examples], Examples]) -> Splits:
        """The same with every part changed alike."""
        rest = None if self.rest is None else change(self.rest)
        return replace(self, train=change(self.train), val=change(self.val), test=change(self.test), rest=rest)


def split(examples: Examples, *, val: float, test: float, seed: int = 0) -> Splits:
    """Cut a set in three, class by class; examples of the same content stay together.

    Every part gets at least one example of each class that has three. Which ones follows from (seed, id).

    Raises:
        InputError: the shares leave nothing to learn from.
        DataError: some part would have no example of some class.
    """
    check_shares(val, test)
    rest, tested = _cut(examples, test, seed, Stream.TEST, leave=2)
    train, decided = _cut(rest, val / (1.0 - test), seed, Stream.VAL)
    _refuse_missing_classes(training=train, validation=decided, test=tested)
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
    _refuse_missing_classes(training=rest, **{"split-off": cut})
    return rest, cut


def assemble(
    parts: Mapping[str, Examples], *, val: float, test: float, seed: int, where: str, allow_overlap: bool
) -> Splits:
    """Make three parts of those that exist: "train", and perhaps "val" and "test"; what is missing is cut from train.

    Raises:
        InputError: the shares leave nothing to learn from.
        DataError: parts differ in shape or classes, are too small, or share examples.
    """
    check_shares(val, test)
    _refuse_differences(parts, where)
    train = parts["train"]
    classes, number = len(train.classes), sum(map(len, parts.values()))
    if number < 3 * classes:
        raise DataError(
            f"{number} examples are too few for {classes} classes",
            where=where,
            expected=f"at least {3 * classes}: three for each class",
        )
    # Counted before anything is cut: a copy that moves from train to a new test part is still one of val in train.
    shared = {between: count for between, count in _overlaps(parts).items() if count}
    if shared and not allow_overlap:
        raise DataError(
            "the same examples stand in two parts, which would flatter the results",
            where=where,
            given=", ".join(f"{count:,} of {between}" for between, count in shared.items()),
            fix="remove them from one of the two (in Python, `allow_overlap=True` keeps them)",
        )
    if "val" not in parts and "test" not in parts:
        return split(train, val=val, test=test, seed=seed)
    if "test" in parts and "val" in parts:
        return Splits(train, parts["val"], parts["test"], own_test=True)
    if "test" in parts:
        return Splits(*split_off(train, fraction=val, seed=seed), parts["test"], own_test=True)
    rest, tested = split_off(train, fraction=test, seed=seed)
    return Splits(rest, parts["val"], tested)


def leaks(splits: Splits) -> dict[str, int]:
    """How many examples of validation and test also stand, by content, in an earlier part."""
    return _overlaps({"train": splits.train, "val": splits.val, "test": splits.test})


def _overlaps(parts: Mapping[str, Examples]) -> dict[str, int]:
    pairs = (("val", "train"), ("test", "train"), ("test", "val"))
    return {
        f"{later} in {earlier}": int(np.isin(parts[later].ids.numpy(), parts[earlier].ids.numpy()).sum())
        for later, earlier in pairs
        if later in parts and earlier in parts
    }


def check_shares(val: float, test: float) -> None:
    """Refuse shares of validation and test that leave no three parts.

    Raises:
        InputError: they are not above 0, or add up to 1 or more.
    """
    if not (val > 0.0 and test > 0.0 and val + test < 1.0):
        raise InputError(
            "the shares of validation and test leave no three parts",
            given=f"val {val:g}, test {test:g}",
            expected="two numbers above 0 whose sum is below 1",
        )


def _cut(
    examples: Examples, fraction: float, seed: int, stream: Stream, *, leave: int = 1
) -> tuple[Examples, Examples]:
    ids, targets = examples.ids.numpy(), examples.targets.numpy()
    if examples.groups is not None:
        return _apart(examples, _whole_groups(examples.groups.numpy(), fraction, seed, stream))
    rank = mix(seed, stream, ids)
    taken = np.zeros(len(ids), dtype=bool)
    for label in range(len(examples.classes)):
        rows = np.flatnonzero(targets == label)
        # However small the class, one is taken, unless that leaves too few for the parts to come.
        count = min(max(round(len(rows) * fraction), 1), max(len(rows) - leave, 0))
        taken[rows[np.argsort(rank[rows], kind="stable")[:count]]] = True
    return _apart(examples, taken)


def _whole_groups(groups: NDArray[np.int64], fraction: float, seed: int, stream: Stream) -> NDArray[np.bool_]:
    """Groups in the order of their hash until they hold this share of the examples; one at least, and not all."""
    names, own, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(mix(seed, stream, names), kind="stable")
    # A group goes with those before it if more than half of it is still within the share.
    within = counts[order].cumsum() - counts[order] / 2 <= fraction * len(groups)
    number = min(max(int(within.sum()), 1), len(names) - 1)
    chosen = np.zeros(len(names), dtype=bool)
    chosen[order[:number]] = True
    return np.asarray(chosen[own])


def _apart(examples: Examples, taken: NDArray[np.bool_]) -> tuple[Examples, Examples]:
    # A content that was taken once is taken everywhere, even where a twin has another label.
    ids = examples.ids.numpy()
    taken = np.isin(ids, ids[taken])
    stays, goes = (torch.from_numpy(np.flatnonzero(part)) for part in (~taken, taken))
    return examples.take(stays), examples.take(goes)


def _refuse_missing_classes(**parts: Examples) -> None:
    for name, part in parts.items():
        counts = torch.bincount(part.targets, minlength=len(part.classes))
        missing = [part.classes[i] for i in (counts == 0).nonzero().flatten().tolist()]
        if missing:
            raise DataError(
                f"the {name} part has no example of {len(missing)} of {len(counts)} classes",
                where=part.name,
                given=listed(missing),
                expected="three examples of different content for every class, one for each part",
                fix="give more examples of them, or leave them out",
            )


def _refuse_differences(parts: Mapping[str, Examples], where: str) -> None:
    train = parts["train"]
    known = set(train.targets.tolist())
    for name, part in parts.items():
        if part.shape != train.shape or part.inputs.dtype != train.inputs.dtype:
            raise DataError(
                f"the {name} part has inputs of another kind than the training part",
                where=where,
                given=f"{part.shape} {part.inputs.dtype}",
                expected=f"{train.shape} {train.inputs.dtype}",
            )
        own = set(part.targets.tolist())
        if own != known:
            only, lacking = ([part.classes[i] for i in sorted(s)] for s in (own - known, known - own))
            raise DataError(
                f"the {name} part has other classes than the training part",
                where=where,
                given=f"only in {name}: {listed(only) or 'none'}; only in train: {listed(lacking) or 'none'}",
                fix="give every part examples of the same classes",
            )
