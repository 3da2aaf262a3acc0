"""The one loop: its events in order, its arms on equal terms, its guards, and its memory of the best epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tutelage.data import Batches, Examples, Views
from tutelage.distiller import Distiller
from tutelage.errors import InputError, Interrupted, TrainingError
from tutelage.losses import cross_entropy, soft_target
from tutelage.objective import Objective, Term
from tutelage.schedules import linear
from tutelage.teachers import ModuleTeacher, Teacher
from tutelage.training import (
    Arm,
    Checkpoints,
    Cohort,
    Listener,
    Moment,
    PlainDevice,
    Stop,
    fit,
    learning_rate,
    make_device,
    make_optimizer,
)
from tutelage.training.optim import optimizer_names, scheduler_names
from tutelage.types import Batch, Outputs

CLASSES = 3


def examples(count: int = 40) -> Examples:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 5, generator=generator)
    return Examples.make(inputs, inputs[:, :3].argmax(-1), ["a", "b", "c"], "toy")


def net(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, CLASSES))


def arm(name: str = "one", *, teacher: Teacher | None = None, objective: Objective | None = None, lr: float = 0.05,
        optimizer: str = "adamw", stop: Stop | None = None, clip: float | None = None, dropout: float = 0.0,
        scheduler: str | None = "cosine", **schedule: object) -> Arm:  # fmt: skip
    student = net(dropout)
    made = make_optimizer(optimizer, student.parameters(), lr=lr)
    rate = learning_rate(scheduler, made, lr=lr, **schedule)  # type: ignore[arg-type]
    return Arm(
        name, Distiller(student, teacher, objective or Objective([cross_entropy])), made, rate, stop=stop, clip=clip
    )


def batches(data: Examples, seed: int = 0) -> Batches:
    return Batches(data, batch_size=8, views=Views(), seed=seed)


def judge(data: Examples):
    def validate(model: nn.Module) -> dict[str, float]:
        model.eval()
        with torch.no_grad():
            logits = model(data.inputs)
        model.train()
        return {
            "accuracy": float((logits.argmax(-1) == data.targets).double().mean()),
            "nll": float(nn.functional.cross_entropy(logits, data.targets)),
        }

    return validate


def train(cohort: Cohort, epochs: int = 3, listeners: tuple[Listener, ...] = ()) -> None:
    data = examples()
    fit(cohort, batches(data, cohort.seed), judge(data), PlainDevice(), epochs=epochs, listeners=listeners)


class Diary(Listener):
    def __init__(self) -> None:
        self.events: list[str] = []

    def on_start(self, cohort: Cohort, at: Moment) -> None:
        self.events.append("start")

    def on_epoch_start(self, cohort: Cohort, at: Moment) -> None:
        self.events.append(f"epoch {at.epoch}")

    def on_step(self, cohort: Cohort, at: Moment) -> None:
        self.events.append(f"step {at.step}/{at.steps}")

    def on_epoch_end(self, cohort: Cohort, at: Moment) -> None:
        self.events.append(f"end of epoch {at.epoch}, {len(cohort.arms[0].curve)} rows")

    def on_end(self, cohort: Cohort, at: Moment) -> None:
        self.events.append("end")


def test_events_come_in_the_order_that_the_docstring_draws() -> None:
    diary = Diary()
    train(Cohort("c", 0, [arm()]), epochs=2, listeners=(diary,))
    steps = [f"step {n}/10" for n in range(1, 11)]
    assert diary.events == [
        "start", "epoch 0", *steps[:5], "end of epoch 1, 1 rows",
        "epoch 1", *steps[5:], "end of epoch 2, 2 rows", "end",
    ]  # fmt: skip


class CountingTeacher:
    """Answers with random but fixed logits, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def answer(self, batch: Batch) -> Outputs:
        self.asked += 1
        return Outputs(batch.inputs["x"][:, :CLASSES] * 3.0)

    def fingerprint(self) -> str:
        return "fixed"

    def to(self, device: torch.device) -> None: ...


def distilling() -> Objective:
    return Objective([Term(soft_target, 0.9, 2.0), Term(cross_entropy, 0.1)])


