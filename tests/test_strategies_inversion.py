"""Examples made from nothing but a teacher: what they are judged by, how they come about, and learning from them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from torch import nn

from command_line import call
from datafree_parts import CLASSES, digits, taught
from tutelage.data.sources import with_training_part
from tutelage.errors import DataError, InputError, ModelError, TrainingError
from tutelage.files import read_json
from tutelage.models import state_digest
from tutelage.strategies.inversion import Inversion, Priors, agreement, class_names, invert
from tutelage.strategies.made import write_made
from tutelage.strategies.synthesis_losses import (
    LayerInputs,
    Normed,
    activation,
    batch_statistics,
    contrast,
    disagreement,
    imbalance,
    length,
    sureness,
    variation,
)

FAST = Inversion(steps=12, batch_size=50, shift=1)


def doubles(*rows: object) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


TEACHER, STUDENT = doubles([3, 1, 0.2, -1]), doubles([1, 2, 0.5, 0])


# ---- losses ----------------------------------------------------------------------------------------------------------


def test_sureness_of_three_sure_answers() -> None:
    assert sureness(5.0 * torch.eye(3, dtype=torch.float64)).item() == pytest.approx(0.013386, abs=1e-6)


def test_sureness_of_ignorance_is_log_of_the_classes() -> None:
    assert sureness(torch.zeros(2, 7, dtype=torch.float64)).item() == pytest.approx(math.log(7), abs=1e-12)


def test_imbalance_is_least_where_all_classes_come_alike_and_none_where_one_comes_alone() -> None:
    even = 1e4 * torch.eye(3, dtype=torch.float64)
    assert imbalance(even).item() == pytest.approx(-1.098612, abs=1e-6)
    assert imbalance(even[[0, 0, 0]]).item() == pytest.approx(0.0, abs=1e-12)


def test_imbalance_agrees_with_scipy() -> None:
    logits = torch.randn(6, 4, dtype=torch.float64)
    assert imbalance(logits).item() == pytest.approx(-entropy(logits.softmax(-1).mean(0).numpy()), abs=1e-12)


def test_activation_is_the_mean_size() -> None:
    assert activation(doubles([1, -2], [0, 5])).item() == -2.0


@pytest.mark.parametrize(
    ("batch", "expected"), [(((0.5,), (2.0,)), 1.25), (((0.0,), (1.0,)), 0.0)], ids=["apart", "alike"]
)
def test_batch_statistics(batch: tuple[tuple[float, ...], ...], expected: float) -> None:
    mean, variance = (torch.tensor(part, dtype=torch.float64) for part in batch)
    known = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert batch_statistics([Normed(mean, variance, *known)]).item() == pytest.approx(expected, abs=1e-6)
    assert batch_statistics([Normed(mean, variance, *known)] * 2).item() == pytest.approx(2 * expected, abs=1e-6)


def test_variation_counts_neighbours_below_and_to_the_right() -> None:
    # Below: |0 − 1|, |3 − 1|; to the right: |3 − 0|, |1 − 1|.
    assert variation(doubles([[[0, 3], [1, 1]]])).item() == 1.5 + 1.5


def test_contrast_agrees_with_its_equation() -> None:
    first, second, bank = (torch.randn(n, 5, dtype=torch.float64) for n in (4, 4, 3))

    def unit(rows: torch.Tensor) -> np.ndarray:
        return rows.numpy() / np.linalg.norm(rows.numpy(), axis=1, keepdims=True)

    close = np.exp(unit(first) @ np.concatenate([unit(second), unit(bank)]).T / 0.1)
    expected = -np.log(np.diag(close[:, :4]) / close.sum(1)).mean()
    assert contrast(first, second, bank).item() == pytest.approx(expected, abs=1e-9)
    alike = torch.ones(4, 5, dtype=torch.float64)
    assert contrast(alike, alike, alike[:3]).item() == pytest.approx(math.log(7), abs=1e-9)


def test_length_is_the_mean_square() -> None:
    assert length(doubles([3, 4], [0, 0])).item() == 6.25


def test_disagreement_by_three_measures() -> None:
    p, q = TEACHER.softmax(-1).numpy()[0], STUDENT.softmax(-1).numpy()[0]
    assert disagreement(STUDENT, TEACHER, "kl").item() == pytest.approx(-entropy(p, q), abs=1e-9)
    assert disagreement(STUDENT, TEACHER, "js").item() == pytest.approx(-(jensenshannon(p, q) ** 2), abs=1e-9)
    assert disagreement(STUDENT, TEACHER, "js").item() == pytest.approx(-0.2035, abs=5e-5)
    assert disagreement(STUDENT, TEACHER, "l1").item() == pytest.approx(-(2 + 1 + 0.3 + 1) / 4, abs=1e-12)
    for kind in ("kl", "js", "l1"):
        assert disagreement(TEACHER, TEACHER, kind).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("kind", ["kl", "l1", "js"])
def test_disagreement_hands_gradients_to_both_sides(kind: str) -> None:
    ours, theirs = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: disagreement(a, b, kind), (ours, theirs))
    disagreement(ours, theirs, kind).backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert ours.grad.abs().sum() > 0
    assert theirs.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: disagreement(STUDENT, TEACHER[:, :3]),
        lambda: disagreement(STUDENT, TEACHER, "cosine"),
        lambda: sureness(torch.zeros(2, 3, dtype=torch.int64)),
        lambda: imbalance(torch.zeros(2, 1)),
        lambda: variation(torch.zeros(2, 5)),
        lambda: batch_statistics([]),
        lambda: contrast(torch.rand(2, 3), torch.rand(2, 3), torch.rand(2, 4)),
        lambda: contrast(torch.rand(2, 3), torch.rand(2, 3), torch.rand(0, 3), temperature=0.0),
    ],
    ids=["shapes", "kind", "integers", "one class", "no picture", "no norms", "bank", "temperature"],
)
def test_mistakes_in_losses(mistake) -> None:
    with pytest.raises(InputError):
        mistake()


# ---- what comes into layers ------------------------------------------------------------------------------------------


def test_layer_inputs_tell_what_batch_norms_and_the_last_layer_see() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(108, 4))
    net = net.double().eval()
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    with LayerInputs(net) as inputs:
        net(x)
        inputs.forget()
        net(x.requires_grad_())
        (norm,) = inputs.norms()
        seen = net[0](x).detach().numpy()
        np.testing.assert_allclose(norm.mean.detach().numpy(), seen.mean((0, 2, 3)), atol=1e-12)
        np.testing.assert_allclose(norm.variance.detach().numpy(), seen.var((0, 2, 3)), atol=1e-12)
        assert inputs.feature().shape == (5, 108)
        assert torch.equal(inputs.feature(), net[:4](x))
        # The running statistics set to what was seen: nothing is left to agree on.
        net[1].running_mean, net[1].running_var = norm.mean.detach(), norm.variance.detach()
        assert batch_statistics(inputs.norms()).item() == pytest.approx(0.0, abs=1e-20)
        (gradient,) = torch.autograd.grad(inputs.norms()[0].variance.sum(), x)
        assert gradient.abs().sum() > 0
    assert not any(layer._forward_pre_hooks for layer in net.modules())


def test_a_teacher_without_a_last_layer_has_no_feature() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten())
    with LayerInputs(net) as inputs:
        net(torch.rand(2, 1, 8, 8))
        assert not inputs.has_norms
        with pytest.raises(ModelError, match="no linear layer at its end"):
            inputs.feature()


# ---- inversion -------------------------------------------------------------------------------------------------------


def test_made_examples_are_what_was_asked_for_and_the_teacher_stays_what_it_was() -> None:
    teacher, lines = taught(), []
    teacher.net.train()  # as a careless caller leaves it
    before, modes = state_digest(teacher), [part.training for part in teacher.modules()]
    settings = Inversion(steps=40, batch_size=50, shift=0)
    made = invert(teacher, 100, (1, 8, 8), CLASSES, settings=settings, seed=3, tell=lines.append)
    assert made.inputs.dtype == torch.uint8
    assert made.shape == (1, 8, 8)
    assert torch.bincount(made.targets).tolist() == [10] * 10
    assert agreement(teacher, made) > 0.8
    assert any(f"{agreement(teacher, made):.1%}" in line for line in lines)
    assert state_digest(teacher) == before
    assert [part.training for part in teacher.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())


def test_the_same_seed_makes_the_same_examples_and_another_one_others() -> None:
    teacher = taught()
    first, again, other = (invert(teacher, 60, (1, 8, 8), 10, settings=FAST, seed=seed) for seed in (5, 5, 6))
    assert first.fingerprint == again.fingerprint
    assert not set(first.ids.tolist()) & set(other.ids.tolist())


def test_statistics_come_closer_to_what_the_teacher_remembers() -> None:
    teacher = taught()

    def apart(priors: Priors) -> float:
        settings = Inversion(steps=40, batch_size=60, shift=0, priors=priors)
        made = invert(teacher, 60, (1, 8, 8), 10, settings=settings)
        with LayerInputs(teacher) as inputs, torch.no_grad():
            teacher(made.inputs.float() / 255)
            return float(batch_statistics(inputs.norms()))

    assert apart(Priors(statistics=1.0, variation=0.0)) < 0.5 * apart(Priors(statistics=0.0, variation=0.0))


def test_against_a_student_examples_are_such_that_it_errs_on_them() -> None:
    teacher, student = taught(), taught()
    torch.manual_seed(1)
    with torch.no_grad():  # a student that has learned most of it
        student.net.head.weight += 0.5 * torch.randn_like(student.net.head.weight)
    student.train()
    before = state_digest(student)

    def apart(rival: nn.Module | None) -> float:
        made = invert(teacher, 60, (1, 8, 8), 10, settings=Inversion(
            steps=30, batch_size=60, shift=0, priors=Priors(statistics=0.0, variation=0.0, competition=20.0)
        ), student=rival)  # fmt: skip
        x = made.inputs.float() / 255
        with torch.no_grad():
            return -float(disagreement(student.eval()(x), teacher(x), "js"))

    assert apart(student) > 1.5 * apart(None)
    assert state_digest(student) == before


def test_contrast_makes_inputs_differ_from_those_made_before() -> None:
    teacher = taught()

    def alike(weight: float) -> float:
        priors = Priors(statistics=0.1, contrast=weight)
        made = invert(teacher, 60, (1, 8, 8), 10, settings=Inversion(steps=40, batch_size=30, shift=1, priors=priors))
        with LayerInputs(teacher) as inputs, torch.no_grad():
            teacher(made.inputs.float() / 255)
            rows = nn.functional.normalize(inputs.feature())
        same = made.targets[:, None] == made.targets
        return float((rows @ rows.T)[same & ~torch.eye(60, dtype=torch.bool)].mean())

    assert alike(20.0) < alike(0.0)
    assert state_digest(teacher) == state_digest(taught())


def test_features_are_made_without_bounds() -> None:
    teacher = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    lines: list[str] = []
    made = invert(teacher, 30, (4,), ("a", "b", "c"), settings=Inversion(steps=200, bounds=None), tell=lines.append)
    assert made.inputs.dtype == torch.float32
    assert made.classes == ("a", "b", "c")
    assert float(made.inputs.abs().max()) > 1.0
    assert agreement(teacher, made) > 0.8
    assert any("no batch norms" in line for line in lines)


class Blind(nn.Module):
    """Answers with what has no gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1)[:, :10] > 0.5).float()


