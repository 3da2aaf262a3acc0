"""Timing the models of a run: what is counted is right, what is timed is fair, and nothing asserts a time."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tutelage
from command_line import call
from tutelage.errors import DamagedError, InputError
from tutelage.evaluation import cost
from tutelage.evaluation.cost import Latency
from tutelage.evaluation.energy import Energy, Source
from tutelage.recipe import from_mapping
from tutelage.run import bench as module
from tutelage.run import run_recipe
from tutelage.run.bench import Bench, ColdStart, Timed, bench_run

RECIPE = {
    "name": "tiny",
    "seeds": [3, 1],
    "data": {"source": "digits", "limit": 100},
    "teacher": {"model": "mlp", "args": {"width": 64}, "train": {"epochs": 1, "batch_size": 32}},
    "student": {"model": "mlp", "args": {"width": 4, "depth": 1}},
    "train": {"epochs": 1, "batch_size": 32},
    "report": {"bootstrap": 100, "latency": False},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_recipe(from_mapping(RECIPE), tmp_path_factory.mktemp("bench") / "run", quiet=True).folder


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Linear(7, 5), (7,), 7 * 5),
        (nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)), (7,), 7 * 5 + 5 * 3),
        (nn.Conv2d(3, 8, 3, padding=1), (3, 10, 10), 3 * 8 * 9 * 100),
        (nn.Conv2d(8, 8, 3, stride=2, groups=8), (8, 11, 11), 8 * 9 * 25),
    ],
)
def test_multiply_adds_are_those_of_the_formulas(model: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    model.train()
    assert cost.multiply_adds(model, torch.rand(1, *shape)) == expected
    assert model.training


def test_the_ratio_of_speeds_is_that_of_the_medians_and_its_interval_holds_it() -> None:
    generator = np.random.default_rng(0)
    noise = generator.lognormal(0.0, 0.3, size=500)  # a busy machine slows both in the same round
    ratio, low, high = cost.speed_ratio(3.0 * noise, noise)
    assert ratio == pytest.approx(3.0)
    assert low == pytest.approx(3.0)
    assert high == pytest.approx(3.0)
    apart = generator.lognormal(0.0, 0.3, size=500)
    ratio, low, high = cost.speed_ratio(3.0 * noise, apart)
    assert low < ratio < high
    assert ratio == pytest.approx(3.0 * np.median(noise) / np.median(apart))
    assert low < 3.0 < high


def test_every_model_of_a_run_is_timed_from_its_file(finished: Path) -> None:
    found = bench_run(finished, batch_sizes=(1, 3), seconds=0.05)
    assert [model.name for model in found.models] == ["teacher", "distilled", "scratch"]
    teacher, student = found.models[0], found.models[1]
    assert teacher.file_bytes == (finished / "teacher" / "teacher.safetensors").stat().st_size
    assert student.file_bytes == (finished / "students/distilled/seed-1/student.safetensors").stat().st_size
    assert student.parameters == 64 * 4 + 4 + 4 * 10 + 10
    assert student.multiply_adds == 64 * 4 + 4 * 10
    assert [one.batch for one in teacher.latency] == [1, 3]
    assert all(one.speed_ratio is None for one in teacher.latency)
    for one in student.latency:
        assert one.speed_ratio is not None
        assert one.speed_low is not None
        assert one.speed_high is not None
        assert 0 < one.speed_low <= one.speed_ratio <= one.speed_high
        assert one.energy is not None
        assert one.energy.joules > 0
    assert student.cold_start is None
    json.dumps(found.to_json())


def measured(source: Source, words: str) -> Bench:
    """A teacher and a student as they might be found."""
    row = Latency(
        64, 5.0, 4.5, 5.5, 6.0, 1000, 2, p95_ms=7.0, peak_bytes=3 << 20, energy=Energy(1.25, source, words)
    )  # fmt: skip
    student = replace(
        row,
        p50_ms=0.5,
        ci_low_ms=0.4,
        ci_high_ms=0.6,
        speed_ratio=10.0,
        speed_low=9.0,
        speed_high=11.0,
        peak_bytes=None,
    )
    cold = ColdStart(1.5, 0.004, 0.25, 300 << 20)
    models = (Timed("teacher", 1_000, 2_000, 4_096, (row,)), Timed("small", 10, 20, 40, (student,), cold))
    return Bench(Path("run"), 2, models, ("something",))


def test_the_summary_says_every_cost() -> None:
    lines = measured("rapl", "by a counter").summary().splitlines()
    rows = [re.split(r"\s{2,}", line) for line in lines]
    assert rows[:3] == [
        ["model", "parameters", "mult.-adds", "file"],
        ["teacher", "1,000", "2,000", "4.0 KiB"],
        ["small", "10", "20", "40 B"],
    ]
    assert rows[4] == ["batch 64, 1,000 calls each"]
    assert rows[5] == ["model", "p50 ms", "95 %", "p90", "p95", "faster", "95 %", "memory", "energy"]
    assert rows[6] == ["teacher", "5.00", "4.50…5.50", "6.00", "7.00", "–", "–", "3.0 MiB", "1.25 J"]
    assert rows[7] == ["small", "0.500", "0.400…0.600", "6.00", "7.00", "10.00×", "9.00…11.00", "–", "1.25 J"]
    assert ["small", "1,500", "4.00", "250", "300.0 MiB"] in rows
    assert any("2 threads" in line for line in lines)
    assert "energy: by a counter" in lines
    assert lines[-1] == "notice: something"
    assert max(len(line) for line in lines) < 120


def test_an_estimate_is_called_one_wherever_it_stands() -> None:
    said = measured("estimate", "an estimate").summary()
    assert "energy (estimate)" in said
    assert "\nenergy: an estimate" in said


def test_a_cold_start_is_that_of_a_fresh_process(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COLD_STARTS", 1)
    path = finished / "students/distilled/seed-1/student.safetensors"
    starts, failed = module._cold_starts({"distilled": path}, 1, False)
    start = starts["distilled"]
    assert not failed
    assert min(start.import_s, start.load_s, start.answer_s) > 0
    assert start.process_bytes is None or start.process_bytes > path.stat().st_size


def test_a_student_that_does_not_start_is_a_notice(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FRESH", "raise SystemExit('no such day')")
    found = bench_run(finished, batch_sizes=(1,), seconds=0.05, cold=True)
    assert found.notices == ("no cold start of distilled: no such day", "no cold start of scratch: no such day")
    assert all(model.cold_start is None for model in found.models)


def test_the_medians_of_cold_starts_leave_out_what_is_unknown() -> None:
    starts = [ColdStart(1.0, 5.0, 9.0, None), ColdStart(3.0, 4.0, 7.0, 10), ColdStart(2.0, 6.0, 8.0, 20)]
    assert module._median(starts) == ColdStart(2.0, 5.0, 8.0, 15)
    assert module._median(starts[:1]).process_bytes is None


def test_from_the_command_line(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("bench", str(finished), "--batch", "2", "--seconds", "0.05", "--json")
    assert done.code == 0
    assert [model["name"] for model in json.loads(done.out)["models"]] == ["teacher", "distilled", "scratch"]
    monkeypatch.setattr(cost, "every_core", lambda: 2)
    done = call("bench", str(finished), "--batch", "2", "--seconds", "0.05", "--threads", "all")
    assert "2 threads" in done.out
    for words, said in (
        ([str(finished), "--batch", "one"], "whole numbers"),
        ([str(finished), "--batch", "0"], "≥ 1"),
        ([str(finished), "--threads", "0"], "≥ 1"),
        ([str(finished), "--threads", "many"], "`all`"),
        ([str(finished), "--seconds", "0"], "seconds > 0"),
        ([str(finished / "eval")], "no finished run"),
    ):
        refused = call("bench", *words)
        assert refused.code == 2
        assert said in refused.err


def test_a_damaged_student_is_told(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    path = copy / "students/scratch/seed-1/student.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedError, match="was altered"):
        bench_run(copy, seconds=0.05)


def test_models_from_python_are_left_out_by_name(tmp_path: Path) -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    run = tutelage.distill(teacher, "mlp", "digits", epochs=1, out=tmp_path / "run", quiet=True)
    found = bench_run(run.folder, batch_sizes=(1,), seconds=0.05)
    assert [model.name for model in found.models] == ["distilled", "scratch"]
    assert "came from Python" in found.notices[0]
    with pytest.raises(InputError, match="no finished run"):
        bench_run(tmp_path)
