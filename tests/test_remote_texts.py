"""A served student of texts as a teacher: of tokens, of plain text by the names of columns, of questions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from serve_parts import Server, started
from tutelage.data import Rows, Splits, from_rows
from tutelage.data.encoders import fit
from tutelage.data.encoders.digest import digest_of_reading
from tutelage.data.encoders.text import Plain, Tokens, tokens_of
from tutelage.data.examples import as_model_input
from tutelage.errors import InputError, ModelError, TutelageError
from tutelage.export import Facts, Runner, open_artifact
from tutelage.models import ModelSpec, build
from tutelage.recipe import from_mapping
from tutelage.run import run_recipe
from tutelage.run.exporting import How, export_run
from tutelage.serve.columns import columns_of
from tutelage.teachers.remote import Book, Encodings, OwnTeacher, open_remote
from tutelage.teachers.remote.book import digest_of
from tutelage.teachers.remote.sent import Numbers, Sender, Texts
from tutelage.teachers.remote.served import Served
from tutelage.teachers.remote.settings import OwnSettings
from tutelage.types import Batch

KINDS = {"net": "socket packet router", "math": "matrix prime integral", "game": "player score dragon"}
COUNT = 400


def table() -> dict[str, list[Any]]:
    draw, rows = np.random.default_rng(5), dict[str, list[Any]](kind=[], title=[], body=[], age=[])
    for number in range(COUNT):
        kind = sorted(KINDS)[draw.integers(3)]
        words = draw.choice(KINDS[kind].split(), size=3)
        rows["kind"].append(kind)
        rows["title"].append(f"{words[0]} {number}")
        rows["body"].append(f"Ärger: {words[1]} and {words[2]}")
        rows["age"].append(int(draw.integers(90)))
    return rows


def recipe_of(folder: Path, inputs: Mapping[str, Any], teacher: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    given = table()
    path = folder / "rows.csv"
    lines = [",".join(given), *(",".join(map(str, cells)) for cells in zip(*given.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return {
        "name": "texts", "seeds": [0], "student": {"model": "bag", "args": {"width": 8}}, "teacher": dict(teacher),
        "data": {"source": "rows", "path": str(path), "label": "kind", "inputs": dict(inputs)},
        "train": {"epochs": 3, "batch_size": 32, "lr": 0.03}, "report": {"bootstrap": 100, "latency": False}, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("served")
    teacher = {"model": "bag", "args": {"width": 4}, "train": {"epochs": 1, "lr": 0.03}}
    inputs = {"x": {"text": ["title", "body"], "tokens": {"vocabulary": 150, "length": 16}}}
    run_recipe(from_mapping(recipe_of(home, inputs, teacher), ()), home / "run", quiet=True)
    return export_run(home / "run", How(["onnx"])).artifacts[0].path


@pytest.fixture(scope="module")
def server(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    words = ["-m", "tutelage", "serve", str(artifact), "--port", "0", "--max-batch", "16"]
    with started(words, tmp_path_factory.mktemp("log")) as found:
        yield found


@pytest.fixture(scope="module")
def at_home(artifact: Path) -> Runner:
    return open_artifact(artifact, threads=1)


def encoding_of(runner: Runner) -> dict[str, Any]:
    assert runner.facts.encoding is not None
    return dict(runner.facts.encoding)


def odd_rows() -> Rows:
    """Texts that break whatever is put together carelessly."""
    titles = ['a "socket"', "", "{prime}\\", " dragon ", "router,matrix", "\U0001f409 score"]
    bodies = ["line\nline\ttab", "only a body", "", "日本 Ärger and\u2028score", "null", "player's"]
    columns = {"title": titles, "body": bodies, "more": [str(number) for number in range(6)]}
    return Rows("odd", {name: np.array(texts, dtype=object) for name, texts in columns.items()})


def opened(
    server: Server, book: Path, encodings: Encodings | None, said: list[str] | None = None, **args: Any
) -> OwnTeacher:
    made = open_remote(
        f"http://127.0.0.1:{server.port}", args, classes=sorted(KINDS), view="v", book=book, encodings=encodings,
        tell=(lambda line: None) if said is None else said.append,
    )  # fmt: skip
    assert isinstance(made, OwnTeacher)
    return made


def answer(teacher: OwnTeacher, view: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    found = teacher.answer(
        Batch(torch.arange(len(view)), {"v": view}, torch.zeros(len(view), dtype=torch.int64))
    ).logits
    assert isinstance(found, Tensor)
    return found.numpy()


def in_order(runner: Runner, tokens: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What the file says of tokens, in the order of the data's classes."""
    order = [runner.facts.classes.index(name) for name in sorted(KINDS)]
    return runner(as_model_input(tokens).numpy())[:, order]


