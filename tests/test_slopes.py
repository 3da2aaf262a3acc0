"""Terms that read gradients, or answers to attacked inputs, in the one training step."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tutelage
from tutelage.attacks import Attack
from tutelage.data import Views
from tutelage.distiller import ask_student
from tutelage.errors import InputError, MismatchError, ModelError
from tutelage.losses import cross_entropy, soft_target
from tutelage.losses.gradients import (
    adversarially_robust,
    feature_gradient_matching,
    grad_cam,
    introspective,
    jacobian_matching,
    robust_soft_label,
)
from tutelage.losses.targets import top_k
from tutelage.models import ModelSpec, build
from tutelage.objective import GRADIENTS, Objective, Term
from tutelage.slopes import check_second, signs
from tutelage.teachers import ModuleTeacher, TableTeacher
from tutelage.types import Batch, Outputs

STAGE = "net.stages.1"
TRAIN = {"epochs": 2, "batch_size": 64, "lr": 0.01, "checkpoint_seconds": 0.0}


def net(name: str = "cnn", **args: Any) -> nn.Module:
    return build(ModelSpec(name, args), input_shape=(1, 8, 8), classes=10, mean=[0.3], std=[0.4])


def cnn(width: int, **more: Any) -> nn.Module:
    return net(width=width, depth=2, **more)


def batch(size: int = 6) -> Batch:
    return Batch(torch.arange(size) * 7919, {"x": torch.rand(size, 1, 8, 8)}, torch.arange(size) % 10)


def by_hand(model: nn.Module, b: Batch, number: str, best: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient at the input, what stage 1 puts out, and the gradient there, of each example by itself."""
    slopes, features, inner = [], [], []
    for row in range(len(b)):
        x = b.inputs["x"][row : row + 1].clone().requires_grad_()
        stage = model.net.stages[:2](model.normalise(x))
        z = model.net.head(stage.mean((2, 3)))[0]
        value = {
            "label": lambda z=z, r=row: z[b.target[r]],
            "max": lambda z=z, r=row: z[best[r]],
            "cross_entropy": lambda z=z, r=row: torch.logsumexp(z, 0) - z[b.target[r]],
            "projection": lambda z=z, r=row: (z * signs(b.ids[r : r + 1], b.view, 10)[0]).sum(),
        }[number]()
        one, other = torch.autograd.grad(value, [x, stage])
        slopes.append(one)
        features.append(stage.detach())
        inner.append(other)
    return torch.cat(slopes), torch.cat(features), torch.cat(inner)


@pytest.mark.parametrize("number", GRADIENTS)
def test_gradients_are_those_of_each_example_by_itself(number: str) -> None:
    teacher, student, example = cnn(16).eval(), cnn(8).eval(), batch()
    at = {"gradient": number, "at": STAGE}
    terms = [Term(jacobian_matching, gradient=number), Term(feature_gradient_matching, **at), Term(grad_cam, **at)]
    terms[1] = Term(_norms, **at)  # the widths differ
    distiller = tutelage.Distiller(student, teacher, terms, example=example)
    distiller.student.eval()
    step = distiller(example)
    best = teacher(example.inputs["x"]).argmax(-1)
    (s, sf, si), (t, tf, ti) = (by_hand(one, example, number, best) for one in (student, teacher))
    found = {name: float(value) for name, value in step.parts.items()}
    assert found["jacobian_matching"] == pytest.approx(float(jacobian_matching(s, t)), rel=1e-4)
    assert found["_norms"] == pytest.approx(float(_norms(si, ti)), rel=1e-4)
    assert found["grad_cam"] == pytest.approx(float(grad_cam(sf, tf, si, ti)), rel=1e-4)
    step.loss.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in student.net.stages[0][0].parameters())
    assert all(p.grad is None for p in teacher.parameters())


def _norms(student_feature_gradient: Tensor, teacher_feature_gradient: Tensor) -> Tensor:
    ours, theirs = (g.flatten(1).norm(dim=1) for g in (student_feature_gradient, teacher_feature_gradient))
    return (ours - theirs).square().mean()


def _several(student_feature_gradients: list[Tensor], teacher_feature_gradients: list[Tensor]) -> Tensor:
    pairs = zip(student_feature_gradients, teacher_feature_gradients, strict=True)
    return torch.stack([_norms(ours, theirs) for ours, theirs in pairs]).sum()


def test_several_places_and_patterns() -> None:
    teacher, student, example = cnn(16), cnn(8), batch()
    terms = [Term(_several, at=["net.stages.0", "net.stages.1"]), Term(_norms, at="net.*.1", name="last")]
    with pytest.raises(ModelError, match="several"):
        tutelage.Distiller(student, teacher, [Term(_norms, at="net.stages.*")], example=example)(example)
    terms[1] = Term(_norms, at="net.stage?.1", name="last")
    parts = tutelage.Distiller(student, teacher, terms, example=example)(example).parts
    assert float(parts["_several"]) > float(parts["last"]) > 0


