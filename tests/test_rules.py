"""Rules: the tree that they are of, how they read, where they answer again, and what is said of their worth."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tutelage.cli import cli
from tutelage.data import Splits, load, plain_batches, split
from tutelage.data.examples import Examples
from tutelage.data.inputs import from_rows
from tutelage.errors import DamagedError, DataError, InputError, ModelError
from tutelage.rules import Distilled, Feature, Rule, Rules, distil_rules, load_rules
from tutelage.rules.features import features_of, values_of
from tutelage.rules.growing import coded, grow, short_between
from tutelage.teachers import TableTeacher

# Growing


def blobs(n: int = 400, width: int = 5, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Numbers, and probabilities that depend on some of them."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(n, width)).round(1) * 10.0 ** np.arange(-2, width - 2)
    logits = 2 * np.tanh(values / values.std(axis=0))[:, :classes] + generator.normal(size=(n, classes)) / 2
    return values, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("leaves", "depth", "least"), [(2, None, 1), (7, None, 10), (40, 4, 5), (400, None, 1)])
def test_rules_are_the_leaves_of_a_tree(leaves: int, depth: int | None, least: int) -> None:
    values, targets = blobs()
    found = grow(coded(values), targets, leaves=leaves, depth=depth, least=least)
    tree = DecisionTreeRegressor(max_leaf_nodes=leaves, max_depth=depth, min_samples_leaf=least, random_state=0)
    ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in values.T], axis=1)
    expected = tree.fit(ranks, targets).predict(ranks)
    rules = Rules.of(found, features(5), ("a", "b", "c"))
    assert rules.probabilities(values) == pytest.approx(expected)
    assert len(rules.rules) == tree.get_n_leaves()
    assert sum(rule.rows for rule in rules.rules) == len(values)
    assert np.bincount(rules.which(values)).tolist() == [rule.rows for rule in rules.rules]


def test_towards_labels_it_is_a_classification_tree() -> None:
    values, targets = blobs(seed=1)
    labels = targets.argmax(axis=1)
    found = Rules.of(grow(coded(values), np.eye(3)[labels], leaves=9, depth=None, least=5), features(5), "abc")
    tree = DecisionTreeClassifier(max_leaf_nodes=9, min_samples_leaf=5, random_state=0).fit(coded(values).ranks, labels)
    assert found.probabilities(values) == pytest.approx(tree.predict_proba(coded(values).ranks))


def test_numbers_that_float32_takes_for_one_are_told_apart() -> None:
    values = np.array([[1.7e9], [1.7e9 + 1], [1.7e9 + 2], [1.7e9 + 3]])
    found = grow(coded(values), np.eye(2)[[0, 0, 1, 1]], leaves=2, depth=None, least=1)
    assert [leaf.says.tolist() for leaf in found] == [[1.0, 0.0], [0.0, 1.0]]
    assert 1.7e9 + 1 <= found[0].limits[0][1] < 1.7e9 + 2


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.floats(-1e12, 1e12), st.floats(1e-12, 1e12))
def test_cuts_lie_between_and_are_short(low: float, gap: float) -> None:
    high = low + gap
    if high <= low:
        return
    cut = short_between(low, high)
    assert low <= cut < high
    middle, quarter = low / 2 + high / 2, (high - low) / 4
    shorter = float(f"{middle:.1g}")
    if middle - quarter * 0.999 <= shorter <= middle + quarter * 0.999:
        assert cut == shorter


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (15, 16, 15.5),
        (0, 1, 0.5),
        (3, 9, 6),
        (1200, 1900, 1600),
        (-4, -3, -3.5),
        (0.1234, 0.1239, 0.1236),
        (0, 255, 100),
    ],
)  # fmt: skip
def test_cuts_by_hand(low: float, high: float, expected: float) -> None:
    assert short_between(low, high) == expected


# How they read


def features(count: int) -> tuple[Feature, ...]:
    return tuple(Feature(f"f{place}", column=f"f{place}") for place in range(count))


def line(limits: dict[int, tuple[float, float]], *made: Feature) -> str:
    rule = Rule(limits, (0.13, 0.87), 1204)
    return Rules(tuple(made), ("on time", "late"), (rule,)).line(rule)


INF = math.inf
HOUR, DELAY = Feature("hour", column="hour"), Feature("dep_delay", column="dep_delay", unit="min")
UA, AA = (Feature(f"carrier = {name}", "level", "carrier", name) for name in ("UA", "AA"))
OTHER = Feature("carrier is another", "another", "carrier", known=("UA", "AA"))
LOST = Feature("carrier is missing", "missing", "carrier")
CODE = Feature("carrier", "code", "carrier", known=("UA", "AA", "DL"))
YES, NO = (0.5, INF), (-INF, 0.5)


@pytest.mark.parametrize(
    ("limits", "made", "asked"),
    [
        ({0: (15.5, INF), 1: (3.0, INF)}, (HOUR, DELAY), "if hour > 15.5 and dep_delay > 3 min"),
        ({0: (9.5, 15.5)}, (HOUR,), "if 9.5 < hour ≤ 15.5"),
        ({0: (-INF, -2.0)}, (HOUR,), "if hour ≤ −2"),
        ({}, (HOUR,), "always"),
        ({0: YES}, (UA, AA), "if carrier = UA"),
        ({0: NO}, (UA, AA), "if carrier ≠ UA"),
        ({1: NO, 0: NO}, (UA, AA), "if carrier not in (AA, UA)"),
        ({1: NO, 0: YES}, (UA, AA), "if carrier = UA"),
        ({2: YES}, (UA, AA, OTHER), "if carrier not in (UA, AA)"),
        ({2: YES}, (UA, AA, OTHER, LOST), "if (carrier not in (UA, AA) and known)"),
        ({2: NO}, (UA, AA, OTHER), "if carrier in (UA, AA)"),
        ({2: NO, 0: NO}, (UA, AA, OTHER), "if carrier = AA"),
        ({3: YES}, (UA, AA, OTHER, LOST), "if carrier is missing"),
        ({3: NO}, (UA, AA, OTHER, LOST), "if carrier is known"),
        ({3: NO, 0: NO}, (UA, AA, OTHER, LOST), "if (carrier ≠ UA and known)"),
        ({0: (-INF, 0.5)}, (CODE,), "if carrier = UA"),
        ({0: (0.5, 2.5)}, (CODE,), "if carrier in (AA, DL)"),
        ({0: (0.5, INF)}, (CODE,), "if carrier ≠ UA"),
        ({0: (1.5, 3.5)}, (CODE,), "if (carrier not in (UA, AA) and known)"),
        ({0: (3.5, INF)}, (CODE,), "if carrier is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_questions_in_words(limits: dict[int, tuple[float, float]], made: tuple[Feature, ...], asked: str) -> None:
    assert line(limits, *made) == f"{asked}: late (87 %, 1,204 training rows)"


def test_long_lists_are_cut_and_classes_stand_together() -> None:
    many = tuple(Feature(f"c = {n}", "level", "c", f"v{n}") for n in range(12))
    rules = (
        Rule(dict.fromkeys(range(12), NO), (0.9, 0.1), 5), Rule({0: YES}, (0.2, 0.8), 9),
        Rule({1: YES}, (0.6, 0.4), 7),
    )  # fmt: skip
    lines = Rules(many, ("a", "b"), rules).lines()
    assert lines[0] == "if c = v1: a (60 %, 7 training rows)"
    assert lines[1].startswith("if c not in (v0, v1, v2, v3, v4, v5, v6, v7 and 4 more): a (90 %")
    assert lines[2].endswith(": b (80 %, 9 training rows)")


# A table

COLUMNS = ["hour", "delay", "carrier"]


def flights(n: int = 1500, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    hour, delay = generator.integers(0, 24, n).astype(float), generator.exponential(20, n).round(1) - 5
    carrier = generator.choice(["UA", "AA", "DL", "odd 1", "odd 2"], n, p=[0.4, 0.3, 0.28, 0.01, 0.01]).astype(object)
    chance = 1 / (1 + np.exp(-(0.3 * (hour - 14) + 0.05 * delay + 2.0 * (carrier == "UA") - 1)))
    late = np.where(generator.random(n) < chance, "late", "on time").astype(object)
    hour[generator.random(n) < 0.05], carrier[generator.random(n) < 0.05] = math.nan, ""
    return {"hour": hour, "delay": delay, "carrier": carrier, "late": late}


VIEWS: dict[str, dict[str, Any]] = {
    "standardised": {"numbers": ["hour", "delay"], "categories": ["carrier"], "log": ["delay"]},
    "for trees": {"numbers": ["hour", "delay"], "categories": ["carrier"], "trees": True},
}


def of_chances(splits: Splits, chance: Callable[[Examples], np.ndarray]) -> TableTeacher:
    """A teacher that gives each example these probabilities."""
    parts = (splits.train, splits.val, splits.test)
    logits = np.concatenate([np.log(chance(part)) for part in parts])
    return TableTeacher(torch.cat([part.ids for part in parts]), torch.from_numpy(logits))


def table_of_flights(view: str) -> tuple[Splits, TableTeacher]:
    """Flights, and a forest that knows them."""
    from sklearn.ensemble import RandomForestClassifier

    splits = from_rows(flights(), label="late", inputs={"t": VIEWS[view]}, name="flights")
    forest = RandomForestClassifier(30, min_samples_leaf=5, random_state=0)
    forest.fit(splits.train.inputs.numpy(), splits.train.targets.numpy())
    return splits, of_chances(splits, lambda part: forest.predict_proba(part.inputs.numpy()).clip(1e-6))


@pytest.fixture(scope="module", params=VIEWS)
def told(request: pytest.FixtureRequest) -> tuple[Splits, Distilled]:
    splits, teacher = table_of_flights(request.param)
    return splits, distil_rules(splits, teacher, leaves=12, resamples=500, units={"delay": "min"})


def test_a_table_is_spoken_of_in_its_own_columns_and_units(told: tuple[Splits, Distilled]) -> None:
    splits, found = told
    values = values_of(splits.train)
    raw = flights()["hour"][splits.train.origins.numpy()]
    there = ~np.isnan(raw)
    assert values[there, 0] == pytest.approx(raw[there], abs=1e-4)
    names = {one.name for one in found.soft.features}
    assert {"hour", "hour is missing", "delay"} <= names
    text = found.summary()
    assert " min" in text
    assert "hour > " in text
    assert "carrier" in text


@pytest.mark.parametrize("seed", [1, 2])
def test_files_answer_as_the_rules_do(told: tuple[Splits, Distilled], tmp_path: Path, seed: int) -> None:
    splits, found = told
    assert [path.name for path in found.write(tmp_path)] == ["rules.json", "rules.txt", "rules.py"]
    again = load_rules(tmp_path / "rules.json")
    assert again.lines() == found.soft.lines()
    assert again.answer(values_of(splits.test)) == found.soft.answer(values_of(splits.test))
    assert again.facts["soft"] == found.facts["soft"]
    # New rows, with carriers that nobody has seen, and with what is missing.
    rows = {name: column for name, column in flights(400, seed).items() if name != "late"}
    rows["carrier"][:30] = "new"
    expected = again.answer_rows(rows)
    assert len(set(expected)) == 2
    space: dict[str, Any] = {}
    exec((tmp_path / "rules.py").read_text(encoding="utf-8"), space)  # noqa: S102
    said = [space["classify"]({name: rows[name][place] for name in COLUMNS}) for place in range(400)]
    assert [name for name, _ in said] == expected
    assert all(0.5 <= chance <= 1 for _, chance in said)
    lost = [
        {key: value for key, value in zip(COLUMNS, row, strict=True) if value not in ("",) and value == value}
        for row in zip(*(rows[name].tolist() for name in COLUMNS), strict=True)
    ]
    assert [space["classify"](row)[0] for row in lost] == expected  # absent is missing


def test_what_is_said_of_their_worth(told: tuple[Splits, Distilled]) -> None:
    splits, found = told
    facts, labels = found.facts, splits.test.targets.numpy()
    said = {"soft": found.soft, "hard": found.hard}
    shares = {side: rules.probabilities(values_of(splits.test)) for side, rules in said.items()}
    right = {side: one.argmax(axis=1) == labels for side, one in shares.items()}
    for side in said:
        assert facts[side]["accuracy"]["value"] == pytest.approx(right[side].mean())
        assert facts[side]["brier"]["value"] == pytest.approx(
            np.square(shares[side] - np.eye(2)[labels]).sum(axis=1).mean(), abs=1e-5
        )
        assert facts[side]["accuracy"]["ci_low"] < right[side].mean() < facts[side]["accuracy"]["ci_high"]
    gain = facts["differences"]["accuracy"]
    assert gain["value"] == pytest.approx(right["soft"].mean() - right["hard"].mean())
    assert gain["ci_low"] <= gain["value"] <= gain["ci_high"]
    assert (len(found.soft.rules), len(found.hard.rules)) == (facts["rules"], facts["rules"])
    best = min(facts["tried"], key=lambda size: sum(facts["tried"][size].values()))
    assert int(best) == facts["rules"]
    assert facts["refits"]["accuracy"]["seeds"] == 5
    assert facts["majority"]["accuracy"] == pytest.approx(max(labels.mean(), 1 - labels.mean()))
    assert "soft − hard, accuracy" in found.summary()
    json.dumps(found.to_json(), allow_nan=False)


def test_a_teacher_that_knows_the_chances_beats_noisy_labels() -> None:
    """Labels that are drawn with chances of which the teacher knows every one, and many numbers that say nothing."""

    def known(part: Examples) -> np.ndarray:
        yes = 0.5 + np.sign(part.inputs.numpy()[:, :3]) @ np.array([0.2, 0.12, 0.06])
        return np.stack([1 - yes, yes], axis=1)

    gains, alike = [], []
    for seed in range(4):
        generator = np.random.default_rng(seed)
        x = torch.from_numpy(generator.normal(size=(900, 20)).astype(np.float32))
        drawn = generator.random(900) < 0.5 + np.sign(x.numpy()[:, :3]) @ np.array([0.2, 0.12, 0.06])
        made = Examples.make(x, torch.from_numpy(drawn.astype(np.int64)), ["no", "yes"], "noisy")
        splits = split(made, val=0.2, test=0.4)
        found = distil_rules(splits, of_chances(splits, known), leaves=8, least=5, seeds=2, resamples=200)
        gains.append(found.facts["soft"]["brier"]["value"] - found.facts["hard"]["brier"]["value"])
        alike.append(found.facts["fidelity"]["soft"]["value"] - found.facts["fidelity"]["hard"]["value"])
        assert found.facts["teacher"]["brier"]["value"] < found.facts["hard"]["brier"]["value"]
    assert ttest_1samp(gains, 0).statistic < -2
    assert np.mean(alike) > 0.05


def test_pictures_and_plain_numbers_have_names_too() -> None:
    digits = load("digits").train
    assert features_of(digits)[13].name == "pixel 2/6"
    assert values_of(digits).max() == 255.0
    plain = Examples.make(torch.rand(9, 2, 3), torch.arange(9) % 2, ["a", "b"], "plain")
    assert [one.name for one in features_of(plain)][3:5] == ["x[1,0]", "x[1,1]"]


# What is refused


def half(part: Examples) -> np.ndarray:
    return np.full((len(part), len(part.classes)), 1 / len(part.classes))


def plain_splits(**more: Any) -> Splits:
    x = torch.arange(60, dtype=torch.float32).reshape(60, 1)
    return split(Examples.make(x, torch.arange(60) // 30, ["a", "b"], "plain", **more), val=0.2, test=0.3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"leaves": 1}, "leaves=1"), ({"depth": 0}, "depth=0"), ({"least": 0}, "least=0"), ({"seeds": 1}, "seeds=1"),
        ({"units": {"hour": "h"}}, "no column `hour`"),
    ],
)  # fmt: skip
def test_options_out_of_range(options: dict[str, Any], says: str) -> None:
    splits = plain_splits()
    with pytest.raises(InputError, match=says):
        distil_rules(splits, of_chances(splits, half), **options)


def test_tokens_and_other_questions_are_refused() -> None:
    tokens = Examples.make(
        torch.randint(1, 9, (30, 4), dtype=torch.int32), torch.arange(30) % 2, ["a", "b"], "text", vocabulary=9
    )
    with pytest.raises(InputError, match="rules speak of numbers"):
        features_of(tokens)
    splits = plain_splits()
    wide = of_chances(splits, lambda part: np.full((len(part), 3), 1 / 3))
    with pytest.raises(ModelError, match="answers other questions"):
        distil_rules(splits, wide)


def test_numbers_that_are_none_and_gaps_between_rules() -> None:
    rules = Rules(features(1), ("a", "b"), (Rule({0: (0.0, INF)}, (1.0, 0.0), 1),))
    assert rules.answer(np.array([[1.0]])) == ["a"]
    with pytest.raises(DataError, match="cannot be asked"):
        rules.which(np.array([[math.nan]]))
    with pytest.raises(DataError, match="cannot be asked"):
        rules.which(np.zeros((2, 2)))
    with pytest.raises(DamagedError, match="no rule is true"):
        rules.which(np.array([[-1.0]]))
    with pytest.raises(InputError, match="not made of columns"):
        rules.answer_rows({"f0": [1.0]})


DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "format": lambda told: told.update(format="other"),
    "classes": lambda told: told.update(classes=["one"]),
    "no rules": lambda told: told.update(rules=[]),
    "a rule without probabilities": lambda told: told["rules"][0].pop("probabilities"),
    "probabilities": lambda told: told["rules"][0].update(probabilities=[0.9, 0.9]),
    "a feature without a name": lambda told: told["features"].clear(),
    "a kind of feature": lambda told: next(iter(told["features"].values())).update(kind="else"),
    "an empty interval": lambda told: told["rules"][0]["if"][0].update(above=9e9, at_most=0.0),
    "a word for a number": lambda told: told["rules"][0]["if"][0].update(above="many"),
    "an encoding": lambda told: told.update(encoding=3),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_altered_files_are_refused(how: str, tmp_path: Path) -> None:
    splits = plain_splits()
    rules = distil_rules(
        splits, of_chances(splits, lambda part: half(part) * 0.5 + np.eye(2)[part.targets] / 2), least=2
    ).soft
    rules.save(tmp_path / "rules.json")
    load_rules(tmp_path / "rules.json")
    told = json.loads((tmp_path / "rules.json").read_text(encoding="utf-8"))
    DAMAGE[how](told)
    (tmp_path / "rules.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(DamagedError, match="holds no rules, or not all of them"):
        load_rules(tmp_path / "rules.json")


def test_files_that_are_not_there_or_no_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no rules"):
        load_rules(tmp_path / "rules.json")
    (tmp_path / "rules.json").write_text("{", encoding="utf-8")
    with pytest.raises(DamagedError):
        load_rules(tmp_path / "rules.json")


def test_names_that_are_code_stay_names(tmp_path: Path) -> None:
    odd = Feature('x"""); import os #', column='a\'\\\n"""b')
    made = Rules((odd,), ('"""', "b\n"), (Rule({0: (1.0, INF)}, (0.9, 0.1), 1), Rule({0: (-INF, 1.0)}, (0.1, 0.9), 1)))
    space: dict[str, Any] = {}
    exec(made.python(), space)  # noqa: S102
    assert space["classify"]({odd.column: 2.0}) == ('"""', 0.9)
    assert space["classify"]({odd.column: 0.0}) == ("b\n", 0.9)
    with pytest.raises(KeyError):
        space["classify"]({})


