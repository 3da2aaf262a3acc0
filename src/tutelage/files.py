"""Files that are either whole or absent, folders that one process holds at a time, and what a file's bytes add up to.

A file is written under a temporary name beside its place, flushed, synced and renamed, and the folder is synced: a
reader meets the old file or the new one, never half of one. Durable on local journaling file systems; on NFS the rename
is atomic, but a power cut may lose it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tutelage.errors import BusyError, DamagedError, TutelageError


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or none.

    Raises:
        TutelageError: the disk is full, or the folder cannot be written; what stood there before stands there still.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise TutelageError(
            f"cannot write {path}: {error.strerror or error}",
            given=f"{len(data):,} bytes",
            fix="free some space, or choose another folder; what was saved before is intact",
        ) from error


def append_line(path: Path, line: str) -> None:
    """Add a line to a log of which a torn last line does no harm."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def remove(path: Path) -> None:
    """Remove a file for good, if it is there."""
    if path.is_file():
        path.unlink()
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file or none, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a whole JSON file or none; NaN and infinity are refused, since no other reader takes them."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: Path) -> str:
    """Read a text file that tutelage wrote.

    Raises:
        DamagedError: it is not UTF-8, or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedError(f"cannot read {path}: {error}", fix="restore the file from a copy, or remove it") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DamagedError: the file is not a JSON object.
    """
    try:
        value = json.loads(read_text(path))
    except ValueError as error:
        raise DamagedError(f"cannot read {path}: {error}", fix="restore the file from a copy, or remove it") from error
    if not isinstance(value, dict):
        raise DamagedError(f"{path} holds no JSON object", given=type(value).__name__)
    return value


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written below a folder that this process holds."""
    for stray in sorted(folder.rglob(".*.tmp")):
        if stray.is_dir():
            shutil.rmtree(stray, ignore_errors=True)
        else:
            stray.unlink(missing_ok=True)


def human_bytes(count: float) -> str:
    """`1536` -> `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def cache_folder() -> Path:
    """Where things that can be made again are kept: `$TUTELAGE_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("TUTELAGE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen).expanduser() if chosen else Path(base) / "tutelage"


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a folder for this process until the block ends; the lock dies with the process, so none is ever stale.

    Raises:
        BusyError: another process holds it; the message names it.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise BusyError(
                f"{folder} is in use by {holder}", fix="wait for it to end, or choose another folder with --out"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
