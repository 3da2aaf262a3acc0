"""Students that end in their teacher's last layer: what they answer, and that what ships needs no teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from companion_parts import CE, KilledError, bits, recipe, teacher_file, teacher_net
from tutelage.data import as_model_input
from tutelage.errors import InputError, ModelError, RecipeError
from tutelage.files import read_json
from tutelage.models import ModelSpec, build, load_weights, parameter_count
from tutelage.models.reuse import HeadFacts, Projector, check_read, reuse_head, with_head
from tutelage.recipe import from_mapping
from tutelage.run import Run, load_student, run_recipe
from tutelage.run.job import job_of_recipe
from tutelage.taps import Taps
from tutelage.training import Arm

OURS, THEIRS = "net.stages.1", "net.stages.2"
HEAD = {"student": OURS, "teacher": THEIRS}


def net(width: int, depth: int) -> nn.Module:
    spec = ModelSpec("cnn", {"width": width, "depth": depth})
    return build(spec, input_shape=(1, 8, 8), classes=10, mean=[0.3], std=[0.4])


def pictures(count: int = 5, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


class Perfect(nn.Module):
    """Projects to what it was told, whatever comes in."""

    def __init__(self, told: Tensor) -> None:
        super().__init__()
        self.told = told

    def forward(self, _: Tensor) -> Tensor:
        return self.told


def test_perfectly_projected_features_give_the_teachers_logits_exactly() -> None:
    teacher, student = net(8, 3).eval(), net(4, 2)
    made, _ = reuse_head(student, teacher, at=(OURS, THEIRS), example=pictures())
    x = pictures(7, seed=1)
    with torch.no_grad(), Taps(teacher, [THEIRS]) as taps:
        logits = teacher(x)
        made.eval().get_submodule(OURS).projector = Perfect(taps.take()[THEIRS])
        assert torch.equal(made(x), logits)


def test_a_projector_has_as_many_parameters_as_published() -> None:
    assert parameter_count(Projector(256, 256, (8, 8), 2)) == 214_016


def test_a_larger_map_is_averaged_to_the_teachers_size_and_a_smaller_one_stays() -> None:
    assert Projector(3, 8, (2, 2), 2)(torch.rand(2, 3, 4, 4)).shape == (2, 8, 2, 2)
    assert Projector(3, 8, (4, 4), 2)(torch.rand(2, 3, 2, 2)).shape == (2, 8, 2, 2)


def test_the_students_own_layers_are_copied_and_the_head_does_not_learn() -> None:
    teacher, student = net(8, 3), net(4, 2)
    before = bits(student.state_dict())
    made, facts = reuse_head(student, teacher, at=(OURS, THEIRS), example=pictures())
    assert bits(student.state_dict()) == before
    assert teacher.training
    assert {name for name, p in made.named_parameters() if not p.requires_grad} == {"net.head.weight", "net.head.bias"}
    assert torch.equal(made.net.head.weight, teacher.net.head.weight)
    assert torch.equal(made.net.stages[0][0].weight, student.net.stages[0][0].weight)
    size = parameter_count(student) - parameter_count(student.net.head) + parameter_count(teacher.net.head)
    assert parameter_count(made) == size + parameter_count(Projector(6, 16, (4, 4), 2))
    assert HeadFacts.of_json(facts.to_json()) == facts


def test_facts_alone_build_it_again() -> None:
    made, facts = reuse_head(net(4, 2), net(8, 3), at=(OURS, THEIRS), example=pictures())
    again = with_head(net(4, 2), facts)
    again.load_state_dict(made.state_dict())
    x = pictures(3, seed=2)
    assert torch.equal(again.eval()(x), made.eval()(x))


class Doubled(nn.Module):
    """Does more than a mean behind its map."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(2.0 * self.stage(x).amax((2, 3)))
        return logits


