"""A teacher behind `tutelage serve`: logits as they are, of exactly the file that answered at the start."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.errors import ModelError
from tutelage.objective import read_view
from tutelage.tasks import IMPOSSIBLE
from tutelage.teachers.remote.book import Book, Spent, digest_of
from tutelage.teachers.remote.client import Client
from tutelage.teachers.remote.connection import FalteringError, Request
from tutelage.teachers.remote.desk import Desk, Errand, Read
from tutelage.teachers.remote.sent import Encodings, Sender, Sent
from tutelage.teachers.remote.served import Served
from tutelage.teachers.remote.settings import OwnSettings
from tutelage.teachers.remote.spending import Purse
from tutelage.types import Batch, Outputs

__all__ = ["OwnTeacher"]

_AGREE = 1e-5  # of the largest logit, at least of 1

Floats = NDArray[np.float32]


@final
class OwnTeacher:
    """Asks an endpoint of `tutelage serve` about rows that the book lacks.

    What the server says of itself at the start, the digest of its file, its classes and its shape, is part of every
    question; it is looked at again after every call, before what was answered is believed.

    Args:
        client: the server.
        settings: how it is asked.
        classes: the data's; the server's are put into their order by name.
        view: the input view that it is asked about.
        book: where its answers are kept.
        encodings: what made the view.
        tell: takes a line for a person.

    Raises:
        ModelError: this is no such server, or its classes, columns or tokens are not the data's.
        TutelageError: it does not answer.
    """

    def __init__(
        self, client: Client, settings: OwnSettings, *, classes: Sequence[str], view: str, book: Book,
        encodings: Encodings, tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._client, self._settings, self._view, self._tell = client, settings, view, tell
        self._facts = Served(client.ask(Request("GET", "/model"), _mapping), client.address.shown)
        self._order = self._facts.order_for(classes)
        self._sender = Sender(self._facts, as_json=settings.body == "json", view=view, encodings=encodings)
        self._device = torch.device("cpu")
        self._lock = threading.RLock()
        self._checked = settings.parity == 0
        self._desk = Desk(client, book, Purse(book, self.fingerprint()), in_flight=settings.in_flight, tell=tell)
        facts = self._facts
        told = f"{facts.name} ({facts.sha256[:12]}), {len(facts.classes)} classes, inputs {facts.shape}"
        tell(f"teacher at {client.address.shown}: {told}")
        self._tell_notices()

    def answer(self, batch: Batch) -> Outputs:
        """Logits (B, C) in the order of the data's classes, without a graph.

        Raises:
            ModelError: inputs or answers have another shape, or the server has another model than at the start.
            TutelageError: it does not answer; what it did answer is kept.
        """
        with self._lock:
            sent = self._sender.of(read_view(batch, self._view))
            self._tell_notices()
            if not self._checked:
                self._check_parity(sent.first(self._settings.parity))
                self._checked = True
            logits = self._logits(sent)[:, self._order]
            self._sender.check_impossible(sent, logits)
        return Outputs(torch.from_numpy(logits).to(self._device))

    def fingerprint(self) -> str:
        """SHA-256 over the digest of the served file, its classes and its shape; the address is no part of it."""
        facts = self._facts
        told = ["remote-own-1", facts.sha256, facts.classes, facts.shape, self._order]
        if self._sender.reads_texts:
            told.append("texts")
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def to(self, device: torch.device) -> None:
        """Put answers on this device; the server stays where it is."""
        self._device = device

    def close(self) -> None:
        """Close book and connections; it cannot answer any more."""
        self._desk.close()

    def summary(self) -> list[str]:
        """What was asked so far, for a person."""
        requests = self._desk.purse.total.requests
        return [f"teacher at {self._client.address.shown}: {requests:,} requests since the book was begun"]

    def _tell_notices(self) -> None:
        while self._sender.notices:
            self._tell(self._sender.notices.pop(0))

    def _questions(self, sent: Sent) -> list[bytes]:
        facts = self._facts
        asked = json.dumps(["own", facts.sha256, facts.classes, facts.shape]).encode()
        return [digest_of(asked, *key) for key in sent.keys]

    def _logits(self, sent: Sent) -> Floats:
        questions = self._questions(sent)
        first: dict[bytes, int] = {}  # of equal rows the first is asked
        for row, question in enumerate(questions):
            first.setdefault(question, row)
        known = self._desk.book.find(list(first))
        known |= self._ask(sent, questions, [row for question, row in first.items() if question not in known])
        found = np.empty((len(sent), len(self._order)), np.float32)
        for row, question in enumerate(questions):
            found[row] = np.frombuffer(known[question], "<f4")
        return found

    def _ask(self, sent: Sent, questions: Sequence[bytes], index: Sequence[int]) -> dict[bytes, bytes]:
        sizes = sent.sizes
        parts = self._facts.parts([sizes[row] for row in index], self._settings, as_json=sent.is_json)
        errands = []
        for part in parts:
            rows = index[part.start : part.stop]
            asked = tuple(questions[row] for row in rows)
            errands.append(Errand(asked, sent.request(rows), self._reader(len(rows)), Spent(1)))
        return self._desk.run(errands, verify=self._same_model)

    def _reader(self, count: int) -> Callable[[Any], Read]:
        wanted = (count, len(self._facts.classes))

        def read(told: Any) -> Read:
            given = told.get("logits") if isinstance(told, dict) else None
            try:
                logits = np.array(given, dtype=np.float64)
            except (ValueError, TypeError, OverflowError):
                logits = np.zeros(0)
            if logits.shape != wanted:
                raise ModelError(
                    "the remote teacher does not answer with logits", where=self._client.address.shown,
                    given=f"shape {logits.shape}" if isinstance(given, list) else "no list called logits",
                    expected=f"shape {wanted}",
                )  # fmt: skip
            with np.errstate(over="ignore"):
                logits = logits.astype("<f4")  # as they are kept: what is too large for it is infinite
            if not np.isfinite(logits).all():
                raise ModelError(
                    "the remote teacher answers with numbers that are not finite", where=self._client.address.shown
                )
            return [row.tobytes() for row in logits], Spent()

        return read

    def _same_model(self) -> None:
        now = self._client.ask(Request("GET", "/health"), _mapping).get("sha256")
        if now != self._facts.sha256:
            raise ModelError(
                "the remote teacher is another one than at the start", where=self._client.address.shown,
                given=f"a file with the digest {str(now)[:12]}", expected=self._facts.sha256[:12],
                fix="serve one file for the whole of a run; start again for the new one",
            )  # fmt: skip

    def _check_parity(self, sent: Sent) -> None:
        """Ask about the first rows alone, without the book, and compare."""
        kept = self._logits(sent)
        read = self._reader(1)
        apart = 0.0
        for row, own in enumerate(kept):
            again = np.frombuffer(self._client.ask(sent.request([row]), read)[0][0], "<f4")
            apart = max(apart, float(np.abs(again - own).max()))
        # Where questions cannot have an answer, logits are one number far away from all others.
        told = kept[kept > IMPOSSIBLE / 2] if self._facts.questions else kept
        if apart > _AGREE * max(1.0, float(np.abs(told).max(initial=0.0))):
            raise ModelError(
                "the remote teacher answers the same rows otherwise when it is asked again",
                where=self._client.address.shown, given=f"logits up to {apart:.3g} apart",
                expected=f"at most {_AGREE:g} of the largest",
                fix="is it random, or do its answers depend on company? `rows: 1` asks about one example at a time",
            )  # fmt: skip


def _mapping(told: Any) -> dict[str, Any]:
    if not isinstance(told, dict):
        raise FalteringError("the answer is no JSON object")
    return told
