"""Costs: what is counted, and that timing leaves no trace. No test asserts a time."""

import gc
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tutelage.errors import InputError
from tutelage.evaluation import cost, memory


class Watched(nn.Module):
    """Notes under which conditions it was called."""

    def __init__(self, name: str, journal: list[str]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.name, self.journal = name, journal
        self.seen: set[tuple[int, bool, bool, int, bool]] = set()

    def forward(self, x: Tensor) -> Tensor:
        state = (x.shape[0], self.training, torch.is_grad_enabled(), torch.get_num_threads(), gc.isenabled())
        self.seen.add(state)
        self.journal.append(self.name)
        return self.layer(x)


@pytest.fixture(autouse=True)
def _short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "WARM_SECONDS", 0.0)


def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the stopwatch alone: no energy, no memory."""
    monkeypatch.setattr(cost, "_ENERGY_SHARE", 0.0)
    monkeypatch.setattr(cost, "_energy", lambda *_: None)
    monkeypatch.setattr(cost, "peak_bytes", lambda *_: None)


def test_shared_parameters_count_once_and_bytes_are_those_on_disk(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert cost.parameters(model) == 40
    model[1].weight = model[0].weight
    assert cost.parameters(model) == 24
    (tmp_path / "student").write_bytes(b"x" * 123)
    assert cost.file_bytes(tmp_path / "student") == 123


def test_timing_takes_turns_under_pinned_conditions_and_restores_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "MOST_ROUNDS", 20)
    untimed(monkeypatch)
    journal: list[str] = []
    models = {name: Watched(name, journal) for name in ("teacher", "student")}
    models["teacher"].train()
    models["student"].eval()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = cost.latency(models, torch.randn(3, 4), seconds=60)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert gc.isenabled()
    assert models["teacher"].training
    assert not models["student"].training
    for model in models.values():
        assert model.seen == {(1, False, False, 1, False), (64, False, False, 1, False)}
    rounds = [set(journal[i : i + 2]) for i in range(0, len(journal), 2)]
    assert all(both == {"teacher", "student"} for both in rounds)
    assert {tuple(journal[i : i + 2]) for i in range(0, len(journal), 2)} == {
        ("teacher", "student"),
        ("student", "teacher"),
    }
    assert [item.batch for item in found["student"]] == [1, 64]


def test_the_summary_is_ordered_and_counts_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "MOST_ROUNDS", 30)
    untimed(monkeypatch)
    journal: list[str] = []
    found = cost.latency({"only": Watched("only", journal)}, torch.randn(1, 4), batch_sizes=(2,), seconds=60)
    item = found["only"][0].to_json()
    assert 0 < item["ci_low_ms"] <= item["p50_ms"] <= item["ci_high_ms"]
    assert item["p50_ms"] <= item["p90_ms"] <= item["p95_ms"]
    assert item["p99_ms"] is None
    assert item["n"] == 30
    assert len(journal) == 30 + cost.WARM_UP
    assert item["threads"] == 1


def test_a_spent_budget_still_leaves_a_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    untimed(monkeypatch)
    journal: list[str] = []
    found = cost.latency({"only": Watched("only", journal)}, torch.randn(1, 4), batch_sizes=(1,), seconds=0.0)
    assert found["only"][0].n == cost.LEAST_ROUNDS
    assert len(journal) == cost.LEAST_ROUNDS + 2


def test_a_failing_model_leaves_no_trace() -> None:
    model = Watched("broken", [])
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        cost.latency({"broken": model}, torch.randn(1, 7), seconds=0.01)
    assert model.training
    assert gc.isenabled()
    assert torch.get_num_threads() == before


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to time"):
        cost.latency({}, torch.randn(1, 4))
    with pytest.raises(InputError, match="nothing to time"):
        cost.latency({"m": nn.Linear(4, 2)}, torch.randn(1, 4), batch_sizes=(0,))


def test_warming_up_goes_on_for_a_while_where_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    untimed(monkeypatch)
    monkeypatch.setattr(cost, "MOST_ROUNDS", 5)
    monkeypatch.setattr(cost, "WARM_SECONDS", 0.05)
    journal: list[str] = []
    cost.latency({"only": Watched("only", journal)}, torch.randn(1, 4), batch_sizes=(1,), seconds=60)
    assert len(journal) > 5 + cost.WARM_UP


def test_percentiles_are_those_of_the_definition_and_the_last_one_needs_many_calls() -> None:
    times = np.random.default_rng(0).lognormal(size=cost.LEAST_FOR_P99)
    found = cost.summary(times.tolist(), 1, 1)
    for share, value in ((50, found.p50_ms), (90, found.p90_ms), (95, found.p95_ms), (99, found.p99_ms)):
        ordered = np.sort(times) * 1e3
        place = share / 100 * (times.size - 1)
        below = math.floor(place)
        expected = ordered[below] + (place - below) * (ordered[min(below + 1, times.size - 1)] - ordered[below])
        assert value == pytest.approx(expected)
    assert cost.summary(times[1:].tolist(), 1, 1).p99_ms is None
    # Why so many: with fewer, all calls may well lie below the 99th percentile, which then has no upper bound.
    assert 0.99**cost.LEAST_FOR_P99 < 0.025 < 0.99 ** (cost.LEAST_FOR_P99 - 5)


def test_ratios_are_against_the_reference_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = {"teacher": [4.0] * 8, "half": [2.0] * 8, "noisy": [1.0, 2.0, 4.0, 8.0] * 2}
    untimed(monkeypatch)
    monkeypatch.setattr(cost, "_in_turns", lambda *_: rounds)
    models = {name: nn.Linear(4, 2) for name in rounds}
    found = {n: rows[0] for n, rows in cost.latency(models, torch.rand(1, 4), reference="teacher").items()}
    teacher, half, noisy = found["teacher"], found["half"], found["noisy"]
    assert (teacher.speed_ratio, teacher.speed_low, teacher.speed_high) == (None, None, None)
    assert (half.speed_ratio, half.speed_low, half.speed_high) == (2.0, 2.0, 2.0)
    assert noisy.speed_low is not None
    assert noisy.speed_ratio is not None
    assert noisy.speed_high is not None
    assert noisy.speed_ratio == pytest.approx(4 / 3)
    assert 0.5 <= noisy.speed_low < noisy.speed_ratio < noisy.speed_high <= 4.0
    for name in (None, "nobody"):
        assert all(
            row.speed_ratio is None for rows in cost.latency(models, torch.rand(1, 4), reference=name).values()
            for row in rows
        )  # fmt: skip


def test_energy_is_that_of_a_thousand_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Gauge:
        """Every example takes half a joule."""

        energy = None

        def rest(self, _: float) -> None: ...

        def __enter__(self) -> None:
            calls.clear()

        def __exit__(self, *_: object) -> None:
            self.energy = cost.Energy(0.5 * sum(calls), "rapl", "")

    class Counted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(x.shape[0])
            return super().forward(x)

    monkeypatch.setattr(cost, "meter", Gauge)
    monkeypatch.setattr(cost, "MOST_ROUNDS", 5)
    found = cost.latency({"only": Counted(4, 2)}, torch.rand(3, 4), batch_sizes=(1, 7), seconds=0.01)
    for row in found["only"]:
        assert row.energy is not None
        assert row.energy.joules == pytest.approx(500.0)
        assert row.to_json()["energy"]["source"] == "rapl"


class Wide(nn.Module):
    """Holds so many bytes for a moment."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.ones(self.size, dtype=torch.uint8)[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="nobody tells the peak elsewhere")