def test_all_arms_share_one_teacher_pass_and_the_same_batches() -> None:
    teacher, seen = CountingTeacher(), []

    class Spy(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(x.clone())
            return self.inner(x)

    made = []
    for name in ("scratch", "distilled", "other"):
        student = Spy(net())
        optimizer = make_optimizer("sgd", student.parameters(), lr=0.1)
        objective = Objective([cross_entropy]) if name == "scratch" else distilling()
        made.append(
            Arm(name, Distiller(student, teacher, objective), optimizer, learning_rate(None, optimizer, lr=0.1))
        )
    train(Cohort("c", 0, made, teacher), epochs=1)
    assert teacher.asked == 5
    assert len(seen) == 15
    assert all(torch.equal(seen[i], seen[i + 1]) and torch.equal(seen[i], seen[i + 2]) for i in range(0, 15, 3))


def test_no_teacher_is_asked_where_no_arm_listens() -> None:
    teacher = CountingTeacher()
    train(Cohort("c", 0, [arm(teacher=teacher)], teacher), epochs=1)
    assert teacher.asked == 0


def weights(arm: Arm) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in arm.student.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_an_arm_learns_the_same_alone_and_in_company() -> None:
    teacher = CountingTeacher()
    alone, together, company = (arm(n, teacher=teacher, objective=distilling(), dropout=0.5) for n in ("a", "a", "b"))
    train(Cohort("c", 3, [alone], teacher))
    torch.manual_seed(99)  # what the global generator holds must not matter
    train(Cohort("c", 3, [company, together], teacher))
    assert same(weights(alone), weights(together))
    other = arm("a", teacher=teacher, objective=distilling(), dropout=0.5)
    train(Cohort("c", 4, [other], teacher))
    assert not same(weights(alone), weights(other))


def test_a_term_of_weight_zero_leaves_no_trace() -> None:
    teacher = CountingTeacher()
    plain = arm()
    silenced = arm(teacher=teacher, objective=Objective([Term(soft_target, 0.0), Term(cross_entropy)]))
    train(Cohort("c", 0, [plain]))
    train(Cohort("c", 0, [silenced], teacher))
    assert same(weights(plain), weights(silenced))


class StopAt(Listener):
    def __init__(self, step: int, checkpoints: Checkpoints) -> None:
        self.step, self.checkpoints = step, checkpoints

    def on_step(self, cohort: Cohort, at: Moment) -> None:
        if at.step == self.step:
            self.checkpoints.save(cohort)
            raise Interrupted(2, fix="again")


@pytest.mark.parametrize("cut", [1, 4, 5, 6, 13, 15])
@pytest.mark.parametrize(
    ("optimizer", "scheduler", "schedule"),
    [
        ("adamw", "cosine", {"warm_up": 0.2}),
        ("sgd", "OneCycleLR", {"interval": "step", "max_lr": 0.1, "total_steps": 15}),
        ("adagrad", "ReduceLROnPlateau", {"patience": 0}),
    ],
)
def test_a_run_cut_anywhere_ends_with_the_same_bits(
    cut: int, optimizer: str, scheduler: str, schedule: dict[str, object], tmp_path: Path
) -> None:
    def cohort() -> Cohort:
        teacher = CountingTeacher()
        kinds = {"scratch": Objective([cross_entropy]), "distilled": distilling()}
        made = [
            arm(n, teacher=teacher, objective=o, optimizer=optimizer, scheduler=scheduler, dropout=0.3, **schedule)
            for n, o in kinds.items()
        ]
        return Cohort("c", 5, made, teacher)

    straight = cohort()
    train(straight)
    cut_short = cohort()
    checkpoints = Checkpoints(tmp_path, seconds=1e9)
    with pytest.raises(Interrupted):
        train(cut_short, listeners=(StopAt(cut, checkpoints),))
    resumed = cohort()
    assert checkpoints.restore(resumed, device=torch.device("cpu"))
    assert resumed.at.step == cut
    train(resumed)
    for left, right in zip(straight.arms, resumed.arms, strict=True):
        assert same(weights(left), weights(right))
        assert same(left.best, right.best)
        assert left.curve == right.curve


def test_a_finished_cohort_is_not_trained_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, seconds=1e9)
    first = Cohort("c", 0, [arm()])
    train(first, listeners=(checkpoints,))
    again, diary = Cohort("c", 0, [arm()]), Diary()
    checkpoints.restore(again, device=torch.device("cpu"))
    train(again, listeners=(diary,))
    assert diary.events == ["start", "end"]
    assert same(weights(first.arms[0]), weights(again.arms[0]))


