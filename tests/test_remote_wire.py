"""Whatever a server does, or somebody on the way: an answer, another try, or a clear word; and never a key in it."""

from __future__ import annotations

import email.utils
import gc
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remote_server import Fake, fake_server
from tutelage.errors import InputError, TutelageError
from tutelage.teachers.remote.address import Address, key_from
from tutelage.teachers.remote.book import Book, Spent
from tutelage.teachers.remote.client import Client, StoppedError, _seconds
from tutelage.teachers.remote.connection import Request
from tutelage.teachers.remote.desk import Desk, Errand
from tutelage.teachers.remote.settings import ChatSettings, OwnSettings, WireSettings, settings_of
from tutelage.teachers.remote.spending import Purse

ASKED = {"model": "m", "messages": [{"role": "user", "content": "A. cats\nB. dogs\n\nText:\ndogs"}]}
SECRET = "hunter2-hunter2"  # noqa: S105  a key that must turn up nowhere


@pytest.fixture(scope="module")
def module_server() -> Iterator[Fake]:
    with fake_server() as found:
        yield found


@pytest.fixture
def server(module_server: Fake, monkeypatch: pytest.MonkeyPatch) -> Fake:
    # Pauses are counted, not waited for.
    monkeypatch.setattr("tutelage.teachers.remote.client._FIRST_PAUSE", 0.001)
    return module_server


def client_of(server: Fake, **settings: Any) -> Client:
    return Client(Address.of(f"http://127.0.0.1:{server.port}/v1"), WireSettings(**settings))


def ask(client: Client) -> Any:
    return client.ask(
        Request.of_json("/chat/completions", ASKED), lambda told: told["choices"][0]["message"]["content"]
    )


FAULTS: dict[str, dict[str, Any]] = {
    "too-many": {"kind": "status", "status": 429, "headers": {"retry-after": "0"}},
    "down": {"kind": "status", "status": 503},
    "failed": {"kind": "status", "status": 500},
    "page": {"kind": "raw", "text": "<html>bad gateway</html>"},
    "nan": {"kind": "raw", "text": '{"choices": [{"logprob": NaN}]}'},
    "deep": {"kind": "raw", "text": "[" * 100_000},
    "dropped": {"kind": "drop"},
    "half": {"kind": "half"},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_may_pass_is_tried_again(server: Fake, fault: dict[str, Any]) -> None:
    client, before = client_of(server), server.counts()["requests"]
    server.does(fault, fault)
    assert ask(client) == "B"
    # A connection that was dropped before any answer is opened once more without counting as an attempt of ours.
    assert server.counts()["requests"] - before == 3
    client.close()


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_does_not_pass_is_told(server: Fake, fault: dict[str, Any]) -> None:
    server.does(*[fault] * 3)
    with pytest.raises(TutelageError, match="does not answer") as caught:
        ask(client_of(server, retries=2))
    said = str(caught.value)
    assert f"http://127.0.0.1:{server.port}/v1" in said
    assert "3 attempts" in said


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "no-key": ({"kind": "status", "status": 401}, "wants a key (HTTP 401)"),
    "bad-request": ({"kind": "status", "status": 400}, "refuses the request (HTTP 400)"),
    "nowhere": ({"kind": "status", "status": 404}, "is the address right?"),
    "elsewhere": (
        {"kind": "status", "status": 307, "headers": {"location": "http://other.invalid/v1?key=abc"}},
        "other.invalid/v1",
    ),
    "long": ({"kind": "huge", "size": 70_000}, "the answer is too long"),
    "packed": ({"kind": "raw", "text": "{}", "headers": {"content-encoding": "gzip"}}, "compressed"),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "words"), REFUSALS.values(), ids=REFUSALS)
def test_what_is_refused_is_not_asked_again(server: Fake, fault: dict[str, Any], words: str) -> None:
    before = server.counts()["requests"]
    server.does(fault)
    with pytest.raises(TutelageError) as caught:
        ask(client_of(server, max_bytes=65_536))
    assert words in str(caught.value)
    assert "abc" not in str(caught.value)
    assert server.counts()["requests"] - before == 1