def test_a_teacher_that_answers_gradients_answers_everything_else_as_before() -> None:
    module, example = cnn(16), batch()
    plain = ModuleTeacher(module, places=["net.stages.1"])
    expected, before = plain.answer(example), plain.fingerprint()
    asked = ModuleTeacher(module, places=["net.stages.1", "net.stages.0@max", "@max", "@projection"])
    answer = asked.answer(example)
    assert torch.equal(answer.logits, expected.logits)
    assert set(answer.features) == {"net.stages.1", "net.stages.0@max", "@max", "@projection"}
    assert torch.equal(answer.features["net.stages.1"], expected.features["net.stages.1"])
    assert not any(one.requires_grad for one in (answer.logits, *answer.features.values()))
    assert asked.fingerprint() == before
    assert all(p.grad is None for p in module.parameters())
    with torch.no_grad():
        assert torch.equal(asked.answer(example).features["@max"], answer.features["@max"])


def test_signs_belong_to_examples_and_views() -> None:
    ids = torch.arange(500) * 7919
    found = signs(ids, 0, 12)
    assert set(found.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(signs(ids.flip(0), 0, 12).flip(0), found)
    other = signs(ids, 1, 12)
    assert abs(float((found * other).mean())) < 0.05
    gram = found.T @ found / 500
    assert float((gram - torch.eye(12)).abs().max()) < 0.2
    # In the mean it is the whole Jacobian: within five standard errors, of 12 × 5 numbers and 500 directions.
    jacobian = torch.from_numpy(np.random.default_rng(0).normal(size=(12, 5))).float()
    values = (found @ jacobian).square().sum(1)
    assert float(values.mean()) == pytest.approx(float(jacobian.square().sum()), abs=5 * float(values.std()) / 500**0.5)


@pytest.mark.parametrize("name", ["mlp", "cnn", "dscnn", "gru", "transformer"])
def test_every_net_takes_a_step(name: str) -> None:
    student, example = net(name), batch()
    distiller = tutelage.Distiller(student, net("mlp"), [cross_entropy, Term(jacobian_matching)])
    distiller(example).loss.backward()
    assert all(p.grad is not None for p in student.parameters())


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * slope


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 10)
        self.head = nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(_Once.apply(self.inner(x.flatten(1))))
        return out


def test_what_cannot_be_is_said() -> None:
    example = batch()
    with pytest.raises(ModelError, match="no second derivative") as caught:
        tutelage.Distiller(Bare(), net("mlp"), [Term(jacobian_matching)])(example)
    assert "but not differentiated" in str(caught.value)
    x = example.inputs["x"].clone().requires_grad_()
    (fused,) = torch.autograd.grad(net("transformer")(x)[:, 0].sum(), x, create_graph=True)
    with pytest.raises(ModelError, match="no second derivative"):
        check_second({"@label": fused})
    mixed = Batch(example.ids, example.inputs, torch.rand(6, 10).softmax(-1))
    with pytest.raises(InputError, match="mixed examples"):
        tutelage.Distiller(net("mlp"), net("mlp"), [Term(jacobian_matching)])(mixed)
    tutelage.Distiller(net("mlp"), net("mlp"), [Term(jacobian_matching, gradient="cross_entropy")])(mixed)
    table = TableTeacher(example.ids, torch.randn(6, 10))
    with pytest.raises(ModelError, match="the teacher answers no features at `@label`"):
        tutelage.Distiller(net("mlp"), table, [Term(jacobian_matching)])(example)
    with pytest.raises(InputError, match="no gradient of `best`"):
        Term(jacobian_matching, gradient="best")
    with pytest.raises(InputError, match="does not say who attacks"):
        Term(adversarially_robust)
    with pytest.raises(InputError, match="leave `attack` out"):
        Term(soft_target, attack=Attack(0.1))
    with pytest.raises(InputError, match="does not say where"):
        Term(feature_gradient_matching)
    with pytest.raises(MismatchError, match="nobody could store"):
        tutelage.Distiller(net("mlp"), table, [Term(introspective, attack=Attack(0.1))])(example)
    with pytest.raises(InputError, match="pass example=batch"):
        tutelage.Distiller(cnn(8), cnn(16), [Term(grad_cam, at=STAGE)])(example)


def test_max_is_what_the_teacher_ranks_first_also_of_a_top_k() -> None:
    student, example = net("mlp"), batch()
    teacher_logits = torch.randn(6, 10)
    objective = Objective([Term(_first, gradient="max")])
    whole = ask_student(student, objective, example, Outputs(teacher_logits))
    cut = ask_student(student, objective, example, Outputs(top_k(teacher_logits, 3)))
    assert torch.equal(whole.features["@max"], cut.features["@max"])


def _first(student_input_gradient: Tensor) -> Tensor:
    return student_input_gradient.square().mean()


# ---- attacked inputs -------------------------------------------------------------------------------------------------


