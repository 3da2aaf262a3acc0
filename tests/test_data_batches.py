"""Batches: every example once an epoch, the same order from any step on, and no batch of one."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data import Batches, Examples, Views, as_model_input, plain_batches
from tutelage.errors import DataError, InputError
from tutelage.types import Batch


def make(count: int, *, side: int = 4) -> Examples:
    inputs = torch.randint(0, 256, (count, 1, side, side), dtype=torch.uint8)
    return Examples.make(inputs, torch.arange(count) % 2, ["a", "b"], "set")


def ids(batches: list[Batch]) -> list[int]:
    return torch.cat([batch.ids for batch in batches]).tolist()


@settings(max_examples=60, deadline=None)
@given(count=st.integers(2, 150), size=st.integers(2, 70), epoch=st.integers(0, 5), seed=st.integers(0, 2**63))
def test_every_example_comes_once_an_epoch(count: int, size: int, epoch: int, seed: int) -> None:
    examples = make(count)
    batches = Batches(examples, batch_size=size, views=Views(), seed=seed)
    epoch_batches = list(batches.epoch(epoch))
    assert sorted(ids(epoch_batches)) == examples.ids.tolist()
    assert len(epoch_batches) == batches.steps_per_epoch
    lengths = [len(batch) for batch in epoch_batches]
    assert min(lengths) >= 2
    assert max(lengths) <= size + 1
    assert all(length == size for length in lengths[:-1])


@pytest.mark.parametrize(
    ("count", "size", "lengths"),
    [(10, 5, [5, 5]), (11, 5, [5, 6]), (12, 5, [5, 5, 2]), (3, 2, [3]), (3, 64, [3]), (2, 2, [2]), (6, 5, [6])],
)
def test_a_last_batch_of_one_joins_the_one_before(count: int, size: int, lengths: list[int]) -> None:
    batches = Batches(make(count), batch_size=size, views=Views(), seed=0)
    assert [len(batch) for batch in batches.epoch(0)] == lengths


@pytest.mark.parametrize("views", [Views(), Views(flip=0.5, shift=1)])
def test_batches_hold_what_belongs_together(views: Views) -> None:
    examples = make(40)
    where = {int(own): place for place, own in enumerate(examples.ids)}
    for batch in Batches(examples, batch_size=7, views=views, seed=3).epoch(2):
        places = torch.tensor([where[int(own)] for own in batch.ids])
        assert torch.equal(batch.target, examples.targets[places])
        assert batch.inputs["x"].dtype == torch.float32
        assert (batch.view != 0) == views.random
        if not views.random:
            assert torch.equal(batch.inputs["x"], as_model_input(examples.inputs[places]))


@pytest.mark.parametrize("views", [Views(), Views(flip=0.5, shift=1, mixup=0.4)])
def test_an_epoch_goes_on_from_any_step(views: Views) -> None:
    batches = Batches(make(45), batch_size=8, views=views, seed=1)
    whole = list(batches.epoch(4))
    for start in range(batches.steps_per_epoch + 1):
        tail = list(batches.epoch(4, start=start))
        assert len(tail) == len(whole) - start
        for one, other in zip(tail, whole[start:], strict=True):
            assert torch.equal(one.ids, other.ids)
            assert torch.equal(one.inputs["x"], other.inputs["x"])
            assert torch.equal(one.target, other.target)
            assert one.view == other.view


def test_the_order_depends_on_seed_and_epoch_but_not_on_the_batch_size() -> None:
    examples = make(50)

    def order(size: int, seed: int, epoch: int) -> list[int]:
        return ids(list(Batches(examples, batch_size=size, views=Views(), seed=seed).epoch(epoch)))

    base = order(8, 0, 0)
    assert base == order(2, 0, 0) == order(50, 0, 0)
    assert base != order(8, 1, 0)
    assert base != order(8, 0, 1)
    assert base != examples.ids.tolist()


def test_the_order_does_not_depend_on_how_the_data_came() -> None:
    examples = make(30)
    shuffle = torch.randperm(30)
    again = Examples.make(examples.inputs[shuffle], examples.targets[shuffle], examples.classes, "other")
    one, other = (Batches(e, batch_size=4, views=Views(), seed=5) for e in (examples, again))
    assert ids(list(one.epoch(1))) == ids(list(other.epoch(1)))


def test_every_place_is_equally_likely() -> None:
    examples = make(20)
    batches = Batches(examples, batch_size=20, views=Views(), seed=0)
    places = torch.stack([torch.argsort(batches.order(epoch)) for epoch in range(400)]).double()
    # The mean place of an example over 400 epochs has a deviation of 5.77 / 20 around 9.5.
    assert float((places.mean(0) - 9.5).abs().max()) < 4 * 5.77 / 20


def test_copies_are_all_there() -> None:
    inputs = torch.zeros(6, 1, 2, 2, dtype=torch.uint8)
    examples = Examples.make(inputs, torch.tensor([0, 1] * 3), ["a", "b"], "set")
    targets = torch.cat([b.target for b in Batches(examples, batch_size=2, views=Views(), seed=0).epoch(0)])
    assert sorted(targets.tolist()) == [0, 0, 0, 1, 1, 1]


def test_batches_are_their_own_copies() -> None:
    examples = Examples.make(torch.rand(10, 3), torch.arange(10) % 2, ["a", "b"], "set")
    before = examples.inputs.clone()
    for batch in Batches(examples, batch_size=5, views=Views(), seed=0).epoch(0):
        batch.inputs["x"].zero_()
    assert torch.equal(examples.inputs, before)


def test_what_cannot_be_batched_is_refused() -> None:
    with pytest.raises(DataError, match=r"nothing to learn from\n  given     1 training example"):
        Batches(make(4).take(torch.tensor([0])), batch_size=2, views=Views(), seed=0)
    with pytest.raises(InputError, match="batch size is out of range"):
        Batches(make(4), batch_size=1, views=Views(), seed=0)
    with pytest.raises(InputError, match="shift is as large as the image"):
        Batches(make(4), batch_size=2, views=Views(shift=4), seed=0)
    with pytest.raises(InputError, match="batch size is out of range"):
        next(plain_batches(make(4), 0))


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_plain_batches_keep_the_order(size: int) -> None:
    examples = make(8)
    batches = list(plain_batches(examples, size))
    assert ids(batches) == examples.ids.tolist()
    assert torch.equal(torch.cat([b.inputs["x"] for b in batches]), as_model_input(examples.inputs))
    assert torch.equal(torch.cat([b.target for b in batches]), examples.targets)
    assert all(b.view == 0 for b in batches)


def test_epochs_are_lazy() -> None:
    batches = Batches(make(20), batch_size=2, views=Views(flip=1.0), seed=0)
    assert len(list(itertools.islice(batches.epoch(0), 3))) == 3