def test_a_key_goes_in_the_header_and_nowhere_else(
    server: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TEACHER_KEY", SECRET)
    client = client_of(server, key_env="TEACHER_KEY")
    ask(client)
    assert server.counts()["heads"][-1]["authorization"] == f"Bearer {SECRET}"
    other = client_of(server, key_env="TEACHER_KEY", key_header="api-key")
    ask(other)
    assert server.counts()["heads"][-1]["api-key"] == SECRET
    # A server that says the key in its refusal does not make us say it.
    server.does({"kind": "echo"})
    with pytest.raises(InputError, match="HTTP 400") as caught:
        ask(client)
    assert SECRET not in str(caught.value)
    assert "bad key Bearer …" in str(caught.value)
    server.does({"kind": "status", "status": 403})
    with pytest.raises(InputError, match="look at the variable TEACHER_KEY"):
        ask(client)
    book = Book(tmp_path / "book.sqlite")
    desk = Desk(client, book, Purse(book, "t"), in_flight=1, tell=print)
    desk.run(
        [Errand((b"q" * 32,), Request.of_json("/chat/completions", ASKED), lambda _: ([b"said"], Spent()), Spent(1))]
    )
    book.close()
    for file in tmp_path.iterdir():
        assert SECRET.encode() not in file.read_bytes()
    assert SECRET not in repr(vars(client)["_settings"])


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("sk-12345", None, "does not hold the key"), ("hunter2", None, "does not hold the key"),
        ("TEACHER_KEY", None, "TEACHER_KEY is not set"), ("TEACHER_KEY", "two words", "cannot be a key"),
        ("TEACHER_KEY", "line\r\nx-evil: 1", "cannot be a key"), ("TEACHER_KEY", "schlüssel", "cannot be a key"),
    ],
)  # fmt: skip
def test_what_is_no_key_is_not_repeated(
    variable: str, value: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TEACHER_KEY", value)
    with pytest.raises(InputError) as caught:
        key_from(variable)
    assert words in str(caught.value)
    assert "12345" not in str(caught.value)
    assert value is None or value not in str(caught.value)


def test_settings_are_read_strictly() -> None:
    with pytest.raises(InputError, match="no argument `api_key`") as caught:
        settings_of(ChatSettings, {"model": "m", "api_key": SECRET})
    assert SECRET not in str(caught.value)
    assert "key_env" in str(caught.value)
    with pytest.raises(InputError, match=r"did you mean `in_flight`"):
        settings_of(OwnSettings, {"in_fligth": 3})
    with pytest.raises(InputError, match=r"`teacher.args.model` is missing"):
        settings_of(ChatSettings, {})
    with pytest.raises(InputError, match=r"`teacher.args.price.in`") as caught:
        settings_of(ChatSettings, {"model": "m", "price": {"in": -1.0, "out": 0.0}})
    assert "given     -1.0" in str(caught.value)
    assert settings_of(ChatSettings, {"model": "m", "price": {"in": 1, "out": 2}}).price is not None


@pytest.mark.parametrize(
    "text",
    ["http://example.invalid/v1", "http://10.0.0.1", "ftp://127.0.0.1", "https://", "https://user:pw@host/v1",
     "https://host/v1?key=abc", "https://host/#abc", "https://host:99999", "https://ho st", "http://localhost.evil.test"],
)  # fmt: skip
def test_addresses_that_are_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Address.of(text)
    assert not any(secret in str(caught.value) for secret in ("pw", "abc"))


def test_addresses_that_are_taken() -> None:
    assert Address.of("https://host.test/v1/").shown == "https://host.test/v1"
    assert Address.of("http://[::1]:8000").shown == "http://[::1]:8000"
    assert Address.of("http://localhost:80/v1").authority == "localhost"
    assert Address.of("http://host.test", insecure=True).port == 80


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_no_proxy_is_between_us_and_this_machine(server: Fake, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert ask(client_of(server)) == "B"


def test_elsewhere_the_proxy_of_the_environment_is_used(server: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("https_proxy", f"http://me:pw@127.0.0.1:{server.port}")
    monkeypatch.setenv("TEACHER_KEY", SECRET)
    client = Client(Address.of("https://teacher.invalid/v1"), WireSettings(retries=0, key_env="TEACHER_KEY"))
    with pytest.raises(TutelageError, match="does not answer"):
        ask(client)
    met = server.counts()["heads"][-1]
    assert met["connect"] == "teacher.invalid:443"
    assert met["Proxy-Authorization"] == "Basic bWU6cHc="
    assert SECRET not in json.dumps(met)


def test_a_certificate_of_nobody_is_refused(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "own.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    try:
        subprocess.run(
            ["openssl", *words.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("openssl is not here to make a certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            line, _ = listening.accept()
            with line, pytest.raises(ssl.SSLError):
                context.wrap_socket(line, server_side=True)

        greeting = threading.Thread(target=greet)
        greeting.start()
        client = Client(Address.of(f"https://localhost:{listening.getsockname()[1]}"), WireSettings())
        with pytest.raises(TutelageError, match="cannot prove who it is"):
            ask(client)
        greeting.join(10)


def test_slow_answers_end_at_the_timeout_however_they_are_slow(server: Fake) -> None:
    server.does({"sleep": 1.0}, {"kind": "drip", "drops": 40})
    for _ in range(2):
        with pytest.raises(TutelageError, match="no answer in time"):
            ask(client_of(server, timeout=0.2, retries=0))


def test_the_server_says_how_long_to_wait(server: Fake) -> None:
    server.does({"kind": "status", "status": 429, "headers": {"retry-after": "0.3"}})
    assert ask(client_of(server)) == "B"
    first, second = server.counts()["times"][-2:]
    assert second - first >= 0.3
    server.does({"kind": "status", "status": 429, "headers": {"retry-after": "3600"}})
    with pytest.raises(TutelageError, match=r"3,600 s more were to be waited, beyond the deadline of 600 s"):
        ask(client_of(server))


def test_retry_after_in_all_its_forms() -> None:
    assert _seconds("7") == 7.0
    assert _seconds("-3") == 0.0
    soon = _seconds(email.utils.formatdate(time.time() + 100, usegmt=True))
    assert soon is not None
    assert 90 < soon < 101
    assert [_seconds(text) for text in (None, "soon", "nan", "inf", "")] == [None] * 5


def test_pauses_grow_and_repeat_by_their_seed() -> None:
    client = Client(Address.of("http://localhost:1"), WireSettings())
    other = Client(Address.of("http://localhost:1"), WireSettings(seed=1))
    one, two = Request("POST", "/", b"one"), Request("POST", "/", b"two")
    pauses = [client._back_off(one, attempt) for attempt in range(12)]
    assert pauses == [client._back_off(one, attempt) for attempt in range(12)]
    for attempt, pause in enumerate(pauses):
        whole = min(30.0, 0.5 * 2**attempt)
        assert whole / 2 <= pause <= whole
    assert len({pauses[0], client._back_off(two, 0), other._back_off(one, 0)}) == 3


def test_nobody_there_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.teachers.remote.client._FIRST_PAUSE", 0.001)
    tries: list[int] = []
    client = Client(Address.of("http://127.0.0.1:1/v1"), WireSettings(retries=50))
    with pytest.raises(TutelageError, match="is the server running") as caught:
        client.ask(Request("GET", "/"), lambda told: told, before=lambda: tries.append(1))
    assert "Connection refused" in str(caught.value)
    assert len(tries) == 3


def test_connections_are_kept(server: Fake) -> None:
    client = client_of(server)
    for _ in range(3):
        ask(client)
    (idle,) = client._connections._idle
    client.close()
    assert idle.sock is None
    del client, idle
    gc.collect()  # nothing complains of open sockets


def test_a_stopped_client_starts_no_attempt(server: Fake) -> None:
    client, before = client_of(server), server.counts()["requests"]
    client.stop()
    with pytest.raises(StoppedError):
        ask(client)
    client.resume()
    assert ask(client) == "B"
    assert server.counts()["requests"] - before == 1


def test_words_of_servers_are_short_and_of_one_line(server: Fake) -> None:
    said = "a\n\x1b[31mb " + "c" * 1000
    server.does({"kind": "status", "status": 422, "body": {"error": {"message": said}}})
    with pytest.raises(InputError) as caught:
        ask(client_of(server))
    (line,) = re.findall(r"given +(.*)", str(caught.value))
    assert line.startswith("a [31mb ccc")
    assert len(line) == 301
