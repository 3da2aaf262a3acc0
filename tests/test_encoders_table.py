"""Tables as numbers: against scikit-learn, learned from the training part alone, and made again from facts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tutelage.data.encoders.table import MOST_CATEGORIES, Table, fit_table, table_of
from tutelage.data.examples import Examples
from tutelage.data.rows import Rows
from tutelage.errors import DamagedError, DataError, InputError


def texts(*values: str) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def table_rows(count: int = 400, seed: int = 0) -> Rows:
    draw = np.random.default_rng(seed)
    hours = draw.normal(7.0, 3.0, count)
    hours[draw.random(count) < 0.1] = np.nan
    carrier = texts(*(["UA", "AA", "DL", "x", ""][k] for k in draw.choice(5, count, p=[0.4, 0.3, 0.2, 0.02, 0.08])))
    return Rows("flights", {
        "hours": hours, "miles": draw.lognormal(6.0, 1.0, count), "year": np.full(count, 2013.0), "carrier": carrier,
    })  # fmt: skip


def again(table: Table) -> Table:
    return table_of(json.loads(json.dumps(table.facts())))


def test_numbers_and_categories_are_what_scikit_learn_makes_of_them() -> None:
    rows = table_rows()
    table = fit_table(rows, numbers=["hours", "miles"], categories=["carrier"], log=["miles"])
    ours = table.encode(rows).numpy()
    hours = np.where(np.isnan(rows.columns["hours"]), np.nanmedian(rows.columns["hours"]), rows.columns["hours"])
    theirs = StandardScaler().fit_transform(np.stack([hours, np.log1p(rows.columns["miles"])], axis=1))
    assert np.allclose(ours[:, [0, 2]], theirs, atol=1e-6)
    assert np.array_equal(ours[:, 1], np.isnan(rows.columns["hours"]))
    hot = OneHotEncoder(categories=[["UA", "AA", "DL", "x", ""]], sparse_output=False)
    assert np.array_equal(ours[:, 3:], hot.fit_transform(rows.columns["carrier"][:, None]))
    assert table.names == (
        "hours", "hours is missing", "miles", "carrier = UA", "carrier = AA", "carrier = DL", "carrier is another",
        "carrier is missing",
    )  # fmt: skip
    assert table.raw_names == ("hours", "hours", "miles", *["carrier"] * 5)
    assert table.columns == ("hours", "miles", "carrier")
    assert ours.dtype == np.float32
    assert table.vocabulary == 0


def test_what_is_learned_is_of_the_training_part_alone() -> None:
    train = table_rows()
    table = fit_table(train, numbers=["hours", "miles"], categories=["carrier"])
    other = Rows("later", {
        "hours": np.array([1e4, np.nan]), "miles": np.array([np.nan, 5.0]), "carrier": texts("new", ""),
    })  # fmt: skip
    seen = table.encode(other)
    hours = train.columns["hours"]
    filled = np.where(np.isnan(hours), np.nanmedian(hours), hours)
    assert seen[0, 0].item() == pytest.approx((1e4 - filled.mean()) / filled.std(), rel=1e-6)
    # Missing for the first time: the median, and no column that nothing was learned of.
    miles = train.columns["miles"]
    assert seen[0, 2].item() == pytest.approx((np.median(miles) - miles.mean()) / miles.std(), rel=1e-5)
    assert seen[:, 3:].tolist() == [[0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    alone = torch.cat([table.encode(other.take([row])) for row in (0, 1)])
    assert torch.equal(alone, seen)


def test_neither_the_order_of_rows_nor_a_trip_through_json_changes_a_bit() -> None:
    rows = table_rows()
    given: dict[str, Any] = {"numbers": ["hours", "miles"], "categories": ["carrier"], "log": ["miles"], "clip": 2.0}
    table = fit_table(rows, **given)
    view = table.encode(rows)
    assert again(table) == table
    assert torch.equal(again(table).encode(rows), view)
    # Over the two columns of measurements; flags stay 0 and 1.
    assert view[:, [0, 2]].abs().max().item() == 2.0
    assert fit_table(rows, **given) == table
    turned = fit_table(rows.take(np.arange(len(rows))[::-1].copy()), **given)
    assert turned.categories == table.categories
    assert turned.numbers[0].centre == pytest.approx(table.numbers[0].centre, rel=1e-12)


def test_columns_that_say_nothing_are_left_out_and_told() -> None:
    rows = table_rows()
    table = fit_table(rows, numbers=["year", "hours"], categories=["carrier"], rare=10_000)
    assert table.names == ("hours", "hours is missing", "carrier is another", "carrier is missing")
    assert table.notices == ("the column `year` is 2013 wherever the training part knows it: left out",)
    known = Rows("t", {"a": np.array([1.0, np.nan, 1.0]), "b": texts("p", "p", "p"), "c": np.full(3, np.nan)})
    half = fit_table(known, numbers=["a", "c"], categories=["b"], rare=1)
    assert half.names == ("a is missing",)
    assert half.encode(known).flatten().tolist() == [0.0, 1.0, 0.0]
    assert [notice.split("`")[1] for notice in half.notices] == ["a", "c", "b"]
    with pytest.raises(DataError, match="tells rows apart"):
        fit_table(known, categories=["b"])


def test_for_trees_numbers_stay_and_categories_are_counted() -> None:
    rows = table_rows()
    table = fit_table(rows, numbers=["hours"], categories=["carrier"], trees=True)
    view = table.encode(rows).numpy()
    known = ~np.isnan(rows.columns["hours"])
    assert np.array_equal(view[known, 0], rows.columns["hours"][known].astype(np.float32))
    assert np.array_equal(view[:, 1], ~known)
    place = {"UA": 0, "AA": 1, "DL": 2, "x": 3, "": 4}
    assert view[:, 2].tolist() == [place[name] for name in rows.columns["carrier"]]
    assert table.names == ("hours", "hours is missing", "carrier")
    assert table.raw_names == ("hours", "hours", "carrier")
    assert torch.equal(again(table).encode(rows), torch.from_numpy(view))


def test_a_threshold_can_be_told_in_the_units_of_its_column() -> None:
    rows = table_rows()
    table = fit_table(rows, numbers=["hours", "miles"], categories=["carrier"], log=["miles"])
    view = table.encode(rows)
    row = int(np.flatnonzero(~np.isnan(rows.columns["hours"]))[0])
    for place, name in ((0, "hours"), (2, "miles")):
        assert table.undo(place, view[row, place].item()) == pytest.approx(rows.columns[name][row], rel=1e-4)
    assert [table.undo(place, 0.5) for place in (1, 3, 7)] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e30, 1e200])
def test_very_small_and_very_large_numbers_are_standardised(size: float) -> None:
    raw = np.random.default_rng(3).normal(size=50)
    view = fit_table(Rows("t", {"a": raw * size}), numbers=["a"]).encode(Rows("t", {"a": raw * size}))
    assert np.allclose(view[:, 0].numpy(), (raw - raw.mean()) / raw.std(), atol=1e-5)


def test_negative_numbers_have_logarithms_too() -> None:
    rows = Rows("t", {"a": np.array([-9.0, 0.0, 9.0, 99.0])})
    table = fit_table(rows, numbers=["a"], log=["a"])
    expected = np.array([-np.log(10), 0.0, np.log(10), np.log(100)])
    assert np.allclose(table.encode(rows)[:, 0].numpy(), (expected - expected.mean()) / expected.std(), atol=1e-6)


def test_of_very_many_categories_the_most_frequent_are_kept() -> None:
    names = [f"n{number}" for number in range(MOST_CATEGORIES + 2) for _ in range(2)] + ["n7"]
    rows = Rows("t", {"a": texts(*names)})
    table = fit_table(rows, categories=["a"], rare=2)
    assert len(table.names) == MOST_CATEGORIES + 1
    assert table.names[:2] == ("a = n7", "a = n0")
    assert table.names[-1] == "a is another"
    assert "1,002 frequent categories" in table.notices[0]
    assert table.encode(rows).sum().item() == len(rows)


def test_the_view_makes_examples() -> None:
    rows = table_rows()
    view = fit_table(rows, numbers=["hours", "miles"], categories=["carrier"]).encode(rows)
    made = Examples.make(view, torch.arange(len(rows)) % 2, ["no", "yes"], "flights")
    assert made.shape == (8,)


def test_what_cannot_be_a_table_is_said() -> None:
    rows = table_rows()
    for given, kind, said in (
        ({"numbers": ["hour"]}, InputError, "did you mean `hours`"),
        ({"numbers": ["carrier"]}, InputError, "holds no numbers"),
        ({"numbers": ["hours"], "categories": ["hours"]}, InputError, "named twice"),
        ({"numbers": ["hours"], "log": ["miles"]}, InputError, "not among `numbers`"),
        ({"numbers": ["hours"], "clip": 0.0}, InputError, "`clip`"),
        ({"numbers": ["hours"], "clip": 3.0, "trees": True}, InputError, "their own units"),
        ({"categories": ["carrier"], "rare": 0}, InputError, "`rare`"),
        ({"numbers": ["hours"], "rare": "seldom"}, InputError, "`rare`"),
        ({"numbers": ["hours"], "log": 3}, InputError, "`log` does not name columns"),
        ({}, DataError, "tells rows apart"),
    ):
        with pytest.raises(kind, match=said):
            fit_table(rows, **given)
    table = fit_table(rows, numbers=["hours"])
    with pytest.raises(DataError, match=r"infinite numbers(.|\n)*row 1"):
        table.encode(Rows("t", {"hours": np.array([1.0, np.inf])}))
    with pytest.raises(DataError, match="too large"):
        table.encode(Rows("t", {"hours": np.array([1.0, 1e300])}))
    assert fit_table(rows, numbers=["hours"], clip=5.0).encode(Rows("t", {"hours": np.array([1e300])}))[0, 0] == 5.0


@pytest.mark.parametrize(
    "harm",
    [
        {"kind": "words"}, {"numbers": None}, {"numbers": [{"column": "a"}]}, {"categories": [{"known": 3}]},
        {"clip": "much"}, {"numbers": [], "categories": []},
    ],
    ids=["kind", "none", "half", "categories", "clip", "empty"],
)  # fmt: skip
def test_damaged_facts_are_refused(harm: dict[str, Any]) -> None:
    facts = dict(fit_table(table_rows(), numbers=["hours"], categories=["carrier"]).facts())
    with pytest.raises(DamagedError):
        table_of({**facts, **harm})


def test_a_scale_of_zero_is_damage() -> None:
    facts = json.loads(json.dumps(fit_table(table_rows(), numbers=["hours"]).facts()))
    facts["numbers"][0]["scale"] = 0.0
    with pytest.raises(DamagedError, match="a scale is positive"):
        table_of(facts)
