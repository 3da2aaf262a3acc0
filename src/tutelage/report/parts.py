"""What every section of the page is put together from: a heading with its lead, a chart with its numbers, a fold."""

from __future__ import annotations

from tutelage.report import tables
from tutelage.report.markup import Safe, tag


def section(title: str, lead: str, *children: object) -> Safe:
    """A heading, a sentence or two that say what is seen, and what is seen."""
    return tag("section", tag("h2", title), tag("p", tables.text(lead), class_="lead"), children)


def figure(title: str, picture: object, caption: str, table: Safe) -> Safe:
    """A chart in a card; the caption states n and seeds, and the numbers stand folded under it."""
    details = more("The numbers", tag("div", table, class_="wide"))
    picture = Safe(picture) if isinstance(picture, str) else picture
    return tag("figure", tag("h3", title), picture, tag("figcaption", tables.text(caption)), details, class_="card")


def more(title: str, content: Safe, *, printed: bool = False) -> Safe:
    """What is there for those who ask; paper cannot be asked, so some of it is always printed."""
    return tag("details", tag("summary", title), content, class_="keep" if printed else None)
