"""What HTTP costs: `tutelage serve` beside bare calls of the same file by the same runtime, with one thread each.

Every file gets a server of its own. Blocks of requests, by 1, 8 and 64 clients who ask for one example each and ask
again when they are answered, alternate with blocks of bare calls in an order that changes, so that a drifting clock or
a busy neighbour hits all. The clients are one process without threads, on sockets that stay open for a block; they take
a core of their own, and part of the server's if there is none left. Times of an answer are those that a client sees.
CPU time, of the server or of the bare calls, is what a busy machine blurs least; it is known to 10 ms a block.

    python benchmarks/serve.py FILE.onnx [FILE.int8.onnx …] [--rounds 9] [--seconds 1]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tutelage.export import open_artifact

CLIENTS = (1, 8, 64)
Block = Callable[[float], tuple[list[float], float]]  # seconds -> time of every answer, and seconds in all


class Client:
    """One connection that asks the same thing again and again."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request, self.left, self.start = request, 0, 0.0
        self.answer = b""

    def ask(self) -> None:
        self.answer, self.left = b"", 0
        self.start = time.perf_counter()
        self.socket.sendall(self.request)

    def heard(self) -> bool:
        """Whether the answer is whole after what came now."""
        came = self.socket.recv(2**16)
        assert came, "the server closed the connection"
        self.answer += came
        if not self.left and (end := self.answer.find(b"\r\n\r\n")) >= 0:
            assert self.answer.startswith(b"HTTP/1.1 200"), self.answer
            length = re.search(rb"content-length: (\d+)", self.answer)
            assert length is not None
            self.left = end + 4 + int(length[1])
        return self.left > 0 and len(self.answer) >= self.left


def served(port: int, request: bytes, clients: int) -> Block:
    """Blocks of requests by several clients."""

    def run(seconds: float) -> tuple[list[float], float]:
        times, asking = list[float](), clients
        everybody = [Client(port, request) for _ in range(clients)]  # a server closes those that are silent for long
        chosen = selectors.DefaultSelector()
        for client in everybody:
            chosen.register(client.socket, selectors.EVENT_READ, client)
        start = time.perf_counter()
        for client in everybody:
            client.ask()
        while asking:
            for key, _ in chosen.select():
                if key.data.heard():
                    now = time.perf_counter()
                    times.append(now - key.data.start)
                    if now - start < seconds:
                        key.data.ask()
                    else:
                        asking -= 1
        taken = time.perf_counter() - start
        for client in everybody:
            client.socket.close()
        return times, taken

    return run


def bare(path: Path, batch: int) -> Block:
    """Blocks of calls without a server; a call of several examples counts as an answer to each."""
    runner = open_artifact(path, threads=1)
    rows = np.random.default_rng(0).random((batch, *runner.facts.input_shape), dtype=np.float32)

    def run(seconds: float) -> tuple[list[float], float]:
        times, start = list[float](), time.perf_counter()
        now = start
        while now - start < seconds:
            runner(rows)
            before, now = now, time.perf_counter()
            times += [now - before] * batch
        return times, now - start

    return run


def start(path: Path) -> tuple[subprocess.Popen[str], int]:
    """A server of its own for a file, and its port."""
    words = [sys.executable, "-m", "tutelage", "serve", str(path), "--port", "0", "--threads", "1"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
            return server, int(found[1])
    raise SystemExit(f"the server of {path} did not start")


def request(kind: str, body: bytes) -> bytes:
    head = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def calls(port: int) -> tuple[int, int]:
    """Requests that a server has answered, and the calls of the model that it took."""
    asked = http.client.HTTPConnection("127.0.0.1", port)
    asked.request("GET", "/health")
    told = json.loads(asked.getresponse().read())
    asked.close()
    return told["answered"], told["calls"]


def cpu(process: subprocess.Popen[str] | None) -> float:
    """Seconds that a server has computed so far; those of this process where there is none."""
    if process is None:
        return time.process_time()
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    random.seed(0)
    servers = [start(path) for path in options.files]
    try:
        measure(options.files, servers, options.rounds, options.seconds)
    finally:
        for server, _ in servers:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def measure(files: list[Path], servers: list[tuple[subprocess.Popen[str], int]], rounds: int, seconds: float) -> None:
    """Print what every file does, bare and served."""
    blocks: dict[tuple[str, str, int], Block] = {}
    server_of: dict[tuple[str, str, int], tuple[subprocess.Popen[str], int]] = {}
    spent = dict[tuple[str, str, int], float]()
    for path, server in zip(files, servers, strict=True):
        shape = open_artifact(path, threads=1).facts.input_shape
        row = np.random.default_rng(0).integers(0, 256, (1, *shape)).astype(np.float32) / np.float32(255)
        text = json.dumps({"inputs": np.round(row.astype(float), 4).tolist()}).encode()
        bodies = {"raw bytes": ("application/octet-stream", row.tobytes()), "JSON": ("application/json", text)}
        for clients in CLIENTS:
            blocks[path.name, "bare", clients] = bare(path, clients)
            for title, (kind, body) in bodies.items():
                blocks[path.name, title, clients] = served(server[1], request(kind, body), clients)
                server_of[path.name, title, clients] = server
    times: dict[tuple[str, str, int], list[float]] = {key: [] for key in blocks}
    rates: dict[tuple[str, str, int], list[float]] = {key: [] for key in blocks}
    shared: dict[tuple[str, str, int], list[float]] = {key: [] for key in server_of}
    for block in blocks.values():
        block(0.2)
    for _ in range(rounds):
        for key in random.sample(list(blocks), len(blocks)):
            process, port = server_of.get(key, (None, 0))
            before = calls(port) if process else (0, 0)
            start = cpu(process)
            found, taken = blocks[key](seconds)
            spent[key] = spent.get(key, 0.0) + cpu(process) - start
            times[key] += found
            rates[key].append(len(found) / taken)
            if process:
                after = calls(port)
                shared[key].append((after[0] - before[0]) / (after[1] - before[1]))
    for key, found in times.items():
        p50, p99 = np.percentile(found, [50, 99]) * 1e3
        low, middle, high = np.percentile(rates[key], [25, 50, 75])
        work = spent[key] / len(found) * 1e3
        together = f", {np.median(shared[key]):4.1f} examples a call" if key in shared else ""
        name, title, clients = key
        what = f"{clients} examples a call" if title == "bare" else f"{clients} clients"
        print(f"{name:<18} {title:<10} {what:<20} p50 {p50:8.3f} ms   p99 {p99:8.3f} ms   CPU {work:6.3f} ms   "
              f"{middle:8,.0f} examples/s (quartiles {low:,.0f} … {high:,.0f}){together}")  # fmt: skip


if __name__ == "__main__":
    main()
