"""What an endpoint of `tutelage serve` is sent: numbers and tokens as they are, texts by the names of their columns."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.data.encoders.digest import digest_of_reading
from tutelage.data.encoders.text import BETWEEN
from tutelage.errors import InputError, ModelError, nearest
from tutelage.models.textnets import answerable
from tutelage.tasks import IMPOSSIBLE
from tutelage.teachers.remote.connection import Request
from tutelage.teachers.remote.served import NUMBER, Served
from tutelage.teachers.remote.settings import PLAIN

__all__ = ["Encodings", "Numbers", "Sender", "Sent", "Texts"]

Floats = NDArray[np.float32]

_PATH: Final = "/predict?logits=true"
_PLACES: Final = "answers are places of tokens, so both have to read by one tokenizer: `tokens: {source: …}` names it"
_UNKNOWN: Final = "notice: one of the two does not say what makes tokens: the remote teacher's need not be the data's"
_NUMBER_KIND, _SOUND_KIND = "number or null", "list of samples"  # as /model tells what a column holds


@final
@dataclass(frozen=True, slots=True)
class Encodings:
    """What made the inputs, as `Examples.encodings` has it, so that it can be held against what the server says.

    Args:
        own: of the view that the teacher is asked about; None where nobody knows.
        students: of the view that students read, where they answer questions with places of its tokens.
        name: what messages call the first one.
    """

    own: Mapping[str, Any] | None = None
    students: Mapping[str, Any] | None = None
    name: str = ""


class Sent(Protocol):
    """B examples, ready to be asked about."""

    def __len__(self) -> int: ...

    @property
    def is_json(self) -> bool:
        """Whether they go as JSON."""
        ...

    @property
    def keys(self) -> list[tuple[bytes, ...]]:
        """For each what tells it from others, for the answer book."""
        ...

    @property
    def sizes(self) -> list[int]:
        """For each the bytes that it takes in a request, at most."""
        ...

    def first(self, count: int) -> Self:
        """The first ones."""
        ...

    def request(self, chosen: Sequence[int]) -> Request:
        """The question about some of them."""
        ...


@final
@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """Rows (B, …) of little-endian float32 or int64, sent as their bytes or as JSON."""

    rows: NDArray[Any]
    is_json: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def keys(self) -> list[tuple[bytes, ...]]:
        """The bytes of each row."""
        return [(row.tobytes(),) for row in self.rows]

    @property
    def sizes(self) -> list[int]:
        """As many bytes for each row as for any other."""
        each = NUMBER if self.is_json else self.rows.itemsize
        return [math.prod(self.rows.shape[1:]) * each] * len(self.rows)

    def first(self, count: int) -> Numbers:
        """The first rows."""
        return Numbers(self.rows[:count], self.is_json)

    def request(self, chosen: Sequence[int]) -> Request:
        """These rows, one after the other."""
        rows = self.rows[list(chosen)]
        if self.is_json:
            return Request.of_json(_PATH, {"inputs": rows.tolist()})
        return Request("POST", _PATH, rows.tobytes(), {"content-type": "application/octet-stream"})


@final
@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Rows (B) of columns by name, each as JSON in UTF-8."""

    rows: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def is_json(self) -> bool:
        """True."""
        return True

    @property
    def keys(self) -> list[tuple[bytes, ...]]:
        """The JSON of each row."""
        return [(b"row", row) for row in self.rows]

    @property
    def sizes(self) -> list[int]:
        """The JSON of each row, with its comma."""
        return [len(row) + 1 for row in self.rows]

    def first(self, count: int) -> Texts:
        """The first rows."""
        return Texts(self.rows[:count])

    def request(self, chosen: Sequence[int]) -> Request:
        """These rows in one list."""
        body = b'{"rows":[' + b",".join(self.rows[row] for row in chosen) + b"]}"
        return Request("POST", _PATH, body, {"content-type": "application/json"})


