"""Rules: what they ask, what they say, how they are written down and read again; of every example one rule is true."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tutelage.data.encoders import encoder_of
from tutelage.data.rows import Rows
from tutelage.errors import DamagedError, DataError, InputError
from tutelage.files import read_json, write_json
from tutelage.rules.features import KINDS, Feature, in_units
from tutelage.rules.growing import Leaf
from tutelage.rules.wording import condition, source

__all__ = ["FORMAT", "Rule", "Rules", "load_rules"]

FORMAT = "tutelage-rules-1"
_MOST = 100_000  # rules that a file may hold

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """If all limits hold, these are the probabilities."""

    limits: Mapping[int, tuple[float, float]]  # feature -> (above, at most); ±∞ where there is no such end
    probabilities: tuple[float, ...]  # one for each class
    rows: int  # training rows of which it is true

    @property
    def label(self) -> int:
        """The class that it names: the first of the most probable ones."""
        return int(np.argmax(self.probabilities))


@final
@dataclass(frozen=True, slots=True)
class Rules:
    """A whole set, of which exactly one is true of every example.

    They are read with `load_rules` and answer without the teacher and without scikit-learn; what `python` writes needs
    no tutelage either.
    """

    features: tuple[Feature, ...]
    classes: tuple[str, ...]
    rules: tuple[Rule, ...]
    encoding: Mapping[str, Any] | None = None  # what makes the numbers of columns, where there are columns
    facts: Mapping[str, Any] = field(default_factory=dict)  # what was measured

    def which(self, values: Floats) -> Ints:
        """The number of the rule that is true of each row, (N,).

        Args:
            values: (N, D) in the units of the features.

        Raises:
            DataError: another shape, or numbers that are none.
            DamagedError: of some row no rule is true, or several are.
        """
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.features) or not np.isfinite(values).all():
            raise DataError(
                "rules cannot be asked about this", given=f"shape {values.shape}",
                expected=f"finite numbers of shape (N, {len(self.features)})",
            )  # fmt: skip
        holds = np.ones((len(self.rules), len(values)), dtype=bool)
        for number, rule in enumerate(self.rules):
            for place, (above, most) in rule.limits.items():
                holds[number] &= (values[:, place] > above) & (values[:, place] <= most)
        if (holds.sum(axis=0) != 1).any():
            raise DamagedError("of some example no rule is true, or several are", fix="make the rules again")
        return np.asarray(holds.argmax(axis=0), dtype=np.int64)

    def probabilities(self, values: Floats) -> Floats:
        """(N, C); see `which`."""
        return np.array([rule.probabilities for rule in self.rules])[self.which(values)]

    def answer(self, values: Floats) -> list[str]:
        """The name of the class for each row of numbers; see `which`."""
        return [self.classes[self.rules[number].label] for number in self.which(values).tolist()]

    def answer_rows(self, rows: Rows | Mapping[str, Sequence[Any]]) -> list[str]:
        """The name of the class for each row of columns, such as {"hour": [15.0], "carrier": ["UA"]}.

        Raises:
            InputError: the rules were not made of columns, or one is missing.
        """
        if self.encoding is None:
            raise InputError("these rules were not made of columns", fix="ask `answer` with their numbers")
        if not isinstance(rows, Rows):
            rows = Rows("rows", {name: _column(values) for name, values in rows.items()})
        inputs = encoder_of(self.encoding).encode(rows)
        return self.answer(in_units(inputs.flatten(1).double().numpy(), self.encoding))

    def lines(self) -> list[str]:
        """One rule a line, class by class, those of most training rows first."""
        order = sorted(self.rules, key=lambda rule: (rule.label, -rule.rows))
        return [self.line(rule) for rule in order]

    def line(self, rule: Rule) -> str:
        """`if hour > 15.5 and dep_delay > 3 min: late (87 %, 1,204 training rows)`."""
        asked = condition(self.features, rule.limits)
        name, chance = self.classes[rule.label], f"{max(rule.probabilities):.0%}".replace("%", " %")
        if not asked:
            return f"always: {name} ({chance}, {rule.rows:,} training rows)"
        return f"if {asked}: {name} ({chance}, {rule.rows:,} training rows)"

    def python(self) -> str:
        """The same as a Python file with `classify(row)`, a row being column -> value, that needs nothing else."""
        return source(self.features, self.classes, self.rules, f"{len(self.rules)} rules; made by tutelage rules")

    @property
    def questions(self) -> float:
        """How many features a rule asks about, in the mean."""
        return float(np.mean([len(rule.limits) for rule in self.rules]))

    def to_json(self) -> dict[str, Any]:
        """All that makes them again. Only features that some rule asks about are named; the others have a number."""
        used = sorted({place for rule in self.rules for place in rule.limits})
        return {
            "format": FORMAT, "classes": list(self.classes), "numbers": len(self.features),
            "features": {str(place): self.features[place].to_json() for place in used},
            "rules": [
                {
                    "if": [
                        {"feature": place, "above": _end(above), "at_most": _end(most)}
                        for place, (above, most) in rule.limits.items()
                    ],
                    "then": self.classes[rule.label], "probabilities": list(rule.probabilities), "rows": rule.rows,
                }
                for rule in self.rules
            ],
            "encoding": None if self.encoding is None else dict(self.encoding), "facts": dict(self.facts),
        }  # fmt: skip

    def save(self, path: Path | str) -> None:
        """Write them as JSON, the whole file or none."""
        write_json(Path(path).expanduser(), self.to_json())

    @classmethod
    def of(cls, leaves: Sequence[Leaf], features: Sequence[Feature], classes: Sequence[str], **more: Any) -> Rules:
        """The leaves of a tree as rules."""
        rules = tuple(Rule(leaf.limits, tuple(leaf.says.tolist()), leaf.rows) for leaf in leaves)
        return cls(tuple(features), tuple(classes), rules, **more)


def load_rules(path: Path | str) -> Rules:
    """Read rules that `Rules.save` wrote.

    Raises:
        InputError: there is no such file.
        DamagedError: it holds something else, or was altered.

    Example:
        >>> load_rules("rules/rules.json").answer_rows({"hour": [17.0], "dep_delay": [4.0]})  # doctest: +SKIP
        ['late']
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"there are no rules in {file}", fix="`tutelage rules` writes rules.json")
    told = read_json(file)
    try:
        return _read(told)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, AssertionError, OverflowError) as error:
        raise DamagedError(
            f"{file} holds no rules, or not all of them", given=f"{type(error).__name__}: {error!s:.200}",
            fix="make the rules again",
        ) from error  # fmt: skip


