"""Tables in Arrow's formats: .parquet files, and folders that Hugging Face's `datasets` saved."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tutelage import files
from tutelage.data.images import UnusableError, absence, decode, printable, stack, strict
from tutelage.data.rows import Column, Rows
from tutelage.data.tabular import column_of, damaged, refuse_large
from tutelage.errors import DamagedError, DataError, MissingExtraError

__all__ = ["read_folder", "read_parquet"]

_PARTS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", purpose="reading tables in Arrow's formats") from error
    return pyarrow


def read_parquet(path: Path) -> Rows:
    """The rows of a .parquet file; see `tutelage.data.tabular.read_rows`."""
    arrow = _pyarrow()
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            size = sum(file.metadata.row_group(g).total_byte_size for g in range(file.metadata.num_row_groups))
            _refuse_unpacked(path, size)
            table = file.read()
    except (OSError, arrow.ArrowException) as error:
        raise damaged(path, error) from error
    return Rows(printable(path.stem), _columns([table], path))


def _refuse_unpacked(path: Path, size: int) -> None:
    from tutelage.data.tabular import MOST_BYTES

    if size > MOST_BYTES:
        raise DataError(
            f"{printable(path)} is too large to be read whole", given=f"{size:,} bytes when unpacked",
            expected=f"at most {MOST_BYTES:,}", fix="take a sample of its rows",
        )  # fmt: skip


def read_folder(folder: Path) -> Rows:
    """The rows of a folder that `save_to_disk` of a Dataset or a DatasetDict wrote; see `tutelage.data.tabular`."""
    arrow = _pyarrow()
    splits = _splits(folder)
    parts = [folder / name for name in splits] or [folder]
    listed = [_data_files(part) for part in parts]
    refuse_large(file for part in listed for file in part)
    tables = [_table(arrow, part) for part in listed]
    if splits:
        said = [_PARTS[name] for name, table in zip(splits, tables, strict=True) for _ in range(table.num_rows)]
        columns = _columns(tables, folder)
        return Rows(printable(folder.name), {**columns, "part": np.array(said, dtype=object)})
    return Rows(printable(folder.name), _columns(tables, folder))


def _splits(folder: Path) -> list[str]:
    """The splits of a saved DatasetDict; none where the folder is one Dataset."""
    if not (folder / "dataset_dict.json").is_file():
        if (folder / "state.json").is_file():
            return []
        raise DataError(
            f"{printable(folder)} is no folder of a saved dataset",
            expected="dataset_dict.json or state.json, as `datasets.save_to_disk` writes them",
            fix="name a file, or such a folder",
        )
    named: Any = files.read_json(folder / "dataset_dict.json").get("splits")
    if not isinstance(named, list) or not named or not all(isinstance(name, str) for name in named):
        raise DamagedError(f"{printable(folder / 'dataset_dict.json')} names no splits")
    if odd := [name for name in named if name not in _PARTS]:
        raise DataError(
            f"{printable(folder)} has splits that are none of train, val and test",
            given=", ".join(map(printable, odd)),
            fix="read one of them by naming its folder",
        )  # fmt: skip
    return named


def _data_files(folder: Path) -> list[Path]:
    if not (folder / "state.json").is_file():
        raise DamagedError(f"{printable(folder / 'state.json')} {absence(folder / 'state.json', 'file')}")
    state = files.read_json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise DataError(
            f"{printable(folder)} is a selection of rows", fix="call flatten_indices() before save_to_disk()"
        )
    try:
        found = [folder / str(one["filename"]) for one in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise DamagedError(f"{printable(folder / 'state.json')} names no files") from error
    for file in found:
        if file.parent != folder:
            raise DamagedError(
                f"{printable(folder / 'state.json')} names a file that is not in its folder", given=printable(file)
            )
        if not file.is_file():
            raise DamagedError(f"{printable(file)} {absence(file, 'file')}")
    if not found:
        raise DataError(f"{printable(folder)} has no rows")
    return found


def _table(arrow: Any, paths: Sequence[Path]) -> Any:
    tables = []
    for path in paths:
        try:
            with arrow.memory_map(str(path)) as source, arrow.ipc.open_stream(source) as reader:
                tables.append(reader.read_all())
        except (OSError, arrow.ArrowException) as error:
            raise damaged(path, error) from error
    return arrow.concat_tables(tables)


def _columns(tables: Sequence[Any], path: Path) -> dict[str, Column]:
    """The columns of tables that stand one behind the other."""
    arrow = _pyarrow()
    names = tables[0].schema.names
    if any(table.schema.names != names for table in tables):
        raise DataError(f"the parts of {printable(path)} have different columns")
    if len(set(names)) < len(names):
        raise DataError(f"columns of {printable(path)} have the same name")
    if not names or not sum(table.num_rows for table in tables):
        raise DataError(f"{printable(path)} has no rows")
    classes = _classes(tables[0].schema.metadata)
    made: dict[str, Column] = {}
    for name in names:
        chunks = [chunk for table in tables for chunk in table.column(name).chunks]
        if all(arrow.types.is_floating(chunk.type) for chunk in chunks):
            # Numbers even where all are missing, which values alone do not show.
            floats = [chunk.cast(arrow.float64()).to_numpy(zero_copy_only=False) for chunk in chunks]
            made[name] = np.concatenate(floats, dtype=np.float64)
            continue
        values = [_plain(value) for chunk in chunks for value in _listed(arrow, chunk, name, path)]
        if name in classes:
            values = [_named(value, classes[name], name, path) for value in values]
        made[name] = _pictures(values, name, path) if _is_image(chunks) else column_of(values, name, path)
    return made


def _listed(arrow: Any, chunk: Any, name: str, path: Path) -> list[Any]:
    """An array's values as Python has them; days and times as ISO text."""
    kind = chunk.type
    if arrow.types.is_temporal(kind):
        chunk = chunk.cast(arrow.string())
    elif arrow.types.is_decimal(kind):
        chunk = chunk.cast(arrow.float64())
    elif arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind):
        raise DataError(f"the column `{name}` of {printable(path)} holds bytes", fix="leave it out")
    try:
        return list(chunk.to_pylist())
    except (ValueError, arrow.ArrowException) as error:
        raise DataError(f"the column `{name}` of {printable(path)} cannot be read: {error}") from error