def test_the_peak_of_memory_is_that_of_the_largest_activation() -> None:
    size = 96 << 20
    with torch.inference_mode():
        torch.ones(4 * size, dtype=torch.uint8)  # what was held earlier does not count
        found = memory.peak_bytes(Wide(size), torch.rand(1, 4))
        small = memory.peak_bytes(nn.Linear(4, 2), torch.rand(1, 4))
    if found is None:
        pytest.skip("this kernel does not set the mark back")
    assert 0.9 * size < found < 1.25 * size
    assert small is not None
    assert small < size / 8


def test_weights_belong_to_the_peak_and_shared_ones_count_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4))
    own = 4 * (2 * 16 + 4 * 4) + 8  # weights, the four vectors of the norm, and its counter of batches
    assert memory.weight_bytes(model) == own
    model[1].weight = model[0].weight
    assert memory.weight_bytes(model) == own - 4 * 16
    with torch.inference_mode():
        found = memory.peak_bytes(model.eval(), torch.rand(2, 4))
    assert found is None or found >= memory.weight_bytes(model)


def test_on_a_graphics_card_the_allocator_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    model = nn.Linear(4, 2)
    answers = {
        "synchronize": None,
        "reset_peak_memory_stats": None,
        "memory_allocated": 700,
        "max_memory_allocated": 1700,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, name=name, answer=answer: (said.append(name), answer)[1])
    monkeypatch.setattr(model, "forward", lambda _: said.append("pass"))
    inputs = SimpleNamespace(device=torch.device("cuda"))
    assert memory.peak_bytes(model, inputs) == 1000 + memory.weight_bytes(model)  # type: ignore[arg-type]
    first, *_, last = said
    assert (first, last) == ("pass", "max_memory_allocated")
    assert said.index("reset_peak_memory_stats") < said.index("memory_allocated") < said.index("pass", 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card")
def test_on_a_real_graphics_card_the_peak_is_that_of_the_activation() -> None:
    model, size = Wide(64 << 20).cuda(), 64 << 20
    model.forward = lambda x: model.layer(x) + torch.ones(size, dtype=torch.uint8, device="cuda")[-1]  # type: ignore
    with torch.inference_mode():
        found = memory.peak_bytes(model, torch.rand(1, 4, device="cuda"))
    assert found is not None
    assert 0.9 * size < found < 1.25 * size


def test_memory_of_other_devices_is_unknown() -> None:
    assert memory.peak_bytes(nn.Linear(4, 2).to("meta"), torch.rand(1, 4, device="meta")) is None


@pytest.mark.parametrize(
    "status",
    [None, "VmRSS:\t  100 kB\n", "VmHWM:\t  900000 kB\nVmRSS:\t  100 kB\n"],
    ids=["no /proc", "no mark", "a mark that stays"],
)
def test_where_nobody_tells_the_peak_it_is_unknown(status: str | None, tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    if status is not None:
        proc.mkdir()
        (proc / "status").write_text(status)
    assert memory.peak_bytes(nn.Linear(4, 2), torch.rand(1, 4), proc=proc) is None
    assert memory.high_water(tmp_path / "proc") == (900000 << 10 if status and "HWM" in status else None)


def test_the_mark_is_read_in_kibibytes_and_set_back_first(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  1000 kB\nVmRSS:\t  900 kB\n")
    model = nn.Linear(4, 2)
    found = memory.peak_bytes(model, torch.rand(1, 4), proc=tmp_path)
    assert (tmp_path / "clear_refs").read_text() == "5"
    assert found == 100 * 1024 + memory.weight_bytes(model)


def test_every_core_is_at_least_one() -> None:
    assert cost.every_core() >= 1
