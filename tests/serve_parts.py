"""Servers in processes of their own, and clients that are as polite, or as rude, as a test needs."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.export import Facts
from tutelage.export.facts import KEY

RAW, JSON = "application/octet-stream", "application/json"


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    log: Path

    @cached_property
    def port(self) -> int:
        """Where it listens, as soon as it says so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(rb"http://127\.0\.0\.1:(\d+)", line):
                return int(found[1])
        raise AssertionError(self.log.read_text())

    def ask(
        self, method: str, path: str, body: bytes = b"", kind: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """The status, the headers in small letters, and the JSON of an answer."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as line:
            said = {name.replace("_", "-"): text for name, text in headers.items()}
            line.request(method, path, body, said if kind is None else said | {"content-type": kind})
            answer = line.getresponse()
            told = answer.read()
            assert answer.getheader("content-type") == "application/json"
            return answer.status, {name.lower(): text for name, text in answer.getheaders()}, json.loads(told)

    def predict(self, rows: NDArray[np.float32], query: str = "?logits=true") -> dict[str, Any]:
        """What it says of float32 rows, sent as they are."""
        status, _, told = self.ask("POST", f"/predict{query}", rows.astype("<f4").tobytes(), RAW)
        assert status == 200, told
        return told

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def say(self, *parts: bytes) -> bytes:
        """Everything that comes back for bytes sent as they are, until the server closes."""
        with self.connect() as line:
            for part in parts:
                line.sendall(part)
            return rest(line)


def rest(line: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := line.recv(2**16):
            found += part
    return found


def post(body: bytes, kind: str = RAW, **headers: str) -> bytes:
    """The bytes of a request to /predict, after which the connection is to be closed."""
    head = {"host": "127.0.0.1", "connection": "close", "content-type": kind, "content-length": str(len(body))}
    lines = [f"{name.replace('_', '-')}: {text}" for name, text in (head | headers).items()]
    return "\r\n".join(["POST /predict HTTP/1.1", *lines, "", ""]).encode() + body


@contextlib.contextmanager
def started(words: Sequence[str], folder: Path) -> Iterator[Server]:
    """A server that Python starts with these words, until the block ends."""
    log = folder / "stderr.txt"
    with (
        log.open("wb") as errors,
        subprocess.Popen([sys.executable, "-u", *words], stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        try:
            yield Server(process, log)
        finally:
            process.kill()


def perceptron(path: Path, shape: tuple[int, ...], classes: tuple[str, ...], name: str) -> Path:
    """A small ONNX file with its facts inside, written without torch, which would take seconds."""
    import onnx
    from onnx import helper, numpy_helper

    generator, inner = np.random.default_rng(3), 16
    first = generator.normal(size=(math.prod(shape), inner)) * 0.5
    second = generator.normal(size=(inner, len(classes)))
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "first"], ["inner"]),
        helper.make_node("Relu", ["inner"], ["bent"]), helper.make_node("MatMul", ["bent", "second"], ["logits"]),
    ]  # fmt: skip
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("input", kind, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", kind, ["batch", len(classes)])],
        [numpy_helper.from_array(first.astype(np.float32), "first"),
         numpy_helper.from_array(second.astype(np.float32), "second")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, Facts(classes, shape, name=name).to_text()
    onnx.save(model, str(path))
    return path


class Doubling:
    """A runner of two features and three classes: the first, the second and twice their sum, slower if asked to."""

    facts = Facts(("a", "b", "c"), (2,))

    def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        total = inputs.sum(-1)
        return np.stack([inputs[:, 0], inputs[:, 1], 2 * total], -1).astype(np.float32)


def doubled(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return Doubling()(rows)
