"""What Debian's volunteers say of packages in tags such as `implemented-in::perl`, and columns of it to learn."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["TAG_COLUMNS", "tag_columns", "tags_of"]

# Column -> the facets that are looked into, one after the other, and the values that count as classes: those with 50
# rows or more in Debian 12, largest first; fixed, so that classes do not move.
TAG_COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "language": (
        ("implemented-in::", "devel::lang:"),
        (
            "c", "perl", "c++", "python", "java", "haskell", "lisp", "ocaml", "shell", "r", "objc", "ruby", "php",
            "tcl",
        ),
    ),
    "role": (
        ("role::",),
        (
            "shared-lib", "devel-lib", "program", "app-data", "documentation", "plugin", "metapackage", "data",
            "debug-symbols", "dummy",
        ),
    ),
    "interface": (
        # X11 is left out: what has a graphical interface is told to have it as well.
        ("interface::",), ("commandline", "graphical", "daemon", "text-mode", "3d", "web", "shell"),
    ),
    "toolkit": (
        ("uitoolkit::",), ("gtk", "qt", "ncurses", "sdl", "xlib", "tk", "athena", "wxwidgets", "gnustep"),
    ),
    "purpose": (
        ("use::",),
        (
            "gameplaying", "converting", "checking", "editing", "monitor", "configuring", "viewing", "analysing",
            "playing", "downloading", "organizing", "searching", "browsing", "learning", "compressing", "login",
            "chatting", "storing", "scanning", "timekeeping", "driver", "typesetting", "proxying", "synchronizing",
            "transmission",
        ),
    ),
}  # fmt: skip

_FIELD = re.compile(r"^Tag:(.*(?:\n[ \t].*)*)", re.MULTILINE)
_BRACED = re.compile(r"([\w:.+-]+)\{([^{}]*)\}")
_TAG = re.compile(r"[a-z0-9][a-z0-9-]*::[\w:.+-]+", re.ASCII)


def tags_of(stanza: str) -> tuple[str, ...]:
    """The tags of a package in their order; of `role::{program,plugin}` both, and nothing of what is no tag."""
    field = _FIELD.search(stanza)
    if field is None:
        return ()
    said = _BRACED.sub(lambda one: ",".join(one[1] + value.strip() for value in one[2].split(",")), field[1])
    return tuple(tag for part in said.split(",") if _TAG.fullmatch(tag := part.strip()))


def tag_columns(tags: Sequence[tuple[str, ...]]) -> dict[str, list[str]]:
    """Of each of N packages the first value in every column that is one of its classes, "" where there is none."""
    return {
        name: [next((found[len(facet) :] for facet in facets for found in one
                     if found.startswith(facet) and found[len(facet) :] in values), "") for one in tags]
        for name, (facets, values) in TAG_COLUMNS.items()
    }  # fmt: skip
