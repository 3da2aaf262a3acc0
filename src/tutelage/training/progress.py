"""What a person sees while it trains, and what a program can read afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Self, final

from tutelage.files import write_text
from tutelage.progress import Meter, clock
from tutelage.training.loop import Cohort, Listener, Moment

__all__ = ["MetricsFile", "Progress"]


class Progress(Listener):
    """Shows a cohort's steps, and its scores on the validation part.

    Args:
        tell: takes one line for the log.
        quiet: show nothing.
    """

    def __init__(self, tell: Callable[[str], None], *, quiet: bool = False) -> None:
        self._tell = tell
        self._quiet = quiet
        self._meter: Meter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._meter is not None:
            self._meter.close()

    def on_start(self, cohort: Cohort, at: Moment) -> None:
        meter = Meter(cohort.name, at.steps, done=at.step, unit="step", tell=self._tell, quiet=self._quiet)
        self._meter = meter.__enter__()

    def on_step(self, cohort: Cohort, at: Moment) -> None:
        assert self._meter is not None
        self._meter.advance()

    def on_epoch_end(self, cohort: Cohort, at: Moment) -> None:
        assert self._meter is not None
        scores = ", ".join(f"{arm.name} {arm.curve[-1]['val_accuracy']:.2%}" for arm in cohort.arms)
        self._meter.note(f"validation: {scores}")

    def on_end(self, cohort: Cohort, at: Moment) -> None:
        assert self._meter is not None
        self._meter.close()
        scores = ", ".join(
            f"{arm.name} {max(row['val_accuracy'] for row in arm.curve):.2%}" for arm in cohort.arms if arm.curve
        )
        self._tell(f"{cohort.name}: trained in {clock(self._meter.seconds)}; best validation: {scores}")


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
