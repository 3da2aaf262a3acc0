"""HTML that cannot forget to escape: text becomes markup only through `tag`, and every plain string is escaped.

`Safe` marks what is markup already. Names of tags and attributes are written in this program; values may come from
anywhere.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

_VOID = frozenset({"br", "meta", "link", "hr", "img", "path", "line", "circle", "rect", "polyline", "polygon"})


class Safe(str):
    """Text that is markup already."""

    __slots__ = ()


def escape(text: object) -> Safe:
    """Any value as text that no browser takes for markup."""
    return text if isinstance(text, Safe) else Safe(html.escape(str(text), quote=True))


def join(*children: object) -> Safe:
    """Children one after the other: None is nothing, a list is its items, and what is not `Safe` is escaped."""
    return Safe("".join(_flat(children)))


def tag(name: str, *children: object, **attributes: object) -> Safe:
    """An element. `class_` is class, `_` in an attribute name is a hyphen, and None leaves the attribute out."""
    head = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Safe(f"<{name}{head}/>")
    return Safe(f"<{name}{head}>{join(*children)}</{name}>")


def _flat(children: Iterable[object]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, (list, tuple)) or (isinstance(child, Iterable) and not isinstance(child, str)):
            yield from _flat(child)
        else:
            yield escape(child)
