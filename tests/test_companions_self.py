"""What learns along for single terms: a memory, judges, exits and branches, each by itself."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from companion_parts import CE, recipe, train
from tutelage import losses
from tutelage.companions import Around, Listening, Seen
from tutelage.companions.branches import Branches
from tutelage.companions.exits import Exits
from tutelage.companions.judges import FeatureJudge, LogitJudge
from tutelage.companions.memories import PastProbabilities
from tutelage.companions.numbers import TemperatureParameter
from tutelage.companions.rows import averaged
from tutelage.distiller import Distiller
from tutelage.errors import InputError, ModelError
from tutelage.losses.targets import top_k
from tutelage.models import ModelSpec, build
from tutelage.objective import Objective, Place, Term
from tutelage.teachers import EnsembleTeacher, ModuleTeacher
from tutelage.types import Batch, Outputs

CLASSES = 4


def batch(count: int = 12, seed: int = 0, **more: Any) -> Batch:
    source = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 8, 8, generator=source)
    return Batch(torch.arange(count), {"x": x}, torch.randint(0, CLASSES, (count,), generator=source), **more)


def net(model: str = "cnn", seed: int = 0, **args: Any) -> nn.Module:
    torch.manual_seed(seed)
    spec = ModelSpec(model, {"width": 4, **args} if model != "mlp" else args)
    return build(spec, input_shape=(1, 8, 8), classes=CLASSES, mean=[0.5], std=[0.3])


def listening(term: Term, student: nn.Module | None = None, *, answer: Outputs | None = None) -> Listening:
    example = batch()
    known = torch.arange(40), torch.zeros(40, dtype=torch.int64)
    told = answer or Outputs(torch.randn(len(example), CLASSES), {"layer": torch.randn(len(example), 7, 2, 2)})
    torch.manual_seed(1)
    return Listening(student or net(), Objective([term]), Around(example, told, known=known, batch_size=len(example)))


def companion(made: Listening) -> Any:
    (one,) = made.companions.values()
    return one


# ---- a memory --------------------------------------------------------------------------------------------------------


def test_the_past_is_what_a_plain_loop_remembers() -> None:
    memory = PastProbabilities(torch.tensor([7, 3, 11, 5, 3, 20]), CLASSES)
    kept: dict[int, Tensor] = {}
    source = torch.Generator().manual_seed(0)
    for step in range(12):
        ids = torch.tensor([20, 3, 11, 5, 7])[torch.randperm(5, generator=source)[: 1 + step % 5]]
        logits = torch.randn(len(ids), CLASSES, generator=source, requires_grad=True) * 3
        seen = Seen(Batch(ids, {}, torch.zeros(len(ids), dtype=torch.int64)), None, 0.5)
        said = memory(Outputs(logits), seen)
        assert not said.requires_grad
        for row, number in enumerate(ids.tolist()):
            if number in kept:
                assert torch.equal(said[row], kept[number])
            else:
                assert said[row].isnan().all()
            kept[number] = logits[row].detach().softmax(-1)
    assert memory.memory.shape == (5, CLASSES)
    assert set(memory.state_dict()) == {"memory"}


def test_half_precision_is_remembered_in_single() -> None:
    memory = PastProbabilities(torch.arange(3), CLASSES)
    logits = torch.tensor([[9.0, 1.0, 0.0, -9.0]], dtype=torch.bfloat16)
    seen = Seen(Batch(torch.tensor([1]), {}, torch.zeros(1, dtype=torch.int64)), None, 0.0)
    memory(Outputs(logits), seen)
    assert torch.equal(memory(Outputs(logits), seen), logits.float().softmax(-1))


def test_an_example_that_is_none_of_the_training_part_is_refused() -> None:
    made = listening(Term(losses.progressive))
    with pytest.raises(InputError, match="none of the training part") as caught:
        made(batch().inputs["x"], Seen(Batch(torch.arange(100, 112), batch().inputs, batch().target), None, 0.5))
    assert "known=" in str(caught.value)


def test_without_known_examples_there_is_no_memory() -> None:
    with pytest.raises(InputError, match="term `progressive`: a term remembers by example") as caught:
        Distiller(net(), None, [Term(losses.progressive)], example=batch())
    assert "known=" in str(caught.value)


# ---- judges ----------------------------------------------------------------------------------------------------------


def test_each_player_learns_from_its_own_scores_only() -> None:
    torch.manual_seed(0)
    judge = LogitJudge(CLASSES, CLASSES, 8)
    whole = batch()
    student, teacher = (torch.randn(12, CLASSES, requires_grad=True) for _ in range(2))
    fixed, detached, told = judge(Outputs(student), Seen(whole, Outputs(teacher), 0.5))
    assert torch.equal(fixed, detached)
    weights = list(judge.parameters())
    assert torch.autograd.grad(fixed.sum(), weights, retain_graph=True, allow_unused=True) == (None,) * len(weights)
    (slope,) = torch.autograd.grad(fixed.sum(), student, retain_graph=True)
    assert slope.abs().sum(-1).min() > 0
    for one in (detached, told):
        assert torch.autograd.grad(one.sum(), [student, teacher], retain_graph=True, allow_unused=True) == (None, None)
        assert all(g.abs().sum() > 0 for g in torch.autograd.grad(one.sum(), weights[:1], retain_graph=True))
    # The student's own part moves the student as a frozen copy of the judge would.
    frozen = copy.deepcopy(judge).requires_grad_(False)
    loss = losses.adversarial(student, teacher, [fixed, detached, told], logit=0.0)
    (found,) = torch.autograd.grad(loss, student)
    scores = frozen.judge(torch.cat([student, nn.functional.one_hot(whole.target, CLASSES).float()], -1))
    (expected,) = torch.autograd.grad(-nn.functional.logsigmoid(scores).mean(), student)
    torch.testing.assert_close(found, expected)


def test_a_judge_finds_out_who_speaks_and_cannot_where_both_say_the_same() -> None:
    def settled(shift: float) -> float:
        torch.manual_seed(0)
        judge = LogitJudge(CLASSES, 0, 16)
        optimizer = torch.optim.Adam(judge.parameters(), 0.01)
        source = torch.Generator().manual_seed(1)
        for _ in range(150):
            student, teacher = (torch.randn(64, CLASSES, generator=source) for _ in range(2))
            scores = judge(Outputs(student + shift), Seen(batch(64), Outputs(teacher), 0.5))
            loss = losses.adversarial_feature([torch.zeros(64), *scores[1:]]) - math.log(2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    assert settled(0.0) == pytest.approx(math.log(4), abs=0.1)
    assert settled(4.0) < 0.3


def test_a_judge_is_told_labels_or_shares_or_nothing() -> None:
    torch.manual_seed(0)
    judge, blind = LogitJudge(CLASSES, CLASSES, 8), LogitJudge(CLASSES, 0, 8)
    logits, told = torch.randn(12, CLASSES), Outputs(torch.randn(12, CLASSES))
    one, other = batch(seed=1), batch(seed=2)
    other = Batch(other.ids, one.inputs, (one.target + 1) % CLASSES)
    scores = [judge(Outputs(logits), Seen(which, told, 0.5))[0] for which in (one, other)]
    assert not torch.allclose(*scores)
    assert torch.equal(*(blind(Outputs(logits), Seen(which, told, 0.5))[0] for which in (one, other)))
    shares = Batch(one.ids, one.inputs, nn.functional.one_hot(one.target, CLASSES).float())
    assert torch.equal(judge(Outputs(logits), Seen(shares, told, 0.5))[0], scores[0])
    # Where a label is not known, whatever stands in its place says nothing.
    known = torch.arange(12) < 6
    hidden = [
        judge(Outputs(logits), Seen(Batch(which.ids, which.inputs, which.target, labelled=known), told, 0.5))[0]
        for which in (one, other)
    ]
    assert torch.equal(hidden[0][6:], hidden[1][6:])
    assert torch.equal(hidden[0][:6], scores[0][:6])


def test_scores_are_single_under_autocast() -> None:
    judge = LogitJudge(CLASSES, 0, 8)
    logits = torch.randn(12, CLASSES)
    expected = judge(Outputs(logits), Seen(batch(), Outputs(logits), 0.5))
    with torch.autocast("cpu", torch.bfloat16):
        found = judge(Outputs(logits), Seen(batch(), Outputs(logits), 0.5))
    assert all(
        torch.equal(one, other) and one.dtype == torch.float32 for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"width": 0}, "width of a judge"), ({"width": 2.5}, "width of a judge"), ({"labels": 1}, "told labels or not")],
)
def test_a_judge_that_cannot_be_built_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=f"term `adversarial`: .*{says}"):
        listening(Term(losses.adversarial, companion=settings))


def test_settings_that_it_has_not_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="no setting `depth`") as caught:
        Term(losses.adversarial, companion={"depth": 3})
    assert "width" in str(caught.value)


def test_a_judge_needs_all_logits_from_the_start() -> None:
    part = Outputs(top_k(torch.randn(12, CLASSES), 2))
    with pytest.raises(InputError, match="a judge reads every logit of the teacher"):
        listening(Term(losses.adversarial), answer=part)


@pytest.mark.parametrize(("shape", "rows"), [((12, 5), (12, 5)), ((12, 3, 5), (12, 5)), ((12, 5, 2, 3), (12, 5))])
def test_rows_are_means_over_places(shape: tuple[int, ...], rows: tuple[int, ...]) -> None:
    feature = torch.randn(shape)
    expected = feature if len(shape) == 2 else feature.mean(1) if len(shape) == 3 else feature.flatten(2).mean(-1)
    assert averaged(feature).shape == rows
    torch.testing.assert_close(averaged(feature), expected)
    with pytest.raises(InputError, match="neither places nor tokens"):
        averaged(torch.randn(2, 3, 4, 5, 6))


def test_features_of_other_widths_go_through_a_layer_that_learns_with_the_student() -> None:
    judge = FeatureJudge(Place("a", "b"), 3, 7, 8)
    ours = torch.randn(12, 3, 4, 4, requires_grad=True)
    theirs = torch.randn(12, 7, 2, 2)
    seen = Seen(batch(), Outputs(torch.zeros(12, CLASSES), {"b": theirs}), 0.5)
    fixed, detached, told = judge(Outputs(torch.zeros(12, CLASSES), {"a": ours}), seen)
    matched = list(judge.matched.parameters())
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(fixed.sum(), [ours, *matched], retain_graph=True))
    for one in (detached, told):
        assert torch.autograd.grad(one.sum(), [ours, *matched], retain_graph=True, allow_unused=True) == (None,) * 3
    assert isinstance(FeatureJudge(Place("a", "b"), 7, 7, 8).matched, nn.Identity)


# ---- exits -----------------------------------------------------------------------------------------------------------

STAGES = ["net.stages.0", "net.stages.1", "net.stages.2"]


@pytest.mark.parametrize(
    "shapes",
    [
        [(12, 3), (12, 9), (12, 5)],
        [(12, 6, 3), (12, 6, 5)],
        [(12, 3, 8, 8), (12, 5, 4, 4)],
        [(12, 3, 2, 2), (12, 1, 4, 4)],
    ],
    ids=str,
)
def test_exits_lead_to_the_shape_of_the_deepest_layer(shapes: list[tuple[int, ...]]) -> None:
    places = [f"layer{n}" for n in range(len(shapes))]
    exits = Exits(places[:-1], shapes, CLASSES)
    for count in (12, 11, 1):  # the last batch is not like the others
        features = {place: torch.randn(count, *shape[1:]) for place, shape in zip(places, shapes, strict=True)}
        found = exits(Outputs(torch.zeros(count, CLASSES), features), Seen(batch(count), None, 0.5))
        half = len(places) - 1
        assert [tuple(one.shape) for one in found[:half]] == [(count, CLASSES)] * half
        assert [tuple(one.shape) for one in found[half:]] == [(count, *shapes[-1][1:])] * half


def test_without_its_exits_the_student_is_the_plain_net_to_the_bit() -> None:
    plain = net().eval()
    made = listening(Term(losses.own_exits, at=STAGES), copy.deepcopy(plain)).eval()
    x = batch(seed=3).inputs["x"]
    logits, _, matched = made(x, Seen(batch(seed=3), None, 0.5))
    assert torch.equal(logits, plain(x))
    assert len(matched["0+exits"]) == 4
    assert torch.equal(made.student(x), plain(x))
    assert made.student.state_dict().keys() == plain.state_dict().keys()
    # A clean net answers an exit's example as it would alone: nothing of it reads its neighbours.
    alone = made(x[:1], Seen(batch(1), None, 0.5))[2]["0+exits"]
    for one, whole in zip(alone, matched["0+exits"], strict=True):
        torch.testing.assert_close(one, whole[:1], rtol=1e-4, atol=1e-5)


def test_exits_that_lead_nowhere_are_refused() -> None:
    with pytest.raises(InputError, match="term `own_exits`: exits lie on layers before the deepest one"):
        listening(Term(losses.own_exits, at=[STAGES[2]]))
    with pytest.raises(InputError, match=r"no exit leads from `net\.stages\.0` to the deepest layer"):
        listening(Term(losses.own_exits, at=[STAGES[0], "net.dropout"]))
    with pytest.raises(InputError, match="no exit leads from `a`"):
        Exits(["a"], [(12, 6, 3), (12, 5, 3)], CLASSES)


def test_exits_teach_the_layers_before_them_and_nobody_teaches_the_last_one() -> None:
    distiller = Distiller(net(), None, [Term(losses.own_exits, at=STAGES)], example=batch())
    distiller(batch()).loss.backward()
    student = distiller.student.student
    moved = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(name.startswith("net.stages.0") for name in moved)
    assert any(name.startswith("net.stages.1") for name in moved)
    assert not any(name.startswith(("net.stages.2", "net.head")) for name in moved)


# ---- branches --------------------------------------------------------------------------------------------------------

CHAINS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "cnn": (net, "net.stages.0"),
    "cnn-inside": (net, "net.stages.0.2"),
    "cnn-late": (net, "net.stages.2"),
    "dscnn": (lambda: net("dscnn"), "net.stages.1"),
    "dscnn-stem": (lambda: net("dscnn"), "net.stem"),
    "mlp": (lambda: net("mlp", width=8), "net.hidden.2"),
    "plain": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, CLASSES)), "2"),
    "pattern": (net, "*stages.1"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_branches_are_what_follows_a_layer_with_other_weights(name: str) -> None:
    make, place = CHAINS[name]
    torch.manual_seed(0)
    student = make()
    made = listening(Term(losses.native_ensemble, at=place, companion={"count": 4}), student)
    branches: Branches = companion(made)
    whole = batch(11, seed=2)  # one less than what it was built with
    logits, features, matched = made.eval()(whole.inputs["x"], Seen(whole, None, 0.5))
    *others, gate = matched["0+branches"]
    assert len(others) == 3
    assert all(one.shape == logits.shape for one in others)
    every = [logits, *others]
    assert all(not torch.allclose(a, b, atol=1e-3) for n, a in enumerate(every) for b in every[:n])
    assert gate.shape == (11, 4)
    assert (gate > 0).all()
    torch.testing.assert_close(gate.sum(-1), torch.ones(11))
    # With the student's weights in their place, branches say what the student says.
    own = student.state_dict()
    for branch in branches.branches:
        behind = branch.rest.state_dict()
        assert set(behind) < set(own)
        branch.rest.load_state_dict({key: own[key] for key in behind})
        (feature,) = features.values()
        assert torch.equal(branch(whole.inputs["x"], feature), logits)
        assert branch.given.feature is None
    # Nothing before the place is copied: the copies are what a student has behind it, and the gate.
    assert not any(key.startswith("normalise") for key in behind)


def test_branches_and_the_student_share_what_is_before_the_place() -> None:
    distiller = Distiller(net(), None, [Term(losses.native_ensemble, at="net.stages.1")], example=batch())
    distiller(batch()).loss.backward()
    made = distiller.student
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.companions.parameters())
    assert all(p.grad is not None for p in made.student.parameters())
    other = Distiller(net(), None, [losses.cross_entropy])
    other(batch()).loss.backward()
    first = "net.stages.0.0.weight"
    mine, alone = (dict(s.named_parameters())[first].grad for s in (made.student, other.student))
    assert not torch.allclose(mine, alone)


class Skip(nn.Module):
    """What follows its layer reads what is before it as well."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, CLASSES)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.head(self.two(self.one(x)) + self.scale * x)


