"""Image files become bytes: upright, of 8 bits, grey or RGB; what cannot is named, and nothing is guessed."""

from __future__ import annotations

import contextlib
import errno
import io
import stat
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tutelage.data.examples import listed
from tutelage.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "MOST_PIXELS", "SUFFIXES", "UnusableError", "absence", "decode", "printable", "read_images", "refit", "stack",
    "strict",
]  # fmt: skip

Pixels = NDArray[np.uint8]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

MOST_PIXELS = 64 * 10**6
_MOST_BYTES = 256 * 2**20
_GREY = {"1", "L", "LA"}
_MODES = _GREY | {"P", "PA", "RGB", "RGBA"}


class UnusableError(Exception):
    """Why one file is no image that can be learned from."""


def printable(name: Path | str) -> str:
    """A path or name as text that cannot break a message."""
    text = str(name).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def absence(path: Path, wanted: str) -> str:
    """Why there is no such file or folder at a path, in words that follow its name."""
    try:
        path.stat()
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be reached: {error.strerror}"
    except ValueError:  # a zero byte, which no name holds
        return "does not exist"
    return f"is not a {wanted}"


def read_images(files: Sequence[Path], *, image_size: int | None) -> list[Pixels]:
    """The pixels of every file, (H, W) where it is grey and (H, W, 3) where it has colour.

    Turned as their EXIF orientation says; transparent pixels lie over white. With `image_size` each is scaled until its
    shorter side fits, and cut to a square around its middle.

    Raises:
        DataError: files that are no images, damaged, too large, or of a kind whose conversion would be a guess; the
            first ten are named.
    """
    images: list[Pixels] = []
    faults: list[str] = []
    with strict():
        for file in files:
            try:
                images.append(_read(file, image_size))
            except UnusableError as error:
                faults.append(f"{printable(file)}: {error}")
    if faults:
        raise DataError(
            f"{len(faults):,} of {len(files):,} files cannot be used as images",
            given=listed(faults, separator="\n            "),
            fix="mend or remove these files",
        )
    return images


def stack(images: Sequence[Pixels], *, channels: int | None) -> Pixels:
    """Images of one size as (N, C, H, W): RGB if any has colour, else grey, unless `channels` says which.

    Raises:
        DataError: they differ in size.
    """
    sizes: dict[tuple[int, ...], int] = {}
    for image in images:
        sizes[image.shape[:2]] = sizes.get(image.shape[:2], 0) + 1
    if len(sizes) > 1:
        usual = sorted(sizes, key=lambda size: -sizes[size])
        raise DataError(
            f"the images have {len(sizes)} different sizes",
            given=listed([f"{w}×{h} ({sizes[h, w]:,} images)" for h, w in usual]),
            expected="one size",
            fix=f"set data.image_size, for instance to {min(usual[0])}, so that all are scaled to it",
        )
    wanted = channels or (3 if any(image.ndim == 3 for image in images) else 1)
    return np.stack([_with_channels(image if image.ndim == 3 else image[..., None], wanted) for image in images])


def refit(images: Pixels, *, image_size: int | None, channels: int | None) -> Pixels:
    """Images (N, C, H, W) scaled to a side and turned to grey or RGB, where that is asked for.

    Raises:
        DataError: they are neither grey nor RGB, so that either would be a guess.
    """
    if image_size is None and channels is None:
        return images
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        raise DataError(
            "only grey or RGB images can be scaled or recoloured",
            given=f"images of shape {images.shape}",
            expected="(N, 1, H, W) or (N, 3, H, W)",
            fix="leave out data.image_size (and `channels`, in Python), or convert them first",
        )
    if image_size is None and channels == images.shape[1]:
        return images
    from PIL import Image

    rows = images.transpose(0, 2, 3, 1)
    if image_size is not None:
        flat = rows[..., 0] if rows.shape[-1] == 1 else rows
        rows = np.stack([np.asarray(_fitted(Image.fromarray(row), image_size)) for row in flat])
        rows = rows.reshape(len(rows), image_size, image_size, -1)
    return np.stack([_with_channels(row, channels or row.shape[-1]) for row in rows])


