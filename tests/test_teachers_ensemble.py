"""Many teachers are one: every form against its equation in float64."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor, nn

from ensemble_parts import (
    CLASSES,
    MEANS,
    OF_PROBABILITIES,
    PRINTED,
    RANDOM,
    Plain,
    answer,
    batch,
    every_mean,
    members,
    options_of,
    smalls,
    softmax,
    stack,
    weights_of,
)
from store_parts import capture, examples, net, question, stored
from tutelage import losses
from tutelage.distiller import Distiller
from tutelage.errors import InputError, MismatchError, ModelError
from tutelage.evaluation.predict import predict
from tutelage.losses.targets import top_k
from tutelage.objective import Term
from tutelage.store import StoredTeacher
from tutelage.teachers import COMBINATIONS, EnsembleTeacher, ModuleTeacher, TableTeacher, Teacher, as_teacher
from tutelage.teachers.combining import by_confidence, by_entropy
from tutelage.types import Batch, Outputs, Sampled


@pytest.mark.parametrize("how", OF_PROBABILITIES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_read_at_its_temperature_it_is_the_mean_of_the_members_probabilities(
    how: str, temperature: float, count: int
) -> None:
    asked, logits = batch(), stack(count)
    found = answer(logits, asked, how=how, temperature=temperature).numpy()
    weights = weights_of(how, logits.numpy(), asked.target.numpy())
    expected = (weights[..., None] * softmax(logits.numpy(), temperature)).sum(0)
    assert softmax(found, temperature) == pytest.approx(expected, rel=1e-10)


def test_read_at_another_temperature_it_is_a_power_of_the_mean_and_not_the_mean() -> None:
    asked, logits = batch(), stack()
    found = softmax(answer(logits, asked, temperature=4.0).numpy(), 1.0)
    raised = softmax(logits.numpy(), 4.0).mean(0) ** 4
    assert found == pytest.approx(raised / raised.sum(-1, keepdims=True), rel=1e-10)
    assert np.abs(found - softmax(logits.numpy()).mean(0)).max() > 0.05


def test_given_weights_count() -> None:
    asked, logits = batch(), stack()
    shares = np.array([0.2, 0.3, 0.5])
    expected = (shares[:, None, None] * softmax(logits.numpy(), 2.0)).sum(0)
    found = answer(logits, asked, weights=[2, 3, 5], temperature=2.0).numpy()
    assert softmax(found, 2.0) == pytest.approx(expected, rel=1e-10)
    found = answer(logits, asked, how="mean_logits", weights=[2, 3, 5]).numpy()
    assert found == pytest.approx((shares[:, None, None] * logits.numpy()).sum(0), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_mean_of_logits_is_the_geometric_mean_at_every_temperature(temperature: float) -> None:
    asked, logits = batch(), stack()
    means = np.exp(np.log(softmax(logits.numpy(), temperature)).mean(0))
    found = softmax(answer(logits, asked, how="mean_logits").numpy(), temperature)
    assert found == pytest.approx(means / means.sum(-1, keepdims=True), rel=1e-10)


def test_at_high_temperatures_both_means_are_one() -> None:
    asked, logits = batch(), stack()
    apart = [
        float((answer(logits, asked, temperature=t) - answer(logits, asked, how="mean_logits")).abs().max())
        for t in (1.0, 100.0, 10_000.0)
    ]
    assert apart[0] > 0.1
    assert apart[1] == pytest.approx(100 * apart[2], rel=0.05)
    assert apart[2] < 1e-3


# Known numbers


def test_known_numbers_of_means() -> None:
    asked = batch(1)
    p1, p2, q = ([0.9, 0.1], [0.4, 0.6], [0.5, 0.5])
    logits, student = (
        torch.tensor([[p1], [p2]], dtype=torch.float64).log(),
        torch.tensor([q], dtype=torch.float64).log(),
    )
    mean = answer(logits, asked)
    assert mean.softmax(-1)[0].tolist() == pytest.approx([0.65, 0.35], abs=PRINTED)
    geometric = answer(logits, asked, how="mean_logits").softmax(-1)[0]
    assert geometric.tolist() == pytest.approx([0.710102, 0.289898], abs=PRINTED)
    each = [float(losses.soft_target(student, one, temperature=1.0)) for one in logits]
    assert sum(each) / 2 == pytest.approx(0.194100, abs=PRINTED)
    to_mean = float(losses.soft_target(student, mean, temperature=1.0))
    assert to_mean == pytest.approx(0.045701, abs=PRINTED)
    assert sum(each) / 2 - to_mean == pytest.approx(0.148399, abs=PRINTED)


def test_known_numbers_of_weights_by_confidence() -> None:
    right = torch.tensor([0.1, 1.0, 2.0], dtype=torch.float64).neg().exp()
    logits = torch.stack([right, 1 - right], -1).log().unsqueeze(1)
    weights = by_confidence(logits, torch.tensor([0]))[:, 0]
    assert weights.tolist() == pytest.approx([0.450717, 0.378784, 0.170499], abs=PRINTED)


def test_known_numbers_of_weights_by_entropy() -> None:
    start = np.array([3.0, 1.0, 0.0, -1.0])

    def entropy(temperature: float) -> float:
        return float(stats.entropy(softmax(start, temperature)))

    logits = np.stack([start / optimize.brentq(lambda t, h=h: entropy(t) - h, 0.05, 50) for h in (0.2, 0.5, 1.0)])
    weights = by_entropy(torch.from_numpy(logits).unsqueeze(1))[:, 0]
    # Where the authors' weights add up to M − 1, ours add up to 1.
    assert (2 * weights).tolist() == pytest.approx([0.882353, 0.705882, 0.411765], abs=PRINTED)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_that_of_the_mean_of_the_losses(temperature: float) -> None:
    asked, logits = batch(), stack()
    student = stack(1, seed=5)[0].requires_grad_()
    mean = losses.soft_target(student, answer(logits, asked, temperature=temperature), temperature=temperature)
    each = torch.stack([losses.soft_target(student, one, temperature=temperature) for one in logits]).mean()
    first, second = (torch.autograd.grad(value, student)[0] for value in (mean, each))
    assert torch.allclose(first, second, rtol=1e-10, atol=1e-14)
    p = softmax(logits.numpy(), temperature)
    spread = (p * np.log(p / p.mean(0))).sum(-1).mean() * temperature**2
    assert float((each - mean).detach()) == pytest.approx(spread, rel=1e-10)
    assert spread > 0.01


# What must not matter


@every_mean
def test_the_order_of_members_does_not_matter(how: str) -> None:
    asked, logits = batch(), stack(5)
    order = torch.tensor([3, 0, 4, 2, 1])
    found = answer(logits[order], asked, **options_of(how))
    assert torch.allclose(found, answer(logits, asked, **options_of(how)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("how", COMBINATIONS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_equal_members_are_one_member(how: str, count: int) -> None:
    asked, one = batch(), stack(1) * 10
    found = answer(one.expand(count, -1, -1), asked, **options_of(how))
    assert torch.allclose(found, one[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("how", ["mean_probabilities", "mean_logits", *RANDOM])
def test_all_the_weight_on_one_member_is_that_member(how: str) -> None:
    asked, logits = batch(), stack()
    broken = logits.clone()
    broken[[0, 2]] = math.nan  # has no say
    for of in (logits, broken):
        assert torch.equal(answer(of, asked, weights=[0, 7.5, 0], **options_of(how)), logits[1])


@every_mean
def test_an_example_s_answer_does_not_depend_on_its_neighbours(how: str) -> None:
    asked, logits = batch(), stack()
    whole = answer(logits, asked, **options_of(how))
    index = torch.tensor([4, 1])
    some = Batch(asked.ids[index], {"x": asked.inputs["x"][index]}, asked.target[index])
    teacher = EnsembleTeacher(members(logits, asked), **options_of(how))  # type: ignore[arg-type]
    assert torch.allclose(teacher.answer(some).logits, whole[index], rtol=1e-13)  # type: ignore[arg-type]
    assert teacher.by_example


@every_mean
def test_extremes_and_impossible_classes_make_no_nan(how: str) -> None:
    rows = torch.tensor([[1e4, -1e4, 0.0, 0.0], [0.0, 1e4, 1e4, -1e4], [0.0, -math.inf, 1.0, -math.inf]])
    asked = batch(6)
    logits = torch.stack([rows.repeat(2, 1), torch.zeros(6, CLASSES), rows.repeat(2, 1)])
    found = answer(logits, asked, **options_of(how))
    assert not found.isnan().any()
    assert not (found == math.inf).any()
    ruled_out = answer(logits[[0, 2]], asked, **options_of(how))
    assert torch.equal(ruled_out == -math.inf, logits[0] == -math.inf)


def test_members_that_are_equally_sure_or_equally_wrong_weigh_the_same() -> None:
    certain = torch.zeros(2, 3, CLASSES)
    certain[..., 0] = 1e4
    assert by_entropy(certain).tolist() == [[0.5] * 3] * 2
    certain[..., 1] = -math.inf
    assert by_confidence(certain, torch.tensor([1, 0, 1])).tolist() == [[0.5] * 3] * 2


def test_precisions_meet_in_the_greater_one_and_autocast_changes_nothing() -> None:
    asked, logits = batch(), stack()
    single = members(logits.float(), asked)
    assert EnsembleTeacher(single).answer(asked).logits.dtype == torch.float32  # type: ignore[union-attr]
    assert EnsembleTeacher([*single, Plain(asked.ids, logits[0])]).answer(asked).logits.dtype == torch.float64  # type: ignore[union-attr]
    half = EnsembleTeacher(members(logits.bfloat16(), asked)).answer(asked)
    assert half.logits.dtype == torch.float32  # type: ignore[union-attr]
    for how in MEANS:
        teacher = EnsembleTeacher(single, how=how)
        plain = teacher.answer(asked).logits
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(teacher.answer(asked).logits, plain)  # type: ignore[arg-type]


# Labels


def test_weights_by_confidence_need_one_label_per_example() -> None:
    asked = batch()
    mixed = Batch(asked.ids, asked.inputs, torch.full((6, CLASSES), 0.25))
    with pytest.raises(InputError, match="mixed examples have none") as caught:
        EnsembleTeacher(members(stack(), asked), how="confidence").answer(mixed)
    assert "(6, 4)" in str(caught.value)
    assert "entropy" in str(caught.value)
    for how in COMBINATIONS:
        if how != "confidence":
            assert EnsembleTeacher(members(stack(), asked), how=how).answer(mixed).logits.shape == (6, CLASSES)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "target", [torch.full((6,), CLASSES), torch.full((6,), -1), torch.zeros(6), torch.zeros(5).long()]
)
def test_labels_that_are_no_class_numbers_are_refused(target: Tensor) -> None:
    asked = batch()
    with pytest.raises(InputError, match="label") as caught:
        EnsembleTeacher(members(stack(), asked), how="confidence").answer(Batch(asked.ids, asked.inputs, target))
    assert caught.value.problem.expected


def test_judged_it_knows_no_label_and_nothing_is_left_to_chance() -> None:
    asked, logits = batch(), stack()
    other = Batch(asked.ids, asked.inputs, (asked.target + 1) % CLASSES)
    mean = answer(logits, asked)
    for how in COMBINATIONS:
        teacher = EnsembleTeacher(members(logits, asked), **options_of(how))  # type: ignore[arg-type]
        judged = teacher.judged()
        assert teacher.reads_labels is (how == "confidence")
        assert torch.equal(teacher.answer(asked).logits, teacher.answer(other).logits) is not teacher.reads_labels  # type: ignore[arg-type]
        assert torch.equal(judged.answer(asked).logits, judged.answer(other).logits)  # type: ignore[arg-type]
        assert torch.equal(judged.answer(asked).logits, mean) is (how not in ("mean_logits", "entropy"))  # type: ignore[arg-type]
        assert judged.members == teacher.members
        assert (
            EnsembleTeacher([teacher, *members(logits, asked)]).judged().members[0].fingerprint()
            == judged.fingerprint()
        )


# Chance


def test_every_example_has_the_answer_of_the_member_drawn_for_it() -> None:
    asked, logits = batch(200), stack(3, 200)
    said = members(logits, asked)
    teacher = EnsembleTeacher(said, how="random_example", seed=3)
    found, drawn = teacher.answer(asked), teacher.drawn(asked)
    assert torch.equal(found.logits, logits[drawn, torch.arange(200)])  # type: ignore[arg-type]
    assert set(drawn.tolist()) == {0, 1, 2}
    # Nobody was asked about an example that is not theirs.
    assert [len(one.asked) for one in said] == [1, 1, 1]
    assert sorted(one for member in said for one in member.asked[0]) == sorted(asked.ids.tolist())
    assert found.members is None


def test_who_is_drawn_for_an_example_depends_on_seed_view_and_id_alone() -> None:
    asked = batch(300)
    logits = stack(3, 300)
    teacher = EnsembleTeacher(members(logits, asked), how="random_example")
    drawn = teacher.drawn(asked)
    order = torch.randperm(300)
    moved = Batch(asked.ids[order], {}, asked.target[order])
    assert torch.equal(teacher.drawn(moved), drawn[order])
    assert torch.equal(teacher.drawn(Batch(asked.ids[:7], {}, asked.target[:7])), drawn[:7])
    again = EnsembleTeacher(members(logits * 2, asked), how="random_example")
    assert torch.equal(again.drawn(asked), drawn)
    for other in (
        EnsembleTeacher(members(logits, asked), how="random_example", seed=1).drawn(asked),
        teacher.drawn(Batch(asked.ids, {}, asked.target, view=1)),
        teacher.drawn(Batch(asked.ids + 1, {}, asked.target)),
    ):
        # Independent draws of three agree for a third.
        assert 60 < int((other == drawn).sum()) < 140


def test_draws_are_the_same_in_every_process() -> None:
    ids = torch.arange(12)
    teacher = EnsembleTeacher(members(stack(3, 12), Batch(ids, {}, ids)), how="random_example", seed=5)
    assert teacher.drawn(Batch(ids, {}, ids, view=7)).tolist() == [0, 1, 0, 2, 1, 2, 0, 1, 1, 1, 2, 0]
    step = EnsembleTeacher(members(stack(3, 12), Batch(ids, {}, ids)), how="random_step", seed=5)
    spoke = [int(step.drawn(Batch(ids, {}, ids, view=view))[0]) for view in range(12)]
    assert spoke == [0, 1, 1, 1, 2, 2, 1, 2, 0, 2, 1, 0]


@pytest.mark.parametrize("weights", [None, [1, 2, 5], [3, 0, 1]])
@pytest.mark.parametrize("how", RANDOM)
def test_members_are_drawn_as_often_as_they_weigh(how: str, weights: list[float] | None) -> None:
    ids = torch.randint(-(2**62), 2**62, (6000,))
    nobody = [Plain(ids[:1], stack(1, 1)[0])] * 3
    teacher = EnsembleTeacher(nobody, how=how, weights=weights)
    if how == "random_example":
        drawn = teacher.drawn(Batch(ids, {}, ids))
    else:
        drawn = torch.stack([teacher.drawn(Batch(part, {}, part))[0] for part in ids.split(4)])
    counts = drawn.bincount(minlength=3).double().numpy()
    shares = np.array(weights or [1, 1, 1], dtype=float)
    assert (counts[shares == 0] == 0).all()
    expected = shares / shares.sum() * len(drawn)
    assert stats.chisquare(counts[shares > 0], expected[shares > 0]).pvalue > 1e-3


def test_one_member_speaks_for_a_whole_batch() -> None:
    asked, logits = batch(), stack()
    said = members(logits, asked)
    teacher = EnsembleTeacher(said, how="random_step")
    number = int(teacher.drawn(asked)[0])
    found = teacher.answer(asked)
    assert torch.equal(found.logits, logits[number])  # type: ignore[arg-type]
    assert [len(one.asked) for one in said] == [int(k == number) for k in range(3)]
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    assert set(teacher.drawn(Batch(asked.ids[order], {}, asked.target[order])).tolist()) == {number}
    assert len({int(teacher.drawn(Batch(asked.ids, {}, asked.target, view=view))[0]) for view in range(20)}) == 3
    assert len({int(teacher.drawn(Batch(asked.ids + shift, {}, asked.target))[0]) for shift in range(20)}) == 3
    assert not teacher.by_example
    assert not EnsembleTeacher([teacher]).by_example


# Members


@pytest.mark.parametrize("how", COMBINATIONS)
def test_its_members_are_the_same_bits_afterwards(how: str) -> None:
    modules = smalls()
    before = [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]
    teacher = EnsembleTeacher(modules, how=how)
    prints = teacher.fingerprint(), [one.fingerprint() for one in teacher.members]
    first = teacher.answer(batch())
    for module in modules:
        module.train()
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    Distiller(student, teacher, [losses.soft_target])(batch()).loss.backward()
    assert student[1].weight.grad is not None
    assert torch.equal(teacher.answer(batch()).logits, first.logits)  # type: ignore[arg-type]
    assert not first.logits.requires_grad  # type: ignore[union-attr]
    assert first.members is None or not first.members.requires_grad
    for module, kept in zip(modules, before, strict=True):
        now = module.state_dict()
        assert now.keys() == kept.keys()
        assert all(torch.equal(now[name], value) for name, value in kept.items())
        assert not any(parameter.requires_grad for parameter in module.parameters())
    assert (teacher.fingerprint(), [one.fingerprint() for one in teacher.members]) == prints


def test_a_student_learns_from_it_as_from_one_teacher_that_gives_the_same_answers() -> None:
    modules = smalls()
    teacher = EnsembleTeacher(modules, temperature=4.0)
    assert isinstance(teacher, Teacher)
    assert as_teacher(teacher) is teacher
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    distiller = Distiller(student, teacher, [Term(losses.soft_target, temperature=4.0)])
    with torch.no_grad():
        p = np.mean([softmax(one.eval()(batch().inputs["x"]).double().numpy(), 4.0) for one in modules], axis=0)
        q = softmax(student(batch().inputs["x"]).double().numpy(), 4.0)
    assert float(distiller(batch()).loss.detach()) == pytest.approx(16 * (p * np.log(p / q)).sum(-1).mean(), rel=1e-4)
    assert {name for name, _ in distiller.named_parameters()} == {"student.1.weight", "student.1.bias"}


def test_every_member_s_logits_are_handed_over_with_the_answer() -> None:
    modules = smalls()
    found = EnsembleTeacher(modules).answer(batch())
    assert found.members is not None
    assert found.members.shape == (3, 6, CLASSES)
    for said, module in zip(found.members, modules, strict=True):
        assert torch.equal(said, ModuleTeacher(module).answer(batch()).logits)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", COMBINATIONS)
def test_as_one_module_it_answers_as_it_is_judged_and_counts_all_its_weights(how: str) -> None:
    modules = smalls()
    teacher = EnsembleTeacher([modules[0], EnsembleTeacher(modules[1:], how="mean_logits")], **options_of(how))  # type: ignore[arg-type]
    panel = teacher.panel()
    assert panel is not None
    x = batch().inputs["x"].requires_grad_()
    found = panel(x)
    assert torch.allclose(found, teacher.judged().answer(batch()).logits, rtol=1e-5, atol=1e-6)  # type: ignore[arg-type]
    assert sum(one.numel() for one in panel.parameters()) == sum(p.numel() for one in modules for p in one.parameters())
    assert torch.autograd.grad(found.sum(), x)[0].abs().sum() > 0
    state = {k: v.clone() for k, v in panel.state_dict().items()}
    predict(panel, [batch()], torch.device("cpu"))
    assert not any(part.training for part in panel.modules())
    assert all(torch.equal(value, state[name]) for name, value in panel.state_dict().items())
    assert EnsembleTeacher([modules[0], Plain(batch().ids, stack(1)[0])]).panel() is None
    with pytest.raises(InputError, match="no targets"):
        EnsembleTeacher(modules, how="confidence").combined(torch.zeros(3, 6, CLASSES))


def test_features_are_those_of_the_members_under_their_numbers() -> None:
    modules = smalls(2)
    teacher = EnsembleTeacher(modules, places=["1.head", "*.norm", "0.conv*"])
    found = teacher.answer(batch()).features
    assert set(found) == {"0.norm", "1.norm", "1.head", "0.convolution"}
    for number, module in enumerate(modules):
        alone = ModuleTeacher(module, places=["norm"]).answer(batch()).features["norm"]
        assert torch.equal(found[f"{number}.norm"], alone)
    nested = EnsembleTeacher([EnsembleTeacher(modules[:1], places=["0.norm"]), modules[1]])
    assert set(nested.answer(batch()).features) == {"0.0.norm"}
    assert EnsembleTeacher(modules, how="random_example", places=["*.norm"]).answer(batch()).features == {}


@pytest.mark.parametrize("place", ["head", "2.head", "-1.head", "0.", "0", "x.head", ""])
def test_a_place_that_names_no_member_is_refused(place: str) -> None:
    with pytest.raises(InputError, match="does not say of which teacher") as caught:
        EnsembleTeacher(smalls(2), places=[place])
    assert "0 to 1" in str(caught.value)


def test_a_place_that_a_member_does_not_have_is_refused() -> None:
    with pytest.raises(ModelError, match="no layer `haed`"):
        EnsembleTeacher(smalls(2), places=["1.haed"])


@pytest.mark.parametrize("how", COMBINATIONS)
def test_members_of_other_classes_are_refused_with_both_numbers(how: str) -> None:
    asked = batch(50)
    teacher = EnsembleTeacher([Plain(asked.ids, torch.zeros(50, classes)) for classes in (10, 10, 7)], how=how)

    def ask_on() -> None:
        for shift in range(50):  # a random form may need a while to ask the odd one
            teacher.answer(Batch(asked.ids.roll(shift)[: 50 - shift], {}, torch.zeros(50 - shift, dtype=torch.int64)))

    with pytest.raises(ModelError, match="do not know the same classes") as caught:
        ask_on()
    assert "10 classes" in str(caught.value)
    assert "7" in str(caught.value)
    assert caught.value.exit_code == 3


def test_answers_in_part_are_refused_and_a_whole_top_k_is_read() -> None:
    asked, logits = batch(), stack().float()
    said = members(logits, asked)
    part = top_k(logits[1], 2)
    drawn = Sampled(part.indices, torch.full((6, 2), 0.5), CLASSES)
    for little in (part, drawn):
        said[1].answer = lambda _, answer=little: Outputs(answer)  # type: ignore[method-assign]
        with pytest.raises(ModelError, match="member 1 of the ensemble answers with a part") as caught:
            EnsembleTeacher(said).answer(asked)
        assert "2 of 4" in str(caught.value)
    said[1].answer = lambda _: Outputs(top_k(logits[1], CLASSES))  # type: ignore[method-assign]
    assert torch.equal(EnsembleTeacher(said).answer(asked).logits, answer(logits, asked))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(5, CLASSES), (6, CLASSES, 1), (6,)])
def test_a_member_that_gives_no_row_per_example_is_refused(shape: tuple[int, ...]) -> None:
    asked = batch()
    said = members(stack(2), asked)
    said[1].answer = lambda _: Outputs(torch.zeros(shape))  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="member 1 of the ensemble does not answer with logits") as caught:
        EnsembleTeacher(said).answer(asked)
    assert str(shape) in str(caught.value)


def test_a_fingerprint_tells_members_and_settings() -> None:
    asked, logits = batch(), stack()

    def told(of: Tensor = logits, **options: object) -> str:
        return EnsembleTeacher(members(of, asked), **options).fingerprint()  # type: ignore[arg-type]

    others = [
        told(logits + 1e-9), told(logits.flip(0)), told(logits[:2]), told(temperature=2.0), told(weights=[1, 1, 2]),
        *[told(how=how) for how in COMBINATIONS], told(how="random_step", seed=1),
    ]  # fmt: skip
    assert len(set(others)) == len(others)
    assert told() == told(how="mean_probabilities", temperature=1, weights=[5, 5, 5]) == others[5]
    assert re.fullmatch("[0-9a-f]{64}", told())


def test_it_moves_with_its_members() -> None:
    modules = smalls(2)
    EnsembleTeacher([modules[0], EnsembleTeacher([modules[1]])]).to(torch.device("meta"))
    assert {value.device.type for module in modules for value in module.state_dict().values()} == {"meta"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"how": "mean"}, "mean_logits"),
        ({"how": "votes"}, "known names"),
        ({"weights": [1, 2]}, "[1.0, 2.0] for 3"),
        ({"weights": [1, 2, -1]}, "none below 0"),
        ({"weights": [0, 0, 0]}, "not all 0"),
        ({"weights": [1, 2, math.nan]}, "nan"),
        ({"weights": [1, 2, math.inf]}, "inf"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"temperature": "warm"}, "warm"),
        ({"how": "mean_logits", "temperature": 2.0}, "has no temperature"),
        ({"how": "entropy", "weights": [1, 2, 3]}, "has no weights"),
        ({"how": "confidence", "weights": [1, 2, 3]}, "has no weights"),
        ({"how": "random_step", "temperature": 2.0}, "has no temperature"),
        ({"seed": 1}, "has no seed"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError) as caught:
        EnsembleTeacher(members(stack(), batch()), **options)  # type: ignore[arg-type]
    assert says in str(caught.value)


@pytest.mark.parametrize("teachers", [[], (), nn.Linear(2, 2), None])
def test_an_ensemble_of_nobody_is_refused(teachers: object) -> None:
    with pytest.raises(InputError, match="at least one teacher"):
        EnsembleTeacher(teachers)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot be a teacher"):
        EnsembleTeacher(["cnn"])  # type: ignore[list-item]


# Stores


def test_its_combined_answers_are_stored_under_a_key_of_members_and_settings(tmp_path: Path) -> None:
    of = examples(20)
    keys = set()
    for options in ({}, {"temperature": 4.0}, {"how": "entropy"}, {"how": "random_example"}):
        teacher = EnsembleTeacher([net(0), net(1)], **options)  # type: ignore[arg-type]
        built = stored(tmp_path, question(of), capture(teacher))
        keys.add(built.place)
        everything = question(of).batch(question(of).ids(), None)
        assert torch.equal(StoredTeacher(built.place).answer(everything).logits, teacher.answer(everything).logits)  # type: ignore[arg-type]
    assert len(keys) == 4


def test_stored_members_are_combined_as_live_ones_without_asking_again(tmp_path: Path) -> None:
    of = examples(20)
    nets = [net(0), net(1)]
    kept = [StoredTeacher(stored(tmp_path, question(of), capture(one)).place) for one in nets]
    everything = question(of).batch(question(of).ids(), None)
    for how in COMBINATIONS:
        live = EnsembleTeacher(nets, how=how).answer(everything)
        found = EnsembleTeacher(kept, how=how).answer(everything)
        assert torch.equal(found.logits, live.logits)  # type: ignore[arg-type]
        assert (found.members is None) is (how in RANDOM)
        if found.members is not None and live.members is not None:
            assert torch.equal(found.members, live.members)


def test_tables_are_met_by_id() -> None:
    asked, logits = batch(50), stack(2, 50)
    teacher = EnsembleTeacher([TableTeacher(asked.ids, one) for one in logits], how="mean_logits")
    index = torch.tensor([49, 3, 3, 17])
    some = Batch(asked.ids[index], {}, asked.target[index])
    assert torch.allclose(teacher.answer(some).logits, logits.mean(0)[index], rtol=1e-12)  # type: ignore[arg-type]
    with pytest.raises(MismatchError, match="no stored answer"):
        teacher.answer(batch(3, seed=9))


# Weights of the shortest mean
