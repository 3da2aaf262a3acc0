"""The user's own tables, .csv, .tsv, .jsonl, .json, .parquet, and folders of Hugging Face `datasets`, as rows."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.examples import listed
from tutelage.data.images import absence, printable
from tutelage.data.questions import question_columns
from tutelage.data.rows import Column, Rows
from tutelage.data.tagged import tagged_columns
from tutelage.errors import DamagedError, DataError

__all__ = ["MOST_BYTES", "SUFFIXES", "read_rows"]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".conll")

MOST_BYTES = 2 * 2**30
_FIELD = 2**31 - 1
# Codes such as 007 are no numbers, and neither are those whose last digits a float64 would lose.
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]{0,14})(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)


def read_rows(path: Path | str) -> Rows:
    """The rows of a table.

    Text files are UTF-8, with or without a mark at the start. In a .csv or .tsv the first line names the columns (one
    without a name is called `column_1` by its place), and a column holds numbers if every cell that is not empty is
    one; codes with leading zeros and numbers of more than 15 digits stay text. A .jsonl holds one object on each line;
    keys that are missing are empty cells, and lists of numbers of one length are one column. A .parquet file, and a
    folder that `datasets.save_to_disk` wrote, need the extra `parquet`; there class labels become their names, and the
    splits of a folder a column `part` with train, val and test. A .conll file holds words with tags; see
    `tutelage.data.tagged`. A .json file holds questions in the form of SQuAD; see `tutelage.data.questions`.

    Raises:
        DataError: there is no such file, it is of another kind, larger than 2 GiB, or its rows do not fit together.
        DamagedError: a .parquet or .arrow file is not what it claims to be.
        MissingExtraError: pyarrow is not installed.
    """
    path = Path(path)
    if path.is_dir():
        from tutelage.data.arrow import read_folder

        return read_folder(path)
    if not path.is_file():
        raise DataError(f"the table {printable(path)} {absence(path, 'file')}")
    refuse_large([path])
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        from tutelage.data.arrow import read_parquet

        return read_parquet(path)
    if suffix not in SUFFIXES:
        raise DataError(
            f"{printable(path)} is no table that can be read", given=suffix or "no suffix", expected=", ".join(SUFFIXES)
        )
    text = _text(path)
    if suffix == ".conll":
        columns = tagged_columns(path, text)
    elif suffix == ".jsonl":
        columns = _jsonl(path, text)
    elif suffix == ".json":
        columns = question_columns(path, _json(path, text))
    else:
        columns = _separated(path, text, "," if suffix == ".csv" else "\t")
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{printable(path)} has no rows")
    return Rows(printable(path.stem), columns)


def refuse_large(paths: Iterable[Path]) -> None:
    """Refuse files that would fill the memory.

    Raises:
        DataError: together they are larger than `MOST_BYTES`.
    """
    files = list(paths)
    size = sum(file.stat().st_size for file in files)
    if size > MOST_BYTES:
        raise DataError(
            f"{printable(files[0])} is too large to be read whole", given=f"{size:,} bytes",
            expected=f"at most {MOST_BYTES:,}", fix="take a sample of its rows",
        )  # fmt: skip


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise DataError(
            f"{printable(path)} holds bytes that are zero, which no text does", where=f"line {line:,}",
            fix="it looks like UTF-16: save it as UTF-8" if wide else "is it really a text file?",
        )  # fmt: skip
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{printable(path)} is not UTF-8", where=f"line {line:,}", given=f"the byte 0x{data[error.start]:02x}",
            fix="save it as UTF-8; for one from Latin-1: iconv -f latin1 -t utf8",
        ) from None  # fmt: skip


def _separated(path: Path, text: str, delimiter: str) -> dict[str, Column]:
    before = csv.field_size_limit(_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if not header:
            raise DataError(f"{printable(path)} is empty", expected="a first line with the names of the columns")
        names = [name.strip() or f"column_{place}" for place, name in enumerate(header, 1)]
        _refuse_twins(path, names)
        cells = list(_even(path, reader, len(names)))
    except csv.Error as error:
        raise DataError(
            f"{printable(path)} is not well formed: {error}", where=f"line {reader.line_num:,}",
            fix="a quotation mark within a cell is written twice, and the cell stands between quotation marks",
        ) from error  # fmt: skip
    finally:
        csv.field_size_limit(before)
    return {name: typed(column) for name, column in zip(names, zip(*cells, strict=True), strict=False)}


def _even(path: Path, reader: Any, width: int) -> Iterator[list[str]]:
    """Rows of that many cells; empty lines are passed over."""
    odd: list[str] = []
    for row in reader:
        if len(row) == width:
            yield row
        elif row:
            odd.append(f"line {reader.line_num:,} has {len(row)}")
    if odd:
        raise DataError(
            f"{len(odd):,} rows of {printable(path)} have another number of cells than the first line",
            given=listed(odd), expected=f"{width} cells",
            fix="cells that hold the separator or a line break stand between quotation marks",
        )  # fmt: skip


def _refuse_twins(path: Path, names: Sequence[str]) -> None:
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise DataError(f"columns of {printable(path)} have the same name", given=", ".join(map(printable, twins)))


def typed(cells: Sequence[str]) -> Column:
    """Texts as numbers, NaN where empty, if every cell that is not empty is one; else as they are."""
    said = False
    for cell in cells:
        if cell and not (said := _NUMBER.fullmatch(cell) is not None):
            return np.array(cells, dtype=object)
    if not said:
        return np.array(cells, dtype=object)
    return np.array([float(cell) if cell else np.nan for cell in cells], dtype=np.float64)


def _jsonl(path: Path, text: str) -> dict[str, Column]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        row = _json(path, line, number)
        if not isinstance(row, dict):
            raise DataError(
                f"{printable(path)} holds something else than an object", where=f"line {number:,}",
                given=type(row).__name__, expected='such as {"text": "…", "label": "…"}',
            )  # fmt: skip
        rows.append(row)
    names = list(dict.fromkeys(chain.from_iterable(rows)))
    return {name: column_of([row.get(name) for row in rows], name, path) for name in names}


def _json(path: Path, text: str, line: int | None = None) -> Any:
    """What JSON says: the whole of a file, or one line of it."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        said = str(error)
        if isinstance(error, json.JSONDecodeError):
            said, line = error.msg, line or error.lineno
        where = None if line is None else f"line {line:,}"
        raise DataError(f"{printable(path)} is not JSON: {said}", where=where) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return made


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON; write null")


