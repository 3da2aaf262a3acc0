"""What is learned of columns: several tasks at once, and answers that are part of a text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tutelage
from tutelage import losses
from tutelage.data import SOURCES, Rows, from_rows
from tutelage.data.encoders import encoder_of
from tutelage.data.encoders.text import Tokens, fit_tokens
from tutelage.data.inputs import read_again, told_rows
from tutelage.data.learned import Answer, Learned
from tutelage.data.sets import SETS
from tutelage.data.sources import load_rows
from tutelage.data.unlabelled import with_unlabelled
from tutelage.errors import DataError, InputError, TutelageError
from tutelage.recipe import from_mapping
from tutelage.run import run_recipe
from tutelage.run.evaluate import evaluate_run

_QUESTIONS = {"x": {"text": ["question", "text"], "tokens": {"vocabulary": 300, "length": 40}}}
_COLOURS = ("red", "green", "blue", "yellow")
_THINGS = ("door", "wall", "roof", "gate", "fence")


def _asked(count: int = 300, seed: int = 0) -> dict[str, list[Any]]:
    """Questions whose answer is the colour of one of two things; a few ask for a thing that is not there."""
    draw = np.random.default_rng(seed)
    made: dict[str, list[Any]] = {"question": [], "text": [], "answer": [], "start": []}
    for _ in range(count):
        first, second, other = draw.permutation(len(_THINGS))[:3]
        one, two = (_COLOURS[colour] for colour in draw.integers(0, len(_COLOURS), size=2))
        text = f"The {_THINGS[first]} is {one}, and the {_THINGS[second]}  is {two}."
        asked = (first, second, other)[int(draw.choice(3, p=[0.4, 0.4, 0.2]))]
        answer = {first: one, second: two}.get(asked, "")
        made["question"].append(f"What colour is the {_THINGS[asked]}?")
        made["text"].append(text)
        made["answer"].append(answer)
        # The last time that it is said, as both things may be of one colour.
        made["start"].append(float(text.rindex(answer)) if asked == second else float(max(text.find(answer), 0)))
    return made


def test_further_columns_become_tasks() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 300))
    rows = {"a": a, "b": b, "sign": np.where(a > 0, "up", "down"), "size": np.where(abs(b) > 1, "big", "small")}
    splits = from_rows(rows, label="sign", tasks={"size": "size"}, inputs={"t": {"numbers": ["a", "b"]}})
    assert splits.train.sizes == {"label": 2, "size": 2}
    for part in (splits.train, splits.val, splits.test):
        own = part.origins.numpy()
        assert [part.classes[label] for label in part.targets] == rows["sign"][own].tolist()
        size = part.tasks["size"]
        assert [size.classes[label] for label in size.targets] == rows["size"][own].tolist()


def test_rows_that_lack_a_task_are_left_out_and_counted() -> None:
    rows = Rows("r", {
        "said": np.array([f"word {n}" for n in range(60)], dtype=object),
        "kind": np.array(["", *["x", "y"] * 29, "x"], dtype=object),
        "tone": np.array(["warm", "", *["warm", "cold"] * 29], dtype=object),
    })  # fmt: skip
    splits, told = told_rows(
        rows, learned=Learned.of("kind", {"tone": "tone"}, None), inputs={"x": {"text": "said"}}, val=0.1, test=0.2
    )
    assert sum(map(len, (splits.train, splits.val, splits.test))) == 58
    assert [text.split(", ")[0] for text in told] == ["1 of 60 rows have no `kind`", "1 of 60 rows have no `tone`"]


def test_two_tasks_of_a_table_are_learned_by_a_recipe(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    a, b = draw.normal(size=(2, 400))
    lines = ["a,b,sign,size"]
    for x, y in zip(a, b, strict=True):
        lines += [f"{x:.4f},{y:.4f},{'up' if x > 0 else 'down'},{'big' if y > 0.5 else 'small'}"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    recipe = {
        "name": "two", "seeds": [0], "threads": 1, "train": {"epochs": 8, "lr": 0.02},
        "data": {
            "source": "rows", "path": str(tmp_path / "t.csv"), "label": "sign", "task": "sign",
            "tasks": {"size": "size"}, "inputs": {"t": {"numbers": ["a", "b"]}},
        },
        "teachers": {
            "sign": {"model": "sklearn:LogisticRegression"},
            "size": {"model": "mlp", "args": {"width": 8}, "train": {"epochs": 8, "lr": 0.02}},
        },
        "combine": {"how": "tasks"},
        "student": {"model": "mlp", "args": {"width": 8}},
        "arms": {"both": [{"loss": "soft_target"}]},
    }  # fmt: skip
    run = run_recipe(from_mapping(recipe, ()), tmp_path / "run", quiet=True)
    each = {task["name"]: task for task in run.report["tasks"]["each"]}
    assert list(each) == ["sign", "size"]
    for task in each.values():
        for model in task["models"]:
            assert model["accuracy"]["value"] > task["majority_share"] + 0.05, (task["name"], model["name"])


def test_one_fitted_teacher_cannot_teach_two_tasks(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,sign,size\n" + "\n".join(f"{n},{n % 2},{n % 3}" for n in range(60)))
    recipe = {
        "name": "one", "seeds": [0], "student": {"model": "mlp"}, "teacher": {"model": "sklearn:LogisticRegression"},
        "data": {
            "source": "rows", "path": str(tmp_path / "t.csv"), "label": "sign", "tasks": {"size": "size"},
            "inputs": {"t": {"numbers": ["a"]}},
        },
        "train": {"epochs": 1}, "arms": {"both": [{"loss": "soft_target"}]},
    }  # fmt: skip
    with pytest.raises(InputError, match="fitted learns one task"):
        run_recipe(from_mapping(recipe, ()), tmp_path / "run", quiet=True)


def test_an_answer_becomes_its_first_and_last_token() -> None:
    rows = _asked()
    splits = from_rows(rows, answer={"text": "answer", "start": "start"}, inputs=_QUESTIONS)
    train = splits.train
    assert train.sizes == {"start": 40, "end": 40}
    assert train.classes[:3] == ("no answer", "1", "2")
    encoder = encoder_of(train.encodings["x"])
    assert isinstance(encoder, Tokens)
    assert train.separator == encoder.separator == 3
    own = Rows("own", {name: np.array(values, dtype=object) for name, values in rows.items() if name != "start"}).take(
        train.origins.numpy()
    )
    places = torch.stack([train.targets, train.tasks["end"].targets], 1).numpy()
    said = [
        text[begin:end] for text, (begin, end) in zip(own.texts("text"), encoder.characters(own, places), strict=True)
    ]
    assert said == own.texts("answer")
    assert 0.1 < np.mean([not one for one in said]) < 0.3


def test_the_right_one_of_two_equal_words_is_meant() -> None:
    text = "red or red"
    rows = {"question": ["q"] * 30, "text": [f"{text} {n}" for n in range(30)], "answer": ["red"] * 30}
    inputs = {"x": {"text": ["question", "text"], "tokens": {"vocabulary": 60, "length": 30}}}
    first = from_rows(rows, answer={"text": "answer"}, inputs=inputs)
    second = from_rows(rows | {"start": [7.0] * 30}, answer={"text": "answer", "start": "start"}, inputs=inputs)
    assert set(first.train.ids.tolist()) == set(second.train.ids.tolist())
    assert int(first.train.targets.max()) < int(second.train.targets.min())


def test_an_answer_behind_the_cut_is_none_and_said_so() -> None:
    rows = _asked(60) | {"text": [f"{'far ' * 60}{text}" for text in _asked(60)["text"]]}
    rows["start"] = [
        begin + 240 if answer else 0.0 for begin, answer in zip(rows["start"], rows["answer"], strict=True)
    ]
    columns = {name: np.array(values, dtype=object) for name, values in rows.items()}
    columns["start"] = np.array(rows["start"])
    learned = Learned.of(None, None, {"text": "answer", "start": "start"})
    splits, told = told_rows(Rows("r", columns), learned=learned, inputs=_QUESTIONS, val=0.1, test=0.2)
    assert int(splits.train.targets.max()) == int(splits.test.tasks["end"].targets.max()) == 0
    there = sum(bool(answer) for answer in rows["answer"])
    assert told[-1].startswith(f"{there} of 60 answers stand behind the last token")


def test_an_answer_that_its_text_does_not_hold_is_left_out_or_refused() -> None:
    rows = _asked(60)
    rows["answer"][3], rows["start"][3] = "purple", float("nan")
    splits = from_rows(rows, answer={"text": "answer", "start": "start"}, inputs=_QUESTIONS)
    assert sum(map(len, (splits.train, splits.val, splits.test))) == 59
    rows["start"][3] = 4.0
    with pytest.raises(DataError, match="row 3 does not stand where it is said to"):
        from_rows(rows, answer={"text": "answer", "start": "start"}, inputs=_QUESTIONS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"label": "answer"}, "either classes or answers"),
        ({"tasks": {"more": "answer"}}, "either classes or answers"),
        ({"answer": {"begin": "start"}}, "a column of its text"),
        ({"inputs": {"x": {"text": ["text"], "tokens": {"length": 16}}}}, "are two columns"),
        ({"inputs": {"x": {"text": ["question", "text"]}}}, "one view's tokens"),
        ({"inputs": {**_QUESTIONS, "raw": {"text": "text"}}}, "one view's tokens"),
        ({"inputs": {"x": {"text": ["question", "text"], "tokens": {"code_switch": {"words": "w"}}}}}, "replaced"),
        ({"answer": {"text": "answers"}}, "no column `answers`"),
        ({"answer": {"text": "answer", "start": "text"}}, "holds no numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(given: dict[str, Any], message: str) -> None:
    said: dict[str, Any] = {"answer": {"text": "answer", "start": "start"}, "inputs": _QUESTIONS, **given}
    with pytest.raises(InputError, match=message):
        from_rows(_asked(30), **said)


def test_nothing_to_learn_and_names_that_are_no_tasks_are_refused() -> None:
    with pytest.raises(InputError, match="nothing says what is learned"):
        from_rows(_asked(30), inputs=_QUESTIONS)
    with pytest.raises(DataError, match="cannot name a task"):
        from_rows(_asked(30), label="answer", tasks={"A b": "text"}, inputs=_QUESTIONS)


def test_places_survive_spaces_signs_and_other_scripts() -> None:
    texts = ["Der Preis: 3 €  (netto).", "中文 文本 这里", "e\u0301tude of ﬁve", "a\tb  c"]
    answers = ["3 €", "文本", "ﬁve", "b  c"]
    rows = Rows("r", {"q": np.array(["?"] * 4, dtype=object), "text": np.array(texts, dtype=object)})
    tokens = fit_tokens(rows, ["q", "text"], vocabulary=200, length=48)
    spans = np.array([(t.index(a), t.index(a) + len(a)) for t, a in zip(texts, answers, strict=True)])
    found = tokens.characters(rows, tokens.places(rows, spans))
    assert [text[begin:end] for text, (begin, end) in zip(texts, found, strict=True)] == answers
    again = encoder_of(json.loads(json.dumps(tokens.facts())))
    assert isinstance(again, Tokens)
    assert np.array_equal(again.places(rows, spans), tokens.places(rows, spans))
    assert tokens.characters(rows, np.array([[0, 0], [1, 1], [9, 5], [47, 47]])) == [(0, 0)] * 4


def test_new_questions_are_read_as_the_student_reads_them() -> None:
    rows = _asked()
    splits = from_rows(rows, answer={"text": "answer", "start": "start"}, inputs=_QUESTIONS)
    columns: dict[str, Any] = {name: np.array(values, dtype=object) for name, values in rows.items()}
    columns["start"] = np.array(rows["start"])
    again, told = read_again(Rows("r", columns), splits.train.encodings["x"], Learned(answer=Answer("answer", "start")))
    assert told == []
    assert again.separator == splits.train.separator
    where = {int(one): place for place, one in enumerate(again.origins)}
    index = torch.tensor([where[int(one)] for one in splits.test.origins])
    assert torch.equal(again.inputs[index], splits.test.inputs)
    assert torch.equal(again.targets[index], splits.test.targets)
    assert torch.equal(again.tasks["end"].targets[index], splits.test.tasks["end"].targets)


def _question_recipe(tmp_path: Path, **given: Any) -> dict[str, Any]:
    rows = _asked(60)
    lines = [json.dumps({name: rows[name][row] for name in rows}) for row in range(60)]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    return {
        "name": "questions", "seeds": [0], "threads": 1, "train": {"epochs": 1},
        "data": {
            "source": "rows", "path": str(tmp_path / "q.jsonl"), "answer": {"text": "answer", "start": "start"},
            "inputs": _QUESTIONS,
        },
        "teacher": {"model": "gru", "args": {"width": 8}, "train": {"epochs": 1}},
        "student": {"model": "gru", "args": {"width": 4}}, "arms": {"soft": [{"loss": "soft_target"}]}, **given,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"arms": {"one": [{"loss": "standardized"}]}}, "`standardized` would count places"),
        ({"arms": {"one": [{"loss": "cross_entropy", "options": {"label_smoothing": 0.1}}]}}, "would count places"),
        ({"student": {"model": "bag"}}, "gru"),
        ({"data": {"source": "digits", "answer": {"text": "answer"}}}, "has no columns"),
    ],
)
def test_what_questions_cannot_do_is_said_before_anything_is_trained(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TutelageError, match=message):
        run_recipe(from_mapping(_question_recipe(tmp_path, **given), ()), tmp_path / "run", quiet=True)


def test_int8_stores_of_questions_are_refused(tmp_path: Path) -> None:
    recipe = _question_recipe(tmp_path)
    recipe["teacher"]["store"] = {"codec": "int8"}
    with pytest.raises(InputError, match="steps of int8 are too wide"):
        run_recipe(from_mapping(recipe, ()), tmp_path / "run", quiet=True)


def test_a_question_run_reports_exact_match_from_files(tmp_path: Path) -> None:
    run = run_recipe(from_mapping(_question_recipe(tmp_path), ()), tmp_path / "run", quiet=True)
    tasks = run.report["tasks"]
    assert [one["name"] for one in tasks["each"]] == ["start", "end"]
    assert tasks["questions"] is True
    facts = json.loads((tmp_path / "run" / "students" / "soft" / "seed-0" / "student.json").read_text())
    assert facts["tasks"] == {"start": 40, "end": 40}
    assert facts["encoding"]["separator"] == 3


def _partly(place: Path) -> Path:
    """A table of which two rows in three lack one label or both."""
    draw = np.random.default_rng(2)
    a, b = draw.normal(size=(2, 600))
    lines = ["a,b,sign,size,who"]
    for row, (x, y) in enumerate(zip(a, b, strict=True)):
        sign, size = "up" if x > 0 else "down", "big" if y > 0.5 else "small"
        lines.append(f"{x:.5f},{y:.5f},{sign if row % 3 else ''},{size if row % 3 != 1 else ''},p{row % 50}")
    path = place / "partly.csv"
    path.write_text("\n".join(lines))
    return path


def test_rows_without_labels_are_learned_from_but_none_of_a_judged_group(tmp_path: Path) -> None:
    learned = Learned.of("sign", {"size": "size"}, None)
    inputs: dict[str, Any] = {"t": {"numbers": ["a", "b"]}}
    given: dict[str, Any] = {"path": _partly(tmp_path), "learned": learned, "inputs": inputs, "group": "who"}
    splits, told = load_rows("rows", **given, rest=True)
    assert sum(map(len, (splits.train, splits.val, splits.test))) == 200
    assert splits.rest is not None
    assert told[0].endswith("are learned from without")
    assert splits.rest.groups is not None
    for part in (splits.val, splits.test):
        assert part.groups is not None
        assert not set(part.groups.tolist()) & set(splits.rest.groups.tolist())
    assert 200 < len(splits.rest) < 400
    both, labelled, said = with_unlabelled(splits, "rest")
    assert len(both.train) == len(splits.train) + len(splits.rest)
    assert labelled.tolist() == sorted(splits.train.ids.tolist())
    assert said == f"{len(splits.rest)} unlabelled examples from rows without a label"
    # Means and deviations are those of all that is learned from.
    assert float(both.train.inputs.mean(0).abs().max()) < 1e-5
    plain, _ = load_rows("rows", **given)
    assert plain.rest is None
    assert torch.equal(plain.test.ids, splits.test.ids)
    with pytest.raises(DataError, match="made of columns"):
        with_unlabelled(splits, "pool.npz")
    with pytest.raises(DataError, match="no row lacks a label"):
        with_unlabelled(plain, "rest")


def test_teachers_of_each_task_label_the_rows_that_lack_one(tmp_path: Path) -> None:
    recipe = {
        "name": "partly", "seeds": [0], "threads": 1, "train": {"epochs": 12, "lr": 0.02},
        "data": {
            "source": "rows", "path": str(_partly(tmp_path)), "label": "sign", "task": "sign", "group": "who",
            "tasks": {"size": "size"}, "inputs": {"t": {"numbers": ["a", "b"]}}, "unlabelled": "rest",
        },
        "teachers": {name: {"model": "sklearn:LogisticRegression", "args": {"C": 100.0}} for name in ("sign", "size")},
        "combine": {"how": "tasks"}, "student": {"model": "mlp", "args": {"width": 8}},
        "arms": {"taught": [{"loss": "soft_target"}]},
    }  # fmt: skip
    run = run_recipe(from_mapping(recipe, ()), tmp_path / "run", quiet=True)
    data = run.report["data"]
    assert data["totals"]["train"] < 200 < data["unlabelled"]
    # Fidelity on what was learned from is told of labelled rows only.
    assert len(np.load(tmp_path / "run" / "eval" / "teacher-train.npz")["ids"]) == data["totals"]["train"]
    for task in run.report["tasks"]["each"]:
        taught = next(model for model in task["models"] if model["name"] == "taught")
        assert taught["accuracy"]["value"] > task["majority_share"] + 0.1


def test_questions_have_no_rest(tmp_path: Path) -> None:
    recipe = _question_recipe(tmp_path)
    recipe["data"]["unlabelled"] = "rest"
    with pytest.raises(InputError, match="an example like others"):
        run_recipe(from_mapping(recipe, ()), tmp_path / "run", quiet=True)


def test_spaces_around_an_answer_move_no_place() -> None:
    rows = _asked(60)
    spaced = [f"{one} " if one and text[int(begin) :].startswith(f"{one} ") else one
              for one, text, begin in zip(rows["answer"], rows["text"], rows["start"], strict=True)]  # fmt: skip
    assert sum(one.endswith(" ") for one in spaced) == 0  # what follows is a comma or a full stop
    rows["text"] = [text.replace(",", " ,") for text in rows["text"]]
    rows["start"] = [
        float(text.rindex(one)) if one else 0.0 for one, text in zip(rows["answer"], rows["text"], strict=True)
    ]
    plain = from_rows(rows, answer={"text": "answer", "start": "start"}, inputs=_QUESTIONS)
    longer = [f"{one} " if one and f"{one} ," in text and text[int(begin) + len(one)] == " " else one
              for one, text, begin in zip(rows["answer"], rows["text"], rows["start"], strict=True)]  # fmt: skip
    assert sum(one.endswith(" ") for one in longer) > 5
    found = from_rows(rows | {"answer": longer}, answer={"text": "answer", "start": "start"}, inputs=_QUESTIONS)
    assert torch.equal(found.train.targets, plain.train.targets)
    assert torch.equal(found.train.tasks["end"].targets, plain.train.tasks["end"].targets)


@pytest.mark.parametrize("start", [-1.0, 0.7, float("inf"), 1e9])
def test_a_beginning_that_is_no_character_is_refused(start: float) -> None:
    rows = _asked(30)
    row = next(number for number, answer in enumerate(rows["answer"]) if answer)
    rows["start"][row] = start
    with pytest.raises(DataError, match=f"answer of row {row} does not stand"):
        from_rows(rows, answer={"text": "answer", "start": "start"}, inputs=_QUESTIONS)


def test_twins_with_other_answers_have_one_order() -> None:
    rows = _asked(40)
    both = {name: values * 2 for name, values in rows.items()}
    both["answer"][40:], both["start"][40:] = [""] * 40, [0.0] * 40
    order = np.random.default_rng(3).permutation(80)
    mixed = {name: [values[place] for place in order] for name, values in both.items()}
    answer = {"text": "answer", "start": "start"}
    first, second = (from_rows(given, answer=answer, inputs=_QUESTIONS) for given in (both, mixed))
    assert first.fingerprint == second.fingerprint


def test_halves_of_characters_in_a_file_stop_nothing(tmp_path: Path) -> None:
    lines = [json.dumps({"said": f"word {n} \ud800", "kind": "xy"[n % 2], "who": f"\udfff {n % 9}"}) for n in range(60)]
    (tmp_path / "odd.jsonl").write_text("\n".join(lines))
    inputs: dict[str, Any] = {"x": {"text": "said", "tokens": {"vocabulary": 60, "length": 8}}}
    splits, _ = load_rows("rows", path=tmp_path / "odd.jsonl", learned=Learned("kind"), inputs=inputs, group="who")
    assert sum(map(len, (splits.train, splits.val, splits.test))) == 60


def test_rows_of_another_part_are_never_learned_from() -> None:
    draw = np.random.default_rng(4)
    rows = Rows("r", {
        "a": draw.normal(size=300), "part": np.array((["train"] * 3 + ["val", "test"]) * 60, dtype=object),
        "kind": np.array([["up", "down", ""][n // 5 % 3] for n in range(300)], dtype=object),
    })  # fmt: skip
    splits, _ = told_rows(rows, learned=Learned("kind"), inputs={"t": {"numbers": ["a"]}}, part="part", val=0.1,
                          test=0.2, rest=True)  # fmt: skip
    assert splits.rest is not None
    assert len(splits.rest) == 60


def test_a_teacher_may_name_the_view_that_students_read(tmp_path: Path) -> None:
    recipe = _question_recipe(tmp_path)
    recipe["teacher"]["reads"] = "x"
    run = run_recipe(from_mapping(recipe, ()), tmp_path / "run", quiet=True)
    assert run.report["models"][0]["name"] == "teacher"


def test_python_refuses_losses_that_count_places(tmp_path: Path) -> None:
    data = from_rows(_asked(60), answer={"text": "answer", "start": "start"}, inputs=_QUESTIONS)
    small = {"model": "gru", "args": {"width": 4}}
    with pytest.raises(TutelageError, match="`dist` would count places"):
        tutelage.distill("gru", small, data, out=tmp_path / "run", objective=[losses.dist], epochs=1, quiet=True)


def test_a_run_of_a_set_that_says_its_answers_judges_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = _asked(60)
    columns: dict[str, Any] = {name: np.array(values, dtype=object) for name, values in rows.items()}
    columns["start"], columns["facet"] = np.array(rows["start"]), np.array(["f"] * 60, dtype=object)
    known = SETS["debian-questions"]
    own = replace(known, name="own", read=lambda _: Rows("own", columns), group=None, inputs=_QUESTIONS)
    monkeypatch.setitem(SETS, "own", own)
    monkeypatch.setitem(SOURCES, "own", "a set for this test")
    for room in ("tutelage.data.sources", "tutelage.run.evaluate"):
        monkeypatch.setattr(f"{room}.set_folder", lambda _: tmp_path)
    recipe = _question_recipe(tmp_path)
    recipe["data"] = {"source": "own"}
    run_recipe(from_mapping(recipe, ()), tmp_path / "run", quiet=True)
    whole = evaluate_run(str(tmp_path / "run"), "own", part="all")
    other = evaluate_run(str(tmp_path / "run"), "rows", path=tmp_path / "q.jsonl", part="all")
    assert list(whole.metrics) == list(other.metrics) == ["exact_match", "f1"]
    assert whole.metrics["exact_match"].value == other.metrics["exact_match"].value
