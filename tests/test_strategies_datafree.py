"""Distillation without data: the generator, its turn in the loop, and calls that are killed and go on."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from datafree_parts import CLASSES, accuracy, digits, taught
from tutelage.errors import DamagedError, InputError, ModelError, TrainingError
from tutelage.files import read_json
from tutelage.models import state_digest
from tutelage.run.students import load_student
from tutelage.strategies import inventing
from tutelage.strategies.datafree import DataFree, Distilled, distill_without_data
from tutelage.strategies.generators import Generator, Learner
from tutelage.strategies.inventing import Rounds, aimed
from tutelage.strategies.methods import METHODS, Aims, logit_l1, method_by_name, objective_of
from tutelage.training import Checkpoints

SMALL = DataFree(batch_size=16, width=8, noise=8)
STUDENT = {"model": "cnn", "args": {"width": 4, "depth": 1}}
SHAPE = (1, 8, 8)


def distil(out: Path, **changes: object) -> Distilled:
    wanted: dict = {"method": "dafl", "steps": 6, "settings": SMALL, "device": "cpu", **changes}
    return distill_without_data(wanted.pop("teacher", None) or taught(), wanted.pop("student", STUDENT), SHAPE,
                                CLASSES, out=out, **wanted)  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("student.safetensors", "generator.safetensors")}


# ---- the whole way ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_leaves_a_student_that_is_built_again_and_a_teacher_that_is_what_it_was(
    tmp_path: Path, method: str
) -> None:
    teacher = taught()
    before = state_digest(teacher)
    made = distil(tmp_path / "out", teacher=teacher, method=method, steps=12)
    assert state_digest(teacher) == before
    student = load_student(tmp_path / "out")
    assert state_digest(student) == state_digest(made.student)
    assert not made.student.training
    x = digits().test.inputs[:5].float() / 255
    assert torch.equal(student(x), made.student(x))
    facts = read_json(tmp_path / "out" / "student.json")
    assert facts["classes"] == list(CLASSES)
    assert facts["mean"] == pytest.approx([0.3])  # as the teacher's: nobody else knows of the data
    assert facts["data_free"]["method"] == method
    assert [row["val_agreement"] for row in made.curve] == [pytest.approx(made.curve[0]["val_agreement"])]
    inputs = made.generator(torch.randn(3, 8)).detach()
    assert inputs.shape == (3, *SHAPE)
    assert 0.0 <= float(inputs.min()) <= float(inputs.max()) <= 1.0


def test_a_student_of_the_callers_own_is_copied(tmp_path: Path) -> None:
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    before = state_digest(own)
    made = distil(tmp_path / "out", student=own)
    assert state_digest(own) == before
    assert state_digest(made.student) != before
    assert read_json(tmp_path / "out" / "student.json")["model"] is None


def test_features_that_are_no_pictures(tmp_path: Path) -> None:
    teacher, student = (nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3)) for _ in range(2))
    made = distill_without_data(teacher, student, (5,), 3, out=tmp_path / "o", steps=4, settings=SMALL, device="cpu")
    assert made.generator(torch.randn(7, 8)).shape == (7, 5)


def test_the_student_learns_of_data_that_it_never_saw(tmp_path: Path) -> None:
    settings = DataFree(batch_size=32, width=8, lr=0.01, generator_lr=0.005, aims=Aims(1.0, 0.0, 20.0, 1.0))
    student = {"model": "cnn", "args": {"width": 8, "depth": 2}}
    made = distil(tmp_path / "out", student=student, steps=150, settings=settings)
    assert accuracy(taught()) > 0.9
    assert accuracy(made.student) > 0.14  # of ten classes; more takes thousands of steps
    assert made.curve[-1]["val_rarest"] > 0.02


def test_real_examples_may_choose_the_round(tmp_path: Path) -> None:
    made = distil(tmp_path / "out", steps=104, val=digits().val)
    kept = read_json(tmp_path / "out" / "student.json")["kept_epoch"]
    scores = [row["val_accuracy"] for row in made.curve]
    assert len(scores) == 2
    assert scores[kept - 1] == max(scores)


def test_places_of_attention_are_an_ordinary_objective(tmp_path: Path) -> None:
    at = (("net.stages.0", "net.stages.0"),)
    objective = objective_of("zskt", at)
    assert [str(term.name) for term in objective.terms] == ["soft_target", "attention_transfer"]
    assert objective.terms[1].weight(0.0) == 250.0
    made = distil(tmp_path / "out", method="zskt", settings=DataFree(batch_size=16, width=8, noise=8, at=at))
    assert {"soft_target", "attention_transfer"} <= set(made.curve[0])


# ---- killed, and gone on ---------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What ends a process, as far as a test can see."""


