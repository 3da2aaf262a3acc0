"""A run's folder: what it was asked for, how far it came, and what it made.

config.yaml      the recipe with all defaults; run it again as it is
manifest.json    what ran where, on which data; written first, sealed last
metrics.jsonl    one object per cohort, arm and epoch          log.txt   what a person was told
teacher/         teacher.safetensors and its facts, where the recipe trained it or loaded it
checkpoints/     where every cohort stands, to continue from
students/<arm>/seed-<n>/student.safetensors                    the file that ships, and facts beside it
eval/            what every model answered on the test part
report.json, report.html, README.md
debug/           only after a fault
"""

from __future__ import annotations

import contextlib
import datetime
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

from tutelage.errors import DamagedError, DataError, InputError
from tutelage.files import hold, read_json, sweep, write_json, write_text

__all__ = ["RunFolder"]

_OURS = (
    "config.yaml", "manifest.json", "metrics.jsonl", "log.txt", "teacher", "checkpoints", "students", "eval",
    "report.json", "report.html", "README.md", "debug",
)  # fmt: skip


@final
class RunFolder:
    """The folder of one run; use `RunFolder.open`, or `follow` where another process keeps it."""

    def __init__(self, path: Path, *, quiet: bool, keeps: bool = True) -> None:
        self.path = path
        self.manifest: dict[str, Any] = {}
        self._quiet = quiet
        self._keeps = keeps

    @staticmethod
    def follow(path: Path) -> RunFolder:
        """The folder as a process sees it that learns along and writes nothing."""
        folder = RunFolder(path.expanduser().absolute(), quiet=True, keeps=False)
        folder.manifest = read_json(folder.path / "manifest.json")
        return folder

    @staticmethod
    @contextlib.contextmanager
    def open(path: Path, *, overwrite: bool, quiet: bool) -> Iterator[RunFolder]:
        """Hold the folder for this process, and read how far it came.

        Raises:
            InputError: it holds something that is not a run.
            BusyError: another process is at it.
        """
        resolved = path.expanduser().absolute()
        if resolved == Path(resolved.anchor):
            raise InputError("a run cannot own the whole disk", given=str(path), expected="a folder such as runs/first")
        if resolved.exists() and not resolved.is_dir():
            raise InputError(f"{path} is a file", expected="a folder for the run")
        strangers = [p.name for p in resolved.iterdir() if p.name != ".lock"] if resolved.exists() else []
        if strangers and not (resolved / "manifest.json").exists() and not (resolved / "config.yaml").exists():
            raise InputError(
                f"{path} is not empty and holds no run",
                given=", ".join(sorted(strangers)[:5]),
                fix="choose another folder with --out",
            )
        with hold(resolved):
            sweep(resolved)
            folder = RunFolder(resolved, quiet=quiet)
            if overwrite:
                folder._clear()
            if (resolved / "manifest.json").exists():
                folder.manifest = read_json(resolved / "manifest.json")
            yield folder

    @property
    def complete(self) -> bool:
        return self.manifest.get("outcome") == "complete"

    def tell(self, line: str) -> None:
        """Say a line to the person, and keep it in the log."""
        if not self._keeps:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        now = datetime.datetime.now().astimezone().strftime("%H:%M:%S")
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{now}  {line}\n")
        if not self._quiet:
            print(line, file=sys.stderr, flush=True)

    def begin(self, config: str, differences: Callable[[str], list[str]], facts: Mapping[str, Any]) -> None:
        """Take up the run that is here, or start one.

        Args:
            config: the recipe as text.
            differences: what differs between an earlier recipe's text and this one, ready to print.
            facts: for the manifest; `data` decides whether the data is still the same.

        Raises:
            InputError: the run here has another recipe.
            DataError: the data is not what it was when the run began.
            DamagedError: the manifest is there, but the recipe is not.
        """
        path = self.path / "config.yaml"
        if self.manifest and not path.is_file():
            raise DamagedError(f"{path} is missing", fix="add --overwrite to start again, or choose another --out")
        if path.is_file():
            changed = differences(path.read_text(encoding="utf-8"))
            if changed:
                raise InputError(
                    f"{self.path} holds a run of another recipe",
                    given="\n            ".join(changed),
                    expected="the recipe that the run began with",
                    fix="choose another folder with --out, or add --overwrite to remove what is here",
                )
        if self.manifest and self.manifest["data"]["fingerprint"] != facts["data"]["fingerprint"]:
            raise DataError(
                "the data has changed since this run began",
                given=_counts(facts["data"]),
                expected=_counts(self.manifest["data"]),
                fix="restore the data, or choose another folder with --out",
            )
        if not self.manifest:
            write_text(path, config)
            started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            self.manifest = {
                "outcome": "running",
                "started": started,
                "starts": 0,
                "test_looks": 0,
                "wall_seconds": 0.0,
            }
        before = self.manifest.get("environment")
        if before is not None and before != facts["environment"]:
            changed = [f"{k}: {before.get(k)} → {v}" for k, v in facts["environment"].items() if before.get(k) != v]
            self.tell(f"the environment has changed ({'; '.join(changed)}): bit-identity is not promised")
        self.manifest |= dict(facts)
        self.manifest["starts"] += 1
        self.save()

    def save(self) -> None:
        """Write the manifest."""
        if self._keeps:
            write_json(self.path / "manifest.json", self.manifest)

    def seal(self) -> None:
        """Say that the run is complete; the last thing a run writes."""
        self.manifest["outcome"] = "complete"
        self.manifest["ended"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.save()

    def _clear(self) -> None:
        for name in _OURS:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _counts(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in data["counts"].items()) + f", {data['fingerprint'][:12]}"