class Flat(Doubled):
    """Reads its map pixel by pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stage(x).flatten(1))
        return logits


class Headless(Doubled):
    """Ends in something else."""

    def __init__(self) -> None:
        super().__init__()
        self.stage, self.head = nn.Conv2d(1, 10, 3), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.stage(x).mean((2, 3))


@pytest.mark.parametrize(
    ("student", "teacher", "at", "says"),
    [
        (Doubled(), net(8, 3), ("stage", THEIRS), "does more with its layer `stage`"),
        (Flat(), net(8, 3), ("stage", THEIRS), "does more with its layer `stage`"),
        (Headless(), net(8, 3), ("stage", THEIRS), "the student has no last linear layer"),
        (net(4, 2), Doubled(), (OURS, "stage"), "makes other logits of this layer"),
        (net(4, 2), Headless(), (OURS, "stage"), "last linear layer is not known"),
        (net(4, 2), net(8, 3), (OURS, "net.stages.0"), "does not read this layer"),
        (net(4, 2), net(8, 3), ("net.dropout", THEIRS), "puts out no map"),
        (net(4, 2), net(8, 3), ("net.stage.1", THEIRS), "no layer `net.stage.1`"),
        (net(4, 2), net(8, 3), ("net.stages.?", THEIRS), "several"),
    ],
)
def test_what_cannot_end_in_the_teachers_last_layer_says_why(
    student: nn.Module, teacher: nn.Module, at: tuple[str, str], says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        reuse_head(student, teacher, at=at, example=pictures())


def test_a_last_layer_is_found_again_behind_rounding() -> None:
    head = nn.Linear(6, 10)
    feature = torch.rand(4, 6)
    logits = head(feature).detach()
    assert check_read(head, feature, logits.bfloat16()) is head
    with pytest.raises(ModelError, match="apart"):
        check_read(head, feature, logits + 0.2 * (logits.max() - logits.min()))


# ---- in a run --------------------------------------------------------------------------------------------------------


def written(**changes: Any) -> dict[str, Any]:
    arms = {"scratch": [CE], "reused": [{"loss": "hint", "at": {"student": OURS, "teacher": THEIRS}}]}
    student = {"model": "cnn", "args": {"width": 4, "depth": 2}, "head": HEAD}
    return recipe(arms, **{"student": student, **changes})


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    module = teacher_net()
    load_weights(module, teacher_file())
    return module.eval()


def run(out: Path, **changes: Any) -> Run:
    return run_recipe(from_mapping(written(**changes)), out, quiet=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("reused") / "run", compress=["fp16"])


def test_a_recipe_trains_it_and_its_file_loads_without_the_teacher(done: Run, teacher: nn.Module) -> None:
    file, scratch = (load_file(done.student(arm) / "student.safetensors") for arm in ("reused", "scratch"))
    for one in (file, scratch):
        assert torch.equal(one["net.head.weight"], teacher.net.head.weight)
        assert torch.equal(one["net.head.bias"], teacher.net.head.bias)
    assert not torch.equal(*(one[f"{OURS}.projector.layers.0.weight"] for one in (file, scratch)))
    facts = read_json(done.student("reused") / "student.json")
    loaded = load_student(done.student("reused"))
    assert not loaded.training
    assert facts["learned"] == parameter_count(loaded) - parameter_count(loaded.net.head)
    assert bits(loaded.state_dict()) == bits(file)
    # It comes nearer to the teacher, and the last layer is the one by which it was judged.
    curve = facts["curve"]
    assert curve[-1]["loss"] < curve[0]["loss"]
    splits = job_of_recipe(from_mapping(written()), trust=False).splits
    with torch.no_grad():
        right = (loaded(as_model_input(splits.test.inputs)).argmax(-1) == splits.test.targets).double().mean()
    rows = {row["name"]: row for row in done.report["models"]}
    assert rows["reused"]["runs"][0]["metrics"]["accuracy"] == pytest.approx(float(right))


def test_a_kill_changes_nothing(done: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = Arm.learn

    def learns(self: Arm, *arguments: Any, step: int, **keywords: Any) -> None:
        learn(self, *arguments, step=step, **keywords)
        if step == 4:
            raise KilledError

    saved = {**written()["train"], "checkpoint_seconds": 0}
    with monkeypatch.context() as patch:
        patch.setattr(Arm, "learn", learns)
        with pytest.raises(KilledError):
            run(tmp_path / "run", train=saved)
    again = run(tmp_path / "run", train=saved)
    for arm in ("reused", "scratch"):
        one, other = (load_file(which.student(arm) / "student.safetensors") for which in (done, again))
        assert bits(one) == bits(other)


def test_the_report_counts_what_ships(done: Run) -> None:
    rows = {row["name"]: row for row in done.report["models"]}
    loaded = load_student(done.student("reused"))
    assert rows["reused"]["runs"][0]["parameters"] == parameter_count(loaded)
    assert parameter_count(loaded) > parameter_count(net(4, 2)) + parameter_count(Projector(6, 12, (4, 4), 2))
    half = load_student(done.student("reused"), compression="fp16")
    torch.testing.assert_close(half(pictures()), loaded(pictures()), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"student": OURS, "teacher": "net.stages.0"}, "does not read this layer"),
        ({"student": "net.stages.5", "teacher": THEIRS}, "no layer `net.stages.5`"),
    ],
)
def test_a_recipe_says_where_a_head_is_wrong(changes: dict[str, str], says: str) -> None:
    student = {"model": "cnn", "args": {"width": 4, "depth": 2}, "head": changes}
    with pytest.raises((ModelError, InputError), match=says) as caught:
        job_of_recipe(from_mapping(written(student=student)), trust=False)
    assert caught.value.problem.where == "student.head"


def test_a_head_needs_one_teacher_and_no_adapter() -> None:
    base = written()
    del base["teacher"]
    several = {
        name: {"model": "cnn", "args": {"width": width}, "train": {"epochs": 1}} for name, width in (("a", 6), ("b", 8))
    }
    base["arms"] = {"scratch": [CE]}
    with pytest.raises(ModelError, match="last layer of one teacher"):
        job_of_recipe(from_mapping({**base, "teachers": several}), trust=False)
    student = {**written()["student"], "weights": "some.safetensors", "adapter": {"rank": 2}}
    with pytest.raises(RecipeError, match="keeps its own last layer"):
        from_mapping(written(student=student))
