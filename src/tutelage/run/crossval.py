"""Cross-validation: k ordinary runs, each with another fold as its test part, and one report about all of them.

    <out>/fold-1 … fold-k     runs of their own, each complete in itself
    <out>/eval, report.*      every example answered once, by models that never saw it

The pooled report is made by the same scorecard as any other; what it adds is the difference fold by fold.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from tutelage import evaluation
from tutelage.errors import InputError
from tutelage.evaluation.folds import decided_by_folds, over_folds
from tutelage.recipe import Recipe, dump
from tutelage.report import write_report
from tutelage.run.evalfiles import Kept, KeptTask, eval_files, read_eval_file, write_eval_file
from tutelage.run.execute import Run, facts_of, read_report, run_recipe
from tutelage.run.job import job_of_recipe
from tutelage.run.several import begin, kept_folder

__all__ = ["cross_validate"]

_PICTURES = 24


def cross_validate(
    recipe: Recipe,
    out: Path | str,
    *,
    folds: int = 5,
    trust: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    command: str | None = None,
    store: Path | str | None = None,
) -> Run:
    """Run a recipe once for every fold, and report on the answers to all examples together.

    A test part that the data brings along is left out and not looked at: folds are made of the rest. What was stopped
    goes on with the same call; finished folds are left as they are.

    Args:
        recipe: what to do; its `data.fold` and `data.test` are not used.
        out: the folder, exactly as given.
        folds: k, 2 or more.
        trust, overwrite, quiet, command, store: as for `run_recipe`.

    Raises:
        TutelageError: everything a user can mend, as the tree in `tutelage.errors` says.
    """
    if folds < 2:
        raise InputError("cross-validation needs two folds or more", given=str(folds))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "cross-validation works in one process",
            fix=f"start it without torchrun, or run every fold under torchrun: --set data.fold=1/{folds}",
        )
    home = Path(out).expanduser()
    said = command or f"tutelage crossval {home / 'config.yaml'} --folds {folds} --out {out}"
    with kept_folder(recipe, home, "folds", overwrite=overwrite, quiet=quiet) as (folder, recipe):
        before = folder.manifest.get("folds", folds)
        if before != folds:
            raise InputError(
                f"{home} holds a cross-validation with another number of folds", given=str(folds),
                expected=str(before), fix="choose another folder with --out, or add --overwrite",
            )  # fmt: skip
        facts = facts_of(job_of_recipe(recipe, trust=trust, store=store))
        begin(folder, recipe, facts | {"folds": folds})
        places = [home / f"fold-{number}" for number in range(1, folds + 1)]
        for number, place in enumerate(places, 1):
            folder.tell(f"fold {number} of {folds}")
            run_recipe(_fold(recipe, number, folds), place, trust=trust, quiet=quiet, store=store, command=said)
        parts = [_Part(place, read_report(place / "report.json")) for place in places]
        report = _pooled(home, parts, recipe, said)
        write_report(home, report)
        folder.manifest["wall_seconds"] = report["wall_seconds"]
        folder.seal()
    return Run(folder.path, report)


def _fold(recipe: Recipe, number: int, folds: int) -> Recipe:
    """The recipe of one fold; models are as fast in one as in the other, so only the first is timed."""
    data = recipe.data.model_copy(update={"fold": f"{number}/{folds}"})
    report = recipe.report.model_copy(update={"latency": recipe.report.latency and number == 1})
    return recipe.model_copy(update={"data": data, "report": report})


# ---- one report from k -----------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One fold's run."""

    home: Path
    report: Mapping[str, Any]

    def kept(self, model: str, seed: int | None) -> dict[str, Kept]:
        """What one model answered, by part."""
        files = eval_files(self.home, model, seed)
        return {part: read_eval_file(path, len(self.report["classes"])) for part, path in files.items()}

    def row(self, model: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = next(row for row in self.report["models"] if row["name"] == model)
        return found


def _pooled(home: Path, parts: Sequence[_Part], recipe: Recipe, command: str) -> dict[str, Any]:
    first = parts[0].report
    teacher, asked = _together(home, parts, "teacher", None)
    arms = []
    for row in first["models"][1:]:
        words = {key: row[key] for key in ("describes", "student", "method", "of", "compression")}
        students = [_together(home, parts, row["name"], run["seed"])[0] for run in row["runs"]]
        arms.append(evaluation.Arm(row["name"], students, row["distilled"], **words))
    report = evaluation.scorecard(
        labels=asked["test"].labels,
        ids=asked["test"].ids,
        classes=first["classes"],
        teacher=teacher,
        arms=arms,
        data=_data(parts, asked["test"]),
        run=evaluation.RunFacts(
            recipe_name=recipe.name,
            recipe_text=dump(recipe),
            command=command,
            load_snippet=str(first["load_snippet"]).replace('"students/', '"fold-1/students/'),
            versions=first["versions"],
            wall_seconds=sum(part.report["wall_seconds"] for part in parts),
            deterministic=first["deterministic"],
            answers=first["answers"],
        ),
        latency={row["name"]: [evaluation.Times(times) for times in row["latency"]] for row in first["models"]},
        warnings=_warnings(recipe),
        teacher_val_accuracy=_mean([part.report["teacher_val_accuracy"] for part in parts]),
        val_labels=asked["val"].labels,
        train_labels=asked["train"].labels,
        resamples=recipe.report.bootstrap,
        tasks=_tasks(first, asked["test"]),
    )
    pictures = [picture for part in parts for picture in part.report.get("pictures", ())[: _PICTURES // len(parts)]]
    folds = _by_fold(report, parts)
    return report | {
        "pictures": pictures, "folds": folds, "comparisons": decided_by_folds(report["comparisons"], folds)
    }  # fmt: skip


def _together(home: Path, parts: Sequence[_Part], model: str, seed: int | None) -> tuple[Any, dict[str, Kept]]:
    """One model of all folds as if it were one: its answers one after the other, its size that of the first fold."""
    kept = [part.kept(model, seed) for part in parts]
    whole = {key: _joined([one[key] for one in kept]) for key in ("test", "val", "train")}
    for key, path in eval_files(home, model, seed).items():
        write_eval_file(path, whole[key])
    runs = [next(run for run in part.row(model)["runs"] if run["seed"] == seed) for part in parts]
    curves = [part.report["training"].get(model, {}).get(str(seed), []) for part in parts]
    judged = evaluation.Judged(
        logits=whole["test"].logits,
        parameters=runs[0]["parameters"],
        file_bytes=runs[0]["file_bytes"],
        sha256=hashlib.sha256("".join(run["sha256"] for run in runs).encode()).hexdigest(),
        seed=seed,
        curve=_mean_curve(curves),
        val_logits=whole["val"].logits,
        train_logits=whole["train"].logits,
        multiply_adds=runs[0]["multiply_adds"],
        tasks={name: task.logits for name, task in whole["test"].tasks.items()},
    )
    return judged, whole


def _joined(several: Sequence[Kept]) -> Kept:
    """What one model answered in all folds, one after the other."""
    keys = ("ids", "labels", "logits")
    ids, labels, logits = (np.concatenate([getattr(one, key) for one in several]) for key in keys)
    tasks = {}
    for name, task in several[0].tasks.items():
        own = [one.tasks[name] for one in several]
        both = np.concatenate([one.labels for one in own]), np.concatenate([one.logits for one in own])
        tasks[name] = KeptTask(*both, task.classes)
    return Kept(ids, labels, logits, tasks)


def _tasks(report: Mapping[str, Any], asked: Kept) -> evaluation.TaskFacts | None:
    """What models were asked beside the main task; None where that is all."""
    further = {name: (task.labels, task.classes) for name, task in asked.tasks.items()}
    if not further:
        return None
    return evaluation.TaskFacts(report["tasks"]["main"], further, report["tasks"].get("questions", False))


def _mean_curve(curves: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, float | None]]:
    """The mean over folds of every number that all folds have, as far as the shortest goes."""
    found: list[dict[str, float | None]] = []
    for rows in zip(*curves, strict=False):
        keys = [key for key in rows[0] if all(isinstance(row.get(key), (int, float)) for row in rows)]
        found.append({key: float(np.mean([row[key] for row in rows])) for key in keys})
    return found


def _data(parts: Sequence[_Part], asked: Kept) -> Any:
    facts = [part.report["data"] for part in parts]
    classes = len(parts[0].report["classes"])
    counts = {split: [row[split] for row in facts[0]["counts"]] for split in facts[0]["totals"]}
    counts["test"] = np.bincount(asked.labels, minlength=classes).tolist()
    joined = hashlib.sha256("".join(fact["fingerprint"] for fact in facts).encode()).hexdigest()
    return evaluation.DataFacts(
        name=f"{facts[0]['name']}, {len(parts)} folds",
        counts=counts,
        fingerprint=joined,
        test_sha256=hashlib.sha256("".join(fact["test_sha256"] for fact in facts).encode()).hexdigest(),
        test_looks=max(fact["test_looks"] for fact in facts),
        shared_examples=sum(fact["shared_examples"] for fact in facts),
        task=facts[0]["task"],
        unlabelled=max(fact.get("unlabelled", 0) for fact in facts),
    )


def _by_fold(report: Mapping[str, Any], parts: Sequence[_Part]) -> dict[str, Any]:
    """Every comparison of the pooled report, fold by fold."""
    totals = [part.report["data"]["totals"] for part in parts]
    tested, trained = (round(float(np.mean([total[split] for total in totals]))) for split in ("test", "train"))
    found = []
    for item in report["comparisons"]:
        rows = [[part.row(name) for part in parts] for name in (item["name"], item["against"])]
        ours, theirs = ([row["metrics"]["accuracy"]["value"] for row in side] for side in rows)
        differences = [a - b for a, b in zip(ours, theirs, strict=True)]
        estimate, p = over_folds(differences, tested=tested, trained=trained, seeds=len(report["seeds"]))
        names = {"name": item["name"], "against": item["against"]}
        found.append({**names, "per_fold": differences, "difference": estimate.to_json(), "p": p})
    return {"count": len(parts), "comparisons": found}


def _warnings(recipe: Recipe) -> list[str]:
    given = [f"teacher {name}".rstrip() for name, teacher in recipe.trusted.items() if teacher.train is None]
    return [
        f"The {name} was given, not trained fold by fold: if it learned from these examples, it was asked about some "
        "that it knows, and so were its students."
        for name in given
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
