"""Examples: identity by content, one order whatever came first, and every unusable array refused in words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.data import Examples, as_model_input
from tutelage.data import examples as module
from tutelage.data.examples import listed
from tutelage.errors import DataError

CLASSES = ["a", "b", "c"]


def images(count: int = 30) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 256, (count, 1, 5, 4), dtype=torch.uint8), torch.arange(count) % 3


def test_shuffling_changes_nothing() -> None:
    x, y = images()
    order = torch.randperm(len(x))
    one, other = Examples.make(x, y, CLASSES, "set"), Examples.make(x[order], y[order], CLASSES, "set")
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.targets, other.targets)
    assert one.fingerprint == other.fingerprint


def test_ids_are_sorted_positive_and_follow_the_example() -> None:
    x, y = images()
    made = Examples.make(x, y, CLASSES, "set")
    assert bool((made.ids[1:] > made.ids[:-1]).all())
    assert int(made.ids.min()) >= 0
    alone = Examples.make(x[:1], y[:1], CLASSES, "set")
    place = int((made.ids == alone.ids).nonzero())
    assert torch.equal(made.inputs[place], x[0])
    assert int(made.targets[place]) == int(y[0])


def test_ids_are_pinned_for_good() -> None:
    # A store of answers is looked up by these; a change of them would orphan every store.
    made = Examples.make(torch.arange(4, dtype=torch.uint8).reshape(1, 1, 2, 2), torch.tensor([0]), CLASSES, "set")
    digest = hashlib.blake2b(b"torch.uint8 (1, 2, 2) \0\1\2\3", digest_size=8).digest()
    assert made.ids.tolist() == [7372025360692956525] == [int.from_bytes(digest, "little") >> 1]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda x: x.reshape(-1, 1, 4, 5), id="shape"),
        pytest.param(lambda x: x.float(), id="dtype"),
        pytest.param(lambda x: x ^ torch.tensor(1, dtype=torch.uint8), id="content"),
    ],
)
def test_shape_dtype_and_content_are_part_of_the_identity(change: Callable[[Tensor], Tensor]) -> None:
    x, y = images()
    x = x % 16
    one, other = Examples.make(x, y, CLASSES, "set"), Examples.make(change(x), y, CLASSES, "set")
    assert not np.isin(one.ids.numpy(), other.ids.numpy()).any()


def test_twins_share_an_id_and_their_label_orders_them() -> None:
    x = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    for labels in ([2, 0, 1, 0], [0, 0, 1, 2]):
        made = Examples.make(x, torch.tensor(labels), CLASSES, "set")
        assert len(made.ids.unique()) == 1
        assert made.targets.tolist() == [0, 0, 1, 2]


def test_a_collision_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_content_ids", lambda inputs: np.zeros(len(inputs), dtype=np.int64))
    with pytest.raises(DataError, match="two different examples have the same content id"):
        Examples.make(*images(), CLASSES, "set")


def test_fingerprint_sees_labels_and_class_names() -> None:
    x, y = images()
    base = Examples.make(x, y, CLASSES, "set")
    assert base.fingerprint != Examples.make(x, (y + 1) % 3, CLASSES, "set").fingerprint
    assert base.fingerprint != Examples.make(x, y, ["a", "b", "d"], "set").fingerprint
    # Names joined without care would be the same text.
    assert (
        Examples.make(x, y, ['a","b', "c", "d"], "set").fingerprint
        != Examples.make(x, y, ["a", "b", 'c","d'], "set").fingerprint
    )
    assert base.fingerprint == Examples.make(x, y, CLASSES, "another name").fingerprint


def test_take_and_shape() -> None:
    made = Examples.make(*images(), CLASSES, "set")
    part = made.take(torch.tensor([4, 2]))
    assert len(part) == 2
    assert part.ids.tolist() == [int(made.ids[4]), int(made.ids[2])]
    assert made.shape == (1, 5, 4)
    assert made.is_image
    assert not Examples.make(torch.rand(6, 3), torch.arange(6) % 3, CLASSES, "set").is_image


def test_model_input_scales_bytes_only() -> None:
    assert as_model_input(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    floats = torch.tensor([-2.0, 300.0])
    assert as_model_input(floats) is floats


def test_listed_counts_what_it_leaves_out() -> None:
    assert listed([1, 2]) == "1, 2"
    assert listed(list(range(12))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … (12 in all)"


def _nan(rows: list[int]) -> Tensor:
    x = torch.rand(20, 4)
    x[rows, 1] = float("nan")
    return x


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["a", "b", "a"], "class names must differ .*\n  given     more than once: a"),
        (["a", "", "c\x1b[31m"], r"2 class names cannot be written .*\n  given     '', 'c\\x1b\[31m'"),
        (["a", "b", "\udc80"], r"'\\udc80'"),
    ],
)
def test_class_names_that_cannot_be_used(classes: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Examples.make(*images(), classes, "set")


@pytest.mark.parametrize(
    ("inputs", "targets", "said"),
    [
        (torch.rand(4, 3), torch.tensor([0, 1, 2]), "4 inputs, 3 labels"),
        (torch.rand(0, 3), torch.tensor([], dtype=torch.long), "there are no examples"),
        (torch.rand(3), torch.tensor([0, 1, 2]), "holds no numbers of its own"),
        (torch.rand(3, 0), torch.tensor([0, 1, 2]), "holds no numbers of its own"),
        (torch.rand(3, 2), torch.tensor([0.0, 1.0, 2.0]), "labels are not one integer"),
        (torch.rand(3, 2), torch.eye(3, dtype=torch.long), r"shape \(3, 3\), torch.int64"),
        (torch.rand(3, 2), torch.tensor([0, 1, 3]), r"labels 0 … 3\n  expected  0 … 2 for 3 classes"),
        (torch.rand(3, 2), torch.tensor([0, 1, -1]), "labels -1 … 1"),
        (torch.rand(3, 2).double(), torch.tensor([0, 1, 2]), "inputs are torch.float64"),
        (torch.zeros(3, 4, dtype=torch.uint8), torch.tensor([0, 1, 2]), "bytes that are not images"),
        (_nan([3, 7]), torch.arange(20) % 3, r"2 of 20 examples hold NaN or infinity .*\n  given     rows 3, 7 "),
        (_nan(list(range(12))), torch.arange(20) % 3, r"rows 0, 1, .*, 9, … \(12 in all\)"),
        (torch.full((3, 2), torch.inf), torch.tensor([0, 1, 2]), "3 of 3 examples hold NaN or infinity"),
        (torch.full((3, 1, 2, 2), 255.0), torch.tensor([0, 1, 2]), "look unscaled: max 255"),
    ],
)
def test_unusable_arrays_are_refused(inputs: Tensor, targets: Tensor, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Examples.make(inputs, targets, CLASSES, "set")
