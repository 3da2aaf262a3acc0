"""Users: one set of examples divided among people, each of whom has a mixture of classes of their own.

    artificial   user u has a mixture q_u ~ Dirichlet(skew); an example of class c is theirs with probability
                 q_u(c) / Σ_v q_v(c)
    given        a mapping says whose each example is

The same rule divides all three parts, so a user is judged on examples like those they learn from. An example belongs to
one user at most, and so do its copies. What chance decides is a function of (seed, id).

Shapes:  N examples · U users · C classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaincinv

from tutelage.data.draws import Stream, uniform
from tutelage.data.examples import Examples, listed
from tutelage.data.splits import Splits
from tutelage.errors import DataError, InputError

__all__ = ["Users", "artificial_users", "given_users", "mixtures", "read_users"]

NOBODY: Final = -1
_PARTS = ("train", "val", "test")
_MOST = 100_000
_SKEWS = (0.01, 10_000.0)  # below, a gamma draw underflows; above, all users are the same to the last digit
_EXPECTED = (
    '{"ids": {"4611686018427387904": "ann", …}} by content id, or {"rows": {"0": "ann", …}} by row of the source'
)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Users:
    """Whose the examples of a set are."""

    splits: Splits
    names: tuple[str, ...]
    owners: Mapping[str, NDArray[np.int64]]  # train, val, test -> (N,) number of the user, or NOBODY

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, part: str, number: int) -> NDArray[np.int64]:
        """Which examples of a part are one user's, as places in it."""
        return np.flatnonzero(self.owners[part] == number)

    def of(self, number: int) -> Splits:
        """The three parts of one user."""
        train, val, test = (self._part(part).take(torch.from_numpy(self.rows(part, number))) for part in _PARTS)
        return Splits(train, val, test)

    def counts(self, number: int) -> dict[str, int]:
        """How many examples of every part are one user's."""
        return {part: len(self.rows(part, number)) for part in _PARTS}

    @property
    def unowned(self) -> int:
        """How many examples are nobody's."""
        return sum(int((owners == NOBODY).sum()) for owners in self.owners.values())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, and over whose every example is."""
        digest = hashlib.sha256(json.dumps(self.names).encode())
        for part in _PARTS:
            digest.update(self._part(part).ids.numpy().tobytes())
            digest.update(self.owners[part].tobytes())
        return digest.hexdigest()

    def with_enough(self, least: int) -> tuple[Users, tuple[str, ...]]:
        """The users who have enough to learn from and to be judged by, and the names of the others.

        Args:
            least: how many training examples are enough, 2 or more; of validation and test, one each.

        Raises:
            DataError: fewer than two users have.
        """
        counts = [self.counts(number) for number in range(len(self))]
        kept = [i for i, has in enumerate(counts) if has["train"] >= max(2, least) and has["val"] and has["test"]]
        if len(kept) < 2:
            most = max(counts, key=lambda has: has["train"])
            raise DataError(
                f"{len(kept)} of {len(self)} users have enough examples", where=self.splits.train.name,
                given="most has a user with " + ", ".join(f"{count:,} {part}" for part, count in most.items()),
                expected=f"two users or more, each with {least:,} training examples and one of validation and test",
                fix="take fewer users, a larger skew, or a smaller least",
            )  # fmt: skip
        place = np.full(len(self) + 1, NOBODY, dtype=np.int64)  # the last one is NOBODY's
        place[kept] = np.arange(len(kept))
        owners = {part: place[owner] for part, owner in self.owners.items()}
        left = tuple(name for i, name in enumerate(self.names) if i not in set(kept))
        return Users(self.splits, tuple(self.names[i] for i in kept), owners), left

    def _part(self, part: str) -> Examples:
        found: Examples = getattr(self.splits, part)
        return found


def mixtures(count: int, classes: int, *, skew: float, seed: int = 0) -> NDArray[np.float64]:
    """The mixtures of classes (U, C) that artificial users have; every row adds up to 1.

    A row is drawn from a symmetric Dirichlet distribution and depends on (seed, number of the user) alone: more users
    are more rows.

    Args:
        count: U.
        classes: C.
        skew: the distribution's concentration: 0.1 gives most users two or three classes of ten, 100 all of them alike.
        seed: of the draws.

    Raises:
        InputError: a number is out of range.
    """
    if not _SKEWS[0] <= skew <= _SKEWS[1]:
        raise InputError(
            "the skew of users is out of range", given=f"{skew:g}", expected=f"{_SKEWS[0]:g} to {_SKEWS[1]:,.0f}"
        )
    if isinstance(count, bool) or not 2 <= count <= _MOST:
        raise InputError("so many users cannot be made", given=f"{count:,}", expected=f"2 to {_MOST:,}")
    cells = np.arange(count * classes, dtype=np.int64)
    # Gamma variates by inversion: a stateless draw for every cell, whose shares of their sum are a Dirichlet draw.
    amounts = gammaincinv(skew, uniform(seed, 1, cells, Stream.USER)).reshape(count, classes)
    totals = amounts.sum(axis=1, keepdims=True)
    return np.where(totals > 0, amounts / np.where(totals > 0, totals, 1.0), 1.0 / classes)


def artificial_users(splits: Splits, count: int, *, skew: float = 0.3, seed: int = 0) -> Users:
    """Divide a set among users with mixtures of classes of their own; every example becomes somebody's.

    Args:
        splits: the set.
        count: U, how many users.
        skew: see `mixtures`.
        seed: of the draws.

    Raises:
        InputError: a number is out of range.

    Reference: Hsu, Qi and Brown, "Measuring the effects of non-identical data distribution for federated visual
    classification", 2019, arXiv 1909.06335 (mixtures by user from a Dirichlet distribution).
    """
    classes = len(splits.train.classes)
    wanted = mixtures(count, classes, skew=skew, seed=seed)
    ids, labels = _together(splits)
    shares = np.cumsum(wanted, axis=0)
    total = shares[-1]
    # A class that nobody wants, in so many digits, is everybody's.
    shares = np.where(total > 0, shares / np.where(total > 0, total, 1.0), np.arange(1, count + 1)[:, None] / count)
    drawn = uniform(seed, 0, ids, Stream.USER)
    owners = np.empty(len(ids), dtype=np.int64)
    for label in np.unique(labels):
        rows = labels == label
        owners[rows] = np.minimum(np.searchsorted(shares[:, label], drawn[rows], side="right"), count - 1)
    width = len(str(count))
    names = tuple(f"{number:0{width}d}" for number in range(1, count + 1))
    return Users(splits, names, _by_part(splits, ids, owners))


def given_users(splits: Splits, whose: Mapping[str, Any]) -> Users:
    """Users whom somebody named for every example; who is not named has no part in it.

    Args:
        splits: the set.
        whose: `{"ids": {content id: user}}`, or `{"rows": {row: user}}` or `{"rows": [user of row 0, …]}` with rows of
            the source as it was before it was divided; a user is a text or a whole number.

    Raises:
        InputError: not of this form, or no key names an example.
        DataError: rows are counted anew in every part, or two users have copies of one example.
    """
    by_row, keys, said = _read_keys(whose)
    names = tuple(sorted(set(said)))
    number = {name: index for index, name in enumerate(names)}
    own = np.array([number[name] for name in said], dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    keys, own = keys[order], own[order]
    parts = [getattr(splits, part) for part in _PARTS]
    if by_row:
        every = np.concatenate([part.origins.numpy() for part in parts])
        if len(np.unique(every)) < len(every):
            raise DataError(
                "rows do not name examples of this data, since they are counted anew in every part",
                where=splits.train.name, fix="name them by content id: load(…).train.ids in Python",
            )  # fmt: skip
    owners: dict[str, NDArray[np.int64]] = {}
    for part, examples in zip(_PARTS, parts, strict=True):
        asked = (examples.origins if by_row else examples.ids).numpy()
        place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
        owners[part] = np.where(keys[place] == asked, own[place], NOBODY)
    if all((owner == NOBODY).all() for owner in owners.values()):
        raise InputError(
            "none of the users has an example of this data", where="users", given=listed(keys.tolist(), most=3),
            expected="rows of the source" if by_row else "content ids",
        )  # fmt: skip
    users = Users(splits, names, owners)
    _refuse_shared(users)
    return users


def read_users(path: Path | str) -> dict[str, Any]:
    """The mapping of `given_users` from a JSON file.

    Raises:
        InputError: there is no such file, or it is no JSON object.
    """
    try:
        found = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"cannot read the users in {path}: {said}", expected=_EXPECTED) from error
    if not isinstance(found, dict):
        raise InputError(f"{path} does not say whose examples are whose", expected=_EXPECTED)
    return found


def _read_keys(whose: Mapping[str, Any]) -> tuple[bool, NDArray[np.int64], list[str]]:
    """Whether rows are meant, the keys (K,), and the user of each."""
    kind = next(iter(whose), "") if len(whose) == 1 else ""
    table = whose.get(kind)
    if kind == "rows" and isinstance(table, Sequence) and not isinstance(table, str):
        table = dict(enumerate(table))
    if kind not in ("ids", "rows") or not isinstance(table, Mapping) or not table:
        raise InputError(
            "this does not say whose examples are whose", where="users", given=listed(list(whose), most=3) or "nothing",
            expected=_EXPECTED,
        )  # fmt: skip
    try:
        keys = np.array([int(key) for key in table], dtype=np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("a key is no number of an example", where=f"users, {kind}", given=str(error)) from error
    said = list(table.values())
    odd = [one for one in said if isinstance(one, bool) or not isinstance(one, (str, int)) or not _writable(str(one))]
    if odd:
        raise InputError(
            "a user is called by a text or a whole number", where=f"users, {kind}", given=listed([repr(odd[0])[:60]])
        )
    if len(np.unique(keys)) < len(keys):
        raise InputError("an example is named twice", where=f"users, {kind}", fix="name every example once")
    return kind == "rows", keys, [str(one) for one in said]


def _writable(name: str) -> bool:
    return bool(name.strip()) and name.isprintable()


def _together(splits: Splits) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every content once: its id, and the label that it has first; copies go where the first one goes."""
    parts = [getattr(splits, part) for part in _PARTS]
    ids, labels = (np.concatenate([getattr(part, name).numpy() for part in parts]) for name in ("ids", "targets"))
    ids, first = np.unique(ids, return_index=True)
    return ids, labels[first]


def _by_part(splits: Splits, ids: NDArray[np.int64], owners: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    return {part: owners[np.searchsorted(ids, getattr(splits, part).ids.numpy())] for part in _PARTS}


def _refuse_shared(users: Users) -> None:
    """Copies of one content belong to one user, or the other would be asked about what somebody else learned."""
    ids = np.concatenate([getattr(users.splits, part).ids.numpy() for part in _PARTS])
    owners = np.concatenate([users.owners[part] for part in _PARTS])
    ids, owners = ids[owners != NOBODY], owners[owners != NOBODY]
    pairs = np.unique(np.stack([ids, owners], axis=1), axis=0)
    twice = pairs[1:, 0][pairs[1:, 0] == pairs[:-1, 0]]
    if len(twice):
        raise DataError(
            "two users have copies of the same example", where=users.splits.train.name,
            given=listed(np.unique(twice).tolist(), most=3), expected="one user for every content id",
            fix="give the copies to one of them, or leave them out",
        )  # fmt: skip
