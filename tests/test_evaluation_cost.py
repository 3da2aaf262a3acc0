"""Costs: what is counted, and that timing leaves no trace. No test asserts a time."""

import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tutelage.errors import InputError
from tutelage.evaluation import cost


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


def test_shared_parameters_count_once_and_bytes_are_those_on_disk(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert cost.parameters(model) == 40
    model[1].weight = model[0].weight
    assert cost.parameters(model) == 24
    (tmp_path / "student").write_bytes(b"x" * 123)
    assert cost.file_bytes(tmp_path / "student") == 123


def test_timing_takes_turns_under_pinned_conditions_and_restores_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "MOST_ROUNDS", 20)
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
    journal: list[str] = []
    found = cost.latency({"only": Watched("only", journal)}, torch.randn(1, 4), batch_sizes=(2,), seconds=60)
    item = found["only"][0].to_json()
    assert 0 < item["ci_low_ms"] <= item["p50_ms"] <= item["ci_high_ms"]
    assert item["p50_ms"] <= item["p90_ms"]
    assert item["n"] == 30
    assert len(journal) == 30 + cost.WARM_UP
    assert item["threads"] == 1


def test_a_spent_budget_still_leaves_a_few_rounds() -> None:
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
