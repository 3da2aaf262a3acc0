"""What work costs in energy: joules by a counter in the hardware where one can be read, else an estimate that says so.

    rapl        the processor's own counter, as Linux shows it under /sys/class/powercap; mostly only root may read it
    nvml        the graphics card's own counter, where the package `pynvml` is installed
    estimate    seconds for which processor cores were busy with this process × `ASSUMED_WATTS`

A counter of the hardware counts the whole machine: what it takes at rest is measured and taken off where there is time
for that, neighbours are not. An estimate knows only busy seconds, so two models compare well and watts do not: the word
`estimate` stands in everything that is said of it.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self, final

from tutelage.errors import InputError, TutelageError

__all__ = ["ASSUMED_WATTS", "Energy", "Meter", "Source", "energy_of", "meter"]

Source = Literal["rapl", "nvml", "estimate"]

# Of one busy core. An assumption, not a measurement: a server's processor of many cores takes a few watts for each, a
# desktop's of few cores fifteen and more. Whoever knows their machine hands over a number of their own.
ASSUMED_WATTS = 10.0
POWERCAP = Path("/sys/class/powercap")
_LOST = (OSError, ValueError, TutelageError)  # a counter that can no longer be read
_WHOLE = {"rapl": "the processor's counter (RAPL)", "nvml": "the graphics card's counter (NVML), without the processor"}


@final
@dataclass(frozen=True, slots=True)
class Energy:
    """Joules, where the number comes from, and that in words for a person."""

    joules: float
    source: Source
    words: str

    def scaled(self, factor: float) -> Energy:
        """The same for more or less work."""
        return replace(self, joules=self.joules * factor)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Counter(Protocol):
    """Joules since some moment, never running backwards."""

    @property
    def source(self) -> Source: ...

    def read(self) -> float: ...


@final
class Meter:
    """Counts the energy of a block of work: `with meter as m: …`, then `m.energy`. Can be used again and again."""

    def __init__(self, counter: Counter | None = None, *, watts: float = ASSUMED_WATTS) -> None:
        """
        Args:
            counter: of the hardware; None for an estimate.
            watts: of one busy core, for the estimate.
        """
        if not watts > 0:
            raise InputError("the watts of a busy core must be positive", given=watts)
        self._counter, self._watts = counter, watts
        self._idle: float | None = None  # watts at rest, once they were measured
        self._start = (0.0, 0.0, 0.0)
        self._energy: Energy | None = None

    @property
    def source(self) -> Source:
        return "estimate" if self._counter is None else self._counter.source

    @property
    def energy(self) -> Energy:
        """Of the last block.

        Raises:
            InputError: nothing was measured yet.
        """
        if self._energy is None:
            raise InputError("nothing was measured yet", fix="with meter: …, and then meter.energy")
        return self._energy

    def rest(self, seconds: float = 1.0) -> None:
        """Measure what the hardware takes at rest, to take it off; an estimate needs none of it and does not wait."""
        if self._counter is None:
            return
        with contextlib.suppress(*_LOST):
            joules, moment = self._counter.read(), time.perf_counter()
            time.sleep(seconds)
            self._idle = (self._counter.read() - joules) / (time.perf_counter() - moment)

    def __enter__(self) -> Self:
        self._energy = None
        self._start = (self._read(), time.perf_counter(), time.process_time())
        return self

    def __exit__(self, *_: object) -> None:
        joules, moment, busy = self._start
        spent, seconds = self._read() - joules, time.perf_counter() - moment
        if self._counter is None:  # from the start, or since reading it failed
            self._energy = _estimate((time.process_time() - busy) * self._watts, self._watts)
            return
        rest = "rest included" if self._idle is None else f"{self._idle:.1f} W of rest taken off"
        spent = max(0.0, spent - (self._idle or 0.0) * seconds)
        self._energy = Energy(spent, self._counter.source, f"by {_WHOLE[self._counter.source]}, {rest}")

    def _read(self) -> float:
        if self._counter is not None:
            try:
                return self._counter.read()
            except _LOST:  # in the middle: better an honest estimate than half a count
                self._counter = None
        return 0.0


def meter(*, gpu: str | None = None, watts: float = ASSUMED_WATTS, powercap: Path = POWERCAP) -> Meter:
    """The best meter that this machine lets us read.

    Args:
        gpu: the UUID of the graphics card that does the work; None where the processor does it.
        watts: of one busy core, for the estimate.
        powercap: folder of the processor's counters.
    """
    return Meter(_Rapl.found(powercap) if gpu is None else _Nvml.found(gpu), watts=watts)


def energy_of(rows: Sequence[Mapping[str, Any]], *, watts: float = ASSUMED_WATTS) -> list[Energy]:
    """Estimates for 1,000 examples from times alone, one for each row, as if every thread were busy all the time.

    Args:
        rows: with `batch`, `p50_ms` and `threads`, as a report's `latency` has them.
        watts: of one busy core.
    """
    return [
        _estimate(row["p50_ms"] / row["batch"] * row["threads"] * watts, watts) for row in rows
    ]  # ms for 1 = s for 1,000


def _estimate(joules: float, watts: float) -> Energy:
    words = (
        f"an estimate from busy processor time at an assumed {watts:g} W for each core, without the rest of the machine"
    )
    return Energy(joules, "estimate", words)


@final
class _Rapl:
    """Microjoules of every package and its memory; each counter wraps at a value of its own.

    Only packages and `dram` count: cores are part of their package, and `psys`, the whole platform, contains both.
    A counter may wrap once between two readings, which at full load is after a quarter of an hour or more.
    """

    source: Source = "rapl"

    def __init__(self, domains: Sequence[Path]) -> None:
        self._last = {folder: _number(folder / "energy_uj") for folder in domains}
        self._range = {folder: _number(folder / "max_energy_range_uj") for folder in domains}
        self._sum = 0

    @classmethod
    def found(cls, root: Path) -> _Rapl | None:
        """The counters below a folder, or None where there is none that can be read."""
        try:
            folders = sorted(root.glob("intel-rapl:*"))
            chosen = [one for one in folders if (one / "name").read_text().strip().startswith(("package", "dram"))]
            return cls(chosen) if chosen else None
        except (OSError, ValueError):
            return None

    def read(self) -> float:
        for folder, last in self._last.items():
            now = _number(folder / "energy_uj")
            self._sum += now - last if now >= last else now - last + self._range[folder]
            self._last[folder] = now
        return self._sum / 1e6


def _number(path: Path) -> int:
    return int(path.read_text())


@final
class _Nvml:
    """Millijoules of one graphics card since its driver was loaded."""

    source: Source = "nvml"

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    @classmethod
    def found(cls, gpu: str) -> _Nvml | None:
        """The counter of the card with this UUID; None without the package, the driver, or a counter in the card."""
        try:
            library = importlib.import_module("pynvml")
        except ImportError:
            return None
        try:
            library.nvmlInit()
            counter = cls(library, library.nvmlDeviceGetHandleByUUID(gpu))
            counter.read()
        except (library.NVMLError, TutelageError):
            return None
        return counter

    def read(self) -> float:
        try:
            return float(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._library.NVMLError as error:
            raise TutelageError(f"the graphics card's energy cannot be read: {error}") from error
