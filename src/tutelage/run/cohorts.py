"""Training one cohort in a run's folder: build the arms, take up a checkpoint, go through the loop."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tutelage.data import Examples, plain_batches
from tutelage.errors import InputError, TrainingError
from tutelage.evaluation.predict import best_of_tasks, predict, task_scores
from tutelage.files import write_bytes
from tutelage.models import state_digest, takes_any_order
from tutelage.recipe import Train
from tutelage.run.armplan import ArmPlan
from tutelage.run.arms import Company, batches_of, make_arm, surroundings
from tutelage.run.energy import EnergyRecord
from tutelage.run.folder import RunFolder
from tutelage.run.job import Job
from tutelage.sources import Peers
from tutelage.teachers import Teacher
from tutelage.training import (
    Arm,
    Checkpoints,
    Cohort,
    Device,
    Listener,
    MetricsFile,
    Progress,
    StopSignals,
    Trackers,
    fit,
    pays_channels_last,
    suits_channels_last,
)
from tutelage.training.device import move
from tutelage.training.loop import Batches as BatchSource
from tutelage.types import Batch

__all__ = ["Workshop", "torch_settings", "train_cohort"]

_PLAIN_BATCH = 512


@dataclass(frozen=True, slots=True, eq=False)
class Workshop:
    """Where a run works: its folder, its device, and what may interrupt it."""

    folder: RunFolder
    device: Device
    signals: StopSignals
    quiet: bool
    trackers: Trackers = field(default_factory=Trackers)

    def plain(self, examples: Examples) -> Iterable[Batch]:
        """The examples in their order, without views."""
        return plain_batches(examples, _PLAIN_BATCH)

    def channels_last(self, module: nn.Module, example: Tensor, train: Train, *, learns: bool) -> bool:
        """Whether to run a module in channels-last order; what was measured is kept for when the run goes on."""
        if not takes_any_order(module):
            return False
        if train.channels_last != "auto":
            return train.channels_last == "on"
        if train.deterministic or self.device.world > 1:
            # The same bits for the same recipe, and the same order in every process: no place for a stopwatch.
            return suits_channels_last(module, example)
        known = self.folder.manifest.setdefault("channels_last", {})
        key = f"{type(module).__name__} {sum(p.numel() for p in module.parameters())} {tuple(example.shape)} {learns}"
        if key not in known:
            known[key] = pays_channels_last(module, example, learns=learns)
            self.folder.save()
        return bool(known[key])


def train_cohort(
    job: Job,
    shop: Workshop,
    *,
    name: str,
    seed: int,
    train: Train,
    teacher: Teacher | None,
    arms: Mapping[str, ArmPlan],
    builds: Mapping[str, Callable[[], nn.Module]],
    recorded: int = 0,
    company: Company | None = None,
    listeners: Sequence[Listener] = (),
) -> dict[str, Arm]:
    """Train arms that see the same batches, from wherever they stand on disk; one student's start from one weight.

    With `recorded`, every epoch's views are one of that many recorded ones.

    Raises:
        TrainingError: a number is not finite (its batch is kept in debug/), or the teacher has changed.
        Interrupted: a signal came; the cohort is saved.
        InputError: peers would be the same student twice.
    """
    company = company or Company()
    batches = batches_of(job, arms, size=train.batch_size, seed=seed, recorded=recorded)
    example = move(next(batches.epoch(0)), shop.device.device)
    around = surroundings(job, arms, example, teacher, company, size=train.batch_size, seed=seed)
    initial: dict[str, tuple[nn.Module, bool]] = {}
    for student in dict.fromkeys(plan.student for plan in arms.values()):
        with torch.random.fork_rng():
            torch.manual_seed(seed + job.students[student].start if student in job.students else seed)
            module = builds[student]().to(shop.device.device)
        initial[student] = module, shop.channels_last(module, example.inputs["x"], train, learns=True)
    _check_peers(arms, {student: module for student, (module, _) in initial.items()})
    made: list[Arm] = []
    for arm_name, plan in arms.items():
        module, last = initial[plan.student]
        made.append(
            make_arm(arm_name, plan, copy.deepcopy(module), teacher, train, shop.device, last, around=around, arms=arms)
        )
    cohort = Cohort(name, seed, made, teacher, company.finished)
    checkpoints = Checkpoints(
        shop.folder.path / "checkpoints" / name,
        seconds=train.checkpoint_seconds,
        tell=shop.folder.tell,
        device=shop.device,
    )
    if checkpoints.restore(cohort, device=shop.device.device):
        total = train.epochs * batches.steps_per_epoch
        shop.folder.tell(f"{name}: continuing at step {cohort.at.step:,}/{total:,}")
    before = teacher.fingerprint() if teacher is not None else None

    val = job.splits.val

    def validate(student: nn.Module) -> dict[str, float]:
        logits = predict(student, shop.plain(val), shop.device.device)
        scores = task_scores(logits, val.labels, val.sizes)
        if company.ranked is not None:
            scores["agreement"] = float((best_of_tasks(logits, val.sizes) == company.ranked).double().mean())
        return scores

    shop.signals.checkpoints = checkpoints if shop.device.rank == 0 else None
    with Progress(shop.folder.tell, quiet=shop.quiet) as progress:
        energy = EnergyRecord(shop.folder, shop.device.device)
        metrics = MetricsFile(shop.folder.path / "metrics.jsonl")
        mine: list[Listener] = [checkpoints, metrics, energy, progress, shop.trackers]
        try:
            fit(
                cohort, batches, validate, shop.device, epochs=train.epochs,
                listeners=[shop.signals, *listeners, *(mine if shop.device.rank == 0 else [])],
            )  # fmt: skip
        except TrainingError:
            _keep_evidence(cohort, batches, shop.folder)
            raise
    if teacher is not None and teacher.fingerprint() != before:
        raise TrainingError(
            "the teacher changed while its students learned",
            given=f"fingerprint {teacher.fingerprint()[:16]}",
            expected=str(before)[:16],
            fix="look for code that trains it, or that updates its buffers",
        )
    return {arm.name: arm for arm in made}


@contextlib.contextmanager
def torch_settings(job: Job) -> Iterator[None]:
    """Threads and determinism as a job asks, and afterwards as they were."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    threads = torch.get_num_threads()
    try:
        torch.use_deterministic_algorithms(job.train.deterministic)
        torch.set_num_threads(job.threads or threads)
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.set_num_threads(threads)


