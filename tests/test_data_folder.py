"""Image folders: names and order of files do not matter, and every file that is no good image is named."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.data import Splits, load
from tutelage.data.folder import natural
from tutelage.errors import DataError


def pixels(number: int, *, size: tuple[int, int] = (6, 5), colour: bool = True) -> np.ndarray:
    width, height = size
    shape = (height, width, 3) if colour else (height, width)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, number: int, **kind: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(number, **kind)).save(path)
    return path


def fill(root: Path, classes: list[str], count: int = 12, *, first: int = 0, **kind: Any) -> None:
    for label, name in enumerate(classes):
        for n in range(count):
            save(root / name / f"{n}.png", first + label * 1000 + n, **kind)


def read(path: Path, **options: Any) -> Splits:
    return load("folder", path=path, **({"val": 0.2, "test": 0.2} | options))


def said(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **options)
    assert caught.value.exit_code == 3
    return str(caught.value)


# ---- what works ------------------------------------------------------------------------------------------------------


def test_one_folder_for_each_class(tmp_path: Path) -> None:
    fill(tmp_path, ["dog", "cat"])
    splits = read(tmp_path)
    assert splits.train.classes == ("cat", "dog")
    assert splits.train.shape == (3, 5, 6)
    assert [len(p) for p in (splits.train, splits.val, splits.test)] == [16, 4, 4]
    found = {tuple(row) for part in (splits.train, splits.val, splits.test) for row in part.inputs.flatten(1).tolist()}
    assert tuple(pixels(1003).transpose(2, 0, 1).reshape(-1).tolist()) in found


def test_labels_follow_the_folder(tmp_path: Path) -> None:
    fill(tmp_path, ["dog", "cat"])
    splits = read(tmp_path)
    dogs = {tuple(pixels(n).transpose(2, 0, 1).reshape(-1).tolist()) for n in range(12)}
    for row, label in zip(splits.train.inputs.flatten(1).tolist(), splits.train.targets.tolist(), strict=True):
        assert splits.train.classes[label] == ("dog" if tuple(row) in dogs else "cat")


def test_names_and_order_of_files_do_not_matter(tmp_path: Path) -> None:
    fill(tmp_path / "one", ["a", "b"])
    (tmp_path / "two").mkdir()
    for place, file in enumerate(
        sorted((tmp_path / "one").rglob("*.png"), key=lambda p: (p.stem[::-1], p.parent.name))
    ):
        new = tmp_path / "two" / file.parent.name / f"zz {97 - place} — naïve\n.PNG"
        new.parent.mkdir(exist_ok=True)
        new.write_bytes(file.read_bytes())
        os.utime(new, (0, 0))
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    for left, right in ((one.train, two.train), (one.val, two.val), (one.test, two.test)):
        assert torch.equal(left.ids, right.ids)
        assert torch.equal(left.inputs, right.inputs)
        assert torch.equal(left.targets, right.targets)


def test_class_names_are_in_natural_order(tmp_path: Path) -> None:
    fill(tmp_path, ["10", "2", "1"], count=3)
    assert read(tmp_path).train.classes == ("1", "2", "10")
    names = ["b1", "a10", "a", "a2", "a02", "1", "01", "x9y10", "x9y9", "9" * 5000]
    assert sorted(names, key=natural) == ["01", "1", "9" * 5000, "a", "a02", "a2", "a10", "b1", "x9y9", "x9y10"]


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_parts_of_their_own(tmp_path: Path, val: str) -> None:
    fill(tmp_path / "train", ["a", "b"])
    fill(tmp_path / val, ["a", "b"], 3, first=100)
    fill(tmp_path / "test", ["a", "b"], 4, first=200)
    splits = read(tmp_path)
    assert [len(p) for p in (splits.train, splits.val, splits.test)] == [24, 6, 8]


def test_parts_that_are_missing_are_cut_from_the_training_part(tmp_path: Path) -> None:
    fill(tmp_path / "train", ["a", "b"], 10)
    fill(tmp_path / "test", ["a", "b"], 4, first=200)
    splits = read(tmp_path)
    assert [len(p) for p in (splits.train, splits.val, splits.test)] == [16, 4, 8]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    fill(tmp_path, ["train", "plane"])
    assert read(tmp_path).train.classes == ("plane", "train")


def test_hidden_files_and_litter_are_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"])
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.txt").write_text("about")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"\0")
    assert len(read(tmp_path).train) == 16


def test_grey_images_stay_grey_and_one_coloured_makes_all_rgb(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"], colour=False)
    assert read(tmp_path).train.shape == (1, 5, 6)
    assert read(tmp_path, channels=3).train.shape == (3, 5, 6)
    save(tmp_path / "a" / "red.png", 99)
    splits = read(tmp_path)
    assert splits.train.shape == (3, 5, 6)
    grey = [
        len(set(map(tuple, x.flatten(1).tolist()))) == 1
        for p in (splits.train, splits.val, splits.test)
        for x in p.inputs
    ]
    assert sorted(grey) == [False] + [True] * 24
    assert read(tmp_path, channels=1).train.shape == (1, 5, 6)


def test_links_to_images_are_followed(tmp_path: Path) -> None:
    fill(tmp_path / "set", ["a", "b"])
    target = save(tmp_path / "elsewhere.png", 77)
    (tmp_path / "set" / "a" / "link.png").symlink_to(target)
    splits = read(tmp_path / "set")
    assert sum(len(part) for part in (splits.train, splits.val, splits.test)) == 25


# ---- what does not ---------------------------------------------------------------------------------------------------


def test_missing_path(tmp_path: Path) -> None:
    assert "nowhere does not exist (data.path)" in said(tmp_path / "nowhere")
    file = save(tmp_path / "file.png", 0)
    assert "file.png is not a folder" in said(file)


def test_empty_folder_and_single_class(tmp_path: Path) -> None:
    assert "holds no class folders" in said(tmp_path)
    fill(tmp_path, ["only"])
    text = said(tmp_path)
    assert "holds a single class\n  given     only only\n  expected  at least two folders" in text


def test_a_class_folder_that_is_a_dead_link(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"])
    (tmp_path / "c").symlink_to(tmp_path / "gone")
    assert "1 link to nothing in" in said(tmp_path)


def test_class_folders_without_images(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"])
    (tmp_path / "c").mkdir()
    (tmp_path / "d").mkdir()
    assert "2 class folders in" in said(tmp_path)
    assert "given     c, d\n" in said(tmp_path)


def test_parts_with_different_classes_show_both_differences(tmp_path: Path) -> None:
    fill(tmp_path / "train", ["a", "b", "c"])
    fill(tmp_path / "val", ["a", "b", "c", "C"], 2, first=100)
    fill(tmp_path / "test", ["a", "d"], 2, first=200)
    text = said(tmp_path)
    assert "only in val: C; only in train: none" in text
    assert "only in test: d; only in train: b, c" in text


def test_folders_whose_part_is_not_clear(tmp_path: Path) -> None:
    fill(tmp_path / "train", ["a", "b"])
    fill(tmp_path / "tset", ["a", "b"], 2, first=100)
    assert "beside train/ whose part is not clear\n  given     tset\n" in said(tmp_path)
    (tmp_path / "tset").rename(tmp_path / "val")
    fill(tmp_path / "valid", ["a", "b"], 2, first=200)
    assert "given     train, val, valid" in said(tmp_path)


def test_the_same_images_in_two_parts(tmp_path: Path) -> None:
    fill(tmp_path / "train", ["a", "b"])
    fill(tmp_path / "val", ["a", "b"], 3, first=100)
    for n in range(2):
        save(tmp_path / "val" / "a" / f"copy {n}.bmp", n)
    assert "given     2 of val in train\nhint: remove them" in said(tmp_path)
    assert len(read(tmp_path, allow_overlap=True).val) == 8


def test_sizes_that_differ(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"])
    save(tmp_path / "a" / "large.png", 1, size=(20, 10))
    text = said(tmp_path)
    assert "have 2 different sizes\n  given     6×5 (24 images), 20×10 (1 images)" in text
    assert "hint: set data.image_size, for instance to 5" in text
    assert read(tmp_path, image_size=5).train.shape == (3, 5, 5)


def test_too_few_images(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"], 2)
    assert "4 examples are too few for 2 classes" in said(tmp_path)


def test_things_that_are_no_images_by_name(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"])
    (tmp_path / "a" / "more").mkdir()
    (tmp_path / "b" / "labels.csv").write_text("x")
    text = said(tmp_path)
    assert "more: a folder within a class folder" in text
    (tmp_path / "a" / "more").rmdir()
    assert "labels.csv: the suffix of no image kind" in said(tmp_path)


def test_names_that_cannot_be_written(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"])
    os.mkdir(os.fsencode(tmp_path) + b"/bad\xff")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value).encode()  # the message itself can be printed
    fill(tmp_path / "other", ["a", "b\nc"])
    assert "1 class name cannot be written (other)\n  given     'b\\nc'" in said(tmp_path / "other")


def test_nothing_is_warned_about(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path)
