"""Who works on what: a lock on one file, whose first byte guards plan and manifest, and each further byte one shard.
One byte far behind is held, together, by all who build.

So several processes share a build without talking to each other: each takes the next shard that nobody holds. The locks
die with their process. On NFS they work from version 4 on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self, final

from tutelage.errors import InputError

__all__ = ["BuildLock"]

# The system's locks belong to the process: between threads it takes one of Python's.
_IN_PROCESS = threading.Lock()
_PRESENCE = 1 << 40


@final
class BuildLock:
    """The lock of one store's folder; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._file: int | None = None

    def __enter__(self) -> Self:
        _IN_PROCESS.acquire()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            _IN_PROCESS.release()
            raise InputError(
                f"no store can be in {self._path.parent}: {error.strerror or error}",
                fix="choose another folder with --store or TUTELAGE_STORE",
            ) from error
        except BaseException:
            _IN_PROCESS.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        os.close(self._file)  # which gives every lock back
        _IN_PROCESS.release()

    @contextlib.contextmanager
    def planning(self) -> Iterator[None]:
        """Hold plan and manifest; waits for the few milliseconds that others take."""
        fcntl.lockf(self._open, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(self._open, fcntl.LOCK_UN, 1, 0)

    def claim(self, shard: int) -> bool:
        """Take one shard, if nobody has it."""
        return self._try(1, 1 + shard)

    def release(self, shard: int) -> None:
        fcntl.lockf(self._open, fcntl.LOCK_UN, 1, 1 + shard)

    def join(self) -> None:
        """Be seen by others as one of those who build; to be called while planning."""
        fcntl.lockf(self._open, fcntl.LOCK_SH, 1, _PRESENCE)

    def leave(self) -> None:
        fcntl.lockf(self._open, fcntl.LOCK_UN, 1, _PRESENCE)

    def alone(self) -> bool:
        """Whether nobody else is building; to be called while planning, before joining."""
        if not self._try(1, _PRESENCE):
            return False
        fcntl.lockf(self._open, fcntl.LOCK_UN, 1, _PRESENCE)
        return True

    def sign(self) -> None:
        """Say who builds here, for those who wait."""
        with contextlib.suppress(OSError):  # on a full disk the name stays unknown
            os.ftruncate(self._open, 0)
            os.pwrite(self._open, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def holder(self) -> str:
        """Who signed last."""
        return os.pread(self._open, 200, 0).decode(errors="replace") or "another process"

    @property
    def _open(self) -> int:
        assert self._file is not None
        return self._file

    def _try(self, length: int, start: int) -> bool:
        try:
            fcntl.lockf(self._open, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except OSError:
            return False
        return True
