"""What a chat server is asked about a text, and what that will cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from tutelage.errors import InputError, nearest
from tutelage.teachers.remote.book import Spent
from tutelage.teachers.remote.letters import DEFAULT_PROMPT, Prompt
from tutelage.teachers.remote.settings import ChatSettings
from tutelage.teachers.remote.spending import Cost, money_of, tokens_in

__all__ = ["Questions"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """What is asked: the body of a request for a text and an order of the classes.

    Args:
        settings: how.
        classes: the data's.

    Raises:
        InputError: settings that do not go together, or with these classes.
    """

    settings: ChatSettings
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        settings, count = self.settings, len(self.classes)
        for name in settings.describe:
            if name not in self.classes:
                raise InputError(
                    f"there is no class `{name}`", where="teacher.args.describe", fix=nearest(name, self.classes)
                )
        if settings.permute > count:
            raise InputError(
                "there are fewer cyclic orders than `permute` asks for",
                given=str(settings.permute),
                expected=f"1 … {count}",
            )
        if settings.answers == "logprobs" and count > 26:
            raise InputError(
                "more classes than letters; of numbers of several tokens no server tells the probability",
                given=f"{count} classes", expected="at most 26 for `answers: logprobs`", fix="take `answers: label`",
            )  # fmt: skip
        if settings.budget is not None and settings.budget.money is not None and settings.price is None:
            raise InputError(
                "a budget of money needs a price", fix="give `price: {in: …, out: …}`, for a million tokens"
            )
        self.prompt  # noqa: B018  a template that cannot be used is told here

    @property
    def prompt(self) -> Prompt:
        """The template with the classes."""
        names = [self.settings.describe.get(name, name) for name in self.classes]
        return Prompt(self.settings.prompt or DEFAULT_PROMPT, names)

    @property
    def shifts(self) -> list[int]:
        """By how much each order is shifted."""
        return [number * len(self.classes) // self.settings.permute for number in range(self.settings.permute)]

    @property
    def wanted(self) -> int:
        """Answers in one request."""
        return self.settings.samples if self.settings.answers == "samples" else 1

    @property
    def longest(self) -> int:
        """Tokens of one answer, at most."""
        return self.settings.max_tokens or (4 if self.settings.answers == "logprobs" else 16)

    @property
    def smoothing(self) -> float:
        """The share that is spread over all classes."""
        by_default = 1.0 / (self.wanted + 1) if self.settings.answers == "samples" else 0.1
        return by_default if self.settings.smoothing is None else self.settings.smoothing

    def body(self, asked: str) -> dict[str, Any]:
        """The JSON of a request."""
        settings = self.settings
        sampled = settings.answers == "samples"
        made: dict[str, Any] = {"model": settings.model}
        if settings.api == "chat":
            system = [] if settings.system is None else [{"role": "system", "content": settings.system}]
            made["messages"] = [*system, {"role": "user", "content": asked}]
        else:
            made["prompt"] = asked if settings.system is None else f"{settings.system}\n\n{asked}"
        made["max_tokens"] = self.longest
        made["temperature"] = settings.temperature if settings.temperature is not None else float(sampled)
        if settings.answers == "logprobs":
            made |= (
                {"logprobs": True, "top_logprobs": settings.top}
                if settings.api == "chat"
                else {"logprobs": settings.top}
            )
        if sampled:
            made["n"] = settings.samples
        made |= settings.body
        return {key: value for key, value in made.items() if value is not None}

    @property
    def decides(self) -> dict[str, Any]:
        """All that decides what is made of answers."""
        settings = self.settings
        kept = settings.model_dump(mode="json", include={"answers", "least", "floor", "permute"})
        kept |= {
            "classes": self.classes,
            "smoothing": self.smoothing,
            "question": [self.body(self.prompt.ask("", s)) for s in self.shifts],
        }
        if settings.budget is not None and settings.budget.then == "mask":
            kept["budget"] = settings.budget.model_dump(mode="json")  # it decides who has an answer at all
        return kept

    def cost(self, examples: int, text_bytes: float) -> Cost:
        """An estimate for so many examples with so many bytes each, on average."""
        requests = (examples + min(self.settings.parity, examples)) * self.settings.permute
        each = self.expected(self.prompt.ask(""), text_bytes).times(requests)
        return Cost(requests, each.tokens_in, each.tokens_out, money_of(each, self.settings.price))

    def expected(self, asked: str, more: float = 0.0) -> Spent:
        """What one request is expected to cost, if its answer is as long as it may be; `more` bytes may come to it."""
        size = len(asked.encode()) + len((self.settings.system or "").encode()) + more
        return Spent(1, tokens_in(size), self.longest * self.wanted)
