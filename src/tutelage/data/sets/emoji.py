"""Emoji as two firms draw them, with their names and categories: pictures and text of one thing, small enough to learn.

Only the sheets of Google (Noto) and Twitter (Twemoji) are kept, whose art may be used freely; skin tones count as
pictures of the same name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.data.rows import Rows
from tutelage.data.sets.protocol import Set
from tutelage.errors import DamagedError

__all__ = ["SET", "cut", "read"]

MAKERS = ("google", "twitter")
_SIDE = 32
_VERSION = "16.0.0"
_SHA256 = "2006725061dc0098daa832d65f854a7bec0740af2eb47cb5b23d89f7e2c849f9"


def fetch(folder: Path, tell: Callable[[str], None]) -> None:
    """Fetch the package and keep two sheets and the list of names."""
    from tutelage.data.sets.clients import member, npm

    packed = npm(folder, "emoji-datasource", _VERSION, _SHA256, tell)
    member(packed, "package/emoji.json", folder / "emoji.json")
    member(packed, "package/LICENSE", folder / "LICENSE")
    for maker in MAKERS:
        member(packed, f"package/img/{maker}/sheets/{_SIDE}.png", folder / f"{maker}.png")
    packed.unlink()


def read(folder: Path) -> Rows:
    """The rows of the list and the sheets."""
    listed = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    return cut(listed, {maker: _sheet(folder / f"{maker}.png") for maker in MAKERS})


def _sheet(path: Path) -> NDArray[np.uint8]:
    """A sheet's pixels over white, (H, W, 3)."""
    from PIL import Image

    from tutelage.data.images import UnusableError, decode, strict

    with strict():
        try:
            return decode(path.read_bytes(), None, formats=(Image.registered_extensions()[".png"],))[0]
        except UnusableError as error:
            raise DamagedError(f"{path.name} is no sheet of pictures: {error}") from error


def cut(listed: list[Mapping[str, Any]], sheets: Mapping[str, NDArray[np.uint8]]) -> Rows:
    """Rows of a list as emoji-datasource has it and of its sheets: cells of 32 pixels with one of space around each."""
    pictures = []
    columns: dict[str, list[str]] = {name: [] for name in ("name", "category", "maker")}
    for maker, sheet in sheets.items():
        for entry, drawn in _drawings(listed):
            if not drawn.get(f"has_img_{maker}"):
                continue
            left, top = (1 + (_SIDE + 2) * int(drawn[f"sheet_{axis}"]) for axis in "xy")
            picture = sheet[top : top + _SIDE, left : left + _SIDE]
            if picture.shape != (_SIDE, _SIDE, 3):
                raise DamagedError(f"the sheet of {maker} is too small", given=f"{sheet.shape[1]}×{sheet.shape[0]}")
            pictures.append(picture.transpose(2, 0, 1))
            columns["name"].append(str(entry["name"] or entry["short_name"]).lower().replace("-", " "))
            # Hair and skin as such are five names, which are no class to learn.
            columns["category"].append("" if entry["category"] == "Component" else str(entry["category"]))
            columns["maker"].append(maker)
    made = np.stack(pictures) if pictures else np.zeros((0, 3, _SIDE, _SIDE), np.uint8)
    texts = {name: np.array(values, dtype=object) for name, values in columns.items()}
    return Rows("emoji", {"picture": made, **texts})


def _drawings(listed: list[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(emoji, where it is drawn) of each, in all its skin tones."""
    for entry in listed:
        yield entry, entry
        for drawn in entry.get("skin_variations", {}).values():
            yield entry, drawn


SET = Set(
    name="emoji",
    line="7,600 colour pictures of 32×32 in 9 categories, with their 1,900 names as text, from two makers",
    licence="code MIT; art: Noto Emoji Apache-2.0, Twemoji CC-BY 4.0",
    carrier=f"npm: emoji-datasource {_VERSION}",
    megabytes=25,
    fetch=fetch,
    read=read,
    label="category",
    group="name",
    inputs={
        "p": {"image": "picture"},
        "name": {"text": ["name"], "tokens": {"vocabulary": 2000, "length": 16}},
    },
)
