"""TensorBoard: event files below `<run>/trackers/tensorboard`, written and read by TensorBoard's own code.

Every arm and seed is a run of its own there, `distilled/seed-0`, because TensorBoard draws one metric of several runs
into one chart, and arms are to be compared. What concerns all of them lies at the top.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from tutelage.training.trackers.protocol import client, series

__all__ = ["TensorBoard"]

_TOP = ""
_VERSION = "brain.Event:2"  # what readers want to see first in a file of events
_BEGUN, _ENDED = 0, 1  # the steps at the top


@final
class TensorBoard:
    """Writes one record an epoch, so that a process that is killed leaves all of it or nothing.

    Its memory are its files: what was written is read back from them.

    Args:
        home: `<run>/trackers`.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, home: Path) -> None:
        self._home = home / "tensorboard"
        self._events = self._client("compat.proto.event_pb2")
        self._summaries = self._client("compat.proto.summary_pb2")
        self._records = self._client("summary.writer.record_writer")
        self._reader = self._client("backend.event_processing.event_file_loader")
        self._texts = client("torch.utils.tensorboard.summary", "tensorboard", "tensorboard")
        self._files: dict[str, Path] = {}

    @staticmethod
    def _client(module: str) -> Any:
        return client(f"tensorboard.{module}", "tensorboard", "tensorboard")

    def begin(self, name: str, facts: Mapping[str, str], recipe: str) -> str:
        if self._last(_TOP) < _BEGUN:
            table = ["| | |", "|---|---|", *(f"| {key} | {_cell(text)} |" for key, text in facts.items())]
            words = {"run": "\n".join([f"**{name}**", "", *table]), "recipe": f"```yaml\n{recipe}\n```"}
            self._write(_TOP, _BEGUN, [self._text(*one) for one in words.items()])
        return f"tensorboard --logdir {self._home}"

    def reached(self, arm: str, seed: int) -> int:
        return self._last(series(arm, seed))

    def epoch(self, arm: str, seed: int, row: Mapping[str, float]) -> None:
        values = [self._scalar(key, value) for key, value in row.items() if key != "step"]
        self._write(series(arm, seed), int(row["step"]), values)

    def final(self, numbers: Mapping[str, float], words: Mapping[str, str]) -> None:
        if self._last(_TOP) < _ENDED:
            values = [self._scalar(*one) for one in numbers.items()] + [self._text(*one) for one in words.items()]
            self._write(_TOP, _ENDED, values)

    def close(self) -> None:
        """Nothing is open between two records."""

    def _scalar(self, tag: str, value: float) -> Any:
        return self._summaries.Summary.Value(tag=tag, simple_value=value)

    def _text(self, tag: str, text: str) -> Any:
        return self._texts.text(tag, text).value[0]

    def _write(self, run: str, step: int, values: list[Any]) -> None:
        """Append one record, in a file that this process began: the last record of a killed one may be torn."""
        path = self._files.get(run)
        event = self._events.Event
        records = [event(wall_time=time.time(), step=step, summary=self._summaries.Summary(value=values))]
        if path is None:
            folder = self._home / run
            folder.mkdir(parents=True, exist_ok=True)
            # Numbered, since readers go through the files of a folder in the order of their names.
            path = folder / f"events.out.tfevents.{len(self._found(run)):06d}"
            records.insert(0, event(wall_time=time.time(), file_version=_VERSION))
        with path.open("ab") as file:
            writer = self._records.RecordWriter(file)
            for record in records:
                writer.write(record.SerializeToString())
        self._files[run] = path

    def _found(self, run: str) -> list[Path]:
        return sorted((self._home / run).glob("events.out.tfevents.*"))

    def _last(self, run: str) -> int:
        """The last step in the files of a run; -1 for none."""
        return max(
            (
                int(event.step)
                for path in self._found(run)
                for event in self._reader.EventFileLoader(str(path)).Load()
                if event.HasField("summary")
            ),
            default=-1,
        )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
