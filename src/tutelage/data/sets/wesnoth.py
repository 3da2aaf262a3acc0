"""Sprites of units of the game Battle for Wesnoth: small colour pictures, factions as classes, held out by unit."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tutelage.data.rows import Rows
from tutelage.data.sets import packed
from tutelage.data.sets.protocol import Set
from tutelage.errors import DamagedError

__all__ = ["SET", "SIDE", "fitted", "sprites"]

SIDE = 72
_PACKAGES = ("wesnoth-1.18-data", "wesnoth-1.16-data", "wesnoth-1.14-data")
_UNITS = "data/core/images/units"
# A faction with fewer is no class: parts are divided by unit, and each of them needs some.
_FEWEST = 50
_FEWEST_UNITS = 6


def fetch(folder: Path, tell: Callable[[str], None]) -> None:
    """Fetch the package, and keep the units' pictures in one file."""
    from tutelage.data.sets.clients import Apt

    apt = Apt(folder, (), tell)
    try:
        unpacked = apt.unpack(_PACKAGES)
        found = sorted(path for path in unpacked.rglob(_UNITS) if path.is_dir())
        if len(found) != 1:
            raise DamagedError("the package of Wesnoth holds no pictures of units", expected=_UNITS)
        tell("reading pictures")
        packed.save(folder / "sprites.npz", sprites(found[0]).columns)
        for notice in unpacked.rglob("wesnoth-*-data/copyright"):
            shutil.copy(notice, folder / "copyright")
    finally:
        apt.close()


def sprites(units: Path) -> Rows:
    """Rows of a folder of factions with pictures: `picture`, `faction`, `unit`, `pose`."""
    from tutelage.data.images import decode, strict

    pictures = []
    columns: dict[str, list[str]] = {name: [] for name in ("faction", "unit", "pose")}
    with strict():
        for path in sorted(units.glob("*/**/*.png")):
            faction, *inner, name = path.relative_to(units).parts
            # `elves-wood/archer+female-bow-1.png`: all that begins alike is one unit, in all its poses.
            stem = inner[0] if inner else name.removesuffix(".png").replace("+", "-").partition("-")[0]
            pictures.append(fitted(decode(path.read_bytes(), None)[0]))
            for column, value in (
                ("faction", faction),
                ("unit", f"{faction}/{stem}"),
                ("pose", "/".join([*inner, name])),
            ):
                columns[column].append(value)
    made = np.stack(pictures) if pictures else np.zeros((0, 3, SIDE, SIDE), np.uint8)
    texts = {name: np.array(values, dtype=object) for name, values in columns.items()}
    return Rows("wesnoth", {"picture": made, **texts})


def fitted(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) -> (3, 72, 72): the middle of it, not scaled, on white."""
    coloured = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture
    made = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
    source, target = zip(*(_middle(length) for length in coloured.shape[:2]), strict=True)
    made[target] = coloured[source]
    return np.ascontiguousarray(made.transpose(2, 0, 1))


def _middle(length: int) -> tuple[slice, slice]:
    """Which part of a length is kept, and where it stands among `SIDE`."""
    kept = min(length, SIDE)
    first, place = (length - kept) // 2, (SIDE - kept) // 2
    return slice(first, first + kept), slice(place, place + kept)


def read(folder: Path) -> Rows:
    """The rows of the file that `fetch` made."""
    return divided(Rows("wesnoth", packed.load(folder / "sprites.npz")))


def divided(rows: Rows) -> Rows:
    """The same with a `part` for each unit, and no faction, "", where it has few pictures or units.

    Of each faction a fifth of the units is for the test and a tenth for validation, at least one each; which ones
    follows from their names. A random division by units leaves small factions out of a part.
    """
    often = Counter(rows.texts("faction"))
    units: dict[str, set[str]] = {}
    for faction, unit in zip(rows.texts("faction"), rows.texts("unit"), strict=True):
        units.setdefault(faction, set()).add(unit)
    parts: dict[str, str] = {}
    for names in units.values():
        drawn = sorted(names, key=lambda unit: hashlib.sha256(unit.encode()).digest())
        test = max(1, round(0.2 * len(drawn)))
        val = test + max(1, round(0.1 * len(drawn)))
        for place, unit in enumerate(drawn):
            parts[unit] = "test" if place < test else "val" if place < val else "train"
    classes = {name for name in units if often[name] >= _FEWEST and len(units[name]) >= _FEWEST_UNITS}
    columns = {
        "faction": [faction if faction in classes else "" for faction in rows.texts("faction")],
        "part": [parts[unit] for unit in rows.texts("unit")],
    }
    return Rows(rows.name, {**rows.columns, **{name: np.array(said, dtype=object) for name, said in columns.items()}})


SET = Set(
    name="wesnoth",
    line="5,500 colour sprites of 72×72 of the game Battle for Wesnoth, by 16 factions",
    licence="GPL-2",
    carrier="Debian: wesnoth-1.16-data, or that of another release",
    megabytes=160,
    fetch=fetch,
    read=read,
    label="faction",
    group="unit",
    inputs={"p": {"image": "picture"}},
    args={"part": "part"},
)
