"""Whom a term listens to beside the teacher: its own average, peers, stale copies, other arms; and feedback."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from companion_parts import CE, Trained, bits, killed, recipe, teacher_file, teacher_net, train
from tutelage.data import load, plain_batches
from tutelage.distiller import Asked, Distiller
from tutelage.errors import InputError
from tutelage.evaluation.predict import predict
from tutelage.losses import hint, soft_target
from tutelage.models import load_weights
from tutelage.objective import Term
from tutelage.recipe import from_mapping
from tutelage.run.job import job_of_recipe
from tutelage.schedules import Schedule, follow, plateau, switch
from tutelage.sources import Ema, FromArm, Peers
from tutelage.teachers.moving import MovingTeacher
from tutelage.training import Arm
from tutelage.training.peers import combined
from tutelage.types import Batch, Outputs
from tutelage.words import COMBINED

SOFT = {"loss": "soft_target", "temperature": 1.0}
TWO = {"first": {"model": "cnn", "args": {"width": 4}}, "second": {"model": "cnn", "args": {"width": 4}, "start": 1}}


def net(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def batch(seed: int = 0, count: int = 16) -> Batch:
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=source)
    return Batch(torch.arange(count), {"x": x}, torch.randint(0, 3, (count,), generator=source))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


# ---- the student's own average ---------------------------------------------------------------------------------------


def moved(student: nn.Module, step: int) -> None:
    """A step of training, with statistics of batches."""
    student.train()
    loss = nn.functional.cross_entropy(student(batch(step).inputs["x"]), batch(step).target)
    loss.backward()
    with torch.no_grad():
        for parameter in student.parameters():
            assert parameter.grad is not None
            parameter -= 0.3 * parameter.grad
            parameter.grad = None


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9])
def test_an_average_is_that_of_a_plain_loop(decay: float) -> None:
    student = net()
    teacher = MovingTeacher(student, decay=decay)
    mean = {name: value.double().numpy() for name, value in state(student).items()}
    for step in range(25):
        moved(student, step)
        teacher.follow(student, step)
        keep = min(decay, (1 + step) / (10 + step))
        for name, value in state(student).items():
            now = value.double().numpy()
            mean[name] = keep * mean[name] + (1 - keep) * now if value.is_floating_point() else now
    for name, value in teacher.module.state_dict().items():
        assert value.double().numpy() == pytest.approx(mean[name], rel=1e-4, abs=1e-6), name
    assert int(teacher.module.state_dict()["1.num_batches_tracked"]) == 25
    still = copy.deepcopy(net())
    still.load_state_dict({name: torch.from_numpy(value) for name, value in mean.items()})
    still.eval()
    answer = teacher.answer(batch(99))
    assert isinstance(answer.logits, Tensor)
    assert not answer.logits.requires_grad
    torch.testing.assert_close(answer.logits, still(batch(99).inputs["x"]), rtol=1e-4, atol=1e-5)


def test_an_average_is_a_copy_that_nobody_trains() -> None:
    student = net(dropout=0.5)
    before = state(student)
    teacher = MovingTeacher(student, decay=0.5)
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())
    assert not any(module.training for module in teacher.module.modules())
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    teacher.answer(batch())
    assert bits(state(student)) == bits(before)
    first = teacher.fingerprint()
    moved(student, 0)
    assert teacher.fingerprint() == first
    teacher.follow(student, 0)
    assert teacher.fingerprint() != first


def test_without_decay_it_is_the_student_to_the_bit() -> None:
    student = net()
    teacher = MovingTeacher(student, decay=0.0)
    for step in range(3):
        moved(student, step)
        teacher.follow(student, step)
        assert bits(state(teacher.module)) == bits(state(student))


def test_a_stale_copy_is_renewed_every_so_many_steps() -> None:
    student = net()
    teacher, renewed = MovingTeacher(student, every=4), bits(state(student))
    for step in range(10):
        moved(student, step)
        teacher.follow(student, step)
        if (step + 1) % 4 == 0:
            renewed = bits(state(student))
        assert bits(state(teacher.module)) == renewed


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_what_is_no_decay_is_refused(decay: float) -> None:
    for made in (Ema, lambda d: MovingTeacher(net(), decay=d)):
        with pytest.raises(InputError, match="decay"):
            made(decay)


@contextmanager
def recorded() -> Iterator[tuple[list[tuple[str, int, dict[str, Tensor]]], list[tuple[str, int, Any, Asked]]]]:
    """While arms learn: every arm's weights after each step, and what it heard of its sources and said before."""
    after: list[tuple[str, int, dict[str, Tensor]]] = []
    told: list[tuple[str, int, Any, Asked]] = []
    learn = Arm.learn

    def learns(self: Arm, asked: Asked, *arguments: Any, step: int, others: Any = None, **keywords: Any) -> None:
        mine = self.distiller.objective.sources
        told.append((self.name, step, {s: one for s, one in (others or {}).items() if s in mine}, asked))
        learn(self, asked, *arguments, step=step, others=others or {}, **keywords)
        after.append((self.name, step, state(self.student)))

    with mock.patch.object(Arm, "learn", learns):
        yield after, told


