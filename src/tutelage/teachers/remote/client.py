"""Asking a server until it answers, or until that is hopeless: pauses, what it asks us to wait, and an end to it."""

from __future__ import annotations

import email.utils
import hashlib
import json
import math
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, final

from tutelage.errors import InputError, TutelageError
from tutelage.teachers.remote.address import Address, key_from
from tutelage.teachers.remote.connection import Connections, FalteringError, Reply, Request
from tutelage.teachers.remote.settings import WireSettings

__all__ = ["Client", "StoppedError", "parsed"]

T = TypeVar("T")

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_UNMET = 2  # attempts more while nobody has ever answered: a wrong address should not take half a minute
_SHOWN = 300


@final
class StoppedError(Exception):
    """Somebody else's request failed for good, so that this one is not tried any further."""


@final
class Client:
    """A server that is asked; safe in several threads.

    Args:
        address: where it is.
        settings: how it is asked.

    Raises:
        InputError: the key's variable, or the environment's proxy, cannot be used.
    """

    def __init__(self, address: Address, settings: WireSettings) -> None:
        self.address, self._settings = address, settings
        self._key = key_from(settings.key_env)
        headers = {"user-agent": "tutelage", "accept": "application/json"}
        if self._key is not None:
            bearer = settings.key_header.lower() == "authorization"
            headers[settings.key_header] = f"Bearer {self._key}" if bearer else self._key
        self._connections = Connections(address, headers, most=settings.max_bytes)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._not_before = 0.0  # on the monotonic clock: the server asked all of us to wait
        self._met = False

    def ask(self, request: Request, read: Callable[[Any], T], *, before: Callable[[], None] = lambda: None) -> T:
        """Send a request until it is answered.

        Args:
            request: what to send.
            read: makes of the JSON of an answer what is wanted; `FalteringError` asks once more.
            before: called before every attempt; may raise.

        Raises:
            TutelageError: it was refused, failed too often, or took too long.
            StoppedError: `stop` was called.
        """
        end = time.monotonic() + self._settings.deadline
        attempt = 0
        while True:
            self._wait_for_all(end)
            before()
            try:
                reply = self._connections.send(request, min(self._settings.timeout, max(0.01, end - time.monotonic())))
                self._met = True
                return read(parsed(self._checked(reply)))
            except FalteringError as fault:
                self._met = self._met or fault.met
                self._pause(fault, request, attempt, end)
            attempt += 1

    def check(self) -> None:
        """Raise `StoppedError` where `stop` was called."""
        if self._stop.is_set():
            raise StoppedError

    def stop(self) -> None:
        """Let requests under way end, and start no further attempt."""
        self._stop.set()

    def resume(self) -> None:
        """Start anew after a stop."""
        self._stop.clear()

    def close(self) -> None:
        """Close connections that are idle."""
        self._connections.close()

    def _wait_for_all(self, end: float) -> None:
        with self._lock:
            seconds = self._not_before - time.monotonic()
        if seconds > 0:
            if time.monotonic() + seconds >= end:
                late = FalteringError("it asks everybody to wait")
                raise self._given_up(late, f"{seconds:,.0f} s more, beyond the deadline")
            self._stop.wait(seconds)
        self.check()

    def _pause(self, fault: FalteringError, request: Request, attempt: int, end: float) -> None:
        retries = self._settings.retries if self._met else min(self._settings.retries, _UNMET)
        if attempt >= retries:
            raise self._given_up(fault, f"{attempt + 1} attempts") from fault
        seconds = max(self._back_off(request, attempt), fault.after or 0.0)
        if time.monotonic() + seconds >= end:
            waits = f"{seconds:,.0f} s more were to be waited" if fault.after else f"{attempt + 1} attempts"
            raise self._given_up(fault, f"{waits}, beyond the deadline of {self._settings.deadline:g} s") from fault
        if fault.after is not None:
            with self._lock:
                self._not_before = max(self._not_before, time.monotonic() + fault.after)
        if self._stop.wait(seconds):
            raise StoppedError

    def _back_off(self, request: Request, attempt: int) -> float:
        """Twice as long every time, times a number in ½ … 1 that is drawn from seed, request and attempt."""
        told = f"{self._settings.seed} {attempt} {request.path} ".encode() + request.body
        drawn = int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "little") / 2**64
        return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**attempt) * (0.5 + drawn / 2)

    def _given_up(self, fault: FalteringError, how: str) -> TutelageError:
        return TutelageError(
            f"{self.address.shown} does not answer: {fault.what}", given=how,
            fix="what was answered is kept; start again when the server is well, or raise `retries` and `deadline`"
            if self._met else "is the server running, and is the address right?",
        )  # fmt: skip

    def _checked(self, reply: Reply) -> bytes:
        """The body of an answer that is one.

        Raises:
            FalteringError: it may be answered later.
            InputError, TutelageError: it will not.
        """
        status = reply.status
        if status == 200:
            return reply.body
        said = self._words(reply.body)
        if status in _PASSING:
            raise FalteringError(
                f"HTTP {status}{f', {said}' if said else ''}", after=_seconds(reply.headers.get("retry-after"))
            )
        raise self._refused(status, said, reply)

    def _refused(self, status: int, said: str, reply: Reply) -> InputError:
        if 300 <= status < 400:
            return InputError(
                f"{self.address.shown} sends elsewhere (HTTP {status}), and is not followed",
                given=self._clean(reply.headers.get("location", "").partition("?")[0]) or None,
                fix="if you trust that address, write it into the recipe",
            )
        if status in (401, 403):
            return InputError(
                f"{self.address.shown} refuses the key (HTTP {status})" if self._key
                else f"{self.address.shown} wants a key (HTTP {status})",
                given=said or None,
                fix=f"look at the variable {self._settings.key_env}" if self._key
                else "name the variable of the environment that holds it: key_env",
            )  # fmt: skip
        return InputError(
            f"{self.address.shown} refuses the request (HTTP {status})", given=said or None,
            fix="is the address right?" if status in (404, 405) else None,
        )  # fmt: skip

    def _words(self, body: bytes) -> str:
        """What a server says of its refusal, short, and never with the key in it."""
        try:
            told: Any = json.loads(body)
        except (ValueError, RecursionError):
            return self._clean(body[:2000].decode("utf-8", "replace"))
        for key in ("error", "message", "what", "detail"):
            if isinstance(told, dict) and key in told:
                told = told[key]
        return self._clean(told if isinstance(told, str) else json.dumps(told))

    def _clean(self, text: str) -> str:
        text = text if self._key is None else text.replace(self._key, "…")
        text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def parsed(body: bytes) -> Any:
    """JSON, in which no number is NaN or infinite.

    Raises:
        FalteringError: it is none; servers that break down send pages and halves.
    """
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        shown = str(error) if isinstance(error, _ConstantError) else "the answer is no JSON"
        raise FalteringError(shown) from error


class _ConstantError(ValueError):
    """NaN or infinity in place of a number."""


def _no_constant(name: str) -> float:
    raise _ConstantError(f"the answer holds {name}, which is no number")


def _seconds(text: str | None) -> float | None:
    """What `Retry-After` says: seconds, or a date."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
