"""From a teacher to rules: how many is chosen on the validation part, what they are worth is told by the test.

Beside the tree that follows the teacher stands one of the same size that follows the labels, and nothing is said of the
first without the second: the same leaves, rows, cuts and seeds, so that what differs is the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.data import Examples, Splits, plain_batches
from tutelage.errors import InputError, ModelError
from tutelage.evaluation import metrics
from tutelage.evaluation.forms import Answers, judge
from tutelage.evaluation.predict import ask
from tutelage.evaluation.significance import Estimate, paired_bootstrap, paired_by_seed, wilson
from tutelage.files import write_text
from tutelage.report import numbers
from tutelage.rules.features import Feature, features_of, values_of
from tutelage.rules.growing import Coded, coded, grow
from tutelage.rules.ruleset import Rules
from tutelage.teachers import Teacher

__all__ = ["Distilled", "distil_rules"]

_BATCH = 512
_LEAST_PROBABILITY = 1e-6  # what a rule that never saw a class is read as saying of it
_SHOWN = ("accuracy", "macro_auc", "brier")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Distilled:
    """Rules that follow a teacher, those of the same size that follow labels, and what both are worth."""

    soft: Rules
    hard: Rules
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {**self.soft.to_json(), "facts": dict(self.facts)}

    def summary(self) -> str:
        """A table, the difference, and the rules."""
        told = self.facts
        head = ["", "accuracy", "95 % CI", "as the teacher", "95 % CI", "macro AUC", "Brier"]
        rows = [_row("teacher", told["teacher"], None)]
        rows += [_row(name, told[key], told["fidelity"][key]) for name, key in _SIDES]
        gain, again = told["differences"]["accuracy"], told["refits"]["accuracy"]
        close = told["differences"]["fidelity"]
        lines = [
            f"{numbers.plural(told['rules'], 'rule')} with {told['questions']:.1f} questions each, of "
            f"{told['train']:,} training rows; how many was chosen on {told['val']:,} validation rows",
            *numbers.columns([head, *rows]),
            f"always ‘{told['majority']['class']}’: {numbers.percent(told['majority']['accuracy'])}",
            f"soft − hard, accuracy: {numbers.points(gain['value'])} (95 % CI {numbers.points_interval(gain)}, "
            f"{numbers.p_value(told['p'])}); with {again['seeds']} redrawn training parts "
            f"{numbers.points(again['value'])} ({numbers.points_interval(again)})",
            f"soft − hard, as the teacher: {numbers.points(close['value'])} (95 % CI {numbers.points_interval(close)})",
            "in brackets: the probability that the teacher gives, and how many training rows a rule is true of",
            *self.soft.lines(),
        ]
        return "\n".join(lines)

    def write(self, out: Path | str) -> list[Path]:
        """Write rules.json, rules.txt and rules.py into a folder."""
        home = Path(out).expanduser()
        files = {name: home / name for name in ("rules.json", "rules.txt", "rules.py")}
        home.mkdir(parents=True, exist_ok=True)
        Rules(self.soft.features, self.soft.classes, self.soft.rules, self.soft.encoding, self.facts).save(
            files["rules.json"]
        )
        write_text(files["rules.txt"], self.summary() + "\n")
        write_text(files["rules.py"], self.soft.python())
        return list(files.values())


_SIDES = (("rules, from the teacher", "soft"), ("rules, from labels", "hard"))


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One part of the data as rules and teacher see it."""

    values: Floats  # (N, D)
    labels: Ints  # (N,)
    told: Floats  # (N, C) the teacher's probabilities

    @property
    def certain(self) -> Floats:
        """Labels as probabilities."""
        return np.eye(self.told.shape[1])[self.labels]


