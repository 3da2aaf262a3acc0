"""What the models of a run cost, side by side: from their files, in turns, on one machine."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from tutelage.data.examples import separator_of, vocabulary_of
from tutelage.errors import InputError, ModelError
from tutelage.evaluation.cost import Latency, multiply_adds, parameters
from tutelage.export import Facts, RunnerModule, example_inputs, format_of, open_artifact
from tutelage.files import read_json, read_text
from tutelage.models import ModelSpec, build, load_weights
from tutelage.recipe import Recipe, from_text
from tutelage.report import numbers
from tutelage.run.exports import side_by_side
from tutelage.run.saved import refuse_folds
from tutelage.run.students import load_student, read_facts
from tutelage.run.teacherplan import TeacherPlan
from tutelage.teachers import EnsembleTeacher
from tutelage.teachers.combining import BY_TASK

__all__ = ["Bench", "ColdStart", "Timed", "bench_files", "bench_run"]

_EXAMPLES = 64
_COLD_STARTS = 3
_TEACHER = "teacher"
# What a process does that was just started; it has the paths of the one that asks, so that it finds the same code.
_FRESH = """
import json, pathlib, sys, time
begun = time.perf_counter()
folder, threads, trust, sys.path[:] = json.loads(sys.stdin.read())
import torch
from tutelage.evaluation.memory import high_water
from tutelage.export import example_inputs
from tutelage.files import read_json
from tutelage.run.students import load_student
torch.set_num_threads(threads)
ready = time.perf_counter()
student = load_student(folder, trust=trust)
loaded = time.perf_counter()
facts = read_json(pathlib.Path(folder) / "student.json")
with torch.inference_mode():
    student(torch.from_numpy(example_inputs(facts["input_shape"], facts.get("encoding"), 1)))