def _read(told: Mapping[str, Any]) -> Rules:
    assert told["format"] == FORMAT, "another format"
    classes, width = tuple(map(str, told["classes"])), int(told["numbers"])
    assert len(classes) >= 2, "two classes at least"
    assert 1 <= width <= 10_000_000, "numbers of an example"
    named = {int(place): _feature(one) for place, one in told["features"].items()}
    assert len(told["rules"]) <= _MOST, "fewer rules"
    rules = []
    for one in told["rules"]:
        limits = {}
        for asked in one["if"]:
            above, most = asked["above"], asked["at_most"]
            ends = (-math.inf if above is None else float(above), math.inf if most is None else float(most))
            assert ends[0] < ends[1], "an interval"
            assert int(asked["feature"]) in named, "a feature with a name"
            limits[int(asked["feature"])] = ends
        says = tuple(map(float, one["probabilities"]))
        assert len(says) == len(classes), "a probability for each class"
        assert all(0.0 <= p <= 1.0 + 1e-6 for p in says), "probabilities"
        assert abs(sum(says) - 1.0) < 1e-3, "probabilities that add up to 1"
        rules.append(Rule(limits, says, int(one["rows"])))
    assert rules, "a rule"
    plain = [named.get(place) or Feature(f"number {place}") for place in range(width)]
    encoding = told["encoding"]
    assert encoding is None or isinstance(encoding, dict), "an encoding"
    return Rules(tuple(plain), classes, tuple(rules), encoding, dict(told["facts"]))


def _feature(said: Mapping[str, Any]) -> Feature:
    made = Feature(**{**said, "known": tuple(map(str, said.get("known", ())))})
    assert made.kind in KINDS, "a kind of feature"
    assert all(isinstance(text, str) for text in (made.name, made.column, made.level, made.unit)), "texts"
    return made


def _end(value: float) -> float | None:
    return None if math.isinf(value) else value


def _column(values: Sequence[Any]) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind in "fiub":
        return array.astype(np.float64)
    if all(value is None or isinstance(value, (int, float)) for value in array.tolist()):
        return np.array([math.nan if value is None else float(value) for value in array.tolist()])
    return np.array(["" if value is None else str(value) for value in array.tolist()], dtype=object)