def test_in_a_run_the_average_follows_every_step(tmp_path: Path) -> None:
    term = {**SOFT, "source": {"ema": 0.9}}
    with recorded() as (after, _):
        found = train(recipe({"mean": [CE, term]}), tmp_path / "run")
    begun = found.begun["mean"]
    mean = {name.removeprefix("ema0."): value.double() for name, value in begun.items()}
    steps = [(step, now) for name, step, now in after if name == "mean"]
    assert len(steps) == 6
    for step, now in steps:
        keep = min(0.9, (1 + step) / (10 + step))
        for name, value in now.items():
            mean[name] = (
                keep * mean[name] + (1 - keep) * value.double() if value.is_floating_point() else value.double()
            )
    kept = found.along("mean")
    assert set(kept) == {f"ema0.{name}" for name in mean}
    for name, value in mean.items():
        torch.testing.assert_close(kept[f"ema0.{name}"].double(), value, rtol=1e-5, atol=1e-6)
    assert found.students["mean"].keys() == mean.keys()


# ---- peers -----------------------------------------------------------------------------------------------------------


def mutual(**source: Any) -> dict[str, Any]:
    """Two students who teach each other."""
    return recipe({"mutual": [CE, {**SOFT, "source": {"peers": "each", **source}}]}, student=None, students=TWO)


@contextmanager
def first_gradients() -> Iterator[dict[str, dict[str, Tensor]]]:
    """The gradients of every arm's first step."""
    found: dict[str, dict[str, Tensor]] = {}
    learn = Arm.learn

    def learns(self: Arm, *arguments: Any, step: int, **keywords: Any) -> None:
        learn(self, *arguments, step=step, **keywords)
        if step == 0:
            found[self.name] = {n: p.grad.clone() for n, p in self.student.named_parameters() if p.grad is not None}

    with mock.patch.object(Arm, "learn", learns):
        yield found


def test_the_first_step_of_mutual_learning_is_the_one_by_hand(tmp_path: Path) -> None:
    written = mutual()
    with first_gradients() as found, recorded() as (_, told):
        train(written, tmp_path / "run")
    whole = next(asked.batch for _, _, _, asked in told)
    nets = {}
    for name, start in (("first", 0), ("second", 1)):
        torch.manual_seed(start)
        nets[name] = plain_student()
    # Both forward passes with the weights at the start, before anybody moves.
    logits = {name: one.train()(whole.inputs["x"]) for name, one in nets.items()}
    for name, other in (("first", "second"), ("second", "first")):
        peer = logits[other].detach().softmax(-1)
        divergence = (peer * (peer.log() - logits[name].log_softmax(-1))).sum(-1).mean()
        loss = nn.functional.cross_entropy(logits[name], whole.target) + divergence
        expected = torch.autograd.grad(loss, list(nets[name].parameters()), retain_graph=True)
        mine = found[f"{name}.mutual"]
        for (key, _), slope in zip(nets[name].named_parameters(), expected, strict=True):
            torch.testing.assert_close(mine[key], slope, rtol=1e-4, atol=1e-6)


def plain_student() -> nn.Module:
    """The student of these recipes, its weights from torch's generator; its normalisation from the data."""
    job = job_of_recipe(from_mapping(recipe({"scratch": [CE]})), trust=False)
    return job.students[""].build()


