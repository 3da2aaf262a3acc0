"""A small server that speaks the chat protocol, in a process of its own, which fails as it is told to and counts.

Which class a text is of it finds as a model would: by the words of the question. The score of a class is how often its
name stands in the text, and what the place of its letter adds (`bias`).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the server itself starts without torch
    from tutelage.types import Batch

CHOICE = re.compile(r"^([A-Z]|[0-9]+)\. (.+)$", re.MULTILINE)
SHARPNESS = 2.0
OTHERS = {"The": -3.0, " It": -4.0, "\n": -6.0}  # what else it might begin with, relative to a score of 0


def scores(question: str, bias: float = 0.0) -> dict[str, float]:
    """Letter -> logit."""
    choices = CHOICE.findall(question)
    text = question.partition("Text:")[2].partition("Answer with")[0].lower()
    return {
        letter: SHARPNESS * text.count(name.lower()) + (bias if place == 0 else 0.0)
        for place, (letter, name) in enumerate(choices)
    }


class State:
    """What the server was told, and what it has counted."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.script: list[dict[str, Any]] = []  # what becomes of the next requests
        self.manner: dict[str, Any] = {}  # how all others are answered
        self.requests = self.paid = self.now = self.most = 0
        self.bodies: dict[str, int] = {}
        self.heads: list[dict[str, str]] = []
        self.times: list[float] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: State

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        state = self.state
        with state.lock:
            told = {
                "requests": state.requests, "paid": state.paid, "most": state.most, "bodies": state.bodies,
                "heads": state.heads, "times": state.times,
            }  # fmt: skip
        self.send(200, told)

    def do_CONNECT(self) -> None:
        with self.state.lock:
            self.state.heads.append({"connect": self.path, **dict(self.headers)})
        self.send(502, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        state = self.state
        if self.path == "/control":
            told = json.loads(body)
            with state.lock:
                state.script += told.get("script", [])
                state.manner |= told.get("manner", {})
            self.send(200, {})
            return
        with state.lock:
            state.requests += 1
            state.now += 1
            state.most = max(state.most, state.now)
            state.heads.append({name.lower(): text for name, text in self.headers.items()} | {"path": self.path})
            state.times.append(time.monotonic())
            fault = state.script.pop(0) if state.script else {}
            manner = state.manner | fault
        try:
            self.act(manner, body)
        finally:
            with state.lock:
                state.now -= 1

    def act(self, manner: dict[str, Any], body: bytes) -> None:
        kind = manner.get("kind", "answer")
        time.sleep(manner.get("sleep", 0.0))
        if kind == "status":
            self.send(
                manner["status"], manner.get("body", {"error": {"message": "so it is"}}), manner.get("headers", {})
            )
        elif kind == "echo":
            self.send(400, {"error": {"message": f"bad key {self.headers.get('authorization')}"}})
        elif kind == "drop":
            # Without a word, and with a reset in place of a farewell.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif kind in ("half", "drip"):
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [{"message": {"content": "what came before the end"}}]}')
            self.wfile.flush()
            for _ in range(manner.get("drops", 0)):
                time.sleep(0.05)
                with contextlib.suppress(OSError):
                    self.wfile.write(b" ")
            self.close_connection = True
        elif kind == "raw":
            self.send(200, manner["text"].encode(), manner.get("headers", {}))
        elif kind == "huge":
            self.send(200, b" " * manner["size"] + b"{}")
        else:
            with self.state.lock:
                self.state.paid += 1
                key = body.decode()
                self.state.bodies[key] = self.state.bodies.get(key, 0) + 1
            self.send(200, reply(json.loads(body), manner))

    def send(self, status: int, told: Any, headers: dict[str, str] | None = None) -> None:
        body = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)


def reply(asked: dict[str, Any], manner: dict[str, Any]) -> dict[str, Any]:
    """A completion as chat servers send it, or as older ones do."""
    question = asked["messages"][-1]["content"] if "messages" in asked else asked["prompt"]
    logits = scores(question, manner.get("bias", 0.0))
    usage = {"prompt_tokens": len(question) // 5, "completion_tokens": 1}
    mute = manner.get("mute")
    if mute and mute in question and not (manner.get("heeds") and "nothing else" in question):
        logits, said = {}, "I would rather not say."
    else:
        said = manner.get("says", "{}").format(max(logits, key=lambda letter: logits[letter]))
    candidates = {manner.get("before", "") + letter: logit for letter, logit in logits.items()} | OTHERS
    total = math.log(sum(math.exp(logit) for logit in candidates.values()))
    ranked = sorted(((t, logit - total) for t, logit in candidates.items()), key=lambda one: -one[1])
    if manner.get("silent"):
        return {
            "choices": [{"message": {"content": said}}] * (manner.get("gives") or asked.get("n", 1)),
            "usage": usage,
        }
    if "prompt" in asked:
        top = dict(ranked[: asked.get("logprobs", 1)])
        logprobs: dict[str, Any] = {"tokens": [ranked[0][0]], "token_logprobs": [ranked[0][1]], "top_logprobs": [top]}
        return {"choices": [{"text": said, "logprobs": logprobs}], "usage": usage}
    top = [{"token": t, "logprob": value, "bytes": None} for t, value in ranked[: asked.get("top_logprobs", 0)]]
    first = {"token": ranked[0][0], "logprob": ranked[0][1], "top_logprobs": top}
    content = [{"token": " ", "logprob": -0.1, "top_logprobs": []}] * manner.get("blanks", 0) + [first]
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": said}}
    if asked.get("logprobs"):
        choice["logprobs"] = {"content": content}
    return {"choices": [choice] * asked.get("n", 1), "usage": usage}


def batch_of(texts: Sequence[str], view: str = "x") -> Batch:
    """Texts as a batch holds them: UTF-8 with zeros behind."""
    import torch

    from tutelage.types import Batch

    raw = [text.encode() for text in texts]
    inputs = torch.zeros(len(raw), max(map(len, raw)) + 3, dtype=torch.uint8)
    for row, text in enumerate(raw):
        inputs[row, : len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return Batch(torch.arange(len(raw)), {view: inputs}, torch.zeros(len(raw), dtype=torch.int64))


@dataclass
class Fake:
    """The server's end in a test."""

    port: int

    @property
    def model(self) -> str:
        return f"chat:http://127.0.0.1:{self.port}/v1"

    def _ask(self, method: str, path: str, value: dict[str, Any] | None = None) -> dict[str, Any]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as line:
            line.request(method, path, None if value is None else json.dumps(value))
            found: dict[str, Any] = json.loads(line.getresponse().read())
            return found

    def does(self, *script: dict[str, Any], **manner: Any) -> None:
        """What becomes of the next requests, one each, and how all others are answered."""
        self._ask("POST", "/control", {"script": list(script), "manner": manner})

    def counts(self) -> dict[str, Any]:
        return self._ask("GET", "/counts")


@contextlib.contextmanager
def fake_server() -> Iterator[Fake]:
    """A server in a process of its own, until the block ends."""
    with subprocess.Popen([sys.executable, "-u", __file__], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield Fake(int(process.stdout.readline()))
        finally:
            process.kill()


if __name__ == "__main__":
    Handler.state = State()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    # Ends by itself, should nobody end it.
    threading.Timer(300, server.shutdown).start()
    server.serve_forever()