# ---- over HTTP -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["raw", "json"])
def test_tokens_are_asked_about_as_they_are(server: Server, at_home: Runner, tmp_path: Path, body: str) -> None:
    said: list[str] = []
    tokens = tokens_of(encoding_of(at_home)).encode(odd_rows())
    teacher = opened(server, tmp_path, Encodings(encoding_of(at_home)), said, body=body)
    np.testing.assert_allclose(answer(teacher, as_model_input(tokens)), in_order(at_home, tokens), rtol=0, atol=1e-5)
    assert not [line for line in said if line.startswith("notice")]
    blind = opened(server, tmp_path / "other", None, said, parity=0)
    answer(blind, as_model_input(tokens))
    answer(blind, as_model_input(tokens))
    assert sum("does not say what makes tokens" in line for line in said) == 1


@pytest.mark.parametrize("names", [("title", "body"), ("more", "body", "title")], ids=["as it reads", "turned"])
def test_texts_are_asked_about_by_column(
    server: Server, at_home: Runner, tmp_path: Path, names: tuple[str, ...]
) -> None:
    """Its own tokenizer reads them; what else the view holds makes no other question."""
    plain, tokens = Plain(names, 90), tokens_of(encoding_of(at_home)).encode(odd_rows())
    teacher = opened(server, tmp_path, Encodings(plain.facts()), rows=2)
    view = as_model_input(plain.encode(odd_rows()))
    np.testing.assert_allclose(answer(teacher, view), in_order(at_home, tokens), rtol=0, atol=1e-5)
    before = server.ask("GET", "/health")[2]["answered"]
    less = Plain(("body", "title"), 80)
    again = opened(server, tmp_path, Encodings(less.facts()), parity=0)
    assert np.array_equal(answer(again, less.encode(odd_rows())), answer(teacher, view))
    assert server.ask("GET", "/health")[2]["answered"] == before
    assert again.fingerprint() == teacher.fingerprint()
    assert again.fingerprint() != opened(server, tmp_path, None).fingerprint()


def test_questions_in_the_book_are_bytes_or_the_json_of_a_row(server: Server, at_home: Runner, tmp_path: Path) -> None:
    model = server.ask("GET", "/model")[2]
    asked = json.dumps(["own", model["sha256"], model["classes"], tuple(model["input_shape"])]).encode()
    rows = odd_rows()
    tokens = tokens_of(encoding_of(at_home)).encode(rows)
    answer(opened(server, tmp_path, Encodings(encoding_of(at_home)), parity=0), as_model_input(tokens))
    answer(opened(server, tmp_path, Encodings(Plain(("title", "body"), 90).facts()), parity=0),
           Plain(("title", "body"), 90).encode(rows))  # fmt: skip
    texts = [
        json.dumps({"body": body, "title": title}, ensure_ascii=False, separators=(",", ":")).encode()
        for title, body in zip(rows.texts("title"), rows.texts("body"), strict=True)
    ]
    lines = [digest_of(asked, row.astype("<i8").tobytes()) for row in tokens.numpy()]
    lines += [digest_of(asked, b"row", text) for text in texts]
    with Book(tmp_path / "book.sqlite") as book:
        assert len(book) == len(book.find(lines)) == 12


def test_the_server_tells_what_makes_its_tokens(server: Server, at_home: Runner) -> None:
    model = server.ask("GET", "/model")[2]
    assert model["reads"] == digest_of_reading(encoding_of(at_home))
    # Another wording of the same: what decides, put together by hand.
    kept = {key: at_home.facts.encoding[key] for key in ("kind", "length", "swap", "tokenizer", "vocabulary")}  # type: ignore[index]
    text = json.dumps(kept | {"sides": 2}, sort_keys=True, separators=(",", ":"))
    assert model["reads"] == sha256(b"reads 1 " + text.encode()).hexdigest()


def lines_of(book: Path) -> int:
    if not book.is_file():
        return 0
    with Book(book) as found:
        return len(found)


