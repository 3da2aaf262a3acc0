"""Examples have an identity: a content id, from which their place, their split and their random views follow.

The order of examples is the order of their ids, so that renaming, moving or shuffling files changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, final
from unicodedata import category

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.errors import DataError, InputError, nearest

__all__ = ["MAIN_TASK", "Examples", "Task", "as_model_input", "check_names", "listed", "separator_of", "vocabulary_of"]

# Standardised images stay well below this, bytes that were turned into floats lie well above.
_UNSCALED = 16.0
MAIN_TASK = "label"


@final
@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Further labels of the same examples."""

    targets: Tensor  # (N,) int64
    classes: tuple[str, ...]

    def take(self, index: Tensor) -> Task:
        """Those of some examples, in the order of `index`."""
        return Task(self.targets[index], self.classes)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Inputs with labels, in memory; use `Examples.make`.

    An example may be seen in several views, such as a text and its translation. One of them is read by whoever learns:
    `inputs` is that one, and `reads` its name.
    """

    inputs: Tensor  # (N, C, H, W) uint8 images, (N, L) int32 tokens, or (N, …) float32 that is scaled already
    targets: Tensor  # (N,) int64
    ids: Tensor  # (N,) int64 content ids
    classes: tuple[str, ...]
    name: str
    origins: Tensor  # (N,) int64: which file or row of the source each was; only to tell what changed, never to find it
    task: str = MAIN_TASK  # what the targets are of, where there are further ones
    tasks: Mapping[str, Task] = field(default_factory=dict)  # further tasks by name
    views: Mapping[str, Tensor] = field(default_factory=dict)  # all views by name, where they have names
    reads: str = "x"  # the view that `inputs` is
    encodings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # view -> what made it of columns, as JSON
    groups: Tensor | None = None  # (N,) int64; what is of one group stays in one part

    @staticmethod
    def make(
        inputs: Tensor,
        targets: Tensor,
        classes: Sequence[str],
        name: str,
        *,
        origins: Sequence[str] | None = None,
        tasks: Mapping[str, Task] = MappingProxyType({}),
        vocabulary: int = 0,
        contents: Sequence[bytes] | None = None,
        groups: Sequence[str] | None = None,
    ) -> Examples:
        """Check examples, give them ids, and put them in the order of these.

        Args:
            inputs: (N, C, H, W) uint8 images, (N, L) int32 tokens with 0 behind short ones, or (N, …) float32.
            targets: (N,) integers, 0 … C − 1.
            classes: one name for each class, in the order of the labels.
            name: of the whole set.
            origins: what each was called where it came from; their row numbers if left out.
            tasks: further labels by name.
            vocabulary: how many tokens there are, with the 0 that stands behind short rows; 0 for other inputs.
            contents: what each id is a digest of; by default the input itself.
            groups: what each belongs to, such as a patient or a voice; splits keep a group together.

        Raises:
            DataError: lengths, shapes or names do not fit, a label names no class, or an input is not finite.
        """
        _check_targets(inputs, targets, classes, name)
        for title, task in tasks.items():
            _check_targets(inputs, task.targets, task.classes, f"{name}, task {title}")
        if inputs.dtype == torch.float32:
            _refuse_odd_numbers(inputs, name)
        if inputs.dtype == torch.int32 or vocabulary:
            _check_tokens(inputs, vocabulary, name)
        ids = _content_ids(inputs) if contents is None else _digests(contents)
        # Equal inputs share an id; their label decides, so that even twins have one order.
        order = np.lexsort((*(task.targets.numpy() for task in tasks.values()), targets.numpy(), ids))
        index = torch.from_numpy(order)
        made = Examples(
            inputs[index], targets[index].long(), torch.from_numpy(ids[order]), tuple(classes), name,
            index if origins is None else torch.tensor([_word(origins[row]) for row in order], dtype=torch.int64),
            tasks={title: Task(task.targets.long(), tuple(task.classes)).take(index) for title, task in tasks.items()},
            encodings={"x": {"kind": "tokens", "vocabulary": vocabulary}} if vocabulary else {},
            groups=None if groups is None else torch.tensor([_word(groups[row]) for row in order], dtype=torch.int64),
        )  # fmt: skip
        _refuse_collisions(made)
        return made

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.inputs.shape[1:])

    @property
    def is_image(self) -> bool:
        """Whether an input has channels, rows and columns."""
        return self.inputs.ndim == 4

    @property
    def vocabulary(self) -> int:
        """How many tokens there are; 0 where inputs are no tokens."""
        return int(self.encodings.get(self.reads, {}).get("vocabulary", 0))

    @property
    def separator(self) -> int:
        """The token between a question and the text that holds its answer; 0 where examples are no questions."""
        return separator_of({"encoding": self.encodings.get(self.reads)})

    @property
    def labels(self) -> dict[str, Tensor]:
        """Task -> its labels (N,), the main one first."""
        return {self.task: self.targets, **{name: task.targets for name, task in self.tasks.items()}}

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Task -> its classes, the main one first."""
        return {self.task: self.classes, **{name: task.classes for name, task in self.tasks.items()}}

    @property
    def sizes(self) -> dict[str, int]:
        """Task -> how many classes it has, the main one first."""
        return {name: len(classes) for name, classes in self.names.items()}

    @property
    def outputs(self) -> tuple[str, ...]:
        """What a model answers, logit by logit: the classes; of several tasks `task: class`, one after the other."""
        if not self.tasks:
            return self.classes
        return tuple(f"{task}: {name}" for task, classes in self.names.items() for name in classes)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over ids, labels and class names."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        digest.update(self.ids.numpy().tobytes())
        digest.update(self.targets.numpy().tobytes())
        for name, task in self.tasks.items():
            digest.update(json.dumps([name, task.classes]).encode())
            digest.update(task.targets.numpy().tobytes())
        if self.encodings:
            # Ids tell of columns; what was made of these may differ still.
            digest.update(json.dumps([self.reads, self.encodings], sort_keys=True).encode())
        return digest.hexdigest()

    def take(self, index: Tensor) -> Examples:
        """Some of them, in the order of `index`."""
        views = {name: view[index] for name, view in self.views.items()}
        return replace(
            self, inputs=views[self.reads] if self.reads in views else self.inputs[index],
            targets=self.targets[index], ids=self.ids[index], origins=self.origins[index],
            tasks={name: task.take(index) for name, task in self.tasks.items()}, views=views,
            groups=None if self.groups is None else self.groups[index],
        )  # fmt: skip

    def reading(self, view: str) -> Examples:
        """The same examples as somebody sees them who reads another of their views.

        Raises:
            InputError: they have no such view.
        """
        if view == self.reads:
            return self
        if view not in self.views:
            raise InputError(
                f"the examples have no view `{view}`", where=self.name,
                expected="one of " + ", ".join(self.views or [self.reads]), fix=nearest(view, self.views),
            )  # fmt: skip
        return replace(self, inputs=self.views[view], reads=view)

    @staticmethod
    def concatenated(parts: Sequence[Examples]) -> Examples:
        """All examples of several parts of one set, in the order of their ids."""
        first = parts[0]
        whole = replace(
            first, inputs=torch.cat([part.inputs for part in parts]), targets=torch.cat([p.targets for p in parts]),
            ids=torch.cat([part.ids for part in parts]), origins=torch.cat([part.origins for part in parts]),
            tasks={
                name: Task(torch.cat([part.tasks[name].targets for part in parts]), task.classes)
                for name, task in first.tasks.items()
            },
            views={name: torch.cat([part.views[name] for part in parts]) for name in first.views},
            groups=None if first.groups is None else torch.cat([p.groups for p in parts if p.groups is not None]),
        )  # fmt: skip
        further = [task.targets.numpy() for task in whole.tasks.values()]
        return whole.take(torch.from_numpy(np.lexsort((*further, whole.targets.numpy(), whole.ids.numpy()))))

    def seen(self, index: Tensor) -> dict[str, Tensor]:
        """What models read of the chosen ones: `x`, and the other views by their names."""
        x = {"x": as_model_input(self.inputs.index_select(0, index))}
        return x | {name: as_model_input(view.index_select(0, index)) for name, view in self.views.items()}