answered = time.perf_counter()
print(json.dumps([ready - begun, loaded - ready, answered - loaded, high_water()]))
"""


@final
@dataclass(frozen=True, slots=True)
class ColdStart:
    """A fresh process: from nothing to its first answer. Medians of a few starts."""

    import_s: float  # of torch and tutelage, the same for every model
    load_s: float
    answer_s: float
    process_bytes: int | None  # the most that the whole process had resident; None where nobody tells


@final
@dataclass(frozen=True, slots=True)
class Timed:
    """One model: what it costs to keep and to ask."""

    name: str
    parameters: int | None  # None where only a file's runtime knows
    multiply_adds: int | None  # for one example; likewise
    file_bytes: int
    latency: tuple[Latency, ...]  # by batch size; its ratios are against the teacher
    cold_start: ColdStart | None = None  # where it was asked for, of students


@final
@dataclass(frozen=True, slots=True)
class Bench:
    """The models of one run, the teacher first where it could be built; or files that were exported."""

    folder: Path | None  # None for files alone
    threads: int
    models: tuple[Timed, ...]
    notices: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        models = [asdict(model) for model in self.models]
        folder = None if self.folder is None else str(self.folder)
        return {"folder": folder, "threads": self.threads, "models": models, "notices": list(self.notices)}

    def summary(self) -> str:
        """Tables for a person: what the models are, and what a call costs at every batch size."""
        head = ["model", "parameters", "mult.-adds", "file"]
        lines = numbers.columns([head, *(_kept(model) for model in self.models)])
        for index, first in enumerate(self.models[0].latency):
            lines += ["", f"batch {first.batch}, {numbers.plural(first.n, 'call')} each", *self._asked(index)]
        lines += self._cold()
        lines.append(f"\non this machine's CPU, {numbers.plural(self.threads, 'thread')}, in turns; intervals are 95 %")
        lines.append("memory is that of the weights and of one call, energy that of 1,000 examples")
        if (energy := self.models[0].latency[0].energy) is not None:
            lines.append(f"energy: {energy.words}")
        return "\n".join([*lines, *(f"notice: {text}" for text in self.notices)])

    def _asked(self, index: int) -> list[str]:
        rows = [model.latency[index] for model in self.models]
        estimated = any(row.energy is not None and row.energy.source == "estimate" for row in rows)
        energy = "energy (estimate)" if estimated else "energy"
        head = ["model", "p50 ms", "95 %", "p90", "p95", "faster", "95 %", "memory", energy]
        body = [[model.name, *_spent(row)] for model, row in zip(self.models, rows, strict=True)]
        return numbers.columns([head, *body])

    def _cold(self) -> list[str]:
        rows = [
            [model.name, *(numbers.significant(1e3 * one) for one in (cold.import_s, cold.load_s, cold.answer_s)),
             numbers.size(cold.process_bytes)]
            for model in self.models if (cold := model.cold_start) is not None
        ]  # fmt: skip
        if not rows:
            return []
        head = ["model", "import ms", "load ms", "first answer ms", "process"]
        return ["", f"cold start, medians of {_COLD_STARTS}", *numbers.columns([head, *rows])]


def _kept(model: Timed) -> list[str]:
    counts = [numbers.count(model.parameters), numbers.count(model.multiply_adds)]
    return [model.name, *counts, numbers.size(model.file_bytes)]


def _spent(row: Latency) -> list[str]:
    """The cells of one model at one batch size."""
    p50, low, high, p90 = (numbers.significant(one) for one in (row.p50_ms, row.ci_low_ms, row.ci_high_ms, row.p90_ms))
    p95 = numbers.MISSING if row.p95_ms is None else numbers.significant(row.p95_ms)
    ratio, within = numbers.MISSING, numbers.MISSING
    if row.speed_ratio is not None and row.speed_low is not None and row.speed_high is not None:
        ratio, within = f"{row.speed_ratio:.2f}×", f"{row.speed_low:.2f}…{row.speed_high:.2f}"
    energy = numbers.MISSING if row.energy is None else f"{numbers.significant(row.energy.joules)} J"
    return [p50, f"{low}…{high}", p90, p95, ratio, within, numbers.size(row.peak_bytes), energy]


def bench_run(
    folder: Path | str,
    *,
    batch_sizes: Sequence[int] = (1, 64),
    threads: int = 1,
    seconds: float = 10.0,
    cold: bool = False,
    trust: bool = False,
) -> Bench:
    """Measure the teacher and one student of every arm of a finished run, from their files, in turns.

    Args:
        folder: of the run.
        batch_sizes: examples per call.
        threads: of torch, the same for all.
        seconds: in all, without cold starts.
        cold: whether to start a few fresh processes for every student as well.
        trust: whether code that the run's recipe named may run to build its models.

    Raises:
        InputError: the folder holds no finished run, or an option is out of range.
        ModelError: no model of it can be built again.
        DamagedError: a file is not what it was.
    """
    home = Path(folder).expanduser()
    if not (home / "report.json").is_file():
        raise InputError(f"no finished run in {folder}", expected="a run's folder, with its report.json")
    _check_timing(batch_sizes, threads, seconds)
    refuse_folds(home, read_json(home / "report.json"))
    found = _models(home, trust, threads)
    models = found.models
    if not models:
        raise ModelError(f"no model of {folder} can be built again", given="\n            ".join(found.notices))
    facts = _first_facts(home)
    assert facts is not None
    inputs = _inputs(facts["input_shape"], facts.get("encoding"), batch_sizes)
    # First, while nothing else keeps the machine busy.
    starts, failed = _cold_starts(found.files, threads, trust) if cold else ({}, [])
    spent = side_by_side(models, inputs, batch_sizes=batch_sizes, threads=threads, seconds=seconds, reference=_TEACHER)
    timed = []
    for name in models:
        plain = models[found.origins.get(name, name)]  # an exported file has the model's numbers
        counts = parameters(plain), multiply_adds(plain, inputs[:1])
        timed.append(Timed(name, *counts, found.sizes[name], tuple(spent[name]), starts.get(name)))
    return Bench(home, threads, tuple(timed), (*found.notices, *failed))


def bench_files(
    files: Sequence[Path | str],
    *,
    batch_sizes: Sequence[int] = (1, 64),
    threads: int = 1,
    seconds: float = 10.0,
    trust: bool = False,
) -> Bench:
    """Measure files that were exported, in turns; the first is the one that the others are held against.

    Args:
        files: of any format, for inputs of one shape.
        batch_sizes: examples per call.
        threads: of every runtime.
        seconds: in all.
        trust: whether files may run code that they hold.

    Raises:
        InputError: no such file, one that needs trust, inputs of several shapes, or an option out of range.
        DamagedError, ModelError: a file is not what its name says.
        MissingExtraError: a runtime is not installed.
    """
    _check_timing(batch_sizes, threads, seconds)
    runners = {str(file): open_artifact(file, threads=threads, trust=trust) for file in files}
    told = {name: runner.facts for name, runner in runners.items()}
    if len({(one.input_shape, one.vocabulary) for one in told.values()}) > 1:
        raise InputError(
            "these files take inputs of several shapes, so they cannot be timed side by side",
            given=", ".join(f"{name} {_size(one)}" for name, one in told.items()),
        )
    first = next(iter(told.values()))
    inputs = _inputs(first.input_shape, first.encoding, batch_sizes)
    models = {name: RunnerModule(runner) for name, runner in runners.items()}
    spent = side_by_side(
        models, inputs, batch_sizes=batch_sizes, threads=threads, seconds=seconds, reference=next(iter(models))
    )
    timed = [Timed(name, None, None, Path(name).expanduser().stat().st_size, tuple(spent[name])) for name in models]
    return Bench(None, threads, tuple(timed), ())


def _check_timing(batch_sizes: Sequence[int], threads: int, seconds: float) -> None:
    if not batch_sizes or min(batch_sizes) < 1 or threads < 1 or not seconds > 0:
        raise InputError(
            "these timings cannot be made",
            given=f"batch sizes {tuple(batch_sizes)}, {threads} threads, {seconds} seconds",
            expected="batch sizes and threads ≥ 1, seconds > 0",
        )


def _size(facts: Facts) -> str:
    return f"{facts.input_shape}" + (f" of {facts.vocabulary:,} tokens" if facts.vocabulary else "")


def _inputs(shape: Sequence[int], encoding: Mapping[str, Any] | None, batch_sizes: Sequence[int]) -> torch.Tensor:
    return torch.from_numpy(example_inputs(shape, encoding, max(_EXAMPLES, *batch_sizes)))


def _cold_starts(students: Mapping[str, Path], threads: int, trust: bool) -> tuple[dict[str, ColdStart], list[str]]:
    """Fresh processes in turns, one student in each; and why some have no cold start."""
    seen: dict[str, list[ColdStart]] = {name: [] for name in students}
    failed: dict[str, str] = {}
    for _ in range(_COLD_STARTS):
        for name in [one for one in students if one not in failed]:
            asked = json.dumps([str(students[name].parent.resolve()), threads, trust, sys.path])
            done = subprocess.run(  # noqa: S603  our own text, run by the Python that runs us
                [sys.executable, "-c", _FRESH], input=asked, capture_output=True, text=True, check=False
            )
            if done.returncode:
                why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                failed[name] = f"no cold start of {name}: {why}"
            else:
                seen[name].append(ColdStart(*json.loads(done.stdout.splitlines()[-1])))
    return {name: _median(starts) for name, starts in seen.items() if name not in failed}, list(failed.values())


def _median(starts: Sequence[ColdStart]) -> ColdStart:
    resident = [one.process_bytes for one in starts if one.process_bytes is not None]
    return ColdStart(
        statistics.median(one.import_s for one in starts),
        statistics.median(one.load_s for one in starts),
        statistics.median(one.answer_s for one in starts),
        int(statistics.median(resident)) if resident else None,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """What of a run can be measured."""

    models: Mapping[str, nn.Module]  # by name, the teacher first
    sizes: Mapping[str, int]  # bytes of their files
    files: Mapping[str, Path]  # of the students
    notices: Sequence[str]  # why others are missing
    origins: Mapping[str, str]  # exported file -> the student that it was made from


def _models(home: Path, trust: bool, threads: int) -> _Found:
    """Models by name, and why some are missing."""
    origins: dict[str, str] = {}
    sizes: dict[str, int] = {}
    files: dict[str, Path] = {}
    models: dict[str, nn.Module] = {}
    notices: list[str] = []
    facts = _first_facts(home)
    weights = sorted((home / "teacher").glob("*.safetensors"))
    if weights and facts is not None and facts.get("model") is not None:
        recipe = from_text(read_text(home / "config.yaml"), str(home / "config.yaml"))
        if any(spec.reads for spec in recipe.trusted.values()):
            notices.append("the teacher reads a view of its own, so it cannot be timed on its students' inputs")
        else:
            models[_TEACHER] = _teacher(home, recipe, facts, trust)
            sizes[_TEACHER] = sum(path.stat().st_size for path in weights)
    else:
        notices.append("the teacher came from Python, so it cannot be built from the run's folder")
    for arm in sorted((home / "students").glob("*")):
        seed = min(arm.glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-")), default=None)
        if seed is None:
            continue
        try:
            models[arm.name] = load_student(seed, trust=trust)
            files[arm.name] = seed / "student.safetensors"
            sizes[arm.name] = files[arm.name].stat().st_size
        except ModelError as error:
            notices.append(error.problem.what)
            continue
        known = read_json(seed / "student.json")
        for file in sorted(seed.glob("student.*")):
            how = format_of(file)
            if f"sha256.{how}" not in known:  # the student's own file, or none of this run's
                continue
            name = f"{arm.name}.{how}"
            try:
                read_facts(file)
                models[name] = RunnerModule(open_artifact(file, threads=threads, trust=trust))
            except InputError as error:  # it needs trust, or a package
                notices.append(f"{name} was not timed: {error.problem.what}; {error.problem.fix}")
                continue
            sizes[name], origins[name] = file.stat().st_size, arm.name
    return _Found(models, sizes, files, notices, origins)


def _teacher(home: Path, recipe: Recipe, facts: Mapping[str, Any], trust: bool) -> nn.Module:
    """The teacher of a run from its file, or several as the one that was judged."""
    members = []
    # Where each has a task of its own, in the order of these.
    taught: Mapping[str, int] = facts["tasks"] if recipe.combine and recipe.combine.how == BY_TASK else {}
    for name in taught or recipe.trusted:
        spec, plan = recipe.trusted[name], TeacherPlan(name=name)
        one = build(
            ModelSpec(spec.model, spec.args, None), input_shape=tuple(facts["input_shape"]),
            classes=taught.get(name, len(facts["classes"])), mean=facts["mean"], std=facts["std"],
            vocabulary=vocabulary_of(facts), separator=separator_of(facts), trust=trust, role=plan.title,
        )  # fmt: skip
        load_weights(one, home / "teacher" / f"{plan.slug}.safetensors")
        members.append(one.eval())
    if recipe.combine is None:
        return members[0]
    weights = [recipe.combine.weights[name] for name in recipe.trusted] if recipe.combine.weights else None
    panel = EnsembleTeacher(members, how=recipe.combine.how, weights=weights).panel()
    assert panel is not None
    return panel


def _first_facts(home: Path) -> dict[str, Any] | None:
    """What is known of the first student that can be built again, or else of the first one."""
    found = [read_json(path) for path in sorted(home.glob("students/*/seed-*/student.json"))]
    return next((facts for facts in found if facts.get("model") is not None), found[0] if found else None)
