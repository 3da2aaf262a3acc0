"""Sets of real data that packages carry, by name; a set's own file says what it holds and how it is got."""

from __future__ import annotations

from pathlib import Path

from tutelage.data.sets import debian, debian_questions, digits_sound, emoji, movielens, rdatasets, wesnoth
from tutelage.data.sets.protocol import Set

__all__ = ["SETS", "Set", "set_folder"]

SETS: dict[str, Set] = {
    one.name: one
    for one in (
        debian.SET, debian_questions.SET, emoji.SET, wesnoth.SET, digits_sound.SET, rdatasets.FLIGHTS,
        rdatasets.DIAMONDS, movielens.SMALL, movielens.LARGE,
    )
}  # fmt: skip


def set_folder(name: str) -> Path:
    """The folder of a set that is on this machine, every file of it as it came; the network is not touched.

    Raises:
        DataError: it is not on this machine; the hint is the command that gets it.
        DamagedError: a file of it is gone or is not what came.
    """
    from tutelage.data.fetching import meet

    return meet(name)