def test_robust_losses_read_what_their_names_say() -> None:
    student, teacher, example = net("mlp", dropout=0.3), net("mlp", width=32), batch()
    plain, aimed = Attack(0.1, 3), Attack(0.1, 3, raises="teacher")
    terms = [
        Term(adversarially_robust, attack=plain),
        Term(robust_soft_label, attack=aimed),
        Term(introspective, attack=Attack(0.1, 3)),
        cross_entropy,
    ]
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    student.register_forward_hook(count)
    distiller = tutelage.Distiller(student, teacher, terms).eval()
    torch.manual_seed(3)
    step = distiller(example)
    # Clean once; two attacks, for equal ones are one; each three times there and once for what is learned.
    assert calls == 1 + 2 * (3 + 1)
    torch.manual_seed(3)
    x, z, t = example.inputs["x"], student(example.inputs["x"]), teacher(example.inputs["x"])
    moved = {}
    for attack in (plain, aimed):
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        moved[attack] = attack(student, x, example.target, t, generator)
    expected = [
        adversarially_robust(student(moved[plain]), t),
        robust_soft_label(z, t, student(moved[aimed])),
        introspective(z, t, student(moved[plain]), teacher(moved[plain]), example.target),
    ]
    for found, value in zip(step.parts.values(), expected, strict=False):
        assert float(found) == pytest.approx(float(value.detach()), rel=1e-6)
    step.loss.backward()
    assert all(p.grad is not None for p in student.parameters())


def test_an_attack_leaves_dropout_masks_and_statistics_to_the_step() -> None:
    example = batch()
    logits = []
    for objective in ([cross_entropy], [cross_entropy, Term(adversarially_robust, weight=0.0, attack=Attack(0.1))],
                      [cross_entropy, Term(adversarially_robust, attack=Attack(0.1))]):  # fmt: skip
        torch.manual_seed(1)
        student = net("cnn", dropout=0.5)
        distiller = tutelage.Distiller(student, net("mlp"), objective)
        distiller.train()
        torch.manual_seed(2)
        step = distiller(example)
        logits.append(float(step.parts["cross_entropy"]))
        assert all(module.training for module in student.modules())
    assert logits[0] == logits[1] == logits[2]


# ---- whole runs ------------------------------------------------------------------------------------------------------


def learn(out: Path, **more: object) -> tutelage.Run:
    torch.manual_seed(5)
    return tutelage.distill(
        cnn(16), {"model": "cnn", "args": {"width": 8, "depth": 2, "dropout": 0.1}}, "digits", out=out,
        quiet=True, **TRAIN, **more,
    )  # fmt: skip


def test_at_weight_0_terms_change_not_one_bit_and_above_it_they_do(tmp_path: Path) -> None:
    def terms(weight: float) -> dict[str, list[Any]]:
        made = {
            "slopes": Term(jacobian_matching, weight=weight, gradient="max"),
            "maps": Term(grad_cam, weight=weight, at=STAGE, gradient="max"),
            "attacks": Term(introspective, weight=weight, attack=Attack(0.05, 2)),
        }
        return {f"{name}-{weight:g}": [cross_entropy, term] for name, term in made.items()}

    run = learn(tmp_path / "run", arms=terms(0.0) | terms(1.0))
    scratch = (run.student("scratch") / "last.safetensors").read_bytes()
    for name in ("slopes", "maps", "attacks"):
        assert (run.student(f"{name}-0") / "last.safetensors").read_bytes() == scratch
        assert (run.student(f"{name}-1") / "last.safetensors").read_bytes() != scratch


def bits(run: tutelage.Run) -> dict[str, str]:
    return {
        str(path.relative_to(run.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.folder.glob("students/*/*/*.safetensors"))
    }


@pytest.mark.parametrize("views", [{}, {"views": Views(shift=1)}], ids=["plain", "shifted"])
def test_gradients_from_the_store_are_gradients_from_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: dict[str, Any]
) -> None:
    monkeypatch.setenv("TUTELAGE_STORE", str(tmp_path / "store"))
    terms = [cross_entropy, Term(jacobian_matching, gradient="projection")]
    live = learn(tmp_path / "live", objective=terms, **views)
    stored = learn(
        tmp_path / "stored", objective=terms, store={"codec": "fp32", "views": "replay"} if views else "auto", **views
    )
    assert stored.report["answers"]["rows"] > 0
    assert bits(live) == bits(stored)


@pytest.mark.parametrize(
    ("term", "says"),
    [
        (Term(jacobian_matching), "gradients that depend on labels"),
        (Term(introspective, attack=Attack(0.1)), "which nobody knows before"),
    ],
)
def test_a_store_refuses_what_is_no_function_of_example_and_view(tmp_path: Path, term: Term, says: str) -> None:
    with pytest.raises(InputError, match=says):
        learn(tmp_path / "run", objective=[cross_entropy, term], store="auto")
