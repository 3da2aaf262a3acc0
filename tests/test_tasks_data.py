"""Further labels of the same examples: read with them, and beside them in every part, batch and view."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.data import Batches, Examples, Splits, Views, fold_of, from_arrays, load, plain_batches, pool
from tutelage.data.arrays import load_arrays
from tutelage.data.examples import Task
from tutelage.data.sources import with_training_part
from tutelage.data.tasks import name_task, only, splits_of
from tutelage.data.unlabelled import with_unlabelled
from tutelage.errors import DataError, InputError
from tutelage.training.device import move

SIZES = {"shade": 6, "parity": 2, "third": 3}
RNG = np.random.default_rng(7)
IMAGES = RNG.integers(0, 256, (72, 4, 4), dtype=np.uint8)
SHADE = np.arange(72) % 6
ARRAYS: dict[str, Any] = {
    "x": IMAGES, "y": SHADE, "targets_parity": SHADE % 2, "classes_parity": np.array(["even", "odd"]),
    "targets_third": np.array(["low", "mid", "top"])[SHADE // 2],
}  # fmt: skip


def save(path: Path, **changes: Any) -> Path:
    np.savez(path, **{key: value for key, value in (ARRAYS | changes).items() if value is not None})
    return path


def read(path: Path, **options: Any) -> Splits:
    return load("arrays", path=path, **({"val": 0.2, "test": 0.2} | options))


@pytest.fixture
def splits(tmp_path: Path) -> Splits:
    return name_task(read(save(tmp_path / "shades.npz")), "shade")


def true_of(examples: Examples) -> dict[str, Tensor]:
    """The labels as they must be, found by the images themselves and by nothing that the code made."""
    known = {image.tobytes(): int(shade) for image, shade in zip(IMAGES, SHADE, strict=True)}
    shade = torch.tensor([known[image.numpy().tobytes()] for image in examples.inputs])
    return {"shade": shade, "parity": shade % 2, "third": shade // 2}


def same_labels(examples: Examples) -> None:
    found, expected = examples.labels, true_of(examples)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# Further labels of the same examples


def test_a_file_of_several_tasks_keeps_labels_beside_their_examples(splits: Splits) -> None:
    for part in (splits.train, splits.val, splits.test):
        same_labels(part)
        same_labels(part.take(torch.randperm(len(part))))
        same_labels(only(part, "shade") if not part.tasks else part)
        alone = only(part, "third")
        assert alone.names == {"third": ("low", "mid", "top")}
        assert torch.equal(alone.targets, part.labels["third"])
    assert splits.train.sizes == SIZES
    assert splits.train.outputs[:1] == ("shade: 0",)
    assert splits.train.outputs[6:] == ("parity: even", "parity: odd", "third: low", "third: mid", "third: top")
    assert splits_of(splits, "parity").val.classes == ("even", "odd")
    with pytest.raises(InputError, match=r"no task `parrity`.*\n.*\n.*did you mean `parity`"):
        only(splits.train, "parrity")
    with pytest.raises(InputError, match="cannot be called like a further one"):
        name_task(splits, "third")


def test_parts_of_a_file_have_labels_of_their_own(tmp_path: Path) -> None:
    ends = {"train": slice(0, 36), "val": slice(36, 54), "test": slice(54, 72)}
    keys = {"x": "x", "y": "y", "targets_parity": "targets_parity", "targets_third": "targets_third"}
    arrays = {f"{key}_{part}": ARRAYS[key][end] for key in keys for part, end in ends.items()}
    np.savez(tmp_path / "parts.npz", **arrays, classes_parity=ARRAYS["classes_parity"])
    splits = name_task(read(tmp_path / "parts.npz"), "shade")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (36, 18, 18)
    for part in (splits.train, splits.val, splits.test):
        same_labels(part)
    del arrays["targets_third_val"]
    np.savez(tmp_path / "parts.npz", **arrays)
    with pytest.raises(DataError, match="lacks labels of the task `third`") as caught:
        read(tmp_path / "parts.npz")
    assert "targets_third_val" in str(caught.value)


def test_arrays_in_memory_name_their_tasks() -> None:
    tasks = {"parity": ARRAYS["targets_parity"], "third": list(ARRAYS["targets_third"])}
    splits = name_task(from_arrays(IMAGES, SHADE, val=0.2, test=0.2, tasks=tasks), "shade")
    assert splits.train.names["third"] == ("low", "mid", "top")
    same_labels(splits.test)
    with pytest.raises(DataError, match="cannot name a task"):
        from_arrays(IMAGES, SHADE, val=0.2, test=0.2, tasks={"Is Odd": SHADE % 2})


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"targets_parity": SHADE[:-1] % 2}, "inputs and labels differ in number"),
        ({"targets_parity": (SHADE % 2).astype(float)}, "are not one integer for each example"),
        ({"targets_parity": SHADE % 2 * 2}, "not numbered 0 … C"),
        ({"targets_parity": SHADE * 0, "classes_parity": None}, "at least two classes"),
        ({"targets_parity": None}, "names classes of a task that has no labels"),
        ({"targets_third": None, "classes_parrity": np.array(["a", "b"])}, "did you mean `parity`"),
        ({"classes_parity": np.array([0, 1])}, "classes are not a list of names"),
        ({"targets_Odd": SHADE % 2}, "cannot name a task"),
        ({"target_odd": SHADE % 2}, "unknown names"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_the_task(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError) as caught:
        read(save(tmp_path / "wrong.npz", **changes))
    assert what in str(caught.value)


def test_the_fingerprint_is_that_of_one_task_until_there_are_more(splits: Splits) -> None:
    alone, part = only(splits.train, "shade"), splits.train
    expected = hashlib.sha256(json.dumps(part.classes).encode() + part.ids.numpy().tobytes())
    expected.update(part.targets.numpy().tobytes())
    assert alone.fingerprint == expected.hexdigest()
    prints = {alone.fingerprint, part.fingerprint}
    flipped = Task(1 - part.tasks["parity"].targets, part.tasks["parity"].classes)
    for tasks in ({"parity": flipped, "third": part.tasks["third"]}, {"parity": part.tasks["parity"]}):
        prints.add(replace(part, tasks=tasks).fingerprint)
    assert len(prints) == 4


def test_copies_with_other_labels_have_one_order() -> None:
    inputs, targets = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    labels = torch.tensor([1, 1, 0, 0])
    found = []
    for order in ([0, 1, 2, 3], [3, 2, 0, 1]):
        task = Task(labels[order], ("a", "b"))
        made = Examples.make(inputs[order], targets[order], ["0", "1"], "twins", tasks={"second": task})
        found.append((made.targets.tolist(), made.tasks["second"].targets.tolist()))
    assert found[0] == found[1] == ([0, 0, 1, 1], [0, 1, 0, 1])


@pytest.mark.parametrize("views", [Views(), Views(flip=0.5, shift=1)])
def test_batches_carry_the_labels_of_every_task(splits: Splits, views: Views) -> None:
    rows = {int(one): row for row, one in enumerate(splits.train.ids)}
    truth = true_of(splits.train)
    for batch in Batches(splits.train, batch_size=7, views=views, seed=3).epoch(1):
        here = [rows[int(one)] for one in batch.ids]
        assert torch.equal(batch.target, truth["shade"][here])
        assert {name: one.tolist() for name, one in batch.tasks.items()} == {
            name: truth[name][here].tolist() for name in ("parity", "third")
        }
    plain = list(plain_batches(splits.val, 5))
    assert torch.equal(torch.cat([batch.tasks["parity"] for batch in plain]), true_of(splits.val)["parity"])
    assert list(move(plain[0], torch.device("cpu")).tasks) == ["parity", "third"]


@pytest.mark.parametrize("views", [Views(mixup=0.5), Views(cutmix=0.5)])
def test_labels_of_all_tasks_are_mixed_alike(splits: Splits, views: Views) -> None:
    batch = next(Batches(splits.train, batch_size=24, views=views, seed=3).epoch(0))
    # A shade says all of an example, so that what was mixed of it says how everything was mixed.
    assert torch.allclose(batch.tasks["parity"], batch.target.reshape(-1, 3, 2).sum(1))
    assert torch.allclose(batch.tasks["third"], batch.target.reshape(-1, 3, 2).sum(2))
    assert 0 < float(batch.tasks["parity"].min(1).values.max()) <= 0.5


def test_folds_pools_and_other_training_parts_keep_all_tasks(splits: Splits, tmp_path: Path) -> None:
    same_labels(pool(splits))
    same_labels(fold_of(splits, 2, 3, val=0.2).test)
    few = RNG.integers(0, 256, (24, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "more.npz", x=few)
    both, labelled, _ = with_unlabelled(splits, tmp_path / "more.npz")
    known = torch.isin(both.train.ids, labelled)
    assert int((~known).sum()) == 24
    same_labels(both.train.take(known.nonzero().flatten()))

    other = {"x": few, "y": np.arange(24) % 6, "targets_parity": np.arange(24) % 2, "classes_parity": ["even", "odd"]}
    np.savez(tmp_path / "made.npz", **other, targets_third=np.array(["low", "mid", "top"] * 8))
    assert with_training_part(splits, tmp_path / "made.npz").train.sizes == SIZES
    np.savez(tmp_path / "made.npz", **other)
    with pytest.raises(DataError, match="have other tasks than those to be judged by"):
        with_training_part(splits, tmp_path / "made.npz")


def test_a_file_of_one_task_is_what_it_was(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", x=IMAGES, y=SHADE)
    train = load_arrays(tmp_path / "one.npz", val=0.2, test=0.2, seed=0).train
    assert (train.tasks, train.outputs, train.sizes) == ({}, train.classes, {"label": 6})
    assert next(Batches(train, batch_size=8, views=Views(), seed=0).epoch(0)).tasks == {}
