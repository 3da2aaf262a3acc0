"""What asking costs: estimated before, counted meanwhile, and ended by a budget."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import final

from tutelage.teachers.remote.book import Book, Spent
from tutelage.teachers.remote.settings import Budget, Price

__all__ = ["BYTES_PER_TOKEN", "Cost", "Purse", "SpentError", "money_of", "tokens_in"]

BYTES_PER_TOKEN = 4  # of English; of other scripts fewer, so that they cost more than is estimated


def tokens_in(size: float) -> int:
    """About how many tokens so many bytes of text are."""
    return -(-int(size) // BYTES_PER_TOKEN)


def money_of(spent: Spent, price: Price | None) -> float | None:
    """What tokens cost; None where no price is known."""
    return None if price is None else (spent.tokens_in * price.input + spent.tokens_out * price.output) / 1e6


@final
@dataclass(frozen=True, slots=True)
class Cost:
    """An estimate of what asking about examples takes, where the book is still empty.

    Args:
        requests: how many.
        tokens_in: of all questions, at four bytes each.
        tokens_out: of all answers, at most.
        money: by the price, or None.
    """

    requests: int
    tokens_in: int
    tokens_out: int
    money: float | None = None

    def lines(self) -> list[str]:
        """For a person."""
        said = [
            f"about {self.requests:,} requests, each example once; what the answer book holds is not asked again",
            f"about {self.tokens_in:,} tokens in, at most {self.tokens_out:,} out, at {BYTES_PER_TOKEN} bytes a token",
        ]
        if self.money is not None:
            said.append(f"about {self.money:,.2f} at the price given")
        return said


class SpentError(Exception):
    """The budget does not allow one more request."""


@final
@dataclass(slots=True, eq=False)
class Purse:
    """Counts what a teacher costs, over all starts that share a book, and says when the budget is spent.

    Args:
        book: where it was counted before.
        teacher: whose costs they are.
        price: of tokens.
        budget: None has no end.
    """

    book: Book
    teacher: str
    price: Price | None = None
    budget: Budget | None = None
    total: Spent = field(init=False)
    _reserved: Spent = field(init=False, default_factory=Spent)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.total = self.book.spent(self.teacher)

    def reserve(self, expected: Spent) -> None:
        """Count a request as under way.

        Raises:
            SpentError: with it, and all that are under way, the budget would be exceeded.
        """
        with self._lock:
            then = self.total + self._reserved + expected
            if self.budget is not None:
                money = money_of(then, self.price) or 0.0
                over = self.budget.requests is not None and then.requests > self.budget.requests
                if over or (self.budget.money is not None and money > self.budget.money):
                    raise SpentError
            self._reserved += expected

    def settle(self, expected: Spent, real: Spent) -> None:
        """It is under way no more, and has cost this."""
        with self._lock:
            self._reserved -= expected
            self.total += real

    @property
    def money(self) -> float | None:
        """What it has cost so far, where a price is known."""
        return money_of(self.total, self.price)
