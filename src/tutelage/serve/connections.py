"""Connections that cannot be held open by sending, or taking, one byte at a time; what they are told is JSON."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tutelage.serve.limits import Limits
from tutelage.serve.refusals import RefusedError

__all__ = ["connection"]


class _Connection(H11Protocol):
    """Uvicorn's, which waits for heads of requests, and for answers to be taken, as long as a client likes."""

    limits: Limits

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._head: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Head and body are written one after the other. Without this the body waits until the client has confirmed the
        # head, which takes 40 ms; asyncio does it only for sockets whose protocol was named when they were made.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > self.limits.connections:
            self._say(RefusedError(
                503, "too many connections are open", expected=f"{self.limits.connections:,} at most",
                fix="ask again after a second, and keep connections for several requests",
                headers={"retry-after": "1"},
            ))  # fmt: skip
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop("_head", "_stuck")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop("_stuck")
        self._stuck = self.loop.call_later(self.limits.timeout, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop("_stuck")
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():  # closing would wait until it is taken
            self.transport.abort()

    def shutdown(self) -> None:
        # A connection that broke the protocol and is about to close cannot be told that it closes.
        with contextlib.suppress(h11.LocalProtocolError):
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        self._say(RefusedError(400, "this is no HTTP", expected="HTTP/1.1"))

    def _watch(self) -> None:
        """The clock runs while a head is awaited, or the rest of a body that is answered already."""
        answered = self.cycle is not None and self.cycle.response_complete
        if self.conn.their_state is h11.IDLE or (self.conn.their_state is h11.SEND_BODY and answered):
            if self._head is None and not self.transport.is_closing():
                self._head = self.loop.call_later(self.limits.timeout, self._overdue)
        else:
            self._stop("_head")

    def _overdue(self) -> None:
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._say(RefusedError(
                408, "the request did not arrive in time", given="a part of its head",
                expected=f"all of it within {self.limits.timeout:g} s",
            ))  # fmt: skip
        else:
            self.transport.abort()

    def _stop(self, *clocks: str) -> None:
        for name in clocks:
            timer: asyncio.TimerHandle | None = getattr(self, name)
            if timer is not None:
                timer.cancel()
            setattr(self, name, None)

    def _say(self, refused: RefusedError) -> None:
        """The last words, past the protocol; none where an answer has begun."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(refused.raw())
        self.transport.close()


def connection(limits: Limits) -> type[H11Protocol]:
    """The class of connections with these limits, as uvicorn's setting `http` takes it."""
    return type(_Connection.__name__, (_Connection,), {"limits": limits})
