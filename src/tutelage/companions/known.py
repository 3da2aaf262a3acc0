"""What companions that remember share: which row an example has, and what all processes have to write down."""

from __future__ import annotations

import torch
import torch.distributed as processes
from torch import Tensor

from tutelage.errors import InputError

__all__ = ["everyones", "rows_of"]


def rows_of(ids: Tensor, known: Tensor) -> Tensor:
    """Where each id (B,) stands among the known ones (N,), which rise.

    Raises:
        InputError: one is not known.
    """
    rows = torch.searchsorted(known, ids).clamp(max=len(known) - 1)
    if not torch.equal(known[rows], ids):
        raise InputError(
            "a batch holds examples that are none of the training part",
            fix="pass known=(ids, targets) of all training examples when making the Distiller",
        )
    return rows


def everyones(*mine: Tensor) -> list[tuple[Tensor, ...]]:
    """What all processes hold, in the same order in each: every one sees only its share of the batch."""
    if not (processes.is_available() and processes.is_initialized() and processes.get_world_size() > 1):
        return [mine]
    shares: list[tuple[Tensor, ...]] = [mine] * processes.get_world_size()
    processes.all_gather_object(shares, tuple(one.cpu() for one in mine))  # shares differ in length
    return [tuple(one.to(own.device) for one, own in zip(share, mine, strict=True)) for share in shares]
