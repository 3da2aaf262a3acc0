"""The answer book and the desk before it: what was said is kept, counted, and never asked for again."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from remote_server import Fake, fake_server
from tutelage.errors import DamagedError, InputError, TutelageError
from tutelage.teachers.remote.address import Address
from tutelage.teachers.remote.book import Book, Spent, digest_of
from tutelage.teachers.remote.client import Client, StoppedError
from tutelage.teachers.remote.connection import Request
from tutelage.teachers.remote.desk import Desk, Errand
from tutelage.teachers.remote.settings import WireSettings
from tutelage.teachers.remote.spending import Purse


@pytest.fixture(scope="module")
def server() -> Iterator[Fake]:
    with fake_server() as found:
        yield found


def client_of(server: Fake) -> Client:
    return Client(Address.of(f"http://127.0.0.1:{server.port}/v1"), WireSettings())


# Desk


def errand(number: int, content: str = "dogs") -> Errand:
    body = {"model": f"m{number}", "messages": [{"role": "user", "content": f"A. cats\nB. dogs\n\nText:\n{content}"}]}
    read = lambda told: ([told["choices"][0]["message"]["content"].encode()], Spent(1, 2, 3))  # noqa: E731
    return Errand((digest_of(str(number).encode()),), Request.of_json("/chat/completions", body), read, Spent(1, 5, 5))


def test_one_that_fails_for_good_loses_none_of_the_others(server: Fake, tmp_path: Path) -> None:
    book = Book(tmp_path / "b.sqlite")
    desk = Desk(client_of(server), book, Purse(book, "t"), in_flight=2, tell=print)
    server.does({"kind": "status", "status": 400}, {"sleep": 0.2})
    with pytest.raises(InputError, match="HTTP 400"):
        desk.run([errand(number) for number in range(20)])
    kept = len(book)
    assert 1 <= kept < 20
    # The purse has counted the refused one as well; and the desk goes on afterwards.
    assert book.spent("t") == Spent(kept + 1, 2 * kept, 3 * kept)
    found = desk.run([errand(number) for number in range(20)])
    assert set(found.values()) == {b"B"}
    assert len(book) == 20
    assert desk.purse.total.requests == book.spent("t").requests == 21
    desk.close()


def test_what_another_process_was_told_meanwhile_is_not_asked(server: Fake, tmp_path: Path) -> None:
    book, before = Book(tmp_path / "b.sqlite"), server.counts()["requests"]
    desk = Desk(client_of(server), book, Purse(book, "t"), in_flight=2, tell=print)
    known = errand(1)
    book.add({known.questions[0]: b"said to another one"})
    assert desk.run([known]) == {known.questions[0]: b"said to another one"}
    assert server.counts()["requests"] == before
    assert book.spent("t") == Spent()
    desk.close()


def test_what_is_not_verified_is_not_written(server: Fake, tmp_path: Path) -> None:
    def refuse() -> None:
        raise TutelageError("another model")

    book = Book(tmp_path / "b.sqlite")
    desk = Desk(client_of(server), book, Purse(book, "t"), in_flight=2, tell=print)
    with pytest.raises(TutelageError, match="another model"):
        desk.run([errand(1)], verify=refuse)
    assert len(book) == 0
    assert len(desk.run([errand(1)], verify=lambda: None)) == 1
    assert len(book) == 1
    desk.close()


# Book


def test_a_book_keeps_the_first_answer_and_is_only_added_to(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "book.sqlite"
    one, two = digest_of(b"one"), digest_of(b"two")
    with Book(path) as book:
        book.add({one: b"first"}, "me", Spent(1, 10, 2))
        book.add({one: b"second", two: b""}, "me", Spent(2, 5, 5))
        book.add({}, "you", Spent(7))
    with Book(path) as book:
        assert book.find([two, one, digest_of(b"three")]) == {one: b"first", two: b""}
        assert len(book) == 2
        assert book.spent("me") == Spent(3, 15, 7)
        assert book.spent("nobody") == Spent()
        many = [digest_of(str(number).encode()) for number in range(1200)]
        book.add({question: question[:3] for question in many})
        assert book.find(many) == {question: question[:3] for question in many}
    raw = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="only added to"):
        raw.execute("DELETE FROM answers")
    with pytest.raises(sqlite3.IntegrityError, match="only added to"):
        raw.execute("UPDATE answers SET answer = x'00'")
    raw.close()


def test_parts_of_a_question_do_not_run_together() -> None:
    assert digest_of(b"ab", b"c") != digest_of(b"a", b"bc") != digest_of(b"abc")


def test_a_damaged_book_is_told(tmp_path: Path) -> None:
    path, question = tmp_path / "book.sqlite", digest_of(b"one")
    with Book(path) as book:
        book.add({question: b"the answer"})
    raw = sqlite3.connect(path)
    raw.executescript("DROP TRIGGER no_update; UPDATE answers SET answer = CAST('the onswer' AS BLOB);")
    raw.close()
    with Book(path) as book, pytest.raises(DamagedError, match="not what was written"):
        book.find([question])
    (tmp_path / "text.sqlite").write_text("this is no book at all, but long enough to be looked at" * 20)
    with pytest.raises(DamagedError, match="no answer book"):
        Book(tmp_path / "text.sqlite")
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.executescript("CREATE TABLE mine (a); ")
    other.close()
    with pytest.raises(DamagedError, match="another file of SQLite"):
        Book(tmp_path / "other.sqlite")
    (tmp_path / "file").write_text("")
    with pytest.raises(TutelageError, match="cannot be used"):
        Book(tmp_path / "file" / "book.sqlite")


HOLDER = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(file, fcntl.LOCK_EX, 1, int(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_question_is_held_while_another_process_asks_it(tmp_path: Path) -> None:
    path, question = tmp_path / "book.sqlite", digest_of(b"one")
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        if len(looks) == 2:
            raise StoppedError

    with Book(path) as book:
        words = [sys.executable, "-c", HOLDER, f"{path}-claims", str(int.from_bytes(question[:8], "little") >> 2)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(StoppedError), book.claim(question, look):
                pass
            with book.claim(digest_of(b"two"), look):  # another one is free
                pass
            other.kill()
        with book.claim(question, look):  # and this one, when its holder is dead
            pass
    assert len(looks) == 2
