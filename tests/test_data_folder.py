"""Image folders: names and order of files do not matter, and every file that is no good image is named."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from tutelage.data import Splits, load
from tutelage.data.folder import natural
from tutelage.data.images import read_images, refit, stack
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
    for place, file in enumerate(sorted((tmp_path / "one").rglob("*.png"), key=lambda p: hash((p.name, p.parent.name)))):
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
    grey = [len(set(map(tuple, x.flatten(1).tolist()))) == 1 for p in (splits.train, splits.val, splits.test) for x in p.inputs]
    assert sorted(grey) == [False] + [True] * 24
    assert read(tmp_path, channels=1).train.shape == (1, 5, 6)


def test_images_are_turned_upright(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    whole = pixels(5)
    path = tmp_path / "a" / "turned.png"
    Image.fromarray(np.rot90(whole)).save(path, exif=exif)
    assert np.array_equal(read_images([path], image_size=None)[0], whole)


def test_transparent_pixels_lie_over_white(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[[9, 9, 9, 0], [9, 8, 7, 255]]], dtype=np.uint8)).save(path)
    assert read_images([path], image_size=None)[0].tolist() == [[[255, 255, 255], [9, 8, 7]]]
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode=None).convert("P")
    palette.putpalette([200, 0, 0, 0, 100, 0])
    palette.save(path, transparency=0)
    assert read_images([path], image_size=None)[0].tolist() == [[[255, 255, 255], [0, 100, 0]]]
    Image.fromarray(np.array([[[9, 0], [7, 255]]], dtype=np.uint8)).save(path)
    assert read_images([path], image_size=None)[0].tolist() == [[255, 7]]


def test_image_size_scales_and_cuts_around_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    wide = np.zeros((4, 12), dtype=np.uint8)
    wide[:, 4:8] = 200
    Image.fromarray(wide).save(path)
    assert (read_images([path], image_size=4)[0] == 200).all()
    assert read_images([path], image_size=8)[0].shape == (8, 8)
    same = refit(wide[None, None], image_size=4, channels=3)
    assert same.shape == (1, 3, 4, 4)
    assert (same == 200).all()


def test_grey_from_colour_is_what_pillow_says() -> None:
    image = pixels(3, size=(40, 30))
    ours = refit(image.transpose(2, 0, 1)[None], image_size=None, channels=1)[0, 0]
    assert np.array_equal(ours, np.asarray(Image.fromarray(image).convert("L")))
    assert np.array_equal(stack([image], channels=1)[0, 0], ours)


def test_links_to_images_are_followed(tmp_path: Path) -> None:
    fill(tmp_path / "set", ["a", "b"])
    target = save(tmp_path / "elsewhere.png", 77)
    (tmp_path / "set" / "a" / "link.png").symlink_to(target)
    assert len(read(tmp_path / "set").train) == 17


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


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def _encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = BytesIO()
    (image or Image.fromarray(pixels(0, size=(40, 40)))).save(buffer, kind, **options)
    return buffer.getvalue()


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.jpg": (lambda: b"", "an empty file"),
    "truncated.jpg": (lambda: _encoded("JPEG")[:-200], "damaged: .*truncated"),
    "truncated.png": (lambda: _encoded("PNG")[:-200], "damaged: "),
    "flipped.png": (lambda: _flipped(_encoded("PNG"), 300), "damaged: "),
    "text.jpg": (lambda: b"I am no image\n" * 20, "not an image"),
    "page.png": (lambda: b"<!DOCTYPE html>", "not an image"),
    "bomb.png": (lambda: _png_header(30_000, 30_000), "more than 64,000,000 pixels"),
    "large.png": (lambda: _png_header(9_000, 9_000), "9,000×9,000: more than"),
    "deep.tif": (lambda: _encoded("TIFF", Image.fromarray(np.zeros((4, 4), np.uint16))), "colour mode I;16"),
    "print.jpg": (lambda: _encoded("JPEG", Image.new("CMYK", (4, 4))), "colour mode CMYK"),
    "moving.gif": (
        lambda: _encoded("GIF", save_all=True, append_images=[Image.fromarray(pixels(1, size=(40, 40)))]),
        "several frames",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_named(tmp_path: Path, name: str) -> None:
    make, reason = BAD[name]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(DataError, match=f"1 of 1 files cannot be used as images\n  given     .*{name}: {reason}"):
        read_images([tmp_path / name], image_size=None)


def test_all_bad_images_come_together(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"])
    for name, (make, _) in BAD.items():
        (tmp_path / "a" / name).write_bytes(make())
    (tmp_path / "b" / "dead.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "b" / "circle.png").symlink_to(tmp_path / "b" / "circle.png")
    text = said(tmp_path)
    assert "13 of 37 files cannot be used as images" in text
    assert text.count("\n") == 1 + 10 + 1  # ten of them, the count, the hint
    assert "… (13 in all)\nhint: mend or remove these files" in text


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    dead, circle = tmp_path / "dead.png", tmp_path / "circle.png"
    dead.symlink_to(tmp_path / "gone.png")
    circle.symlink_to(circle)
    with pytest.raises(DataError, match=r"dead.png: a link to nothing\n.*circle.png: a link in a circle"):
        read_images([dead, circle], image_size=None)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "secret.png", 0)

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    # As root a mode of 000 does not keep anybody out, so the refusal is played.
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"secret.png: cannot be read: Permission denied"):
        read_images([path], image_size=None)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe.png: not a regular file"):
        read_images([tmp_path / "pipe.png"], image_size=None)


def test_half_images_are_refused_whatever_a_program_has_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for name in ("truncated.jpg", "bomb.png"):
        (tmp_path / name).write_bytes(BAD[name][0]())
        with pytest.raises(DataError, match=name):
            read_images([tmp_path / name], image_size=None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS is None


def test_damage_anywhere_gives_an_image_or_a_name_never_a_crash(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "file.png"
    refused = 0
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        whole = _encoded(kind)
        for _ in range(40):
            data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
            for place in rng.integers(0, min(len(data), 200), 2):
                data[place] ^= int(rng.integers(1, 256))
            path.write_bytes(data)
            try:
                image = read_images([path], image_size=None)[0]
                assert image.dtype == np.uint8
            except DataError:
                refused += 1
    assert refused > 200


def test_names_that_cannot_be_written(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"])
    os.mkdir(os.fsencode(tmp_path) + b"/bad\xff")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value).encode()  # the message itself can be printed
    fill(tmp_path / "other", ["a", "b\nc"])
    assert "names that cannot be written\n  given     b\\nc" in said(tmp_path / "other")


def test_nothing_is_warned_about(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path)