@pytest.mark.parametrize(
    ("error", "mistake"),
    [
        (InputError, lambda: invert(taught(), 1, (1, 8, 8), 10)),
        (InputError, lambda: invert(taught(), 10, (), 10)),
        (InputError, lambda: invert(taught(), 10, (1, 8, 8), 1)),
        (InputError, lambda: invert(taught(), 4, (4,), 3, as_bytes=True)),
        (ModelError, lambda: invert(taught(), 24, (1, 8, 8), 12, settings=FAST)),
        (ModelError, lambda: invert(Blind(), 4, (1, 8, 8), 10)),
        (ModelError, lambda: invert(lambda x: x, 4, (1, 8, 8), 10)),  # type: ignore[arg-type]
        (TrainingError, lambda: invert(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 4, (64,), 10,
            settings=Inversion(steps=5, lr=1e38, bounds=None),
        )),
        (InputError, lambda: Inversion(batch_size=1)),
        (InputError, lambda: Inversion(steps=0)),
        (InputError, lambda: Inversion(lr=math.nan)),
        (InputError, lambda: Inversion(bounds=(1.0, 0.0))),
        (InputError, lambda: Priors(variation=-1.0)),
    ],
    ids=["one", "no shape", "one class", "bytes", "classes", "blind", "no module", "runs away", "batch", "steps", "lr",
         "bounds", "prior"],
)  # fmt: skip
def test_mistakes_in_inversion(error: type[Exception], mistake) -> None:
    with pytest.raises(error):
        mistake()