def vocabulary_of(facts: Mapping[str, Any]) -> int:
    """How many tokens the model knows whose file says this of its data; 0 where it reads none."""
    return int((facts.get("encoding") or {}).get("vocabulary", 0))


def separator_of(facts: Mapping[str, Any]) -> int:
    """The token between a question and its text, for a model that answers places; 0 for one that answers classes."""
    return int((facts.get("encoding") or {}).get("separator", 0))


def as_model_input(raw: Tensor) -> Tensor:
    """Bytes of images become numbers in [0, 1], tokens int64; float32, and the bytes of texts, stay as they are."""
    if raw.dtype == torch.int32:
        return raw.long()
    return raw.to(torch.float32).div_(255.0) if raw.dtype == torch.uint8 and raw.ndim != 2 else raw


def listed(offenders: Sequence[object], *, most: int = 10, separator: str = ", ") -> str:
    """The first offenders by name, and how many there are in all."""
    shown = separator.join(map(str, offenders[:most]))
    return shown if len(offenders) <= most else f"{shown}{separator}… ({len(offenders):,} in all)"


def check_names(classes: Sequence[str], where: str) -> None:
    """Refuse names of classes that could not be told apart, or not be written.

    Raises:
        DataError: which ones, and why.
    """
    # Names go into reports, file names and terminals; half a surrogate or a control character breaks each of these.
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise DataError(
            "classes are not a list of names",
            where=where,
            given=f"{classes!r:.80}",
            expected="one text for each class",
            fix="[str(name) for name in names] makes names of numbers",
        )
    odd = [ascii(name) for name in classes if not name or any(category(c) in ("Cc", "Cs") for c in name)]
    if odd:
        raise DataError(
            f"{len(odd)} class name{'s' * (len(odd) > 1)} cannot be written",
            where=where,
            given=listed(odd),
            expected="text without control characters",
            fix="rename them",
        )
    twice = (
        sorted({name for name in classes if list(classes).count(name) > 1}) if len(set(classes)) < len(classes) else []
    )
    if twice:
        raise DataError("class names must differ", where=where, given=f"more than once: {listed(twice)}")


