"""Questions whose answers are part of a text: files in SQuAD's form, Debian's tags, and what is asked by them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tutelage.data import tabular
from tutelage.data.rows import Rows
from tutelage.data.sets import SETS, debian, debian_questions, debian_tags, debian_words
from tutelage.data.tabular import read_rows
from tutelage.errors import DataError, InputError

Edit = Callable[[dict[str, Any]], object]

CONTEXT = "Ulm ist schön: the minster of Ulm has 768 steps."


def squad() -> dict[str, Any]:
    """Three questions about one paragraph, the last without an answer, and one about another article."""
    asked = [
        {
            "id": "a", "question": "How many steps?", "is_impossible": False,
            "answers": [{"text": "768", "answer_start": 38}, {"text": "768 steps", "answer_start": 38}],
        },
        {"id": 2, "question": "Where?", "answers": [{"text": "Ulm", "answer_start": 30}]},
        {"question": "Who?", "answers": [], "is_impossible": True, "plausible_answers": [{"text": "Ulm"}]},
    ]  # fmt: skip
    return {
        "version": "v2.0",
        "data": [
            {"title": "Ulm", "paragraphs": [{"context": CONTEXT, "qas": asked}, {"context": "Nothing.", "qas": []}]},
            {"paragraphs": [{"context": "Bonn", "qas": [{"id": "d", "question": "Which?"}]}]},
        ],
    }


def written(folder: Path, said: object, name: str = "questions.json") -> Path:
    path = folder / name
    path.write_text(said if isinstance(said, str) else json.dumps(said), encoding="utf-8")
    return path


# --- files of questions ----------------------------------------------------------------------------------------------


def test_questions_are_rows_with_the_first_of_their_answers(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, squad(), "questions.JSON"))
    assert list(rows.columns) == ["id", "title", "context", "question", "answer", "start"]
    assert rows.texts("id") == ["a", "2", "", "d"]
    assert rows.texts("title") == ["Ulm", "Ulm", "Ulm", ""]
    assert rows.texts("context") == [CONTEXT, CONTEXT, CONTEXT, "Bonn"]
    assert rows.texts("question") == ["How many steps?", "Where?", "Who?", "Which?"]
    assert rows.texts("answer") == ["768", "Ulm", "", ""]
    np.testing.assert_array_equal(rows.numbers("start"), [38.0, 30.0, np.nan, np.nan])
    assert CONTEXT[38:41] == "768"


def qas(said: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = said["data"][0]["paragraphs"][0]["qas"]
    return found


HERE = "data[0].paragraphs[0]"


@pytest.mark.parametrize(
    ("edit", "says", "where", "given"),
    [
        (lambda s: s.update(data={}), "is no file of questions", "data", "an object"),
        (lambda s: s["data"].insert(0, 3), "is no file of questions", "data[0]", "a whole number"),
        (lambda s: s["data"].insert(0, {}), "lacks `paragraphs`", "data[0]", "an object"),
        (lambda s: s["data"][0].update(title=None), "is no file of questions", "data[0].title", "null"),
        (lambda s: s["data"][0]["paragraphs"][0].pop("context"), "lacks `context`", HERE, "an object with qas"),
        (lambda s: s["data"][0]["paragraphs"][0].update(context=[]), "no file of", f"{HERE}.context", "a list"),
        (lambda s: s["data"][0]["paragraphs"][0].update(qas="x"), "no file of", f"{HERE}.qas", "text"),
        (lambda s: qas(s)[0].pop("question"), "lacks `question`", f"{HERE}.qas[0]", "an object with id, "),
        (lambda s: qas(s)[1].update(id=["x"]), "no file of", f"{HERE}.qas[1].id", "a list"),
        (lambda s: qas(s)[1].update(id=True), "no file of", f"{HERE}.qas[1].id", "true or false"),
        (lambda s: qas(s)[1].update(answers={}), "no file of", f"{HERE}.qas[1].answers", "an object"),
        (lambda s: qas(s)[1].update(answers=["Ulm"]), "no file of", f"{HERE}.qas[1].answers[0]", "text"),
        (lambda s: qas(s)[2].update(is_impossible="yes"), "no file of", "qas[2].is_impossible", "text"),
        (lambda s: qas(s)[2].update(is_impossible=False), "has no answer, and is said to have one", "qas[2]", "Who"),
        (lambda s: qas(s)[0].update(is_impossible=True), "answers, and is said to have none", "qas[0]", "id a"),
        (lambda s: qas(s)[0]["answers"][0].update(answer_start=1.5), "no file of", "answer_start", "a number"),
        (lambda s: qas(s)[0]["answers"][0].update(answer_start=True), "no file of", "answer_start", "true or false"),
        (lambda s: qas(s)[0]["answers"][0].update(answer_start=39), "where it is said to", "answers", "stands '68"),
        (lambda s: qas(s)[1]["answers"][0].update(answer_start=-18), "where it is said to", "answers", "id 2: at -18"),
        (lambda s: qas(s)[1]["answers"][0].update(answer_start=10**300), "where it is said to", "answers", "stands ''"),
        (lambda s: qas(s)[1]["answers"][0].update(text=""), "where it is said to", "answers", "stands ''"),
    ],
    ids=[
        "data-no-list", "article-no-object", "no-paragraphs", "title-null", "no-context", "context-list", "qas-text",
        "no-question", "id-list", "id-true", "answers-object", "answer-text", "impossible-text", "unanswered-possible",
        "answered-impossible", "start-half", "start-true", "start-off", "start-negative", "start-huge", "answer-empty",
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_question_is_said(tmp_path: Path, edit: Edit, says: str, where: str, given: str) -> None:
    said = squad()
    edit(said)
    with pytest.raises(DataError, match=says) as caught:
        read_rows(written(tmp_path, said))
    problem = caught.value.problem
    assert where in str(problem.where)
    assert given in str(problem.given)
    assert problem.expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[{"text": "a", "label": "b"}]', "is no file of questions\n  given     a list\n  expected  {\"data\""),
        ('{"text": ["a"], "label": ["b"]}', "given     an object with text, label\n"),
        ("{}", "given     an object\n"),
        ("3", "given     a whole number\n"),
        ('{"data": []}', "has no rows"),
        ('{"data": [{"paragraphs": []}]}', "has no rows"),
        ('{"data":\n [}', r"is not JSON: Expecting value (line 2)"),
        ("", "is not JSON: Expecting value (line 1)"),
        ('{"data": [], "data": []}', "is not JSON: a key stands twice in one object"),
        ('{"data": NaN}', "is not JSON: NaN is no number of JSON"),
        ("[" * 200_000, "is not JSON: "),
        ('{"data": ' * 200_000, "is not JSON: "),
        ('{"data": [' + "9" * 5000 + "]}", "is not JSON: "),
    ],
    ids=[
        "list", "columns", "empty-object", "number", "no-articles", "no-questions", "torn", "empty", "twins", "nan",
        "deep-list", "deep-object", "long-number",
    ],
)  # fmt: skip
def test_files_that_hold_no_questions(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DataError) as caught:
        read_rows(written(tmp_path, text))
    assert says in caught.value.problem.text()
    assert len(str(caught.value)) < 1000


def test_rows_in_a_json_file_are_told_where_they_belong(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_rows(written(tmp_path, [{"text": "a"}]))
    assert ".jsonl" in str(caught.value.problem.fix)


def test_a_file_that_would_fill_the_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, squad())
    monkeypatch.setattr(tabular, "MOST_BYTES", path.stat().st_size - 1)
    with pytest.raises(DataError, match="too large"):
        read_rows(path)


def test_messages_do_not_repeat_long_texts(tmp_path: Path) -> None:
    said = squad()
    said["data"][0]["paragraphs"][0]["context"] = "x" * 100_000
    qas(said)[0]["id"] = "i\n" * 10_000
    qas(said)[0]["answers"][0] = {"text": "y" * 10_000, "answer_start": 5}
    with pytest.raises(DataError, match="does not stand where") as caught:
        read_rows(written(tmp_path, said))
    assert len(str(caught.value)) < 600


# --- Debian's tags ---------------------------------------------------------------------------------------------------


def test_tags_are_read_over_several_lines_and_out_of_braces() -> None:
    stanza = (
        "Package: a\nTag: devel::lang:c++, implemented-in::c,\n role::{program, shared-lib}, uitoolkit::gtk,\n"
        "\tNonsense here, x11::TODO\nSection: net\n other::tag"
    )
    assert debian_tags.tags_of(stanza) == (
        "devel::lang:c++", "implemented-in::c", "role::program", "role::shared-lib", "uitoolkit::gtk", "x11::TODO",
    )  # fmt: skip
    assert debian_tags.tags_of("Package: a\nDescription: Tag: role::program") == ()


def test_columns_of_tags_hold_the_first_value_that_is_a_class() -> None:
    made = debian_tags.tag_columns(
        [
            ("devel::lang:perl", "implemented-in::TODO", "role::TODO", "role::plugin", "role::program"),
            ("devel::lang:perl", "implemented-in::vala", "implemented-in::c", "interface::x11"),
            (),
        ]
    )
    assert list(made) == ["language", "role", "interface", "toolkit", "purpose"]
    assert made["language"] == ["perl", "c", ""]
    assert made["role"] == ["plugin", "", ""]
    assert made["interface"] == ["", "", ""]


PACKAGES = [
    ("alpha", "implemented-in::perl, uitoolkit::gtk"),
    ("beta", "implemented-in::c, implemented-in::python, interface::text-mode"),
    ("gamma", "uitoolkit::gtk"),
    ("delta", "implemented-in::TODO, protocol::http"),
    ("eps", ""),
]
TEXTS = {
    "alpha": "viewer of things\n It is written in Perl, see http://www.perl.org/, and draws by GTK+.",
    "beta": "a Python3 and C program in text mode, not C++",
    "gamma": "gtk2perl-like see /usr/share/gtk/x",
    "delta": "speaks over http://example.org",
    "eps": "untagged HTTP and Perl",
}


def lists(packages: list[tuple[str, str]] = PACKAGES, texts: dict[str, str] = TEXTS) -> tuple[str, str]:
    """A list of packages and one of descriptions."""
    stanzas = [
        f"Package: {name}\nSource: s-{name}\nDescription-md5: md5{name}\n" + (f"Tag: {tags}\n" if tags else "")
        for name, tags in packages
    ]
    said = [f"Package: {name}\nDescription-md5: md5{name}\nDescription-en: {text}\n" for name, text in texts.items()]
    return "\n".join(stanzas), "\n".join(said)


def test_lists_without_tags_have_no_columns_of_them() -> None:
    packages, english = lists()
    rows = debian.join(packages, {"en": english})
    assert list(rows.columns)[-5:] == list(debian_tags.TAG_COLUMNS)
    assert rows.texts("package") == ["alpha", "beta", "delta", "eps", "gamma"]
    assert rows.texts("language") == ["perl", "c", "", "", ""]
    assert rows.texts("toolkit") == ["gtk", "", "", "", "gtk"]
    old = debian.join("\n".join(line for line in packages.split("\n") if not line.startswith("Tag")), {"en": english})
    assert list(old.columns) == ["package", "source", "section", "area", "title", "text"]
    assert all((old.column(name) == rows.column(name)).all() for name in old.columns)
    with pytest.raises(InputError, match="no column `language`"):
        old.texts("language")


def test_classes_of_tags_are_fixed_and_differ() -> None:
    for facets, values in debian_tags.TAG_COLUMNS.values():
        assert len(set(values)) == len(values) > 5
        assert all(facet.endswith(":") for facet in facets)


# --- questions of tags -----------------------------------------------------------------------------------------------


def said_of(rows: Rows) -> dict[tuple[str, str], str]:
    return {
        (package, facet): answer
        for package, facet, answer in zip(*(rows.texts(name) for name in ("package", "facet", "answer")), strict=True)
    }


def test_a_description_answers_what_its_tags_ask() -> None:
    rows = debian_questions.questions(*lists())
    assert list(rows.columns) == ["question", "text", "answer", "start", "facet", "package", "source"]
    assert said_of(rows) == {
        ("alpha", "language"): "Perl",
        ("alpha", "toolkit"): "GTK+",
        ("beta", "interface"): "text mode",
        ("beta", "language"): "Python3",  # before C, and C++ is another word
    }
    assert rows.texts("source") == ["s-alpha", "s-alpha", "s-beta", "s-beta"]
    assert rows.texts("question")[1] == debian_words.FACETS["toolkit"][1]
    assert rows.numbers("start")[2] == len("a Python3 and C program in ")
    for text, answer, start in zip(rows.texts("text"), rows.texts("answer"), rows.numbers("start"), strict=True):
        assert text[int(start) :].startswith(answer)


def test_the_longest_of_the_words_at_one_place_is_the_answer() -> None:
    texts = {"a": "made with Tcl/Tk", "b": "an image of ISO 9660, the Ogg Vorbis"}
    tags = [("a", "uitoolkit::tk"), ("b", "works-with-format::oggvorbis, works-with-format::oggtheora")]
    assert said_of(debian_questions.questions(*lists(tags, texts))) == {
        ("a", "toolkit"): "Tcl/Tk",
        ("b", "format"): "Ogg Vorbis",
    }


def many(count: int, silent: int) -> tuple[str, str]:
    """Packages in Perl, every tenth in Ada; and others of which nobody says what they are written in."""
    tags, texts = [], {}
    for number in range(count):
        name, language = f"p{number:04}", "ada" if number % 10 == 0 else "perl"
        tags.append((name, f"implemented-in::{language}, role::program"))
        texts[name] = f"package {number} of a kind, in {language.title()}"
    for number in range(silent):
        name = f"q{number:04}"
        tags.append((name, "role::program"))
        texts[name] = f"{'Perl' if number % 2 else 'package'} {number}"
    return lists(tags, texts)


def test_no_answer_is_right_too_often_and_a_fifth_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian_questions, "_MOST", 30)
    rows = debian_questions.questions(*many(100, 40))
    answers = Counter(rows.texts("answer"))
    assert answers == {"Perl": 30, "Ada": 10, "": 10}
    none = [text for text, answer in zip(rows.texts("text"), rows.texts("answer"), strict=True) if not answer]
    assert all("Perl" not in text for text in none)  # who says it may well be written in it
    assert rows.numbers("start")[[not answer for answer in rows.texts("answer")]].tolist() == [0.0] * 10
    assert rows.texts("package") == sorted(rows.texts("package"))


def test_which_questions_stay_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian_questions, "_MOST", 30)
    packages, english = many(100, 40)
    backwards = "\n\n".join(reversed(packages.rstrip("\n").split("\n\n"))) + "\n"
    rows, again = (debian_questions.questions(one, english) for one in (packages, backwards))
    assert said_of(rows) == said_of(again)
    fewer = "\n\n".join(stanza for stanza in packages.rstrip("\n").split("\n\n") if "Package: p0050" not in stanza)
    assert len(said_of(rows).keys() ^ said_of(debian_questions.questions(fewer, english)).keys()) <= 2


def test_lists_without_any_tag_make_no_questions() -> None:
    packages, english = lists([(name, "") for name, _ in PACKAGES])
    with pytest.raises(DataError, match="have no tags") as caught:
        debian_questions.questions(packages, english)
    assert caught.value.problem.fix == "fetch this set on a system of Debian's"


def test_words_belong_to_facets_that_are_asked() -> None:
    assert set(debian_words.WORDS) <= set(debian_words.FACETS)
    assert len({question for _, question in debian_words.FACETS.values()}) == len(debian_words.FACETS)
    answer = SETS["debian-questions"].args["answer"]
    assert set(answer.values()) < set(debian_questions.questions(*lists()).columns)
