"""A method as a sentence: what terms read, how they add up, how they move, and what one step of a distiller is."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tutelage.distiller import Distiller
from tutelage.errors import InputError, ModelError
from tutelage.losses import cross_entropy, decoupled, hard_label, soft_target
from tutelage.losses.targets import top_k
from tutelage.models import ModelSpec, build
from tutelage.objective import Loss, Objective, Term
from tutelage.schedules import (
    Schedule,
    as_schedule,
    constant,
    cosine,
    is_constant,
    linear,
    piecewise,
    warm_up,
)
from tutelage.teachers import ModuleTeacher, TableTeacher
from tutelage.types import Batch, Logits, Outputs

STUDENT = torch.tensor([[1.0, 2.0, 0.5, 0.0], [0.5, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
TEACHER = torch.tensor([[3.0, 1.0, 0.2, -1.0], [0.0, 2.0, 1.0, 0.0], [-1.0, 0.0, 1.0, 2.0]])
LABELS = torch.tensor([0, 1, 3])
CLASSES = 4


def batch(target: Tensor = LABELS) -> Batch:
    x = torch.rand(len(target), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batch(torch.arange(len(target)), {"x": x}, target)


def student() -> Tensor:
    return STUDENT.clone().requires_grad_()


def add_up(
    terms: Sequence[Term | Loss],
    logits: Tensor | None = None,
    *,
    teacher: Logits | None = TEACHER,
    target: Tensor = LABELS,
    progress: float = 0.0,
):
    answer = None if teacher is None else Outputs(teacher)
    return Objective(terms)(Outputs(STUDENT if logits is None else logits), answer, batch(target), progress=progress)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    spec = ModelSpec("cnn", {"width": 4, "depth": 1})
    return build(spec, input_shape=(1, 8, 8), classes=CLASSES, mean=[0.5], std=[0.3])


# Schedules


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (constant(3.0), [3.0, 3.0, 3.0, 3.0, 3.0]),
        (linear(4.0, 1.0), [4.0, 3.25, 2.5, 1.75, 1.0]),
        (cosine(4.0, 0.0), [4.0, 2 + math.sqrt(2), 2.0, 2 - math.sqrt(2), 0.0]),
        (warm_up(2.0, 0.5), [0.0, 1.0, 2.0, 2.0, 2.0]),
        (warm_up(2.0, 1.0), [0.0, 0.5, 1.0, 1.5, 2.0]),
        (piecewise([(0.25, 1.0), (0.5, 3.0), (1.0, 2.0)]), [1.0, 1.0, 3.0, 2.5, 2.0]),
        (piecewise([(0.5, 7.0)]), [7.0, 7.0, 7.0, 7.0, 7.0]),
    ],
    ids=lambda value: value.name if isinstance(value, Schedule) else "",
)
def test_schedules_take_the_values_that_they_name(schedule: Schedule, expected: list[float]) -> None:
    assert [schedule(quarter / 4) for quarter in range(5)] == pytest.approx(expected, abs=1e-12)
    # Outside training they stay where they were, so a step too many does no harm.
    assert schedule(-1.0) == schedule(0.0)
    assert schedule(2.0) == schedule(1.0)


number = st.floats(-100.0, 100.0)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(number, number, st.floats(0.01, 1.0), st.floats(0.0, 1.0))
def test_schedules_stay_within_the_bounds_that_they_state(a: float, b: float, until: float, progress: float) -> None:
    middle = piecewise([(0.0, a), (until, b)])
    for schedule in (constant(a), linear(a, b), cosine(a, b), warm_up(a, until), middle):
        assert schedule.least - 1e-9 <= schedule(progress) <= schedule.greatest + 1e-9
        if is_constant(schedule):
            assert schedule(progress) == pytest.approx(schedule(0.0), abs=1e-12)


def test_a_weight_that_falls_to_zero_arrives_there_exactly() -> None:
    # Exactly 0 is what leaves a term out, so rounding must not leave a trace of it.
    for start in (0.1, 0.3, 0.7, 1.1, 9.0):
        assert linear(start, 0.0)(1.0) == 0.0
        assert cosine(start, 0.0)(1.0) == 0.0
        assert warm_up(start, 0.2)(0.0) == 0.0


def test_a_number_is_a_schedule_that_does_not_move() -> None:
    assert is_constant(as_schedule(2))
    assert as_schedule(2)(0.7) == 2.0
    moving = linear(1.0, 2.0)
    assert as_schedule(moving) is moving
    assert not is_constant(moving)
    assert is_constant(linear(2.0, 2.0))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: constant(math.nan), "finite numbers"),
        (lambda: constant(math.inf), "finite numbers"),
        (lambda: as_schedule(True), "finite numbers"),
        (lambda: as_schedule("2"), "finite numbers"),  # type: ignore[arg-type]
        (lambda: linear(0.0, math.nan), "finite numbers"),
        (lambda: warm_up(1.0, 0.0), "until=0.0"),
        (lambda: warm_up(1.0, 1.5), "until=1.5"),
        (lambda: piecewise([]), "must rise"),
        (lambda: piecewise([(0.5, 1.0), (0.5, 2.0)]), "must rise"),
        (lambda: piecewise([(0.6, 1.0), (0.5, 2.0)]), "must rise"),
        (lambda: piecewise([(0.0, 1.0), (1.1, 2.0)]), "must rise"),
    ],
)
def test_schedules_that_cannot_be_are_refused(make: Callable[[], Schedule], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        make()
    assert caught.value.problem.given
    assert caught.value.problem.expected


# Terms


def test_a_term_reads_what_its_parameters_name() -> None:
    assert Term(cross_entropy).needs == ("student_logits", "target")
    assert Term(soft_target).needs == ("student_logits", "teacher_logits")
    assert Term(decoupled).needs == ("student_logits", "teacher_logits", "labels")

    def own(labels: Tensor, student_logits: Tensor, *, power: float = 1.0) -> Tensor:
        return (student_logits.mean(-1) - labels).abs().pow(power).mean()

    term = Term(own, options={"power": 2.0}, name="mine")
    assert (term.name, term.needs) == ("mine", ("labels", "student_logits"))
    step = add_up([term])
    assert float(step.loss) == pytest.approx(float(own(LABELS, STUDENT, power=2.0)))
    assert set(step.parts) == {"mine"}


def test_a_term_keeps_its_options_to_itself() -> None:
    options = {"alpha": 2.0}
    term = Term(decoupled, options=options)
    options["alpha"] = 5.0
    assert term.options == {"alpha": 2.0}


def test_a_term_knows_whether_it_moves() -> None:
    assert not Term(soft_target, 0.5, 4.0).moves
    assert not Term(soft_target, linear(1.0, 1.0)).moves
    assert Term(soft_target, linear(0.0, 1.0)).moves
    assert Term(soft_target, temperature=cosine(8.0, 1.0)).moves
    assert Objective([cross_entropy, Term(soft_target, warm_up(1.0, 0.1))]).moves
    assert not Objective([cross_entropy, soft_target]).moves


def _reads_elsewhere(student_logits: Tensor, teacher_logit: Tensor) -> Tensor:
    return student_logits.sum() + teacher_logit.sum()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Term(_reads_elsewhere), "reads `teacher_logit`, which no step provides"),
        (lambda: Term(decoupled, options={"gamma": 1.0}), "no option `gamma`"),
        (lambda: Term(cross_entropy, temperature=4.0), "`cross_entropy` has no temperature"),
        (lambda: Term(soft_target, temperature=0.0), "must stay above 0"),
        (lambda: Term(soft_target, temperature=linear(4.0, 0.0)), "must stay above 0"),
        (lambda: Term(soft_target, math.nan), "finite numbers"),
        (lambda: Objective([]), "at least one term"),
    ],
)
def test_sentences_that_make_no_sense_are_refused_before_training(make: Callable[[], object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


# Adding up


def test_the_total_is_the_weighted_sum_of_the_parts() -> None:
    step = add_up([Term(cross_entropy, 0.1), Term(soft_target, 0.9, 4.0)])
    assert float(step.parts["cross_entropy"]) == pytest.approx(1.214154, abs=1e-6)
    assert float(step.parts["soft_target"]) == pytest.approx(0.437174, abs=1e-6)
    assert float(step.loss) == pytest.approx(0.514872, abs=1e-6)


def test_parts_carry_no_graph_and_the_total_does() -> None:
    logits = student()
    step = add_up([Term(cross_entropy, 0.1), Term(soft_target, 0.9)], logits)
    assert all(not part.requires_grad for part in step.parts.values())
    step.loss.backward()
    assert logits.grad is not None
    expected = student()
    (0.1 * cross_entropy(expected, LABELS) + 0.9 * soft_target(expected, TEACHER)).backward()
    assert torch.equal(logits.grad, expected.grad)


def test_terms_of_one_name_are_told_apart() -> None:
    objective = Objective([Term(soft_target, 0.5, 1.0), cross_entropy, Term(soft_target, 0.5, 4.0)])
    assert objective.names == ("soft_target-1", "cross_entropy", "soft_target-2")
    step = objective(Outputs(STUDENT), Outputs(TEACHER), batch())
    assert float(step.parts["soft_target-1"]) == pytest.approx(0.400098, abs=1e-6)
    assert float(step.parts["soft_target-2"]) == pytest.approx(0.437174, abs=1e-6)


def test_without_a_temperature_a_loss_keeps_its_own() -> None:
    assert torch.equal(add_up([soft_target]).loss, soft_target(STUDENT, TEACHER))
    assert torch.equal(add_up([Term(soft_target, temperature=2.0)]).loss, soft_target(STUDENT, TEACHER, temperature=2))


def test_weight_and_temperature_follow_progress() -> None:
    terms = [Term(soft_target, linear(0.0, 2.0), cosine(8.0, 1.0))]
    for progress, weight, temperature in ((0.5, 1.0, 4.5), (1.0, 2.0, 1.0)):
        step = add_up(terms, progress=progress)
        expected = soft_target(STUDENT, TEACHER, temperature=temperature)
        assert float(step.parts["soft_target"]) == pytest.approx(float(expected))
        assert float(step.loss) == pytest.approx(weight * float(expected))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_term_of_weight_zero_is_left_out_to_the_last_bit(place: int) -> None:
    def trap(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        raise AssertionError("it must not be computed")

    plain = [Term(cross_entropy, 0.3), Term(soft_target, 0.7)]
    with_zero = [*plain[:place], Term(trap, 0.0), *plain[place:]]
    one, other = student(), student()
    expected, found = add_up(plain, one), add_up(with_zero, other)
    expected.loss.backward()
    found.loss.backward()
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(other.grad, one.grad)
    assert found.parts.keys() == expected.parts.keys()


def test_a_single_term_of_weight_one_is_the_loss_itself() -> None:
    assert torch.equal(add_up([cross_entropy], teacher=None).loss, cross_entropy(STUDENT, LABELS))


def test_when_every_weight_is_zero_just_now_the_step_is_a_zero_with_a_graph() -> None:
    logits = student()
    step = add_up([Term(soft_target, warm_up(1.0, 0.5))], logits, progress=0.0)
    assert float(step.loss.detach()) == 0.0
    assert step.parts == {}
    step.loss.backward()
    assert torch.equal(logits.grad, torch.zeros_like(STUDENT))


def test_needs_say_what_must_be_there_before_anything_runs() -> None:
    assert Objective([cross_entropy]).needs == {"student_logits", "target"}
    assert not Objective([cross_entropy]).needs_teacher
    assert Objective([cross_entropy, hard_label]).needs_teacher


def test_a_missing_teacher_is_said_so() -> None:
    with pytest.raises(InputError, match="there is no teacher"):
        add_up([soft_target], teacher=None)


def test_mixed_examples_have_targets_but_no_labels() -> None:
    mixed = torch.nn.functional.one_hot(LABELS, CLASSES).float() * 0.7 + 0.3 / CLASSES
    assert torch.equal(add_up([cross_entropy], target=mixed).loss, cross_entropy(STUDENT, mixed))
    with pytest.raises(InputError, match="mixed examples have none") as caught:
        add_up([decoupled], target=mixed)
    assert "mixup" in str(caught.value)


def test_a_teacher_may_answer_with_its_largest_logits() -> None:
    kept = top_k(TEACHER, 2, temperature=4.0)
    step = add_up([soft_target], teacher=kept)
    assert torch.equal(step.loss, soft_target(STUDENT, kept))
    assert float(step.loss) < float(soft_target(STUDENT, TEACHER))


# The distiller


def test_one_step_is_the_objective_on_both_answers() -> None:
    learner, teacher, examples = net(1), net(2), batch()
    distiller = Distiller(learner, teacher, [Term(soft_target, 0.9, 4.0), Term(cross_entropy, 0.1)])
    distiller.eval()
    step = distiller(examples)
    x = examples.inputs["x"]
    expected = 0.9 * soft_target(learner(x), teacher(x)) + 0.1 * cross_entropy(learner(x), LABELS)
    assert float(step.loss.detach()) == pytest.approx(float(expected.detach()))
    step.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.parameters())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_only_the_student_is_registered() -> None:
    learner, teacher = net(1), net(2)
    distiller = Distiller(learner, teacher, [soft_target])
    assert set(distiller.state_dict()) == {f"student.{name}" for name in learner.state_dict()}
    ours = {id(parameter) for parameter in distiller.parameters()}
    assert ours == {id(parameter) for parameter in learner.parameters()}
    assert all(module is not teacher for module in distiller.modules())
    other = Distiller(net(3), None, [cross_entropy])
    other.load_state_dict(distiller.state_dict())
    assert torch.equal(other.student(batch().inputs["x"]), learner(batch().inputs["x"]))


def test_train_mode_is_the_student_s_alone() -> None:
    learner, teacher = net(1), net(2)
    distiller = Distiller(learner, teacher, [soft_target])
    distiller.train()
    distiller(batch()).loss.backward()
    assert learner.training
    assert not any(module.training for module in teacher.modules())


def test_a_training_changes_the_student_and_not_one_bit_of_the_teacher() -> None:
    learner, teacher = net(1), net(2)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    first = {name: value.clone() for name, value in learner.state_dict().items()}
    distiller = Distiller(learner, teacher, [soft_target, cross_entropy])
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        distiller.train()
        teacher.train()  # somebody's loop that puts everything in train mode
        step = distiller(batch())
        step.loss.backward()
        optimizer.step()
        losses.append(float(step.loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(not torch.equal(value, first[name]) for name, value in learner.named_parameters())


def test_the_teacher_follows_to_another_device() -> None:
    # "meta" is a device that every machine has.
    module = net(2)
    distiller = Distiller(net(1), module, [soft_target]).to("meta")
    assert {p.device.type for p in distiller.student.parameters()} == {"meta"}
    assert {p.device.type for p in module.parameters()} == {"meta"}
    table = TableTeacher(torch.arange(3), TEACHER)
    Distiller(net(1), table, [soft_target]).to("meta")
    assert table._ids.device.type == table._logits.device.type == "meta"


def test_precision_of_the_student_is_not_the_teacher_s() -> None:
    module = net(2)
    distiller = Distiller(net(1), module, [soft_target]).double()
    assert {p.dtype for p in distiller.student.parameters()} == {torch.float64}
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_progress_is_required_where_something_moves() -> None:
    moving = Distiller(net(1), net(2), [Term(soft_target, linear(0.0, 1.0))])
    with pytest.raises(InputError, match="no progress") as caught:
        moving(batch())
    assert "progress=step / total_steps" in str(caught.value)
    assert float(moving(batch(), progress=0.0).loss.detach()) == 0.0
    assert float(moving(batch(), progress=1.0).loss.detach()) > 0.0
    still = Distiller(net(1), net(2), [Term(soft_target, 0.5, 2.0)])
    assert torch.equal(still.eval()(batch()).loss, still(batch(), progress=0.9).loss)


class _Counting:
    """A teacher that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def answer(self, batch: Batch) -> Outputs:
        self.asked += 1
        return Outputs(TEACHER)

    def fingerprint(self) -> str:
        return "counting"

    def to(self, device: torch.device) -> None:
        pass


