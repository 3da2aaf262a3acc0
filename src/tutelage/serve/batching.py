"""Requests of many clients, answered in calls that they share; each gets its own rows back."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

from tutelage.export import Inputs, Runner
from tutelage.serve.limits import Limits
from tutelage.serve.refusals import RefusedError

__all__ = ["Batcher"]

Rows = NDArray[np.float32]


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    rows: Inputs
    answer: asyncio.Future[Rows]


@final
class Batcher:
    """Asks a runner, one call at a time, in a thread of its own; an asynchronous context manager.

    While a call is under way requests gather; the next call answers as many of them as fit. So a lonely request does
    not wait, and many that come together share a call.

    Args:
        runner: (B, …) → (B, C).
        limits: `max_batch`, `queue` and `wait` are used.
        together: whether a call may hold rows of several requests; never where a row's answer depends on its company.
    """

    def __init__(self, runner: Runner, limits: Limits, *, together: bool = True) -> None:
        self.calls = 0
        self._runner, self._limits, self._together = runner, limits, together
        self._waiting: deque[_Asked] = deque()
        self._reading = 0
        self._wake = asyncio.Event()
        # One thread: runners need not be safe to call from several at once, and have threads of their own.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="runner")
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._thread.shutdown()

    @property
    def waiting(self) -> int:
        """Requests that wait for a call."""
        return len(self._waiting)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """While a request is read: a call that begins may wait for it, for a moment."""
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    def check_room(self) -> None:
        """Refuse a request where the queue is full already.

        Raises:
            RefusedError: 503.
        """
        if len(self._waiting) >= self._limits.queue:
            raise RefusedError(
                503, "too many requests wait for the model", given=f"{len(self._waiting):,} wait",
                expected=f"{self._limits.queue:,} at most", fix="ask again after a second, or put more examples in one",
                headers={"retry-after": "1"},
            )  # fmt: skip

    async def ask(self, rows: Inputs) -> Rows:
        """The logits (B, C) of (B, …) inputs.

        More rows than fit in a call wait part by part, so that others get their turn in between.

        Raises:
            RefusedError: 503, the queue is full.
        """
        self.check_room()
        most = self._limits.max_batch
        return np.concatenate([await self._one(rows[start : start + most]) for start in range(0, len(rows), most)])

    async def _one(self, rows: Inputs) -> Rows:
        asked = _Asked(rows, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        self._wake.set()
        return await asked.answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            await self._gather(loop)
            taken = self._take()
            answers = await loop.run_in_executor(self._thread, self._answers, taken)
            for asked, answer in zip(taken, answers, strict=True):
                if asked.answer.done():  # cancelled
                    continue
                if isinstance(answer, Exception):
                    asked.answer.set_exception(answer)
                else:
                    asked.answer.set_result(answer)
            if not self._waiting:
                self._wake.clear()

    async def _gather(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let requests finish that are being read at this moment, but not for long: some come drop by drop."""
        until = loop.time() + self._limits.wait
        while self._together and self._reading and loop.time() < until:
            if sum(len(asked.rows) for asked in self._waiting) >= self._limits.max_batch:
                return
            await asyncio.sleep(0)

    def _take(self) -> list[_Asked]:
        taken = [self._waiting.popleft()]
        room = self._limits.max_batch - len(taken[0].rows)
        while self._together and self._waiting and len(self._waiting[0].rows) <= room:
            taken.append(self._waiting.popleft())
            room -= len(taken[-1].rows)
        return taken

    def _answers(self, taken: Sequence[_Asked]) -> Sequence[Rows | Exception]:
        """In the thread: one call; where it fails, one for each, so that nobody suffers for somebody else's rows."""
        try:
            self.calls += 1
            found = self._runner(np.concatenate([asked.rows for asked in taken]))
            ends = np.cumsum([len(asked.rows) for asked in taken])
            if len(found) != ends[-1]:
                raise ValueError(f"{len(found)} rows for {ends[-1]} examples")
            return np.split(found, ends[:-1])
        except Exception as error:  # whatever a runtime raises is told to whoever asked
            return [error] if len(taken) == 1 else [self._answers([asked])[0] for asked in taken]
