"""Judging a run: every student from its file, the teacher beside it, once on the test part; then the report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from tutelage import evaluation
from tutelage.data import Examples, Splits, leaks
from tutelage.evaluation.cost import Latency, multiply_adds, parameters
from tutelage.evaluation.predict import ask, predict
from tutelage.export import RunnerModule, open_artifact
from tutelage.files import sha256
from tutelage.models import load_weights
from tutelage.objective import Objective, Term, title_of
from tutelage.report import write_report
from tutelage.report.artifacts import student_of_columns
from tutelage.run.armplan import ArmPlan
from tutelage.run.cohorts import Workshop
from tutelage.run.evalfiles import Kept, KeptTask, write_eval_file
from tutelage.run.exports import brief_of, export_rows, kept_formats, refusals, side_by_side
from tutelage.run.job import Job
from tutelage.run.pictures import forgotten_pictures
from tutelage.run.robust import Attacks
from tutelage.run.students import learned_of, read_facts, student_file
from tutelage.run.teacher import TeacherInHand
from tutelage.schedules import Schedule
from tutelage.tasks import columns_of
from tutelage.types import Batch
from tutelage.words import COMPANIONS

__all__ = ["describe", "judge"]

_TIMED = 256
# What hubs call the task of a model that reads such inputs.
_KINDS = {
    "tokens": "text-classification", "words": "text-classification", "sound": "audio-classification",
    "waveform": "audio-classification",
}  # fmt: skip
_TRAIN_SAMPLE = 10_000


def judge(job: Job, shop: Workshop, teacher: TeacherInHand, *, wall_seconds: float, command: str) -> dict[str, Any]:
    """Look at the test part, once, and write the report.

    Raises:
        DamagedError: a student's file is not what was saved.
    """
    folder, test = shop.folder.path, job.splits.test
    shop.folder.manifest["test_looks"] += 1
    shop.folder.save()
    module, attacks = teacher.module, Attacks(job, shop)
    judged = _judge_teacher(job, shop, teacher, attacks)
    arms: list[evaluation.Arm] = []
    timed: dict[str, nn.Module] = {}
    learned: dict[str, int | None] = {}
    for name, plan in job.arms.items():
        learned[name] = learned_of(student_file(folder, name, job.seeds[0]))
        exported = kept_formats(job, folder, name)
        for how in ("", *job.compress, *exported):
            students = []
            for seed in job.seeds:
                shop.signals.check()
                one, student = _judge_student(job, shop, attacks, name, seed, how)
                students.append(one)
                if not how:  # a compression changes the file, not the arithmetic: it is as fast
                    timed.setdefault(name, student)
            if how in exported and job.latency:
                file = student_file(folder, name, job.seeds[0], how)
                timed[f"{name}.{how}"] = RunnerModule(open_artifact(file, threads=1, trust=True))
            arms.append(_arm(name, plan, how, students, learned[name]))
    times: Mapping[str, Sequence[Latency]] = {}
    if job.latency:
        models = {"teacher": module, **timed} if module is not None else timed
        # Timed where they will most likely run: on the CPU, whatever trained them.
        batch = next(iter(shop.plain(test))).inputs["x"][:_TIMED].cpu()
        if job.teacher.reads and module is not None:
            own = next(iter(shop.plain(job.for_teacher.splits.test))).inputs["x"][:_TIMED].cpu()
            models["teacher"] = _Shown(module, own)
        times = side_by_side({name: model.to("cpu") for name, model in models.items()}, batch, reference="teacher")
    exports = export_rows(job, folder)
    report = evaluation.scorecard(
        labels=test.targets.numpy(),
        ids=test.ids.numpy(),
        classes=test.classes,
        teacher=judged,
        arms=arms,
        data=_data_facts(job, shop),
        run=evaluation.RunFacts(
            recipe_name=job.name,
            recipe_text=job.config,
            command=command,
            load_snippet=_snippet(job),
            versions=shop.folder.manifest["environment"],
            wall_seconds=wall_seconds,
            deterministic=job.train.deterministic,
            answers=_answers(shop.folder.manifest),
        ),
        latency=times,
        warnings=[*attacks.notices, *refusals(exports)],
        teacher_val_accuracy=teacher.val_accuracy,
        val_labels=job.splits.val.targets.numpy(),
        train_labels=train_sample(job.teaching.splits).targets.numpy(),
        resamples=job.resamples,
        tasks=_tasks(test),
    )
    headline = report["headline"]
    said = {arm.name: [np.asarray(one.logits) for one in arm.students] for arm in arms if arm.name == headline}
    report["pictures"] = forgotten_pictures(test, report["summary"]["forgotten"]["ids"], said)
    if found := {name: count for name, count in learned.items() if count is not None}:
        report["learned"] = found
    if exports:
        report["exports"] = exports
    if teacher.members:
        report["teachers"] = _members(teacher)
    if "energy" in shop.folder.manifest:
        report["energy"] = shop.folder.manifest["energy"]
    write_report(folder, report)
    return report


class _Shown(nn.Module):
    """A teacher that reads another view, timed beside students on as many examples of its own."""

    def __init__(self, module: nn.Module, own: Tensor) -> None:
        super().__init__()
        self.module, self.own = module, own

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.module(self.own[: len(x)])
        return logits


def _arm(
    name: str, plan: ArmPlan, how: str, students: Sequence[evaluation.Judged], learned: int | None
) -> evaluation.Arm:
    """One arm as it was trained, or as one of its formats left it."""
    words = describe(plan.objective) + ("" if learned is None else f"; {learned:,} parameters learned")
    return evaluation.Arm(
        f"{name}.{how}" if how else name, students, plan.objective.distils, f"{words}; {how}" if how else words,
        student=plan.student, method=plan.method, of=name if how else "", compression=how,
    )  # fmt: skip


def _judge_teacher(job: Job, shop: Workshop, teacher: TeacherInHand, attacks: Attacks) -> evaluation.Judged:
    """What the teacher answers, and what it is."""
    answers = _answers_of(job, shop, "teacher", lambda part: ask(teacher.judged, part, shop.device.device))
    return evaluation.Judged(
        logits=answers["test"].main,
        parameters=parameters(teacher.module) if teacher.module is not None else 0,
        file_bytes=sum(file.stat().st_size for file in teacher.files),
        sha256=_digest_of(teacher.files),
        curve=teacher.curve,
        val_logits=answers["val"].main,
        train_logits=answers["train"].main,
        multiply_adds=0 if teacher.module is None else _multiply_adds(job.for_teacher, shop, teacher.module),
        # Who reads another view is not attacked by what students read.
        robust=attacks("teacher", None if job.teacher.reads else teacher.module),
        tasks=answers["test"].further,
    )


def _digest_of(files: Sequence[Path]) -> str:
    """SHA-256 of a file; of several, of their sums one after the other."""
    sums = [sha256(file) for file in files]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest() if sums else ""


def _members(teacher: TeacherInHand) -> list[dict[str, Any]]:
    """Each of several teachers by itself; the models' row is of all together."""
    return [
        {
            "name": name,
            "val_accuracy": one.val_accuracy,
            "parameters": 0 if one.module is None else parameters(one.module),
            "file_bytes": sum(file.stat().st_size for file in one.files),
            "sha256": _digest_of(one.files),
            "training": one.curve,
        }
        for name, one in teacher.members.items()
    ]