def test_students_that_change_places_change_gradients(tmp_path: Path) -> None:
    swapped = {"first": {**TWO["first"], "start": 1}, "second": {**TWO["second"], "start": 0}}
    with first_gradients() as found:
        train(mutual(), tmp_path / "one")
    with first_gradients() as turned:
        train({**mutual(), "students": swapped}, tmp_path / "two")
    for one, other in (("first", "second"), ("second", "first")):
        assert bits(found[f"{one}.mutual"]) == bits(turned[f"{other}.mutual"])
    assert bits(found["first.mutual"]) != bits(found["second.mutual"])


def test_peers_speak_without_a_graph_and_before_anybody_moves(tmp_path: Path) -> None:
    with recorded() as (_, told):
        train(mutual(), tmp_path / "run")
    by_step: dict[int, dict[str, tuple[Any, Asked]]] = {}
    for name, step, others, asked in told:
        by_step.setdefault(step, {})[name] = (others, asked)
    for said in by_step.values():
        for name, other in (("first.mutual", "second.mutual"), ("second.mutual", "first.mutual")):
            ((one,),) = said[name][0].values()
            own = said[other][1].student.logits
            assert not one.logits.requires_grad
            assert own.requires_grad
            assert torch.equal(one.logits, own.detach())


def test_of_three_the_others_count_alike(tmp_path: Path) -> None:
    three = {**TWO, "third": {**TWO["first"], "start": 2}}
    with recorded() as (_, told):
        train({**mutual(), "students": three}, tmp_path / "run")
    others, asked = next((others, asked) for name, step, others, asked in told if name == "third.mutual")
    (heard,) = others.values()
    assert len(heard) == 2
    logits = asked.student.logits.detach()
    values = [float(soft_target(logits, one.logits, temperature=1.0)) for one in heard]
    objective = Distiller(net(), None, [Term(soft_target, temperature=1.0, source="peers")]).objective
    step = objective(Outputs(logits), None, asked.batch, others={Peers(): heard})
    assert float(step.loss) == pytest.approx(sum(values) / 2, rel=1e-6)


def test_peers_that_would_always_agree_are_refused(tmp_path: Path) -> None:
    same = {"first": TWO["first"], "second": TWO["first"]}
    with pytest.raises(InputError, match="start from the same weights") as caught:
        train({**mutual(), "students": same}, tmp_path / "run")
    assert "start: 1" in str(caught.value)


def test_one_student_alone_has_no_peers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="listens to peers, but there is one student"):
        train(recipe({"mutual": [CE, {**SOFT, "source": "peers"}]}), tmp_path / "run")


def test_what_peers_cannot_tell_is_refused() -> None:
    with pytest.raises(InputError, match=r"reads `teacher_feature`, which peers each cannot tell"):
        Term(hint, at="0", source="peers")
    with pytest.raises(InputError, match="no way `loudest` to combine peers"):
        Peers("loudest")
    with pytest.raises(InputError, match="renewed every so many steps"):
        Peers("each", every=0)


def stacks(members: int = 3, rows: int = 7, classes: int = 4) -> tuple[list[Tensor], Tensor]:
    source = torch.Generator().manual_seed(5)
    logits = [torch.randn(rows, classes, generator=source) * 2 for _ in range(members)]
    return logits, torch.randint(0, classes, (rows,), generator=source)


def soft(z: Any) -> Any:
    z = np.exp(z - z.max())
    return z / z.sum()


@pytest.mark.parametrize("how", sorted(COMBINED))
def test_each_way_to_combine_is_that_of_a_plain_loop(how: str) -> None:
    (own, *others), labels = stacks()
    found = combined(how, own, others, labels)
    if how == "each":
        assert [one is other for one, other in zip(found, others, strict=True)] == [True, True]
        return
    (answer,) = found
    for row in range(len(labels)):
        members = [one[row].double().numpy() for one in (own, *others)]
        label, got = int(labels[row]), answer[row].double().numpy()
        if how == "mean_logits":
            assert got == pytest.approx(sum(members) / 3, rel=1e-5, abs=1e-6)
        elif how == "mean_probabilities":
            assert soft(got) == pytest.approx(sum(soft(one) for one in members) / 3, rel=1e-5)
        elif how == "best":
            assert got == pytest.approx(min(members, key=lambda one: -math.log(soft(one)[label])), rel=1e-6)
        else:
            least = [min(one[c] - one[label] for one in members) for c in range(len(got))]
            assert got == pytest.approx(least, rel=1e-5, abs=1e-6)
            # The label's is 0 and no other of any member is lower, so nobody gives the label less.
            assert soft(got)[label] >= max(soft(one)[label] for one in members) - 1e-6


