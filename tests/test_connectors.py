"""Losses on features: layers are listened to, connectors match shapes and learn, and are never shipped."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import tutelage
from tutelage.companions.connectors import Connector
from tutelage.errors import InputError, ModelError
from tutelage.losses import cross_entropy, variational
from tutelage.models import ModelSpec, build, state_digest
from tutelage.objective import Objective, Place, Term
from tutelage.run import load_student
from tutelage.teachers import ModuleTeacher
from tutelage.types import Batch

STAGE = "net.stages.1"
TRAIN = {"epochs": 2, "batch_size": 64, "lr": 0.01, "checkpoint_seconds": 0.0}


def squared(matched_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """What FitNets' hint is, without its refinements."""
    return (matched_feature - teacher_feature).square().mean()


def energy(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Reads features as they are, whatever their widths."""
    return (student_feature.square().mean((1, 2, 3)) - teacher_feature.square().mean((1, 2, 3))).square().mean()


def several(matched_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
    return torch.stack([squared(a, b) for a, b in zip(matched_features, teacher_features, strict=True)]).sum()


def cnn(width: int) -> nn.Module:
    return build(
        ModelSpec("cnn", {"width": width, "depth": 2}), input_shape=(1, 8, 8), classes=10, mean=[0.3], std=[0.4]
    )


def batch(size: int = 6) -> Batch:
    return Batch(torch.arange(size), {"x": torch.rand(size, 1, 8, 8)}, torch.arange(size) % 10)


# ---- connectors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "parameters"),
    [
        ((2, 5), (2, 5), "auto", 0),
        ((2, 5), (2, 7), "auto", 5 * 7 + 7),
        ((2, 5), (2, 5), "linear", 5 * 5 + 5),
        ((2, 5), (2, 7), "mlp", 5 * 7 + 7 + 7 * 7 + 7),
        ((2, 3, 5), (2, 3, 7), "auto", 5 * 7 + 7),
        ((2, 4, 6, 6), (2, 8, 6, 6), "auto", 4 * 8 + 8),
        ((2, 4, 6, 6), (2, 4, 3, 3), "auto", 0),
        ((2, 4, 3, 3), (2, 8, 6, 5), "mlp", 4 * 8 + 8 + 8 * 8 + 8),
        ((2, 3, 6), (2, 3, 7), "block", None),
    ],
)
def test_a_connector_puts_out_the_teachers_shape(
    student: tuple[int, ...], teacher: tuple[int, ...], kind: str, parameters: int | None
) -> None:
    connector = Connector(student, teacher, kind)
    assert connector(torch.randn(student)).shape == teacher
    if parameters is not None:
        assert sum(p.numel() for p in connector.parameters()) == parameters


def test_a_smaller_map_is_averaged_and_nothing_else() -> None:
    feature = torch.arange(16.0).reshape(1, 1, 4, 4)
    expected = torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]])
    torch.testing.assert_close(Connector((1, 1, 4, 4), (1, 1, 2, 2))(feature), expected)


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "says"),
    [
        ((2, 5), (2, 5, 4, 4), "auto", "no connector leads from one shape to the other"),
        ((2, 3, 5), (2, 4, 5), "auto", "with the same T"),
        ((2, 5), (2, 7), "none", "`connector: none` was asked for"),
        ((2, 5), (2, 7), "block", "a transformer block connects tokens"),
    ],
)
def test_shapes_that_do_not_meet_are_refused(
    student: tuple[int, ...], teacher: tuple[int, ...], kind: str, says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        Connector(student, teacher, kind)


# ---- terms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [STAGE, (STAGE, STAGE), [STAGE], [(STAGE, STAGE)], Place(STAGE, STAGE)])
def test_one_place_can_be_said_in_many_ways(at: object) -> None:
    assert Term(squared, at=at).places == (Place(STAGE, STAGE),)  # type: ignore[arg-type]


def test_two_layers_in_a_list_are_two_places() -> None:
    assert Term(several, at=["a", "b"]).places == (Place("a", "a"), Place("b", "b"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Term(squared), "does not say where"),
        (lambda: Term(cross_entropy, at=STAGE), "reads no features"),
        (lambda: Term(squared, at=["a", "b"]), "write one term for each place"),
        (lambda: Term(squared, at="a", connector="magic"), "no connector `magic`"),
    ],
)
def test_a_term_that_cannot_read_its_places_is_refused(make: Callable[[], Term], says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


# ---- one step --------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_layers_and_the_gradient_reaches_both_parts() -> None:
    teacher, student, example = cnn(16), cnn(8), batch()
    distiller = tutelage.Distiller(student, teacher, [Term(squared, at=STAGE), Term(energy, at=STAGE)], example=example)
    step = distiller(example)
    step.loss.backward()
    with torch.no_grad():
        student.train()
        ours = student.net.stages[:2](student.normalise(example.inputs["x"]))
        theirs = teacher.net.stages[:2](teacher.normalise(example.inputs["x"]))
        connector = distiller.student.connectors["0-0"]
        assert float(step.parts["squared"]) == pytest.approx(float(squared(connector(ours), theirs)), rel=1e-5)
        assert float(step.parts["energy"]) == pytest.approx(float(energy(ours, theirs)), rel=1e-5)
    assert all(p.grad is not None and bool(p.grad.any()) for p in connector.parameters())
    assert all(p.grad is not None for p in student.net.stages.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert {id(p) for p in connector.parameters()} <= {id(p) for p in distiller.parameters()}


def test_a_learned_variance_is_kept_with_its_connector() -> None:
    teacher, student, example = cnn(16), cnn(8), batch()
    distiller = tutelage.Distiller(student, teacher, [Term(variational, at=STAGE)], example=example)
    connector = distiller.student.connectors["0-0"]
    assert connector.log_variance.shape == (24,)
    before = distiller(example).parts["variational"]
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
    distiller(example).loss.backward()
    optimizer.step()
    assert float(connector.log_variance.detach().mean()) < math.log(5.0)  # the features are nearer than that
    assert float(distiller(example).parts["variational"]) < float(before)


def test_probing_shapes_changes_neither_weights_nor_statistics_nor_modes() -> None:
    student, example = cnn(8), batch()
    student.net.head.eval()
    before, modes = state_digest(student), [m.training for m in student.modules()]
    tutelage.Distiller(student, cnn(16), [Term(squared, at=STAGE)], example=example)
    assert state_digest(student) == before
    assert [m.training for m in student.modules()] == modes


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda b: tutelage.Distiller(cnn(8), cnn(16), [Term(squared, at="net.stage.1")], example=b), "net.stages"),
        (lambda b: tutelage.Distiller(cnn(8), cnn(16), [Term(squared, at="net.stages.*")], example=b), "several"),
        (lambda b: tutelage.Distiller(cnn(8), cnn(16), [Term(squared, at=STAGE)])(b), "pass example=batch"),
        (
            lambda b: tutelage.Distiller(cnn(8), ModuleTeacher(cnn(16)), [Term(squared, at=STAGE)], example=b),
            "the teacher answers no features at `net.stages.1`",
        ),
        (
            lambda b: tutelage.Distiller(cnn(8), cnn(16), [Term(squared, at=(STAGE, "net.head"))], example=b),
            "term `squared` at net.stages.1 → net.head: no connector",
        ),
    ],
)
def test_mistakes_are_said(act: Callable[[Batch], object], says: str) -> None:
    with pytest.raises((InputError, ModelError), match=says):
        act(batch())


def test_places_are_gathered_from_all_terms() -> None:
    objective = Objective([Term(squared, at=("a", "b")), Term(several, at=[("a", "c"), ("d", "b")]), cross_entropy])
    assert objective.student_places == ("a", "d")
    assert objective.teacher_places == ("b", "c")


# ---- whole runs ------------------------------------------------------------------------------------------------------


def bits(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("students/*/*/*.safetensors"))
    }


def learn(out: Path, hint: Term, **more: object) -> tutelage.Run:
    torch.manual_seed(5)
    return tutelage.distill(
        cnn(16), {"model": "cnn", "args": {"width": 8, "depth": 2, "dropout": 0.1}}, "digits", out=out,
        objective=[cross_entropy, hint], quiet=True, **TRAIN, **more,
    )  # fmt: skip


@pytest.mark.parametrize("connector", ["auto", "mlp"])
def test_at_weight_0_a_hint_changes_not_one_bit(tmp_path: Path, connector: str) -> None:
    run = learn(tmp_path / "run", Term(squared, weight=0.0, at=STAGE, connector=connector))
    arms = {name: load_file(run.student(name) / "last.safetensors") for name in ("scratch", "distilled")}
    assert all(torch.equal(arms["scratch"][name], value) for name, value in arms["distilled"].items())


def test_a_run_that_was_stopped_ends_with_the_same_bits_and_ships_no_connector(tmp_path: Path) -> None:
    straight = learn(tmp_path / "straight", Term(squared, at=STAGE))
    calls = 0

    def stops(matched_feature: Tensor, teacher_feature: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise KeyboardInterrupt
        return squared(matched_feature, teacher_feature)

    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "stopped", Term(stops, at=STAGE, name="squared"))
    assert list((tmp_path / "stopped").glob("checkpoints/seed-0/step-*"))
    learn(tmp_path / "stopped", Term(stops, at=STAGE, name="squared"))
    assert calls > 30
    assert bits(tmp_path / "stopped") == bits(tmp_path / "straight")
    newest = sorted((tmp_path / "stopped").glob("checkpoints/seed-0/step-*"))[-1]
    kept = load_file(newest / "model.safetensors")
    assert {name for name in kept if "+/" in name} == {f"distilled+/1-0.layers.{part}" for part in ("weight", "bias")}
    shipped = load_file(straight.student() / "student.safetensors")
    assert set(shipped) == set(load_student(straight.student()).state_dict())


def test_hints_from_the_store_are_hints_from_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_STORE", str(tmp_path / "store"))
    live = learn(tmp_path / "live", Term(squared, at=STAGE))
    stored = learn(tmp_path / "stored", Term(squared, at=STAGE), store="auto")
    assert stored.report["answers"]["rows"] > 0
    assert bits(live.folder) == bits(stored.folder)


def test_three_tensors_from_a_model_of_ones_own_are_no_logits() -> None:
    class Three(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            logits = x.flatten(1)[:, :10]
            return logits, logits, logits

    with pytest.raises(ModelError, match="does not answer with logits"):
        tutelage.Distiller(Three(), None, [cross_entropy])(batch())
