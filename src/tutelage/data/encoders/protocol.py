"""What makes a model's inputs of columns, learned from the training part only, and written down with the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from tutelage.data.rows import Rows

__all__ = ["Encoder"]


class Encoder(Protocol):
    """Columns to one view of the examples: tokens (N, L) int32 with 0 as padding, numbers (N, …) float32, pictures
    (N, C, H, W) uint8, or plain text as its UTF-8 bytes (N, L) uint8 with 0 behind it."""

    @property
    def vocabulary(self) -> int:
        """How many tokens there are, padding included; 0 where the inputs are no tokens."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads."""
        ...

    def encode(self, rows: Rows) -> Tensor:
        """The view of these rows."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """All that makes it again, as JSON: `kind`, and what this kind was told or has learned."""
        ...