def _judge_student(
    job: Job, shop: Workshop, attacks: Attacks, name: str, seed: int, how: str
) -> tuple[evaluation.Judged, nn.Module]:
    """What one student answers, and the student."""
    path = student_file(shop.folder.path, name, seed, how)
    facts = read_facts(path)
    # Built anew and loaded: what is judged is the file, not what happens to be in memory.
    with torch.random.fork_rng():
        student = job.students[job.arms[name].student].anew()
    load_weights(student, student_file(shop.folder.path, name, seed) if how in job.export else path)
    student.to(shop.device.device).eval()
    kept = f"{name}.{how}-seed-{seed}" if how else f"{name}-seed-{seed}"
    if how in job.export:  # of which only its own runtime can say what it answers
        runner = RunnerModule(open_artifact(path, threads=job.threads, trust=True))
        answers = _answers_of(job, shop, kept, lambda part: predict(runner, part, torch.device("cpu")))
    else:
        answers = _answers_of(job, shop, kept, lambda part: predict(student, part, shop.device.device))
    judged = evaluation.Judged(
        logits=answers["test"].main,
        parameters=parameters(student),
        file_bytes=path.stat().st_size,
        sha256=facts["sha256"],
        seed=seed,
        curve=facts["curve"],
        kept_epoch=facts["kept_epoch"],
        val_logits=answers["val"].main,
        train_logits=answers["train"].main,
        multiply_adds=_multiply_adds(job, shop, student),
        robust=None if how in job.export else attacks(kept, student),  # which takes gradients
        tasks=answers["test"].further,
    )
    return judged, student