def _with_channels(image: Pixels, channels: int) -> Pixels:
    """(H, W, C) -> (channels, H, W)."""
    if image.shape[-1] == channels:
        return np.ascontiguousarray(image.transpose(2, 0, 1))
    if channels == 3:
        return np.repeat(image.transpose(2, 0, 1), 3, axis=0)
    # Luma of ITU-R BT.601 in whole numbers, so that content ids do not depend on how a machine rounds.
    red, green, blue = (image[..., c].astype(np.uint32) for c in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)[None]


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Pillow as this room needs it, whatever a program has set: no half images, no bombs, no warnings in passing."""
    from PIL import Image, ImageFile

    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _read(file: Path, image_size: int | None) -> Pixels:
    return decode(_bytes(file), image_size)[0]


def decode(
    data: bytes, image_size: int | None, *, formats: tuple[str, ...] | None = None, most: int = MOST_PIXELS
) -> tuple[Pixels, int]:
    """The pixels of an image file's contents, (H, W) or (H, W, 3), and how many it had; within `strict`.

    Args:
        data: the file's contents.
        image_size: as for `read_images`.
        formats: Pillow's names of those that may be read; None reads all.
        most: pixels that it may have.

    Raises:
        UnusableError: it is no image, damaged, too large, or of a kind whose conversion would be a guess.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            _refuse_odd_kinds(image)
            pixels = image.width * image.height
            if pixels > most:
                raise UnusableError(f"more than {MOST_PIXELS:,} pixels in all")
            image.verify()  # sums of chunks, which loading alone does not check; the image is used up by it
        with Image.open(io.BytesIO(data), formats=formats) as image:
            image.load()
            return _upright(image, image_size), pixels
    except UnusableError:
        raise
    except UnidentifiedImageError:
        raise UnusableError(
            f"neither {' nor '.join(formats)}" if formats else "not an image, or of a kind that cannot be read here"
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UnusableError(f"more than {MOST_PIXELS:,} pixels") from None
    # A damaged file can make a decoder raise almost anything; each means that this file is no image.
    except Exception as error:
        raise UnusableError(f"damaged: {str(error) or type(error).__name__}") from None


def _bytes(file: Path) -> bytes:
    try:
        status = file.stat()
        # A pipe would be waited for, and a device never ends.
        if not stat.S_ISREG(status.st_mode):
            raise UnusableError("a folder, where only images belong" if file.is_dir() else "not a regular file")
        if status.st_size == 0:
            raise UnusableError("an empty file")
        if status.st_size > _MOST_BYTES:
            raise UnusableError(f"a file of more than {_MOST_BYTES // 2**20} MiB")
        return file.read_bytes()
    except FileNotFoundError:
        raise UnusableError("a link to nothing" if file.is_symlink() else "gone") from None
    except OSError as error:
        circle = error.errno == errno.ELOOP
        raise UnusableError("a link in a circle" if circle else f"cannot be read: {error.strerror}") from None


def _refuse_odd_kinds(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise UnusableError(f"{width:,}×{height:,}: more than {MOST_PIXELS:,} pixels")
    # A photograph with a preview in the same file (MPO) has one picture that counts, its first.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise UnusableError("several frames or pages")
    if image.mode not in _MODES:
        raise UnusableError(f"colour mode {image.mode}: convert it to 8-bit grey or RGB")


def _upright(image: Image.Image, image_size: int | None) -> Pixels:
    from PIL import Image, ImageOps

    grey = image.mode in _GREY
    turned = ImageOps.exif_transpose(image)
    if turned.mode in ("LA", "PA", "RGBA") or "transparency" in turned.info:
        coloured = turned.convert("RGBA")
        turned = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return np.asarray(_fitted(turned.convert("L" if grey else "RGB"), image_size), dtype=np.uint8)


def _fitted(image: Image.Image, image_size: int | None) -> Image.Image:
    from PIL import Image, ImageOps

    if image_size is None or image.size == (image_size, image_size):
        return image
    return ImageOps.fit(image, (image_size, image_size), method=Image.Resampling.BILINEAR)
