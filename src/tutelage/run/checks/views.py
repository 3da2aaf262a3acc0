"""What the student will see: which views are random, and a sheet of pictures to look at."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.data import Batches, Views, as_model_input, view_batch
from tutelage.errors import InputError
from tutelage.files import write_bytes
from tutelage.run.checks.findings import Finding, notice, ok
from tutelage.run.job import Job

__all__ = ["check_sheet", "contact_sheet", "view_findings"]

EXAMPLES = 8
EPOCHS = 5
LEAST_CELL = 64
GAP = 2
_GREY = 128


def check_sheet(path: Path) -> None:
    """Refuse a place for the sheet before anything is computed.

    Raises:
        InputError: it is no name of a PNG file.
    """
    if path.suffix.lower() != ".png" or path.is_dir():
        raise InputError("the contact sheet is a PNG file", given=str(path), expected="a name such as sheet.png")


def view_findings(job: Job, sheet: Path | None) -> Iterator[Finding]:
    """What happens to the inputs; writes the contact sheet where one is asked for."""
    views, images = job.views, job.splits.train.is_image
    if not views.random:
        yield ok("views", "nothing random: every epoch shows the plain examples")
    else:
        default = Views()
        names = Views.__dataclass_fields__
        shown = [f"{name} {getattr(views, name):g}" for name in names if getattr(views, name) != getattr(default, name)]
        targets = "targets become probabilities" if views.soft_targets else "targets stay labels"
        yield ok("views", f"random: {', '.join(shown)}; {targets}")
    if sheet is None:
        return
    if not images:
        yield notice("contact sheet", f"none: inputs of shape {job.splits.train.shape} are not images")
        return
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(contact_sheet(job)).save(buffer, format="png")
    write_bytes(sheet, buffer.getvalue())
    count = min(EXAMPLES, len(job.splits.train))
    said = (
        f"{count} examples in {sheet}: each plain, then as the student sees it in its first {EPOCHS} epochs of seed 0"
    )
    yield ok("contact sheet", said)


def contact_sheet(job: Job) -> NDArray[np.uint8]:
    """The sheet as pixels, (H, W) grey or (H, W, 3): a row for each example, plain first, then its views by epoch."""
    train = job.splits.train
    # The first rows in the order of ids are a fixed random sample, since ids are hashes.
    index = torch.arange(min(EXAMPLES, len(train)))
    batches = Batches(train, batch_size=2, views=job.views, seed=0, recorded=job.recorded)
    columns = [as_model_input(train.inputs[index].clone())]
    for epoch in range(EPOCHS):
        seed, drawn = batches.draw(epoch)
        columns.append(view_batch(train, index, job.views, seed=seed, epoch=drawn).inputs["x"])
    cells = [[_cell(picture, train.inputs) for picture in column] for column in columns]
    height, width = cells[0][0].shape[:2]
    shape = (len(index) * (height + GAP) - GAP, len(columns) * (width + GAP) - GAP, *cells[0][0].shape[2:])
    sheet = np.full(shape, _GREY, dtype=np.uint8)
    for column, pictures in enumerate(cells):
        for row, cell in enumerate(pictures):
            top, left = row * (height + GAP), column * (width + GAP)
            sheet[top : top + height, left : left + width] = cell
    return sheet


def _cell(picture: Tensor, raw: Tensor) -> NDArray[np.uint8]:
    """One picture (C, H, W) as bytes, (H, W) or (H, W, 3), each pixel a square large enough to be seen."""
    low, high = 0.0, 1.0
    if raw.dtype.is_floating_point:
        low, high = min(low, float(raw.min())), max(high, float(raw.max()))
    scaled = ((picture - low) / (high - low)).clamp(0.0, 1.0) * 255.0
    pixels = scaled.round().to(torch.uint8)
    # Neither grey nor colour: the mean of all channels tells the most.
    pixels = pixels if len(pixels) in (1, 3) else scaled.mean(0, keepdim=True).round().to(torch.uint8)
    flat = pixels.permute(1, 2, 0).numpy() if len(pixels) == 3 else pixels[0].numpy()
    times = -(-LEAST_CELL // min(flat.shape[:2]))
    return flat.repeat(times, axis=0).repeat(times, axis=1)