def distil_rules(
    splits: Splits,
    teacher: Teacher,
    *,
    leaves: int = 16,
    depth: int | None = None,
    least: int = 10,
    seeds: int = 5,
    resamples: int = 10_000,
    units: Mapping[str, str] | None = None,
    asked: Splits | None = None,
    device: str | torch.device = "cpu",
) -> Distilled:
    """Distil a teacher into few rules.

    A tree is grown towards its probabilities on the training part (least squares), and one towards the labels. Of 2, 4,
    8 … `leaves` leaves both get the number at which their Brier scores on the validation part are best in the mean. The
    test part is looked at once.

    Args:
        splits: the data in numbers that a person can read: a table, words, pictures.
        teacher: whatever answers.
        leaves: how many rules at most, ≥ 2.
        depth: how many questions a rule asks at most; None: as many as it takes.
        least: training rows that a rule must be true of.
        seeds: how many redrawn training parts tell how much chance is in the difference, ≥ 2.
        resamples: of the bootstrap over test examples.
        units: column -> unit, for the text: {"distance": "km"}.
        asked: the same examples as the teacher reads them, where it reads another view.
        device: where the teacher answers.

    Returns:
        Both sets of rules, and what was measured.

    Raises:
        InputError: an option is out of range, or the examples are tokens.
        ModelError: the teacher answers with other classes.

    Reference: Bastani, Kim, Bastani 2017, arXiv 1705.08504, and Craven, Shavlik 1996, NeurIPS 8, Extracting
    tree-structured representations of trained networks; here without new examples.
    """
    _check(splits, leaves, depth, least, seeds)
    features, told, at = features_of(splits.train, units), splits if asked is None else asked, torch.device(device)
    teacher.to(at)
    pairs = ((splits.train, told.train), (splits.val, told.val), (splits.test, told.test))
    train, val, test = (_seen(own, theirs, teacher, at) for own, theirs in pairs)
    limits: dict[str, Any] = {"depth": depth, "least": min(least, max(1, len(train.labels) // 4))}
    trees = _Trees(splits.train, features, train, coded(train.values), limits)
    sizes = sorted({min(2**power, leaves) for power in range(1, leaves.bit_length() + 1)})
    tried = {size: _brier(trees.both(size), val) for size in sizes}
    size = min(sizes, key=lambda one: (sum(tried[one].values()), one))
    found = trees.both(size)
    facts = _facts(found, train, val, test, splits.train.classes, resamples)
    again = [_worth(trees.redrawn(size, seed), test) for seed in range(seeds)]
    facts["refits"] = {name: _by_seed(again, name, len(test.labels)) for name in ("accuracy", "fidelity")}
    facts |= {"tried": {str(one): scores for one, scores in tried.items()}, "settings": {"leaves": leaves, **limits}}
    return Distilled(found["soft"], found["hard"], facts)


@dataclass(frozen=True, slots=True, eq=False)
class _Trees:
    """Two trees of a size: one grown towards the teacher's probabilities, one towards the labels."""

    examples: Examples
    features: tuple[Feature, ...]
    train: _Part
    rows: Coded
    limits: Mapping[str, Any]

    def both(self, size: int) -> dict[str, Rules]:
        """Grown from all rows."""
        return self._grown(size, self.rows, slice(None), 0)

    def redrawn(self, size: int, seed: int) -> dict[str, Rules]:
        """Grown from as many rows, drawn with replacement."""
        count = len(self.train.labels)
        drawn = np.random.default_rng(seed).integers(0, count, size=count)
        return self._grown(size, self.rows.take(drawn), drawn, seed)

    def _grown(self, size: int, rows: Coded, chosen: Ints | slice, seed: int) -> dict[str, Rules]:
        encoding = self.examples.encodings.get(self.examples.reads)
        known = encoding if encoding and encoding.get("kind") in ("table", "words") else None
        towards = {"soft": self.train.told, "hard": self.train.certain}
        return {
            side: Rules.of(
                grow(rows, targets[chosen], leaves=size, seed=seed, **self.limits), self.features,
                self.examples.classes, encoding=known,
            )
            for side, targets in towards.items()
        }  # fmt: skip


def _check(splits: Splits, leaves: int, depth: int | None, least: int, seeds: int) -> None:
    for name, given, lowest in (("leaves", leaves, 2), ("depth", 1 if depth is None else depth, 1), ("least", least, 1),
                                ("seeds", seeds, 2)):  # fmt: skip
        if given < lowest:
            raise InputError(f"`{name}` is out of range", given=f"{name}={given}", expected=f"{lowest} or more")
    if splits.train.tasks:
        raise InputError(
            "rules answer one question, but the data has several tasks", given=", ".join(splits.train.sizes)
        )


def _seen(part: Examples, told: Examples, teacher: Teacher, device: torch.device) -> _Part:
    logits = ask(teacher, plain_batches(told, _BATCH), device)
    if tuple(logits.shape) != (len(part), len(part.classes)):
        raise ModelError(
            "the teacher answers other questions", given=f"logits {tuple(logits.shape)}",
            expected=f"({len(part)}, {len(part.classes)})",
        )  # fmt: skip
    return _Part(values_of(part), part.targets.numpy(), logits.double().softmax(-1).numpy())


def _brier(found: Mapping[str, Rules], part: _Part) -> dict[str, float]:
    away = {side: np.square(rules.probabilities(part.values) - part.certain) for side, rules in found.items()}
    return {side: float(one.sum(axis=1).mean()) for side, one in away.items()}


def _worth(found: Mapping[str, Rules], test: _Part) -> dict[str, dict[str, float]]:
    """How right rules are, and how much like the teacher."""
    scores = {}
    for side, rules in found.items():
        said = rules.probabilities(test.values).argmax(axis=1)
        right, same = said == test.labels, said == test.told.argmax(axis=1)
        scores[side] = {"accuracy": float(right.mean()), "fidelity": float(same.mean())}
    return scores


def _by_seed(again: Sequence[Mapping[str, Mapping[str, float]]], name: str, n: int) -> dict[str, object]:
    soft, hard = ([one[side][name] for one in again] for side in ("soft", "hard"))
    return paired_by_seed(soft, hard, n).to_json()


def _facts(
    found: Mapping[str, Rules], train: _Part, val: _Part, test: _Part, classes: Sequence[str], resamples: int
) -> dict[str, Any]:
    """What rules, labels' rules and teacher are worth on the test part."""
    shares = {side: rules.probabilities(test.values) for side, rules in found.items()}
    logits = {side: np.log(p.clip(_LEAST_PROBABILITY)) for side, p in (*shares.items(), ("teacher", test.told))}
    sides = {side: Answers("classification", one, test.labels) for side, one in logits.items()}
    paired = judge([sides["soft"], sides["hard"]], resamples=resamples)
    alone = judge([sides["teacher"]], resamples=min(resamples, 1000))
    told = metrics.predictions(logits["teacher"])
    same = {side: metrics.predictions(logits[side]) == told for side in ("soft", "hard")}
    closer = paired_bootstrap(same["soft"], same["hard"], test.labels, resamples=resamples)
    often = int(np.bincount(train.labels, minlength=len(classes)).argmax())
    return {
        "rules": len(found["soft"].rules), "questions": found["soft"].questions, "train": len(train.labels),
        "val": len(val.labels), "test": len(test.labels),
        "soft": _chosen(paired.metrics[0]), "hard": _chosen(paired.metrics[1]), "teacher": _chosen(alone.metrics[0]),
        "fidelity": {side: wilson(float(one.mean()), len(one)).to_json() for side, one in same.items()},
        "differences": _chosen(paired.differences) | {"fidelity": closer.to_json()}, "p": paired.p,
        "majority": {"class": classes[often], "accuracy": float(np.mean(test.labels == often))},
    }  # fmt: skip


def _chosen(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, object]]:
    return {name: estimates[name].to_json() for name in _SHOWN if name in estimates}


def _row(name: str, told: Mapping[str, Any], fidelity: Mapping[str, Any] | None) -> list[str]:
    area = told.get("macro_auc")
    return [
        name, numbers.percent(told["accuracy"]["value"]), numbers.interval(told["accuracy"]),
        numbers.MISSING if fidelity is None else numbers.percent(fidelity["value"]),
        numbers.MISSING if fidelity is None else numbers.interval(fidelity),
        numbers.MISSING if area is None else f"{area['value']:.3f}", f"{told['brier']['value']:.3f}",
    ]  # fmt: skip