def _check_peers(arms: Mapping[str, ArmPlan], students: Mapping[str, nn.Module]) -> None:
    """Students that start as one and see the same would say the same for ever, and have nothing to tell each other."""
    digests: dict[tuple[str, str], str] = {}
    for arm in arms.values():
        if any(isinstance(source, Peers) for source in arm.objective.sources):
            key = arm.method, state_digest(students[arm.student])
            if key in digests:
                raise InputError(
                    f"the students `{digests[key]}` and `{arm.student}` of arm `{arm.method}` start from the same "
                    "weights, so that as peers they would always say the same",
                    where="students", fix=f"give `{arm.student}` another `start`, such as start: 1",
                )  # fmt: skip
            digests[key] = arm.student


def _keep_evidence(cohort: Cohort, batches: BatchSource, folder: RunFolder) -> None:
    """Write the batch and the weights of a step that failed, for whoever looks for the cause."""
    from safetensors.torch import save

    at = cohort.at
    batch = next(batches.epoch(at.epoch, start=at.within))
    tensors = {"ids": batch.ids, "target": batch.target} | {f"input/{k}": v for k, v in batch.inputs.items()}
    for arm in cohort.arms:
        tensors |= {f"{arm.name}/{name}": value for name, value in arm.student.state_dict().items()}
    path = folder.path / "debug" / f"{cohort.name}-step-{at.step}.safetensors"
    write_bytes(path, save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}))
    folder.tell(f"the batch and the weights of this step are kept in {path}")
