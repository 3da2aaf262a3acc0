"""What travels inside an artifact: whatever somebody needs to ask it, and to read what it says."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self, final

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DamagedError

__all__ = ["KEY", "Facts", "Inputs", "Runner", "example_inputs"]

# What a model reads: (B, …) float32, or int64 tokens.
Inputs = NDArray[np.float32] | NDArray[np.int64]

KEY = "tutelage"  # under which formats with a place for remarks keep them
_FORMAT = "tutelage.artifact/1"
_MOST = 1 << 26  # bytes of a tokenizer
_SCALED = frozenset({"table", "sound", "waveform"})  # around 0, where other numbers lie in [0, 1]


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
        smaller: the steps by which the plain net gets the shapes of one that was cut, as `compress.rebuilt` reads them.
        tasks: of several tasks how many classes each has, in the order of their logits; None of one.
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
    smaller: Sequence[Mapping[str, Any]] | None = None
    tasks: Mapping[str, int] | None = None

    @property
    def vocabulary(self) -> int:
        """How many tokens there are; 0 where it reads none."""
        return int((self.encoding or {}).get("vocabulary", 0))

    @property
    def separator(self) -> int:
        """The token that ends a text, where it answers questions about texts with places; else 0."""
        return int((self.encoding or {}).get("separator", 0))

    def example(self, rows: int = 1, *, seed: int = 0) -> Inputs:
        """Made-up inputs (rows, *input_shape) of the kind that it reads, always the same."""
        return example_inputs(self.input_shape, self.encoding, rows, seed=seed)

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
        told = {"format": _FORMAT, **asdict(self), "encoding": _packed(self.encoding)}
        if self.tasks is None:
            del told["tasks"]
        return json.dumps({**told, "input": "input", "output": "logits", "preprocessing": self.preprocessing})

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
                _unpacked(told.get("encoding")), told.get("smaller"), _sizes(told.get("tasks")),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, zlib.error) as error:
            raise DamagedError(f"{where} does not say what goes in and what comes out", given=repr(error)) from error


class Runner(Protocol):
    """An artifact that was loaded from its file, ready to be asked."""

    facts: Facts

    def __call__(self, inputs: Inputs) -> NDArray[np.float32]:
        """(B, *input_shape) in [0, 1], or int64 tokens → logits (B, C), for any B ≥ 1."""
        ...


def example_inputs(shape: Sequence[int], encoding: Mapping[str, Any] | None, rows: int, *, seed: int = 0) -> Inputs:
    """Made-up inputs (rows, *shape) as an encoding would make them, for timing and trying; always the same.

    Tokens are whole numbers from 1 below the vocabulary, without padding, a quarter of them a question where the
    encoding knows what ends one; other numbers lie in [0, 1], or around 0 where the encoding scales them so.
    """
    generator, told = np.random.default_rng(seed), encoding or {}
    if vocabulary := int(told.get("vocabulary", 0)):
        tokens = generator.integers(1, vocabulary, size=(rows, *shape))
        if separator := int(told.get("separator", 0)):
            tokens[:, [shape[0] // 4, -1]] = separator
        return tokens
    if told.get("kind") in _SCALED:
        return generator.standard_normal((rows, *shape), dtype=np.float32)
    return generator.random((rows, *shape), dtype=np.float32)


def _sizes(tasks: Any) -> dict[str, int] | None:
    return None if tasks is None else {str(name): int(size) for name, size in tasks.items()}


def _packed(encoding: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """With its tokenizer, which may be as large as a small student, compressed: {"zlib": base64 of it in UTF-8}."""
    if encoding is None:
        return None
    told = dict(encoding)
    if isinstance(told.get("tokenizer"), str):
        data = zlib.compress(told["tokenizer"].encode(), 9)
        told["tokenizer"] = {"zlib": base64.b64encode(data).decode()}
    return told


def _unpacked(encoding: Any) -> dict[str, Any] | None:
    if encoding is None:
        return None
    told = dict(encoding)
    fits = 0 <= int(told.get("separator", 0)) < max(1, int(told.get("vocabulary", 0)))
    if not fits or not isinstance(told.get("kind"), str):
        raise ValueError("encoding")
    if isinstance(told.get("tokenizer"), dict):
        data = base64.b64decode(told["tokenizer"]["zlib"], validate=True)
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(data, _MOST)  # a file of a few bytes may hold endless ones
        if not unpacker.eof:
            raise ValueError("the tokenizer is not whole, or too large")
        told["tokenizer"] = text.decode()
    return told
