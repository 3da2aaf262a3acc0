"""Where each value of a recipe was written, so that a complaint can name the line.

Keys are paths from the root: `("arms", "distilled", 0, "weight")`. What has no place of its own, a missing key for
instance, is found at the nearest thing around it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from tutelage.errors import Problem

Keys = tuple[str | int, ...]

# Overrides stand after every line of a file when problems are sorted.
FIRST_OVERRIDE = 1_000_000_000


@final
@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A label such as `recipe.yaml:7` or `--set train.epochs=3`, and where it sorts."""

    order: int = 0
    label: str = ""


@final
@dataclass(frozen=True, slots=True)
class Located:
    """A problem and its place, until all are known and can be sorted."""

    order: int
    problem: Problem
    keys: Keys = ()
    # The value could not be read: whatever else is said of it is only a consequence.
    unread: bool = False


@final
@dataclass(slots=True, eq=False)
class Places:
    """The places of one recipe, and whether its seeds were left to chance rather than written.

    Any two compare equal: where a recipe was written is no part of what it says, so that a recipe that was written out
    and read again equals the first.
    """

    source: str = ""
    at: dict[Keys, Place] = field(default_factory=dict)
    seeds_by_chance: bool = False

    def find(self, keys: Keys) -> Place:
        """The place of a value, or of the nearest thing around it."""
        for length in range(len(keys), 0, -1):
            if (place := self.at.get(keys[:length])) is not None:
                return place
        return Place(0, self.source)

    def label(self, keys: Keys) -> str | None:
        """What to show in brackets; None for a recipe that came from Python and has no lines."""
        return self.find(keys).label or None

    def forget(self, keys: Keys) -> None:
        """Drop a value and everything below it."""
        for known in [known for known in self.at if known[: len(keys)] == keys]:
            del self.at[known]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Places)


def dotted(keys: Keys) -> str:
    """`("arms", "distilled", 0)` -> `arms.distilled.0`, the spelling that `--set` takes."""
    return ".".join(str(key) for key in keys)
