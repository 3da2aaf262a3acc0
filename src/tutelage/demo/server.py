"""The page's server: a fixed list of files and two questions, for this machine alone.

GET   the page, its script and style, onnxruntime-web, the student's files, test images
POST  /teacher  float32 pixels, little-endian, (C, H, W) in [0, 1] → what the teacher says of them
POST  /image    an image file → the same pixels as a run would train on
"""

from __future__ import annotations

import gzip
import json
import socketserver
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tutelage import lang
from tutelage.demo.exhibit import Exhibit
from tutelage.demo.page import Shown, shown
from tutelage.demo.picture import MOST_BYTES, as_pixels
from tutelage.errors import InputError, TutelageError

__all__ = ["Server"]

HOST = "127.0.0.1"
_RAW = "application/octet-stream"
# Scripts are the page's own files, and WebAssembly may be compiled; nothing is inline, nothing comes from elsewhere.
POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    # A page that is apart from all others gets finer clocks.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}


@final
class Server(ThreadingHTTPServer):
    """Serves one exhibit on the loopback interface until `shutdown`; speaks the language spoken when it was made."""

    daemon_threads = True

    def __init__(self, exhibit: Exhibit, *, port: int = 0) -> None:
        """Bind the port.

        Args:
            exhibit: what to show.
            port: 0 takes a free one.

        Raises:
            InputError: the port cannot be had.
        """
        self.exhibit = exhibit
        self.language = lang.language()
        self.shown: Mapping[str, Shown] = shown(exhibit)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"port {port} cannot be had: {getattr(error, 'strerror', None) or error}",
                fix="leave --port out, which takes a free one",
            ) from error

    def server_bind(self) -> None:
        """Without looking up the machine's name, which may wait for a network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, int(self.server_address[1])

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no fault worth a word."""


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tutelage", ""
    timeout = 60

    def do_GET(self) -> None:  # the name that the base class asks for
        if not self._is_ours():
            return
        found = self.server.shown.get(self.path.partition("?")[0])
        if found is None:
            self._refuse(HTTPStatus.NOT_FOUND, "no such page here")
            return
        packed = found.packed and "gzip" in self.headers.get("Accept-Encoding", "")
        data = found.data if packed or not found.packed else gzip.decompress(found.data)
        self._send(HTTPStatus.OK, data, found.kind, {"Content-Encoding": "gzip"} if packed else {})

    def do_POST(self) -> None:  # likewise
        if not self._is_ours():
            return
        answers = {"/teacher": self._teacher, "/image": self._image}
        answer = answers.get(self.path)
        # Other sites cannot send this kind without asking first, and nobody answers them.
        if answer is None or self.headers.get("Content-Type") != _RAW:
            self._refuse(HTTPStatus.NOT_FOUND, "no such question here")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a file of more than {MOST_BYTES // 2**20} MiB")
            return
        with lang.speaking(self.server.language, self.server.exhibit.names):
            try:
                answer(self.rfile.read(int(length)))
            except TutelageError as error:
                self._json(HTTPStatus.UNPROCESSABLE_ENTITY, {"error": lang.say_error(error)})
            except ConnectionError:
                raise  # the reader went away
            except Exception as error:  # told on the page, where the person is
                said = f"a fault of tutelage itself: {type(error).__name__}: {error}"
                self._json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": lang.say(said)})

    def _teacher(self, body: bytes) -> None:
        said = self.server.exhibit.teacher.ask(_pixels(body, self.server.exhibit.shape))
        logits = said.logits[: len(self.server.exhibit.classes)]
        self._json(HTTPStatus.OK, {"logits": logits.tolist(), "ms": said.milliseconds, "calls": said.calls})

    def _image(self, body: bytes) -> None:
        pixels = as_pixels(body, self.server.exhibit.shape)
        self._send(HTTPStatus.OK, pixels.astype("<f4").tobytes(), _RAW)

    def _is_ours(self) -> bool:
        """Whether the page's own name was asked for: another one may be a site that had its name point here."""
        port = self.server.server_port
        if self.headers.get("Host") in (f"{HOST}:{port}", f"localhost:{port}"):
            return True
        self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "this is a page for this machine alone")
        return False

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self.close_connection = True  # what else was sent is not read
        with lang.speaking(self.server.language):
            self._json(status, {"error": lang.say(why)})

    def _json(self, status: HTTPStatus, value: Mapping[str, Any]) -> None:
        self._send(status, json.dumps(value, ensure_ascii=False).encode(), "application/json")

    def _send(self, status: HTTPStatus, data: bytes, kind: str, further: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), **_HEADERS, **(further or {})}
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        with suppress(ConnectionError):  # the reader went away
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name of the base class
        """Nothing: what is wrong is told on the page."""


def _pixels(body: bytes, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    wanted = 4 * int(np.prod(shape))
    if len(body) != wanted:
        raise InputError("these are not the pixels of one image", given=f"{len(body):,} bytes", expected=f"{wanted:,}")
    pixels = np.frombuffer(body, dtype="<f4").astype(np.float32).reshape(shape)
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise InputError("the values of an image lie between 0 and 1")
    return pixels
