"""Evaluate, adjust, distil again, until a target is reached: ordinary runs one after the other, with other values.

    <out>/round-1 … round-k         runs of their own, each complete in itself
    <out>/iterate.json, README.md   the rounds side by side, which one was chosen, and why

A round is decided by what its students answer on the validation part alone. The test part is looked at once by every
round, as by any run; only that of the chosen round is shown, since choosing by it would spend it.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch

from tutelage.errors import DamagedError, InputError, TutelageError, nearest
from tutelage.evaluation import metrics
from tutelage.evaluation.scoring import digest
from tutelage.files import read_json, write_json, write_text
from tutelage.lang.markdown import say_markdown
from tutelage.recipe import Recipe
from tutelage.run.arms import check_learning
from tutelage.run.evalfiles import Kept, eval_files, read_eval_file
from tutelage.run.execute import Run, facts_of, read_report, run_recipe
from tutelage.run.folder import RunFolder
from tutelage.run.iteration import Goal, Iteration, readme, result_of
from tutelage.run.job import Job, job_of_recipe
from tutelage.run.rounds import Round, rounds_of
from tutelage.run.saved import answered
from tutelage.run.several import begin, kept_folder

__all__ = ["How", "iterate"]


class How(TypedDict, total=False):
    """How runs are made; as for `run_recipe`."""

    trust: bool
    overwrite: bool
    quiet: bool
    command: str | None
    store: Path | str | None


def iterate(
    recipe: Recipe,
    out: Path | str,
    *,
    target: float,
    adjust: Mapping[str, Sequence[Any]],
    metric: str = "accuracy",
    arm: str | None = None,
    order: str = "together",
    **how: Unpack[How],
) -> Iteration:
    """Run a recipe again and again with other values, until its students reach a target on the validation part.

    Rounds go from the first values to the last, so with cheap ones first the first that passes is the cheapest that
    does. The teacher is trained once. What was stopped goes on with the same call; finished rounds are left as they
    are, also where values were added behind the old ones, or the target is another.

    Args:
        recipe: what every round does, but for the adjusted keys.
        out: the folder, exactly as given.
        target: what to reach, as a mean over the recipe's seeds; see `Goal`.
        adjust: dotted keys of `train`, `student`, `students` or `arms` -> values, the cheapest first.
        metric: one of `METRICS`, measured on the validation part, for the weights that the best epoch left.
        arm: whose students must reach it; None: the first arm that listens to the teacher.
        order: "together", k-th values in round k and the last one where a list ends, or "each", all combinations.
        how: trust, overwrite, quiet, command, store, as for `run_recipe`.

    Returns:
        What came of it; `check()` raises where no round reached the target.

    Raises:
        TutelageError: everything a user can mend, as the tree in `tutelage.errors` says.
    """
    goal = Goal(target, metric)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "an iteration works in one process", fix="start it without torchrun, or run every round under torchrun"
        )
    home, quiet = Path(out).expanduser(), how.get("quiet", False)
    trust, store = how.get("trust", False), how.get("store")
    with kept_folder(recipe, home, "rounds", overwrite=how.get("overwrite", False), quiet=quiet) as (folder, recipe):
        rounds = rounds_of(recipe, adjust, order)
        begun = _begun(folder, rounds)
        job = job_of_recipe(recipe, trust=trust, store=store)
        _check_arm(job, arm)
        for one in rounds[begun:]:
            _look_ahead(one, trust=trust, store=store)
        begin(folder, recipe, facts_of(job) | {"rounds": [dict(one.values) for one in rounds]})
        said = how.get("command") or _repeat(home, goal, adjust, order, arm)
        done = _go(folder, rounds, goal, arm, How(trust=trust, quiet=quiet, store=store, command=said))
        result = result_of(done, goal, recipe=recipe.name, command=said, planned=len(rounds))
        write_json(folder.path / "iterate.json", result)
        found = Iteration(folder.path, result)
        write_text(folder.path / "README.md", say_markdown(readme(found)))
        folder.manifest["wall_seconds"] = sum(one["wall_seconds"] for one in result["rounds"])
        folder.seal()
    return found


# ---- before anything is trained --------------------------------------------------------------------------------------


def _begun(folder: RunFolder, rounds: Sequence[Round]) -> int:
    """How many rounds have a folder already; they must be the ones that are asked for.

    Raises:
        InputError: other values were tried in them.
        DamagedError: the manifest does not say which.
    """
    before = folder.manifest.get("rounds", [])
    if not isinstance(before, list) or not all(isinstance(values, dict) for values in before):
        raise DamagedError(f"{folder.path / 'manifest.json'} is not what an iteration wrote", given=repr(before)[:80])
    begun = 0
    while begun < len(before) and (_place(folder, begun + 1) / "manifest.json").is_file():
        begun += 1
    for number in range(begun):
        now = dict(rounds[number].values) if number < len(rounds) else None
        if now != before[number]:
            tried = Round(number + 1, before[number], rounds[0].recipe)
            raise InputError(
                f"{folder.path} holds other rounds",
                given=f"round {number + 1}: {rounds[number].words if now is not None else 'none'}",
                expected=f"round {number + 1}: {tried.words}",
                fix="write new values behind those that were tried, or choose another folder with --out, or add "
                "--overwrite",
            )
    return begun


def _check_arm(job: Job, arm: str | None) -> None:
    known = [name + how for name in job.arms for how in ("", *(f".{one}" for one in (*job.compress, *job.export)))]
    if arm is not None and arm not in known:
        raise InputError(f"no arm `{arm}` in this recipe", where="--arm", fix=nearest(arm, known))


def _look_ahead(one: Round, *, trust: bool, store: Path | str | None) -> None:
    """A mistake in the values of the last round is told before the first is trained."""
    try:
        job = job_of_recipe(one.recipe, trust=trust, store=store)
        with torch.random.fork_rng():
            for plan in job.students.values():
                check_learning(job.train, plan.build())
    except TutelageError as error:
        raise one.placed(error) from error


# ---- the rounds ------------------------------------------------------------------------------------------------------


def _go(folder: RunFolder, rounds: Sequence[Round], goal: Goal, arm: str | None, how: How) -> list[dict[str, Any]]:
    """Round after round until one reaches the target; those that were run before are all looked at."""
    done: list[dict[str, Any]] = []
    for one in rounds:
        place = _place(folder, one.number)
        finished = _finished(place)
        if not finished and any(row["reached"] for row in done):
            break
        if finished:
            run = Run(place, read_report(place / "report.json"))
        else:
            folder.tell(f"round {one.number} of {len(rounds)}: {one.words}")
            folder.manifest["outcome"] = "running"
            folder.save()
            run = run_recipe(one.recipe, place, **how)
        arm = arm or str(run.report["headline"])
        row = _judged(one, run, goal, arm)
        mark = "the target is reached" if row["reached"] else "the target is not reached"
        folder.tell(f"round {one.number}: validation {goal.metric} {goal.spread(row['validation'])}; {mark}")
        done.append(row)
    return done


def _judged(one: Round, run: Run, goal: Goal, arm: str) -> dict[str, Any]:
    """One round by what its students' files answered on the validation part."""
    rows = {row["name"]: row for row in run.report["models"]}
    teacher = _validation(run, rows["teacher"]["runs"][0], "teacher", None)
    questions = goal.metric == "accuracy" and bool(run.report.get("tasks", {}).get("questions"))
    measure: Callable[[Kept], float]
    measure = _exact if questions else partial(_measured, teacher=teacher, metric=goal.metric)
    of_teacher = measure(teacher)
    by_seed = {}
    for each in rows[arm]["runs"]:
        kept = _validation(run, each, arm, each["seed"])
        by_seed[int(each["seed"])] = measure(kept)
    values = list(by_seed.values())
    mean = statistics.mean(values)  # exact, rounded once: seeds that all just reach the target reach it together
    tested = {key: rows[arm]["metrics"].get(key) for key in dict.fromkeys(("accuracy", goal.metric))}
    return {
        "round": one.number,
        "values": dict(one.values),
        "arm": arm,
        "validation": {
            "mean": mean,
            "sd": statistics.stdev(values) if len(values) > 1 else None,
            "per_seed": [{"seed": seed, "value": value} for seed, value in by_seed.items()],
            "examples": int(teacher.labels.size),
            "teacher": None if goal.metric in ("agreement", "divergence") else of_teacher,
        },
        "reached": goal.met(mean),
        "parameters": rows[arm]["parameters"],
        "file_bytes": rows[arm]["file_bytes"],
        "wall_seconds": run.report["wall_seconds"],
        "test": tested,
    }