class Bare(nn.Module):
    """Its last weights are no layer that could draw them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), nn.Parameter(torch.randn(8, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) @ self.head


@pytest.mark.parametrize(
    ("student", "place"),
    [(lambda: net("transformer", width=8), "net.blocks.0"), (lambda: net("gru"), "net.dropout"),
     (lambda: Skip(1.0), "one"), (lambda: Skip(1e-7), "one"), (Bare, "one")],
    ids=["transformer", "gru", "skip", "hardly-a-skip", "bare"],
)  # fmt: skip
def test_a_student_that_is_no_chain_is_refused_and_told_which_are(student: Callable[[], nn.Module], place: str) -> None:
    with pytest.raises(ModelError, match=r"term `native_ensemble`: the student has no part behind") as caught:
        listening(Term(losses.native_ensemble, at=place), student())
    assert "mlp, cnn or dscnn" in str(caught.value)


@pytest.mark.parametrize("count", [1, 0, 2.5, True])
def test_an_ensemble_of_one_is_refused(count: Any) -> None:
    with pytest.raises(InputError, match="an ensemble has several branches"):
        listening(Term(losses.native_ensemble, at="net.stages.0", companion={"count": count}))


# ---- all of them -----------------------------------------------------------------------------------------------------

TERMS = {
    "adversarial": Term(losses.adversarial),
    "adversarial_feature": Term(losses.adversarial_feature, at=("net.stages.2", "layer")),
    "curriculum_temperature": Term(losses.curriculum_temperature),
    "native_ensemble": Term(losses.native_ensemble, at="net.stages.0"),
    "own_exits": Term(losses.own_exits, at=STAGES),
    "progressive": Term(losses.progressive),
}
all_of_them = pytest.mark.parametrize("name", TERMS)


@all_of_them
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_nobody_draws_from_torchs_numbers_but_the_student(name: str, dropout: float) -> None:
    made = listening(TERMS[name], net(dropout=dropout)).train()
    told = Outputs(torch.randn(12, CLASSES), {"layer": torch.randn(12, 7, 2, 2)})
    states = []
    for seen in (None, Seen(batch(), told, 0.5)):
        torch.manual_seed(5)
        made(batch().inputs["x"], seen)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@all_of_them
@pytest.mark.parametrize("count", [11, 13])
def test_half_precision_and_other_batches_and_another_memory_order(name: str, count: int) -> None:
    made = listening(TERMS[name]).to(memory_format=torch.channels_last).train()
    whole = batch(count)
    told = Outputs(torch.randn(count, CLASSES), {"layer": torch.randn(count, 7, 2, 2)})
    with torch.autocast("cpu", torch.bfloat16):
        logits, features, matched = made(whole.inputs["x"], Seen(whole, told, 0.5))
        step = Objective([TERMS[name]])(Outputs(logits, features, matched), told, whole, progress=0.5)
    step.loss.backward()
    assert torch.isfinite(step.loss)
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)


def test_a_temperature_starts_where_it_is_told() -> None:
    made: TemperatureParameter = companion(listening(Term(losses.curriculum_temperature, companion={"initial": -2.5})))
    found = made(Outputs(torch.zeros(1, 2)), Seen(batch(), None, 0.0))
    assert float(found.detach()) == -2.5
    assert found.requires_grad
    assert found is not made.value


def test_partners_are_answered_alike_with_training(tmp_path: Path) -> None:
    """The one method here without a companion: its view is drawn by the run."""
    term = {"loss": "class_consistency", "weight": 20.0, "temperature": 1.0}
    found = train(recipe({"alike": [CE, term]}, train__epochs=6), tmp_path / "run")
    curve = found.learned["alike"].curve
    assert curve[0]["class_consistency"] > 0
    assert found.students["alike"].keys() == found.students["scratch"].keys()
    assert found.files["alike"] != found.files["scratch"]


SPREAD: dict[str, list[dict[str, Any]]] = {
    "past": [{"loss": "progressive"}],
    "curriculum": [CE, {"loss": "curriculum_temperature"}],
    "judged": [CE, {"loss": "adversarial", "weight": 0.1}],
    "feature": [CE, {"loss": "adversarial_feature", "at": "net.stages.2"}],
    "exits": [CE, {"loss": "own_exits", "at": ["net.hidden.2", "net.hidden.5"]}],
    "native": [{"loss": "native_ensemble", "at": "net.hidden.2"}],
}


def test_two_processes_learn_and_remember_what_one_does(tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric", reason="the extra `distributed` is not installed")
    written = recipe(SPREAD, student={"model": "mlp", "args": {"width": 8, "depth": 2}}, train__optimizer="sgd")
    written["arms"]["feature"][1]["at"] = {"student": "net.hidden.5", "teacher": "net.stages.2"}
    alone = train(written, tmp_path / "alone")
    written["train"]["engine"] = "fabric"
    (tmp_path / "pair.yaml").write_text(json.dumps(written))  # which is YAML as well
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "tutelage"]
    command += ["run", str(tmp_path / "pair.yaml"), "--out", str(tmp_path / "pair"), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "pair" / "checkpoints" / "seed-0"
    pair = load_file(folder / (folder / "last").read_text().strip() / "model.safetensors")
    assert pair.keys() == alone.checkpoint.keys()
    assert any("past_probabilities.memory" in name for name in pair)
    for name, value in alone.checkpoint.items():
        # Sums of gradients are added up in another order, and nothing else differs.
        torch.testing.assert_close(pair[name], value, rtol=1e-3, atol=1e-5, equal_nan=True, msg=name)


def test_two_phases_of_annealing_are_two_terms(tmp_path: Path) -> None:
    later = {"loss": "cross_entropy", "weight": {"schedule": "switch", "before": 0, "after": 1, "at": 0.5}}
    arms = {"phases": [{"loss": "annealed", "options": {"until": 0.5}}, later]}
    found = train(recipe(arms), tmp_path / "run")
    first, second = found.learned["phases"].curve
    assert "cross_entropy" not in first  # of weight 0 in every step: one term is left, the loss itself
    assert first["loss"] > 0
    assert second["annealed"] == 0.0
    assert second["loss"] == pytest.approx(second["cross_entropy"])


def test_a_judge_meets_one_random_teacher_at_each_step() -> None:
    members = [ModuleTeacher(net(seed=seed)) for seed in (1, 2)]
    teachers = EnsembleTeacher(members, how="random_step", seed=0)
    distiller = Distiller(net(), teachers, [Term(losses.adversarial, options={"logit": 0.0})], example=batch())
    made, met = distiller.student.companions["0+judged"], set()
    for step in range(12):
        whole = batch(seed=step)
        whole = Batch(whole.ids + 100 * step, whole.inputs, whole.target)
        said = made(Outputs(torch.zeros(12, CLASSES)), Seen(whole, teachers.answer(whole), 0.5))[2]
        alone = [made(Outputs(torch.zeros(12, CLASSES)), Seen(whole, one.answer(whole), 0.5))[2] for one in members]
        met.add(next(number for number, one in enumerate(alone) if torch.equal(said, one)))
        distiller(whole).loss.backward()
    assert met == {0, 1}
