"""Folds: every example once in a test part, no copy on both sides, the classes in their shares."""

from __future__ import annotations

import pytest
import torch

from tutelage.data import Examples, Splits, fold_of, load, pool, split
from tutelage.errors import DataError, InputError


def all_folds(splits: Splits, count: int) -> list[Splits]:
    return [fold_of(splits, number, count, val=0.1) for number in range(1, count + 1)]


@pytest.mark.parametrize("count", [2, 5, 10])
def test_every_example_is_tested_once_and_never_learned_from_in_that_fold(count: int) -> None:
    splits = load("digits")
    whole, found = pool(splits), all_folds(splits, count)
    assert torch.equal(torch.cat([fold.test.ids for fold in found]).sort().values, whole.ids.sort().values)
    for fold in found:
        parts = [set(part.ids.tolist()) for part in (fold.train, fold.val, fold.test)]
        assert len(set.union(*parts)) == sum(map(len, parts)) == len(whole)
        counts = torch.bincount(fold.test.targets, minlength=10) * count
        everywhere = torch.bincount(whole.targets, minlength=10)
        assert int((counts - everywhere).abs().max()) < count
    sizes = [len(fold.test) for fold in found]
    assert max(sizes) - min(sizes) <= 10  # one for each class at most


def test_folds_do_not_depend_on_how_the_set_was_divided_before() -> None:
    digits = pool(load("digits"))
    one, other = split(digits, val=0.1, test=0.2), split(digits, val=0.3, test=0.1, seed=9)
    assert fold_of(one, 2, 5, val=0.2).fingerprint == fold_of(other, 2, 5, val=0.2).fingerprint


def test_copies_share_a_fold_whatever_their_label() -> None:
    inputs = torch.rand(40, 3)
    labels = torch.arange(40) // 20
    inputs[30:35] = inputs[:5]  # the same content under another label
    made = Examples.make(inputs, labels, ["a", "b"], "copies")
    empty = made.take(torch.arange(0))
    for number in range(1, 5):
        fold = fold_of(Splits(made, empty, empty), number, 4, val=0.2)
        assert not set(fold.test.ids.tolist()) & set(torch.cat([fold.train.ids, fold.val.ids]).tolist())


def test_a_test_part_of_its_own_stays_out() -> None:
    splits = load("digits")
    own = Splits(splits.train, splits.val, splits.test, own_test=True)
    assert len(pool(own)) == len(splits.train) + len(splits.val)
    inside = torch.cat([fold.test.ids for fold in all_folds(own, 3)])
    assert not torch.isin(splits.test.ids, inside).any()


@pytest.mark.parametrize(("number", "count"), [(0, 5), (6, 5), (1, 1)])
def test_folds_that_are_not_there_are_refused(number: int, count: int) -> None:
    with pytest.raises(InputError, match="no such fold"):
        fold_of(load("digits"), number, count, val=0.1)


def test_a_class_with_too_few_examples_is_named() -> None:
    made = Examples.make(torch.rand(23, 2), torch.tensor([0] * 20 + [1] * 3), ["many", "few"], "uneven")
    empty = made.take(torch.arange(0))
    with pytest.raises(DataError, match="class few is too small for 5 folds"):
        fold_of(Splits(made, empty, empty), 1, 5, val=0.2)