def _plain(value: Any) -> Any:
    """NaN is how tables say that a number is missing, and JSON's columns say it by None."""
    return None if isinstance(value, float) and value != value else value


def _classes(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of class labels, where `datasets` wrote them into the schema."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        labels = {name: one for name, one in features.items() if one.get("_type") == "ClassLabel"}
        return {name: [str(said) for said in one["names"]] for name, one in labels.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _named(value: Any, classes: Sequence[str], name: str, path: Path) -> str | None:
    if value is None or value == -1:  # the mark of an unknown label
        return None
    if not isinstance(value, int) or not 0 <= value < len(classes):
        raise DamagedError(
            f"the column `{name}` of {printable(path)} has labels that name no class", given=str(value),
            expected=f"0 … {len(classes) - 1}",
        )  # fmt: skip
    return classes[value]


def _is_image(chunks: Sequence[Any]) -> bool:
    kind = str(chunks[0].type) if chunks else ""
    return kind.startswith("struct<bytes: ") and "path: " in kind


def _pictures(values: Sequence[Any], name: str, path: Path) -> Column:
    pictures = []
    with strict():
        for number, value in enumerate(values):
            try:
                if not isinstance(value, dict) or not value.get("bytes"):
                    raise UnusableError("no bytes of an image")
                pictures.append(decode(value["bytes"], None)[0])
            except UnusableError as error:
                raise DataError(
                    f"the column `{name}` of {printable(path)} holds something that is no picture",
                    where=f"row {number:,}", given=str(error),
                ) from error  # fmt: skip
    return stack(pictures, channels=None)
