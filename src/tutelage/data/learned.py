"""What of rows is learned: the classes of one column, those of several, or where an answer stands in a text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.data.encoders.text import Tokens
from tutelage.data.examples import Examples, Task, check_names, listed
from tutelage.data.folder import natural
from tutelage.data.rows import Rows
from tutelage.data.tasks import check_task
from tutelage.errors import DataError, InputError

__all__ = ["Answer", "Learned", "labels_of"]

_MOST_NUMBERS = 100  # classes of a column of numbers
NO_ANSWER = "no answer"


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """Answers that are part of a text: the column of what they say, and that of the character at which they begin."""

    text: str
    start: str | None = None  # None: where the text first says it

    def spans(self, rows: Rows, context: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Of each row the characters [begin, end) of its context, (N, 2), (0, 0) where it has no answer; and whether
        the context holds the answer at all, (N,).

        Args:
            rows: N questions with their answers.
            context: the column in which answers stand.

        Raises:
            InputError: there is no such column, or the beginnings are no numbers.
            DataError: an answer does not stand where it is said to.
        """
        said, texts = rows.texts(self.text, "data.answer.text"), rows.texts(context)
        begins = None if self.start is None else rows.numbers(self.start, "data.answer.start")
        found, there = np.zeros((len(rows), 2), dtype=np.int64), np.ones(len(rows), dtype=bool)
        for row, (answer, text) in enumerate(zip(said, texts, strict=True)):
            if not answer:
                continue
            said_at = math.nan if begins is None else float(begins[row])
            begin = text.find(answer)
            if not math.isnan(said_at):
                begin = int(said_at) if 0 <= said_at <= len(text) and said_at.is_integer() else len(text)
                if not text.startswith(answer, begin):
                    raise DataError(
                        f"the answer of row {row} does not stand where it is said to", where=rows.name,
                        given=f"character {said_at:g} of `{context}` begins {text[begin : begin + 40]!r}",
                        expected=repr(answer[:40]), fix="count characters from 0, not bytes; or leave `start` out",
                    )  # fmt: skip
            there[row] = begin >= 0
            found[row] = (begin, begin + len(answer)) if begin >= 0 else (0, 0)
        return found, there


@final
@dataclass(frozen=True, slots=True)
class Learned:
    """What of rows is learned; either a label, with or without further tasks, or an answer."""

    label: str | None = None
    tasks: Mapping[str, str] = field(default_factory=dict)  # further task -> the column of its classes
    answer: Answer | None = None

    @classmethod
    def of(cls, label: str | None, tasks: Mapping[str, str] | None, answer: Mapping[str, Any] | Answer | None) -> Self:
        """As a recipe says it.

        Raises:
            InputError: both a label and an answer, or neither a column nor a name that can be.
        """
        if answer is not None and (label is not None or tasks):
            raise InputError(
                "what is learned is either classes or answers", where="data.answer",
                given=f"label {label}" if label is not None else "tasks", fix="leave `label` and `tasks` out",
            )  # fmt: skip
        for name in tasks or {}:
            check_task(name, "data.tasks")
        if answer is None or isinstance(answer, Answer):
            return cls(label, dict(tasks or {}), answer)
        if "text" not in answer or not set(answer) <= {"text", "start"}:
            raise InputError(
                "an answer has a column of its text, and perhaps one of where it begins", where="data.answer",
                given=", ".join(answer), expected="{text: answer, start: answer_start}",
            )  # fmt: skip
        return cls(answer=Answer(**answer))

    def or_else(self, label: str | None, answer: Mapping[str, Any] | None) -> Learned:
        """The same, with what a set of data says itself where nothing is said here."""
        if self.answer is not None or self.label is not None:
            return self
        if answer is not None and not self.tasks:
            return Learned.of(None, None, answer)
        return replace(self, label=label)

    @property
    def missing(self) -> bool:
        """Whether nothing is learned."""
        return self.label is None and self.answer is None

    @property
    def columns(self) -> dict[str, str]:
        """Where a recipe names them -> the columns that every row must fill."""
        own = {} if self.label is None else {"data.label": self.label}
        return own | {f"data.tasks.{task}": column for task, column in self.tasks.items()}

    def bare(self, rows: Rows) -> tuple[torch.Tensor, list[str], dict[str, Task]]:
        """Labels (N,), their classes, and further tasks, by which rows are divided into parts; of answers, whose places
        depend on tokens, all rows are of one class."""
        if self.label is None:
            return torch.zeros(len(rows), dtype=torch.int64), ["answer"], {}
        tasks = {
            name: Task(targets, tuple(classes))
            for name, column in self.tasks.items()
            for targets, classes in [labels_of(rows, column, f"data.tasks.{name}")]
        }
        return *labels_of(rows, self.label, "data.label"), tasks

    def placed(self, bare: Examples, rows: Rows, encoder: Tokens) -> tuple[Examples, int]:
        """Examples with the first and the last token of each answer as two tasks; and how many answers were cut off.

        Args:
            bare: N examples without anything to read.
            rows: the N rows that they were made of.
            encoder: of questions and contexts.

        Returns:
            Examples of the tasks `start` and `end` of L classes each, the places; 0 means that there is no answer,
            also where it stands behind the last token that is read.
        """
        assert self.answer is not None
        spans, _ = self.answer.spans(rows, encoder.columns[1])
        places = encoder.places(rows, spans)
        cut = int(((spans[:, 1] > 0) & (places[:, 1] == 0)).sum())
        names = (NO_ANSWER, *(str(place) for place in range(1, encoder.length)))
        start, end = (torch.from_numpy(places[:, side].copy()) for side in (0, 1))
        return replace(bare, targets=start, classes=names, task="start", tasks={"end": Task(end, names)}), cut


def labels_of(rows: Rows, column: str, where: str) -> tuple[torch.Tensor, list[str]]:
    """The labels (N,) that a column says, and the names of their classes in natural order.

    Raises:
        InputError: there is no such column.
        DataError: it holds quantities, or the same everywhere.
    """
    texts = rows.texts(column, where)
    classes = sorted(set(texts), key=natural)
    if rows.column(column).dtype.kind == "f" and len(classes) > _MOST_NUMBERS:
        raise DataError(
            f"`{column}` looks like a number to be predicted, not like classes", where=where,
            given=f"{len(classes):,} different numbers", expected=f"at most {_MOST_NUMBERS}",
            fix="name a column of classes",
        )  # fmt: skip
    if len(classes) < 2:
        raise DataError(f"all rows have the same `{column}`", where=where, given=listed(classes))
    check_names(classes, f"{where} {column}")
    places = {name: number for number, name in enumerate(classes)}
    return torch.tensor([places[text] for text in texts], dtype=torch.int64), classes
