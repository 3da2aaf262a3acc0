"""Training one cohort in a run's folder: build the arms, take up a checkpoint, go through the loop."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tutelage.connectors import Listening, connect
from tutelage.data import Batches, Examples, plain_batches
from tutelage.distiller import Distiller
from tutelage.errors import InputError, TrainingError
from tutelage.evaluation.predict import predict, validation_scores
from tutelage.files import write_bytes
from tutelage.objective import Objective
from tutelage.recipe import Train
from tutelage.run.energy import EnergyRecord
from tutelage.run.folder import RunFolder
from tutelage.run.job import ArmPlan, Job
from tutelage.teachers import Teacher
from tutelage.training import (
    Arm,
    Checkpoints,
    Cohort,
    Device,
    Listener,
    MetricsFile,
    Progress,
    Stop,
    StopSignals,
    Trackers,
    fit,
    learning_rate,
    make_optimizer,
    pays_channels_last,
    suits_channels_last,
)
from tutelage.training.device import move
from tutelage.training.optim import LearningRate
from tutelage.types import Batch, Outputs

__all__ = ["Shapes", "Workshop", "check_learning", "make_arm", "torch_settings", "train_cohort"]

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
) -> dict[str, Arm]:
    """Train arms that see the same batches, from wherever they stand on disk; one student's start from one weight.

    With `recorded`, every epoch's views are one of that many recorded ones.

    Raises:
        TrainingError: a number is not finite (its batch is kept in debug/), or the teacher has changed.
        Interrupted: a signal came; the cohort is saved.
    """
    batches = Batches(job.splits.train, batch_size=train.batch_size, views=job.views, seed=seed, recorded=recorded)
    example = move(next(batches.epoch(0)), shop.device.device)
    answer = _answer_with_features(teacher, example, arms)
    initial: dict[str, tuple[nn.Module, bool]] = {}
    for student in dict.fromkeys(plan.student for plan in arms.values()):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = builds[student]().to(shop.device.device)
        initial[student] = module, shop.channels_last(module, example.inputs["x"], train, learns=True)
    made: list[Arm] = []
    for arm_name, plan in arms.items():
        module, last = initial[plan.student]
        shapes = Shapes(example.inputs["x"], answer, seed)
        made.append(
            make_arm(arm_name, plan.objective, copy.deepcopy(module), teacher, train, shop.device, last, shapes=shapes)
        )
    cohort = Cohort(name, seed, made, teacher)
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

    def validate(student: nn.Module) -> dict[str, float]:
        logits = predict(student, shop.plain(job.splits.val), shop.device.device)
        return validation_scores(logits, job.splits.val.targets)

    shop.signals.checkpoints = checkpoints if shop.device.rank == 0 else None
    with Progress(shop.folder.tell, quiet=shop.quiet) as progress:
        energy = EnergyRecord(shop.folder, shop.device.device)
        metrics = MetricsFile(shop.folder.path / "metrics.jsonl")
        mine: list[Listener] = [checkpoints, metrics, energy, progress, shop.trackers]
        try:
            fit(
                cohort, batches, validate, shop.device, epochs=train.epochs,
                listeners=[shop.signals, *(mine if shop.device.rank == 0 else [])],
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


def _answer_with_features(teacher: Teacher | None, example: Batch, arms: Mapping[str, ArmPlan]) -> Outputs | None:
    """What the teacher says of the first batch, where a connector has to know its shapes."""
    matches = any(term.matches for plan in arms.values() for term in plan.objective.terms)
    return teacher.answer(example) if matches and teacher is not None else None


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


def check_learning(train: Train, student: nn.Module) -> None:
    """Refuse an optimizer or a schedule that cannot work before hours are spent on anything else.

    Raises:
        InputError: torch knows no such optimizer or scheduler, or they refuse their options.
    """
    _learning(train, student)


def _learning(train: Train, student: nn.Module) -> tuple[torch.optim.Optimizer, LearningRate]:
    if "lr" in train.optimizer_args:
        raise InputError(
            "the learning rate belongs in `train.lr`", where="train.optimizer_args", given=str(train.optimizer_args)
        )
    optimizer = make_optimizer(train.optimizer, student.parameters(), lr=train.lr, **train.optimizer_args)
    rate = learning_rate(
        train.scheduler, optimizer, lr=train.lr, warm_up=train.warm_up, interval=train.scheduler_interval,
        **train.scheduler_args,
    )  # fmt: skip
    return optimizer, rate


@dataclass(frozen=True, slots=True, eq=False)
class Shapes:
    """What connectors are built from: a real batch, what the teacher says of it, and where their weights start."""

    inputs: Tensor
    answer: Outputs | None
    seed: int


def make_arm(
    name: str,
    objective: Objective,
    student: nn.Module,
    teacher: Teacher | None,
    train: Train,
    device: Device,
    last: bool,
    *,
    shapes: Shapes,
) -> Arm:
    """A student with everything it learns by; connectors of all arms start from the same random numbers."""
    student.to(device.device)
    with torch.random.fork_rng():
        torch.manual_seed(shapes.seed)
        learner = connect(student, objective, shapes.inputs, shapes.answer)
    optimizer, rate = _learning(train, learner)
    stop = Stop(metric=train.stop.metric, patience=train.stop.patience, target=train.stop.target)
    if last:
        learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    distiller = Distiller(device.prepare(learner, optimizer), teacher, objective)
    extras = learner.connectors if isinstance(learner, Listening) else None
    return Arm(name, distiller, optimizer, rate, student=student, extras=extras, clip=train.clip, stop=stop)


def _keep_evidence(cohort: Cohort, batches: Batches, folder: RunFolder) -> None:
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
