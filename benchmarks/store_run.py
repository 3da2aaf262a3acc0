"""A whole run with stored answers against the same run with the teacher live: wall time, CPU time, and the students.

Both find the same trained teacher in the cache, so the ratio is of what a second student, seed or method costs. The
store starts empty, so building it is part of its side. Without views every student must have the very same bits on both
sides; with views the store serves recorded ones, and what is told is the difference of the accuracies beside the spread
over seeds. The sides take turns, seed by seed, so that a busy moment of the machine hits both.

    python benchmarks/store_run.py [--epochs 10] [--seeds 3] [--width 72] [--views none|shift]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RECIPE = """
name: store-run
seeds: [0]
data: {{source: {source}, views: {views}}}
teacher:
  model: cnn
  args: {{width: {width}, depth: 3}}
  train: {{epochs: {teacher}, batch_size: 128, lr: 0.002, warm_up: 0.05}}
student: {{model: cnn}}
arms:
  distilled: [{{loss: soft_target, weight: 0.9, temperature: 2}}, {{loss: cross_entropy, weight: 0.1}}]
train: {{epochs: {epochs}, batch_size: 128, lr: 0.004, warm_up: 0.05}}
report: {{bootstrap: 100, latency: false}}
threads: 1
"""


def run(root: Path, name: str, *settings: str) -> tuple[dict[str, Any], float, float]:
    """The report of a run, its wall time and its CPU time."""
    command = [sys.executable, "-m", "tutelage", "run", str(root / "recipe.yaml"), "--out", str(root / name), "--json"]
    command += ["--quiet", *(part for setting in settings for part in ("--set", setting))]
    environment = os.environ | {"TUTELAGE_CACHE": str(root / "cache"), "TUTELAGE_STORE": str(root / "store")}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    wall, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout)["report"], wall, cpu


def students(report: dict[str, Any]) -> dict[str, tuple[str, float]]:
    """Arm -> sum of its file and accuracy."""
    models = [model for model in report["models"] if model["role"] != "teacher"]
    return {m["name"]: (m["runs"][0]["sha256"], m["runs"][0]["metrics"]["accuracy"]) for m in models}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="fashion-mnist")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--teacher-epochs", type=int, default=3)
    parser.add_argument("--width", type=int, default=72)
    parser.add_argument("--views", choices=["none", "shift"], default="none")
    parser.add_argument("--recorded", type=int, default=4)
    options = parser.parse_args()
    views = "{}" if options.views == "none" else "{flip: 0.5, shift: 2}"
    root = Path(tempfile.mkdtemp(prefix="tutelage-store-run-"))
    (root / "recipe.yaml").write_text(
        RECIPE.format(
            source=options.source,
            views=views,
            width=options.width,
            teacher=options.teacher_epochs,
            epochs=options.epochs,
        )
    )
    first, took, _ = run(root, "warm-up", "train.epochs=1")
    sizes = {model["name"]: model["parameters"] for model in first["models"]}
    print(f"teacher {sizes['teacher']:,} parameters, student {sizes['scratch']:,}; trained in {took:.0f} s", flush=True)
    kept = f"teacher.store={{views: {options.recorded}}}"
    sides: dict[str, list[tuple[dict[str, Any], float, float]]] = {"live": [], "store": []}
    for seed in range(options.seeds):
        for side in ("live", "store") if seed % 2 == 0 else ("store", "live"):
            setting = "teacher.store=null" if side == "live" else kept
            sides[side].append(run(root, f"{side}-{seed}", f"seeds=[{seed}]", setting))
            print(f"  seed {seed} {side}: {sides[side][-1][1]:.1f} s, {students(sides[side][-1][0])}", flush=True)
    wall, cpu = (sum(r[n] for r in sides["store"]) / sum(r[n] for r in sides["live"]) for n in (1, 2))
    same = all(students(a[0]) == students(b[0]) for a, b in zip(sides["live"], sides["store"], strict=True))
    result: dict[str, Any] = {
        "teacher": sizes["teacher"], "student": sizes["scratch"], "views": options.views, "epochs": options.epochs,
        "seeds": options.seeds, "seconds": {side: round(sum(r[1] for r in runs), 1) for side, runs in sides.items()},
        "wall_ratio": round(wall, 3), "cpu_ratio": round(cpu, 3), "bit_equal": same,
    }  # fmt: skip
    for arm in ("scratch", "distilled"):
        accuracies = {side: [students(r[0])[arm][1] for r in runs] for side, runs in sides.items()}
        result[arm] = {
            side: f"{statistics.mean(a):.4f} ± {statistics.stdev(a) if len(a) > 1 else 0:.4f}"
            for side, a in accuracies.items()
        }
    print(json.dumps(result))
    if options.views == "none" and not same:
        raise SystemExit("without views the students must have the same bits")


if __name__ == "__main__":
    main()