def _check_targets(inputs: Tensor, targets: Tensor, classes: Sequence[str], where: str) -> None:
    check_names(classes, where)
    _check_shapes(inputs, targets, where)
    if not 0 <= int(targets.min()) <= int(targets.max()) < len(classes):
        raise DataError(
            "a label names no class",
            where=where,
            given=f"labels {int(targets.min())} … {int(targets.max())}",
            expected=f"0 … {len(classes) - 1} for {len(classes)} classes",
        )


def _check_shapes(inputs: Tensor, targets: Tensor, name: str) -> None:
    if targets.ndim != 1 or targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise DataError(
            "labels are not one integer for each example",
            where=name,
            given=f"shape {tuple(targets.shape)}, {targets.dtype}",
            fix="number the classes 0 … C − 1 and pass their names as classes",
        )
    if inputs.ndim < 1 or len(inputs) != len(targets):
        number = len(inputs) if inputs.ndim else 0
        raise DataError(
            "inputs and labels differ in number", where=name, given=f"{number:,} inputs, {len(targets):,} labels"
        )
    if not len(inputs):
        raise DataError("there are no examples", where=name)
    if inputs.ndim < 2 or inputs[0].numel() == 0:
        raise DataError(
            "an input holds no numbers of its own",
            where=name,
            given=f"inputs of shape {tuple(inputs.shape)}",
            expected="(N, features), (N, C, H, W), …",
        )
    if inputs.dtype == torch.uint8 and inputs.ndim != 4:
        raise DataError(
            "bytes that are not images",
            where=name,
            given=f"uint8 inputs of shape {tuple(inputs.shape)}",
            expected="(N, C, H, W)",
            fix="reshape them if they are images, or pass features as float32",
        )
    if inputs.dtype not in (torch.uint8, torch.float32, torch.int32):
        raise DataError(
            f"inputs are {inputs.dtype}", where=name, expected="uint8 images, float32 features, or int32 tokens"
        )