def test_classes_may_be_a_number() -> None:
    assert class_names(3) == ["0", "1", "2"]
    assert class_names(("x", "y")) == ["x", "y"]


# ---- made examples as training data ----------------------------------------------------------------------------------


def test_made_examples_take_the_place_of_the_training_part_alone(tmp_path: Path) -> None:
    real = digits()
    made = invert(taught(), 40, (1, 8, 8), CLASSES, settings=FAST)
    write_made(tmp_path / "made.npz", made, {"method": "inversion"})
    splits = with_training_part(real, tmp_path / "made.npz")
    assert splits.train.fingerprint == made.fingerprint
    assert splits.train.name.startswith("digits, learned from ")  # so that a report says it
    assert splits.val.fingerprint == real.val.fingerprint
    assert splits.test.fingerprint == real.test.fingerprint
    facts = read_json(tmp_path / "made.json")
    assert facts["count"] == 40
    assert facts["classes"] == list(CLASSES)
    # The same examples are the same bytes, so that files can be compared.
    write_made(tmp_path / "again.npz", made, {})
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "made.npz").read_bytes()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((40, 8, 8), np.uint8), "classes": np.array([f"n{n}" for n in range(10)])}, "other classes"),
        ({"x": np.zeros((40, 6, 6), np.uint8)}, "another kind"),
        ({"x": digits().test.inputs[:, 0].numpy(), "y": digits().test.targets.numpy()}, "stand among those"),
    ],
    ids=["classes", "shape", "leak"],
)
def test_a_training_part_that_does_not_fit_is_refused(tmp_path: Path, arrays: dict, said: str) -> None:
    rng = np.random.default_rng(0)
    x = arrays["x"] if arrays["x"].any() else rng.integers(0, 255, arrays["x"].shape).astype(np.uint8)
    np.savez(tmp_path / "t.npz", **{"y": np.arange(len(x)) % 10, **arrays, "x": x})
    with pytest.raises(DataError, match=said):
        with_training_part(digits(), tmp_path / "t.npz")


