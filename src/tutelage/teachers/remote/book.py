"""The answer book: everything a server ever said, on disk before anybody learns from it, so that none is asked twice.

A line of the book is a question's digest, the answer, and a sum over both. Questions are digests of what is asked, not
of whom: a server that moves to another address goes on with the same book, and the book holds neither texts nor keys.
Lines are only ever added. The file is SQLite's, in its write-ahead mode: what was committed survives the death of the
process at any point, and of the machine where the disk keeps its word; several processes may use one book. Not for
network file systems.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, final

from tutelage.errors import DamagedError, TutelageError

__all__ = ["Book", "Spent", "digest_of"]

_FORMAT = 1
_APPLICATION = 0x7475746C  # "tutl", where SQLite keeps whose file it is
_AT_A_TIME = 500  # questions in one look-up
_PATIENCE = 60.0  # seconds for another process to finish its line
_LOOK = 0.05  # seconds between two looks at whether another process has its answer


@final
@dataclass(frozen=True, slots=True)
class Spent:
    """Requests that were sent, and tokens as the server counts them (as we estimate them, where it does not)."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.requests + other.requests, self.tokens_in + other.tokens_in, self.tokens_out + other.tokens_out
        )

    def times(self, count: int) -> Spent:
        """So many of them."""
        return Spent(count * self.requests, count * self.tokens_in, count * self.tokens_out)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(
            self.requests - other.requests, self.tokens_in - other.tokens_in, self.tokens_out - other.tokens_out
        )


def digest_of(*parts: bytes) -> bytes:
    """SHA-256 over parts, each with its length, so that no two lists of parts look alike."""
    digest = hashlib.sha256(b"tutelage question 1")
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


@final
class Book:
    """A book of answers, opened or begun; safe in several threads and processes.

    Args:
        path: its file; folders above it are made.

    Raises:
        DamagedError: the file is no book, or of a format that this version does not know.
        TutelageError: it cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            self._claims = os.open(path.with_name(f"{path.name}-claims"), os.O_RDWR | os.O_CREAT, 0o644)
        self._close = weakref.finalize(self, _close, self._file, self._claims)
        try:
            with _told(path):
                self._open()
        except BaseException:
            self._close()
            raise

    def __len__(self) -> int:
        with self._lock, _told(self.path):
            return int(self._file.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def find(self, questions: Sequence[bytes]) -> dict[bytes, bytes]:
        """The answers to those of some questions that have one.

        Raises:
            DamagedError: a line is not what was written.
        """
        found: dict[bytes, bytes] = {}
        for start in range(0, len(questions), _AT_A_TIME):
            part = questions[start : start + _AT_A_TIME]
            marks = ", ".join("?" * len(part))
            with self._lock, _told(self.path):
                rows = self._file.execute(
                    f"SELECT question, answer, sum FROM answers WHERE question IN ({marks})",  # noqa: S608  marks only
                    part,
                ).fetchall()
            for question, answer, kept in rows:
                if not isinstance(answer, bytes) or kept != _sum(question, answer):
                    raise DamagedError(
                        f"a line of the answer book {self.path} is not what was written",
                        fix="restore the book from a copy, or move it away, which asks, and pays, anew",
                    )
                found[question] = answer
        return found

    def add(self, answers: Mapping[bytes, bytes], teacher: str = "", spent: Spent | None = None) -> None:
        """Write answers, all of them or none, and what they cost; they are on the disk when this returns.

        A question that has its answer keeps it.
        """
        lines = [(question, answer, _sum(question, answer)) for question, answer in answers.items()]
        with self._lock, _told(self.path), self._whole():
            self._file.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", lines)
            if spent is not None:
                cost = (teacher, spent.requests, spent.tokens_in, spent.tokens_out)
                self._file.execute("INSERT INTO spent VALUES (?, ?, ?, ?)", cost)

    def spent(self, teacher: str) -> Spent:
        """What a teacher has cost since the book was begun."""
        with self._lock, _told(self.path):
            found = self._file.execute(
                "SELECT TOTAL(requests), TOTAL(tokens_in), TOTAL(tokens_out) FROM spent WHERE teacher = ?", (teacher,)
            ).fetchone()
        return Spent(*map(int, found))

    @contextlib.contextmanager
    def claim(self, question: bytes, check: Callable[[], None]) -> Iterator[None]:
        """Hold a question while it is asked, so that no other process that uses this book asks it meanwhile.

        Whoever has waited looks into the book again. A claim dies with its process.

        Args:
            question: its digest.
            check: called while another process has it; may raise.
        """
        # The system's locks are on bytes of a file, which may lie far behind its end; two questions on one byte would
        # only wait for each other.
        byte = int.from_bytes(question[:8], "little") >> 2
        while True:
            try:
                fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
                break
            except OSError:
                check()
                time.sleep(_LOOK)
        try:
            yield
        finally:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, byte)

    def close(self) -> None:
        """Close the file; the book cannot be used any more."""
        with self._lock:
            self._close()

    def _open(self) -> None:
        # In this order: whoever begins the book at this moment writes tables and numbers in one transaction, so that
        # where there are tables there are numbers; the other way round neither might be seen, and then the tables.
        tables = self._file.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        known, version = (
            self._file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if tables and (known, version) != (_APPLICATION, _FORMAT):
            raise DamagedError(
                f"{self.path} is no answer book of this version",
                given="a newer one" if known == _APPLICATION else "another file of SQLite",
                fix="choose another place for the book",
            )
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = FULL")
        if not tables:
            with self._whole():  # two processes may begin one book at the same time
                _begin(self._file)
                self._file.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._file.execute(f"PRAGMA user_version = {_FORMAT}")

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """One transaction."""
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")


def _begin(file: sqlite3.Connection) -> None:
    file.execute(
        "CREATE TABLE IF NOT EXISTS answers (question BLOB PRIMARY KEY, answer BLOB NOT NULL, sum BLOB NOT NULL) "
        "WITHOUT ROWID"
    )
    file.execute(
        "CREATE TABLE IF NOT EXISTS spent "
        "(teacher TEXT NOT NULL, requests INTEGER NOT NULL, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL)"
    )
    for deed in ("UPDATE", "DELETE"):
        file.execute(
            f"CREATE TRIGGER IF NOT EXISTS no_{deed.lower()} BEFORE {deed} ON answers "
            "BEGIN SELECT RAISE(ABORT, 'only added to'); END"
        )


def _close(file: sqlite3.Connection, claims: int) -> None:
    with contextlib.suppress(sqlite3.Error):
        file.close()
    os.close(claims)


def _sum(question: bytes, answer: bytes) -> bytes:
    return hashlib.blake2b(question + answer, digest_size=8).digest()


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What SQLite says, in our words."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise TutelageError(
            f"the answer book {path} cannot be used: {error}",
            fix="is there space, may the folder be written, and is it no network file system?",
        ) from error
    except sqlite3.DatabaseError as error:
        raise DamagedError(
            f"{path} is no answer book, or is damaged: {error}",
            fix="restore the book from a copy, or move it away, which asks, and pays, anew",
        ) from error
    except OSError as error:
        raise TutelageError(f"the answer book {path} cannot be used: {error.strerror or os.fspath(path)}") from error
