"""One student with three tasks beside three students with one each, on digits, on the same division of the examples.

The digit, whether it is odd, and whether it is five or more. All nets are alike but for their last layer. Each student
is trained without a teacher and with one: a teacher of its task, a teacher of all tasks, or one teacher for each task.

    python benchmarks/tasks.py [--seeds 3] [--epochs 20] [--width 8] [--out runs/tasks]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.data import Examples, Splits, load
from tutelage.evaluation.significance import over_seeds, paired_by_seed
from tutelage.recipe import from_mapping
from tutelage.run import run_recipe

TASKS = ("digit", "parity", "large")
NAMES = {"parity": ["even", "odd"], "large": ["0-4", "5-9"]}
ARMS = ("scratch", "distilled")


def labels(examples: Examples) -> dict[str, NDArray[np.int64]]:
    digit = examples.targets.numpy()
    return {"digit": digit, "parity": digit % 2, "large": (digit >= 5).astype(np.int64)}


def save(splits: Splits, main: str, further: tuple[str, ...], path: Path) -> Path:
    """An .npz of the same three parts for every run, whatever its main task is."""
    arrays: dict[str, Any] = {}
    for name in ("train", "val", "test"):
        part: Examples = getattr(splits, name)
        own = labels(part)
        arrays |= {f"x_{name}": part.inputs.numpy(), f"y_{name}": own[main]}
        arrays |= {f"targets_{task}_{name}": own[task] for task in further}
    arrays |= {f"classes_{task}": np.array(NAMES[task]) for task in further}
    np.savez(path, **arrays)
    return path


def accuracies(report: dict[str, Any], main: str) -> dict[tuple[str, str], list[float]]:
    """(arm, task) -> test accuracy of every seed."""
    found = report.get("tasks")
    rows = found["each"] if found else [{"name": main, "models": report["models"]}]
    return {
        (model["name"], row["name"]): [
            run["accuracy"] if found else run["metrics"]["accuracy"] for run in model["runs"]
        ]
        for row in rows
        for model in row["models"]
    }


def run(path: Path, out: Path, chosen: argparse.Namespace, main: str, **teachers: Any) -> dict[str, Any]:
    net = {"model": "cnn", "args": {"width": chosen.width}}
    taught = {"model": "cnn", "args": {"width": 4 * chosen.width}, "train": {"epochs": chosen.epochs, "lr": 0.003}}
    who = {"teachers": dict.fromkeys(TASKS, taught), "combine": {"how": "tasks"}} if teachers else {"teacher": taught}
    recipe = from_mapping({
        "name": out.name, "seeds": list(range(chosen.seeds)), "student": net, **who,
        "data": {"source": "arrays", "path": str(path), "task": main},
        "train": {"epochs": chosen.epochs, "lr": 0.003}, "report": {"latency": False, "bootstrap": 1000},
    })  # fmt: skip
    return dict(run_recipe(recipe, out, quiet=True).report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/tasks"))
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    splits = load("digits")
    single: dict[tuple[str, str], list[float]] = {}
    size = 0
    for task in TASKS:
        report = run(save(splits, task, (), chosen.out / f"{task}.npz"), chosen.out / task, chosen, task)
        single |= accuracies(report, task)
        size += report["models"][1]["parameters"]
    path = save(splits, "digit", TASKS[1:], chosen.out / "all.npz")
    together = {
        "one teacher of all": run(path, chosen.out / "all", chosen, "digit"),
        "a teacher for each": run(path, chosen.out / "each", chosen, "digit", each=True),
    }
    n = len(splits.test)
    print(f"n = {n}, {chosen.seeds} seeds; three students: {size:,} parameters")
    for title, report in together.items():
        own = accuracies(report, "digit")
        print(f"one student, {title}: {report['models'][1]['parameters']:,} parameters")
        for arm in ARMS:
            for task in TASKS:
                ours, theirs = own[arm, task], single[arm, task]
                mean, other = over_seeds(ours, n), over_seeds(theirs, n)
                apart = paired_by_seed(ours, theirs, n)
                assert apart.ci_low is not None
                assert apart.ci_high is not None
                print(
                    f"  {arm:9} {task:6}  one {100 * mean.value:5.1f}  three {100 * other.value:5.1f}  "
                    f"difference {100 * apart.value:+5.1f} ({100 * apart.ci_low:+.1f} … {100 * apart.ci_high:+.1f})"
                )


if __name__ == "__main__":
    main()
