"""Which output of a foreign model answers for which class of the data: by name, never by hope."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tutelage.data.examples import listed
from tutelage.errors import ModelError

__all__ = ["Order", "order_of"]


@final
@dataclass(frozen=True, slots=True)
class Order:
    """Output k of the model is class `places[k]` of `count`."""

    places: tuple[int, ...]
    count: int

    def spread(self, logits: NDArray[np.float64], floor: float, name: str) -> NDArray[np.float64]:
        """(B, K) in the model's order to (B, C) in the data's; classes that it lacks get the floor's probability.

        Raises:
            ModelError: the model has another number of outputs.
        """
        if logits.shape[-1] != len(self.places):
            raise ModelError(
                f"the {name} answers with {logits.shape[-1]} classes, {len(self.places)} were expected",
                fix="use a teacher that was trained on these classes",
            )
        if self.places == tuple(range(self.count)):
            return logits
        largest = logits.max(-1, keepdims=True)
        level = largest + np.log(np.exp(logits - largest).sum(-1, keepdims=True))
        found = np.repeat(level + np.log(floor), self.count, axis=-1)
        found[:, list(self.places)] = logits
        return found


def order_of(own: Sequence[Any] | None, classes: Sequence[str] | None, outputs: int, name: str) -> Order:
    """The order of a model's outputs.

    Texts are names of the data's classes. Numbers are numbers of classes, 0 … C − 1, or, where the data's classes are
    called by numbers, their names; where both could be meant and differ, nobody guesses.

    Args:
        own: what the model calls its outputs, K texts or numbers; None where it does not say.
        classes: the data's classes in their order; None where they are not known.
        outputs: how many outputs it has.
        name: what messages call the model.

    Raises:
        ModelError: names that the data does not know, one twice, or numbers that could mean two things.
    """
    if own is None:
        count = outputs if classes is None else len(classes)
        if outputs != count:
            raise ModelError(
                f"the {name} answers with {outputs} classes, the data has {count}",
                expected="one output for each class, in the order of the data's classes",
                fix="use a teacher that was trained on these classes, or name its outputs: classes: […]",
            )
        return Order(tuple(range(outputs)), count)
    numbers = [_whole(one) for one in own]
    by_number = None if any(one is None for one in numbers) else [one for one in numbers if one is not None]
    if classes is None:
        if by_number is None or sorted(by_number) != list(range(len(own))):
            raise ModelError(
                f"the {name} calls its classes by names, and the data's are not known here",
                given=listed([repr(one) for one in own]),
                fix="tutelage.teachers.foreign.wrap(model, classes=[…]) says them in the order of the labels",
            )
        return Order(tuple(by_number), len(own))
    known = {title: place for place, title in enumerate(classes)}
    texts = [str(one) if number is None else str(number) for one, number in zip(own, numbers, strict=True)]
    by_name = [known[text] for text in texts] if all(text in known for text in texts) else None
    if by_number is not None and not all(0 <= one < len(classes) for one in by_number):
        by_number = None
    if by_number is not None and by_name is not None and by_number != by_name:
        raise ModelError(
            f"the {name} calls its classes by numbers that are both names and numbers of the data's classes",
            given=f"{listed(texts)}, which by name are the classes number {listed(by_name)}",
            fix="say which is meant: classes: the names of its outputs in their order",
        )
    places = by_name if by_name is not None else by_number
    if places is None:
        strange = [text for text in texts if text not in known]
        raise ModelError(
            f"the {name} knows classes that the data does not have", given=listed(strange),
            expected="names of " + listed(list(classes)),
            fix="use a teacher that was trained on these classes, or name its outputs: classes: […]",
        )  # fmt: skip
    if len(set(places)) < len(places):
        raise ModelError(f"the {name} has one class twice", given=listed(texts))
    return Order(tuple(places), len(classes))


def _whole(value: Any) -> int | None:
    """A whole number, also of numpy's kinds and as 3.0; None for anything else."""
    if isinstance(value, (bool, str)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        pass
    try:
        return int(value) if float(value).is_integer() else None
    except (TypeError, ValueError):
        return None