def test_the_best_of_mixed_examples_is_judged_by_their_shares() -> None:
    (own, *others), _ = stacks()
    shares = torch.rand(7, 4, generator=torch.Generator().manual_seed(1)).softmax(-1)
    (answer,) = combined("best", own, others, shares)
    for row in range(7):
        members = [one[row] for one in (own, *others)]
        losses = [float(nn.functional.cross_entropy(one, shares[row])) for one in members]
        assert torch.equal(answer[row], members[losses.index(min(losses))])
    with pytest.raises(InputError, match="mixed examples have none"):
        combined("least_logits", own, others, shares)


@pytest.mark.parametrize("how", ["best", "least_logits"])
def test_labels_that_examples_have_not_are_not_read_behind_their_back(how: str, tmp_path: Path) -> None:
    few = {"source": "digits", "limit": 97, "labelled": 0.5}
    with pytest.raises(InputError, match=f"combined by `{how}`, which reads labels"):
        train({**mutual(peers=how), "data": few}, tmp_path / "run")


@pytest.mark.parametrize("how", ["best", "least_logits", "mean_logits", "mean_probabilities"])
def test_peers_as_one_are_heard_in_a_run(how: str, tmp_path: Path) -> None:
    with recorded() as (_, told):
        train(mutual(peers=how), tmp_path / "run")
    first = {name: (others, asked) for name, step, others, asked in told if step == 2}
    for name, other in (("first.mutual", "second.mutual"), ("second.mutual", "first.mutual")):
        ((heard,),) = first[name][0].values()
        asked = first[name][1]
        logits = [one.student.logits.detach() for one in (asked, first[other][1])]
        (expected,) = combined(how, logits[0], logits[1:], asked.batch.target)
        assert torch.equal(heard.logits, expected)
        assert not heard.logits.requires_grad


@pytest.mark.parametrize("listener", ["first.mutual", "second.mutual"])
def test_a_stale_peer_speaks_as_it_was(listener: str, tmp_path: Path) -> None:
    with recorded() as (after, told):
        found = train(mutual(every=3), tmp_path / "run")
    weights = {(name, step): now for name, step, now in after}
    for name, step, others, asked in told:
        if name != listener:
            continue
        ((heard,),) = others.values()
        renewed = step // 3 * 3 - 1  # the last step before this one after which copies were renewed
        other = "second.mutual" if name == "first.mutual" else "first.mutual"
        module = plain_student()
        if renewed >= 0:
            module.load_state_dict(weights[other, renewed])
        else:
            begun = found.begun[other]
            module.load_state_dict({n.removeprefix("stale3."): v for n, v in begun.items() if n.startswith("stale3.")})
        with torch.no_grad():
            torch.testing.assert_close(heard.logits, module.eval()(asked.batch.inputs["x"]), rtol=1e-5, atol=1e-6)


# ---- arms taught by arms ---------------------------------------------------------------------------------------------


def chain() -> dict[str, Any]:
    """An assistant, whom a student listens to, and the generation after it."""
    return recipe({
        "small": [CE, {**SOFT, "source": "assistant"}],
        "assistant": [CE, SOFT],
        "again": [CE, {**SOFT, "source": {"arm": "small"}}],
    })  # fmt: skip


def test_a_chain_of_assistants_hears_students_as_they_ship(tmp_path: Path) -> None:
    with recorded() as (_, told):
        found = train(chain(), tmp_path / "run")
    order = list(dict.fromkeys(name for name, _, _, _ in told if name != "scratch"))
    assert order == ["assistant", "small", "again"]
    for listener, teacher in (("small", "assistant"), ("again", "small")):
        heard = [(others, asked) for name, _, others, asked in told if name == listener]
        assert len(heard) == 6
        module = plain_student()
        module.load_state_dict(found.students[teacher])
        module.eval()
        for others, asked in heard:
            ((source, (answer,)),) = others.items()
            assert source == FromArm(teacher)
            with torch.no_grad():
                torch.testing.assert_close(answer.logits, module(asked.batch.inputs["x"]), rtol=1e-5, atol=1e-6)
    # All waves see the same batches from the same first weights.
    ids = {name: [tuple(a.batch.ids.tolist()) for n, _, _, a in told if n == name] for name in order}
    assert ids["assistant"] == ids["small"] == ids["again"]


