"""A teacher behind the chat protocol: one question for each text and order of the classes, each asked once."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from tutelage.errors import InputError, TutelageError
from tutelage.objective import read_view
from tutelage.teachers.remote.book import Book, Spent, digest_of
from tutelage.teachers.remote.client import Client
from tutelage.teachers.remote.connection import Request
from tutelage.teachers.remote.desk import Desk, Errand, Read
from tutelage.teachers.remote.letters import Floats, Told, shares, votes
from tutelage.teachers.remote.questions import Questions
from tutelage.teachers.remote.replies import answers_of, line_of, positions_in, positions_of, said_in, usage_in
from tutelage.teachers.remote.settings import PLAIN
from tutelage.teachers.remote.spending import Purse
from tutelage.teachers.remote.tally import Tally
from tutelage.types import Batch, Outputs

__all__ = ["ChatTeacher"]

_FIRST, _AGAIN, _REMINDED = b"first", b"again", b"reminded"


@final
class ChatTeacher:
    """Asks a chat server which class a text is of, and makes probabilities of what it says.

    Args:
        client: the server.
        questions: what it is asked.
        path: of the address below the client's.
        view: the input view with texts as bytes, see `tutelage.data.encoders.text`.
        book: where its answers are kept.
        tell: takes a line for a person.
    """

    def __init__(
        self, client: Client, questions: Questions, *, path: str, view: str, book: Book, tell: Callable[[str], None]
    ) -> None:
        self._client, self._questions, self._path, self._view, self._tell = client, questions, path, view, tell
        self._prompt = questions.prompt
        self._device = torch.device("cpu")
        self._lock = threading.RLock()
        self._checked = questions.settings.parity == 0
        settings = questions.settings
        self._desk = Desk(
            client, book, Purse(book, self.fingerprint(), settings.price, settings.budget),
            in_flight=settings.in_flight, tell=tell,
        )  # fmt: skip
        self._tally = Tally()

    def answer(self, batch: Batch) -> Outputs:
        """Logarithms of probabilities (B, C), and which examples the teacher has a say about.

        An example without an answer has equal logits, and does not count.

        Raises:
            InputError: the view holds no texts.
            TutelageError: the server does not answer, or the budget is spent; what was answered is kept.
        """
        texts = self._texts(batch)
        with self._lock:
            if not self._checked:
                self._check_parity(list(dict.fromkeys(texts))[: self._questions.settings.parity])
                self._checked = True
            chances = self._chances(list(dict.fromkeys(texts)))
        found = [chances[text] for text in texts]
        equal = np.full(len(self._questions.classes), 1.0 / len(self._questions.classes))
        rows = (
            np.log(np.stack([equal if one is None else one for one in found])) if found else np.zeros((0, len(equal)))
        )
        counts = torch.tensor([one is not None for one in found], dtype=torch.bool)
        return Outputs(torch.from_numpy(rows).float().to(self._device), counts=counts.to(self._device))

    def fingerprint(self) -> str:
        """SHA-256 over the model's name, the template, and all that decides what is made of answers."""
        told = json.dumps(["remote-chat-1", self._questions.decides], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def to(self, device: torch.device) -> None:
        """Put answers on this device; the server stays where it is."""
        self._device = device

    def close(self) -> None:
        """Close book and connections; it cannot answer any more."""
        self._desk.close()

    def summary(self) -> list[str]:
        """What was asked and answered so far, for a person."""
        total, money = self._desk.purse.total, self._desk.purse.money
        priced = "" if money is None else f", {money:,.2f} at the price given"
        cost = f"{total.requests:,} requests, {total.tokens_in:,} tokens in, {total.tokens_out:,} out"
        said = [f"teacher {self._name}: {cost}{priced}, since the book was begun"]
        return said + self._tally.lines(self._name)

    @property
    def _name(self) -> str:
        return f"{self._questions.settings.model} ({self._client.address.authority})"

    def _texts(self, batch: Batch) -> list[str]:
        # Imported here: a teacher for pictures needs nothing of text.
        from tutelage.data.encoders.text import texts_of

        inputs: Tensor = read_view(batch, self._view)
        if inputs.dtype != torch.uint8 or inputs.ndim != 2:
            raise InputError(
                "a chat teacher reads plain texts", given=f"{inputs.dtype}, shape {tuple(inputs.shape)}",
                fix=PLAIN,
            )  # fmt: skip
        return texts_of(inputs.cpu())

    # Questions and their lines of the book

    def _errand(self, text: str, shift: int, how: bytes) -> Errand:
        asked = self._prompt.ask(text, shift, remind=how == _REMINDED)
        request = Request.of_json(self._path, self._questions.body(asked))
        # What is asked, not whom: an address is no part of the question.
        question = digest_of(b"chat", how, self._path.encode(), request.body)
        expected = self._questions.expected(asked)
        return Errand((question,), request, partial(self._read, expected), expected)

    def _lines(self, asked: Sequence[tuple[str, int]], how: bytes) -> dict[tuple[str, int], bytes]:
        """What the server says to texts in orders, from the book, or asked now; fewer where the budget ends."""
        made = {one: self._errand(*one, how) for one in asked}
        known = self._desk.book.find([errand.questions[0] for errand in made.values()])
        known |= self._desk.run([errand for errand in made.values() if errand.questions[0] not in known])
        found = {one: known.get(errand.questions[0]) for one, errand in made.items()}
        return {one: line for one, line in found.items() if line is not None}

    def _read(self, expected: Spent, told: Any) -> Read:
        questions = self._questions
        if questions.settings.answers == "logprobs":
            line = line_of(positions_in(told))
        else:
            line = line_of(said_in(told, questions.wanted))
        return [line], usage_in(told, otherwise=expected)

    def _told(self, line: bytes, shift: int) -> Told | None:
        """What a line says of the classes, in their own order."""
        settings, count = self._questions.settings, len(self._questions.classes)
        if settings.answers == "logprobs":
            told = shares(positions_of(line), self._prompt.labels, least=settings.least, floor=settings.floor)
        else:
            told = votes(answers_of(line), self._prompt, shift, smoothing=self._questions.smoothing)
        if told is None:
            return None
        return Told(told.chances[(np.arange(count) - shift) % count], told.mass, told.unseen)

    def _heard(self, texts: Sequence[str], how: bytes = _FIRST) -> tuple[dict[tuple[str, int], Told | None], bool]:
        """Every text in every order, asked once more where no class was named; and whether all were asked."""
        asked = [(text, shift) for text in texts for shift in self._questions.shifts]
        lines = self._lines(asked, how)
        told = {one: self._told(line, one[1]) for one, line in lines.items()}
        silent, complete = [one for one, said in told.items() if said is None], len(lines) == len(asked)
        if silent and how == _FIRST:
            second = self._lines(silent, _REMINDED)
            told |= {one: self._told(line, one[1]) for one, line in second.items()}
            self._tally.reminded(silent)
            complete = complete and len(second) == len(silent)
        return told, complete

    def _chances(self, texts: Sequence[str]) -> dict[str, Floats | None]:
        """Text -> probabilities (C,), the mean over orders; None where no answer names a class."""
        told, complete = self._heard(texts)
        shifts = self._questions.shifts
        if not complete:
            self._out_of_budget()
        found: dict[str, Floats | None] = {}
        for text in texts:
            said = [told.get((text, shift)) for shift in shifts if (text, shift) in told]
            # Where the budget ended among its orders, an example would be judged by some of them only.
            heard = [one for one in said if one is not None] if len(said) == len(shifts) else []
            found[text] = np.mean([one.chances for one in heard], axis=0) if heard else None
            self._tally.count(text, heard)
        for line in self._tally.news(self._name):
            self._tell(line)
        return found

    def _out_of_budget(self) -> None:
        budget, total, money = self._questions.settings.budget, self._desk.purse.total, self._desk.purse.money
        assert budget is not None
        if budget.then == "mask":
            return
        limits = [f"{budget.requests:,} requests"] if budget.requests else []
        limits += [f"{budget.money:,} of money"] if budget.money else []
        raise TutelageError(
            f"the budget of the teacher {self._name} is spent",
            given=f"{total.requests:,} requests" + ("" if money is None else f", {money:,.2f} of money"),
            expected=", ".join(limits),
            fix="all answers are kept: raise the budget and start again, or go on with what there is by `then: mask`",
        )

    def _check_parity(self, texts: Sequence[str]) -> None:
        """Ask about a few texts twice, and say how far the answers agree; both stand in the book."""
        first, again = (self._heard(texts, how)[0] for how in (_FIRST, _AGAIN))
        both = [(one.chances, other.chances) for key, one in first.items()
                if one is not None and (other := again.get(key)) is not None]  # fmt: skip
        if not both:
            return
        same = sum(int(one.argmax() == other.argmax()) for one, other in both)
        apart = max(float(np.abs(one - other).max()) for one, other in both)
        self._tell(
            f"teacher {self._name}: {len(both)} questions asked twice, the same class in {same} of them, "
            f"probabilities up to {apart:.2g} apart"
        )
