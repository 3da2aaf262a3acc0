"""The user's own tables: what becomes of columns, and what is said of files that cannot be used."""

from __future__ import annotations

import builtins
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tutelage.data import tabular
from tutelage.data.tabular import read_rows
from tutelage.errors import DamagedError, DataError, MissingExtraError

pa = pytest.importorskip("pyarrow", reason="pyarrow, of the extra `parquet`, is not installed")
pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    def written(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return written


Write = Callable[[str, "str | bytes"], Path]

# --- separated values ------------------------------------------------------------------------------------------------


def test_columns_are_numbers_where_every_cell_is_one(write: Write) -> None:
    rows = read_rows(
        write(
            "t.csv",
            'n,mixed,code,long,empty,text\n1,1,007,12345678901234567,,"a, b"\n-2.5e3,x,10,1,,"c\n""d"""\n,,8,2,,\n',
        )
    )
    assert rows.name == "t"
    assert list(rows.columns) == ["n", "mixed", "code", "long", "empty", "text"]
    np.testing.assert_array_equal(rows.numbers("n"), [1.0, -2500.0, np.nan])
    assert rows.texts("mixed") == ["1", "x", ""]
    assert rows.texts("code") == ["007", "10", "8"]  # a code, which loses its zeros as a number
    assert rows.texts("long") == ["12345678901234567", "1", "2"]  # its last digits would be lost
    assert rows.texts("empty") == ["", "", ""]
    assert rows.texts("text") == ["a, b", 'c\n"d"', ""]
    assert [rows.column(name).dtype.kind for name in rows.columns] == ["f", "O", "O", "O", "O", "O"]


@pytest.mark.parametrize("cell", ["0", "-0.5", "+3", ".5", "5.", "1e-7", "999999999999999", "0.0001"])
def test_what_is_a_number(cell: str) -> None:
    assert tabular.typed([cell]).tolist() == [float(cell)]


@pytest.mark.parametrize("cell", ["nan", "inf", "1_000", "1,5", "٣", "0x1f", "1e", "-", ".", " 1", "00", "1e9999"])
def test_what_is_none(cell: str) -> None:
    assert tabular.typed([cell, "1"]).tolist() == [cell, "1"]


def test_tabs_marks_at_the_start_and_columns_without_a_name(write: Write) -> None:
    rows = read_rows(write("t.TSV", b"\xef\xbb\xbfname\t\tw\r\na,b\tx\t1\r\n\r\nc\ty\t2\r\n"))
    assert list(rows.columns) == ["name", "column_2", "w"]
    assert rows.texts("name") == ["a,b", "c"]
    assert rows.numbers("w").tolist() == [1.0, 2.0]


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6))
def test_what_the_csv_module_writes_comes_back(cells: list[tuple[str, str]]) -> None:
    out = io.StringIO()
    csv.writer(out).writerows([("a", "b"), *cells])
    columns = tabular._separated(Path("t.csv"), out.getvalue(), ",")
    for place, name in enumerate("ab"):
        given_cells = [row[place] for row in cells]
        column = columns[name]
        if column.dtype == object:
            assert column.tolist() == given_cells
        else:
            said = [float(cell) if cell else np.nan for cell in given_cells]
            np.testing.assert_array_equal(column, said)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.csv", "", ["is empty"]),
        ("t.csv", "a,b\n", ["has no rows"]),
        ("t.csv", "a,a\n1,2\n", ["have the same name", "given     a"]),
        ("t.csv", ",column_1\n1,2\n", ["have the same name"]),
        ("t.csv", "a,b\n1,2\n1\n3,4\n1,2,3\n", ["2 rows", "line 3 has 1", "line 5 has 3", "2 cells"]),
        ("t.csv", 'a,b\n"1\n2",3\n4\n', ["1 rows", "line 4 has 1"]),
        ("t.csv", 'a\n"b"c\n', ["is not well formed", "line 2"]),
        ("t.csv", 'a\n"b\n', ["is not well formed"]),
        ("t.csv", b"a\nb\nc\xe9\n", ["is not UTF-8", "line 3", "0xe9"]),
        ("t.csv", b"a\nb\0\n", ["bytes that are zero", "line 2"]),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), ["zero", "UTF-16"]),
        ("t.jsonl", "\n", ["has no rows"]),
        ("t.jsonl", '{"a": 1}\n{"a": 1\n', ["is not JSON", "line 2"]),
        ("t.jsonl", "[1]\n", ["something else than an object", "line 1"]),
        ("t.jsonl", '{"a": 1, "a": 2}\n', ["stands twice", "line 1"]),
        ("t.jsonl", '{"a": NaN}\n', ["NaN", "write null"]),
        ("t.jsonl", '{"a": {"b": 1}}\n', ["holds objects", "`a`"]),
        ("t.jsonl", '{"a": [1, 2]}\n{"a": [1]}\n', ["holds lists", "`a`"]),
        ("t.jsonl", "[" * 100_000, ["is not JSON", "line 1"]),
        ("t.xlsx", "a", ["no table that can be read", ".xlsx"]),
    ],
)
def test_what_cannot_be_read(name: str, text: str | bytes, says: list[str], write: Write) -> None:
    with pytest.raises(DataError) as caught:
        read_rows(write(name, text))
    message = str(caught.value)
    for said in says:
        assert said in message, message
    assert len(message.splitlines()) <= 5


