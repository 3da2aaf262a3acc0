"""What chat servers answer, in the forms that differ from one to the next, read into one of ours; and the line of the
book that keeps it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.errors import DamagedError, ModelError
from tutelage.teachers.remote.book import Spent
from tutelage.teachers.remote.connection import FalteringError
from tutelage.teachers.remote.letters import Position

__all__ = ["answers_of", "line_of", "positions_in", "positions_of", "said_in", "usage_in"]

_ROUNDING = 1e-3  # by which a log-probability may exceed 0
_LONGEST = 2000  # characters of an answer that are kept; a class is named before


def positions_in(told: Any) -> list[Position]:
    """Tokens with their candidates: `logprobs.content[].top_logprobs[]` of chat, or `logprobs.top_logprobs[]`.

    Raises:
        FalteringError: it is no answer at all.
        ModelError: it holds no log-probabilities, or impossible ones.
    """
    choice = _choices(told)[0]
    given = choice.get("logprobs")
    if not isinstance(given, dict):
        raise ModelError(
            "the server tells no log-probabilities", given="an answer without `logprobs`",
            fix="ask for answers instead: `answers: label`, or `answers: samples`",
        )  # fmt: skip
    if isinstance(given.get("content"), list):
        return [_modern(one) for one in given["content"]]
    if isinstance(given.get("top_logprobs"), list):
        tokens = given.get("tokens")
        tokens = tokens if isinstance(tokens, list) else []
        return [_legacy(one, tokens[at] if at < len(tokens) else None) for at, one in enumerate(given["top_logprobs"])]
    if given.get("content") is None and not _text(choice):
        return []  # an empty answer has no tokens
    raise ModelError(
        "the server tells log-probabilities in a form that is not known", given=f"keys {sorted(map(str, given))[:6]}",
        expected="content[].top_logprobs[], or top_logprobs[]", fix="ask for answers instead: `answers: label`",
    )  # fmt: skip


def said_in(told: Any, wanted: int) -> list[str]:
    """The texts of answers.

    Raises:
        FalteringError: it is no answer at all.
        ModelError: there are fewer than were asked for.
    """
    said = [_text(choice)[:_LONGEST] for choice in _choices(told)]
    if len(said) < wanted:
        raise ModelError(
            "the server gives fewer answers than it was asked for", given=f"{len(said)}", expected=f"{wanted}",
            fix="it may not know `n`: take `answers: label`, or `answers: logprobs`",
        )  # fmt: skip
    return said[:wanted]


def usage_in(told: Any, otherwise: Spent) -> Spent:
    """Tokens as the server counts them, or as we estimate them."""
    usage = told.get("usage") if isinstance(told, dict) else None
    if not isinstance(usage, dict):
        return otherwise
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    if not all(type(count) is int and 0 <= count < 2**53 for count in counts):
        return otherwise
    return Spent(1, counts[0], counts[1])  # type: ignore[arg-type]


def line_of(said: Sequence[Position] | Sequence[str]) -> bytes:
    """An answer as the book keeps it: what was said, before anything is made of it, so that other settings of how it is
    read need no new question."""
    kept = [[one.token, list(map(list, one.top))] if isinstance(one, Position) else one for one in said]
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def positions_of(line: bytes) -> list[Position]:
    """The other way round.

    Raises:
        DamagedError: the line holds something else.
    """
    try:
        return [
            Position(token, tuple((str(one), float(chance)) for one, chance in top)) for token, top in json.loads(line)
        ]
    except (ValueError, TypeError) as error:
        raise DamagedError("a line of the answer book holds no log-probabilities") from error


def answers_of(line: bytes) -> list[str]:
    """The texts of answers that the book keeps.

    Raises:
        DamagedError: the line holds something else.
    """
    kept = json.loads(line)
    if not isinstance(kept, list) or not all(isinstance(one, str) for one in kept):
        raise DamagedError("a line of the answer book holds no answers")
    return kept


def _choices(told: Any) -> list[dict[str, Any]]:
    choices = told.get("choices") if isinstance(told, dict) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(one, dict) for one in choices):
        # Some servers report a fault under 200.
        raise FalteringError("the answer holds no `choices`")
    return choices


def _text(choice: Mapping[str, Any]) -> str:
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    return text if isinstance(text, str) else ""


def _modern(one: Any) -> Position:
    if not isinstance(one, dict) or not isinstance(one.get("top_logprobs"), list):
        raise _odd(one)
    top = []
    for candidate in one["top_logprobs"]:
        if not isinstance(candidate, dict):
            raise _odd(candidate)
        top.append(_candidate(candidate.get("token"), candidate.get("logprob")))
    token = one.get("token")
    if not isinstance(token, str):
        raise _odd(token)
    return Position(token, tuple(top))


def _legacy(one: Any, token: Any) -> Position:
    if not isinstance(one, dict):
        raise _odd(one)
    top = [_candidate(name, chance) for name, chance in one.items()]
    best = max(top, key=lambda pair: pair[1], default=("", 0.0))[0]
    return Position(token if isinstance(token, str) else best, tuple(top))


def _candidate(token: Any, chance: Any) -> tuple[str, float]:
    if not isinstance(token, str) or type(chance) not in (int, float) or not chance <= _ROUNDING or math.isinf(chance):
        raise _odd(chance)
    return token, float(chance)


def _odd(given: object) -> ModelError:
    return ModelError(
        "the server tells a log-probability that cannot be one",
        given=ascii(given)[:80],
        expected="a token, and a number ≤ 0",
    )