def test_a_teacher_is_asked_only_where_somebody_listens() -> None:
    teacher = _Counting()
    learner = net(1).eval()
    Distiller(learner, teacher, [cross_entropy])(batch())
    assert teacher.asked == 0
    listening = Distiller(learner, teacher, [soft_target])
    asked = listening(batch())
    assert teacher.asked == 1
    # An answer that the caller has already is used in place of another pass.
    given = listening(batch(), answer=Outputs(TEACHER))
    assert teacher.asked == 1
    assert torch.equal(given.loss, asked.loss)
    assert torch.equal(
        Distiller(learner, None, [cross_entropy])(batch()).loss, cross_entropy(learner(batch().inputs["x"]), LABELS)
    )


def test_an_objective_that_reads_a_teacher_needs_one() -> None:
    with pytest.raises(InputError, match="reads a teacher, but none was given"):
        Distiller(net(1), None, [cross_entropy, soft_target])
    with pytest.raises(InputError, match="cannot be a teacher") as caught:
        Distiller(net(1), "resnet", [soft_target])  # type: ignore[arg-type]
    assert "answer(batch)" in str(caught.value)


def test_a_student_must_answer_with_logits() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(ModelError, match="student does not answer with logits") as caught:
        Distiller(Pair(), None, [cross_entropy])(batch())
    assert caught.value.problem.given == "tuple"


