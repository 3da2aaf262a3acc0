"""What travels inside an artifact: whatever somebody needs to ask it, and to read what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self, final

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DamagedError

__all__ = ["KEY", "Facts", "Runner"]

KEY = "tutelage"  # under which formats with a place for remarks keep them
_FORMAT = "tutelage.artifact/1"


@final
@dataclass(frozen=True, slots=True)
class Facts:
    """What goes in, and what comes out.

    Args:
        classes: the names of the logits, in their order.
        input_shape: of one example, (C, H, W) for images.
        model: how tutelage builds the net; None where only its caller can.
        args: of that net.
        mean: of the inputs, one number or one for each channel; the model subtracts it itself.
        std: likewise.
        name: of the model, for whoever looks at the file.
        head: the last layer of a teacher that it ends in, as `models.reuse` describes it; None where it has its own.
        encoding: what makes its input of text, a table or a sound, as `data.encoders` describes it; None of images.
    """

    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    model: str | None = None
    args: Mapping[str, Any] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    name: str = ""
    head: Mapping[str, Any] | None = None
    encoding: Mapping[str, Any] | None = None

    @property
    def preprocessing(self) -> str:
        """What to do with an example before it goes in."""
        kind = (self.encoding or {}).get("kind")
        if kind in ("tokens", "ids"):
            vocabulary = (self.encoding or {})["vocabulary"]
            return f"int64, {self.input_shape[0]} tokens of {vocabulary:,}, 0 behind short rows; `encoding` makes them"
        if kind is not None and kind != "picture":
            return f"float32, as `encoding` makes them of columns ({kind})"
        if len(self.input_shape) == 3:
            height, width = self.input_shape[1:]
            colour = {1: "grey", 3: "RGB"}.get(self.input_shape[0], f"{self.input_shape[0]} channels")
            return f"{colour}, {height}×{width}, bytes divided by 255; mean and deviation are inside the model"
        return "float32, scaled as the training data was; mean and deviation are inside the model"

    def to_text(self) -> str:
        """As JSON, with what a program in another language needs to know."""
        return json.dumps({"format": _FORMAT, **asdict(self), "input": "input", "output": "logits",
                           "preprocessing": self.preprocessing})  # fmt: skip

    @classmethod
    def from_text(cls, text: str, where: str) -> Self:
        """Read what `to_text` wrote.

        Raises:
            DamagedError: it is something else.
        """
        try:
            told = json.loads(text)
            if told["format"] != _FORMAT:
                raise KeyError(told["format"])
            return cls(
                tuple(map(str, told["classes"])), tuple(map(int, told["input_shape"])), told["model"], told["args"],
                tuple(map(float, told["mean"])), tuple(map(float, told["std"])), str(told["name"]), told["head"],
                told.get("encoding"),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{where} does not say what goes in and what comes out", given=repr(error)) from error


class Runner(Protocol):
    """An artifact that was loaded from its file, ready to be asked."""

    facts: Facts

    def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, *input_shape) in [0, 1] → logits (B, C), for any B ≥ 1."""
        ...