def damaged(folder: Path, file: str, how: str) -> None:
    path = folder / file
    raw = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(raw[: len(raw) // 2])
    else:
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped"])
@pytest.mark.parametrize("file", ["model.safetensors", "best.safetensors", "optim.safetensors", "state.json", "DONE"])
def test_a_damaged_checkpoint_is_passed_over_and_said_so(file: str, how: str, tmp_path: Path) -> None:
    said: list[str] = []
    checkpoints = Checkpoints(tmp_path, seconds=1e9, tell=said.append)

    class Keep(Listener):
        def on_step(self, cohort: Cohort, at: Moment) -> None:
            if at.step in (4, 9):
                checkpoints.save(cohort)

    train(Cohort("c", 0, [arm()]), epochs=2, listeners=(Keep(),))
    damaged(tmp_path / "step-0000009", file, how)
    cohort = Cohort("c", 0, [arm()])
    assert checkpoints.restore(cohort, device=torch.device("cpu"))
    assert cohort.at.step == 4
    assert len(said) == 1
    assert "step-0000009 is damaged" in said[0]


def test_only_damaged_checkpoints_are_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, seconds=1e9)
    train(Cohort("c", 0, [arm()]), epochs=1, listeners=(checkpoints,))
    damaged(tmp_path / "step-0000005", "model.safetensors", "truncated")
    with pytest.raises(Exception, match=r"every checkpoint in .* is damaged") as caught:
        checkpoints.restore(Cohort("c", 0, [arm()]), device=torch.device("cpu"))
    assert caught.value.exit_code == 5  # type: ignore[attr-defined]


def test_checkpoints_hold_no_teacher(tmp_path: Path) -> None:
    module = nn.Linear(5, CLASSES)
    teacher = ModuleTeacher(module)
    checkpoints = Checkpoints(tmp_path, seconds=1e9)
    train(
        Cohort("c", 0, [arm("d", teacher=teacher, objective=distilling())], teacher), epochs=1, listeners=(checkpoints,)
    )
    from safetensors import safe_open

    with safe_open(tmp_path / "step-0000005" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert names == {f"d/{name}" for name in net().state_dict()}


def test_a_gradient_that_is_no_number_stops_before_the_weights_are_touched() -> None:
    def poisoned(student_logits: Tensor, target: Tensor) -> Tensor:
        # The square root's derivative at 0 is infinite: a finite loss with a gradient that is not.
        return (student_logits - student_logits.detach()).abs().sum().sqrt() + cross_entropy(student_logits, target)

    broken = arm(objective=Objective([poisoned]))
    before = {name: value.clone() for name, value in broken.student.named_parameters()}
    with pytest.raises(TrainingError, match="gradient of arm `one` is not finite") as caught:
        train(Cohort("c", 0, [broken]))
    assert "step 0" in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in broken.student.named_parameters())


def test_a_loss_that_is_no_number_names_its_parts() -> None:
    def nothing(student_logits: Tensor) -> Tensor:
        return student_logits.sum() * float("nan")

    with pytest.raises(TrainingError, match="loss of arm `one` is not finite") as caught:
        train(Cohort("c", 0, [arm(objective=Objective([Term(nothing), Term(cross_entropy)]))]))
    assert "nothing nan" in str(caught.value)


def test_clipping_bounds_the_gradient() -> None:
    norms: list[float] = []

    class Spy(Listener):
        def on_step(self, cohort: Cohort, at: Moment) -> None:
            grads = [p.grad for p in cohort.arms[0].parameters if p.grad is not None]
            norms.append(float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads]))))

    train(Cohort("c", 0, [arm(clip=0.01)]), epochs=1, listeners=(Spy(),))
    assert max(norms) <= 0.01 * (1 + 1e-5)
    assert max(norms) > 0.0099


def test_the_best_epoch_is_kept_by_validation_and_a_tie_goes_to_the_later() -> None:
    one = arm()
    scores = iter([0.5, 0.8, 0.8, 0.6])
    states: list[dict[str, Tensor]] = []

    def validate(model: nn.Module) -> dict[str, float]:
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"accuracy": next(scores), "nll": 1.0}

    fit(Cohort("c", 0, [one]), batches(examples()), validate, PlainDevice(), epochs=4)
    assert one.best_epoch == 3
    assert same(one.best, states[2])


@pytest.mark.parametrize(
    ("stop", "epochs"),
    [(Stop(patience=2), 4), (Stop(target=0.8), 2), (Stop(metric="nll", patience=1), 3), (Stop(), 6)],
)
def test_early_stopping(stop: Stop, epochs: int) -> None:
    one = arm(stop=stop)
    scores = iter(zip([0.5, 0.8, 0.7, 0.7, 0.9, 0.9], [1.0, 0.9, 0.95, 0.5, 0.4, 0.4], strict=True))

    def validate(_: nn.Module) -> dict[str, float]:
        return dict(zip(("accuracy", "nll"), next(scores), strict=True))

    fit(Cohort("c", 0, [one]), batches(examples()), validate, PlainDevice(), epochs=6)
    assert len(one.curve) == epochs


