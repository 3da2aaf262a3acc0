"""What a server takes at most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from tutelage.errors import InputError

__all__ = ["Limits"]

_BODIES = 16  # of the largest kind may be held at a time


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes at most; whoever asks for more is refused, with the number.

    Args:
        max_batch: examples in one call of the model.
        max_bytes: of one request's body.
        timeout: seconds in which a request's head, and then its body, must have arrived, and an answer been taken.
        queue: requests that may wait for the model.
        wait: seconds that a call may wait for requests that are being read at that moment.

    Raises:
        InputError: a number that cannot be.
    """

    max_batch: int = 64
    max_bytes: int = 8 * 2**20
    timeout: float = 10.0
    queue: int = 256
    wait: float = 0.001

    def __post_init__(self) -> None:
        for name, least in (("max_batch", 1), ("max_bytes", 1), ("queue", 1)):
            if getattr(self, name) < least:
                flag = "--" + name.replace("_", "-")
                raise InputError(f"{flag} is too small", given=str(getattr(self, name)), expected=f"{least} or more")
        if not (self.timeout > 0 and math.isfinite(self.timeout)):
            raise InputError("--timeout is out of range", given=f"{self.timeout:g}", expected="seconds, more than 0")

    @property
    def held(self) -> int:
        """Bytes of bodies that may be held at a time, of all requests together; what is made of them takes four times
        as much at most."""
        return _BODIES * self.max_bytes

    @property
    def connections(self) -> int:
        """Connections that may be open: those that wait, and as many more that are being read."""
        return self.queue + 256
