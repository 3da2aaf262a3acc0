"""Energy: the counters of the hardware are read right, and whatever is an estimate says so."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tutelage.errors import InputError
from tutelage.evaluation.energy import ASSUMED_WATTS, Energy, Meter, energy_of, meter

RANGE = 262_143_328_850


def domain(root: Path, folder: str, name: str, microjoules: int) -> Path:
    home = root / folder
    home.mkdir(parents=True)
    (home / "name").write_text(f"{name}\n")
    (home / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (home / "energy_uj").write_text(f"{microjoules}\n")
    return home / "energy_uj"


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    domain(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    domain(tmp_path, "intel-rapl:0:0", "core", 500_000)
    domain(tmp_path, "intel-rapl:0:1", "dram", 7_000_000)
    domain(tmp_path, "intel-rapl:1", "package-1", RANGE - 250_000)
    domain(tmp_path, "intel-rapl:2", "psys", 3_000_000)
    domain(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000)  # the same package once more
    return tmp_path


def test_packages_and_memory_add_up_once_and_wrap_around(powercap: Path) -> None:
    gauge = meter(powercap=powercap)
    assert gauge.source == "rapl"
    with gauge:
        for folder, now in (
            ("intel-rapl:0", 3_500_000),
            ("intel-rapl:0:0", 99_000_000),
            ("intel-rapl:0:1", 7_250_000),
            ("intel-rapl:1", 750_000),  # beyond its range
            ("intel-rapl:2", 99_000_000),
            ("intel-rapl-mmio:0", 99_000_000),
        ):
            (powercap / folder / "energy_uj").write_text(f"{now}\n")
    assert gauge.energy.joules == pytest.approx(2.5 + 0.25 + 1.0)
    assert gauge.energy.source == "rapl"
    assert "estimate" not in gauge.energy.words
    assert "rest included" in gauge.energy.words
    with gauge:  # and again from where it stands
        (powercap / "intel-rapl:0" / "energy_uj").write_text("3600000\n")
    assert gauge.energy.joules == pytest.approx(0.1)


class Steady:
    """A machine that takes so many watts, whatever it does."""

    source = "rapl"

    def __init__(self, watts: float) -> None:
        self.watts = watts

    def read(self) -> float:
        return time.perf_counter() * self.watts


def test_what_the_machine_takes_at_rest_is_taken_off() -> None:
    gauge = Meter(Steady(1e6))
    with gauge:
        time.sleep(0.01)
    assert gauge.energy.joules >= 1e4
    gauge.rest(0.02)
    with gauge:
        time.sleep(0.01)
    assert 0 <= gauge.energy.joules < 1e3
    assert "W of rest taken off" in gauge.energy.words


def test_without_a_readable_counter_it_is_an_estimate_and_says_so(tmp_path: Path, powercap: Path) -> None:
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    for root in (tmp_path / "missing", powercap):
        gauge = meter(powercap=root, watts=20.0)
        gauge.rest(60.0)  # an estimate has no rest to measure, and does not wait for it
        before = time.process_time()
        with gauge:
            while time.process_time() - before < 0.02:
                pass
        most = time.process_time() - before
        assert 0 < gauge.energy.joules <= most * 20.0
        assert gauge.energy.joules >= 0.5 * 0.02 * 20.0
        assert gauge.energy.source == gauge.source == "estimate"
        assert "estimate" in gauge.energy.words
        assert "20 W" in gauge.energy.words


def test_a_counter_that_goes_away_leaves_an_estimate(powercap: Path) -> None:
    gauge = meter(powercap=powercap)
    assert gauge.source == "rapl"
    with gauge:
        (powercap / "intel-rapl:1" / "energy_uj").write_text("no number")
    assert gauge.energy.source == "estimate"
    assert gauge.energy.joules < 99


def test_a_sleeping_process_costs_an_estimate_next_to_nothing() -> None:
    gauge = Meter(watts=1000.0)
    with gauge:
        time.sleep(0.05)
    assert gauge.energy.joules < 1000.0 * 0.05 / 2


class FakeNvml(SimpleNamespace):
    """As much of the library as is used: one card that has taken so many millijoules."""

    class NVMLError(Exception):
        pass

    def __init__(self, readings: list[float]) -> None:
        super().__init__(readings=readings, started=False)

    def nvmlInit(self) -> None:  # noqa: N802
        self.started = True

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != "GPU-1":
            raise self.NVMLError("no such card")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> float:  # noqa: N802
        assert self.started
        assert handle == "GPU-1"
        if not self.readings:
            raise self.NVMLError("gone")
        return self.readings.pop(0)


def test_a_graphics_card_counts_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([0.0, 5_000.0, 12_500.0, 13_000.0]))
    gauge = meter(gpu="GPU-1")
    with gauge:
        pass
    assert gauge.energy.joules == pytest.approx(7.5)
    assert gauge.energy.source == "nvml"
    assert "without the processor" in gauge.energy.words
    with gauge:  # the card falls off the bus in the middle
        pass
    assert gauge.energy.source == "estimate"
    assert meter(gpu="GPU-2").source == "estimate"
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert meter(gpu="GPU-1").source == "estimate"


def test_times_alone_give_an_estimate_for_a_thousand_examples() -> None:
    rows = [{"batch": 1, "p50_ms": 2.0, "threads": 1}, {"batch": 64, "p50_ms": 32.0, "threads": 4}]
    one, many = energy_of(rows)
    assert one.joules == pytest.approx(1000 * 0.002 * ASSUMED_WATTS)
    assert many.joules == pytest.approx(1000 / 64 * 0.032 * 4 * ASSUMED_WATTS)
    assert one.source == many.source == "estimate"
    assert "estimate" in one.words
    assert energy_of(rows, watts=1.0)[0].joules == pytest.approx(one.joules / ASSUMED_WATTS)
    assert energy_of([]) == []


def test_energy_scales_and_is_plain_json() -> None:
    whole = Energy(3.0, "rapl", "words")
    assert whole.scaled(2.0).to_json() == {"joules": 6.0, "source": "rapl", "words": "words"}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="nothing was measured"):
        Meter().energy  # noqa: B018
    for watts in (0.0, float("nan")):
        with pytest.raises(InputError, match="must be positive"):
            Meter(watts=watts)
