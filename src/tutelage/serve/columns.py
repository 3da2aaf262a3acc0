"""Rows by the names of their columns become inputs, by the encoder that travels with a student of texts, tables or
sounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tutelage.data.encoders import encoder_of
from tutelage.data.encoders.digest import digest_of_reading
from tutelage.data.encoders.text import Tokens
from tutelage.data.examples import as_model_input
from tutelage.data.rows import Column, Rows
from tutelage.errors import ModelError, TutelageError, nearest
from tutelage.export import Facts, Inputs
from tutelage.serve.refusals import RefusedError

__all__ = ["Columns", "columns_of"]

# What a column of each kind holds, as /model tells it.
_TEXT, _NUMBER, _NAME, _SOUND = "text", "number or null", "text, number or null", "list of samples"
_ABLE: Mapping[str, set[type]] = {
    _TEXT: {str}, _NUMBER: {int, float, type(None)}, _NAME: {str, int, float, type(None)},
}  # fmt: skip
_LONGEST = 100_000  # characters of one text: a model reads its beginning only, but all of it is cut into tokens
_MOST = 1_000_000  # characters of one request
_SHOWN = 60


@final
class Columns:
    """The columns that a student reads, and what makes its inputs of them; made once for a file.

    Args:
        facts: of the file, with an encoding.

    Raises:
        DamagedError: the encoding is not one that can be read.
        ModelError: it makes inputs of another shape than the model reads.
        MissingExtraError: what it needs is not installed.
    """

    def __init__(self, facts: Facts) -> None:
        assert facts.encoding is not None
        self.vocabulary = facts.vocabulary
        self.reads = digest_of_reading(facts.encoding)  # by it who has inputs already knows whether they fit
        self._encoder = encoder_of(facts.encoding)
        self._shape = facts.input_shape
        self._samples = int(getattr(self._encoder, "samples", 0))
        self.kinds = {name: _kind_of(facts.encoding, name) for name in self._encoder.columns}
        self.context = self._context(facts.separator)
        try:
            made = self.made(self._named([{name: self._blank(kind) for name, kind in self.kinds.items()}]))
        except RefusedError as error:
            raise ModelError("what makes this model's inputs does not work", given=error.problem.what) from error
        if made.shape[1:] != self._shape:
            raise ModelError(
                "what makes this model's inputs makes others than it reads", given=f"shape {made.shape[1:]}",
                expected=f"{self._shape}", fix="export the student again",
            )  # fmt: skip

    def read(self, rows: Any, most: int) -> Inputs:
        """Inputs (B, …) of JSON; see `named`."""
        return self.made(self.named(rows, most))

    def named(self, rows: Any, most: int) -> Rows:
        """The columns (B) of JSON: a list of objects that hold every column; what else they hold is passed over.

        Args:
            rows: the JSON.
            most: bytes of the largest body; what is made of one may take four times as much.

        Raises:
            RefusedError: 413, too many rows or too long texts; 422, a column is missing or holds something else.
        """
        if not isinstance(rows, list) or not rows or set(map(type, rows)) != {dict}:
            raise RefusedError(
                422, "`rows` is no list of objects", given=_said(rows), expected=f"one or more of {self._wanted}"
            )
        room = max(1, most // (2 * math.prod(self._shape)))
        if len(rows) > room:
            raise RefusedError(
                413, "too many rows", given=f"{len(rows):,}", expected=f"{room:,} at most", fix="send fewer at a time"
            )
        return self._named(rows)

    def made(self, rows: Rows) -> Inputs:
        """Inputs (B, …) of columns.

        Raises:
            RefusedError: 422, nothing can be made of them.
        """
        try:
            made: Inputs = as_model_input(self._encoder.encode(rows)).numpy()
        except TutelageError as error:
            said = error.problem
            raise RefusedError(422, said.what, given=said.given, expected=said.expected) from None
        except BaseException as error:  # a panic of the tokenizers' library is no Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
                raise
            raise RefusedError(422, "nothing can be made of these rows", expected=self._wanted) from None
        return made

    def words(self, rows: Rows, places: NDArray[np.int64]) -> list[tuple[str, int, int]]:
        """What stands at places (B, 2), the first and the last token of each row: the words of the column `context`,
        and between which of its characters they stand, counted as Python does; ("", 0, 0) for no answer."""
        assert isinstance(self._encoder, Tokens)
        assert self.context is not None
        spans = self._encoder.characters(rows, places)
        texts = rows.column(self.context)
        return [(str(text)[begin:end], begin, end) for text, (begin, end) in zip(texts, spans, strict=True)]

    def _context(self, separator: int) -> str | None:
        """The column that answers stand in, of a file that answers questions."""
        if not separator:
            return None
        if not isinstance(self._encoder, Tokens) or self._encoder.separator != separator:
            raise ModelError(
                "this file answers questions, but what makes its inputs makes no questions",
                expected="tokens of two columns, the second of which holds the answers", fix="export the student again",
            )  # fmt: skip
        return self._encoder.columns[1]

    @property
    def _wanted(self) -> str:
        inner = ", ".join(f'"{name[:_SHOWN]}": {kind}' for name, kind in list(self.kinds.items())[:8])
        return "{" + inner + (", …" if len(self.kinds) > 8 else "") + "}"

    def _named(self, rows: list[dict[str, Any]]) -> Rows:
        for number, row in enumerate(rows):
            for name in self.kinds:
                if name not in row:
                    raise RefusedError(
                        422, f"example {number} has no column `{name[:_SHOWN]}`",
                        given=", ".join(f"`{key[:_SHOWN]}`" for key in list(row)[:8]) or "no columns",
                        expected=self._wanted,
                        fix=f"call it `{name[:_SHOWN]}`" if nearest(name, [key[:_SHOWN] for key in row]) else None,
                    )  # fmt: skip
        columns = {name: self._column(name, kind, [row[name] for row in rows]) for name, kind in self.kinds.items()}
        if sum(len(text) for column in columns.values() if column.dtype == object for text in column) > _MOST:
            raise RefusedError(
                413, "the texts are too long", expected=f"{_MOST:,} characters in one request", fix="send fewer"
            )
        return Rows("the request", columns)

    def _column(self, name: str, kind: str, values: list[Any]) -> Column:
        if kind == _SOUND:
            return self._sounds(name, values)
        able = _ABLE[kind]
        for number, value in enumerate(values):
            if type(value) not in able:
                raise _odd(name, number, kind, _said(value))
            if type(value) is str and len(value) > _LONGEST:
                raise RefusedError(
                    413, f"the text `{name[:_SHOWN]}` of example {number} is too long",
                    given=f"{len(value):,} characters", expected=f"{_LONGEST:,} at most",
                    fix="send its beginning: the model reads no more of it",
                )  # fmt: skip
        if kind == _TEXT:
            return np.array(values, dtype=object)
        if kind == _NAME:
            return np.array([_name(name, number, value) for number, value in enumerate(values)], dtype=object)
        return np.array([_float(name, number, value) for number, value in enumerate(values)], dtype=np.float64)

    def _sounds(self, name: str, values: list[Any]) -> Column:
        found = np.empty((len(values), self._samples), dtype=np.float32)
        for number, value in enumerate(values):
            if type(value) is not list or len(value) != self._samples:
                given = f"{len(value):,} samples" if isinstance(value, list) else _said(value)
                raise _odd(name, number, f"{_SOUND}, {self._samples:,}", given)
            if not set(map(type, value)) <= {int, float}:
                raise _odd(name, number, f"{_SOUND}, {self._samples:,}", "something else than numbers")
            try:
                with np.errstate(over="ignore"):
                    found[number] = np.array(value, dtype=np.float64)
            except OverflowError:
                found[number] = np.inf
        return found

    def _blank(self, kind: str) -> Any:
        return {_TEXT: "a", _NUMBER: 0.0, _NAME: "a", _SOUND: [0.0] * self._samples}[kind]


def columns_of(facts: Facts) -> Columns | None:
    """The columns that a file's model reads; None where it reads pictures, or numbers that nothing made.

    Raises:
        DamagedError, ModelError, MissingExtraError: see `Columns`.
    """
    return None if (facts.encoding or {}).get("kind") in (None, "picture") else Columns(facts)


def _kind_of(encoding: Mapping[str, Any], name: str) -> str:
    kind = encoding["kind"]
    if kind == "table":
        return _NUMBER if name in [part["column"] for part in encoding["numbers"]] else _NAME
    return _SOUND if kind in ("sound", "waveform") else _TEXT


def _odd(name: str, number: int, expected: str, given: str) -> RefusedError:
    return RefusedError(
        422, f"the column `{name[:_SHOWN]}` of example {number} holds something else", given=given, expected=expected
    )


def _name(name: str, number: int, value: Any) -> str:
    """A category as a table's file has it: a number as it is read from there, nothing where it is missing."""
    return "" if value is None else value if isinstance(value, str) else f"{_float(name, number, value):.17g}"


def _float(name: str, number: int, value: Any) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError:
        raise _odd(name, number, "a number that float64 holds", "a number of too many digits") from None


def _said(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
