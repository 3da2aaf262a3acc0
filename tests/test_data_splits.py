"""Splits: shares kept class by class, copies together, the same cut for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tutelage.data import Examples, Splits, fold_of, leaks, split, split_off
from tutelage.data.splits import assemble
from tutelage.errors import DataError, InputError


def make(counts: list[int], *, twins: int = 0, start: int = 0) -> Examples:
    """Examples of distinct content with so many of each class; the first `twins` stand twice."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    inputs = torch.arange(start, start + len(labels)).float().unsqueeze(1)
    inputs, labels = torch.cat([inputs, inputs[:twins]]), torch.cat([labels, labels[:twins]])
    return Examples.make(inputs, labels, [f"class {n}" for n in range(len(counts))], "set")


def contents(part: Examples) -> list[float]:
    return sorted(part.inputs.flatten().tolist())


def test_shares_are_kept_in_every_class() -> None:
    whole = make([1000, 100, 10])
    parts = split(whole, val=0.1, test=0.2)
    for part, share in ((parts.train, 0.7), (parts.val, 0.1), (parts.test, 0.2)):
        assert torch.bincount(part.targets).tolist() == [round(n * share) for n in (1000, 100, 10)]
    assert sorted(contents(parts.train) + contents(parts.val) + contents(parts.test)) == contents(whole)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(3, 40), min_size=2, max_size=4),
    val=st.floats(0.01, 0.9),
    test=st.floats(0.01, 0.9),
    seed=st.integers(0, 99),
)
def test_every_part_has_every_class_and_nothing_is_lost(counts: list[int], val: float, test: float, seed: int) -> None:
    assume(val + test < 0.99)
    whole = make(counts)
    parts = split(whole, val=val, test=test, seed=seed)
    assert sorted(contents(parts.train) + contents(parts.val) + contents(parts.test)) == contents(whole)
    for part in (parts.train, parts.val, parts.test):
        assert set(part.targets.tolist()) == set(range(len(counts)))


def test_copies_never_stand_on_two_sides() -> None:
    whole = make([60, 60], twins=90)
    for seed in range(5):
        parts = split(whole, val=0.2, test=0.2, seed=seed)
        assert leaks(parts) == {"val in train": 0, "test in train": 0, "test in val": 0}
        assert len(parts.train) + len(parts.val) + len(parts.test) == len(whole)


def test_copies_with_different_labels_stay_together_too() -> None:
    inputs = torch.arange(20).float().repeat(2).unsqueeze(1)
    labels = torch.arange(2).repeat_interleave(20)
    parts = split(Examples.make(inputs, labels, ["a", "b"], "set"), val=0.2, test=0.2)
    assert sum(leaks(parts).values()) == 0


def test_the_cut_depends_on_the_seed_and_on_nothing_else() -> None:
    whole = make([80, 80])
    one, again, other = split(whole, val=0.2, test=0.2), split(whole, val=0.2, test=0.2), split(
        whole, val=0.2, test=0.2, seed=1
    )  # fmt: skip
    assert one.fingerprint == again.fingerprint
    assert one.fingerprint != other.fingerprint
    torch.manual_seed(123)
    np.random.seed(123)
    assert split(whole, val=0.2, test=0.2).fingerprint == one.fingerprint


def test_split_off_keeps_the_rest() -> None:
    whole = make([50, 30])
    rest, cut = split_off(whole, fraction=0.2)
    assert (len(rest), len(cut)) == (64, 16)
    assert sorted(contents(rest) + contents(cut)) == contents(whole)


@pytest.mark.parametrize(("val", "test"), [(0.0, 0.2), (0.2, 0.0), (0.6, 0.4), (-0.1, 0.2), (float("nan"), 0.2)])
def test_shares_out_of_range(val: float, test: float) -> None:
    with pytest.raises(InputError, match="leave no three parts"):
        split(make([9, 9]), val=val, test=test)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        split_off(make([9, 9]), fraction=fraction)


def test_a_class_that_is_too_small_is_named() -> None:
    with pytest.raises(DataError, match=r"has no example of 1 of 2 classes \(set\)\n  given     class 1"):
        split(make([30, 2]), val=0.2, test=0.2)
    with pytest.raises(DataError, match="class 1"):
        split_off(make([30, 1]), fraction=0.2)


