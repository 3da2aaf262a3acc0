"""Pictures in a column of rows: as they are, or scaled, and always as the training part had them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tutelage.data.encoders.pictures import Picture, fit_picture, picture_of
from tutelage.data.images import refit
from tutelage.data.rows import Rows
from tutelage.errors import DamagedError, DataError, InputError


def pictures(channels: int, side: int, seed: int = 0) -> Rows:
    images = np.random.default_rng(seed).integers(0, 256, (6, channels, side, side), dtype=np.uint8)
    return Rows("emoji", {"image": images, "name": np.array(list("abcdef"), dtype=object)})


def again(picture: Picture) -> Picture:
    return picture_of(json.loads(json.dumps(picture.facts())))


def test_pictures_stay_bytes_and_are_scaled_where_asked() -> None:
    rows = pictures(3, 8)
    plain = fit_picture(rows, "image")
    assert torch.equal(plain.encode(rows), torch.from_numpy(rows.columns["image"]))
    small = fit_picture(rows, "image", size=4)
    view = again(small).encode(rows)
    assert view.shape == (6, 3, 4, 4)
    assert view.dtype == torch.uint8
    assert np.array_equal(view.numpy(), refit(rows.columns["image"], image_size=4, channels=None))
    assert small.columns == ("image",)
    assert small.vocabulary == 0
    assert again(small) == small
    assert plain.encode(rows.take([])).shape == (0, 3, 8, 8)


def test_later_pictures_take_the_colours_of_the_training_part() -> None:
    grey, colour = pictures(1, 8), pictures(3, 8)
    assert fit_picture(grey, "image").encode(colour).shape == (6, 1, 8, 8)
    doubled = fit_picture(colour, "image").encode(grey)
    assert torch.equal(doubled[:, 2:], torch.from_numpy(grey.columns["image"]))


def test_what_is_no_picture_of_that_size_is_said() -> None:
    rows = pictures(3, 8)
    with pytest.raises(InputError, match="holds no pictures"):
        fit_picture(rows, "name")
    with pytest.raises(InputError, match="no column"):
        fit_picture(rows, "picture")
    with pytest.raises(InputError, match="out of range"):
        fit_picture(rows, "image", size=0)
    with pytest.raises(DataError, match="another size"):
        fit_picture(rows, "image").encode(pictures(3, 9))
    assert fit_picture(rows, "image", size=8).encode(pictures(3, 9)).shape == (6, 3, 8, 8)
    with pytest.raises(DataError, match="no pictures to learn from"):
        fit_picture(rows.take([]), "image")
    with pytest.raises(DamagedError):
        picture_of({"kind": "picture", "column": "image", "size": None, "shape": [3, 8]})