def test_files_that_are_not_there_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_rows(tmp_path / "none.csv")
    with pytest.raises(DataError, match="no folder of a saved dataset"):
        read_rows(tmp_path)
    huge = tmp_path / "huge.csv"
    with huge.open("wb") as file:
        file.truncate(2 * 2**30 + 1)  # takes no room on the disk
    with pytest.raises(DataError, match="2,147,483,649 bytes"):
        read_rows(huge)
    monkeypatch.setattr(tabular, "MOST_BYTES", 10)
    path = tmp_path / "wide.parquet"
    pa.parquet.write_table(pa.table({"a": ["x" * 1000] * 1000}), path)
    with pytest.raises(DataError, match="too large"):
        read_rows(path)


def test_a_long_cell_is_no_fault_and_the_limit_stays(write: Write) -> None:
    before = csv.field_size_limit()
    long = "x" * (before + 1)
    assert read_rows(write("t.csv", f"a\n{long}\n")).texts("a") == [long]
    assert csv.field_size_limit() == before


# --- JSON lines ------------------------------------------------------------------------------------------------------


def test_objects_on_lines(write: Write) -> None:
    rows = read_rows(
        write(
            "t.jsonl",
            '{"n": 1, "t": "a\\u2028b", "v": [1, 2.5], "b": true, "m": 1, "id": 9007199254740993}\n\n'
            '{"t": null, "v": [3, 4], "b": false, "m": "x", "late": 2.5, "id": 1}\n',
        )
    )
    assert list(rows.columns) == ["n", "t", "v", "b", "m", "id", "late"]
    np.testing.assert_array_equal(rows.numbers("n"), [1.0, np.nan])
    np.testing.assert_array_equal(rows.numbers("late"), [np.nan, 2.5])
    assert rows.texts("t") == ["a\u2028b", ""]
    assert rows.texts("b") == ["true", "false"]
    assert rows.texts("m") == ["1", "x"]
    assert rows.texts("id") == ["9007199254740993", "1"]
    assert rows.column("v").dtype == np.float32
    assert rows.column("v").tolist() == [[1.0, 2.5], [3.0, 4.0]]


# --- Arrow -----------------------------------------------------------------------------------------------------------


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(value: int, size: tuple[int, int] = (5, 4)) -> dict[str, Any]:
    out = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": None}


def table(numbers: list[int | None], **more: Any) -> Any:
    """A table as `datasets` writes it, with class labels in the schema's metadata."""
    count = len(numbers)
    made = pa.table(
        {
            "n": pa.array(numbers, pa.int32()),
            "x": pa.array([float("nan")] * count, pa.float32()),
            "text": pa.array([f"t{number}" for number in numbers], pa.large_string()),
            "kind": pa.array(["a"] * count).dictionary_encode(),
            "when": pa.array([86400] * count, pa.timestamp("s")),
            "vector": pa.array([[1.0, 2.0]] * count, pa.list_(pa.float32())),
            "label": pa.array([number % 2 if number else -1 for number in map(int, range(count))], pa.int64()),
            "image": pa.array(
                [picture(value) for value in range(count)],
                IMAGE,
            ),
            **more,
        }
    )
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}, "n": {"dtype": "int32", "_type": "Value"}}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def save_to_disk(folder: Path, *tables: Any, **state: Any) -> None:
    folder.mkdir(parents=True)
    names = [f"data-{number:05d}-of-{len(tables):05d}.arrow" for number in range(len(tables))]
    for name, one in zip(names, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, one.schema) as writer:
            writer.write_table(one)
    said = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "x", **state}
    (folder / "state.json").write_text(json.dumps(said))


