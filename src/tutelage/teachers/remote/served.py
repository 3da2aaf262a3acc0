"""What an endpoint of `tutelage serve` says of itself, and what follows from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, final

from tutelage.data.images import printable
from tutelage.errors import ModelError, TutelageError
from tutelage.teachers.remote.settings import OwnSettings

__all__ = ["NUMBER", "Served"]

NUMBER = 26  # bytes that a number takes in JSON, at most, with its comma
_TEXTS = 1_000_000  # characters of texts that a server takes in one request
_LONGEST_NAME = 200


@final
class Served:
    """What a server says of its model; nothing of it is believed before it is looked at."""

    def __init__(self, told: Mapping[str, Any], where: str) -> None:
        classes, shape, limits = told.get("classes"), told.get("input_shape"), told.get("limits")
        digest, limits = told.get("sha256"), limits if isinstance(limits, dict) else {}
        if not (_is_names(classes) and _is_shape(shape) and isinstance(digest, str) and 0 < len(digest) <= 128):
            raise ModelError(
                "this is no endpoint of `tutelage serve`", where=where,
                expected="/model that tells classes, input_shape and sha256",
                fix="for a server that speaks the chat protocol, write chat: before its address",
            )  # fmt: skip
        self.where, self.sha256 = where, digest
        self.classes: tuple[str, ...] = tuple(classes)
        self.shape: tuple[int, ...] = tuple(shape)
        self.name = printable(str(told.get("name", "a model"))[:80])
        tasks = told.get("tasks")
        self.tasks = max(1, len(tasks)) if isinstance(tasks, dict) else 1
        self.vocabulary = _limit(told.get("vocabulary")) or 0  # 0: it reads no tokens
        columns, reads = told.get("columns"), told.get("reads")
        self.columns: dict[str, str] = dict(columns) if _is_columns(columns) else {}
        self.reads = reads if isinstance(reads, str) and 0 < len(reads) <= 128 else None  # a digest of what reads them
        self.questions = isinstance(told.get("answers"), dict)
        self.together = told.get("shared_calls") is not False
        self._max_batch, self._max_bytes = _limit(limits.get("max_batch")), _limit(limits.get("max_bytes"))

    def order_for(self, classes: Sequence[str]) -> list[int]:
        """The server's outputs in the order of the data's classes.

        Raises:
            ModelError: they are not the same classes.
        """
        theirs = {_plain(name): number for number, name in enumerate(self.classes)}
        ours = [_plain(name) for name in classes]
        if len(theirs) < len(self.classes) or len(set(ours)) < len(ours):
            # Names that differ in nothing but their writing are told apart as they are written.
            theirs, ours = {name: number for number, name in enumerate(self.classes)}, list(classes)
        lacking = [name for name, own in zip(classes, ours, strict=True) if own not in theirs]
        if lacking or len(ours) != len(theirs):
            more = [name for name in self.classes if name not in ours and _plain(name) not in ours]
            raise ModelError(
                "the remote teacher knows other classes than the data", where=self.where,
                given=f"{len(self.classes)} classes" + (f", among them {', '.join(more[:5])}" if more else ""),
                expected=f"{len(classes)} classes" + (f", among them {', '.join(lacking[:5])}" if lacking else ""),
                fix="serve a model of these classes; the order does not matter, the names do",
            )  # fmt: skip
        return [theirs[name] for name in ours]

    def parts(self, sizes: Sequence[int], settings: OwnSettings, *, as_json: bool) -> list[range]:
        """Examples that fit together into one request and its answer, one after the other.

        Args:
            sizes: bytes of each.
            settings: how it is asked.
            as_json: whether they are sent as JSON.

        Raises:
            TutelageError: one of them fits into none.
        """
        most, room = self._rows(settings, as_json), self._room(as_json)
        found, begin, held = list[range](), 0, 0
        for number, size in enumerate(sizes):
            if size > room or most < 1:
                raise TutelageError(
                    "one example is more than the server, or `max_bytes`, allows", where=self.where,
                    given=f"{size:,} bytes",
                    fix="cut the view by a smaller `limit`"
                    if room == _TEXTS
                    else "start the server with a larger --max-bytes",
                )  # fmt: skip
            if number - begin == most or held + size > room:
                found.append(range(begin, number))
                begin, held = number, 0
            held += size
        return [*found, range(begin, len(sizes))] if sizes else found

    def _rows(self, settings: OwnSettings, as_json: bool) -> int:
        names = max(map(len, map(json.dumps, self.classes))) * self.tasks  # one class is named for each task
        answer = len(self.classes) * 2 * NUMBER + names + 8
        # Whose answers depend on company is asked about one at a time.
        sizes = [settings.rows if self.together else 1, (settings.max_bytes - 256) // answer]
        if as_json and self.columns and self._max_bytes:
            sizes.append(max(1, self._max_bytes // (2 * math.prod(self.shape))))  # what is made of them has to fit, too
        return min(sizes if self._max_batch is None else [*sizes, self._max_batch])

    def _room(self, as_json: bool) -> int:
        room = (self._max_bytes or 2**62) - (64 if as_json else 0)
        return min(room, _TEXTS) if as_json and self.columns else room


def _is_names(told: Any) -> TypeGuard[list[str]]:
    if not isinstance(told, list) or set(map(type, told)) != {str} or len(set(told)) < len(told):
        return False
    return all(name.isprintable() for name in told)


def _is_shape(told: Any) -> TypeGuard[list[int]]:
    return isinstance(told, list) and bool(told) and all(type(size) is int and 0 < size < 2**24 for size in told)


def _is_columns(told: Any) -> TypeGuard[dict[str, str]]:
    # They stand in messages: what a server writes must not move a terminal's cursor.
    return isinstance(told, dict) and all(
        isinstance(kind, str) and name.isprintable() and kind.isprintable() and len(name) <= _LONGEST_NAME
        for name, kind in told.items()
    )


def _limit(told: Any) -> int | None:
    return told if type(told) is int and told > 0 else None


def _plain(name: str) -> str:
    """A name without what people write differently: case, underscores, blanks around it."""
    return name.strip().replace("_", " ").casefold()