@dataclass(frozen=True, slots=True, eq=False)
class _Said:
    """A model's logits on one part: of the main task, and of the others."""

    main: ArrayLike
    further: Mapping[str, ArrayLike]


def _answers_of(job: Job, shop: Workshop, name: str, answer: Callable[[Iterable[Batch]], Tensor]) -> dict[str, _Said]:
    """A model's logits by part, kept as `<name>.npz`, `<name>-val.npz` and `<name>-train.npz`.

    The validation part is there to fit a temperature, which must not be fitted on the part that judges it; a fixed
    sample of the training part, to tell whether a student agrees with its teacher only where it was shown how.
    """
    found: dict[str, _Said] = {}
    for key, part in (("test", job.splits.test), ("val", job.splits.val), ("train", train_sample(job.teaching.splits))):
        logits = answer(shop.plain(part)).numpy()
        each = {task: logits[:, start:stop] for task, (start, stop) in columns_of(part.sizes).items()}
        main = each.pop(part.task)
        further = {task: KeptTask(own.targets.numpy(), each[task], own.classes) for task, own in part.tasks.items()}
        ending = "" if key == "test" else f"-{key}"
        kept = Kept(part.ids.numpy(), part.targets.numpy(), main, further)
        write_eval_file(shop.folder.path / "eval" / f"{name}{ending}.npz", kept)
        found[key] = _Said(main, each)
    return found


def _tasks(test: Examples) -> evaluation.TaskFacts | None:
    """What models are asked beside the main task; None where that is all."""
    further = {name: (task.targets.numpy(), task.classes) for name, task in test.tasks.items()}
    return evaluation.TaskFacts(test.task, further, questions=test.separator > 0) if further else None


def train_sample(splits: Splits) -> Examples:
    """The first training examples in the order of their ids, which are hashes: a sample, and always the same one."""
    return splits.train.take(torch.arange(min(_TRAIN_SAMPLE, len(splits.train))))


def _multiply_adds(job: Job, shop: Workshop, module: nn.Module) -> int:
    """Of one example; 0 where the counter meets an operation that it cannot follow."""
    home = next((one.device for one in module.parameters()), shop.device.device)  # a rule has no parameters
    example = next(iter(shop.plain(job.splits.test))).inputs["x"][:1].to(home)
    try:
        return multiply_adds(module, example)
    except (RuntimeError, NotImplementedError):
        return 0


