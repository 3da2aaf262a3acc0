"""Which logits of a file are of which task: a probability over the classes of several tasks means nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from tutelage.errors import DamagedError
from tutelage.export.facts import Facts
from tutelage.tasks import columns_of

__all__ = ["Share", "shares", "shares_of"]


@final
@dataclass(frozen=True, slots=True)
class Share:
    """One task's logits among all."""

    start: int
    stop: int
    classes: tuple[str, ...]  # as the task calls them, without its own name before each

    @property
    def columns(self) -> slice:
        """Where they stand."""
        return slice(self.start, self.stop)


def shares_of(facts: Facts) -> dict[str, Share]:
    """Task -> its share of the logits, the main one first; nothing where a file answers one task.

    A file that answers questions has the tasks `start` and `end`, of one class for each place of a token.

    Raises:
        DamagedError: the tasks do not have as many classes together as there are logits.
    """
    return shares(facts.classes, _sizes(facts), facts.name or None)


def shares(classes: Sequence[str], sizes: Mapping[str, int], where: str | None = None) -> dict[str, Share]:
    """The same of the names of all logits, `task: class` each, and of the number of classes of each task."""
    if len(sizes) < 2:
        return {}
    if sum(sizes.values()) != len(classes) or min(sizes.values()) < 1:
        raise DamagedError(
            "tasks and classes do not fit", where=where,
            given=", ".join(f"{name}: {size}" for name, size in sizes.items()),
            expected=f"{len(classes)} classes in all",
        )  # fmt: skip
    return {
        name: Share(start, stop, tuple(one.removeprefix(f"{name}: ") for one in classes[start:stop]))
        for name, (start, stop) in columns_of(sizes).items()
    }


def _sizes(facts: Facts) -> Mapping[str, int]:
    if facts.tasks:
        return facts.tasks
    if facts.separator:
        places = len(facts.classes) // 2
        return {"start": places, "end": len(facts.classes) - places}
    return {}
