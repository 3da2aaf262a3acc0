"""Rare classes: how often an epoch shows them, that what comes again looks different, and what they weigh."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from tutelage.data import Batches, Examples, Views
from tutelage.data.balance import balanced, class_weights, counts_of, long_tail
from tutelage.errors import DataError, InputError, RecipeError, TutelageError
from tutelage.losses import cross_entropy, soft_target
from tutelage.objective import Objective, Term
from tutelage.recipe import Recipe, from_mapping
from tutelage.run import run_recipe
from tutelage.run.arms import batches_of
from tutelage.run.classweights import weigh_classes
from tutelage.run.job import Job, job_of_recipe
from tutelage.run.teacher import teacher_key
from tutelage.types import Batch

TINY: dict[str, Any] = {
    "name": "tiny",
    "seeds": [0],
    "data": {"source": "digits", "limit": 300},
    "teacher": {"model": "mlp", "args": {"width": 16}, "train": {"epochs": 2, "batch_size": 32, "lr": 0.01}},
    "student": {"model": "mlp", "args": {"width": 4, "depth": 1}},
    "train": {"epochs": 2, "batch_size": 32, "lr": 0.01},
    "report": {"bootstrap": 100, "latency": False},
}


def make(*counts: int) -> Examples:
    """So many examples of each class, of which no two are alike."""
    total = sum(counts)
    inputs = torch.arange(total * 16, dtype=torch.int64).reshape(total, 1, 4, 4).remainder(251).to(torch.uint8)
    inputs[:, 0, 0, 0], inputs[:, 0, 0, 1] = torch.arange(total) % 256, torch.arange(total) // 256
    targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return Examples.make(inputs, targets, [f"c{number}" for number in range(len(counts))], "set")


def batches(examples: Examples, how: str, *, size: int = 8, views: Views | None = None, **more: int) -> Batches:
    return Batches(examples, batch_size=size, views=views or Views(), balance=how, **{"seed": 0, **more})


def tally(examples: Examples) -> list[int]:
    return counts_of(examples.targets, examples.classes).tolist()


def met(found: list[Batch]) -> Counter[int]:
    return Counter(torch.cat([batch.ids for batch in found]).tolist())


def tiny(*changes: str) -> Recipe:
    return from_mapping(TINY, changes)


def job(*changes: str) -> Job:
    return job_of_recipe(tiny(*changes), trust=False)


# ---- sampling --------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=5),
    size=st.integers(2, 40),
    epoch=st.integers(0, 4),
    seed=st.integers(0, 2**63),
    how=st.sampled_from(["over", "under"]),
)
def test_an_epoch_shows_every_class_equally_often(
    counts: list[int], size: int, epoch: int, seed: int, how: str
) -> None:
    examples = make(*counts)
    found = list(batches(examples, how, size=size, seed=seed).epoch(epoch))
    each = max(counts) if how == "over" else min(counts)
    assert torch.cat([batch.target for batch in found]).bincount().tolist() == [each] * len(counts)
    seen = met(found)
    for label, count in enumerate(counts):
        own = examples.ids[examples.targets == label].tolist()
        times = [seen[one] for one in own]
        # As often as each other, but for one.
        assert sum(times) == each
        assert max(times) - min(times) <= 1
        assert max(times) == -(-each // count)
    lengths = [len(batch) for batch in found]
    assert all(length == size for length in lengths[:-1])
    assert 2 <= lengths[-1] <= size + 1


def test_every_batch_of_an_oversampled_epoch_is_about_balanced() -> None:
    # Five rare examples in passes of one batch: four rows of each class in every one of them.
    rare = torch.stack([batch.target for batch in batches(make(40, 5), "over", size=8).epoch(0)])
    assert rare.sum(1).tolist() == [4] * 10
    for batch in batches(make(40, 20, 10, 30), "over", size=20).epoch(1):
        assert batch.target.bincount(minlength=4).min() >= 1


@pytest.mark.parametrize("how", ["over", "under"])
def test_the_order_of_rows_and_the_batch_size_say_nothing(how: str) -> None:
    examples = make(30, 7, 12)
    shuffled = examples.take(torch.randperm(49, generator=torch.Generator().manual_seed(1)))
    one, other = (torch.cat([batch.ids for batch in batches(e, how, seed=3).epoch(2)]) for e in (examples, shuffled))
    assert torch.equal(one, other)
    # Which examples an epoch shows follows from (seed, epoch, id), however they are cut into batches.
    assert met(list(batches(examples, how, size=5, seed=3).epoch(2))) == met(
        list(batches(examples, how, size=16, seed=3).epoch(2))
    )


@pytest.mark.parametrize("how", ["over", "under"])
@pytest.mark.parametrize("views", [Views(), Views(shift=1)], ids=["plain", "random"])
def test_an_epoch_goes_on_from_any_step(how: str, views: Views) -> None:
    source = batches(make(30, 7, 12), how, views=views)
    whole = list(source.epoch(1))
    assert len(whole) == source.steps_per_epoch
    for start in range(len(whole) + 1):
        rest = list(source.epoch(1, start=start))
        assert len(rest) == len(whole) - start
        for again, before in zip(rest, whole[start:], strict=True):
            assert torch.equal(again.ids, before.ids)
            assert torch.equal(again.inputs["x"], before.inputs["x"])
            assert again.view == before.view


def test_under_leaves_out_others_in_every_epoch() -> None:
    examples = make(40, 4)
    source = batches(examples, "under", size=4)
    epochs = [set(met(list(source.epoch(number)))) for number in range(40)]
    rare = set(examples.ids[examples.targets == 1].tolist())
    assert all(rare < epoch for epoch in epochs)
    assert len({frozenset(epoch) for epoch in epochs}) == 40
    # In 40 epochs of 4 out of 40, an example is missed by all with probability 0.9⁴⁰ = 1.5 %.
    assert len(set.union(*epochs)) > 40
    assert met(list(batches(examples, "under", size=4, seed=1).epoch(0))).keys() != epochs[0]


@pytest.mark.parametrize("recorded", [0, 5])
@pytest.mark.parametrize(("counts", "size"), [((40, 10, 20), 8), ((100, 11), 4), ((33, 16, 9, 50), 7)])
def test_what_comes_again_in_an_epoch_has_another_view(counts: tuple[int, ...], size: int, recorded: int) -> None:
    source = batches(make(*counts), "over", size=size, views=Views(shift=1), recorded=recorded)
    seen: Counter[tuple[int, int]] = Counter()
    for epoch in range(2):
        for batch in source.epoch(epoch):
            seen.update((one, batch.view) for one in batch.ids.tolist())
    if recorded:
        assert len({view for _, view in seen}) == recorded
    else:
        # Every (example, view) once: in the whole epoch, and in the next one as well.
        assert max(seen.values()) == 1
        assert source.passes > 1


def test_with_fewer_examples_than_its_share_of_a_batch_a_class_repeats_in_it() -> None:
    source = batches(make(30, 1), "over", size=10, views=Views(shift=1))
    views = [batch.view for batch in source.epoch(0)]
    assert len(set(views)) == len(views) == source.passes == 6  # each batch has its own, and that is all it can


def test_what_is_balanced_already_keeps_its_bits() -> None:
    examples = make(20, 20)
    for how in ("over", "under"):
        assert balanced(examples, how, seed=0) is None
        for epoch in range(2):
            plain = list(batches(examples, "none", views=Views(shift=1)).epoch(epoch))
            for one, other in zip(batches(examples, how, views=Views(shift=1)).epoch(epoch), plain, strict=True):
                assert torch.equal(one.inputs["x"], other.inputs["x"])
                assert one.view == other.view


def test_a_class_without_examples_is_left_out() -> None:
    examples = make(8, 0, 4)
    seen = torch.cat([batch.target for batch in batches(examples, "over").epoch(0)])
    assert seen.bincount().tolist() == [8, 0, 8]


# ---- weights ---------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(1, 10_000), min_size=2, max_size=12))
def test_balanced_weights_are_those_of_scikit_learn(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    found = class_weights("balanced", np.array(counts), [str(one) for one in counts])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[labels].mean() == pytest.approx(1.0)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.9999, 1 - 1e-9])
def test_effective_weights_are_inverse_to_the_effective_number(beta: float) -> None:
    counts = np.array([5000, 500, 50, 5, 1])
    # The geometric series itself: 1 + β + β² + … of n terms.
    series = np.array([sum(beta**power for power in range(n)) for n in counts])
    found = class_weights({"effective": beta}, counts, list("abcde"))
    np.testing.assert_allclose(found, 5 / series / (1 / series).sum(), rtol=1e-6)
    assert found.sum() == pytest.approx(5.0)
    if beta == 0.999:
        assert np.array_equal(found, class_weights("effective", counts, list("abcde")))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("balancd", "did you mean"),
        ("", "no such class weights"),
        (True, "no such class weights"),
        (2.0, "a number for each class"),
        ({"effective": 1.0}, "0 ≤ β < 1"),
        ({"effective": "high"}, "0 ≤ β < 1"),
        ({"effective": 0.9, "more": 1}, "no such class weights"),
        ([1.0, 2.0], "3 numbers ≥ 0"),
        ([1.0, -1.0, 1.0], "3 numbers ≥ 0"),
        ([0, 0, 0], "not all of them 0"),
        ([1.0, float("nan"), 1.0], "3 numbers ≥ 0"),
        (["a", "b", "c"], "3 numbers ≥ 0"),
    ],
)
def test_weights_that_mean_nothing_are_refused(how: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        class_weights(how, np.array([3, 2, 1]), ["x", "y", "z"])


def test_a_class_that_nobody_saw_cannot_be_weighed() -> None:
    with pytest.raises(DataError, match="y") as caught:
        class_weights("balanced", np.array([3, 0]), ["x", "y"])
    assert "data.limit" in str(caught.value)
    assert class_weights([1, 2], np.array([3, 0]), ["x", "y"]).tolist() == [1.0, 2.0]


def test_words_become_numbers_in_the_objective() -> None:
    train = make(30, 6)
    methods = {
        "weighted": Objective([
            Term(soft_target, temperature=4.0),
            Term(cross_entropy, weight=0.5, name="hard", options={"class_weights": "balanced", "label_smoothing": 0.1}),
        ]),
        "plain": Objective([cross_entropy]),
    }  # fmt: skip
    found = weigh_classes(methods, train.targets, train.classes, balance="none")
    assert found["plain"] is methods["plain"]
    assert found["weighted"].names == ("soft_target", "hard")
    assert found["weighted"].terms[0] is methods["weighted"].terms[0]
    term = found["weighted"].terms[1]
    weights = torch.tensor([36 / 60, 36 / 12])
    assert torch.equal(term.options["class_weights"], weights)
    logits, labels = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 2
    # As torch weighs them, but for its division by the weights of the batch.
    expected = F.cross_entropy(logits, labels, weight=weights, label_smoothing=0.1, reduction="sum") / 9
    torch.testing.assert_close(term.loss(logits, labels, **term.options), expected)


# ---- a long tail -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.0, 10.0, 100.0, 1000.0])
def test_a_long_tail_falls_exponentially(factor: float) -> None:
    examples = make(*[200] * 5)
    kept = long_tail(examples, factor)
    counts = tally(kept)
    expected = [max(1, int(200 / factor ** (label / 4) + 1e-9)) for label in range(5)]
    assert counts == expected
    assert set(kept.ids.tolist()) <= set(examples.ids.tolist())
    assert kept.ids.tolist() == sorted(kept.ids.tolist())
    # A longer tail is a part of a shorter one, whatever the order of rows.
    shuffled = examples.take(torch.randperm(1000, generator=torch.Generator().manual_seed(0)))
    assert set(long_tail(shuffled, factor).ids.tolist()) == set(kept.ids.tolist())
    assert set(long_tail(examples, 2 * factor).ids.tolist()) <= set(kept.ids.tolist())


def test_a_long_tail_keeps_what_there_is_of_a_class() -> None:
    assert tally(long_tail(make(10, 40, 2, 40), 8.0)) == [10, 20, 2, 5]


# ---- in recipes ------------------------------------------------------------------------------------------------------


def test_a_recipe_thins_out_only_what_is_learned() -> None:
    plain, tail = job(), job("data.longtail=20")
    assert tail.splits.val.fingerprint == plain.splits.val.fingerprint
    assert tail.splits.test.fingerprint == plain.splits.test.fingerprint
    counts = tally(tail.splits.train)
    assert counts[0] == tally(plain.splits.train)[0]
    assert 1 <= counts[-1] <= 2
    assert len(tail.splits.train) < len(plain.splits.train)


def test_a_recipe_weighs_by_the_part_that_is_learned() -> None:
    arm = "arms={scratch: [{loss: cross_entropy, options: {class_weights: balanced}}]}"
    found = job("data.longtail=5", arm)
    weights = found.arms["scratch"].objective.terms[0].options["class_weights"]
    targets = found.splits.train.targets.numpy()
    expected = compute_class_weight("balanced", classes=np.arange(10), y=targets)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_weights_are_taken_from_the_labels_that_are_known() -> None:
    arm = "arms={scratch: [{loss: cross_entropy, options: {class_weights: balanced}}]}"
    found = job("data.longtail=5", "data.labelled=0.5", arm)
    assert found.labelled is not None
    known = torch.isin(found.splits.train.ids, found.labelled)
    counts = found.splits.train.targets[known].bincount(minlength=10)
    weights = found.arms["scratch"].objective.terms[0].options["class_weights"]
    torch.testing.assert_close(weights, counts.sum() / (10.0 * counts))
    assert int(counts.sum()) < len(found.splits.train)


def test_a_recipe_balances_teacher_and_students_alike() -> None:
    plain, over = job("data.longtail=5"), job("data.longtail=5", "data.balance=over")
    most = max(tally(plain.splits.train))
    steps = [batches_of(one, one.arms, size=32, seed=0).steps_per_epoch for one in (plain, over)]
    assert steps == [-(-len(plain.splits.train) // 32), -(-10 * most // 32)]
    # A teacher that learned from other epochs is another teacher.
    keys = []
    for one in (plain, over, job("data.longtail=5")):
        assert one.teacher.build is not None
        torch.manual_seed(0)
        keys.append(teacher_key(one, one.teacher.build()))
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["data.balance=ovre"], "did you mean"),
        (["data.longtail=0.5"], "from 1 to 1000000"),
        (["arms={scratch: [{loss: cross_entropy, options: {class_weights: balancd}}]}"], "arms.scratch.0.options"),
        (["arms={scratch: [{loss: cross_entropy, options: {class_weights: [1, 2]}}]}"], "10 numbers"),
        (
            ["data.balance=under", "arms={scratch: [{loss: cross_entropy, options: {class_weights: balanced}}]}"],
            "made up for twice",
        ),
        (["data.balance=over", "data.views={shift: 1}", "teacher.store={views: replay}"], "views: 4"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(changes: list[str], words: str) -> None:
    with pytest.raises(TutelageError, match=words) as caught:
        job(*changes)
    assert isinstance(caught.value, (RecipeError, InputError))


def test_a_store_of_one_of_several_teachers_is_looked_at_too() -> None:
    one, other = ({**TINY["teacher"], "seed": seed, "store": {"views": "replay"}} for seed in (0, 1))
    several = {key: value for key, value in TINY.items() if key != "teacher"} | {"teachers": {"a": one, "b": other}}
    changes = ["data.views={shift: 1}"]
    assert job_of_recipe(from_mapping(several, changes), trust=False).balance == "none"
    with pytest.raises(InputError, match="replays"):
        job_of_recipe(from_mapping(several, [*changes, "data.balance=over"]), trust=False)


@pytest.mark.parametrize("store", ["null", "{views: 3}"], ids=["live", "stored"])
def test_a_balanced_run_learns_rare_classes(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    shape = ("data.limit=null", "data.longtail=60", "data.views={shift: 1}", f"teacher.store={store}")
    # About as many steps for both, so that balance is what differs.
    width = "student.args={width: 32, depth: 1}"
    plain = run_recipe(tiny(*shape, width, "train.epochs=8"), tmp_path / "plain", quiet=True)
    over = run_recipe(tiny(*shape, width, "data.balance=over", "train.epochs=2"), tmp_path / "over", quiet=True)
    recall = [{row["class"]: row["recall"]["scratch"] for row in run.report["per_class"]} for run in (plain, over)]
    rare = [np.mean([one[name] for name in "789"]) for one in recall]
    assert rare[1] > rare[0] + 0.1
    models = {row["name"]: row["metrics"] for row in over.report["models"]}
    # Balanced accuracy, by the name that the report has for it.
    own = np.mean([row["recall"]["scratch"] for row in over.report["per_class"]])
    assert models["scratch"]["macro_recall"]["value"] == pytest.approx(own)
    assert "macro_f1" in models["scratch"]
