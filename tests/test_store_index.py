"""The index against a plain dictionary: every id that is there is found at its row, and nothing else ever is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import DamagedError
from tutelage.store.index import Index

LAST = 2**63 - 1

Ints = np.ndarray


def ints(values: Sequence[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def check(ids: Ints, views: Ints, *, asked: Ints | None = None) -> Index:
    """Ask for every row, and for ids that are not there, in every view."""
    index = Index(ids, views)
    rows = {(int(id_), int(view)): row for row, (id_, view) in enumerate(zip(ids, views, strict=True))}
    assert sorted(index.views) == sorted({int(view) for view in views})
    strange = ints([0, 1, 2, LAST, LAST - 1, 2**62, 12345]) if asked is None else asked
    near = np.concatenate([ids[:50], ids[:50] + 1, ids[:50] - 1])  # wraps at the extremes, and so meets negative ones
    for view in [*index.views, 99]:
        own = ids[views == view]
        assert np.array_equal(index.ids_of(view), np.sort(own))
        turned = np.random.default_rng(0).permutation(own)
        places = index.find(turned, view)
        if view == 99 and view not in views:
            assert places is None
            assert len(index.ids_of(view)) == 0
        else:
            assert places is not None
            assert index.order[places].tolist() == [rows[int(id_), view] for id_ in turned]
        for id_ in [*strange, *near, -1, -2, -(2**63), -LAST]:
            found = index.find(ints([id_]), view)
            expected = rows.get((int(id_), view))
            assert (None if found is None else index.order[found].tolist()) == (
                None if expected is None else [expected]
            )
    return index


def clustered(kind: str, count: int) -> Ints:
    """Different ids that the first bits hardly tell apart, in no order."""
    generator = np.random.default_rng(count)
    steps = np.arange(count, dtype=np.int64)
    values = {
        "random": lambda: generator.integers(0, LAST, count),
        "first": lambda: steps,
        "last": lambda: LAST - steps,
        "middle": lambda: 2**62 + steps,
        "even": lambda: steps * 2 + 2**40,
        "low bits": lambda: steps << 40 | 12345,
        "two heaps": lambda: np.where(steps % 2 == 0, steps, LAST - steps),
        "squares": lambda: steps**2,
        "doubling": lambda: np.unique(
            np.concatenate([np.int64(1) << np.arange(62), generator.integers(0, LAST, count)])
        ),
    }[kind]()
    return generator.permutation(np.unique(values))


KINDS = ["random", "first", "last", "middle", "even", "low bits", "two heaps", "squares", "doubling"]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_one_view(kind: str, count: int) -> None:
    ids = clustered(kind, count)
    check(ids, np.zeros(len(ids), dtype=np.int64))


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_thousand(kind: str) -> None:
    ids = clustered(kind, 100_000)
    index = Index(ids, np.full(len(ids), 5))
    where = {id_: row for row, id_ in enumerate(ids.tolist())}
    places = index.find(ids, 5)
    assert places is not None
    assert np.array_equal(index.order[places], np.arange(len(ids)))
    # Half of them and their neighbours, most of which are not there; each alone must say so.
    some = ids[:2000]
    for id_ in np.concatenate([some[:200] + 1, some[:200] - 1, -some[:200]]).tolist():
        found = index.find(ints([id_]), 5)
        assert (None if found is None else index.order[found].tolist()) == ([where[id_]] if id_ in where else None)
    # One that is missing among many that are not is enough.
    gap = next(candidate for candidate in range(LAST // 3, LAST) if candidate not in where)
    assert index.find(np.append(some, gap), 5) is None
    assert index.find(some, 4) is None


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, LAST) | st.integers(0, 20) | st.integers(LAST - 20, LAST) | st.integers(2**62, 2**62 + 9),
            st.sampled_from([0, 1, 2, 2**62, LAST]),
        ),
        unique=True,
        max_size=60,
    ),
    asked=st.lists(st.integers(-(2**63), LAST), max_size=10),
)  # fmt: skip
def test_any_rows(rows: list[tuple[int, int]], asked: list[int]) -> None:
    check(ints([id_ for id_, _ in rows]), ints([view for _, view in rows]), asked=ints(asked))


@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_views_do_not_mix(count: int) -> None:
    ids = clustered("random", 4 * count)
    everywhere, first, second = ids[: 2 * count], ids[2 * count : 3 * count], ids[3 * count :]
    index = check(
        np.concatenate([everywhere, first, everywhere, second]),
        np.repeat(ints([7, 7, 2**61, 2**61]), [2 * count, count, 2 * count, count]),
    )
    # What only the other view has is missing here, also beside ids that are there.
    for view, strange in ((7, second), (2**61, first)):
        assert index.find(strange, view) is None
        assert index.find(np.append(everywhere, strange[0]), view) is None
        assert np.array_equal(index.missing(np.sort(ids), view), np.sort(strange))


def test_more_views_than_are_kept_at_hand() -> None:
    ids = clustered("random", 300)
    views = np.arange(300) % 5
    index = Index(ids, views)
    for turn in range(4):
        for view in np.random.default_rng(turn).permutation(5).tolist():
            own = ids[views == view]
            places = index.find(own, view)
            assert places is not None
            assert np.array_equal(ids[index.order[places]], own)
            assert index.find(ids[views == (view + 1) % 5], view) is None


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_an_id_may_be_asked_for_many_times(count: int) -> None:
    ids = clustered("random", count)
    index = Index(ids, np.zeros(count, dtype=np.int64))
    again = np.random.default_rng(1).integers(0, count, 5000)
    places = index.find(ids[again], 0)
    assert places is not None
    assert np.array_equal(index.order[places], again)


def test_nobody_asked_for() -> None:
    index = Index(ints([3, 1]), ints([0, 0]))
    found = index.find(ints([]), 0)
    assert found is not None
    assert found.tolist() == []


def test_an_empty_store() -> None:
    index = check(ints([]), ints([]))
    assert index.views == []
    assert index.order.tolist() == []
    assert index.find(ints([1, 2]), 0) is None
    assert index.missing(ints([1, 2]), 0).tolist() == [1, 2]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 50])
@pytest.mark.parametrize("negative", [-1, -2, -(2**62), -(2**63)])
def test_a_negative_id_is_never_there(negative: int, count: int) -> None:
    # In a second view behind the first: a place past the end of one would be a row of the other.
    ids = np.arange(count, dtype=np.int64)
    index = Index(np.concatenate([ids, ids]), np.repeat(ints([1, 2]), count))
    for view in (1, 2):
        assert index.find(ints([negative]), view) is None
        assert index.find(ints([0, negative, 0]), view) is None


@pytest.mark.parametrize(
    ("ids", "views"),
    [
        ([5, 5], [0, 0]),
        ([5, 1, 9, 5], [3, 3, 3, 3]),
        ([0, 0], [0, 0]),
        ([LAST, 4, LAST], [8, 8, 8]),
        ([1, 2, 2, 1], [1, 2, 2, 2]),
    ],
)
def test_two_rows_for_one_view_of_one_example(ids: list[int], views: list[int]) -> None:
    with pytest.raises(DamagedError, match="two rows for one view of one example") as caught:
        Index(ints(ids), ints(views))
    assert "tutelage cache repair" in str(caught.value)


def test_the_same_id_in_several_views_is_no_duplicate() -> None:
    check(ints([5, 5, 5, LAST, LAST, 0, 0]), ints([0, 1, LAST, 0, LAST, 0, LAST]))


@settings(max_examples=100, deadline=None)
@given(
    here=st.sets(st.integers(0, 30) | st.integers(LAST - 30, LAST)),
    wanted=st.sets(st.integers(0, 30) | st.integers(LAST - 30, LAST)),
)
def test_what_is_missing(here: set[int], wanted: set[int]) -> None:
    index = Index(ints([*here, 7]), ints([*[4] * len(here), 5]))
    assert index.missing(ints(sorted(wanted)), 4).tolist() == sorted(wanted - here)
    assert index.missing(ints(sorted(wanted)), 5).tolist() == sorted(wanted - {7})
    assert index.missing(ints(sorted(wanted)), 6).tolist() == sorted(wanted)