# The command

RECIPE = """
name: tiny
seeds: [0]
data: {source: digits, limit: 300}
teacher: {model: mlp, args: {width: 16, depth: 1}, train: {epochs: 2}}
student: {model: mlp, args: {width: 8, depth: 1}}
train: {epochs: 1}
device: cpu
threads: 1
report: {latency: false, bootstrap: 200}
"""


def typed(*words: str) -> Any:
    return CliRunner().invoke(cli, ["rules", *words], catch_exceptions=True)


def test_the_command_takes_a_recipe_or_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    first = typed(str(recipe), "--leaves", "6", "--out", str(tmp_path / "a"), "--quiet")
    assert first.exit_code == 0, first.output
    assert "soft − hard" in first.output
    assert "rules.json" in first.output
    rules = load_rules(tmp_path / "a" / "rules.json")
    assert 2 <= len(rules.rules) <= 6
    refused = typed(str(recipe), "--out", str(tmp_path / "a"))
    assert isinstance(refused.exception, InputError)
    assert "holds rules already" in str(refused.exception)

    from tutelage.recipe import load as recipe_of
    from tutelage.run import run_recipe

    run_recipe(recipe_of(str(recipe)), tmp_path / "run", quiet=True)
    again = typed(str(tmp_path / "run"), "--leaves", "6", "--out", str(tmp_path / "b"), "--json", "--quiet")
    assert again.exit_code == 0, again.output
    found = json.loads(again.output)
    assert found["rules"] == rules.to_json()["rules"]  # the same teacher, from the run's own file
    assert found["facts"]["soft"]["accuracy"]["n"] == len(load("digits").test)


@pytest.mark.parametrize("unit", ["km", "=km", "distance="])
def test_units_that_are_none(unit: str) -> None:
    found = typed("digits", "--unit", unit)
    assert isinstance(found.exception, InputError)
    assert "column and its unit" in str(found.exception)


def test_batches_are_asked_in_their_order() -> None:
    """What a table says by content id is what rules learn from, whatever the order of the batches."""
    splits = plain_splits()
    teacher = of_chances(splits, lambda part: 0.5 * half(part) + np.eye(2)[part.targets] / 2)
    found = distil_rules(splits, teacher, least=2, leaves=2)
    (batch,) = plain_batches(splits.test, 100)
    assert found.soft.answer(batch.inputs["x"].numpy()) == ["ab"[label] for label in batch.target.tolist()]
