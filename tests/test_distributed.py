"""Two gloo processes through Lightning Fabric learn what one process learns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("lightning_fabric", reason="the extra `distributed` is not installed")

RECIPE = """
name: two
seeds: [0]
data: {source: digits, limit: 333, views: {shift: 1}}
teacher: {model: mlp, args: {width: 32}, train: {epochs: 2, batch_size: 32, lr: 0.01, engine: ENGINE}}
student: {model: mlp, args: {width: 8, depth: 1}}
train: {epochs: 3, batch_size: 32, lr: 0.01, optimizer: sgd, engine: ENGINE}
device: cpu
report: {bootstrap: 100, latency: false}
"""


def start(tmp_path: Path, name: str, engine: str, processes: int) -> Path:
    recipe = tmp_path / f"{name}.yaml"
    recipe.write_text(RECIPE.replace("ENGINE", engine))
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launch, "-m", "tutelage", "run", str(recipe), "--out", str(tmp_path / name), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return tmp_path / name


def test_two_processes_agree_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("alone", "pair"):
        monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / f"cache-{name}"))
        start(tmp_path, name, "plain" if name == "alone" else "fabric", 1 if name == "alone" else 2)
    for arm in ("scratch", "distilled"):
        place = Path("students") / arm / "seed-0" / "last.safetensors"
        one, two = load_file(tmp_path / "alone" / place), load_file(tmp_path / "pair" / place)
        for key, value in one.items():
            # Sums of gradients are added up in another order, and nothing else differs.
            torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4)
    alone, pair = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("alone", "pair"))
    for left, right in zip(alone["models"], pair["models"], strict=True):
        assert left["metrics"]["nll"]["value"] == pytest.approx(right["metrics"]["nll"]["value"], rel=1e-3)
    processes = [json.loads((tmp_path / name / "manifest.json").read_text())["processes"] for name in ("alone", "pair")]
    assert processes == [1, 2]


HINTED = """
name: hinted
seeds: [0]
data: {source: digits, limit: 333}
teacher: {model: mlp, args: {width: 16, depth: 2}, train: {epochs: 1, batch_size: 32, lr: 0.01, engine: ENGINE}}
student: {model: mlp, args: {width: 8, depth: 2}}
arms:
  late:
    - {loss: cross_entropy}
    - {loss: hint, weight: {schedule: piecewise, points: [[0, 0], [0.5, 0], [0.6, 1]]}, at: [net.hidden.5]}
  first:
    - {loss: hint, at: [net.hidden.2]}
    - {loss: cross_entropy, weight: {schedule: piecewise, points: [[0, 0], [0.5, 0], [0.6, 1]]}}
train: {epochs: 2, batch_size: 32, lr: 0.01, optimizer: sgd, engine: ENGINE}
device: cpu
report: {bootstrap: 100, latency: false}
"""


def test_connectors_and_layers_that_nobody_reads_just_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setitem(globals(), "RECIPE", HINTED)
    for name in ("alone", "pair"):
        monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / f"cache-{name}"))
        start(tmp_path, name, "plain" if name == "alone" else "fabric", 1 if name == "alone" else 2)
    for arm in ("late", "first"):
        place = Path("students") / arm / "seed-0" / "last.safetensors"
        one, two = load_file(tmp_path / "alone" / place), load_file(tmp_path / "pair" / place)
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4)