SMALL = ["--set", "teacher.train.epochs=1", "--set", "teacher.args.width=8", "--quiet"]


def test_the_command_makes_a_file_that_a_recipe_learns_from(tmp_path: Path) -> None:
    file = tmp_path / "made.npz"
    done = call("synthesize", "digits", "--count", "50", "--steps", "5", "--out", str(file), "--json", *SMALL)
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["file"] == str(file)
    assert 0.0 <= said["agreement"] <= 1.0
    assert read_json(tmp_path / "made.json")["agreement"] == said["agreement"]
    weights = tmp_path / "made.teacher.safetensors"
    assert said["teacher_file"] == str(weights)
    out = tmp_path / "run"
    run = call(
        "run", "digits", "--out", str(out), "--seed", "0", "--quiet", "--set", f"data.train={file}",
        "--set", f"teacher.weights={weights}", "--set", "teacher.train=null", "--set", "teacher.args.width=8",
        "--set", "train.epochs=1", "--set", "report.latency=false",
    )  # fmt: skip
    assert run.code == 0, run.err
    report = read_json(out / "report.json")
    assert report["data"]["totals"] | {"val": 0, "test": 0} == {"train": 50, "val": 0, "test": 0}
    assert report["data"]["totals"]["test"] > 300
    student = out / "students" / "distilled" / "seed-0"
    again = call(
        "synthesize", "digits", "--count", "20", "--steps", "3", "--out", str(tmp_path / "harder.npz"),
        "--against", str(student), *SMALL,
    )  # fmt: skip
    assert again.code == 0, again.err
    assert "20 examples" in again.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "made.txt"), "an .npz file"),
        (("--out", "there.npz"), "is there already"),
        (("--method", "dream"), "dream"),
        (("--against", "nowhere"), "no student in nowhere"),
    ],
    ids=["suffix", "there", "method", "student"],
)
def test_mistakes_at_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.npz").write_bytes(b"kept")
    done = call("synthesize", "digits", *words)
    assert done.code in (2, 3)
    assert said in done.err
    assert (tmp_path / "there.npz").read_bytes() == b"kept"


def test_a_teacher_is_not_trained_on_made_examples(tmp_path: Path) -> None:
    write_made(tmp_path / "made.npz", invert(taught(), 40, (1, 8, 8), CLASSES, settings=FAST), {})
    done = call(
        "run", "digits", "--out", str(tmp_path / "run"), "--set", f"data.train={tmp_path / 'made.npz'}",
        "--set", "train.epochs=1", "--seed", "0", "--set", "report.latency=false", *SMALL,
    )  # fmt: skip
    assert done.code == 2
    assert "cannot be trained on the examples of `data.train`" in done.err
