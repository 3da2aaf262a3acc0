"""Ctrl-C and SIGTERM end a run at the next step, with everything saved; a second Ctrl-C ends it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self, final

from tutelage.errors import Interrupted
from tutelage.training.checkpoint import Checkpoints
from tutelage.training.loop import Cohort, Listener, Moment

__all__ = ["StopSignals"]


@final
class StopSignals(Listener):
    """A context that turns signals into a saved stop.

    Args:
        fix: what to tell the person: the command that continues.
    """

    def __init__(self, fix: str) -> None:
        self._fix = fix
        self._caught = 0
        self._before: dict[int, Any] = {}
        self.checkpoints: Checkpoints | None = None

    def __enter__(self) -> Self:
        # Only the main thread may handle signals; elsewhere (a server, a notebook's worker) we leave them alone.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self._caught:
            raise KeyboardInterrupt
        self._caught = number

    def check(self) -> None:
        """Raise Interrupted if a signal has come; for the long parts of a run that have no steps."""
        if self._caught:
            raise Interrupted(self._caught, fix=self._fix)

    def on_step(self, cohort: Cohort, at: Moment) -> None:
        if self._caught:
            if self.checkpoints is not None:
                self.checkpoints.save(cohort)
            self.check()
