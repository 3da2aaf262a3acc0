"""HTML that cannot forget to escape: text becomes markup only through `tag`, and every plain string is escaped.

`Safe` marks what is markup already. Names of tags and attributes are written in this program; values may come from
anywhere.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable

from tutelage import lang

_VOID = frozenset({"br", "meta", "link", "hr", "img", "path", "line", "circle", "rect", "polyline", "polygon"})
_VERBATIM = frozenset({"code", "pre", "style"})  # never translated
# Marks that turn the direction of what follows, which an unclosed one in a name would do to the rest of a sentence.
TURNS = {
    ord(mark): f"\\u{ord(mark):04x}"
    for mark in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
}
_READ = frozenset({"title", "alt", "aria_label"})  # attributes that people read


class Safe(str):
    """Text that is markup already."""

    __slots__ = ()


def escape(text: object) -> Safe:
    """Any value as text that no browser takes for markup, in the language now spoken."""
    return text if isinstance(text, Safe) else _quoted(lang.say(str(text)))


def _quoted(value: object) -> Safe:
    return value if isinstance(value, Safe) else Safe(html.escape(str(value).translate(TURNS), quote=True))


def join(*children: object) -> Safe:
    """Children one after the other: None is nothing, a list is its items, and what is not `Safe` is escaped."""
    return Safe("".join(_flat(children, escape)))


def tag(name: str, *children: object, **attributes: object) -> Safe:
    """An element. `class_` is class, `_` in an attribute name is a hyphen, and None leaves the attribute out."""
    head = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value) if key in _READ else _quoted(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Safe(f"<{name}{head}/>")
    raw = name in _VERBATIM or "code" in str(attributes.get("class_", "")).split()
    return Safe(f"<{name}{head}>{''.join(_flat(children, _quoted if raw else escape))}</{name}>")


def _flat(children: Iterable[object], write: Callable[[object], Safe]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, (list, tuple)) or (isinstance(child, Iterable) and not isinstance(child, str)):
            yield from _flat(child, write)
        else:
            yield write(child)