@final
class Sender:
    """Makes of a view's tensors what one server can be asked about, once it is known that the two fit.

    Args:
        facts: what the server says of itself.
        as_json: whether numbers go as JSON.
        view: the view's name.
        encodings: what made the view.

    Raises:
        ModelError: the server reads other columns or other tokens, or answers with places of other tokens.
    """

    def __init__(self, facts: Served, *, as_json: bool, view: str, encodings: Encodings) -> None:
        self.notices: list[str] = []  # for a person, who takes them out
        self._facts, self._as_json, self._view = facts, as_json, encodings.name or view
        self._own, self._students = encodings.own or {}, encodings.students
        self._said: set[str] = set()
        if self.reads_texts:
            self._check_columns(tuple(self._own.get("columns", ())))
            self._check_places()
        elif size := int(self._own.get("vocabulary", 0)):
            self._check_tokens(size)
        elif self._own and facts.reads and facts.reads != digest_of_reading(self._own):
            self._notice(
                "notice: what makes the remote teacher's inputs is not what made these: they may be scaled otherwise"
            )

    @property
    def reads_texts(self) -> bool:
        """Whether it is known to be asked about texts."""
        return self._own.get("kind") == "plain"

    def of(self, inputs: Tensor) -> Sent:
        """A view (B, …) as it is sent: float32; tokens (B, L) of whole numbers; or texts as bytes (B, L) uint8.

        Raises:
            InputError: these are texts, but of which columns is not known.
            ModelError: the server reads something else.
        """
        inputs = inputs.detach().cpu()
        if inputs.dtype == torch.uint8 and inputs.ndim == 2:
            return self._texts(inputs)
        if inputs.dtype in (torch.int32, torch.int64):
            return self._tokens(inputs)
        if self._facts.vocabulary:
            given = f"numbers in the view `{self._view}`"
            raise self._other("the remote teacher reads tokens", given=given, fix=PLAIN)
        self._check_shape(inputs)
        return Numbers(np.ascontiguousarray(inputs.numpy(), dtype="<f4"), self._as_json)

    def check_impossible(self, sent: Sent, logits: Floats) -> None:
        """Whether a teacher of questions says of places that cannot answer what students say of them.

        Args:
            sent: what it was asked.
            logits: (B, 2·L), in the order of the data's classes.

        Raises:
            ModelError: it gives such places a chance.
        """
        separator = int(self._own.get("separator", 0))
        if not separator or not self._facts.questions or not isinstance(sent, Numbers) or not len(sent):
            return
        tokens = torch.from_numpy(sent.rows.astype(np.int64))
        never = (~answerable(tokens, separator)).repeat(1, 2).numpy()
        highest = float(logits[never].max(initial=IMPOSSIBLE))
        if highest > IMPOSSIBLE + 1.0:  # a file in fewer bits may put it a little higher
            raise ModelError(
                "the remote teacher gives places a chance that cannot be an answer", where=self._facts.where,
                given=f"a logit of {highest:.3g}", expected=f"{IMPOSSIBLE:g} at the question, separators and padding",
                fix="export the served student again",
            )  # fmt: skip

    # Numbers and tokens

    def _check_shape(self, inputs: Tensor) -> None:
        if tuple(inputs.shape[1:]) != self._facts.shape:
            raise ModelError(
                "the remote teacher takes inputs of another shape", where=self._facts.where,
                given=f"{tuple(inputs.shape[1:])} for the view `{self._view}`", expected=str(self._facts.shape),
            )  # fmt: skip

    def _tokens(self, inputs: Tensor) -> Numbers:
        size = self._facts.vocabulary
        if not size:
            raise self._other(
                "the remote teacher reads no tokens", given=f"tokens in the view `{self._view}`",
                fix=PLAIN if self._facts.columns else None,
            )  # fmt: skip
        self._check_shape(inputs)
        rows: NDArray[Any] = np.ascontiguousarray(inputs.numpy(), dtype="<i8")
        if rows.size and not 0 <= rows.min() <= rows.max() < size:
            raise ModelError(
                "a token is not in the remote teacher's vocabulary", where=self._facts.where,
                given=f"tokens {rows.min()} … {rows.max()}", expected=f"0 … {size - 1:,}", fix=PLAIN,
            )  # fmt: skip
        if not self._own:
            self._notice(_UNKNOWN)
        return Numbers(rows, self._as_json)

    def _check_tokens(self, size: int) -> None:
        theirs = self._facts.vocabulary
        if not theirs:
            return  # which is refused when the first tokens come
        if theirs != size:
            raise ModelError(
                "the remote teacher reads tokens of another vocabulary than the data", where=self._facts.where,
                given=f"{size:,} tokens in the view `{self._view}`", expected=f"{theirs:,} tokens", fix=self._mend,
            )  # fmt: skip
        # Two vocabularies of one size are not one vocabulary yet.
        if self._facts.reads is None or "columns" not in self._own:
            self._notice(_UNKNOWN)
        elif (ours := digest_of_reading(self._own)) != self._facts.reads:
            raise ModelError(
                "the remote teacher makes other tokens of a text than the data does", where=self._facts.where,
                given=f"tokens by {ours[:12]} in the view `{self._view}`", expected=f"by {self._facts.reads[:12]}",
                fix=self._mend,
            )  # fmt: skip

    @property
    def _mend(self) -> str:
        return _PLACES if self._facts.questions else PLAIN

    def _other(self, what: str, *, given: str, fix: str | None) -> ModelError:
        facts = self._facts
        kind = f"tokens of a vocabulary of {facts.vocabulary:,}" if facts.vocabulary else "numbers"
        return ModelError(what, where=facts.where, given=given, expected=f"{kind}, shape {facts.shape}", fix=fix)

    # Texts

    def _check_columns(self, ours: Sequence[str]) -> None:
        theirs = self._facts.columns
        if not theirs:
            raise self._other(
                "the remote teacher reads no columns, so that it cannot be asked about texts",
                given=f"texts in the view `{self._view}`", fix=None,
            )  # fmt: skip
        lacking = [name for name in theirs if name not in ours]
        if lacking:
            raise ModelError(
                "the remote teacher reads columns that the view lacks", where=self._facts.where,
                given=f"{', '.join(ours)} in the view `{self._view}`", expected=", ".join(theirs),
                fix=nearest(lacking[0], ours) or f"name them in the view, as `raw: {{text: [{', '.join(theirs)}]}}`",
            )  # fmt: skip
        sounds = [name for name, kind in theirs.items() if kind == _SOUND_KIND]
        if sounds:
            raise ModelError(
                "the remote teacher hears sounds, which plain text does not hold", where=self._facts.where,
                given=sounds[0], fix="let it read the view that students read",
            )  # fmt: skip

    def _check_places(self) -> None:
        if self._students is None or not self._facts.questions:
            return
        ours = digest_of_reading(self._students)
        if self._facts.reads != ours:
            theirs = self._facts.reads[:12] if self._facts.reads else "an unknown tokenizer"
            raise ModelError(
                "the remote teacher answers with places of other tokens than the students'", where=self._facts.where,
                given=f"students read by {ours[:12]}, it by {theirs}", fix=_PLACES,
            )  # fmt: skip

    def _texts(self, inputs: Tensor) -> Texts:
        if not self.reads_texts:
            raise InputError(
                "which columns these texts are of is not known", given=f"bytes in the view `{self._view}`",
                expected="their names, so that the remote teacher finds what it reads",
                fix='pass `encodings=Encodings({"kind": "plain", "columns": ["text"]})` to `open_remote`',
            )  # fmt: skip
        names, rows = tuple(self._own.get("columns", ())), inputs.numpy()
        self._tell_of_cut(rows)
        return Texts([self._row(names, row.tobytes().rstrip(b"\0")) for row in rows])

    def _row(self, names: Sequence[str], raw: bytes) -> bytes:
        texts = raw.split(BETWEEN.encode())
        if len(texts) != len(names):
            raise InputError(
                "a row of plain text holds another number of columns than its view", where=self._view,
                given=f"{len(texts)}", expected=f"{len(names)}: {', '.join(names)}",
            )  # fmt: skip
        held = {name: text.decode("utf-8", "replace") for name, text in zip(names, texts, strict=True)}
        row = {name: self._cell(name, kind, held[name]) for name, kind in self._facts.columns.items()}
        return json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    def _cell(self, name: str, kind: str, text: str) -> str | float | None:
        """What a column holds, as the server wants it; a category may stay a text."""
        if kind != _NUMBER_KIND:
            return text
        if not text.strip():
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ModelError(
                f"the remote teacher wants a number in the column `{name}`", where=self._facts.where, given=text[:60],
                expected="a number, or nothing",
            )  # fmt: skip
        return value

    def _tell_of_cut(self, rows: NDArray[np.uint8]) -> None:
        """Only the longest text fills its view; where others do as well, texts were cut."""
        if len({row.tobytes() for row in rows[rows[:, -1] != 0]}) > 1:
            self._notice(
                f"notice: several texts fill all {rows.shape[1]:,} bytes of the view `{self._view}`, so longer ones are"
                " cut: `options: {limit: …}` of the view allows more"
            )

    def _notice(self, line: str) -> None:
        """Once."""
        if line not in self._said:
            self._said.add(line)
            self.notices.append(line)
