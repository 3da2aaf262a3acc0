"""Files that run elsewhere: every student of a run beside its weights.

students/<arm>/seed-<n>/student.onnx, …    the files, each compared with its model before it was kept
                        student.json       their sums, as sha256.<format>
                        exports.json       how each compares with its model, or why it was not kept
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from tutelage.data import Examples, Splits, as_model_input
from tutelage.errors import DamagedError, GateError, InputError
from tutelage.evaluation.cost import Latency, latency
from tutelage.export import FORMATS, Facts, RunnerModule, export_model
from tutelage.export.parity import LEAST
from tutelage.files import read_json, sha256, write_json
from tutelage.models import load_weights, merge
from tutelage.progress import Meter
from tutelage.run.cohorts import Workshop
from tutelage.run.examples import facts_of_data
from tutelage.run.job import Job
from tutelage.run.students import as_learned, read_facts, student_file

__all__ = [
    "CALIBRATION",
    "Material",
    "brief_of",
    "export_rows",
    "export_students",
    "facts_for",
    "kept_formats",
    "material",
    "refusals",
    "rehearse",
    "side_by_side",
]

CALIBRATION = 256  # training examples that ranges of activations come from
_COMPARED = 1024  # examples at most; the gate asks them one by one as well
_REHEARSED = 32
# What `tutelage.models.build` needs; whoever needs more is built by no file's facts alone.
_BUILDS = frozenset({"model", "args", "input_shape", "classes", "mean", "std", "tasks", "encoding", "smaller"})


# ---- what a file is made with ----------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Real examples: to take ranges from, and to compare by. None of them is of the test part."""

    calibration: Tensor  # (N, …) in [0, 1], of the training part
    inputs: Tensor  # (M, …) likewise, of the validation part, filled up from the training part where that is small
    targets: Tensor | None  # (M,) their labels; None where a model answers several tasks
    notices: tuple[str, ...]


def material(splits: Splits, *, calibrate: int = CALIBRATION) -> Material:
    """Examples to export by: the first in the order of ids, which are hashes, so always the same random sample.

    Raises:
        InputError: there are too few examples.
    """
    if calibrate < 1:
        raise InputError("nothing to take ranges from", given=calibrate, expected="1 or more examples")
    train, val = splits.train, splits.val
    first, notices = _some(val, 0, min(len(val), _COMPARED)), []
    inputs, targets = [as_model_input(first.inputs)], [first.targets]
    if len(val) < LEAST:
        # Those behind the examples that calibrate, where there are enough.
        start = min(calibrate, max(0, len(train) - (LEAST - len(val))))
        more = _some(train, start, min(len(train), start + LEAST - len(val)))
        inputs, targets = [*inputs, as_model_input(more.inputs)], [*targets, more.targets]
        notices.append(
            f"the validation part has {len(val):,} examples, too few to compare files with their models by: "
            f"{len(more):,} of the training part were added"
        )
    if sum(map(len, inputs)) < LEAST:
        raise InputError(
            "too few examples to compare a file with its model by", given=f"{len(train) + len(val):,} in all",
            expected=f"{LEAST} or more in the training and validation parts together",
        )  # fmt: skip
    labels = None if val.tasks else torch.cat(targets)
    return Material(
        as_model_input(_some(train, 0, min(calibrate, len(train))).inputs), torch.cat(inputs), labels, tuple(notices)
    )


def _some(examples: Examples, start: int, stop: int) -> Examples:
    return examples.take(torch.arange(start, stop))


def facts_for(config: Mapping[str, Any], name: str) -> Facts:
    """What travels inside a student's files.

    Args:
        config: the facts by which the student is built again, as `student.json` keeps them.
        name: what to call it.
    """
    known = config.get("model") is not None and config.keys() <= _BUILDS
    return Facts(
        tuple(map(str, config["classes"])), tuple(map(int, config["input_shape"])),
        str(config["model"]) if known else None, dict(config["args"]) if known else None,
        tuple(config["mean"]) if known else (), tuple(config["std"]) if known else (), name,
        encoding=config.get("encoding"), smaller=(config.get("smaller") or None) if known else None,
        tasks=config.get("tasks"),
    )  # fmt: skip


