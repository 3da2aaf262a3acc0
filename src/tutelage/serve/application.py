"""The three addresses of a server, and what each says."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tutelage.export import Runner
from tutelage.serve.answers import Answers
from tutelage.serve.batching import Batcher
from tutelage.serve.columns import columns_of
from tutelage.serve.limits import Limits
from tutelage.serve.reading import KINDS, Asked, Options, read
from tutelage.serve.refusals import RefusedError, to_json

__all__ = ["Service", "local_name"]

_SMALL = 64 * 2**10  # bytes of JSON that are read so quickly that nobody else notices
_FEW = 10_000  # numbers of an answer that are written so quickly


@final
class Service:
    """A runner with an address; `application` is what a server of ASGI is given.

    Args:
        runner: (B, …) → (B, C), with its facts.
        told: what `/health` and `/model` say of its file: name, format, sha256, bytes.
        limits: what it takes at most.
        together: whether requests may share a call.
        name: of its address, if only this machine reaches it; then it answers only to that and to usual names of a
            machine for itself. None answers to all.
        debug: whether our own faults are shown in full on the server's standard error.
    """

    def __init__(
        self, runner: Runner, told: Mapping[str, Any], limits: Limits, *, together: bool = True,
        name: str | None = "localhost", debug: bool = False,
    ) -> None:  # fmt: skip
        self.answered = 0
        self._runner, self._told, self._limits, self._together, self._debug = runner, told, limits, together, debug
        self._columns = columns_of(runner.facts)
        self._answers = Answers(runner.facts, self._columns)
        self._start = time.monotonic()
        self._held = 0
        self._batcher: Batcher | None = None
        # One thread: pictures and long JSON take memory, and then only once at a time.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
        routes = [
            Route("/health", self._health, methods=["GET"]),
            Route("/model", self._model, methods=["GET"]),
            Route("/predict", self._predict, methods=["POST"]),
        ]
        handlers: dict[Any, Callable[..., Any]] = {
            RefusedError: _refuse, HTTPException: self._unknown, Exception: self._fault,
        }  # fmt: skip
        self.application = Starlette(
            routes=routes, exception_handlers=handlers, lifespan=self._life,
            middleware=[] if name is None else [Middleware(_OwnNames, name=name)],
        )  # fmt: skip
        # An address with a slash too many would be sent on to whatever name of a host the client wrote.
        self.application.router.redirect_slashes = False

    @contextlib.asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        async with Batcher(self._runner, self._limits, together=self._together) as self._batcher:
            yield
        self._reader.shutdown()

    async def _health(self, _: Request) -> Response:
        assert self._batcher is not None
        return _json({
            "status": "ok", "model": self._told["name"], "format": self._told["format"], "sha256": self._told["sha256"],
            "uptime_seconds": round(time.monotonic() - self._start, 3), "answered": self.answered,
                "calls": self._batcher.calls,
            "waiting": self._batcher.waiting,
        })  # fmt: skip

    async def _model(self, _: Request) -> Response:
        facts, limits = self._runner.facts, self._limits
        return _json({
            **self._told, "classes": facts.classes, **self._answers.about, "input_shape": facts.input_shape,
            "preprocessing": facts.preprocessing, "columns": None if self._columns is None else self._columns.kinds,
            "reads": None if self._columns is None else self._columns.reads, "vocabulary": facts.vocabulary or None,
            "content_types": KINDS, "shared_calls": self._together,
            "limits": {"max_batch": limits.max_batch, "max_bytes": limits.max_bytes, "timeout": limits.timeout,
                       "queue": limits.queue},
        })  # fmt: skip

    async def _predict(self, request: Request) -> Response:
        assert self._batcher is not None
        options = Options.of(request.query_params.multi_items(), self._answers.most)
        self._answers.check(options)
        kind = _content_type(request)
        self._batcher.check_room()
        request.state.held = 0
        try:
            with self._batcher.reading():
                asked = await self._read(kind, request)
            found = await self._told_of(await self._batcher.ask(asked.rows), asked, options)
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody
        finally:
            self._held -= request.state.held
        self.answered += 1
        return found

    async def _read(self, kind: str, request: Request) -> Asked:
        body = await self._body(request)
        settings = kind, body, self._runner.facts.input_shape, self._limits.max_bytes, self._columns
        # Numbers as they are, and short JSON, are read sooner than another thread wakes up.
        if kind == "application/octet-stream" or (kind == "application/json" and _is_quick(body)):
            return read(*settings)
        return await asyncio.get_running_loop().run_in_executor(self._reader, read, *settings)

    async def _told_of(self, logits: NDArray[np.float32], asked: Asked, options: Options) -> Response:
        def make() -> Response:
            return _json(self._answers.tell(logits, asked, options))

        if logits.size <= _FEW and not self._answers.is_long(asked):
            return make()
        return await asyncio.get_running_loop().run_in_executor(self._reader, make)

    async def _body(self, request: Request) -> bytes:
        """The whole body; `request.state.held` counts its bytes, which are held until it is answered."""
        limits, state, chunks = self._limits, request.state, list[bytes]()
        told = int(request.headers.get("content-length", "0"))  # the connection has checked that it is a number
        if told > limits.max_bytes:
            raise _too_long(f"{told:,} bytes", limits)
        try:
            async with asyncio.timeout(limits.timeout):
                async for chunk in request.stream():
                    state.held += len(chunk)
                    self._held += len(chunk)
                    if state.held > limits.max_bytes:
                        raise _too_long("more", limits)
                    if self._held > limits.held:
                        raise RefusedError(
                            503, "too much is being sent at the same time", expected=f"{limits.held:,} bytes in all",
                            fix="ask again after a second", headers={"retry-after": "1"},
                        )  # fmt: skip
                    chunks.append(chunk)
        except TimeoutError:
            raise RefusedError(
                408, "the request did not arrive in time", given=f"{state.held:,} bytes of its body",
                expected=f"all of it within {limits.timeout:g} s", headers={"connection": "close"},
            ) from None  # fmt: skip
        return b"".join(chunks)

    async def _unknown(self, request: Request, error: Exception) -> Response:
        """What the router refuses: no such address, or another method."""
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            allowed = headers.get("Allow", "")
            return _refused(RefusedError(405, "this address has another method", given=request.method[:20],
                                         expected=allowed, headers={"allow": allowed}))  # fmt: skip
        return _refused(RefusedError(
            error.status_code, "no such address", given=request.scope["path"][:80],
            expected="GET /health, GET /model or POST /predict",
        ))  # fmt: skip

    async def _fault(self, _: Request, error: Exception) -> Response:
        """A fault of the model or of ours: a line for whoever runs the server, and nothing inside for the client."""
        if self._debug:
            traceback.print_exception(error)
        else:
            said = (str(error).strip().splitlines() or ["without a word"])[0]
            print(f"a request failed: {type(error).__name__}: {said}", file=sys.stderr, flush=True)
        return _refused(RefusedError(
            500, "the model could not answer", fix="whoever runs this server finds the reason in its log"
        ))  # fmt: skip


@final
class _OwnNames:
    """Answers only to names of this machine.

    A page from anywhere may point a name of its own at 127.0.0.1 and so let a browser ask us as if we were that page's
    own server; it cannot change the name that the browser sends.
    """

    def __init__(self, app: ASGIApp, name: str) -> None:
        self._app, self._name = app, name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host")
            if host is not None and not local_name(host, self._name):
                refused = RefusedError(
                    421, "this server answers only to names of its own machine", given=host[:80],
                    expected="localhost or 127.0.0.1", fix="bind it to another address with --host, to serve others",
                )  # fmt: skip
                await _refused(refused)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def local_name(host: str, own: str) -> bool:
    """Whether a name, with or without a port, is this machine's for itself: `localhost:8000`, `127.0.0.1`, `[::1]`.

    Args:
        host: the name.
        own: one more that is right.
    """
    name = host.partition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
    if name.lower().rstrip(".") in ("localhost", own.lower()):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _content_type(request: Request) -> str:
    """The kind of a body.

    Raises:
        RefusedError: 415, we read no such kind, or it is compressed.
    """
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind not in KINDS:
        raise RefusedError(
            415,
            "a body of this kind cannot be read",
            given=given[:80] or "no content type",
            expected=" or ".join(KINDS),
        )
    coded = request.headers.get("content-encoding", "identity")
    if coded.lower() != "identity":
        raise RefusedError(415, "a body that is encoded cannot be read", given=coded[:80], expected="no encoding")
    return kind


def _is_quick(body: bytes) -> bool:
    # A key can be written with escapes as well.
    return len(body) <= _SMALL and not any(sign in body for sign in (b'"images"', b'"rows"', b"\\"))


def _too_long(given: str, limits: Limits) -> RefusedError:
    return RefusedError(
        413, "the body is too long", given=given, expected=f"{limits.max_bytes:,} bytes at most",
        fix="send fewer examples at a time",
    )  # fmt: skip


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return _refused(error)


def _refused(error: RefusedError) -> Response:
    return Response(error.body(), error.status, dict(error.headers), "application/json")


def _json(value: Any) -> Response:
    return Response(to_json(value), media_type="application/json")