def test_an_assistant_like_the_teacher_is_two_stages_of_one_distillation(tmp_path: Path) -> None:
    """With the assistant in the teacher's place a listener learns what it learns from that file as a teacher."""
    whole = train(chain(), tmp_path / "chain")
    shipped = tmp_path / "chain" / "students" / "assistant" / "seed-0" / "student.safetensors"
    alone = recipe({"small": [CE, SOFT]}, teacher={"model": "cnn", "args": {"width": 4}, "weights": str(shipped)})
    again = train(alone, tmp_path / "alone")
    for name, value in whole.students["small"].items():
        torch.testing.assert_close(again.students["small"][name], value, rtol=1e-4, atol=1e-5)


def test_arms_that_wait_for_each_other_are_refused(tmp_path: Path) -> None:
    arms = {"scratch": [CE], "one": [CE, {**SOFT, "source": "two"}], "two": [CE, {**SOFT, "source": "one"}]}
    with pytest.raises(InputError, match="arms wait for each other's students") as caught:
        train(recipe(arms), tmp_path / "run")
    assert "one, two" in str(caught.value)
    with pytest.raises(InputError, match="arms wait for each other's students"):
        train(recipe({"self": [CE, {**SOFT, "source": "self"}]}), tmp_path / "alone")


def test_an_arm_that_is_not_there_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    arms = {"scratch": [CE], "assistant": [CE], "small": [CE, {**SOFT, "source": "asistant"}]}
    with pytest.raises(InputError, match="no arm `asistant` whose student could teach") as caught:
        train(recipe(arms), tmp_path / "run")
    assert "assistant" in str(caught.value.problem.fix)


def test_of_several_students_an_arm_listens_to_its_own_or_to_the_one_it_names(tmp_path: Path) -> None:
    arms = {"assistant": [CE, SOFT], "own": [CE, {**SOFT, "source": "assistant"}],
            "named": [CE, {**SOFT, "source": "second.assistant"}]}  # fmt: skip
    with recorded() as (_, told):
        train(recipe(arms, student=None, students=TWO, train__epochs=1), tmp_path / "run")
    heard = {name: {str(source) for source in others} for name, _, others, _ in told}
    assert heard["first.own"] == {"first.assistant"}
    assert heard["second.own"] == {"second.assistant"}
    assert heard["first.named"] == heard["second.named"] == {"second.assistant"}


def test_layers_of_an_assistant_are_heard_as_it_ships(tmp_path: Path) -> None:
    hinted = {"loss": "hint", "at": "net.stages.1", "source": "assistant"}
    with recorded() as (_, told):
        found = train(recipe({"assistant": [CE, SOFT], "small": [CE, hinted]}, train__epochs=1), tmp_path / "run")
    module = plain_student()
    module.load_state_dict(found.students["assistant"])
    module.eval()
    layer = module.get_submodule("net.stages.1")
    for others, asked in ((o, a) for name, _, o, a in told if name == "small"):
        ((answer,),) = others.values()
        kept: list[Tensor] = []
        with torch.no_grad(), layer.register_forward_hook(lambda *said, kept=kept: kept.append(said[-1])):
            module(asked.batch.inputs["x"])
        torch.testing.assert_close(answer.features["net.stages.1"], kept[0], rtol=1e-4, atol=1e-5)


def test_a_peer_that_has_stopped_answers_as_it_is(tmp_path: Path) -> None:
    close = Arm.close_epoch

    def closes(self: Arm, epoch: int, *arguments: Any) -> None:
        close(self, epoch, *arguments)
        self.learning = self.learning and self.name != "first.mutual"

    with mock.patch.object(Arm, "close_epoch", closes), recorded() as (after, told):
        train(mutual(), tmp_path / "run")
    assert [step for name, step, _ in after if name == "first.mutual"] == [0, 1, 2]
    module = plain_student()
    module.load_state_dict(next(now for name, step, now in after if (name, step) == ("first.mutual", 2)))
    module.eval()
    late = [(others, asked) for name, step, others, asked in told if name == "second.mutual" and step > 2]
    assert len(late) == 3
    for others, asked in late:
        ((answer,),) = others.values()
        with torch.no_grad():
            torch.testing.assert_close(answer.logits, module(asked.batch.inputs["x"]), rtol=1e-5, atol=1e-6)