def test_the_student_reads_the_view_that_it_is_told() -> None:
    examples = batch()
    both = Batch(examples.ids, {"x": examples.inputs["x"], "small": examples.inputs["x"] * 0.5}, LABELS)
    learner = net(1).eval()
    teacher = ModuleTeacher(net(2))
    distiller = Distiller(learner, teacher, [soft_target], view="small")
    expected = soft_target(learner(both.inputs["small"]), teacher.module(both.inputs["x"]))
    assert torch.equal(distiller(both).loss, expected)


def test_names_of_terms_are_distinct() -> None:
    def a(student_logits: torch.Tensor) -> torch.Tensor:
        return student_logits.mean()

    objective = Objective([Term(a), Term(a), Term(a, name="a-2")])
    assert len(set(objective.names)) == 3
    assert objective.names[2] == "a-2"


def test_partials_and_modules_are_losses_too() -> None:
    class Loss(torch.nn.Module):
        def forward(self, student_logits: torch.Tensor) -> torch.Tensor:
            return student_logits.mean()

    assert Term(functools.partial(soft_target, temperature=2.0)).name == "soft_target"
    assert Term(Loss()).name == "Loss"


def test_a_temperature_is_no_option() -> None:
    with pytest.raises(InputError, match=r"give it to the term"):
        Term(soft_target, options={"temperature": 8.0})


def test_a_student_cannot_teach_itself() -> None:
    net = torch.nn.Linear(3, 2)
    with pytest.raises(InputError, match="the same object"):
        Distiller(net, net, [soft_target])


def test_an_unknown_view_is_told_with_the_known_ones() -> None:
    distiller = Distiller(torch.nn.Linear(3, 2), None, [cross_entropy], view="y")
    batch = Batch(torch.arange(2), {"x": torch.zeros(2, 3)}, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InputError, match=r"no view `y`(.|\n)*given +x"):
        distiller(batch)


def test_a_point_is_a_pair() -> None:
    with pytest.raises(InputError, match="is a pair"):
        piecewise([(0.0,)])  # type: ignore[list-item]
