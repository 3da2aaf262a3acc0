"""What a client is told when it gets no answer: the four parts of every message of ours, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, final

from tutelage.errors import InputError

__all__ = ["RefusedError", "to_json"]


@final
class RefusedError(InputError):
    """A request that is not answered.

    Args:
        status: of HTTP.
        what, given, expected, fix: as in every error of tutelage.
        headers: that go along.
    """

    def __init__(
        self, status: int, what: str, *, given: object = None, expected: str | None = None, fix: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        super().__init__(what, given=given, expected=expected, fix=fix)
        self.status = status
        self.headers = headers

    def body(self) -> bytes:
        """`{"error": {"what": …, "given": …, "expected": …, "fix": …}}`, without what there is nothing to say of."""
        return to_json({"error": {key: said for key, said in asdict(self.problem).items() if said is not None}})

    def raw(self) -> bytes:
        """The whole answer, for a connection that speaks no HTTP, or speaks it too slowly."""
        body = self.body()
        head = {
            "content-type": "application/json", "content-length": str(len(body)), **self.headers, "connection": "close"
        }  # fmt: skip
        lines = [
            " ".join(("HTTP/1.1", str(self.status), HTTPStatus(self.status).phrase)),
            *(f"{k}: {v}" for k, v in head.items()),
        ]
        return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def to_json(value: Any) -> bytes:
    """JSON without spaces; every character that a client may have sent is escaped."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
