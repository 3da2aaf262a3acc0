"""One attempt at one request: over a new connection or a kept one, in no more time and bytes than are allowed.

The standard library's client does what is needed here and nothing behind one's back: it follows no redirects, keeps no
cookies, decodes no compressed bodies, and reads the environment only where we ask it to.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
import urllib.request
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final
from urllib.parse import unquote, urlsplit

from tutelage.errors import InputError, TutelageError
from tutelage.teachers.remote.address import Address

__all__ = ["Connections", "FalteringError", "Reply", "Request"]

_KEPT = 64  # idle connections
_LATE = "no answer in time"


@final
@dataclass(frozen=True, slots=True)
class Request:
    """What is sent.

    Args:
        method: GET or POST.
        path: below the address, beginning with a slash.
        body: bytes, or b"" for none.
        headers: beside the key and those of HTTP itself.
    """

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, path: str, value: Mapping[str, Any]) -> Request:
        """A POST of JSON."""
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        return cls("POST", path, body, {"content-type": "application/json"})


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: status, headers with names in small letters, the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@final
class FalteringError(Exception):
    """An attempt that failed in a way that another one may not.

    Args:
        what: in words, for whoever is told in the end.
        after: seconds that the server asks for; None where it does not say.
        met: whether somebody speaking HTTP was there at all.
    """

    def __init__(self, what: str, *, after: float | None = None, met: bool = True) -> None:
        super().__init__(what)
        self.what, self.after, self.met = what, after, met


@final
class Connections:
    """Connections to one server, kept for several requests; safe in several threads.

    Args:
        address: the server.
        headers: sent with every request; never shown.
        most: bytes of an answer.

    Raises:
        InputError: the proxy that the environment names cannot be used.
    """

    def __init__(self, address: Address, headers: Mapping[str, str], *, most: int) -> None:
        self._address, self._headers, self._most = address, dict(headers), most
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._idle)
        self._tls = ssl.create_default_context() if address.scheme == "https" else None
        self._proxy = _proxy_of(address)

    def send(self, request: Request, seconds: float) -> Reply:
        """One attempt.

        Args:
            request: what to send.
            seconds: until the last byte of the answer.

        Raises:
            FalteringError: it failed in a way that may pass.
            TutelageError: it failed for good: another identity than the certificate's, or too long an answer.
        """
        end = time.monotonic() + seconds
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        if kept is not None:
            try:
                return self._over(kept, request, end)
            except _StaleError:
                pass  # closed while nobody used it: nothing of this request was answered
        try:
            return self._over(self._connected(end), request, end)
        except _StaleError as stale:
            raise FalteringError("the connection was closed without an answer") from stale

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            _close(self._idle)

    def _connected(self, end: float) -> http.client.HTTPConnection:
        seconds = max(0.01, end - time.monotonic())
        address, proxy = self._address, self._proxy
        host, port = (address.host, address.port) if proxy is None else (proxy.host, proxy.port)
        line: http.client.HTTPConnection
        if self._tls is not None:
            line = http.client.HTTPSConnection(host, port, timeout=seconds, context=self._tls)
            if proxy is not None:
                line.set_tunnel(address.host, address.port, dict(proxy.headers))
        else:
            line = http.client.HTTPConnection(host, port, timeout=seconds)
        try:
            line.connect()
            line.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except ssl.SSLCertVerificationError as error:
            line.close()
            raise TutelageError(
                f"{address.shown} cannot prove who it is: {error.verify_message}", expected="a certificate of its own",
                fix="look at the address; authorities of your own go into the variable SSL_CERT_FILE",
            ) from None  # fmt: skip
        except (OSError, http.client.HTTPException) as error:
            line.close()
            raise FalteringError(f"no connection: {_said(error)}", met=False) from error
        return line

    def _over(self, line: http.client.HTTPConnection, request: Request, end: float) -> Reply:
        """Ask over a connection, which is kept or closed afterwards.

        A timeout of the socket counts from byte to byte, so that a slow server could take for ever; a watch ends it.
        """
        late = threading.Event()

        def expire() -> None:
            late.set()
            with contextlib.suppress(OSError, ValueError):
                line.sock.shutdown(socket.SHUT_RDWR)

        watch = threading.Timer(max(0.0, end - time.monotonic()), expire)
        watch.daemon = True
        watch.start()
        kept = False
        try:
            reply, kept = self._exchange(line, request)
            if late.is_set():  # a body without a length ends wherever the connection does
                raise FalteringError(_LATE)
            return reply
        except FalteringError as error:
            raise FalteringError(_LATE if late.is_set() else error.what) from error
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            if late.is_set():
                raise FalteringError(_LATE) from error
            raise _StaleError from error
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            # The watch takes the socket from under the feet of whoever reads it, which can look like anything.
            if late.is_set() or isinstance(error, TimeoutError):
                raise FalteringError(_LATE) from error
            if isinstance(error, AttributeError):
                raise
            raise FalteringError(f"the answer broke off: {_said(error)}") from error
        finally:
            watch.cancel()
            with self._lock:
                kept = kept and not late.is_set() and len(self._idle) < _KEPT
                if kept:
                    self._idle.append(line)
            if not kept:
                line.close()

    def _exchange(self, line: http.client.HTTPConnection, request: Request) -> tuple[Reply, bool]:
        """The answer, and whether the connection can be used again."""
        path, headers = self._address.path + request.path, {**self._headers, **request.headers}
        if self._proxy is not None and self._tls is None:
            path, headers = f"http://{self._address.authority}{path}", {**headers, **self._proxy.headers}
            headers["host"] = self._address.authority
        line.request(request.method, path, request.body or None, headers)
        answer = line.getresponse()
        if answer.length is not None and answer.length > self._most:
            raise _too_long(f"{answer.length:,} bytes", self._most)
        try:
            body = answer.read(self._most + 1)
        except ConnectionResetError as error:
            raise FalteringError("the connection broke within the answer") from error
        if len(body) > self._most:
            raise _too_long("more", self._most)
        if answer.length:
            raise FalteringError(f"the answer broke off {answer.length:,} bytes before its end")
        found = {name.lower(): text for name, text in answer.getheaders()}
        if found.get("content-encoding", "identity").lower() != "identity":
            raise TutelageError(
                "the answer is compressed, which nobody asked for", given=found["content-encoding"][:40]
            )
        return Reply(answer.status, found, body), answer.isclosed() and not answer.will_close


def _close(lines: list[http.client.HTTPConnection]) -> None:
    while lines:
        lines.pop().close()


class _StaleError(Exception):
    """The other side closed before the first byte of an answer."""


@final
@dataclass(frozen=True, slots=True)
class _Proxy:
    host: str
    port: int
    headers: Mapping[str, str]


def _proxy_of(address: Address) -> _Proxy | None:
    """The proxy that the environment names for an address; never for this machine, whoever it is named for."""
    if address.is_local or urllib.request.proxy_bypass(address.authority):
        return None
    named = urllib.request.getproxies().get(address.scheme)
    if not named:
        return None
    try:
        parts = urlsplit(named if "//" in named else f"//{named}", scheme="http")
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host = None
    if not host or parts.scheme != "http":
        raise InputError(
            f"the proxy that the environment names for {address.scheme} cannot be used", expected="http://host:port",
            fix=f"mend {address.scheme.upper()}_PROXY, or name {address.host} in NO_PROXY",
        )  # fmt: skip
    headers = {}
    if parts.username is not None:
        who = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(who.encode()).decode('ascii')}"
    return _Proxy(host, port, headers)


def _too_long(given: str, most: int) -> TutelageError:
    return TutelageError(
        "the answer is too long",
        given=given,
        expected=f"{most:,} bytes at most",
        fix="raise `max_bytes`, or ask for less",
    )


def _said(error: BaseException) -> str:
    """An error in its own words, without numbers of the system."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text[:200]