def column_of(values: Sequence[Any], name: str, path: Path) -> Column:
    """A column of values as JSON has them: texts, numbers, or lists of numbers of one length; None where missing.

    Raises:
        DataError: they are of another kind, or lists that differ in length.
    """
    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {int, float} and all(_fits(value) for value in values):
        return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
    if kinds == {list}:
        try:
            lists = np.array(values, dtype=np.float32)
        except (TypeError, ValueError):
            lists = np.zeros(0, np.float32)
        if lists.ndim == 2 and lists.shape[1]:
            return lists
    odd = kinds & {list, dict}
    if odd:
        kind = "lists of several kinds" if list in odd else "objects within objects"
        raise DataError(
            f"the column `{name}` of {printable(path)} holds {kind}",
            expected="texts, numbers, or lists of numbers that have one length and are all there",
            fix="leave it out, or write its parts as columns of their own",
        )  # fmt: skip
    return np.array([_said(value) for value in values], dtype=object)


def _fits(value: Any) -> bool:
    """Whether a float64 holds a number whole; identifiers of many digits stay text."""
    return value is None or isinstance(value, float) or abs(value) < 10**15


def _said(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def damaged(path: Path, error: Exception) -> DamagedError:
    """A file that a library could not read, in our words."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return DamagedError(f"{printable(path)} cannot be read: {printable(said[:240])}", fix="write or fetch it again")
