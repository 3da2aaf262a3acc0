"""Many requests at a time, none of them lost: what is answered is in the book before anything else happens with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any, final

from tutelage.progress import Meter
from tutelage.teachers.remote.book import Book, Spent
from tutelage.teachers.remote.client import Client
from tutelage.teachers.remote.connection import Request
from tutelage.teachers.remote.spending import Purse, SpentError

__all__ = ["Desk", "Errand", "Read"]

Read = tuple[list[bytes], Spent]  # answers in the order of the questions, and the tokens that they cost


@final
@dataclass(frozen=True, slots=True, eq=False)
class Errand:
    """One request, and the questions that its answer answers.

    Args:
        questions: digests.
        request: what is sent.
        read: makes of the answer's JSON one line of the book for each question.
        expected: what it will cost, estimated.
    """

    questions: tuple[bytes, ...]
    request: Request
    read: Callable[[Any], Read]
    expected: Spent


@final
class Desk:
    """Sends errands side by side and writes down what comes back.

    Threads live no longer than a call, so that nothing of this is left behind in whoever trains.

    Args:
        client: the server.
        book: where answers are kept.
        purse: counts costs.
        in_flight: requests under way at a time.
        tell: takes a line every half minute of long work.
    """

    def __init__(
        self, client: Client, book: Book, purse: Purse, *, in_flight: int, tell: Callable[[str], None]
    ) -> None:
        self.client, self.book, self.purse = client, book, purse
        self._in_flight, self._tell = in_flight, tell

    def run(self, errands: Sequence[Errand], *, verify: Callable[[], None] | None = None) -> dict[bytes, bytes]:
        """Send all of them, unless the budget ends first.

        Args:
            errands: what to ask.
            verify: called when all is answered and nothing is written yet; may raise. By default every answer is
                written as it comes.

        Returns:
            Question -> answer; fewer than were asked where the budget ended.

        Raises:
            TutelageError: a request failed for good. The others that were under way then are finished and kept, the
                rest is not sent.
        """
        found: dict[bytes, bytes] = {}
        if not errands:
            return found
        # A bar would fight with that of whoever asks, for instance of the store.
        meter = Meter(f"asking {self.client.address.authority}", len(errands), unit="requests", tell=self._tell)
        threads = min(self._in_flight, len(errands))
        with ThreadPoolExecutor(threads, thread_name_prefix="remote") as pool:
            futures = [pool.submit(self._one, errand, keep=verify is None) for errand in errands]
            try:
                for future in as_completed(futures):
                    found |= self._result(future, futures)
                    meter.advance()
            except BaseException:
                self.client.stop()
                for future in futures:
                    future.cancel()
                raise
            finally:
                # Waits for those under way: what is paid for is kept.
                pool.shutdown(wait=True)
                self.client.resume()
        if verify is not None:
            verify()
            self.book.add(found)
        return found

    def close(self) -> None:
        """Close book and connections."""
        self.client.close()
        self.book.close()

    def _result(
        self, future: Future[dict[bytes, bytes]], futures: Sequence[Future[dict[bytes, bytes]]]
    ) -> dict[bytes, bytes]:
        if future.cancelled():
            return {}
        try:
            return future.result()
        except SpentError:
            for other in futures:
                other.cancel()
            return {}

    def _one(self, errand: Errand, *, keep: bool) -> dict[bytes, bytes]:
        with self.book.claim(errand.questions[0], self.client.check):
            known = self.book.find(errand.questions)
            return known if len(known) == len(errand.questions) else self._sent(errand, keep=keep)

    def _sent(self, errand: Errand, *, keep: bool) -> dict[bytes, bytes]:
        tries = 0

        def before() -> None:
            nonlocal tries
            self.purse.reserve(errand.expected)
            tries += 1

        answers: dict[bytes, bytes] = {}
        tokens = Spent()
        try:
            lines, tokens = self.client.ask(errand.request, errand.read, before=before)
            answers = dict(zip(errand.questions, lines, strict=True))
        finally:
            real = replace(tokens, requests=tries)
            self.purse.settle(errand.expected.times(tries), real)
            if tries:
                self.book.add(answers if keep else {}, self.purse.teacher, real)
        return answers