def test_leaks_counts_by_content() -> None:
    train, val, test = make([10, 10]), make([3, 3]), make([4, 4], start=4)
    assert leaks(Splits(train, val, test)) == {"val in train": 6, "test in train": 8, "test in val": 2}


def test_fingerprint_sees_which_part_is_which() -> None:
    one, two, three = make([3, 3]), make([3, 3], start=6), make([3, 3], start=12)
    assert Splits(one, two, three).fingerprint != Splits(one, three, two).fingerprint


def _assemble(allow_overlap: bool = False, **parts: Examples) -> Splits:
    return assemble(parts, val=0.1, test=0.2, seed=0, where="here", allow_overlap=allow_overlap)


def test_missing_parts_are_cut_from_the_training_part() -> None:
    train, val, test = make([50, 50]), make([5, 5], start=100), make([7, 7], start=200)
    assert [len(p) for p in _parts(_assemble(train=train))] == [70, 10, 20]
    assert [len(p) for p in _parts(_assemble(train=train, test=test))] == [90, 10, 14]
    assert [len(p) for p in _parts(_assemble(train=train, val=val))] == [80, 10, 20]
    assert [len(p) for p in _parts(_assemble(train=train, val=val, test=test))] == [100, 10, 14]


def _parts(splits: Splits) -> tuple[Examples, Examples, Examples]:
    return splits.train, splits.val, splits.test


def test_shared_examples_are_an_error_unless_allowed() -> None:
    train, val, test = make([50, 50]), make([5, 5], start=46), make([7, 7], start=200)
    with pytest.raises(DataError, match=r"stand in two parts.*\(here\)\n  given     10 of val in train\nhint: remove"):
        _assemble(train=train, val=val, test=test)
    assert len(_assemble(True, train=train, val=val, test=test).train) == 100


def test_parts_must_be_alike() -> None:
    train = make([50, 50])
    other = Examples.make(torch.rand(10, 2), torch.arange(10) % 2, train.classes, "set")
    with pytest.raises(DataError, match=r"given     \(2,\) torch.float32\n  expected  \(1,\) torch.float32"):
        _assemble(train=train, test=other)
    one = make([50, 50]).targets == 0
    with pytest.raises(DataError, match="only in val: class 1; only in train: none"):
        _assemble(train=train.take(one.nonzero().flatten()), val=make([5, 5], start=200))


def test_too_few_examples_for_the_classes() -> None:
    with pytest.raises(DataError, match=r"5 examples are too few for 2 classes \(here\)\n  expected  at least 6"):
        _assemble(train=make([3, 2]))


def _twins_of_groups() -> Examples:
    """Forty groups of five, of which some share a content with the next one."""
    inputs = torch.arange(200, dtype=torch.float32).reshape(-1, 1).repeat(1, 2)
    groups = [f"g{row // 5}" for row in range(200)]
    for row in range(4, 120, 10):  # g0 and g1, g2 and g3, …
        inputs[row + 1] = inputs[row]
    return Examples.make(inputs, torch.arange(200) % 2, ["a", "b"], "twins", groups=groups)


def test_a_content_of_several_groups_stays_in_one_part() -> None:
    whole = _twins_of_groups()
    parts = split(whole, val=0.2, test=0.3)
    folds = [fold_of(parts, fold, 3, val=0.2) for fold in range(1, 4)]
    for found in (parts, *folds):
        ids = [set(part.ids.tolist()) for part in (found.train, found.val, found.test)]
        assert not ids[0] & ids[1]
        assert not ids[0] & ids[2]
        assert not ids[1] & ids[2]
    # The rest of a group is torn by no fold: only copies leave it.
    twice = {
        number for number, count in zip(*np.unique(whole.ids.numpy(), return_counts=True), strict=True) if count > 1
    }
    for found in folds:
        names = [
            {group for group, one in zip(part.groups.tolist(), part.ids.tolist(), strict=True) if one not in twice}
            for part in (found.train, found.test)
            if part.groups is not None
        ]
        assert not names[0] & names[1]