@pytest.mark.parametrize(("method", "at"), [("dafl", 1), ("dafl", 4), ("zskt", 10), ("zskt", 11), ("dfad", 5)])
def test_a_killed_call_goes_on_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, at: int
) -> None:
    places = (("net.stages.0", "net.stages.0"),) if method == "zskt" else ()
    asked = {"method": method, "steps": 13, "settings": DataFree(batch_size=16, width=8, noise=8, at=places)}
    distil(tmp_path / "straight", **asked)
    save = Checkpoints.save

    def save_and_die(self: Checkpoints, cohort) -> None:
        save(self, cohort)
        if cohort.at.step == at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(Killed):
            distil(tmp_path / "killed", checkpoint_seconds=0.0, **asked)
    assert not (tmp_path / "killed" / "student.json").exists()
    lines: list[str] = []
    distil(tmp_path / "killed", tell=lines.append, **asked)
    assert f"continuing at step {at}/13" in lines
    assert files(tmp_path / "killed") == files(tmp_path / "straight")


def test_a_finished_call_is_read_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = distil(tmp_path / "out")
    monkeypatch.setattr(inventing.Inventor, "epoch", lambda *_, **__: pytest.fail("learned again"))
    again = distil(tmp_path / "out")
    assert state_digest(again.student) == state_digest(first.student)
    assert state_digest(again.generator) == state_digest(first.generator)
    assert again.curve == first.curve


def test_seeds_differ(tmp_path: Path) -> None:
    distil(tmp_path / "a", seed=0)
    distil(tmp_path / "b", seed=1)
    assert files(tmp_path / "a") != files(tmp_path / "b")


def test_a_learner_goes_on_from_its_state() -> None:
    def learner() -> Learner:
        torch.manual_seed(3)
        return Learner(Generator((1, 6, 5), noise=4, width=4), 0.01)

    def step(one: Learner, number: int) -> None:
        noise = torch.randn(8, 4, generator=torch.Generator().manual_seed(number))
        one.learn(one.module(noise).square().mean(), 0.01)

    straight, stopped = learner(), learner()
    for number in range(6):
        step(straight, number)
    for number in range(3):
        step(stopped, number)
    fresh = learner()
    fresh.load_state_dict({name: value.clone() for name, value in stopped.state_dict().items()})
    for number in range(3, 6):
        step(fresh, number)
    assert state_digest(fresh.module) == state_digest(straight.module)
    untouched = learner()
    untouched.load_state_dict(learner().state_dict())  # of an optimizer that took no step
    for number in range(6):
        step(untouched, number)
    assert state_digest(untouched.module) == state_digest(straight.module)


# ---- the generator's turn --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "turns"), [("dafl", 20), ("zskt", 2), ("dfad", 4)])
def test_how_often_the_generator_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, turns: int
) -> None:
    learn, seen = Learner.learn, []

    def counted(self: Learner, loss: torch.Tensor, rate: float) -> float:
        seen.append(rate)
        return learn(self, loss, rate)

    monkeypatch.setattr(Learner, "learn", counted)
    distil(tmp_path / "out", method=method, steps=20)
    assert len(seen) == turns
    assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize(
    "aims",
    [Aims(sureness=1.0), Aims(balance=1.0), Aims(activation=1.0), Aims(statistics=1.0), Aims(disagreement=1.0),
     Aims(disagreement=1.0, kind="l1"), Aims(disagreement=1.0, kind="js")],
    ids=["sureness", "balance", "activation", "statistics", "kl", "l1", "js"],
)  # fmt: skip
def test_a_generator_gets_better_at_each_aim_and_moves_nobody_else(aims: Aims) -> None:
    teacher, student = taught(), copy.deepcopy(taught())
    with torch.no_grad():
        student.net.head.weight += 0.3 * torch.randn_like(student.net.head.weight)
    student.train()
    before = [state_digest(teacher), state_digest(student)]
    torch.manual_seed(0)
    learner, noise = Learner(Generator(SHAPE, noise=8, width=8), 0.01), torch.randn(32, 8)
    first = float(aimed(aims, learner.module(noise), teacher, student).detach())
    for _ in range(25):
        loss = aimed(aims, learner.module(noise), teacher, student)
        learner.learn(loss, 0.01)
    assert float(loss.detach()) < first - 0.01 * abs(first)
    assert [state_digest(teacher), state_digest(student)] == before
    assert student.training
    assert all(p.grad is None for model in (teacher, student) for p in model.parameters())