def _facts(job: Job, student: str, name: str) -> Facts:
    return facts_for({**facts_of_data(job.splits), **job.students[student].config}, name)


# ---- in a run --------------------------------------------------------------------------------------------------------


def rehearse(job: Job, students: Mapping[str, nn.Module]) -> None:
    """Write and ask every format of untrained students, so that what cannot be exported is told before any learns.

    Raises:
        ModelError: a student cannot be written in a format.
        MissingExtraError: a format's package is not installed.
        InputError: there are too few examples.
    """
    if not job.export:
        return
    stuff = material(job.teaching.splits)
    with tempfile.TemporaryDirectory(prefix="tutelage-") as place:
        for how in job.export:
            for name, student in students.items():
                path = Path(place) / f"student{FORMATS[how].suffix}"
                plain = merge(student)
                modes = [(module, module.training) for module in plain.modules()]
                FORMATS[how].write(plain, _facts(job, name, name), stuff.calibration[:_REHEARSED], path)
                for module, mode in modes:
                    module.training = mode
                FORMATS[how].open(path)(stuff.inputs[:2].numpy())


def export_students(job: Job, shop: Workshop, seed: int) -> None:
    """Write the files of a seed's students that are not there yet; what a format's gate refuses is told, not kept.

    Raises:
        DamagedError: a file is not what was written.
        Interrupted: a signal came; the same call goes on.
    """
    folder = shop.folder.path
    todo = {arm: [how for how in job.export if _is_missing(folder, arm, seed, how)] for arm in job.arms}
    count = sum(map(len, todo.values()))
    if shop.device.rank != 0 or not count:
        return
    stuff = material(job.teaching.splits)
    for notice in stuff.notices:
        shop.folder.tell(notice)
    title = f"seed {seed}, files to ship"
    with Meter(title, count, unit="files", tell=shop.folder.tell, quiet=shop.quiet) as meter:
        for arm, formats in todo.items():
            if formats:
                _export_one(job, shop, stuff, (arm, seed), formats, meter)
    shop.folder.tell(f"{title}: {count} written")


def _export_one(
    job: Job, shop: Workshop, stuff: Material, one: tuple[str, int], formats: Sequence[str], meter: Meter
) -> None:
    """The files of one student, from its weights on disk."""
    arm, seed = one
    folder, student = shop.folder.path, job.arms[arm].student
    weights = student_file(folder, arm, seed)
    told = read_facts(weights)
    with torch.random.fork_rng():
        model = job.students[student].anew()
    load_weights(model, weights)
    facts = _facts(job, student, f"{job.name} {arm} seed {seed}")
    for how in formats:
        shop.signals.check()
        meter.note(f"{arm} as {how}")
        found: dict[str, Any] = {"of": told["sha256"]}
        try:
            made = export_model(
                as_learned(model, told, how), facts, student_file(folder, arm, seed, how), how=how,
                calibration=stuff.calibration, inputs=stuff.inputs, targets=stuff.targets,
            )  # fmt: skip
            found |= {"bytes": made.bytes, "parity": asdict(made.parity)}
        except GateError as error:
            found["refused"] = error.problem.what
            shop.folder.tell(f"{arm}, seed {seed}: {error.problem.what}; not kept")
        write_json(_records(weights), {**_read_records(weights), how: found})
        if "refused" not in found:
            write_json(weights.with_name("student.json"), {**_own(weights), f"sha256.{how}": made.sha256})
        meter.advance()


def _is_missing(folder: Path, arm: str, seed: int, how: str) -> bool:
    """Whether a format is still to be tried; what is there must be what was written."""
    weights, file = student_file(folder, arm, seed), student_file(folder, arm, seed, how)
    own = _own(weights)
    if f"sha256.{how}" not in own:
        found = _read_records(weights).get(how, {})
        return "refused" not in found or found.get("of") != own.get("sha256")
    if file.is_file() and sha256(file) != own[f"sha256.{how}"]:
        raise DamagedError(
            f"{file} was altered since it was written", fix="remove it, and the same command writes it again"
        )
    return not file.is_file()


