"""Asking the teacher, block by block, and what decides its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.store.codecs import Codec, half_of
from tutelage.store.index import Ints
from tutelage.store.layout import COUNTS, FORMAT, blocks_of
from tutelage.store.plan import Question, Rows
from tutelage.types import Batch, Outputs

__all__ = ["Ask", "Capture", "compute", "identity_of"]

Ask = Callable[[Batch], Outputs]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Capture:
    """How a teacher is asked, and how its answers are written."""

    ask: Ask  # a batch on the CPU -> outputs anywhere
    teacher: str  # its fingerprint
    codec: Codec
    precision: str = "32"
    device: str = "cpu"
    places: tuple[str, ...] = ()


def identity_of(question: Question, capture: Capture) -> dict[str, Any]:
    """Everything that decides an answer but the example: what the key is a digest of."""
    views = question.views
    examples = question.examples
    return {
        "format": FORMAT,
        "teacher": capture.teacher,
        "precision": capture.precision,
        "classes": list(examples.outputs),
        "input": [str(examples.inputs.dtype).removeprefix("torch."), *examples.shape],
        "views": {name: float(value) for name, value in asdict(views).items()} if views.random else None,
        # A mixed view shows a partner, which is drawn from the whole set: another set, other partners.
        "partners": examples.fingerprint if views.random and views.soft_targets else None,
        "places": list(capture.places),
        **capture.codec.facts(),
    }


def compute(question: Question, rows: Rows, part: slice, capture: Capture) -> Iterator[dict[str, Tensor]]:
    """The columns of the rows of one shard, block by block."""
    for block in blocks_of(part.stop - part.start):
        at = slice(part.start + block.start, part.start + block.stop)
        ids, draws = rows.ids[at], rows.draws[at]
        # A block may stand where one view ends and the next begins.
        ends = [*(np.flatnonzero(np.diff(draws)) + 1), len(ids)]
        pieces = []
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            number = int(draws[start])
            pieces.append(_ask(question, ids[start:end], number, rows.views[number], capture))
        yield {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def _ask(question: Question, ids: Ints, number: int, view: int, capture: Capture) -> dict[str, Tensor]:
    batch = question.filled(ids, question.draws[number])
    outputs = capture.ask(batch)
    count, classes = len(ids), len(question.examples.outputs)
    logits = outputs.logits
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (len(batch), classes):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            "the teacher's answers cannot be stored",
            given=f"logits {shape}",
            expected=f"all logits of {classes} classes, ({len(batch)}, {classes})",
            fix="use a teacher that was trained on these classes, and that answers row by row",
        )
    logits = logits[:count].detach().float().cpu()
    # One pass that carries NaN and infinity; rows are looked at only where there is one.
    if not bool(torch.stack(logits.aminmax()).isfinite().all()):
        broken = (~logits.isfinite()).any(-1)
        raise ModelError(
            f"the teacher answered with NaN or infinity for {int(broken.sum())} of {count} examples",
            given=f"content id {int(ids[int(broken.nonzero()[0, 0])])} first",
            fix="look at this example, and at the teacher's precision: bf16 or 32 in place of fp16",
        )
    content = torch.from_numpy(ids)
    columns = {"id": content, "view": torch.full((count,), view, dtype=torch.int64)}
    columns |= capture.codec.encode(logits, content, view)
    for place, feature in outputs.features.items():
        if not feature.ndim or len(feature) != len(batch):
            raise ModelError(
                f"the features at `{place}` cannot be stored",
                given=f"shape {tuple(feature.shape)} for {len(batch)} examples",
                expected="one row for each example, first",
            )
        kept = feature[:count].detach().cpu().to(half_of(capture.codec))
        if not bool(kept.isfinite().all()):
            raise ModelError(
                f"the features at `{place}` cannot be stored as {kept.dtype}",
                given=f"up to {float(feature.float().abs().max()):g}",
                expected="finite numbers of that type",
                fix="store them with the codec bf16 or fp32, if they are finite at all",
            )
        columns[f"feature/{place}"] = kept
    if outputs.counts is not None:
        # Which examples it has a say about is as much its answer as the logits are.
        columns[COUNTS] = outputs.counts[:count].detach().to("cpu", torch.uint8)
    return columns
