"""What views do to pixels agrees with plain loops and with torch's own resampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tutelage.data.pixels import boxes, moved, warped


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_moved_agrees_with_loops(dtype: torch.dtype) -> None:
    images = torch.randint(1, 256, (9, 2, 5, 7), dtype=torch.uint8).to(dtype)
    rng = np.random.default_rng(0)
    flip, dx, dy = rng.random(9) < 0.5, rng.integers(-3, 4, 9), rng.integers(-3, 4, 9)
    got = moved(images, flip, dx, dy, reach=3)
    assert got.dtype == dtype
    for n in range(9):
        source = images[n].flip(-1) if flip[n] else images[n]
        for row in range(5):
            for column in range(7):
                y, x = row + dy[n], column + dx[n]
                inside = 0 <= y < 5 and 0 <= x < 7
                expected = source[:, y, x] if inside else torch.zeros(2, dtype=dtype)
                assert torch.equal(got[n, :, row, column], expected)


def test_warped_by_nothing_is_the_image_itself() -> None:
    images = torch.rand(3, 2, 6, 5)
    ones, zeros = np.ones(3), np.zeros(3)
    assert torch.equal(warped(images, ones, zeros, zeros, zeros), images)


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_warped_by_quarter_turns(quarter: int) -> None:
    images = torch.rand(2, 3, 7, 7)
    cos, sin = {1: (0.0, 1.0), 2: (-1.0, 0.0), 3: (0.0, -1.0)}[quarter]
    zeros = np.zeros(2)
    got = warped(images, np.full(2, cos), np.full(2, sin), zeros, zeros)
    assert torch.allclose(got, torch.rot90(images, quarter, (2, 3)), atol=1e-6)


@pytest.mark.parametrize("size", [(28, 28), (9, 14)])
def test_warped_agrees_with_grid_sample(size: tuple[int, int]) -> None:
    height, width = size
    images = torch.rand(16, 3, height, width)
    rng = np.random.default_rng(1)
    angle, side = rng.uniform(-3, 3, 16), rng.uniform(0.3, 1.6, 16)
    dx, dy = rng.uniform(-9, 9, 16), rng.uniform(-9, 9, 16)
    along, across = side * np.cos(angle), side * np.sin(angle)
    got = warped(images, along, across, dx, dy)
    # The reference counts in halves of the image, so the terms between x and y are scaled by its sides.
    theta = np.zeros((16, 2, 3))
    theta[:, 0, 0] = theta[:, 1, 1] = along
    theta[:, 0, 1], theta[:, 1, 0] = -across * height / width, across * width / height
    theta[:, 0, 2], theta[:, 1, 2] = 2 * dx / width, 2 * dy / height
    grid = F.affine_grid(torch.from_numpy(theta).float(), list(images.shape), align_corners=False)
    assert torch.allclose(got, F.grid_sample(images, grid, align_corners=False), atol=2e-5)


def test_boxes_agree_with_loops() -> None:
    rng = np.random.default_rng(2)
    tall, wide, u, v = rng.random((4, 200))
    tall[0], wide[0], u[0], v[0] = 1.0, 1.0, 0.999, 0.999
    tall[1] = 0.0
    covered, area = boxes(6, 9, tall, wide, u, v)
    assert covered.shape == (200, 1, 6, 9)
    assert area[0] == 1.0
    assert area[1] == 0.0
    for n in range(200):
        rows, columns = covered[n, 0].any(1), covered[n, 0].any(0)
        assert int(covered[n].sum()) == round(area[n] * 54) == int(rows.sum()) * int(columns.sum())
        if area[n]:
            assert int(rows.sum()) == round(tall[n] * 6)
            assert int(columns.sum()) == round(wide[n] * 9)
