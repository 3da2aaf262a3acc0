"""A run's folder: what it was asked for, how far it came, and what it made.

config.yaml      the recipe with all defaults; run it again as it is
manifest.json    what ran where, on which data; written first, sealed last
metrics.jsonl    one object per cohort, arm and epoch          log.txt   what a person was told
teacher/         teacher.safetensors and its facts, where the recipe trained it or loaded it; of several teachers
                 teacher-<name>.safetensors, one for each
checkpoints/     where every cohort stands, to continue from
students/<arm>/seed-<n>/student.safetensors                    the file that ships, and facts beside it
                        student.<format>.safetensors           the same weights in fewer bytes, where the recipe asks
eval/            what every model answered on the test part, (…-val.npz) on the validation part, and (…-train.npz) on a
                 sample of the training part
fold-<n>/        of a cross-validation: the runs of its folds
round-<n>/       of an iteration: the runs of its rounds; iterate.json says which was chosen
users.json       of personal students: what each user gains
report.json, report.html, README.md
trackers/        what trackers keep, where the recipe names some
debug/           only after a fault
"""

from __future__ import annotations

import contextlib
import datetime
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

from tutelage import lang
from tutelage.errors import DamagedError, DataError, InputError, MismatchError
from tutelage.files import hold, read_json, read_text, sweep, write_json, write_text

__all__ = ["RunFolder", "check_place"]

# In the order in which they are removed: without a manifest a run begins anew, and while the recipe is there the folder
# is known for a run's, wherever the removal was killed.
_OURS = (
    "manifest.json", "fold-*", "round-*", "iterate.json", "users.json", "metrics.jsonl", "log.txt", "teacher",
    "checkpoints", "students", "exports", "eval", "report.json", "report.html", "README.md", "trackers", "debug",
    "config.yaml",
)  # fmt: skip
_HALF_WRITTEN = re.compile(r"\..+\.\d+\.tmp")  # by a killed process, or by one that is at it; see `write_bytes`
_MOST_SHOWN = 12


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
            DamagedError: its manifest is not what a run wrote.
            BusyError: another process is at it.
        """
        resolved = check_place(path)
        with hold(resolved):
            sweep(resolved)
            folder = RunFolder(resolved, quiet=quiet)
            if overwrite:
                folder.clear()
            if (resolved / "manifest.json").exists():
                folder.manifest = _read_manifest(resolved / "manifest.json")
            fresh = not folder.manifest and not (resolved / "config.yaml").exists()
            try:
                yield folder
            except (InputError, MismatchError, DamagedError):
                # What is wrong was given, not made here: a run that never began must not stand in the way of the
                # command that mends it. Once a student learns there is something to keep.
                made = ("students", "checkpoints/seed-*", "fold-*/manifest.json", "round-*/manifest.json")
                if fresh and not any(any(resolved.glob(pattern)) for pattern in made):
                    folder.clear()
                raise

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
            try:
                print(lang.say(line), file=sys.stderr, flush=True)
            except BrokenPipeError:
                self._quiet = True  # whoever read along went away; the run goes on, and the log has every line

    def begin(self, config: str, differences: Callable[[str], list[str]], facts: Mapping[str, Any]) -> None:
        """Take up the run that is here, or start one.

        Args:
            config: the recipe as text.
            differences: what differs between an earlier recipe's text and this one, ready to print.
            facts: for the manifest; `data` decides whether the data is still the same.

        Raises:
            InputError: the run here has another recipe.
            DataError: the data is not what it was when the run began.
            DamagedError: the manifest is there, but the recipe is not, or is not text.
        """
        path = self.path / "config.yaml"
        if self.manifest and not path.is_file():
            raise DamagedError(f"{path} is missing", fix="add --overwrite to start again, or choose another --out")
        if path.is_file():
            changed = differences(read_text(path))
            if changed:
                shown = changed if len(changed) <= _MOST_SHOWN else [*changed[:_MOST_SHOWN], "…"]
                raise InputError(
                    f"{self.path} holds a run of another recipe: {len(changed)} difference{'s' * (len(changed) > 1)}",
                    given="\n            ".join(shown),
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

    def clear(self) -> None:
        """Remove what a run made; the lock stays, under which others may wait."""
        for path in [path for name in _OURS for path in self.path.glob(name)]:
            if not path.is_dir():
                path.unlink(missing_ok=True)
            # A fold or a round is a run, or one that never began.
            elif not (path.name.startswith(("fold-", "round-")) and _strangers(path)):
                shutil.rmtree(path)


def _counts(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in data["counts"].items()) + f", {data['fingerprint'][:12]}"


def check_place(path: Path) -> Path:
    """The absolute path of a folder in which a run may be, or may begin.

    Raises:
        InputError: it is a file, the whole disk, cannot be used, or holds something that is not a run.
        BusyError: another process is just filling it, or emptying it, so that nobody can say what it holds.
    """
    place = _usable(path)
    if _strangers(place) and (place / ".lock").is_file():
        with hold(place):
            pass
    if strangers := _strangers(place):
        raise InputError(
            f"{path} is not empty and holds no run",
            given=", ".join(strangers[:5]),
            fix="choose another folder with --out",
        )
    return place


def _usable(path: Path) -> Path:
    expected = "a folder such as runs/first"
    try:
        place = path.expanduser().absolute()
        if place == Path(place.anchor):
            raise InputError("a run cannot own the whole disk", given=str(path), expected=expected)
        if place.exists() and not place.is_dir():
            raise InputError(f"{path} is a file", expected="a folder for the run")
        _strangers(place)
        parent = next(parent for parent in place.parents if parent.exists())
    except (OSError, ValueError, RuntimeError) as error:  # a NUL; a `~` without a home
        if isinstance(error, InputError):
            raise
        said = getattr(error, "strerror", None) or str(error)
        raise InputError(f"no run can be in {str(path)[:80]!r}: {said}", expected=expected) from error
    if not parent.is_dir():
        raise InputError(f"{path} would lie in a file", given=str(parent), expected=expected)
    return place


def _strangers(place: Path) -> list[str]:
    """What lies in a folder, if that is not a run's."""
    names = {entry.name for entry in place.iterdir()} if place.exists() else set()
    if names & {"manifest.json", "config.yaml"}:
        return []
    return sorted(name for name in names if name != ".lock" and not _HALF_WRITTEN.fullmatch(name))


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = read_json(path)
    data = manifest.get("data")
    numbers = ("starts", "test_looks", "wall_seconds")
    whole = (
        isinstance(manifest.get("outcome"), str)
        and all(type(manifest.get(key)) in (int, float) for key in numbers)
        and isinstance(manifest.get("environment"), dict)
        and isinstance(data, dict)
        and isinstance(data.get("fingerprint"), str)
        and isinstance(data.get("counts"), dict)
    )
    if not whole:
        raise DamagedError(f"{path} is not what a run wrote", fix="restore it, or add --overwrite to start again")
    return manifest