# ---- a kill changes nothing ------------------------------------------------------------------------------------------

MOVING = {
    "ema": lambda: recipe({"mean": [CE, {**SOFT, "source": {"ema": 0.9}}]}),
    "ema of layers": lambda: recipe({"mean": [CE, {"loss": "hint", "at": "net.stages.1", "source": "ema"}]}),
    "peers": mutual,
    "stale": lambda: mutual(every=3),
    "feedback": lambda: recipe({"fed": [CE, {**SOFT, "weight": {
        "schedule": "follow", "low": [0.0, 1.0], "high": [0.5, 0.1]}}]}, train__epochs=3),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(MOVING))
def test_killed_and_taken_up_again_it_ends_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    expected = train(MOVING[kind](), tmp_path / "straight")
    found = killed(MOVING[kind](), tmp_path / "killed", step=4)
    assert found.files == expected.files
    assert bits(found.checkpoint) == bits(expected.checkpoint)


@pytest.fixture(scope="module")
def whole_chain(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(chain(), tmp_path_factory.mktemp("chain") / "run")


@pytest.mark.parametrize("wave", [0, 1, 2])
def test_a_chain_killed_in_any_wave_ends_with_the_same_bits(wave: int, whole_chain: Trained, tmp_path: Path) -> None:
    names = ["assistant", "small", "again"]  # the first wave has `scratch` as well
    learn = Arm.learn

    def learns(self: Arm, *arguments: Any, step: int, **keywords: Any) -> None:
        learn(self, *arguments, step=step, **keywords)
        if step == 3 and self.name == names[wave]:
            raise KeyboardInterrupt

    written = {**chain(), "train": {**chain()["train"], "checkpoint_seconds": 0}}
    with mock.patch.object(Arm, "learn", learns), pytest.raises(KeyboardInterrupt):
        train(written, tmp_path / "killed")
    found: Trained = train(written, tmp_path / "killed")
    assert [name for name in found.learned if name != "scratch"] == names[
        wave:
    ]  # those before are on disk, and are not learned again
    assert found.files == whole_chain.files


# ---- feedback --------------------------------------------------------------------------------------------------------


def rows(name: str, values: Sequence[float]) -> list[dict[str, float]]:
    return [{f"val_{name}": value} for value in values]


def test_a_plateau_is_answered_once_for_so_many_epochs() -> None:
    halves = plateau(1.0, 0.5, patience=2, least=0.2, greatest=1.0)
    scores = [0.5, 0.6, 0.6, 0.55, 0.61, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]
    found = [halves(0.0, rows("accuracy", scores[:n])) for n in range(len(scores) + 1)]
    assert found == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]
    # Less is better of the NLL, and the value may rise as well.
    doubles = plateau(1.0, 2.0, watch="nll", patience=1, least=1.0, greatest=3.0)
    assert [doubles(0.0, rows("nll", s)) for s in ([2.0], [2.0, 1.5], [2.0, 2.1], [2.0, 2.1, 2.2])] == [1, 1, 2, 3]
    assert (halves.least, halves.greatest, doubles.watches) == (0.2, 1.0, "nll")


def test_following_is_a_line_between_two_points_and_flat_beyond() -> None:
    falling = follow((0.5, 1.0), (0.9, 0.2))
    assert falling(0.7) == 1.0
    for seen, value in ((0.0, 1.0), (0.5, 1.0), (0.6, 0.8), (0.7, 0.6), (0.9, 0.2), (1.0, 0.2)):
        assert falling(0.3, rows("agreement", [0.1, seen])) == pytest.approx(value)
    assert (falling.least, falling.greatest, falling.watches) == (0.2, 1.0, "agreement")