def test_one_arm_stops_while_the_other_goes_on() -> None:
    early, late = arm("early", stop=Stop(target=0.01)), arm("late")
    train(Cohort("c", 0, [early, late]), epochs=3)
    assert [len(early.curve), len(late.curve)] == [1, 3]


def test_schedules_see_progress() -> None:
    seen: list[float] = []

    def spy(student_logits: Tensor, *, temperature: float) -> Tensor:
        seen.append(temperature)
        return student_logits.square().mean()

    train(Cohort("c", 0, [arm(objective=Objective([Term(spy, temperature=linear(1.0, 2.0))]))]), epochs=2)
    assert seen == pytest.approx([1.0 + step / 10 for step in range(10)])


def test_learning_rates_follow_their_shape() -> None:
    rates: list[float] = []

    class Spy(Listener):
        def on_step(self, cohort: Cohort, at: Moment) -> None:
            rates.append(cohort.arms[0].optimizer.param_groups[0]["lr"])

    train(Cohort("c", 0, [arm(lr=1.0, optimizer="sgd", scheduler="cosine", warm_up=0.5)]), epochs=2, listeners=(Spy(),))
    warm = [0.0, 0.2, 0.4, 0.6, 0.8]
    assert rates == pytest.approx(warm + [0.5 * (1 + math.cos(math.pi * k / 5)) for k in range(5)])


@pytest.mark.parametrize("name", sorted(set(optimizer_names()) - {"sparseadam", "muon"}))
def test_every_optimizer_of_torch_takes_a_step(name: str) -> None:
    one = arm(optimizer=name, lr=0.01)
    before = weights(one)
    train(Cohort("c", 0, [one]), epochs=1)
    assert not same(before, weights(one))


def test_schedulers_that_cannot_stand_in_a_file_are_not_offered() -> None:
    assert {"steplr", "onecyclelr", "cosineannealinglr", "reducelronplateau"} <= set(scheduler_names())
    assert not {"lambdalr", "sequentiallr", "lrscheduler"} & set(scheduler_names())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: make_optimizer("adamv", net().parameters(), lr=0.1), "did you mean `adam"),
        (lambda: make_optimizer("sgd", net().parameters(), lr=0.1, momentun=0.9), "did you mean `momentum`"),
        (lambda: make_optimizer("sgd", net().parameters(), lr=0.1, momentum=-1.0), "refuses its options"),
        (lambda: make_optimizer("muon", net().parameters(), lr=0.1), "only supports 2D parameters"),
        (lambda: arm(scheduler="cosin"), "did you mean `cosine`"),
        (lambda: arm(scheduler="cosine", gamma=2), "takes no options"),
        (lambda: arm(scheduler="StepLR", gamma=0.5), "refuses its options"),
        (lambda: arm(scheduler="StepLR", warm_up=0.1, step_size=1), "warm_up does not go with"),
        (lambda: make_device("cuda"), "CUDA is not available|there is no"),
        (lambda: make_device("gpu0"), "no device `gpu0`"),
    ],
)
def test_wrong_names_are_told_with_a_way_out(make, text: str) -> None:
    if torch.cuda.is_available() and "CUDA" in text:
        pytest.skip("this machine has CUDA")
    with pytest.raises(InputError, match=text):
        make()


def test_low_precision_on_this_device_still_learns() -> None:
    data = examples()
    for precision in ("bf16", "fp16"):
        one = arm()
        device = make_device("cpu", precision=precision)
        one.distiller.student = device.prepare(one.student, one.optimizer)
        fit(Cohort("c", 0, [one]), batches(data), judge(data), device, epochs=8)
        assert one.curve[-1]["loss"] < one.curve[0]["loss"]
        assert all(p.dtype == torch.float32 for p in one.parameters)


def test_batches_are_asked_for_from_where_the_loop_stands() -> None:
    asked: list[tuple[int, int]] = []
    inner = batches(examples())

    class Spy:
        steps_per_epoch = inner.steps_per_epoch

        def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
            asked.append((epoch, start))
            return inner.epoch(epoch, start=start)

    data = examples()
    cohort = Cohort("c", 0, [arm()], at=Moment(epoch=1, within=3, step=8))
    fit(cohort, Spy(), judge(data), PlainDevice(), epochs=3)
    assert asked == [(1, 3), (2, 0)]
    assert cohort.at.step == 15