def _measured(kept: Kept, teacher: Kept, metric: str) -> float:
    return metrics.measure(kept.logits, kept.labels, teacher.logits)[metric]


def _exact(kept: Kept) -> float:
    """Of questions accuracy is exact match, as in the report."""
    return float(answered(Path("eval"), kept).mean())


def _validation(run: Run, facts: Mapping[str, Any], model: str, seed: int | None) -> Kept:
    """What one model answered on the validation part.

    Raises:
        DamagedError: the file is missing, damaged, or not the one that the report was made from.
    """
    path = eval_files(run.folder, model, seed)["val"]
    kept = read_eval_file(path, len(run.report["classes"]))
    given, expected = digest(kept.labels, kept.logits), str(facts["answers"]["val"])
    if given != expected:
        raise DamagedError(
            f"{path} holds other answers than the report was made from",
            given=f"sum {given[:16]}",
            expected=f"sum {expected[:16]}",
            fix="restore the file from a copy, or run again",
        )
    return kept


def _place(folder: RunFolder, number: int) -> Path:
    return folder.path / f"round-{number}"


def _finished(place: Path) -> bool:
    manifest = place / "manifest.json"
    return manifest.is_file() and read_json(manifest).get("outcome") == "complete"


def _repeat(home: Path, goal: Goal, adjust: Mapping[str, Sequence[Any]], order: str, arm: str | None) -> str:
    """The command that does the same from the recipe in the folder."""
    words = ["tutelage", "iterate", str(home / "config.yaml"), "--target", f"{goal.target:g}"]
    words += ["--metric", goal.metric, "--order", order, *(() if arm is None else ("--arm", arm))]
    for key, values in adjust.items():
        words += ["--adjust", f"{key}={','.join(json.dumps(value, ensure_ascii=False) for value in values)}"]
    return shlex.join([*words, "--out", str(home)])
