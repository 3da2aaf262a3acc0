"""The report of a finished run, computed again from its report.json and its saved answers: no model is built or asked.

Whoever doubts a number can so have it once more, on any machine, in seconds. What was handed to the report and follows
from no answer (sizes, times, training records, facts of data and run) is taken from report.json as it stands there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.errors import DamagedError, InputError
from tutelage.evaluation.rebuild import Saved, can_rebuild, rebuild
from tutelage.evaluation.scoring import digest
from tutelage.report import verdict
from tutelage.run.evalfiles import Kept, eval_files, read_eval_file
from tutelage.run.execute import read_report

__all__ = ["rescore"]

Model = tuple[str, int | None]  # name of the model or arm, and its seed


def rescore(folder: Path | str) -> dict[str, Any]:
    """Compute every number of a run's report again.

    Args:
        folder: of a finished run: report.json, and beside it eval/ with the answers of every model.

    Returns:
        The report. It equals report.json, bit for bit on the machine that wrote it, unless somebody altered that.

    Raises:
        InputError: there is no report, or one of a version that did not keep all that it was made from.
        DamagedError: the report is not what a run wrote, or answers are missing, or not those it was made from.
    """
    home = Path(folder).expanduser()
    path = home / "report.json"
    if not path.is_file():
        raise InputError(f"no finished run in {folder}", expected="a run's folder, with its report.json")
    report = read_report(path)
    if not can_rebuild(report):
        raise InputError(
            f"{path} was written by an earlier version, which did not keep all that its numbers were made from",
            fix="tutelage report --pages writes its pages without computing anything",
        )
    if not (home / "eval").is_dir():
        raise DamagedError(
            f"{home / 'eval'} is missing, which held the answers that the report was made from",
            fix="restore it from a copy; tutelage report --pages writes the pages without it",
        )
    try:
        answers = dict(_all_answers(home, report))
        made = rebuild(report, answers)
        return made | {"verdict": verdict(made).to_json()}
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        raise DamagedError(
            f"{path} is not what a run wrote",
            given=" ".join(str(error).split())[:200] or type(error).__name__,
            fix="restore the file from a copy, or run again",
        ) from error


def _all_answers(home: Path, report: Mapping[str, Any]) -> Iterator[tuple[Model, Saved]]:
    """Everybody's answers, which must be to the same questions."""
    questions: dict[str, Kept] = {}
    for row in report["models"]:
        for run in row["runs"]:
            files = eval_files(home, run["name"], run["seed"])
            sums: Mapping[str, str] = run["answers"]
            found = {part: read_eval_file(files[part], len(report["classes"])) for part in ("test", *sums)}
            for part, own in found.items():
                first = questions.setdefault(part, own)
                if not (np.array_equal(own.ids, first.ids) and np.array_equal(own.labels, first.labels)):
                    raise DamagedError(
                        f"{files[part]} has other examples than the run's other models",
                        fix="restore the file from a copy, or run again",
                    )
                _check_sum(files[part], part, own, sums[part])
            _check_tasks(files["test"], report, run, found["test"])
            logits = {part: own.logits for part, own in found.items()}
            labels = {part: own.labels for part, own in found.items()}
            further = {name: (task.labels, task.logits) for name, task in found["test"].tasks.items()}
            yield (run["name"], run["seed"]), Saved(logits, labels, found["test"].ids, further)


def _check_tasks(path: Path, report: Mapping[str, Any], run: Mapping[str, Any], own: Kept) -> None:
    """That the answers of one model to further tasks are those that the report was made from."""
    for row in report.get("tasks", {"each": ()})["each"][1:]:
        rows = next(model["runs"] for model in row["models"] if model["name"] == run["name"])
        expected = next(one["answers"] for one in rows if one["seed"] == run["seed"])
        task = own.tasks.get(row["name"])
        given = "" if task is None else digest(own.ids, task.labels, task.logits)
        if given != expected:
            raise DamagedError(
                f"{path} holds other answers to the task `{row['name']}` than the report was made from",
                given=f"sum {given[:16]}" if given else "none",
                expected=f"sum {str(expected)[:16]}",
                fix="restore the file from a copy, or run again",
            )


def _check_sum(path: Path, part: str, own: Kept, expected: str) -> None:
    asked = (own.ids, own.labels) if part == "test" else (own.labels,)
    given = digest(*asked, own.logits)
    if given != expected:
        raise DamagedError(
            f"{path} holds other answers than the report was made from",
            given=f"sum {given[:16]}",
            expected=f"sum {str(expected)[:16]}",
            fix="restore the file from a copy, or run again",
        )
