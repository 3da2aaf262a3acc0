"""Teachers behind HTTP: an endpoint of `tutelage serve`, or a server that speaks the chat protocol.

open_remote ─► own: rows ──────────┐                       ┌─► book: is it answered? ─► yes: no request
               chat: texts ─► prompt ┴─► desk: errands ─► client ─► connection ─► server
                                          each answer into the book, on the disk, then the batch's logits in order
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import InputError
from tutelage.teachers.remote.address import Address
from tutelage.teachers.remote.book import Book
from tutelage.teachers.remote.chat import ChatTeacher
from tutelage.teachers.remote.client import Client
from tutelage.teachers.remote.own import OwnTeacher
from tutelage.teachers.remote.questions import Questions
from tutelage.teachers.remote.sent import Encodings
from tutelage.teachers.remote.settings import ChatSettings, OwnSettings, settings_of
from tutelage.teachers.remote.spending import Cost
from tutelage.words import is_remote

__all__ = ["Book", "ChatTeacher", "Cost", "Encodings", "OwnTeacher", "cost_of", "is_remote_teacher", "open_remote"]

_CHAT = "chat:"
_BOOK = "book.sqlite"


def is_remote_teacher(model: str) -> bool:
    """Whether a teacher's model is an address: `https://…`, `http://…`, or `chat:` before one."""
    return is_remote(model)


def open_remote(
    model: str, args: Mapping[str, Any], *, classes: Sequence[str], view: str, book: Path,
    encodings: Encodings | None = None, tell: Callable[[str], None] = lambda line: None,
) -> OwnTeacher | ChatTeacher:  # fmt: skip
    """A teacher behind an address.

    Args:
        model: `https://host/path` of `tutelage serve`, or `chat:https://host/v1` of a chat server.
        args: of `OwnSettings` or `ChatSettings`, by name.
        classes: the data's, in the order of its labels.
        view: the input view that the teacher reads.
        book: the file of answers, or the folder where it is to be; made if it is not there.
        encodings: what made that view, for an endpoint of our own that is asked about tokens or texts.
        tell: takes a line for a person.

    Raises:
        InputError: address, args or classes cannot be used.
        ModelError: the server has another model than the data needs.
        DamagedError: the book is damaged.
        TutelageError: the server does not answer.
    """
    book = book if book.suffix else book / _BOOK
    if model.startswith(_CHAT):
        settings = settings_of(ChatSettings, args)
        questions = Questions(settings, tuple(classes))
        address = Address.of(model.removeprefix(_CHAT), insecure=settings.insecure)
        path = "/chat/completions" if settings.api == "chat" else "/completions"
        return ChatTeacher(Client(address, settings), questions, path=path, view=view, book=Book(book), tell=tell)
    own = settings_of(OwnSettings, args)
    client = Client(Address.of(model, insecure=own.insecure), own)
    encodings = encodings or Encodings()
    return OwnTeacher(client, own, classes=classes, view=view, book=Book(book), encodings=encodings, tell=tell)


def cost_of(model: str, args: Mapping[str, Any], *, classes: Sequence[str], examples: int, text_bytes: float) -> Cost:
    """What asking about examples would take, without asking anybody.

    Args:
        model, args, classes: as for `open_remote`.
        examples: how many.
        text_bytes: of a text, on average.

    Raises:
        InputError: address, args or classes cannot be used; or it is an endpoint of our own, which charges nothing.
    """
    if not model.startswith(_CHAT):
        raise InputError(
            "what an endpoint of `tutelage serve` costs is time alone", given=model.partition("?")[0][:100]
        )
    return Questions(settings_of(ChatSettings, args), tuple(classes)).cost(examples, text_bytes)
