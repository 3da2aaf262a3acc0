"""What came of personal students: every user's figures, means over users with intervals, and who gains and who loses.

Chance sits in which users there are, so users are what is drawn again: a paired bootstrap over users, each of whom
counts once, however many examples they have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, final

import numpy as np
from numpy.typing import NDArray

from tutelage.data.users import Users
from tutelage.errors import InputError, nearest
from tutelage.evaluation.resampling import bootstrap, ratios
from tutelage.evaluation.significance import Estimate, mcnemar
from tutelage.report import numbers
from tutelage.run.students import student_file

__all__ = ["FORMAT", "How", "Personal", "Settings", "readme", "result_of"]

FORMAT = "tutelage-users-1"
_ANCHORS = ("teacher", "student")
_FEW = 10
_SHOWN = 20
_PLACES = ("own", "all")  # a user's own test examples, and all of them


class How(TypedDict, total=False):
    """Fields of `Settings`, and how the work is done; as for `run_recipe`."""

    anchor: str
    weight: float
    temperature: float
    train: Sequence[str]
    scratch: bool
    least: int
    trust: bool
    overwrite: bool
    quiet: bool
    command: str | None


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """How users' students learn.

    Args:
        anchor: whose soft targets hold an anchored student: the run's "teacher", or the shared "student" as it was.
        weight: how much of its loss these are, in (0, 1]; labels are the rest.
        temperature: of the soft targets, above 0.
        train: paths or patterns of the layers that learn, a path with all inside; none named: all.
        scratch: whether there is also a student of random weights.
        least: users with fewer training examples are left out; 2 or more.

    Raises:
        InputError: a value that cannot be.
    """

    anchor: str = "teacher"
    weight: float = 0.5
    temperature: float = 4.0
    train: Sequence[str] = ()
    scratch: bool = False
    least: int = 10

    def __post_init__(self) -> None:
        if self.anchor not in _ANCHORS:
            raise InputError(
                f"no anchor `{self.anchor}`", expected=" or ".join(_ANCHORS), fix=nearest(str(self.anchor), _ANCHORS)
            )
        if not 0.0 < self.weight <= 1.0:
            raise InputError("the weight of soft targets is out of range", given=self.weight, expected="in (0, 1]")
        if not 0.0 < self.temperature < math.inf:
            raise InputError("the temperature is out of range", given=self.temperature, expected="a number above 0")
        if isinstance(self.train, str):
            raise InputError("`train` is a list of layers", given=self.train, expected='such as ["net.head"]')
        if self.least < 2:
            raise InputError("a user cannot learn from so few examples", given=self.least, expected="2 or more")
        object.__setattr__(self, "train", list(self.train))  # as JSON has it


@final
@dataclass(frozen=True, slots=True)
class Personal:
    """What came of it; `result` is what `users.json` holds."""

    folder: Path
    result: Mapping[str, Any]

    def student(self, user: str, arm: str = "anchored", seed: int | None = None) -> Path:
        """The folder of one student; see `tutelage.run.load_student`.

        Raises:
            InputError: there is no such user, arm or seed.
        """
        places = {one["name"]: one["place"] for one in self.result["users"]}
        chosen = self.result["seeds"][0] if seed is None else seed
        if user not in places:
            raise InputError(f"no user `{user}`", fix=nearest(user, places))
        home = student_file(self.folder, f"{places[user]}.{arm}", chosen).parent
        if not home.is_dir():
            raise InputError(
                f"user {user} has no student `{arm}` of seed {chosen}",
                expected="one of " + ", ".join(self.result["arms"][1:]),
            )
        return home

    def to_json(self) -> dict[str, Any]:
        """For programs: the result with its folder."""
        return {"folder": str(self.folder), **self.result}

    def summary(self) -> str:
        """What users gain, the figures in tables, and where to read on; Markdown that reads well as it is."""
        warnings = (f"warning: {text}" for text in self.result["warnings"])
        tables = [*_means(self.result), "", *_everybody(self.result, _SHOWN)]
        return "\n".join([*_outcome(self.result), *tables, *warnings, f"users: {self.folder / 'users.json'}"])


# ---- figures ---------------------------------------------------------------------------------------------------------


def result_of(
    users: Users, found: Mapping[str, NDArray[np.float64]], about: Mapping[str, Any], *, resamples: int
) -> dict[str, Any]:
    """All that `users.json` holds.

    Args:
        users: who they are.
        found: arm -> shares right (S, U, 2), of a user's own test examples and of all; "shared" first.
        about: what else is worth keeping.
        resamples: of the bootstrap.
    """
    mean = {arm: shares.mean(axis=0) for arm, shares in found.items()}  # (U, 2), over seeds
    seeds = len(next(iter(found.values())))
    pairs = [(arm, "shared") for arm in found if arm != "shared"]
    pairs += [("anchored", "local")] if {"anchored", "local"} <= set(found) else []
    rows = [
        {
            "name": name,
            "place": f"user-{number + 1}",
            "examples": users.counts(number),
            "classes": _classes(users, number),
            "accuracy": {arm: dict(zip(_PLACES, map(float, mean[arm][number]), strict=True)) for arm in found},
        }
        for number, name in enumerate(users.names)
    ]
    return {
        "format": FORMAT,
        **about,
        "arms": list(found),
        "users": rows,
        "means": {arm: _sides(mean[arm], seeds, resamples) for arm in found},
        "comparisons": [
            {"name": arm, "against": other, **_compared(mean[arm], mean[other], seeds, resamples)}
            for arm, other in pairs
        ],
        "warnings": _warnings(users, about),
    }


def _classes(users: Users, number: int) -> dict[str, int]:
    """How many training examples of which classes a user has; those of which there are any."""
    train = users.splits.train
    counts = np.bincount(train.targets.numpy()[users.rows("train", number)], minlength=len(train.classes))
    return {name: int(count) for name, count in zip(train.classes, counts, strict=True) if count}


def _sides(values: NDArray[np.float64], seeds: int, resamples: int) -> dict[str, Any]:
    return {place: _over_users([values[:, side]], seeds, resamples).to_json() for side, place in enumerate(_PLACES)}


def _compared(ours: NDArray[np.float64], theirs: NDArray[np.float64], seeds: int, resamples: int) -> dict[str, Any]:
    """Paired differences over users in both places; on their own examples also who gains and who loses."""
    estimates = {
        place: _over_users([ours[:, side], theirs[:, side]], seeds, resamples).to_json()
        for side, place in enumerate(_PLACES)
    }
    apart = (ours[:, 0] - theirs[:, 0]).round(12)  # means of the same counts may differ in the last bit
    gain, lose = int((apart > 0).sum()), int((apart < 0).sum())
    # Of users who are not the same, as many gain as lose, if nothing is behind it: the sign test is McNemar's.
    return {**estimates, "gain": gain, "lose": lose, "same": len(apart) - gain - lose, "p_sign": mcnemar(gain, lose)}


def _over_users(sides: Sequence[NDArray[np.float64]], seeds: int, resamples: int) -> Estimate:
    """The mean over users of one side, or of the first minus the second."""
    if len(sides) == 1 and np.ptp(sides[0]) == 0:
        # The shared student on all test examples: which users there are has no say in it.
        return Estimate(float(sides[0][0]), None, None, len(sides[0]), seeds, "the same for all users")
    parts = [[ratios({"accuracy": (side, np.ones_like(side))})] for side in sides]
    return replace(bootstrap(parts, len(sides[0]), unit="users", resamples=resamples)[-1]["accuracy"], seeds=seeds)


def _warnings(users: Users, about: Mapping[str, Any]) -> list[str]:
    found = []
    if len(users) < _FEW:
        found.append(f"There are {len(users)} users: an interval that resamples so few is narrower than it should be.")
    if left := about["division"]["left_out"]:
        found.append(f"{numbers.plural(len(left), 'user')} had too few examples and took no part.")
    if about["division"]["unowned"]:
        found.append(f"{numbers.plural(about['division']['unowned'], 'example')} belonged to none of these users.")
    if about["test_looks"] > 1:
        found.append(f"The test part was looked at {about['test_looks']} times.")
    return found


# ---- in words --------------------------------------------------------------------------------------------------------


def _outcome(result: Mapping[str, Any]) -> list[str]:
    """A line for every comparison."""
    count, lines = len(result["users"]), []
    for item in result["comparisons"]:
        own, everywhere = (
            f"{numbers.points(item[place]['value'])} (95 % CI {numbers.points_interval(item[place])})"
            for place in _PLACES
        )
        lines.append(
            f"‘{item['name']}’ − ‘{item['against']}’: {own} on users' own test examples, {everywhere} on all; of "
            f"{count} users {item['gain']} gain, {item['lose']} lose"
        )
    return lines


def _means(result: Mapping[str, Any]) -> list[str]:
    against = {item["name"]: item for item in result["comparisons"] if item["against"] == "shared"}
    head = ["arm", "own test examples (95 % CI)", "gain", "lose", "all test examples (95 % CI)"]
    body = []
    for arm, places in result["means"].items():
        said = [_spread(places[place]) for place in _PLACES]
        counts = [str(against[arm][key]) if arm in against else "" for key in ("gain", "lose")]
        body.append([arm, said[0], *counts, said[1]])
    return _ruled(head, body)


def _spread(estimate: Mapping[str, Any]) -> str:
    """`93.1 % (92.1…94.0)`, or without an interval where there is none."""
    ends = "" if estimate["ci_low"] is None else f" ({numbers.interval(estimate)})"
    return numbers.percent(estimate["value"]) + ends


def _everybody(result: Mapping[str, Any], most: int | None = None) -> list[str]:
    """Every user in a row: examples, classes, and what is right of their own test examples by every arm."""
    head = ["user", "training", "classes", "test", *result["arms"]]
    body = [
        [
            str(one["name"]).replace("|", "\\|"),
            numbers.count(one["examples"]["train"]), str(len(one["classes"])), numbers.count(one["examples"]["test"]),
            *(numbers.percent(one["accuracy"][arm]["own"]) for arm in result["arms"]),
        ]
        for one in result["users"][:most]
    ]  # fmt: skip
    more = len(result["users"]) - len(body)
    return [*_ruled(head, body), *([f"… and {numbers.plural(more, 'user')} more in README.md"] if more else [])]


def _ruled(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    ruled = [head, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])], *body]
    return ["| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |" for row in ruled]


def readme(found: Personal) -> str:
    """README.md of the folder, as Markdown."""
    result, settings = found.result, found.result["settings"]
    learns = "all layers" if not settings["train"] else ", ".join(f"`{one}`" for one in settings["train"])
    return "\n".join([
        f"# {result['recipe']}: a student for every user", "",
        *(f"- {line}" for line in _outcome(result)), "",
        *_means(result), "",
        f"Everybody begins with ‘{result['arm']}’ of `{result['run']}`. In ‘anchored’ soft targets of the shared "
        f"{settings['anchor']} at T = {settings['temperature']:g} have a weight of {settings['weight']:g}, labels the "
        f"rest. What learns: {learns}.", "",
        *_everybody(result), "",
        "Users' columns are shares of their own test examples, means over seeds. Intervals are from a paired bootstrap "
        "over users. All numbers are in `users.json`.", "",
        *(f"- warning: {text}" for text in result["warnings"]), "",
        "```console", result["command"], "```", "",
    ])  # fmt: skip
