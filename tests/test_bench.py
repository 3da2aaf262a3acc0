"""Timing the models of a run: what is counted is right, what is timed is fair, and nothing asserts a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tutelage
from command_line import call
from tutelage.errors import DamagedError, InputError
from tutelage.evaluation import cost
from tutelage.recipe import from_mapping
from tutelage.run import run_recipe
from tutelage.run.bench import bench_run

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
    assert teacher.faster == (None, None)
    for ratio in student.faster:
        assert ratio is not None
        assert 0 < ratio[1] <= ratio[0] <= ratio[2]
    assert "teacher" in found.summary()
    json.dumps(found.to_json())


def test_from_the_command_line(finished: Path) -> None:
    done = call("bench", str(finished), "--batch", "2", "--seconds", "0.05", "--json")
    assert done.code == 0
    assert [model["name"] for model in json.loads(done.out)["models"]] == ["teacher", "distilled", "scratch"]
    for words, said in (
        ([str(finished), "--batch", "one"], "whole numbers"),
        ([str(finished), "--batch", "0"], "≥ 1"),
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
