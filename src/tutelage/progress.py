"""What a person sees of long work: a bar on a terminal; elsewhere one line per half minute, without control codes; and
nothing of what other packages say to one another."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Self, final

__all__ = ["Meter", "clock", "quiet"]

_LINE_SECONDS = 30.0
_DRAW_SECONDS = 0.1


def clock(seconds: float) -> str:
    """`75` -> `1:15`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@final
class Meter:
    """How far work is, how fast it goes, and how long it will take; a context manager.

    Args:
        title: what is being done.
        total: how many steps it takes.
        done: how many of them were done before; they do not count as speed.
        unit: what a step is, in the plural.
        tell: takes one line where there is no terminal.
        quiet: show nothing.
    """

    def __init__(
        self, title: str, total: int, *, done: int = 0, unit: str, tell: Callable[[str], None], quiet: bool = False
    ) -> None:
        self.done = done
        self._title, self._total, self._unit = title, total, unit
        self._tell, self._quiet = tell, quiet
        self._free = done
        self._start = time.monotonic()
        self._next = self._start + _LINE_SECONDS
        self._drawn = 0.0
        self._note = ""
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            return self
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = [
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        ]  # fmt: skip
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(self._title, total=self._total, completed=self.done, note="")
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, steps: int = 1) -> None:
        """So many more are done."""
        self.done += steps
        now = time.monotonic()
        if self._bar is not None:
            # Ten pictures a second are enough, and drawing costs more than a small step.
            if now - self._drawn > _DRAW_SECONDS:
                self._drawn = now
                self._bar.update(self._task, completed=self.done, note=self._note or self._rate(now))
        elif now >= self._next and not self._quiet:
            self._next = now + _LINE_SECONDS
            left = self._left(now)
            self._tell(f"{self._title}: {self._unit} {self.done:,}/{self._total:,}, {self._rate(now)}, {left} left")

    def skip(self, steps: int) -> None:
        """So many were found done."""
        self._free += steps
        self.done += steps

    def note(self, text: str) -> None:
        """Shown beside the bar in place of the rate."""
        self._note = text
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=text)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _rate(self, now: float) -> str:
        each = (self.done - self._free) / max(now - self._start, 1e-9)
        return f"{each:,.0f} a second" if each >= 10 else f"{each:.2g} a second"

    def _left(self, now: float) -> str:
        own = self.done - self._free
        return clock((now - self._start) / own * (self._total - self.done)) if own else "?"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of frameworks about one another's ways; what is wrong with an answer is told by us."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