def test_a_student_with_another_tokenizer_learns_from_it(
    server: Server, at_home: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between, started again, and then from a store: no text is paid for twice, and all say the same."""
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    args = {"rows": 1, "in_flight": 2, "parity": 0}
    teacher = {"model": f"http://127.0.0.1:{server.port}", "args": args, "reads": "raw"}
    inputs = {
        "x": {"text": ["body", "title"], "tokens": {"vocabulary": 60, "length": 20}},
        "raw": {"text": ["title", "body"]},
    }
    recipe = recipe_of(tmp_path, inputs, teacher)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    book, before = tmp_path / "cache/answers/book.sqlite", server.ask("GET", "/health")[2]["answered"]
    words = [sys.executable, "-m", "tutelage", "run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "killed")]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as killed:
        until = time.monotonic() + 60
        while lines_of(book) < 40 and killed.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        os.kill(killed.pid, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert 40 <= lines_of(book) < COUNT
    live = run_recipe(from_mapping(recipe, ()), tmp_path / "live", quiet=True)
    after = server.ask("GET", "/health")[2]["answered"]
    assert lines_of(book) == COUNT
    assert COUNT <= after - before <= COUNT + 64  # the batch that was under way, and what it was cut from
    recipe["teacher"]["store"] = {"codec": "fp32"}
    stored = run_recipe(from_mapping(recipe, ()), tmp_path / "stored", quiet=True)
    assert server.ask("GET", "/health")[2]["answered"] == after
    one, other = (load_file(run.student("distilled") / "student.safetensors") for run in (live, stored))
    assert all(torch.equal(one[name], other[name]) for name in one)
    alone = load_file(live.student("scratch") / "student.safetensors")
    assert any(not torch.equal(one[name], alone[name]) for name in one)
    # What stands in the book is what the file says of these texts.
    rows = Rows("all", {name: np.array(texts, dtype=object) for name, texts in table().items() if name != "age"})
    made = Plain(("title", "body"), 60)
    known = answer(opened(server, book, Encodings(made.facts()), parity=0), made.encode(rows))
    assert server.ask("GET", "/health")[2]["answered"] == after
    expected = in_order(at_home, tokens_of(encoding_of(at_home)).encode(rows))
    np.testing.assert_allclose(known, expected, rtol=0, atol=1e-5)


# ---- what fits ------------------------------------------------------------------------------------------------------


def served(**facts: Any) -> Served:
    told = {
        "classes": ["no", "yes"], "input_shape": [6], "sha256": "a" * 64, "vocabulary": 50, "reads": None,
        "columns": {"question": "text", "text": "text"},
    }  # fmt: skip
    return Served(told | facts, "here")


def sender(encodings: Encodings | None = None, *, as_json: bool = False, **facts: Any) -> Sender:
    return Sender(served(**facts), as_json=as_json, view="v", encodings=encodings or Encodings())


def plain(*names: str) -> Encodings:
    return Encodings({"kind": "plain", "columns": list(names), "length": 30}, name="raw")


def raw(*rows: str, length: int = 30) -> Tensor:
    return torch.stack([
        torch.frombuffer(bytearray(row.encode().ljust(length, b"\0")), dtype=torch.uint8) for row in rows
    ])  # fmt: skip


TOKENS = {"kind": "tokens", "columns": ["text"], "length": 6, "lower": True, "swap": 0, "tokenizer": "{}"}


@pytest.mark.parametrize(
    ("encodings", "facts", "words"),
    [
        (Encodings({**TOKENS, "vocabulary": 40}), {}, ["another vocabulary", "40 tokens", "50 tokens", "reads: raw"]),
        (Encodings({**TOKENS, "vocabulary": 50}), {"reads": "b" * 64}, ["other tokens", "b" * 12, "reads: raw"]),
        (Encodings({**TOKENS, "vocabulary": 50}), {"reads": "b" * 64, "answers": {}}, ["tokens: {source: …}"]),
        (plain("title", "text"), {}, ["that the view lacks", "title, text in the view `raw`", "question, text"]),
        (plain("quest", "text"), {}, ["did you mean"]),
        (plain("text"), {"columns": None, "vocabulary": None}, ["reads no columns", "numbers, shape (6,)"]),
        (plain("noise"), {"columns": {"noise": "list of samples"}}, ["hears sounds"]),
        (
            Encodings({"kind": "plain", "columns": ["question", "text"]}, {**TOKENS, "vocabulary": 50}),
            {"answers": {}, "reads": "b" * 64}, ["places of other tokens", "b" * 12, "tokens: {source: …}"],
        ),
        (
            Encodings({"kind": "plain", "columns": ["question", "text"]}, {**TOKENS, "vocabulary": 50}),
            {"answers": {}}, ["an unknown tokenizer"],
        ),
    ],
    ids=["size", "tokenizer", "places", "columns", "near", "none", "sounds", "questions", "silent"],
)  # fmt: skip
def test_what_cannot_fit_is_refused_at_the_start(
    encodings: Encodings, facts: dict[str, Any], words: Sequence[str]
) -> None:
    with pytest.raises(ModelError) as caught:
        sender(encodings, **facts)
    for word in words:
        assert word in str(caught.value)


def test_what_fits_is_not_refused() -> None:
    ours = {**TOKENS, "vocabulary": 50}
    known = sender(Encodings(ours), reads=digest_of_reading(ours))
    assert known.notices == []
    assert sender(plain("text", "question")).notices == []
    both = sender(Encodings({"kind": "plain", "columns": ["question", "text"]}, ours), answers={},
                  reads=digest_of_reading(ours))  # fmt: skip
    assert both.notices == []
    for unknown in (sender(Encodings(ours)), sender(Encodings({"vocabulary": 50}), reads="b" * 64)):
        assert ["does not say what makes tokens" in line for line in unknown.notices] == [True]
    scaled = {"kind": "table", "columns": ["a"], "numbers": [{"column": "a", "mean": 1.0}], "vocabulary": 0}
    numbers = {"vocabulary": None, "columns": {"a": "number or null"}}
    assert sender(Encodings(scaled), **numbers, reads=digest_of_reading(scaled)).notices == []
    assert "scaled otherwise" in sender(Encodings(scaled), **numbers, reads="b" * 64).notices[0]


@pytest.mark.parametrize(
    ("encodings", "facts", "view", "kind", "word"),
    [
        (None, {}, torch.rand(2, 6), ModelError, "reads tokens"),
        (None, {"vocabulary": None, "columns": None}, torch.ones(2, 6).long(), ModelError, "reads no tokens"),
        (None, {}, torch.ones(2, 7).long(), ModelError, "(7,) for the view `v`"),
        (None, {}, torch.full((2, 6), 50), ModelError, "tokens 50 … 50"),
        (None, {}, torch.full((2, 6), -1), ModelError, "0 … 49"),
        (None, {}, raw("text"), InputError, "Encodings({"),
        (plain("question", "text"), {}, raw("one\x1ftwo\x1fthree"), InputError, "another number of columns"),
        (plain("age"), {"columns": {"age": "number or null"}}, raw("old"), ModelError, "a number in the column `age`"),
        (plain("age"), {"columns": {"age": "number or null"}}, raw("1e999"), ModelError, "1e999"),
    ],
    ids=["numbers", "tokens", "shape", "high", "low", "unnamed", "columns", "word", "infinite"],
)  # fmt: skip
def test_views_of_another_kind_are_refused(
    encodings: Encodings | None, facts: dict[str, Any], view: Tensor, kind: type[TutelageError], word: str
) -> None:
    with pytest.raises(kind) as caught:
        sender(encodings, **facts).of(view)
    assert word in str(caught.value)


def test_numbers_and_categories_of_a_table_arrive_as_they_are() -> None:
    """By way of plain text and JSON a server makes the inputs that the data's own encoder makes."""
    rows = Rows("table", {
        "age": np.array([3.0, np.nan, 0.1 + 0.2, -1e-7]), "town": np.array(["Ulm", "", "7", "Kiel"], dtype=object),
        "code": np.array([1.0, 2.5, np.nan, 1.0]),
    })  # fmt: skip
    encoder = fit({"numbers": ["age"], "categories": ["town", "code"]}, rows.take(list(range(4)) * 20), "x")
    inputs = as_model_input(encoder.encode(rows))
    facts = Facts(("a", "b"), tuple(inputs.shape[1:]), encoding={**encoder.facts(), "vocabulary": 0})
    columns = columns_of(facts)
    assert columns is not None
    made = Plain(("code", "age", "town"), 80)
    asked = sender(Encodings(made.facts()), columns=columns.kinds, vocabulary=None, input_shape=list(facts.input_shape))
    body = asked.of(made.encode(rows)).request(range(4)).body
    assert json.loads(body)["rows"][1] == {"age": None, "code": "2.5", "town": ""}
    np.testing.assert_array_equal(columns.read(json.loads(body)["rows"], 2**20), inputs.numpy())
    assert len(np.unique(inputs.numpy(), axis=0)) == 4


def test_texts_that_are_cut_are_told_once() -> None:
    asked = sender(plain("question", "text"))
    asked.of(raw("what?\x1fthis is it.", "who?\x1fhe", length=17))
    assert asked.notices == []  # the longest one fills the view, as it should
    for _ in range(2):
        asked.of(raw("what?\x1fthis is it.", "whom?\x1fthis is it?", length=17))
    assert len(asked.notices) == 1
    assert "fill all 17 bytes of the view `raw`" in asked.notices[0]


def test_requests_are_cut_where_texts_fill_them() -> None:
    limits = {"max_batch": 3, "max_bytes": 164}
    facts, settings = served(limits=limits, input_shape=[2]), OwnSettings()
    parts = facts.parts([40, 60, 30, 1, 1, 1, 1], settings, as_json=True)
    assert [list(part) for part in parts] == [[0, 1], [2, 3, 4], [5, 6]]
    assert facts.parts([], settings, as_json=True) == []
    with pytest.raises(TutelageError, match="one example is more") as caught:
        facts.parts([40, 101], settings, as_json=True)
    assert "101 bytes" in str(caught.value)
    # A million characters of texts are the most that a server takes at once, whatever its bytes.
    wide = served(input_shape=[2]).parts([400_000] * 5, settings, as_json=True)
    assert [len(part) for part in wide] == [2, 2, 1]
    # And no more rows than what is made of them may take.
    assert [len(part) for part in served(limits={"max_bytes": 164}, input_shape=[41]).parts([1] * 5, settings,
            as_json=True)] == [2, 2, 1]  # fmt: skip
    texts = Texts([b'{"a":1}', b'{"a":22}'])
    assert (texts.sizes, texts.request([1, 0]).body) == ([8, 9], b'{"rows":[{"a":22},{"a":1}]}')
    rows = np.arange(6, dtype="<f4").reshape(2, 3)
    assert Numbers(rows).keys == [(rows[0].tobytes(),), (rows[1].tobytes(),)]
    assert Numbers(np.zeros((2, 5), "<i8")).sizes == [40, 40]
    assert Numbers(np.zeros((2, 5), "<f4")).sizes == [20, 20]


def test_the_digest_is_of_what_decides() -> None:
    one = {**TOKENS, "vocabulary": 50}
    same = [
        {**one, "columns": ["body"]},
        {**one, "lower": False},
        {**one, "switched": "ab"},
        dict(reversed(one.items())),
    ]
    other = [{**one, "columns": ["a", "b"]}, {**one, "tokenizer": "[]"}, {**one, "swap": 3}, {**one, "separator": 2}]
    assert {digest_of_reading(told) for told in same} == {digest_of_reading(one)}
    assert len({digest_of_reading(told) for told in [one, *other]}) == 5


# ---- questions -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked() -> Splits:
    rows = [
        (f"What is tool {n} made of?", f"Tool {n} is made of {way}.", way) for n in range(40) for way in ("c", "ada")
    ]
    given = dict(zip(("question", "context", "answer"), map(list, zip(*rows, strict=True)), strict=True))
    view = {"x": {"text": ["question", "context"], "tokens": {"length": 24, "vocabulary": 120}}}
    return from_rows(given, inputs=view, answer={"text": "answer"}, val=0.1, test=0.2, name="asked")


def test_a_teacher_of_questions_says_never_where_students_do(asked: Splits) -> None:
    train, encoding = asked.train, dict(asked.train.encodings["x"])
    net = build(
        ModelSpec("transformer", {"width": 8, "depth": 1}), input_shape=train.shape, classes=len(train.outputs),
        mean=[0.0], std=[1.0], vocabulary=train.vocabulary, separator=train.separator,
    ).eval()  # fmt: skip
    tokens = as_model_input(train.inputs[:9])
    with torch.no_grad():
        logits = net(tokens).numpy()
    facts = {
        "classes": list(train.outputs), "input_shape": list(train.shape), "vocabulary": train.vocabulary, "answers": {},
        "reads": digest_of_reading(encoding),
    }  # fmt: skip
    fits = sender(Encodings(encoding, encoding), **facts)
    sent = fits.of(tokens)
    fits.check_impossible(sent, logits)
    changed = logits.copy()
    changed[2, 23 + 24] = -3.0  # the end of an answer at a place that holds padding
    assert int(tokens[2, 23]) == 0
    with pytest.raises(ModelError, match="places a chance that cannot be") as caught:
        fits.check_impossible(sent, changed)
    assert "-3" in str(caught.value)
    # Whoever answers with classes is not looked at.
    del facts["answers"]
    sender(Encodings(encoding), **facts).check_impossible(sent, changed)
    assert isinstance(tokens_of(encoding), Tokens)
