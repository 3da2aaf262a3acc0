"""Whatever comes over the wire, the answer is a few words in JSON, nobody waits long, and the next one is served."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serve_parts import JSON, RAW, Server, doubled, perceptron, post, rest, started
from tutelage.serve.application import local_name
from tutelage.serve.reading import read
from tutelage.serve.refusals import RefusedError

GOOD = np.full((1, 1, 8, 8), 0.5, "<f4").tobytes()

# A model that can be slow, can fail, and gives long answers; told by the first feature.
SLOW = """
import sys, time
sys.path.insert(0, sys.argv[1])
from serve_parts import Doubling
from tutelage.serve import Limits, serve_runner

class Slow(Doubling):
    def __call__(self, inputs):
        if inputs[0, 0] == 7:
            time.sleep(2)
        if inputs[0, 0] == 9:
            raise RuntimeError("secret words of the model")
        if inputs[0, 0] == 8:
            return super().__call__(inputs) * float("nan")
        return super().__call__(inputs)

told = {"name": "slow", "format": "none", "sha256": "0", "bytes": 1}
found = serve_runner(Slow(), told, port=0, limits=Limits(queue=2, max_batch=100_000, timeout=1.0))
print("answered", found.answered)
"""


@pytest.fixture(scope="module")
def server(slow: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # The other server starts at the same time.
    file = perceptron(tmp_path_factory.mktemp("file") / "net.onnx", (1, 8, 8), ("a", "b"), name="net")
    words = ["-m", "tutelage", "serve", str(file), "--port", "0", "--timeout", "1", "--max-bytes", "64KiB"]
    with started(words, tmp_path_factory.mktemp("log")) as found:
        yield found
        assert found.log.read_text() == ""  # nothing that a client did is a fault


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(["-c", SLOW, str(Path(__file__).parent)], tmp_path_factory.mktemp("slow")) as found:
        yield found


@pytest.fixture(autouse=True)
def _still_served(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        found = request.getfixturevalue("server")
        assert found.ask("POST", "/predict", GOOD, RAW)[0] == 200


def png(width: int, height: int, data: bytes = b"", *, kind: int = 0) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


PICTURE = png(8, 8, b"\0" * 72)
DEEP = b'{"inputs":' + b"[" * 30_000


def floats(value: float) -> bytes:
    return np.full((1, 1, 8, 8), value, "<f4").tobytes()


def nested(value: object) -> bytes:
    return json.dumps({"inputs": [[[[value] * 8] * 8]]}).encode()


BODIES = [
    ("no body", RAW, b"", 422, "no whole number of examples"),
    ("half a float", RAW, GOOD[:-1], 422, "no whole number of examples"),
    ("NaN", RAW, floats(np.nan), 422, "not finite"),
    ("infinity", RAW, floats(-np.inf), 422, "not finite"),
    ("bytes not divided", RAW, floats(255), 422, "out of range"),
    ("negative", RAW, floats(-0.01), 422, "out of range"),
    ("empty JSON", JSON, b"", 400, "no JSON"),
    ("half JSON", JSON, b'{"inputs": [[', 400, "no JSON"),
    ("not UTF-8", JSON, b'{"inputs": "\xff"}', 400, "no JSON"),
    ("a list", JSON, b"[1]", 400, "no object"),
    ("deep JSON", JSON, DEEP, 400, "nested too deeply"),
    ("no inputs", JSON, b"{}", 400, "either `inputs` or `images`"),
    ("both", JSON, b'{"inputs": [], "images": []}', 400, "either `inputs` or `images`"),
    ("unknown key", JSON, b'{"input": []}', 400, "no key `input`"),
    ("an option inside", JSON, b'{"inputs": [], "top": 1}', 400, "`top` is an option"),
    ("a key twice", JSON, b'{"inputs": [], "inputs": []}', 400, "stands twice"),
    ("a text", JSON, b'{"inputs": "x"}', 422, "another shape"),
    ("no examples", JSON, b'{"inputs": []}', 422, "another shape"),
    ("one level too few", JSON, json.dumps({"inputs": [[[0.5] * 8] * 8]}).encode(), 422, "another shape"),
    ("one level too many", JSON, nested([0.5]), 422, "another shape"),
    ("ragged", JSON, b'{"inputs": [[[[0.5], [0.5, 0.5]]]]}', 422, "another shape"),
    ("texts of numbers", JSON, nested("0.5"), 422, "no number"),
    ("a long text", JSON, json.dumps({"inputs": [[[["x" * 9000] + [0.5] * 7] * 1 + [[0.5] * 8] * 7]]}).encode(), 422,
     "no number"),
    ("true", JSON, nested(True), 422, "no number"),
    ("null", JSON, nested(None), 422, "no number"),
    ("an object", JSON, nested({}), 422, "no number"),
    ("NaN in JSON", JSON, nested(float("nan")), 422, "not finite"),
    ("beyond float64", JSON, nested("X").replace(b'"X"', b"1e999"), 422, "not finite"),
    ("beyond float32", JSON, nested(1e300), 422, "not finite"),
    ("a large integer", JSON, nested(10**400), 422, "too large a number"),
    ("thousands of digits", JSON, b'{"inputs": ' + b"9" * 9000 + b"}", 400, "no JSON"),
    ("ids that do not fit", JSON, json.dumps({"inputs": [[[[0.5] * 8] * 8]], "ids": [1, 2]}).encode(), 422, "`ids`"),
    ("ids of another kind", JSON, json.dumps({"inputs": [[[[0.5] * 8] * 8]], "ids": [1.5]}).encode(), 422, "`ids`"),
    ("images no list", JSON, b'{"images": "x"}', 422, "no list of texts"),
    ("images of numbers", JSON, b'{"images": [1]}', 422, "no list of texts"),
    ("no base64", JSON, b'{"images": ["?"]}', 422, "no base64"),
    ("an address of data", JSON, b'{"images": ["data:image/png;base64,AAAA"]}', 422, "no base64"),
    ("no picture", "image/png", b"hello", 422, "neither PNG nor JPEG"),
    ("another kind of picture", "image/png", b"GIF89a" + b"\0" * 40, 422, "neither PNG nor JPEG"),
    ("half a picture", "image/png", PICTURE[:-20], 422, "damaged"),
    ("a flipped bit", "image/png", PICTURE[:45] + b"\x55" + PICTURE[46:], 422, "damaged"),
    ("a bomb", "image/png", png(60_000, 60_000), 422, "pixels"),
    ("few bytes, many pixels", "image/png", png(8_001, 8_000, b"\0" * 10_000), 422, "pixels"),
    ("too many pictures", JSON, b"", 413, "too many pictures"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "body", "status", "said"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES]
)
def test_bodies_that_cannot_be_answered(kind: str, body: bytes, status: int, said: str) -> None:
    shape = (1, 8, 8)
    if said == "too many pictures":
        body = json.dumps({"images": [base64.b64encode(PICTURE).decode()] * 400}).encode()
    with pytest.raises(RefusedError) as caught:
        read(kind, body, shape, 2**14)
    assert caught.value.status == status, caught.value
    told = json.loads(caught.value.body())["error"]
    assert said in told["what"] + told.get("given", "")
    assert set(told) <= {"what", "given", "expected", "fix"}
    assert len(caught.value.body()) < 600  # however long the body was


def test_pictures_of_one_request_share_the_limit_of_pixels() -> None:
    large = png(6_000, 6_000, bytes(6_001 * 6_000))
    with pytest.raises(RefusedError, match="pixels in all") as caught:
        read(JSON, json.dumps({"images": [base64.b64encode(large).decode()] * 2}).encode(), (1, 8, 8), 2**14)
    assert caught.value.problem.what == "picture 1 cannot be used"


# A part of the same through the whole server, and what only a server can refuse.
HEAD = b"POST /predict HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
REQUESTS = [
    ("numbers out of range", post(floats(7)), 422, b"divide bytes by 255"),
    ("deep JSON", post(DEEP, JSON), 400, b"nested too deeply"),
    ("a damaged picture", post(PICTURE[:-20], "image/png"), 422, b"damaged"),
    ("a bomb", post(png(60_000, 60_000), "image/png"), 422, b"pixels"),
    ("too long", post(b"x" * 70_000), 413, b"65,536 bytes"),
    ("says that it is long", HEAD + b"content-type: image/png\r\ncontent-length: 99999999999\r\n\r\n", 413,
     b"too long"),
    ("long in pieces", HEAD + b"content-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n"
     + (b"8000\r\n" + b"x" * 32768 + b"\r\n") * 3 + b"0\r\n\r\n", 413, b"too long"),
    ("no kind", HEAD + b"content-length: 0\r\n\r\n", 415, b"no content type"),
    ("a kind of forms", post(b"a=b", "application/x-www-form-urlencoded"), 415, b"cannot be read"),
    ("plain text", post(GOOD, "text/plain"), 415, b"application/json or"),
    ("compressed", post(GOOD, content_encoding="gzip"), 415, b"encoded"),
    ("unknown option", post(GOOD).replace(b"/predict", b"/predict?tap=1"), 400, b"did you mean `top`?"),
    ("top 0", post(GOOD).replace(b"/predict", b"/predict?top=0"), 400, b"out of range"),
    ("top of many digits", post(GOOD).replace(b"/predict", b"/predict?top=" + b"1" * 5000), 400, b"out of range"),
    ("an option twice", post(GOOD).replace(b"/predict", b"/predict?top=1&top=2"), 400, b"stands twice"),
    ("neither true nor false", post(GOOD).replace(b"/predict", b"/predict?logits=1"), 400, b"neither true nor false"),
    ("another method", b"DELETE /predict HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 405, b"POST"),
    ("a question of a browser", b"OPTIONS /predict HTTP/1.1\r\nhost: localhost\r\norigin: http://x.test\r\n"
     b"connection: close\r\n\r\n", 405, b"another method"),
    ("a body for GET", b"POST /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 405, b"GET"),
    ("somebody else's name", post(GOOD, host="evil.test"), 421, b"own machine"),
    ("half a name", b"GET /x HTTP/1.1\r\nhost: [::1\r\nconnection: close\r\n\r\n", 404, b"no such address"),
    ("no HTTP", b"hello\r\n\r\n", 400, b"no HTTP"),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64 + b"\r\n\r\n", 400, b"no HTTP"),
    ("two lengths", HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nx", 400, b"no HTTP"),
    ("an odd length", HEAD + b"content-length: -1\r\n\r\n", 400, b"no HTTP"),
    ("an odd piece", HEAD + b"content-type: image/png\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n", 400, b"no HTTP"),
    ("a head without end", b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000, 400, b"no HTTP"),
]  # fmt: skip
PATHS = [
    "/", "/predict/", "//predict", "/../health", "/health/../../etc/passwd", "/%2e%2e/health", "/predict%00", "/Health",
    "/health;x", "/%ff", "/static/x", "http://evil.test/health/x", "/" + "a" * 5000,
]  # fmt: skip


@pytest.mark.parametrize(("sent", "status", "said"), [row[1:] for row in REQUESTS], ids=[row[0] for row in REQUESTS])
def test_requests_that_are_refused(server: Server, sent: bytes, status: int, said: bytes) -> None:
    answer = server.say(sent)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer[:300]
    assert said in head + body
    assert set(json.loads(body)["error"]) <= {"what", "given", "expected", "fix"}
    assert b"access-control" not in head.lower()
    assert b"Traceback" not in body
    assert b".py" not in body


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:24])
def test_other_addresses_lead_nowhere(server: Server, path: str) -> None:
    answer = server.say(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 "), answer[:200]
    assert b"location:" not in answer.lower()
    assert b"GET /health, GET /model or POST /predict" in answer


def test_several_requests_in_one_piece_are_answered_in_order(server: Server) -> None:
    first = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    answer = server.say(first + first.replace(b"/health", b"/nowhere") + post(GOOD))
    assert [line[9:12] for line in answer.split(b"\r\n") if b"HTTP/1.1 " in line[:9]][:1] == [b"200"]
    assert answer.index(b"200 OK") < answer.index(b"404 Not Found") < answer.rindex(b"200 OK")


SLOWLY = [
    ("a part of the head", b"POST /predict HT", 408, "a part of its head"),
    ("a head that never ends", HEAD, 408, "a part of its head"),
    ("a part of the body", post(GOOD)[:-9], 408, "247 bytes of its body"),
    ("nothing", b"", None, ""),
]


def test_slow_clients_are_not_waited_for(server: Server) -> None:
    # All at the same time, with one that sends a byte now and then and so never stops sending.
    lines = [server.connect() for _ in SLOWLY]
    drop = server.connect()
    over = threading.Event()

    def drip() -> None:
        drop.sendall(HEAD)
        while not over.wait(0.1):
            try:
                drop.sendall(b"x")
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        for line, (_, sent, _, _) in zip(lines, SLOWLY, strict=True):
            line.sendall(sent)
        assert server.ask("GET", "/health")[0] == 200  # nobody else waits
        for line, (_, _, status, given) in zip(lines, SLOWLY, strict=True):
            answer = rest(line)
            if status is None:
                assert answer == b""
            else:
                assert answer.startswith(f"HTTP/1.1 {status} ".encode())
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["given"] == given
        assert rest(drop).startswith(b"HTTP/1.1 408 ")
    finally:
        over.set()
        dripping.join()
        for line in [*lines, drop]:
            line.close()


def test_a_refused_body_that_goes_on_is_cut_off(server: Server) -> None:
    with server.connect() as line:
        line.sendall(b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 999\r\n\r\n")
        assert b" 415 " in line.recv(2**16)
        line.sendall(b"x" * 100)
        assert b"HTTP" not in rest(line)  # the end comes within a second, although 899 bytes do not


def test_clients_that_go_away_leave_nothing_behind(server: Server) -> None:
    for part in (10, 150, len(post(GOOD)) - 1, len(post(GOOD))):
        for _ in range(10):
            with server.connect() as line:
                line.sendall(post(GOOD)[:part])
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes with a reset
    for _ in range(100):
        if server.ask("GET", "/health")[2]["waiting"] == 0:
            break
        time.sleep(0.05)
    assert server.ask("GET", "/health")[2]["waiting"] == 0


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("LOCALHOST.:80", True), ("127.0.0.1:8000", True), ("127.9.9.9", True), ("[::1]:8000", True),
     ("evil.test", False), ("localhost.evil.test", False), ("127.0.0.1.evil.test", False), ("10.0.0.1", False),
     ("[::2]", False), ("", False), ("[", False), ("0", False), ("my-machine:8000", True),
     ("my-machine.evil.test", False)],
)  # fmt: skip
def test_names_of_this_machine(host: str, expected: bool) -> None:
    assert local_name(host, "my-machine") is expected


def test_bodies_that_are_held_have_a_limit_together(server: Server) -> None:
    # 64 KiB each, sixteen of these in all: of twenty that stop just before their end, some are refused, every time.
    for _ in range(3):
        lines = [server.connect() for _ in range(20)]
        try:
            for line in lines:
                line.sendall(post(b"x" * 65_000)[:-1])
            answers = [rest(line) for line in lines]
        finally:
            for line in lines:
                line.close()
        found = [answer[9:12] for answer in answers]
        assert set(found) == {b"408", b"503"}
        assert found.count(b"503") <= 4  # more, if bodies that are gone were still counted


def asked(first: float, count: int = 1) -> np.ndarray:
    return np.repeat(np.array([[first, 0.25]], dtype=np.float32), count, 0)


def test_faults_of_the_model_stay_inside(slow: Server) -> None:
    for first, said in ((9, "could not answer"), (8, "not finite")):
        status, _, told = slow.ask("POST", "/predict", asked(first).tobytes(), RAW)
        assert status == 500
        assert said in told["error"]["what"]
        assert "secret" not in json.dumps(told)
    log = slow.log.read_text()
    assert "a request failed: RuntimeError: secret words of the model" in log
    assert "Traceback" not in log
    np.testing.assert_allclose(slow.predict(asked(1))["logits"], doubled(asked(1)))


def test_connections_have_a_limit(slow: Server) -> None:
    for _ in range(5):  # on a busy machine the first may be given up before the last comes
        lines = [slow.connect() for _ in range(258)]
        try:
            with slow.connect() as line:
                answer = rest(line)
        finally:
            for line in lines:
                line.close()
        if answer:
            break
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"258 at most" in answer
    np.testing.assert_allclose(slow.predict(asked(1))["logits"], doubled(asked(1)))


def test_answers_that_are_not_taken_are_given_up(slow: Server) -> None:
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(20)
        line.connect(("127.0.0.1", slow.port))
        line.sendall(post(asked(0.5, 100_000).tobytes()))
        head = line.recv(400)
        assert b" 200 OK" in head
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        time.sleep(2)  # twice the server's patience
        assert len(head) + len(rest(line)) < length


def test_a_full_queue_and_the_end(slow: Server) -> None:
    """One request is under way, two wait, more are refused; then the server is stopped, and the three are answered."""
    lines = [slow.connect() for _ in range(6)]
    before = slow.ask("GET", "/health")[2]["calls"]
    try:
        lines[0].sendall(post(asked(7).tobytes()))
        while slow.ask("GET", "/health")[2]["calls"] == before:
            time.sleep(0.05)  # it is not under way yet
        for number, line in enumerate(lines[1:]):
            line.sendall(post(asked(number).tobytes()))
        refused = [line for line in lines[1:] if _comes(line, b" 503 ")]
        assert len(refused) == 3
        os.kill(slow.process.pid, signal.SIGTERM)
        for line in [line for line in lines if line not in refused]:
            answer = rest(line)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b'"classes":["' in answer
        assert slow.process.wait(20) == 0
    finally:
        for line in lines:
            line.close()
    assert slow.process.stdout is not None
    assert b"answered" in slow.process.stdout.read()


def _comes(line: socket.socket, what: bytes) -> bool:
    """Whether these words come within a moment."""
    line.settimeout(0.2)
    try:
        found = line.recv(2**16)
    except TimeoutError:
        return False
    finally:
        line.settimeout(20)
    assert what in found
    assert b"retry-after: 1" in found
    return True
