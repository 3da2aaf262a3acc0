"""Files of several tasks are read task by task, and files that answer questions say words: over HTTP, in the lines that
a card prints, against their model, and on other data."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from torch import nn

import tutelage
from serve_parts import JSON, Server, perceptron, started
from tutelage.data import Splits, from_rows
from tutelage.data.encoders.text import tokens_of
from tutelage.errors import DamagedError, DataError, ModelError
from tutelage.evaluation.spans import LONGEST
from tutelage.export import Facts, Runner, open_artifact
from tutelage.export.facts import KEY
from tutelage.export.parity import compare, gate
from tutelage.export.plain import write_plain
from tutelage.export.tasks import shares_of
from tutelage.models import ModelSpec, build
from tutelage.recipe import from_mapping
from tutelage.report import artifacts
from tutelage.run import run_recipe
from tutelage.run.classnames import contradiction
from tutelage.run.evaluate import evaluate_run
from tutelage.run.exporting import How, export_run
from tutelage.run.exports import brief_of
from tutelage.run.predicted import read_predictions
from tutelage.run.predictions import Asked, evaluate_predictions
from tutelage.serve.answers import Answers
from tutelage.serve.columns import columns_of
from tutelage.serve.server import _is_independent
from tutelage.teachers.remote import open_remote
from tutelage.types import Batch

SHAPE = (6,)
NAMED: dict[str, tuple[str, ...]] = {
    "area": ("games", "games: old", "text"), "language": ("c", "perl"), "size": ("s", "m", "l", "xl"),
}  # fmt: skip
SIZES = {task: len(names) for task, names in NAMED.items()}
OUTPUTS = tuple(f"{task}: {name}" for task, names in NAMED.items() for name in names)
COLUMNS = {"area": slice(0, 3), "language": slice(3, 5), "size": slice(5, 9)}


# ---- several tasks over HTTP -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = perceptron(tmp_path_factory.mktemp("file") / "student.onnx", SHAPE, OUTPUTS, name="three")
    model = onnx.load(str(path))
    (entry,) = [one for one in model.metadata_props if one.key == KEY]
    entry.value = Facts(OUTPUTS, SHAPE, name="three", tasks=SIZES).to_text()
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def server(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    words = ["-m", "tutelage", "serve", str(artifact), "--port", "0"]
    with started(words, tmp_path_factory.mktemp("log")) as found:
        yield found


@pytest.fixture(scope="module")
def at_home(artifact: Path) -> Runner:
    return open_artifact(artifact, threads=1)


def rows_of(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(count, *SHAPE)).astype(np.float32)


def test_each_task_has_probabilities_of_its_own(server: Server, at_home: Runner) -> None:
    rows = rows_of(9)
    expected = at_home(rows)
    told = server.predict(rows)
    assert list(told) == ["tasks", "logits"]
    np.testing.assert_allclose(told["logits"], expected, rtol=0, atol=1e-5)
    assert list(told["tasks"]) == list(NAMED)
    for task, names in NAMED.items():
        own = expected[:, COLUMNS[task]]
        assert told["tasks"][task]["classes"] == [names[best] for best in own.argmax(-1)]
        np.testing.assert_allclose(told["tasks"][task]["probabilities"], softmax(own, -1), rtol=0, atol=1e-5)
    assert len({tuple(told["tasks"][task]["classes"]) for task in NAMED}) == 3


def test_top_and_ids_of_several_tasks(server: Server, at_home: Runner) -> None:
    rows = rows_of(2)
    body = json.dumps({"inputs": rows.tolist(), "ids": ["a", 2]}).encode()
    status, _, told = server.ask("POST", "/predict?top=3", body, JSON)
    assert status == 200
    assert list(told) == ["tasks", "ids"]
    for task, names in NAMED.items():
        own = at_home(rows)[:, COLUMNS[task]]
        best = np.argsort(-own, -1)[:, :3]
        found = told["tasks"][task]["top"]
        assert [[one["class"] for one in row] for row in found] == [[names[c] for c in row] for row in best]
        chances = np.take_along_axis(softmax(own, -1), best, -1)
        np.testing.assert_allclose([[one["probability"] for one in row] for row in found], chances, atol=1e-5)
    status, _, told = server.ask("POST", "/predict?top=5", body, JSON)
    assert (status, told["error"]["expected"]) == (400, "1 … 4")


def test_it_says_which_tasks_it_answers(server: Server) -> None:
    model = server.ask("GET", "/model")[2]
    assert model["tasks"] == {task: list(names) for task, names in NAMED.items()}
    assert list(model["tasks"]) == list(NAMED)
    assert model["classes"] == list(OUTPUTS)
    assert "answers" not in model


@pytest.mark.parametrize("body", ["raw", "json"])
def test_a_served_file_of_several_tasks_teaches(server: Server, at_home: Runner, tmp_path: Path, body: str) -> None:
    """It is asked twice about the first rows, and believed only if it says the same; the order is that of the data."""
    turned = OUTPUTS[5:] + OUTPUTS[:5]
    teacher = open_remote(
        f"http://127.0.0.1:{server.port}", {"body": body, "parity": 4}, classes=turned, view="x", book=tmp_path,
        tell=lambda line: None,
    )  # fmt: skip
    rows = rows_of(30)
    said = teacher.answer(Batch(torch.arange(30), {"x": torch.from_numpy(rows)}, torch.zeros(30, dtype=torch.int64)))
    assert isinstance(said.logits, torch.Tensor)
    np.testing.assert_allclose(said.logits.numpy(), np.roll(at_home(rows), -5, axis=1), rtol=0, atol=1e-5)


def test_tasks_that_do_not_fit_the_classes_are_refused() -> None:
    with pytest.raises(DamagedError, match="do not fit") as caught:
        shares_of(Facts(OUTPUTS, SHAPE, tasks={"area": 3, "language": 5}))
    assert "9 classes in all" in str(caught.value)
    with pytest.raises(DamagedError, match="do not fit"):
        shares_of(Facts(OUTPUTS, SHAPE, tasks={"area": 9, "language": 0}))
    assert shares_of(Facts(("a: b", "c: d"), SHAPE)) == {}  # names of one task may look like those of two
    found = Facts.from_text(Facts(OUTPUTS, SHAPE, tasks=SIZES).to_text(), "here")
    assert {task: one.classes for task, one in shares_of(found).items()} == NAMED


# ---- questions over HTTP ---------------------------------------------------------------------------------------------


TOOLS = ("frog", "toad", "newt", "wolf", "bear", "lynx")
WAYS = ("perl", "python", "plain c", "rust", "java", "ada 95")


def told_columns() -> dict[str, list[Any]]:
    draw, rows = np.random.default_rng(2), dict[str, list[Any]](question=[], context=[], answer=[])
    for number in range(360):
        tool, way = TOOLS[draw.integers(6)], WAYS[draw.integers(6)]
        rows["question"].append(f"What is {tool} {number % 9} written in?")
        rows["context"].append(f"Ärger! {tool.title()}, tool {number}, is written in {way.upper()}; so it is.")
        rows["answer"].append("" if number % 5 == 0 else way.upper())
    return rows


@pytest.fixture(scope="module")
def asked() -> Splits:
    view = {"x": {"text": ["question", "context"], "tokens": {"length": 40, "vocabulary": 200}}}
    return from_rows(told_columns(), inputs=view, answer={"text": "answer"}, val=0.1, test=0.2, name="asked")


@pytest.fixture(scope="module")
def reader(asked: Splits) -> tuple[nn.Module, Facts]:
    torch.manual_seed(1)
    train = asked.train
    encoding = train.encodings["x"]
    net = build(
        ModelSpec("transformer", {"width": 16, "depth": 1}), input_shape=train.shape, classes=len(train.outputs),
        mean=[0.0], std=[1.0], vocabulary=train.vocabulary, separator=train.separator,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, value in net.named_parameters():
            if "head" in name:
                value.mul_(8)  # untrained, but not undecided
    facts = Facts(
        train.outputs, train.shape, "transformer", {"width": 16, "depth": 1}, (0.0,), (1.0,), "reader",
        encoding=encoding, tasks=train.sizes,
    )  # fmt: skip
    return net, facts


@pytest.fixture(scope="module")
def reading(reader: tuple[nn.Module, Facts], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("reader") / "student.safetensors"
    write_plain(*reader, torch.zeros(0), path)
    words = ["-m", "tutelage", "serve", str(path), "--port", "0"]
    with started(words, path.parent) as found:
        yield found


def best_pair(start: Sequence[float], end: Sequence[float], may: Sequence[bool]) -> tuple[int, int]:
    """Every pair, one by one."""
    found, most = (0, 0), start[0] + end[0]
    for first in range(1, len(start)):
        for last in range(first, min(first + LONGEST, len(start))):
            if may[first] and may[last] and start[first] + end[last] > most:
                found, most = (first, last), start[first] + end[last]
    return found


def expected_of(net: nn.Module, facts: Facts, questions: Sequence[str], texts: Sequence[str]) -> list[dict[str, Any]]:
    """What a server is to say: tokens, logits and pairs made here, by other code."""
    assert facts.encoding is not None
    tokenizer = tokens_of(facts.encoding).tokenizer
    found = []
    for question, text in zip(questions, texts, strict=True):
        one = tokenizer.encode(question, text)
        x = torch.zeros(1, facts.input_shape[0], dtype=torch.int64)
        x[0, : len(one.ids)] = torch.tensor(one.ids)
        with torch.no_grad():
            start, end = net(x).double().numpy().reshape(2, -1)
        may = [side == 1 for side in one.sequence_ids] + [False] * (len(start) - len(one.ids))
        first, last = best_pair(start, end, may)
        begin, stop = (one.offsets[first][0], one.offsets[last][1]) if first else (0, 0)
        chance = float(np.exp(log_softmax(start)[first] + log_softmax(end)[last]))
        found.append({"text": text[begin:stop], "start": begin, "end": stop, "probability": pytest.approx(chance, 1e-3),
                      "none": first == 0, "first": first, "last": last, "tokens": x[0].tolist()})  # fmt: skip
    return found


def test_questions_are_answered_with_words(reading: Server, reader: tuple[nn.Module, Facts]) -> None:
    given = told_columns()
    pairs = [*list(zip(given["question"], given["context"], strict=True))[:40], ("what?", ""), ("", "only a text.")]
    body = json.dumps({"rows": [{"question": q, "context": c, "more": 1} for q, c in pairs],
                       "ids": list(range(len(pairs)))}).encode()  # fmt: skip
    status, _, told = reading.ask("POST", "/predict", body, JSON)
    assert status == 200, told
    assert list(told) == ["answers", "ids"]
    expected = expected_of(*reader, *zip(*pairs, strict=True))
    keys = ("text", "start", "end", "probability", "none")
    assert told["answers"] == [{key: one[key] for key in keys} for one in expected]
    for (_, text), one in zip(pairs, told["answers"], strict=True):
        assert text[one["start"] : one["end"]] == one["text"]
        assert one["none"] == (not one["text"])
    # Neither all answered nor none, and some of the words stand behind a letter of two bytes.
    assert {one["none"] for one in told["answers"]} == {True, False}
    assert len({one["text"] for one in told["answers"]}) > 5


def test_tokens_are_answered_with_places_and_logits(reading: Server, reader: tuple[nn.Module, Facts]) -> None:
    given = told_columns()
    expected = expected_of(*reader, given["question"][:6], given["context"][:6])
    body = json.dumps({"inputs": [one["tokens"] for one in expected]}).encode()
    status, _, told = reading.ask("POST", "/predict?logits=true", body, JSON)
    assert status == 200, told
    assert list(told) == ["answers", "logits"]
    keys = ("first", "last", "probability", "none")
    assert told["answers"] == [{key: one[key] for key in keys} for one in expected]
    assert np.array(told["logits"]).shape == (6, 80)
    status, _, told = reading.ask("POST", "/predict?top=2", body, JSON)
    assert status == 422
    assert "likeliest one only" in told["error"]["what"]
    assert "logits=true" in told["error"]["fix"]


def test_it_says_that_it_answers_questions(reading: Server) -> None:
    model = reading.ask("GET", "/model")[2]
    assert model["answers"] == {"column": "context", "places": 40, "longest": LONGEST}
    assert model["columns"] == {"question": "text", "context": "text"}
    assert list(model["tasks"]) == ["start", "end"]
    assert model["tasks"]["end"][:2] == ["no answer", "1"]
    assert model["shared_calls"] is True


def test_what_makes_no_questions_answers_none(reader: tuple[nn.Module, Facts]) -> None:
    _, facts = reader
    assert facts.encoding is not None
    other = {**facts.encoding, "separator": facts.separator + 1}
    with pytest.raises(ModelError, match="makes no questions"):
        columns_of(Facts(facts.classes, facts.input_shape, encoding=other))
    for tasks in ({"start": 41, "end": 39}, {"end": 40, "start": 40}, {"start": 20, "end": 20, "more": 40}):
        with pytest.raises(DamagedError, match="not with where an answer starts"):
            Answers(replace(facts, tasks=tasks), None)
    assert Answers(replace(facts, tasks=None), None).most == 40  # two halves


class Constant:
    """A runner that says the same where answers can be, and something else in company."""

    def __init__(self, facts: Facts, off: float) -> None:
        self.facts, self.off = facts, off

    def __call__(self, inputs: Any) -> NDArray[np.float32]:
        places = self.facts.input_shape[0]
        found = np.full((len(inputs), 2, places), -100.0, dtype=np.float32)
        found[:, :, :3] = np.arange(6).reshape(2, 3) / 100
        found[:, 0, 0] += self.off * (len(inputs) > 1)
        return found.reshape(len(inputs), -1)


def test_the_far_away_logits_of_questions_hide_no_dependence(reader: tuple[nn.Module, Facts]) -> None:
    _, facts = reader
    assert _is_independent(Constant(facts, 0.0))
    assert not _is_independent(Constant(facts, 0.01))  # a hundredth of what -100 would make of the spread
    x = torch.from_numpy(np.asarray(facts.example(256)))

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(Constant(facts, 0.0)(x))

    exact = compare(Net(), Constant(facts, 0.0), x, facts=facts)
    assert exact.spread == pytest.approx(float(np.std(np.arange(6) / 100)), rel=1e-5)
    assert (exact.agreement, exact.difference) == (1.0, 0.0)


# ---- a file against its model ----------------------------------------------------------------------------------------


def test_a_file_is_held_against_its_model_task_by_task() -> None:
    """The largest logit is the first task's; in the second one the file names another class half of the time."""
    x = torch.rand(256, 2)
    facts = Facts(("a: 0", "a: 1", "b: 0", "b: 1"), (2,), tasks={"a": 2, "b": 2})

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x + 9, x], 1)

    class Turned:
        def __init__(self) -> None:
            self.facts = facts

        def __call__(self, inputs: Any) -> NDArray[np.float32]:
            turned = np.where(inputs[:, :1] > 0.5, inputs[:, ::-1], inputs)
            return np.concatenate([inputs + 9, turned], 1).astype(np.float32)

    found = compare(Net(), Turned(), x, facts=facts)
    same = float((x[:, 0] <= 0.5).double().mean())
    assert found.agreement == pytest.approx(same)
    assert 0.3 < same < 0.7
    assert found.alike == 1.0
    with pytest.raises(Exception, match="get the same class"):
        gate(found, exact=False, what="b.onnx")