def describe(objective: Objective) -> str:
    """An objective in words: `0.9 · soft_target (T = 4) + 0.1 · cross_entropy`."""
    words = []
    for term in objective.terms:
        weight = term.weight.name if isinstance(term.weight, Schedule) else f"{term.weight:g}"
        text = title_of(term.loss) if weight == "1" else f"{weight} · {title_of(term.loss)}"
        extra = [f"T = {term.temperature.name}"] if isinstance(term.temperature, Schedule) else []
        extra += [f"{key} = {_shown(value)}" for key, value in term.options.items()]
        extra += [f"at {p.student}" if p.student == p.teacher else f"{p.student} → {p.teacher}" for p in term.places]
        extra += [f"gradient of {term.gradient}"] if term.slopes("student") or term.slopes("teacher") else []
        extra += [f"{term.attack}"] if term.attack is not None else []
        extra += [f"from {term.speaker}"] if term.speaker is not None else []
        extra += [f"of {term.task}"] if term.task is not None else []
        extra += [f"{key} {value}" for key, value in term.companion.items() if value != _defaults(term).get(key)]
        words.append(text + (f" ({', '.join(extra)})" if extra else ""))
    return " + ".join(words)


def _defaults(term: Term) -> dict[str, object]:
    """The settings of what learns along for a term, as they are where nobody names them."""
    return {key: value for word in term.companions for key, value in COMPANIONS[word].settings.items()}


def _shown(value: object) -> str:
    """An option in words; of many numbers how far they reach."""
    if isinstance(value, Tensor) and value.numel() > 1:
        return f"{float(value.min()):.3g}…{float(value.max()):.3g}"
    return f"{value}"


def _data_facts(job: Job, shop: Workshop) -> evaluation.DataFacts:
    splits = job.splits
    # What has no label is of no class.
    parts = {"train": job.teaching.splits.train, "val": splits.val, "test": splits.test}
    kind = str(splits.train.encodings.get(splits.train.reads, {}).get("kind"))
    return evaluation.DataFacts(
        name=splits.train.name,
        counts={n: torch.bincount(p.targets, minlength=len(p.classes)).tolist() for n, p in parts.items()},
        fingerprint=splits.fingerprint,
        test_sha256=splits.test.fingerprint,
        test_looks=shop.folder.manifest["test_looks"],
        shared_examples=sum(leaks(splits).values()),
        task="question-answering"
        if splits.test.separator
        else _KINDS.get(kind, "image-classification" if splits.train.is_image else "tabular-classification"),
        unlabelled=len(splits.train) - len(parts["train"]),
    )


def _answers(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the report says of a store, or of all stores of several teachers: all but where on this machine they lie."""
    stores = [manifest["store"]] if "store" in manifest else list(manifest.get("stores", {}).values())
    if not stores:
        return None
    sums = {key: sum(one[key] for one in stores) for key in ("rows", "asked", "seconds", "bytes")}
    words = {key: ", ".join(dict.fromkeys(str(one[key]) for one in stores)) for key in ("key", "codec")}
    return {**words, **sums, "views": stores[0]["views"]}


def _snippet(job: Job) -> str:
    """How to load the headline's first student, from the folder of the run, wherever that was moved to."""
    headline = next((name for name, arm in job.arms.items() if arm.objective.distils), next(iter(job.arms)))
    path = student_file(Path(), headline, job.seeds[0])
    if job.students[job.arms[headline].student].config.get("model") is None:
        return (
            "from safetensors.torch import load_file\n\n"
            "student = ...  # built by your own code\n"
            f'student.load_state_dict(load_file("{path}"))'
        )
    made = job.splits.train.encodings.get(job.splits.train.reads)
    if made is not None and made["kind"] != "picture":
        return student_of_columns(path.parent.as_posix(), brief_of(made))
    shape = ", ".join(str(size) for size in job.splits.train.shape)
    return (
        "import torch\nfrom tutelage.run import load_student\n\n"
        f'student = load_student("{path.parent}")\n'
        f"logits = student(torch.rand(1, {shape}))  # values in [0, 1]; the normalisation is inside"
    )