def _check_tokens(inputs: Tensor, vocabulary: int, name: str) -> None:
    if inputs.dtype != torch.int32 or inputs.ndim != 2 or vocabulary < 2:
        raise DataError(
            "tokens come as one row for each example, with the size of their vocabulary", where=name,
            given=f"{inputs.dtype}, shape {tuple(inputs.shape)}, vocabulary {vocabulary}",
            expected="int32 (N, L), 0 behind short rows, and a vocabulary of 2 or more",
            fix="pass `vocabulary`, or let `tutelage.data.from_rows` make tokens of a column of text",
        )  # fmt: skip
    if not 0 <= int(inputs.min()) <= int(inputs.max()) < vocabulary:
        raise DataError(
            "a token is not in the vocabulary", where=name,
            given=f"tokens {int(inputs.min())} … {int(inputs.max())}", expected=f"0 … {vocabulary - 1}",
        )  # fmt: skip


def _word(text: str) -> int:
    """63 bits of BLAKE2b over a text."""
    data = text.encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1


def _digests(contents: Sequence[bytes]) -> NDArray[np.int64]:
    """63 bits of BLAKE2b over each content, which must be of several ones if they are of several contents."""
    raw = b"".join(hashlib.blake2b(content, digest_size=8).digest() for content in contents)
    ids = (np.frombuffer(raw, dtype="<u8") >> np.uint64(1)).astype(np.int64)
    if len(np.unique(ids)) != len(set(contents)):
        raise DataError("two different examples have the same content id", fix="remove one of the two")
    return ids


def _content_ids(inputs: Tensor) -> NDArray[np.int64]:
    """63 bits of BLAKE2b over dtype, shape and bytes of every input."""
    rows = np.ascontiguousarray(inputs.numpy()).reshape(len(inputs), -1)
    width = rows.shape[1] * rows.itemsize
    raw = rows.view(np.uint8).reshape(-1).data
    # A copied hasher has read the head already, which costs half of hashing it anew for every row.
    head = hashlib.blake2b(f"{inputs.dtype} {tuple(inputs.shape[1:])} ".encode(), digest_size=8)
    digests = bytearray()
    for start in range(0, len(raw), width):
        hasher = head.copy()
        hasher.update(raw[start : start + width])
        digests += hasher.digest()
    words = np.frombuffer(digests, dtype="<u8").astype(np.uint64)
    return (words >> np.uint64(1)).view(np.int64)


def _refuse_collisions(examples: Examples) -> None:
    # Two contents with one id would mean wrong answers later: improbable (n² / 2⁶⁴), but cheap to rule out.
    twins = (examples.ids[1:] == examples.ids[:-1]).nonzero().flatten()
    if not torch.equal(examples.inputs[twins], examples.inputs[twins + 1]):
        raise DataError(
            "two different examples have the same content id", where=examples.name, fix="remove one of the two"
        )


def _refuse_odd_numbers(inputs: Tensor, name: str) -> None:
    finite = torch.isfinite(inputs).reshape(len(inputs), -1).all(-1)
    rows = (~finite).nonzero().flatten().tolist()
    if rows:
        raise DataError(
            f"{len(rows):,} of {len(inputs):,} examples hold NaN or infinity",
            where=name,
            given=f"row{'s' * (len(rows) > 1)} {listed(rows)} (the first is row 0)",
            fix="mend or drop these rows",
        )
    if inputs.ndim == 4 and float(inputs.abs().max()) > _UNSCALED:
        raise DataError(
            f"these float images look unscaled: max {float(inputs.max()):g}",
            where=name,
            expected="values in 0 … 1, or standardised ones",
            fix="pass them as uint8, or divide by 255",
        )
