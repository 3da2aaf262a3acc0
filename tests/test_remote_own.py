"""A served file as a teacher: the numbers that it gives at home, in the data's order, of one and the same model."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import tutelage
from remote_server import fake_server
from serve_parts import Server, perceptron, started
from tutelage.data import from_arrays, load, plain_batches
from tutelage.errors import ModelError, TutelageError
from tutelage.export import open_artifact
from tutelage.run import load_student
from tutelage.teachers import Teacher
from tutelage.teachers.remote import OwnTeacher, is_remote_teacher, open_remote
from tutelage.teachers.remote.served import Served
from tutelage.teachers.remote.settings import OwnSettings
from tutelage.types import Batch

DIGITS = tuple(map(str, range(10)))
SERVED = tuple(reversed(DIGITS))  # the server's order, which is not the data's


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return perceptron(tmp_path_factory.mktemp("file") / "student.onnx", (1, 8, 8), SERVED, name="digits")


@pytest.fixture(scope="module")
def server(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    words = ["-m", "tutelage", "serve", str(artifact), "--port", "0", "--max-batch", "16"]
    with started(words, tmp_path_factory.mktemp("log")) as found:
        yield found


def opened(
    port: int, book: Path, *, classes: Sequence[str] = DIGITS, said: list[str] | None = None, **args: Any
) -> OwnTeacher:
    tell = (lambda line: None) if said is None else said.append
    made = open_remote(f"http://127.0.0.1:{port}", args, classes=classes, view="x", book=book, tell=tell)
    assert isinstance(made, OwnTeacher)
    assert isinstance(made, Teacher)
    return made


def batch_of(rows: Tensor) -> Batch:
    return Batch(torch.arange(len(rows)), {"x": rows}, torch.zeros(len(rows), dtype=torch.int64))


class AtHome(nn.Module):
    """The served file's own weights as a torch module, in the order of the data's classes."""

    def __init__(self) -> None:
        super().__init__()
        generator = np.random.default_rng(3)  # as `perceptron` draws them
        first, second = generator.normal(size=(64, 16)) * 0.5, generator.normal(size=(16, 10))
        self.first = nn.Parameter(torch.from_numpy(first).float())
        self.second = nn.Parameter(torch.from_numpy(second).float().flip(1).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.first).relu() @ self.second


@pytest.mark.parametrize("body", ["raw", "json"])
def test_it_answers_as_at_home_by_name(server: Server, artifact: Path, tmp_path: Path, body: str) -> None:
    said: list[str] = []
    teacher = opened(server.port, tmp_path, said=said, body=body, in_flight=3)
    rows = torch.rand(70, 1, 8, 8)
    outputs = teacher.answer(batch_of(rows))
    assert isinstance(outputs.logits, Tensor)
    assert outputs.counts is None
    expected = open_artifact(artifact, threads=1)(rows.numpy())[:, [SERVED.index(name) for name in DIGITS]]
    np.testing.assert_allclose(outputs.logits.numpy(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs.logits, AtHome()(rows), rtol=0, atol=1e-5)
    assert said[0].startswith(f"teacher at http://127.0.0.1:{server.port}: digits (")
    assert "10 classes, inputs (1, 8, 8)" in said[0]


def test_the_book_answers_the_second_time_with_the_same_bits(server: Server, tmp_path: Path) -> None:
    rows = torch.rand(9, 1, 8, 8)
    first = opened(server.port, tmp_path)
    one = first.answer(batch_of(rows)).logits
    before = server.ask("GET", "/health")[2]["answered"]
    again = opened(server.port, tmp_path, parity=0)
    twice = torch.cat([rows.flip(0), rows[:3]])
    other = again.answer(batch_of(twice)).logits
    assert server.ask("GET", "/health")[2]["answered"] == before
    assert isinstance(one, Tensor)
    assert isinstance(other, Tensor)
    assert torch.equal(torch.cat([one.flip(0), one[:3]]), other)
    assert first.fingerprint() == again.fingerprint()
    assert first.fingerprint() != opened(server.port, tmp_path, classes=DIGITS[::-1]).fingerprint()


def test_classes_are_met_by_name_or_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="other classes than the data") as caught:
        opened(server.port, tmp_path, classes=[*DIGITS[:9], "nine"])
    assert "among them nine" in str(caught.value)
    with pytest.raises(ModelError, match="other classes"):
        opened(server.port, tmp_path, classes=DIGITS[:5])
    facts = Served({"classes": ["Top_A", "bag"], "input_shape": [2], "sha256": "0"}, "here")
    assert facts.order_for(["Bag", "top a"]) == [1, 0]
    twins = Served({"classes": ["a", "A"], "input_shape": [2], "sha256": "0"}, "here")
    assert twins.order_for(["A", "a"]) == [1, 0]


def test_inputs_of_another_shape_are_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="inputs of another shape") as caught:
        opened(server.port, tmp_path).answer(batch_of(torch.rand(2, 1, 9, 9)))
    assert "(1, 9, 9)" in str(caught.value)


def weights_of(run: tutelage.Run, arm: str) -> dict[str, Tensor]:
    return load_file(run.student(arm) / "student.safetensors")


def test_a_student_of_the_served_model_is_one_of_the_model(server: Server, tmp_path: Path) -> None:
    whole = load("digits", path=None, val=0.1, test=0.2, seed=0).train
    data = from_arrays(whole.inputs[:400], whole.targets[:400], classes=whole.classes, val=0.2, test=0.2, seed=0)
    settings: dict[str, Any] = {"epochs": 2, "quiet": True, "device": "cpu", "overwrite": True}
    teacher = opened(server.port, tmp_path / "book")
    home = tutelage.distill(AtHome(), "mlp", data, out=tmp_path / "home", **settings)
    live = tutelage.distill(teacher, "mlp", data, out=tmp_path / "live", **settings)
    stored = tutelage.distill(teacher, "mlp", data, out=tmp_path / "stored", store={"codec": "fp32"}, **settings)
    remote, kept = weights_of(live, "distilled"), weights_of(stored, "distilled")
    assert all(torch.equal(remote[name], kept[name]) for name in remote)
    inputs = next(iter(plain_batches(data.test, 64))).inputs["x"]
    files = home.student(), live.student(), live.student("scratch")
    with torch.no_grad():
        by_home, by_remote, alone = (load_student(file).eval()(inputs) for file in files)
    torch.testing.assert_close(by_home, by_remote, rtol=0, atol=1e-5)
    # The guard: without a teacher the student answers otherwise.
    assert float((alone - by_remote).abs().max()) > 0.1


# Servers that are not what they should be

MODEL: dict[str, Any] = {
    "name": "m", "sha256": "a" * 64, "classes": ["no", "yes"], "input_shape": [3], "shared_calls": True,
    "limits": {"max_batch": 4, "max_bytes": 100},
}  # fmt: skip


class Odd(BaseHTTPRequestHandler):
    """Says of itself what a test wants, and answers with the sum of a row and its opposite."""

    protocol_version = "HTTP/1.1"
    facts: dict[str, Any]
    health: list[str]  # digests, one for every look; the last stays
    told: Any
    drift: float
    sizes: list[int]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/model":
            self._send(self.facts)
        else:
            self._send({"sha256": self.health.pop(0) if len(self.health) > 1 else self.health[0]})

    def do_POST(self) -> None:
        rows = np.frombuffer(self.rfile.read(int(self.headers["content-length"])), "<f4").reshape(-1, 3)
        self.sizes.append(len(rows))
        total = rows.sum(-1).astype(float) + self.drift * len(self.sizes)
        self._send({"logits": np.stack([-total, total], -1).tolist()} if self.told is None else self.told)

    def _send(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def odd(
    *, told: Any = None, health: Sequence[str] = ("a" * 64,), drift: float = 0.0, **facts: Any
) -> Iterator[tuple[int, list[int]]]:
    """Its port, and how many rows each request had."""
    sizes: list[int] = []
    kind = type(
        "OddOne", (Odd,), {"facts": MODEL | facts, "health": list(health), "told": told, "drift": drift, "sizes": sizes}
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as made:
        made.daemon_threads = True
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield made.server_port, sizes
        finally:
            made.shutdown()
            thread.join()


def asked(port: int, book: Path, **args: Any) -> Tensor:
    teacher = opened(port, book, classes=("yes", "no"), **args)
    try:
        found = teacher.answer(batch_of(torch.arange(18.0).reshape(6, 3))).logits
    finally:
        teacher.close()
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize(
    ("facts", "args", "sizes"),
    [
        ({}, {}, [2, 4]), ({}, {"rows": 3}, [3, 3]), ({"limits": {"max_bytes": 24}}, {}, [2, 2, 2]),
        ({"shared_calls": False}, {}, [1] * 6), ({"limits": "none"}, {}, [6]),
    ],
    ids=["batch", "rows", "bytes", "company", "unlimited"],
)  # fmt: skip
def test_requests_fit_the_server(facts: dict[str, Any], args: dict[str, Any], sizes: list[int], tmp_path: Path) -> None:
    with odd(**facts) as (port, seen):
        found = asked(port, tmp_path, parity=0, **args)
        totals = torch.arange(18.0).reshape(6, 3).sum(-1)
        torch.testing.assert_close(found, torch.stack([totals, -totals], -1))
        assert sorted(seen) == sizes


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"logits": [[1.0, 2.0]] * 5}, "expected  shape (6, 2)"), ({"logits": [[1.0], [2.0, 3.0]]}, "logits"),
        ({"probabilities": [[0.5, 0.5]] * 6}, "no list called logits"), ({"logits": [[1e39, "a"]] * 6}, "logits"),
        ({"logits": [[1e300 * 10, 10**400]] * 6}, "logits"), ([], "no list called logits"),
    ],
    ids=["few", "ragged", "probabilities", "words", "beyond", "list"],
)  # fmt: skip
def test_answers_of_another_form_are_refused(told: Any, words: str, tmp_path: Path) -> None:
    with odd(told=told, limits={}) as (port, _), pytest.raises(ModelError) as caught:
        asked(port, tmp_path, parity=0)
    assert words in str(caught.value)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    told = {"logits": [[float("nan"), 1.0]] * 6}
    with odd(told=told, limits={}) as (port, _), pytest.raises(TutelageError, match="the answer holds NaN"):
        asked(port, tmp_path, parity=0, retries=0)


def test_a_server_that_changes_its_file_is_found_out(tmp_path: Path) -> None:
    with odd(health=["a" * 64, "b" * 64]) as (port, _):
        teacher = opened(port, tmp_path, classes=("yes", "no"), parity=0)
        teacher.answer(batch_of(torch.rand(2, 3)))
        with pytest.raises(ModelError, match="another one than at the start"):
            teacher.answer(batch_of(torch.rand(3, 3)))
        # Nothing of the other file was written.
        assert len(teacher._desk.book) == 2
        teacher.close()


def test_one_that_answers_otherwise_each_time_is_refused(tmp_path: Path) -> None:
    with odd(drift=0.01) as (port, _), pytest.raises(ModelError, match="answers the same rows otherwise"):
        asked(port, tmp_path)


@pytest.mark.parametrize(
    "facts", [{"classes": None}, {"classes": ["a", "a"]}, {"input_shape": [0]}, {"sha256": 7}], ids=str
)
def test_what_says_nothing_of_itself_is_no_teacher(facts: dict[str, Any], tmp_path: Path) -> None:
    with odd(**facts) as (port, _), pytest.raises(ModelError, match="no endpoint of `tutelage serve`"):
        opened(port, tmp_path)


def test_a_chat_server_is_no_endpoint_of_ours(tmp_path: Path) -> None:
    with fake_server() as other, pytest.raises(ModelError, match="write chat: before its address"):
        opened(other.port, tmp_path)


def test_one_example_that_is_too_long_is_told(tmp_path: Path) -> None:
    with odd(limits={"max_bytes": 11}) as (port, _), pytest.raises(TutelageError, match="one example is more"):
        asked(port, tmp_path)


def test_names_of_remote_teachers() -> None:
    assert all(map(is_remote_teacher, ("http://localhost:8000", "https://host/x", "chat:https://host/v1")))
    assert not any(map(is_remote_teacher, ("cnn", "hf:bert", "httpx", "onnx:/file.onnx", "package.module:function")))
    assert OwnSettings().in_flight == 8
