"""A file that answers over HTTP says what it says at home: alone, in company, and whatever way inputs come."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from command_line import call
from serve_parts import JSON, Doubling, Server, doubled, perceptron, post, started
from tutelage.errors import InputError, MissingExtraError, ModelError
from tutelage.export import Facts, Runner, open_artifact
from tutelage.files import sha256
from tutelage.serve import Batcher, Limits, RefusedError
from tutelage.serve.server import _bind, _is_independent

CLASSES = ("ankle", "bag", "coat")
GROWTH = 24 * 2**20


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return perceptron(tmp_path_factory.mktemp("file") / "student.onnx", (1, 8, 8), CLASSES, name="small")


@pytest.fixture(scope="module")
def server(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    words = ["-m", "tutelage", "serve", str(artifact), "--port", "0", "--max-batch", "16"]
    with started(words, tmp_path_factory.mktemp("log")) as found:
        yield found
        # The last test of this server: it ends when it is told to, and has said nothing on the way.
        found.process.send_signal(signal.SIGTERM)
        assert found.process.wait(20) == 0
        assert found.log.read_text() == ""
        assert found.process.stdout is not None
        assert b"requests answered: 2," in found.process.stdout.read()


@pytest.fixture(scope="module")
def at_home(artifact: Path) -> Runner:
    return open_artifact(artifact, threads=1)


def rows_of(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, 1, 8, 8), dtype=np.float32)


def test_it_says_what_it_is(server: Server, artifact: Path) -> None:
    status, _, health = server.ask("GET", "/health")
    assert status == 200
    assert {key: health[key] for key in ("status", "model", "format", "sha256")} == {
        "status": "ok", "model": "small", "format": "onnx", "sha256": sha256(artifact),
    }  # fmt: skip
    assert 0 < health["uptime_seconds"] < 3600
    status, headers, model = server.ask("GET", "/model")
    assert status == 200
    assert (model["classes"], model["input_shape"], model["bytes"]) == (
        list(CLASSES), [1, 8, 8], artifact.stat().st_size,
    )  # fmt: skip
    assert "divided by 255" in model["preprocessing"]
    assert model["shared_calls"] is True
    assert model["limits"] == {"max_batch": 16, "max_bytes": 8 * 2**20, "timeout": 10.0, "queue": 256}
    assert not any(name.startswith("access-control") for name in headers)
    assert "server" not in headers


@pytest.mark.parametrize("count", [1, 5, 16, 40])
def test_numbers_are_answered_as_at_home(server: Server, at_home: Runner, count: int) -> None:
    rows = rows_of(count)
    expected = at_home(rows)
    told = server.predict(rows)
    np.testing.assert_allclose(told["logits"], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        told["probabilities"], torch.softmax(torch.from_numpy(expected).double(), -1).numpy(), rtol=0, atol=1e-5
    )
    assert told["classes"] == [CLASSES[best] for best in expected.argmax(-1)]
    status, _, same = server.ask("POST", "/predict", json.dumps({"inputs": rows.tolist()}).encode(), JSON)
    assert status == 200
    assert set(same) == {"classes", "probabilities"}
    np.testing.assert_allclose(same["probabilities"], told["probabilities"], rtol=0, atol=1e-6)


def test_options_and_ids(server: Server, at_home: Runner) -> None:
    rows = rows_of(2)
    body = json.dumps({"inputs": rows.tolist(), "ids": ["x/1", 7]}).encode()
    status, _, told = server.ask("POST", "/predict?top=2", body, f"{JSON}; charset=utf-8")
    assert status == 200
    assert set(told) == {"classes", "top", "ids"}
    assert told["ids"] == ["x/1", 7]
    expected = np.argsort(-at_home(rows), -1)[:, :2]
    assert [[one["class"] for one in best] for best in told["top"]] == [[CLASSES[c] for c in row] for row in expected]
    everything = server.predict(rows)["probabilities"]
    for best, chances, order in zip(told["top"], everything, expected, strict=True):
        np.testing.assert_allclose([one["probability"] for one in best], [chances[c] for c in order], atol=1e-6)


def encoded(pixels: NDArray[np.uint8], how: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, how)
    return file.getvalue()


def test_pictures_go_by_the_rules_of_data_sets(server: Server) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (8, 8), dtype=np.uint8)
    asked = grey.astype(np.float32)[None, None] / np.float32(255)
    expected = server.predict(asked)["probabilities"]
    status, _, told = server.ask("POST", "/predict", encoded(grey), "image/png")
    assert status == 200
    np.testing.assert_allclose(told["probabilities"], expected, rtol=0, atol=1e-6)
    # Larger ones are scaled, with colour they become grey, and each keeps its place.
    large = np.kron(grey, np.ones((4, 4), dtype=np.uint8))
    coloured = np.repeat(grey[..., None], 3, -1)
    files = [base64.b64encode(encoded(one)).decode() for one in (255 - grey, large, coloured)]
    status, _, told = server.ask("POST", "/predict", json.dumps({"images": files}).encode(), JSON)
    assert status == 200
    inverted = server.predict((255 - grey).astype(np.float32)[None, None] / np.float32(255))["probabilities"]
    np.testing.assert_allclose(told["probabilities"], inverted + expected + expected, rtol=0, atol=0.05)
    assert np.abs(np.subtract(told["probabilities"][0], told["probabilities"][2])).max() > 0.01
    status, _, told = server.ask("POST", "/predict", encoded(np.full((8, 8), 90, np.uint8), "JPEG"), "image/jpeg")
    assert status == 200
    flat = server.predict(np.full((1, 1, 8, 8), 90 / 255, np.float32))["probabilities"]
    np.testing.assert_allclose(told["probabilities"], flat, rtol=0, atol=0.02)


async def _together(port: int, bodies: list[bytes]) -> list[bytes]:
    async def one(body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(body).replace(b"/predict ", b"/predict?logits=true "))
        found = await reader.read()
        writer.close()
        await writer.wait_closed()
        return found

    return await asyncio.gather(*map(one, bodies))


def test_two_hundred_at_once_get_what_they_get_alone(server: Server, at_home: Runner) -> None:
    asked = [rows_of(1 + number % 3, seed=number) for number in range(200)]
    before = server.ask("GET", "/health")[2]
    found = asyncio.run(_together(server.port, [rows.tobytes() for rows in asked]))
    after = server.ask("GET", "/health")[2]
    for rows, answer in zip(asked, found, strict=True):
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), answer
        np.testing.assert_allclose(json.loads(body)["logits"], at_home(rows), rtol=0, atol=1e-5)
    assert after["answered"] - before["answered"] == 200
    assert 200 * 2 / 16 <= after["calls"] - before["calls"] < 200  # they did share calls
    assert after["waiting"] == 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read from /proc")
def test_memory_does_not_grow_with_requests(server: Server) -> None:
    def resident() -> int:
        return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def ask(times: int) -> None:
        body = post(rows_of(1).tobytes()).replace(b"connection: close", b"connection: keep-alive")
        with server.connect() as line:
            file = line.makefile("rb")
            with file:
                for _ in range(times):
                    line.sendall(body)
                    assert file.readline().startswith(b"HTTP/1.1 200")
                    length = 0
                    while (header := file.readline()) != b"\r\n":
                        if header.startswith(b"content-length"):
                            length = int(header.split()[1])
                    assert json.loads(file.read(length))["classes"]

    ask(200)
    before = resident()
    ask(2000)
    assert resident() - before < GROWTH


def batched(runner: Runner, limits: Limits, asked: list[NDArray[np.float32]], *, together: bool = True) -> list[object]:
    """What requests get that are there before the first call, and in the end how many calls that took."""

    async def run() -> list[object]:
        async with Batcher(runner, limits, together=together) as batcher:
            found = await asyncio.gather(*map(batcher.ask, asked), return_exceptions=True)
            return [*found, batcher.calls]

    return asyncio.run(run())


def pairs(*sizes: int) -> list[NDArray[np.float32]]:
    generator = np.random.default_rng(5)
    return [generator.random((size, 2), dtype=np.float32) for size in sizes]


@pytest.mark.parametrize(
    ("sizes", "together", "calls"),
    [((1, 2, 3), True, 1), ((1, 2, 3), False, 3), ((4, 4, 4), True, 2), ((20,), True, 3), ((8, 8), True, 2)],
    ids=["all in one", "never together", "as many as fit", "a long one in parts", "full calls"],
)
def test_everybody_gets_its_own_rows(sizes: tuple[int, ...], together: bool, calls: int) -> None:
    asked = pairs(*sizes)
    *found, count = batched(Doubling(), Limits(max_batch=8), asked, together=together)
    for rows, answer in zip(asked, found, strict=True):
        np.testing.assert_array_equal(answer, doubled(rows))
    assert count == calls


def test_a_long_request_lets_others_pass() -> None:
    order: list[int] = []

    class Noting(Doubling):
        def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
            order.append(len(inputs))
            return super().__call__(inputs)

    batched(Noting(), Limits(max_batch=4), pairs(12, 1))
    assert order[1] == 1  # the second call is not the second part of the long one


def test_somebody_elses_rows_do_no_harm() -> None:
    class Picky(Doubling):
        def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
            if (inputs > 1).any():
                raise RuntimeError("too large")
            return super().__call__(inputs)

    good, bad = pairs(2, 1)
    first, second, third, _ = batched(Picky(), Limits(), [good, bad + 5, good])
    np.testing.assert_array_equal(first, doubled(good))
    np.testing.assert_array_equal(third, doubled(good))
    assert isinstance(second, RuntimeError)


def test_a_full_queue_refuses() -> None:
    *found, _ = batched(Doubling(), Limits(queue=3), pairs(1, 1, 1, 1, 1))
    refused = [one for one in found if isinstance(one, RefusedError)]
    assert [one.status for one in refused] == [503, 503]
    assert refused[0].headers["retry-after"] == "1"


class Ranged(Doubling):
    """As layers whose range is found call by call: in 8 bits of whatever is in the call."""

    def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        step = np.float32(np.abs(inputs).max() / 15)
        return super().__call__((inputs / step).round() * step)


def test_models_that_look_at_the_company_are_found_out() -> None:
    assert _is_independent(Doubling())
    assert not _is_independent(Ranged())


def test_a_model_that_does_not_fit_its_facts_is_refused() -> None:
    class Odd(Doubling):
        facts = Facts(("a", "b"), (2,))

    with pytest.raises(ModelError, match=r"shape \(8, 3\)"):
        _is_independent(Odd())


def test_where_it_listens() -> None:
    made, local = _bind("127.0.0.1", 0)
    with made:
        assert local
        with pytest.raises(InputError, match="cannot listen at") as caught:
            _bind("127.0.0.1", made.getsockname()[1])
        assert "--port" in str(caught.value)
    made, local = _bind("0.0.0.0", 0)  # noqa: S104  that this is told apart is what is tested
    with made:
        assert not local
    with pytest.raises(InputError, match="cannot listen"):
        _bind("no such host", 0)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["missing.onnx"], 2, "no file"),
        (["FILE", "--port", "70000"], 2, "--port is out of range"),
        (["FILE", "--max-batch", "0"], 2, "--max-batch is too small"),
        (["FILE", "--queue", "0"], 2, "--queue is too small"),
        (["FILE", "--threads", "0"], 2, "--threads is too small"),
        (["FILE", "--timeout", "nan"], 2, "--timeout is out of range"),
        (["FILE", "--timeout", "0"], 2, "--timeout is out of range"),
        (["FILE", "--max-bytes", "8 bananas"], 2, "--max-bytes takes a size"),
        (["FILE", "--max-bytes", "0KiB"], 2, "--max-bytes is too small"),
        (["FILE", "--host", "no such host", "--port", "0"], 2, "cannot listen at"),
        (["README.md"], 2, "of no format"),
        (["broken.onnx"], 5, "no ONNX file"),
        (["program.pt2"], 2, "--trust"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_served(
    words: list[str], code: int, said: str, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("README.md", "broken.onnx", "program.pt2"):
        Path(name).write_text("no model")
    found = call("serve", *(str(artifact) if word == "FILE" else word for word in words))
    assert (found.code, found.out) == (code, "")
    assert found.err.startswith("error: ")
    assert said in found.err


def test_the_extra_is_named(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tutelage.serve import server

    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(MissingExtraError, match=r"`uvicorn`") as caught:
        server.serve(artifact, port=0)
    assert "tutelage[serve]" in str(caught.value)


def test_limits_bound_what_is_held() -> None:
    limits = Limits(max_bytes=1000, queue=10)
    assert limits.held == 16_000
    assert limits.connections == 266
