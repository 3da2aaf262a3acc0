"""Made-up examples as a file that any recipe can learn from, beside the facts of how they came about.

made.npz                  x, y and the names of the classes; `data.train: made.npz` puts it in the place of the
                          training part, and leaves validation and test as they are
made.json                 who taught, how it was done, and how often the teacher agrees
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data import Examples
from tutelage.errors import InputError
from tutelage.files import sha256, write_bytes, write_json

__all__ = ["check_target", "write_made"]


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a file name before hours are spent on what should go there.

    Raises:
        InputError: it is no .npz file, or it is there already.
    """
    if path.suffix != ".npz":
        raise InputError("made examples go into an .npz file", given=str(path), expected="a name such as made.npz")
    if path.exists() and not overwrite:
        raise InputError(f"{path} is there already", fix="choose another name with --out, or add --overwrite")


def write_made(path: Path, examples: Examples, facts: Mapping[str, Any]) -> None:
    """Write examples and, last, their facts; the same examples give the same bytes.

    Raises:
        TutelageError: the disk is full, or the folder cannot be written.
    """
    packed = io.BytesIO()
    np.savez_compressed(
        packed, x=examples.inputs.numpy(), y=examples.targets.numpy(), classes=np.array(examples.classes)
    )
    write_bytes(path, packed.getvalue())
    write_json(
        path.with_suffix(".json"),
        {"format": 1, "sha256": sha256(path), "count": len(examples), "classes": list(examples.classes), **facts},
    )
