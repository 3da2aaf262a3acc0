"""Questions with answers that are part of a text, in the form that SQuAD has: files of one's own, as rows.

The form is that of Rajpurkar, Zhang, Lopyrev, Liang (2016, arXiv 1606.05250), and of Rajpurkar, Jia, Liang (2018, arXiv
1806.03822) where questions may have no answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tutelage.data.images import printable
from tutelage.data.rows import Column
from tutelage.errors import DataError

__all__ = ["question_columns"]

_FORM = '{"data": [{"title": …, "paragraphs": [{"context": …, "qas": [{"id": …, "question": …, "answers": […]}]}]}]}'
_SHOWN = 60  # characters of a text in a message
_KINDS = {str: "text", list: "a list", dict: "an object", int: "a whole number", bool: "true or false"}


class _Question(NamedTuple):
    """One row."""

    id: str
    title: str
    context: str
    question: str
    answer: str
    start: float


def question_columns(path: Path, said: Any) -> dict[str, Column]:
    """Columns of a file of questions: texts `id`, `title`, `context`, `question` and `answer`, and the number `start`.

    `start` is the character of `context` at which `answer` begins; where a question has no answer, `answer` is "" and
    `start` is NaN. Of several answers the first is taken; what else a file holds is passed over.

    Args:
        path: of the file, for messages.
        said: what its JSON says: `data` is a list of articles, each of them with `paragraphs`, each of those with a
            `context` and its `qas`, and each of these with a `question` and its `answers`, which have `text` and
            `answer_start`. No `answers`, or `is_impossible`, means that there is none.

    Raises:
        DataError: the file is of another form, or an answer does not stand where it is said to.
    """
    if not isinstance(said, dict) or "data" not in said:
        raise DataError(
            f"{printable(path)} is no file of questions",
            given=f"an object with {_keys(said)}" if isinstance(said, dict) and said else _kind(said), expected=_FORM,
            fix="rows of a table belong into a .jsonl file, one object on each line",
        )  # fmt: skip
    found = list(_questions(path, said))
    return {
        name: np.array(values, dtype=np.float64 if name == "start" else object)
        for name, values in zip(_Question._fields, zip(*found, strict=True), strict=False)
    }


def _questions(path: Path, said: Mapping[str, Any]) -> Iterator[_Question]:
    file = printable(path)
    for one, article in enumerate(_said(said, "data", list, file, "")):
        place = f"data[{one}]"
        title = _said(article, "title", str, file, place, default="")
        for two, paragraph in enumerate(_said(article, "paragraphs", list, file, place)):
            here = f"{place}.paragraphs[{two}]"
            context = _said(paragraph, "context", str, file, here)
            for three, asked in enumerate(_said(paragraph, "qas", list, file, here)):
                yield _question(asked, title, context, file, f"{here}.qas[{three}]")


def _question(asked: Any, title: str, context: str, file: str, where: str) -> _Question:
    question = _said(asked, "question", str, file, where)
    name = asked.get("id", "")
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise _odd(file, f"{where}.id", name, "text")
    answers = _said(asked, "answers", list, file, where, default=[])
    impossible = _said(asked, "is_impossible", bool, file, where, default=not answers)
    if impossible == bool(answers):
        raise DataError(
            f"a question of {file} has answers, and is said to have none"
            if answers
            else f"a question of {file} has no answer, and is said to have one",
            where=where,
            given=_named(name, question),
            expected="answers, or is_impossible: true",
        )
    if impossible:
        return _Question(str(name), title, context, question, "", np.nan)
    place = f"{where}.answers[0]"
    text, start = _said(answers[0], "text", str, file, place), _said(answers[0], "answer_start", int, file, place)
    if not text or start < 0 or not context.startswith(text, start):
        there = context[max(start, 0) :][: min(len(text), _SHOWN)]
        raise DataError(
            f"an answer of {file} does not stand where it is said to", where=place,
            given=f"{_named(name, question)}: at {start:,} stands {there!r}",
            expected=repr(text[:_SHOWN]) if text else "an answer of at least one character",
            fix="answer_start counts the characters of the context from 0, not its bytes",
        )  # fmt: skip
    return _Question(str(name), title, context, question, text, float(start))


def _said(owner: Any, key: str, kind: type, file: str, where: str, *, default: Any = None) -> Any:
    """What an object says under a key; without a default it has to say it."""
    if not isinstance(owner, dict):
        raise _odd(file, where, owner, "an object")
    value = owner.get(key, default)
    if value is None and key not in owner:
        raise DataError(
            f"{file} lacks `{key}`", where=where or None, expected=_FORM,
            given=f"an object with {_keys(owner)}" if owner else _kind(owner),
        )  # fmt: skip
    # JSON's true is an int of Python's.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _odd(file, f"{where}.{key}".removeprefix("."), value, _KINDS[kind])
    return value


def _odd(file: str, where: str, value: Any, expected: str) -> DataError:
    return DataError(f"{file} is no file of questions", where=where, given=_kind(value), expected=expected)


def _keys(said: Mapping[str, Any]) -> str:
    """The first keys of an object."""
    return ", ".join(printable(key[:_SHOWN]) for key in list(said)[:8])


def _kind(value: Any) -> str:
    """What kind of JSON a value is."""
    if value is None:
        return "null"
    return "a number" if isinstance(value, float) else _KINDS[type(value)]


def _named(name: object, question: str) -> str:
    """A question for a person to find."""
    return f"id {printable(str(name)[:_SHOWN])}" if name != "" else repr(question[:_SHOWN])
