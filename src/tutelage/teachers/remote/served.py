"""What an endpoint of `tutelage serve` says of itself, and what follows from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, final

from tutelage.errors import ModelError, TutelageError
from tutelage.teachers.remote.settings import OwnSettings

__all__ = ["Served"]

_NUMBER = 26  # bytes that a number takes in JSON, at most, with its comma


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
        self.name = str(told.get("name", "a model"))[:80]
        tasks = told.get("tasks")
        self.tasks = max(1, len(tasks)) if isinstance(tasks, dict) else 1
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

    def rows_per_request(self, settings: OwnSettings) -> int:
        """How many examples fit into one request and its answer."""
        if not self.together:
            return 1  # whose answers depend on company is asked about one at a time
        numbers = math.prod(self.shape)
        each = numbers * (4 if settings.body == "raw" else _NUMBER)
        names = max(map(len, map(json.dumps, self.classes))) * self.tasks  # one class is named for each task
        answer = len(self.classes) * 2 * _NUMBER + names + 8
        sizes = [settings.rows, (settings.max_bytes - 256) // answer]
        if self._max_batch:
            sizes.append(self._max_batch)
        if self._max_bytes:
            sizes.append((self._max_bytes - (64 if settings.body == "json" else 0)) // each)
        if min(sizes) < 1:
            raise TutelageError(
                "one example is more than the server, or `max_bytes`, allows", where=self.where,
                given=f"{each:,} bytes",
                fix="start the server with a larger --max-bytes",
            )  # fmt: skip
        return min(sizes)


def _is_names(told: Any) -> TypeGuard[list[str]]:
    return isinstance(told, list) and set(map(type, told)) == {str} and len(set(told)) == len(told)


def _is_shape(told: Any) -> TypeGuard[list[int]]:
    return isinstance(told, list) and bool(told) and all(type(size) is int and 0 < size < 2**24 for size in told)


def _limit(told: Any) -> int | None:
    return told if type(told) is int and told > 0 else None


def _plain(name: str) -> str:
    """A name without what people write differently: case, underscores, blanks around it."""
    return name.strip().replace("_", " ").casefold()
