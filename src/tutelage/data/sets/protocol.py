"""What a set of real data that other packages carry says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from tutelage.data.rows import Rows

__all__ = ["Set"]


@final
@dataclass(frozen=True, slots=True)
class Set:
    """A named set: where it comes from, under which licence, and what of it is learned unless a recipe says otherwise.

    `fetch` runs only when a person asks for it (`tutelage data get NAME`): it fetches packages with the system's
    ordinary clients into a folder and checks their sums. `read` makes rows of that folder, and needs no network.
    """

    name: str
    line: str  # what it holds, in one line
    licence: str
    carrier: str  # the packages that carry it, and their kind: "Debian: wesnoth-1.16-data"
    megabytes: int  # to fetch, about
    fetch: Callable[[Path, Callable[[str], None]], None]  # (folder, tell)
    read: Callable[[Path], Rows]
    label: str  # the column of the classes
    inputs: Mapping[str, Mapping[str, Any]]  # view -> what it is made of, as a recipe's `data.inputs`
    group: str | None = None  # rows of one group stay in one part
    args: Mapping[str, Any] = field(default_factory=dict)