def test_a_switch_is_thrown_once() -> None:
    stops = switch(1.0, 0.0, 0.6)
    assert [stops(p) for p in (0.0, 0.5999, 0.6, 1.0)] == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: plateau(2.0, 0.5, least=0.0, greatest=1.0), "least ≤ start ≤ greatest"),
        (lambda: plateau(1.0, 0.0, least=0.0, greatest=1.0), "factor > 0"),
        (lambda: plateau(1.0, 0.5, patience=0, least=0.0, greatest=1.0), "patience ≥ 1"),
        (lambda: plateau(1.0, 0.5, watch="speed", least=0.0, greatest=1.0), "accuracy, nll, agreement"),
        (lambda: follow((0.5, 1.0), (0.5, 0.0)), "must rise"),
        (lambda: follow((0.1, 1.0), (0.5, 0.0), watch="mood"), "accuracy, nll, agreement"),
        (lambda: switch(1.0, 0.0, 0.0), r"\(0, 1\)"),
        (lambda: switch(1.0, math.inf, 0.5), "finite"),
    ],
)
def test_schedules_out_of_range_are_refused(make: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


def test_what_validation_did_not_tell_is_said_in_words() -> None:
    for schedule in (plateau(1.0, 0.5, least=0.0, greatest=1.0), follow((0.1, 1.0), (0.5, 0.0), watch="accuracy")):
        with pytest.raises(InputError, match="accuracy"):
            schedule(0.5, [{"val_nll": 1.0}])


def weights_used(found: Trained, arm: str) -> list[float]:
    """The weight of `soft_target` in every epoch: total and parts of an epoch are means over the same steps."""
    return [(row["loss"] - row["cross_entropy"]) / row["soft_target"] for row in found.learned[arm].curve]


def test_a_weight_follows_the_agreement_with_the_teacher_from_epoch_to_epoch(tmp_path: Path) -> None:
    moving = {"schedule": "follow", "low": [0.0, 1.0], "high": [0.3, 0.2], "watch": "agreement"}
    written = recipe({"fed": [CE, {**SOFT, "weight": moving}]}, train__epochs=4)
    found = train(written, tmp_path / "run")
    curve = found.learned["fed"].curve
    schedule: Schedule = follow((0.0, 1.0), (0.3, 0.2))
    expected = [schedule(0.0, curve[:epoch]) for epoch in range(4)]
    assert weights_used(found, "fed") == pytest.approx(expected, rel=1e-4)
    assert expected[0] == 1.0
    assert len(set(expected)) > 1
    # What it followed is the share of validation examples that both rank the same first.
    split = load("digits", val=written["data"].get("val", 0.1), test=written["data"].get("test", 0.2)).val
    teacher = teacher_net()
    load_weights(teacher, teacher_file())
    last = plain_student()
    load_weights(last, tmp_path / "run" / "students" / "fed" / "seed-0" / "last.safetensors")
    ranks = [predict(one, plain_batches(split, 512), torch.device("cpu")).argmax(-1) for one in (teacher, last)]
    assert curve[-1]["val_agreement"] == pytest.approx(float((ranks[0] == ranks[1]).double().mean()))


def test_a_weight_falls_where_accuracy_stands_still(tmp_path: Path) -> None:
    moving = {"schedule": "plateau", "start": 0.8, "factor": 0.5, "least": 0.1, "greatest": 1.0}
    written = recipe({"fed": [CE, {**SOFT, "weight": moving}]}, train__epochs=4, train__lr=1e-7)
    found = train(written, tmp_path / "run")
    assert "val_agreement" not in found.learned["fed"].curve[0]
    schedule = plateau(0.8, 0.5, least=0.1, greatest=1.0)
    expected = [schedule(0.0, found.learned["fed"].curve[:epoch]) for epoch in range(4)]
    assert weights_used(found, "fed") == pytest.approx(expected, rel=1e-4)
    assert expected[-1] < 0.8


def test_a_switch_ends_distilling_in_the_middle(tmp_path: Path) -> None:
    moving = {"schedule": "switch", "before": 1.0, "after": 0.0, "at": 0.5}
    found = train(recipe({"stopped": [CE, {**SOFT, "weight": moving}]}), tmp_path / "run")
    first, second = found.learned["stopped"].curve
    assert first["loss"] == pytest.approx(first["cross_entropy"] + first["soft_target"], rel=1e-5)
    assert second["loss"] == pytest.approx(second.get("cross_entropy", second["loss"]), rel=1e-6)
    assert "soft_target" not in second