def test_logit_l1_is_the_mean_absolute_difference() -> None:
    ours, theirs = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    expected = np.abs(ours.numpy() - theirs.numpy()).mean()
    assert logit_l1(ours, theirs).item() == pytest.approx(expected, abs=1e-12)
    mask = torch.tensor([True, False, True, True])
    assert logit_l1(ours, theirs, mask=mask).item() == pytest.approx(
        np.abs((ours - theirs).numpy()[[0, 2, 3]]).mean(), abs=1e-12
    )


@given(st.integers(1, 5000), st.integers(1, 200))
def test_rounds_hold_all_steps_and_hardly_more(steps: int, longest: int) -> None:
    rounds = Rounds.of(steps, longest)
    assert rounds.steps <= longest
    assert steps <= rounds.count * rounds.steps < steps + rounds.count


@pytest.mark.parametrize("shape", [(3, 7, 9), (1, 28, 28), (2, 1, 3), (6,), (4, 5)], ids=str)
def test_a_generator_fits_every_shape(shape: tuple[int, ...]) -> None:
    assert Generator(shape, noise=4, width=4)(torch.randn(5, 4)).shape == (5, *shape)


# ---- mistakes --------------------------------------------------------------------------------------------------------


def test_a_folder_of_other_settings_or_of_somebody_else_is_refused(tmp_path: Path) -> None:
    distil(tmp_path / "out")
    with pytest.raises(InputError, match="other settings") as caught:
        distil(tmp_path / "out", steps=7)
    assert "steps: 6 → 7" in str(caught.value)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match=r"holds something else\n  given     letter\.txt"):
        distil(tmp_path / "mine")


def test_an_altered_student_is_not_read(tmp_path: Path) -> None:
    distil(tmp_path / "out")
    path = tmp_path / "out" / "student.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedError, match="not what was written"):
        distil(tmp_path / "out")


class Drifting(nn.Module):
    """A teacher that changes while it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        said = self.layer(x.flatten(1))
        with torch.no_grad():
            self.layer.bias.data = self.layer.bias.data + 1e-3
        return said


@pytest.mark.parametrize(
    ("error", "changes", "said"),
    [
        (InputError, {"method": "dream"}, "no data-free method `dream`"),
        (InputError, {"steps": 0}, "steps is out of range"),
        (InputError, {"student": {"model": "cnn", "width": 3}}, "no such student"),
        (ModelError, {"teacher": "cnn"}, "cannot be differentiated"),
        (TrainingError, {"teacher": Drifting(), "student": "mlp"}, "the teacher changed"),
    ],
    ids=["method", "steps", "student", "teacher", "drift"],
)
def test_mistakes(tmp_path: Path, error: type[Exception], changes: dict, said: str) -> None:
    with pytest.raises(error, match=said):
        distil(tmp_path / "out", **changes)


def test_the_teacher_cannot_be_its_own_student(tmp_path: Path) -> None:
    teacher = taught()
    with pytest.raises(InputError, match="the same object"):
        distil(tmp_path / "out", teacher=teacher, student=teacher)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: DataFree(batch_size=1),
        lambda: DataFree(lr=0.0),
        lambda: Aims(balance=-1.0),
        lambda: Generator((), noise=3),
        lambda: method_by_name("dafI"),
    ],
    ids=["batch", "lr", "aim", "shape", "name"],
)
def test_options_out_of_range(mistake) -> None:
    with pytest.raises(InputError):
        mistake()
