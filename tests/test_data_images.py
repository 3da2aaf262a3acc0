"""Image files: what comes out of each kind, and every file that is no good image named with its reason."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from tutelage.data.images import read_images, refit, stack
from tutelage.errors import DataError


def pixels(number: int, *, size: tuple[int, int] = (6, 5)) -> np.ndarray:
    width, height = size
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, number: int) -> Path:
    Image.fromarray(pixels(number)).save(path)
    return path


# ---- what comes out --------------------------------------------------------------------------------------------------


def test_images_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    whole = pixels(5)
    path = tmp_path / "turned.png"
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


# ---- what is refused -------------------------------------------------------------------------------------------------


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


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
    files = [save(tmp_path / f"{n}.png", n) for n in range(24)]
    for name, (make, _) in BAD.items():
        files.append(tmp_path / name)
        files[-1].write_bytes(make())
    with pytest.raises(DataError) as caught:
        read_images(files, image_size=None)
    text = str(caught.value)
    assert "11 of 35 files cannot be used as images" in text
    assert text.count("\n") == 1 + 10 + 1  # ten of them, the count, the hint
    assert "… (11 in all)\nhint: mend or remove these files" in text


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
