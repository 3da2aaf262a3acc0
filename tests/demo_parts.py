"""A small finished run on images, and questions to the page that shows it."""

from __future__ import annotations

import http.client
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from PIL import Image

from tutelage.demo import Exhibit, Server
from tutelage.recipe import from_mapping
from tutelage.run import run_recipe

RECIPE: Mapping[str, Any] = {
    "name": "tiny",
    "seeds": [3, 1],
    "data": {"source": "digits"},
    "teacher": {"model": "cnn", "args": {"width": 8, "depth": 2}, "train": {"epochs": 2, "batch_size": 32, "lr": 0.01}},
    "student": {"model": "cnn", "args": {"width": 4, "depth": 1}},
    "train": {"epochs": 1, "batch_size": 64, "lr": 0.01},
    "report": {"bootstrap": 100, "latency": False},
    "threads": 1,
}


def finished_run(folder: Path, **changes: Any) -> Path:
    return run_recipe(from_mapping({**RECIPE, **changes}), folder, quiet=True).folder


@contextmanager
def served(exhibit: Exhibit) -> Iterator[Server]:
    with Server(exhibit) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(
    server: Server, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """One request: the status, the headers in small letters, the body. `Host_="…"` is the header Host."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    named = {name.rstrip("_").replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        named.setdefault("Content-Type", "application/octet-stream")
    try:
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    """(H, W), (H, W, 3) or (H, W, 4) bytes as a file."""
    found = io.BytesIO()
    Image.fromarray(pixels).save(found, "png")
    return found.getvalue()