def _own(weights: Path) -> dict[str, Any]:
    return read_json(weights.with_name("student.json"))


def _records(weights: Path) -> Path:
    return weights.with_name("exports.json")


def _read_records(weights: Path) -> dict[str, Any]:
    return read_json(_records(weights)) if _records(weights).is_file() else {}


# ---- in its report ---------------------------------------------------------------------------------------------------


def kept_formats(job: Job, folder: Path, arm: str) -> tuple[str, ...]:
    """Formats in which every seed's student of an arm was kept, so that they stand in the report as a model."""
    return tuple(
        how for how in job.export if all("refused" not in _record(folder, arm, seed, how) for seed in job.seeds)
    )


def export_rows(job: Job, folder: Path) -> list[dict[str, Any]]:
    """What the report says of files that run elsewhere: where they are, what goes in, and how they compare.

    Returns:
        [{name, of, format, line, kept, file, input_shape, preprocessing, runs [{seed, bytes, sha256, parity}
        | {seed, refused}], and encoding where columns are read}]; `file` is that of the first seed, from the run's
        folder.
    """
    rows = []
    for arm, plan in job.arms.items():
        facts, kept = _facts(job, plan.student, arm), kept_formats(job, folder, arm)
        for how in job.export:
            runs = []
            for seed in job.seeds:
                found = _record(folder, arm, seed, how)
                if "refused" in found:
                    runs.append({"seed": seed, "refused": found["refused"]})
                    continue
                total = _own(student_file(folder, arm, seed)).get(f"sha256.{how}")
                runs.append({"seed": seed, "bytes": found["bytes"], "sha256": total, "parity": found["parity"]})
            made = {} if facts.encoding is None else {"encoding": brief_of(facts.encoding)}
            rows.append({
                "name": f"{arm}.{how}", "of": arm, "format": how, "line": FORMATS[how].line, "kept": how in kept,
                "file": student_file(Path(), arm, job.seeds[0], how).as_posix(),
                "input_shape": list(facts.input_shape), "preprocessing": facts.preprocessing, "runs": runs, **made,
            })  # fmt: skip
    return rows


def brief_of(encoding: Mapping[str, Any]) -> dict[str, Any]:
    """What of an encoding a reader of the report needs to know; the whole of it is in the files."""
    kept = ("kind", "columns", "column", "length", "lower", "swap", "vocabulary", "rate", "samples")
    told = {key: encoding[key] for key in kept if key in encoding}
    for key in ("numbers", "categories"):
        if key in encoding:
            told[key] = [part["column"] for part in encoding[key]]
    return told


def refusals(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the run wants read of files that were not kept."""
    return [
        f"{row['of']}, seed {run['seed']}: the file in the format {row['format']} was not kept: {run['refused']}"
        for row in rows
        for run in row["runs"]
        if "refused" in run
    ]


def _record(folder: Path, arm: str, seed: int, how: str) -> dict[str, Any]:
    weights = student_file(folder, arm, seed)
    found = _read_records(weights).get(how)
    if not isinstance(found, dict) or not ("refused" in found or {"bytes", "parity"} <= found.keys()):
        raise DamagedError(
            f"{_records(weights)} does not say how {how} compares with its model",
            fix=f"remove {student_file(folder, arm, seed, how)}, and the same command writes both again",
        )
    return found


# ---- timing ----------------------------------------------------------------------------------------------------------


def side_by_side(models: Mapping[str, nn.Module], inputs: Tensor, **how: Any) -> dict[str, list[Latency]]:
    """`evaluation.cost.latency`; what a runtime outside torch holds in memory is not known, so it is not told."""
    found = latency(models, inputs, **how)
    apart = {name for name, model in models.items() if isinstance(model, RunnerModule)}
    return {
        name: [replace(one, peak_bytes=None) for one in times] if name in apart else times
        for name, times in found.items()
    }
