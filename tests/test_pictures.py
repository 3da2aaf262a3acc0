"""Pictures of forgotten examples: the right ones, with the right names, and inert whatever these are."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from test_bench import RECIPE
from tutelage.data import Examples
from tutelage.recipe import from_mapping
from tutelage.report.html import page
from tutelage.run import run_recipe
from tutelage.run.pictures import forgotten_pictures


def noise(count: int = 40, channels: int = 1, side: int = 8) -> Examples:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)
    return Examples.make(images, torch.arange(count) % 3, ["cat", "dog", "<script>"], "noise")


def opened(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def answers(test: Examples, chosen: list[int]) -> np.ndarray:
    logits = np.zeros((len(test), 3))
    logits[np.arange(len(test)), [chosen[row % len(chosen)] for row in range(len(test))]] = 1.0
    return logits


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_names_and_order(channels: int) -> None:
    test = noise(channels=channels)
    ids = [int(test.ids[row]) for row in (7, 3, 11)]
    found = forgotten_pictures(test, ids, {"distilled": [answers(test, [1]), answers(test, [0]), answers(test, [1])]})
    assert len(found) == 3
    for one, row in zip(found, (7, 3, 11), strict=True):
        pixels = test.inputs[row].numpy()
        assert np.array_equal(opened(one["png"]), pixels[0] if channels == 1 else np.moveaxis(pixels, 0, -1))
        assert one["true"] == test.classes[int(test.targets[row])]
        assert one["said"] == "dog"  # two of three students


def test_large_ones_are_scaled_down_and_many_are_cut_off() -> None:
    test = noise(count=60, side=100)
    found = forgotten_pictures(test, test.ids.tolist(), {"a": [answers(test, [2])]})
    assert len(found) == 24
    assert opened(found[0]["png"]).shape == (64, 64)


def test_what_is_no_picture_has_none() -> None:
    rows = Examples.make(torch.rand(6, 5), torch.arange(6) % 2, ["a", "b"], "rows")
    assert forgotten_pictures(rows, rows.ids.tolist(), {"a": [np.zeros((6, 2))]}) == []
    odd = Examples.make(torch.rand(6, 2, 4, 4), torch.arange(6) % 2, ["a", "b"], "two channels")
    assert forgotten_pictures(odd, odd.ids.tolist(), {"a": [np.zeros((6, 2))]}) == []


def test_standardised_images_are_stretched_to_the_range() -> None:
    images = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    test = Examples.make(images, torch.arange(4) % 2, ["a", "b"], "standardised")
    shown = opened(forgotten_pictures(test, [int(test.ids[0])], {"a": [np.zeros((4, 2))]})[0]["png"])
    assert (shown.min(), shown.max()) == (0, 255)


def test_a_run_shows_what_its_student_forgot(tmp_path: Path) -> None:
    run = run_recipe(from_mapping(RECIPE, ["teacher.train.epochs=20", "data.limit=null"]), tmp_path / "run", quiet=True)
    report = json.loads((run.folder / "report.json").read_text())
    forgotten = report["summary"]["forgotten"]
    assert forgotten["count"] > 0
    assert len(report["pictures"]) == min(24, forgotten["count"])
    text = (run.folder / "report.html").read_text()
    assert text.count("data:image/png;base64,") == len(report["pictures"])
    for one in report["pictures"]:
        assert one["said"] != one["true"]
    hostile = report | {"pictures": [{"true": "<script>alert(1)</script>", "said": '"><img src=x>', "png": "AAAA"}]}
    shown = page(hostile)
    assert "<script" not in shown
    assert "<img src=x" not in shown
    assert "data:image/png" not in page({key: value for key, value in report.items() if key != "pictures"})