# ---- asked without us ------------------------------------------------------------------------------------------------


def printed(code: str, room: dict[str, Any]) -> list[str]:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(code, "snippet", "exec"), room)  # noqa: S102  our own lines
    return said.getvalue().splitlines()


def test_the_lines_of_the_card_name_a_class_of_every_task(
    artifact: Path, at_home: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(artifact.parent)
    row = {"of": "d", "kept": True, "file": "student.onnx", "format": "onnx", "line": "x", "input_shape": list(SHAPE)}
    each = [{"name": task, "classes": list(names)} for task, names in NAMED.items()]
    [(_, code)] = artifacts.loading({"exports": [row], "headline": "d", "tasks": {"each": each}})
    room = dict[str, Any]()
    said = printed(code, room)
    logits = at_home(room["x"])
    assert said == [f"{task} {[names[logits[0, COLUMNS[task]].argmax()]]}" for task, names in NAMED.items()]
    assert "for task" not in artifacts.snippet(row)


@pytest.mark.parametrize("how", ["torch", "safetensors"])
def test_the_lines_of_the_card_answer_a_question(
    reader: tuple[nn.Module, Facts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    net, facts = reader
    assert facts.encoding is not None
    write_plain(net, facts, torch.zeros(0), Path("s.safetensors"))

    def load(file: str, extra_files: dict[str, str]) -> Any:  # writing a program takes seconds; it says the same
        extra_files["tutelage"] = facts.to_text()
        return type("Program", (), {"module": lambda self: net})()

    monkeypatch.setattr(torch.export, "load", load)
    row = {"file": f"s.{how}", "format": how, "input_shape": [40], "encoding": brief_of(facts.encoding)}
    code, room = artifacts.snippet(row, {"start": 40, "end": 40}, questions=True), dict[str, Any]()
    assert ("import onnxruntime" in code, "tutelage.data" in code) == (False, how == "safetensors")
    if how == "torch":
        code = code.replace("texts = [", 'texts = [("What?", ""), ')
        said = printed(code, room)
        questions, texts = zip(*room["texts"], strict=True)
    else:
        said = printed(code.replace('"some words"', '"Some words in PERL"'), room)
        questions, texts = ["Some words in PERL"], ["Some words in PERL"]
    expected = [one["text"] or "no answer" for one in expected_of(net, facts, questions, texts)]
    assert said == [str([one]) for one in expected]


def test_the_lines_of_the_card_look_as_far_as_we_do() -> None:
    assert artifacts._LONGEST == LONGEST


# ---- on other data ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tutelage.Run]:
    from sklearn.datasets import load_digits

    home, found = tmp_path_factory.mktemp("digits"), load_digits()
    x, y = np.rint(found.images * (255 / 16)).astype(np.uint8), found.target
    parity = np.where(y % 2, "odd", "even")
    np.savez(home / "digits.npz", x=x, y=y, targets_parity=parity)
    np.savez(home / "turned.npz", x=x, y=y, targets_parity=y % 2, classes_parity=np.array(["even", "odd"]))
    np.savez(home / "plain.npz", x=x, y=y)
    net = {"model": "mlp", "args": {"width": 12}}
    recipe = {
        "name": "two", "data": {"source": "arrays", "path": str(home / "digits.npz")}, "seeds": [0], "student": net,
        "teacher": {**net, "train": {"epochs": 1}}, "train": {"epochs": 2, "lr": 0.01},
        "report": {"latency": False, "bootstrap": 200},
    }  # fmt: skip
    run = run_recipe(from_mapping(recipe), home / "run", quiet=True)
    return home, run


def test_each_task_is_scored_by_its_own_logits(digits: tuple[Path, tutelage.Run], tmp_path: Path) -> None:
    home, run = digits
    found = evaluate_run(str(run.folder), "arrays", path=home / "digits.npz", out=tmp_path)
    for row in run.report["tasks"]["each"]:
        [own] = [model for model in row["models"] if model["name"] == "distilled"]
        assert found.tasks[row["name"]].value == pytest.approx(own["accuracy"]["value"])
    assert list(found.tasks) == ["label", "parity"]
    assert found.metrics["accuracy"].value == found.tasks["label"].value
    assert set(found.recalls) == set(map(str, range(10)))
    assert found.notices == ()
    assert "accuracy of each task: label " in found.summary()
    assert found.to_json()["tasks"]["parity"]["value"] == found.tasks["parity"].value
    [kept] = tmp_path.glob("*.npz")
    with np.load(kept) as saved, np.load(run.folder / "eval" / kept.name) as ours:
        assert saved["logits"].shape == (found.examples, 12)
        for key in ("labels", "labels_parity", "classes_parity"):
            np.testing.assert_array_equal(saved[key], ours[key])


def test_what_a_run_exports_knows_its_tasks(digits: tuple[Path, tutelage.Run], tmp_path: Path) -> None:
    _, run = digits
    [made] = export_run(str(run.folder), How(("safetensors",), out=tmp_path)).artifacts
    facts = open_artifact(made.path).facts
    assert {task: one.classes for task, one in shares_of(facts).items()} == {
        "label": tuple(map(str, range(10))), "parity": ("even", "odd"),
    }  # fmt: skip


def test_a_task_that_the_data_lacks_is_told(digits: tuple[Path, tutelage.Run]) -> None:
    home, run = digits
    found = evaluate_run(str(run.folder), "arrays", path=home / "plain.npz", part="all")
    assert found.notices == ("the data has no labels of parity",)
    assert list(found.tasks) == ["label"]
    every = evaluate_run(str(run.folder), "arrays", path=home / "turned.npz", part="all")
    assert every.examples == 1797
    assert every.tasks["label"].value == found.tasks["label"].value
    assert 0.5 < every.tasks["parity"].value <= 1.0


def test_saved_answers_to_several_tasks_are_scored_on_the_main_one(
    digits: tuple[Path, tutelage.Run], tmp_path: Path
) -> None:
    _, run = digits
    file = run.folder / "eval" / "distilled-seed-0.npz"
    found = read_predictions(file)
    with np.load(file) as saved:
        np.testing.assert_array_equal(found.answers.said, saved["logits"][:, :10])
        changed = {**saved, "classes_parity": np.array([str(one) for one in range(12)])}
    assert found.notices == (f"{file} holds several tasks: the main one is scored, not parity",)
    [model] = [one for one in run.report["models"] if one["name"] == "distilled"]
    scored = evaluate_predictions(str(file), asked=Asked(resamples=300)).verdict.metrics[0]["accuracy"].value
    assert model["runs"][0]["metrics"]["accuracy"] == pytest.approx(scored)
    np.savez(tmp_path / "odd.npz", **changed)
    with pytest.raises(DataError, match="more classes together than there are logits"):
        read_predictions(tmp_path / "odd.npz")


def test_names_are_doubted_by_the_main_task_alone() -> None:
    """A second task of larger logits would hide that the first one's classes are right where they stand."""
    module, labels = nn.Module(), torch.tensor([0, 1, 0, 1])
    module.order = torch.tensor([1, 0, 2, 3])  # by name the first two change places
    logits = torch.cat([1.0 - torch.eye(2)[labels], torch.full((4, 2), 9.0)], 1)
    assert contradiction(module, logits, labels, 2) == "0.0% right by name, 100.0% by position"
    assert contradiction(module, logits, 1 - labels, 2) is None
    assert contradiction(module, logits, labels) is None


def test_questions_are_scored_by_the_words_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = told_columns()
    with Path("asked.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(given)
        lines.writerows(zip(*given.values(), strict=True))
    net = {"model": "transformer", "args": {"width": 16, "depth": 1}}
    view = {"text": ["question", "context"], "tokens": {"length": 40, "vocabulary": 200}}
    recipe = {
        "name": "asked", "seeds": [0], "student": net, "train": {"epochs": 4, "lr": 0.01},
        "data": {"source": "rows", "path": "asked.csv", "answer": {"text": "answer"}, "inputs": {"x": view}},
        "teacher": {**net, "train": {"epochs": 1}}, "report": {"latency": False, "bootstrap": 200},
    }  # fmt: skip
    run = run_recipe(from_mapping(recipe), "run", quiet=True)
    found = evaluate_run("run", "rows", path="asked.csv")
    with np.load(run.folder / "eval" / "distilled-seed-0.npz") as saved:
        said = saved["logits"].astype(np.float64).reshape(len(saved["ids"]), 2, -1)
        truth = list(zip(saved["labels"].tolist(), saved["labels_end"].tolist(), strict=True))
    pairs = [best_pair(start, end, (start > -99).tolist()) for start, end in said]
    exact = [pair == true for pair, true in zip(pairs, truth, strict=True)]
    places = [[set(range(first, last + 1)) for first, last in one] for one in (pairs, truth)]
    overlap = [2 * len(a & b) / (len(a) + len(b)) for a, b in zip(*places, strict=True)]
    assert found.metrics["exact_match"].value == pytest.approx(np.mean(exact))
    assert found.metrics["f1"].value == pytest.approx(np.mean(overlap))
    assert 0 < np.mean(exact) < np.mean(overlap) < 1
    assert found.tasks["end"].value == pytest.approx(
        np.mean([said[row, 1].argmax() == end for row, (_, end) in enumerate(truth)])
    )
    assert found.recalls == {}
    assert "exact_match" in found.summary()
    assert "lowest recall" not in found.summary()
    every = evaluate_run("run", "rows", path="asked.csv", part="all")
    assert (every.examples, found.examples) == (360, 72)
