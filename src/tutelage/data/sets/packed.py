"""Columns in one .npz file, without pickles: what `get` makes of formats that are slow or unsafe to read each time."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tutelage.data.images import printable
from tutelage.data.rows import Column
from tutelage.errors import DamagedError

__all__ = ["load", "save"]


def save(path: Path, columns: Mapping[str, Column]) -> None:
    """Write columns; texts become arrays of one width."""
    plain = {name: column.astype(np.str_) if column.dtype == object else column for name, column in columns.items()}
    np.savez_compressed(path, allow_pickle=False, **plain)


def load(path: Path) -> dict[str, Column]:
    """The columns of a file that `save` wrote.

    Raises:
        DamagedError: it is no such file.
    """
    try:
        # The file is opened here: NumPy does not close one in which it finds no whole archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return {
                name: found[name].astype(object) if found[name].dtype.kind == "U" else found[name]
                for name in found.files
            }
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedError(f"{printable(path)} is no whole .npz file", given=str(error)[:120]) from error
