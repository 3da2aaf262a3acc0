"""What became of the questions to a chat server: how much was said of classes, and how often nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from tutelage.teachers.remote.letters import Told

__all__ = ["Tally"]


@final
class Tally:
    """What became of all texts so far; told seldom."""

    def __init__(self) -> None:
        self._texts: dict[str, bool] = {}
        self._masses: list[float] = []
        self._unseen = 0
        self._reminded: set[tuple[str, int]] = set()
        self._next = 1
        self._told = False

    def reminded(self, asked: Sequence[tuple[str, int]]) -> None:
        self._reminded.update(asked)

    def count(self, text: str, heard: Sequence[Told]) -> None:
        if text in self._texts:
            return
        self._texts[text] = bool(heard)
        self._masses += [one.mass for one in heard if one.mass is not None]
        self._unseen += sum(one.unseen > 0 for one in heard)

    def news(self, name: str) -> list[str]:
        """What is to be told now: everything after the first answers, then silence whenever it has doubled."""
        first, self._told = not self._told, True
        silent = sum(not said for said in self._texts.values())
        if silent < self._next:
            return self.lines(name) if first else []
        self._next = 2 * silent
        return self.lines(name) if first else self.lines(name)[-1:]

    def lines(self, name: str) -> list[str]:
        """For a person; nothing where nothing was asked."""
        asked = len(self._texts)
        if not asked:
            return []
        silent = sum(not said for said in self._texts.values())
        said: list[str] = []
        if self._masses:
            mass, lacking = float(np.mean(self._masses)), self._unseen / len(self._masses)
            said.append(
                f"teacher {name}: the classes hold {mass:.1%} of the probability of answers on average; in "
                f"{lacking:.1%} of answers a class was not among the tokens told"
            )
        if self._reminded:
            said.append(f"teacher {name}: {len(self._reminded):,} answers named no class, and were asked for once more")
        if silent:
            said.append(
                f"teacher {name}: {silent:,} of {asked:,} examples so far ({silent / asked:.1%}) have no answer that "
                "names a class; they are left out of what listens to this teacher"
            )
        return said