def check_columns(rows: Any, count: int) -> None:
    np.testing.assert_array_equal(rows.numbers("n"), [np.nan, *range(2, count + 1)])
    assert np.isnan(rows.numbers("x")).all()
    assert rows.texts("kind") == ["a"] * count
    assert rows.texts("when")[0].startswith("1970-01-02 00:00:00")
    assert rows.column("vector").tolist() == [[1.0, 2.0]] * count
    assert rows.texts("label") == ["", *(("no", "yes")[place % 2] for place in range(1, count))]
    assert rows.column("image").shape == (count, 3, 4, 5)
    assert rows.column("image")[:, 0, 0, 0].tolist() == list(range(count))


def test_parquet(tmp_path: Path) -> None:
    pa.parquet.write_table(table([None, 2, 3]), tmp_path / "t.parquet", row_group_size=2)
    rows = read_rows(tmp_path / "t.parquet")
    check_columns(rows, 3)
    assert rows.texts("text") == ["tNone", "t2", "t3"]


def test_a_saved_dataset_and_its_splits(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "one", table([None, 2, 3]))
    check_columns(read_rows(tmp_path / "one"), 3)
    both = tmp_path / "both"
    save_to_disk(both / "train", table([1, 2]), table([3]))
    save_to_disk(both / "validation", table([4]))
    (both / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    rows = read_rows(both)
    assert rows.numbers("n").tolist() == [1.0, 2.0, 3.0, 4.0]
    assert rows.texts("part") == ["train", "train", "train", "val"]


def damage_arrow(tmp_path: Path) -> Path:
    save_to_disk(tmp_path / "d", table([1]))
    (tmp_path / "d" / "data-00000-of-00001.arrow").write_bytes(b"nothing")
    return tmp_path / "d"


def climb(tmp_path: Path) -> Path:
    save_to_disk(tmp_path / "d", table([1]), _data_files=[{"filename": "../secret.arrow"}])
    (tmp_path / "secret.arrow").write_bytes(b"")
    return tmp_path / "d"


def select(tmp_path: Path) -> Path:
    save_to_disk(tmp_path / "d", table([1]), _indices_data_files=[{"filename": "indices.arrow"}])
    return tmp_path / "d"


def odd_split(tmp_path: Path) -> Path:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "unsupervised"]}')
    return tmp_path


def lost_split(tmp_path: Path) -> Path:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    return tmp_path


def parquet_of(**columns: Any) -> Callable[[Path], Path]:
    def write(tmp_path: Path) -> Path:
        pa.parquet.write_table(table([1, 2], **columns), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    return write


def torn(tmp_path: Path) -> Path:
    path = parquet_of()(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    return path


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (damage_arrow, DamagedError, "cannot be read"),
        (climb, DamagedError, "names a file that is not in its folder"),
        (select, DataError, "flatten_indices"),
        (odd_split, DataError, "unsupervised"),
        (lost_split, DamagedError, "does not exist"),
        (torn, DamagedError, "cannot be read"),
        (parquet_of(raw=pa.array([b"a", b"b"])), DataError, "`raw` of .* holds bytes"),
        (parquet_of(deep=pa.array([{"a": 1}, {"a": 2}])), DataError, "`deep` of .* holds objects"),
        (parquet_of(label=pa.array([0, 2])), DamagedError, "labels that name no class"),
        (
            parquet_of(
                image=pa.array([picture(0), {"bytes": b"x", "path": None}], IMAGE)
            ),
            DataError,
            "row 1",
        ),
    ],
    ids=["arrow", "climb", "select", "split", "lost", "torn", "bytes", "deep", "label", "picture"],
)  # fmt: skip
def test_what_arrow_files_cannot_be(
    make: Callable[[Path], Path], error: type[Exception], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        read_rows(make(tmp_path))


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    pa.parquet.write_table(table([1]), path)
    real = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match="pyarrow") as caught:
        read_rows(path)
    assert caught.value.problem.fix == "pip install 'tutelage[parquet]'"
