"""Descriptions of Debian's packages with their translations: real documents, sections as classes, languages aligned.

`get` runs apt-get with lists of its own, so that translations come which the system's apt does not fetch; the release
is the one that the system's sources name. A description that stands with several packages counts once.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tutelage import files
from tutelage.data.rows import Rows
from tutelage.data.sets.debian_tags import tag_columns, tags_of
from tutelage.data.sets.protocol import Set
from tutelage.errors import TutelageError

__all__ = [
    "AREAS",
    "LANGUAGES",
    "SET",
    "Stanza",
    "descriptions",
    "distinct",
    "fetch_lists",
    "join",
    "paragraphs",
    "read_list",
]

LANGUAGES = ("de", "fr", "it", "ja")

# The twenty sections with most distinct descriptions in Debian 12, largest first; fixed, so that classes do not move.
AREAS = (
    "libs", "libdevel", "python", "doc", "perl", "utils", "devel", "haskell", "net", "rust", "golang", "javascript",
    "java", "science", "admin", "ruby", "gnu-r", "games", "x11", "text",
)  # fmt: skip


# What is kept of a list of packages.
_KEPT = (b"Package:", b"Source:", b"Section:", b"Description-md5:", b"Tag:")


class Stanza(NamedTuple):
    """What is read of a package in a list of them."""

    package: str
    source: str
    section: str
    key: str  # of its description
    tags: tuple[str, ...]


def fetch(folder: Path, tell: Callable[[str], None]) -> None:
    """Fetch the lists with descriptions in all of `LANGUAGES`."""
    fetch_lists(folder, tell, LANGUAGES)


def fetch_lists(folder: Path, tell: Callable[[str], None], languages: Sequence[str] = ()) -> None:
    """Fetch the lists and keep the lines that are read, packed.

    Args:
        folder: that they are put in.
        tell: takes a line about what is going on.
        languages: of the descriptions, beside English.

    Raises:
        TutelageError: apt-get failed, or brought no lists of Debian.
    """
    from tutelage.data.fetching import note
    from tutelage.data.sets.clients import Apt

    apt = Apt(folder, ("en", *languages), tell)
    try:
        release = apt.release()
        if not release or not apt.translations("en"):
            raise TutelageError("apt-get brought no lists of Debian", fix="fetch this set on a system of Debian's")
        lists: dict[str, tuple[list[Path], tuple[bytes, ...]]] = {"Packages.gz": (apt.packages(), _KEPT)}
        for language in ("en", *languages):
            lists[f"Translation-{language}.gz"] = (apt.translations(language), (b"Description",))
        for name, (paths, kept) in lists.items():
            tell(f"packing {name}")
            _pack(paths, folder / name, kept)
            sum_ = files.sha256(folder / name)
            note(folder, package=name.removesuffix(".gz"), version=release, kind="apt", sha256=sum_)
    finally:
        apt.close()


def _pack(paths: Iterable[Path], into: Path, kept: tuple[bytes, ...]) -> None:
    """The lines of some fields, in one file that is the same wherever the lists are."""
    with into.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0, compresslevel=6) as out:
        for path in sorted(paths):
            wanted = False
            with path.open("rb") as lines:
                for line in lines:
                    if line[:1] not in (b" ", b"\t"):
                        wanted = line.startswith(kept) or line == b"\n"
                    if wanted:
                        out.write(line)
            out.write(b"\n")


def read(folder: Path) -> Rows:
    """The rows of the lists that `fetch` packed."""
    texts = {one: read_list(folder / f"Translation-{one}.gz") for one in ("en", *LANGUAGES)}
    return join(read_list(folder / "Packages.gz"), texts)


def read_list(path: Path) -> str:
    """The text of a packed list."""
    with gzip.open(path) as file:
        return file.read().decode("utf-8", "replace")


def join(packages: str, translations: Mapping[str, str]) -> Rows:
    """Rows of a list of packages and of lists of descriptions by language, which the MD5 of the English text aligns.

    One row for each distinct English description, under the first of its packages by name; "" where a language has
    none. Columns: package, source, section, area, and title and text (the title, and the paragraphs below it), in
    English as they are and with `_de` and so on behind; then those of `debian_tags.TAG_COLUMNS`, unless the list has no
    tags at all, as where it was fetched before tags were kept.
    """
    said = {language: descriptions(text) for language, text in translations.items()}
    columns: dict[str, list[str]] = {name: [] for name in ("package", "source", "section", "area")}
    for language in said:
        tail = "" if language == "en" else f"_{language}"
        columns |= {f"title{tail}": [], f"text{tail}": []}
    tags: list[tuple[str, ...]] = []
    for one in distinct(packages, said["en"]):
        section = one.section.rpartition("/")[2]
        for name, value in (("package", one.package), ("source", one.source), ("section", section)):
            columns[name].append(value)
        columns["area"].append(section if section in AREAS else "")
        for language, found in said.items():
            tail = "" if language == "en" else f"_{language}"
            title, text = found.get(one.key, ("", ""))
            columns[f"title{tail}"].append(title)
            columns[f"text{tail}"].append(text)
        tags.append(one.tags)
    if any(tags):
        columns |= tag_columns(tags)
    # Lists from before tags were kept lack what is made of these.
    hint = "" if any(tags) else "tutelage data get debian --again"
    return Rows("debian", {name: np.array(values, dtype=object) for name, values in columns.items()}, hint=hint)


def distinct(packages: str, english: Mapping[str, tuple[str, str]]) -> Iterator[Stanza]:
    """The packages of a list by name, one for each distinct description in English.

    Args:
        packages: the list.
        english: key -> (title, text), of `descriptions`.
    """
    seen: set[tuple[str, str]] = set()
    for one in sorted(_packages(packages)):
        said = english.get(one.key)
        if said is not None and said not in seen:
            seen.add(said)
            yield one


def _packages(text: str) -> list[Stanza]:
    """The stanzas that have a name and a description."""
    found = []
    for stanza in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line[:20])
        if "Package" in fields and "Description-md5" in fields:
            name = fields["Package"].strip()
            # `Source: glibc (2.36-9)` where versions differ.
            source = fields.get("Source", name).partition(" (")[0].strip()
            section, key = fields.get("Section", "").strip(), fields["Description-md5"].strip()
            found.append(Stanza(name, source, section, key, tags_of(stanza)))
    return found


def descriptions(text: str) -> dict[str, tuple[str, str]]:
    """Key -> (title, title and paragraphs) of a list of descriptions."""
    found: dict[str, tuple[str, str]] = {}
    for stanza in text.split("\n\n"):
        head, _, rest = stanza.partition("\nDescription-md5: ")
        key, _, described = rest.partition("\n")
        if not key and head.startswith("Description-md5: "):
            key, _, described = head[17:].partition("\n")
        if not described.startswith("Description-"):
            continue
        title, _, body = described.partition(": ")[2].partition("\n")
        title = title.strip()
        long = paragraphs(body)
        if title or long:
            found[key.strip()] = (title, f"{title}\n{long}" if title and long else title or long)
    return found


def paragraphs(body: str) -> str:
    """The long description in its wire form as plain lines: paragraphs joined, lists and quotations as they stand."""
    lines: list[str] = []
    fresh = True
    for line in body.splitlines():
        said = line.strip()
        if said in ("", "."):
            fresh = True
            continue
        own = line.startswith("  ") or said.startswith(("* ", "- "))  # verbatim, or an entry of a list
        if fresh or own or not lines:
            lines.append(said)
        else:
            lines[-1] += f" {said}"
        fresh = False
    return "\n".join(lines)


SET = Set(
    name="debian",
    line="61,000 descriptions of software in English, many also in German, French, Italian, Japanese; 20 areas",
    licence="as free as each package; translations by Debian's volunteers",
    carrier="Debian: lists Packages and Translation-{en,de,fr,it,ja}",
    megabytes=26,
    fetch=fetch,
    read=read,
    label="area",
    group="source",
    inputs={
        "en": {"text": ["text"], "tokens": {"vocabulary": 8000, "length": 64}},
        "raw": {"text": ["text"]},
    },
)
