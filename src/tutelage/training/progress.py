"""What a person sees while it trains, and what a program can read afterwards."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from tutelage.files import write_text
from tutelage.training.loop import Cohort, Listener, Moment

__all__ = ["MetricsFile", "Progress"]

_QUIET_SECONDS = 30.0


def clock(seconds: float) -> str:
    """`75` -> `1:15`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@final
class Progress(Listener):
    """A bar on a terminal; elsewhere one line per half minute, without control codes.

    Args:
        tell: takes one line for the log.
        quiet: show nothing.
    """

    def __init__(self, tell: Callable[[str], None], *, quiet: bool = False) -> None:
        self._tell = tell
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._start = 0.0
        self._first_step = 0
        self._next = 0.0
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._close()

    def on_start(self, cohort: Cohort, at: Moment) -> None:
        self._start = time.monotonic()
        self._first_step = at.step
        self._next = self._start + _QUIET_SECONDS
        if self._quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(cohort.name, total=at.steps, completed=at.step, note="")
        self._bar.start()

    def on_step(self, cohort: Cohort, at: Moment) -> None:
        now = time.monotonic()
        if self._bar is not None:
            # Ten pictures a second are enough, and drawing costs more than a small step.
            if now - self._drawn > 0.1:
                self._bar.update(self._task, completed=at.step)
                self._drawn = now
        elif now >= self._next and not self._quiet:
            self._next = now + _QUIET_SECONDS
            self._tell(f"{cohort.name}: step {at.step:,}/{at.steps:,}, {self._left(at, now)} left")

    def on_epoch_end(self, cohort: Cohort, at: Moment) -> None:
        if self._bar is not None:
            scores = ", ".join(f"{arm.name} {arm.curve[-1]['val_accuracy']:.2%}" for arm in cohort.arms)
            self._bar.update(self._task, completed=at.step, note=f"validation: {scores}")

    def on_end(self, cohort: Cohort, at: Moment) -> None:
        self._close()
        scores = ", ".join(
            f"{arm.name} {max(row['val_accuracy'] for row in arm.curve):.2%}" for arm in cohort.arms if arm.curve
        )
        self._tell(f"{cohort.name}: trained in {clock(time.monotonic() - self._start)}; best validation: {scores}")

    def _left(self, at: Moment, now: float) -> str:
        done = at.step - self._first_step
        return clock((now - self._start) / done * (at.steps - at.step)) if done else "?"

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@final
class MetricsFile(Listener):
    """`metrics.jsonl`: one object per cohort, arm and epoch.

    A run that was killed may have written epochs which its last checkpoint has not seen; they are dropped when it
    continues, and written again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_start(self, cohort: Cohort, at: Moment) -> None:
        if not self._path.is_file():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if self._stays(line, cohort.name, at.step)]
        if len(kept) != len(lines):
            write_text(self._path, "".join(f"{line}\n" for line in kept))

    def on_epoch_end(self, cohort: Cohort, at: Moment) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            for arm in cohort.arms:
                if arm.curve and arm.curve[-1]["epoch"] == at.epoch:
                    file.write(json.dumps({"cohort": cohort.name, "arm": arm.name} | arm.curve[-1]) + "\n")

    @staticmethod
    def _stays(line: str, cohort: str, step: int) -> bool:
        try:
            row = json.loads(line)
        except ValueError:
            return False  # the torn last line of a killed process
        if not isinstance(row, dict):
            return False
        return bool(row.get("cohort") != cohort or row.get("step", 0) <= step)
