"""Several tasks at once: terms that read the share of one, scores over all, and teachers of one each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tutelage import losses
from tutelage.data import Batches, Splits, Views, from_arrays
from tutelage.data.tasks import name_task
from tutelage.distiller import Distiller
from tutelage.errors import DamagedError, InputError, RecipeError, TutelageError
from tutelage.evaluation.predict import best_of_tasks, task_scores, validation_scores
from tutelage.objective import Objective, Term
from tutelage.run.classweights import weigh_classes
from tutelage.run.evalfiles import Kept, KeptTask, read_eval_file, write_eval_file
from tutelage.run.tasks import with_tasks
from tutelage.sources import Peers, Pseudo
from tutelage.tasks import columns_of, each_task
from tutelage.teachers import EnsembleTeacher, ModuleTeacher
from tutelage.types import Batch, Outputs, TopK

SIZES = {"shade": 6, "parity": 2, "third": 3}


@pytest.fixture
def splits() -> Splits:
    images = np.random.default_rng(7).integers(0, 256, (72, 4, 4), dtype=np.uint8)
    shade = np.arange(72) % 6
    tasks = {"parity": shade % 2, "third": shade // 2}
    return name_task(from_arrays(images, shade, val=0.2, test=0.2, tasks=tasks), "shade")


# Terms of one task


def answers(count: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, Batch]:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(count, 11, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(count, 11, generator=generator, dtype=torch.float64)
    labels = {name: torch.randint(size, (count,), generator=generator) for name, size in SIZES.items()}
    main = labels.pop("shade")
    return student, teacher, Batch(torch.arange(count), {"x": torch.zeros(count, 3)}, main, tasks=labels)


def parted(logits: Tensor) -> dict[str, Tensor]:
    """The logits of each task, cut by hand."""
    return {"shade": logits[:, :6], "parity": logits[:, 6:8], "third": logits[:, 8:]}


def test_a_term_without_a_task_is_of_each_of_them() -> None:
    student, teacher, batch = answers()
    terms = [Term(losses.soft_target, weight=0.9, temperature=4), Term(losses.cross_entropy, weight=0.1)]
    step = Objective(terms).for_tasks(SIZES)(Outputs(student), Outputs(teacher), batch)
    labels = {"shade": batch.target, **batch.tasks}
    soft = {
        name: losses.soft_target(own, parted(teacher)[name], temperature=4) for name, own in parted(student).items()
    }
    hard = {name: nn.functional.cross_entropy(own, labels[name]) for name, own in parted(student).items()}
    expected = sum(0.9 * soft[name] + 0.1 * hard[name] for name in SIZES)
    assert torch.allclose(step.loss, torch.as_tensor(expected), rtol=1e-12)
    assert {name: float(part) for name, part in step.parts.items()} == pytest.approx(
        {f"soft_target-{name}": float(value.detach()) for name, value in soft.items()}
        | {f"cross_entropy-{name}": float(value.detach()) for name, value in hard.items()}
    )


def test_a_term_of_one_task_leaves_the_logits_of_others_alone() -> None:
    student, teacher, batch = answers()
    objective = Objective([Term(losses.soft_target, task="parity", name="odd")]).for_tasks(SIZES)
    (slope,) = torch.autograd.grad(objective(Outputs(student), Outputs(teacher), batch).loss, student)
    assert objective.names == ("odd",)
    assert bool((slope[:, 6:8] != 0).all())
    assert not slope[:, :6].any()
    assert not slope[:, 8:].any()
    assert objective.for_tasks(SIZES).names == ("odd",)  # settled once, settled for good


def test_with_one_task_nothing_changes() -> None:
    terms = [Term(losses.soft_target), Term(losses.cross_entropy, weight=0.5)]
    objective = Objective(terms)
    assert objective.for_tasks({"label": 4}) is objective
    named = Objective([Term(losses.cross_entropy, task="label")]).for_tasks({"label": 4})
    assert named.names == ("cross_entropy",)
    logits, batch = torch.randn(5, 4), Batch(torch.arange(5), {}, torch.tensor([0, 1, 2, 3, 0]))
    assert torch.equal(named(Outputs(logits), None, batch).loss, losses.cross_entropy(logits, batch.target))


def test_features_are_of_no_task() -> None:
    term = Term(losses.hint, at=("0", "0"))
    assert each_task([term], SIZES) == [term]
    with pytest.raises(InputError, match="reads no logits and no labels"):
        each_task([Term(losses.hint, at=("0", "0"), task="parity")], SIZES)


def unusual(loss: str, **options: Any) -> Term:
    return Term(getattr(losses, loss), **options)


@pytest.mark.parametrize(
    ("term", "what"),
    [
        (lambda: unusual("cross_entropy", task="parrity"), "did you mean `parity`"),
        (lambda: unusual("soft_target", source=Pseudo()), "which there is not for several tasks at once"),
        (lambda: unusual("soft_target", source=Peers("mean_probabilities")), "which there is not for several tasks"),
        (lambda: unusual("jacobian_matching"), "`student_input_gradient`, which there is not for several tasks"),
    ],
)
def test_what_would_mix_tasks_up_is_refused(term: Any, what: str) -> None:
    with pytest.raises(InputError) as caught:
        each_task([term()], SIZES)
    assert what in str(caught.value)


def test_all_that_is_wrong_with_arms_is_told_at_once() -> None:
    methods = {name: Objective([Term(losses.cross_entropy, task=name)]) for name in ("parity", "fourth", "fifth")}
    with pytest.raises(RecipeError) as caught:
        with_tasks(methods, SIZES)
    assert [one.where for one in caught.value.problems] == ["arms.fourth", "arms.fifth"]


def test_peers_one_by_one_are_heard_task_by_task() -> None:
    student, peer, batch = answers()
    source = Peers()
    objective = Objective([Term(losses.soft_target, source=source)]).for_tasks(SIZES)
    step = objective(Outputs(student), None, batch, others={source: [Outputs(peer)]})
    pairs = zip(parted(student).values(), parted(peer).values(), strict=True)
    expected = torch.stack([losses.soft_target(own, other) for own, other in pairs]).sum()
    assert torch.allclose(step.loss, expected, rtol=1e-12)


def test_what_a_batch_or_an_answer_lacks_is_told() -> None:
    student, teacher, batch = answers()
    loose = Objective([Term(losses.cross_entropy, task="parity")])
    with pytest.raises(InputError, match="does not know where its logits stand"):
        loose(Outputs(student), None, batch)
    with pytest.raises(InputError, match="no targets for the task `parity`"):
        loose.for_tasks(SIZES)(Outputs(student), None, Batch(batch.ids, batch.inputs, batch.target))
    soft = Objective([Term(losses.soft_target, task="third")]).for_tasks(SIZES)
    values, indices = teacher.topk(4)
    with pytest.raises(InputError, match="only a part of all logits"):
        soft(Outputs(student), Outputs(TopK(values, indices, torch.zeros(8), 11)), batch)
    with pytest.raises(InputError, match="not among the answers"):
        soft(Outputs(student), Outputs(teacher[:, :6]), batch)


def test_a_distiller_learns_several_tasks_in_any_loop(splits: Splits) -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 11))
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, 11))
    objective = Objective([Term(losses.soft_target, 0.1), losses.cross_entropy]).for_tasks(splits.train.sizes)
    distiller = Distiller(student, teacher, objective)
    batch = next(Batches(splits.train, batch_size=24, views=Views(), seed=0).epoch(0))
    optimizer = torch.optim.SGD(distiller.parameters(), lr=1.0)
    first = float(distiller(batch).loss.detach())
    for _ in range(300):
        optimizer.zero_grad()
        distiller(batch).loss.backward()
        optimizer.step()
    assert float(distiller(batch).loss.detach()) < 0.6 * first
    with torch.no_grad():
        said = best_of_tasks(student(batch.inputs["x"]), splits.train.sizes)
    assert float((said[:, 1] == batch.tasks["parity"]).double().mean()) > 0.9


def test_classes_of_each_task_are_weighed_by_their_own_numbers(splits: Splits) -> None:
    options = {"class_weights": "balanced"}
    methods = with_tasks({"a": Objective([Term(losses.cross_entropy, options=options)])}, splits.train.sizes)
    train = splits.train
    found = weigh_classes(methods, train.targets, train.classes, balance="none", tasks=train.tasks)["a"]
    for term, labels in zip(found.terms, train.labels.values(), strict=True):
        counts = torch.bincount(labels).double()
        expected = counts.sum() / (len(counts) * counts)
        assert torch.allclose(term.options["class_weights"].double(), expected, rtol=1e-6)


# Scores, and the files that keep answers


def test_scores_are_means_over_tasks() -> None:
    logits, _, batch = answers(50)
    labels = {"shade": batch.target, **batch.tasks}
    found = task_scores(logits.detach(), labels, SIZES)
    own = {name: validation_scores(one.detach(), labels[name]) for name, one in parted(logits).items()}
    assert found["accuracy"] == pytest.approx(np.mean([one["accuracy"] for one in own.values()]))
    assert found["nll"] == pytest.approx(np.mean([one["nll"] for one in own.values()]))
    assert found["accuracy_third"] == own["third"]["accuracy"]
    said = torch.stack([one.argmax(1) for one in parted(logits).values()], 1)
    assert torch.equal(best_of_tasks(logits, SIZES), said)
    alone = {"shade": labels["shade"]}
    assert task_scores(logits[:, :6].detach(), alone, {"shade": 6}) == own["shade"]
    assert columns_of(SIZES) == {"shade": (0, 6), "parity": (6, 8), "third": (8, 11)}


def test_a_file_of_answers_says_which_logits_are_of_which_task(tmp_path: Path) -> None:
    logits, _, batch = answers(9)
    whole = logits.detach().numpy()
    further = {
        name: KeptTask(batch.tasks[name].numpy(), own.detach().numpy(), tuple("abc"[: SIZES[name]]))
        for name, own in parted(logits).items()
        if name != "shade"
    }
    path = tmp_path / "model.npz"
    write_eval_file(path, Kept(batch.ids.numpy(), batch.target.numpy(), whole[:, :6], further))
    with np.load(path) as saved:
        assert saved["logits"].tobytes() == whole.tobytes()
    kept = read_eval_file(path, 6)
    assert np.array_equal(kept.logits, whole[:, :6])
    assert kept.tasks["third"].classes == ("a", "b", "c")
    assert np.array_equal(kept.tasks["third"].logits, whole[:, 8:])
    assert np.array_equal(kept.tasks["parity"].labels, batch.tasks["parity"].numpy())

    write_eval_file(path, Kept(batch.ids.numpy(), batch.target.numpy(), whole[:, :6]))
    with np.load(path) as saved:
        assert saved.files == ["ids", "logits", "labels"]
    for size in (5, 7):
        write_eval_file(path, Kept(batch.ids.numpy(), batch.target.numpy(), whole[:, :size], further))
        with pytest.raises(DamagedError):
            read_eval_file(path, 6)


# Teachers of one task each


def test_teachers_of_one_task_each_answer_side_by_side() -> None:
    modules = [nn.Sequential(nn.Flatten(), nn.Linear(3, size)) for size in SIZES.values()]
    teacher = EnsembleTeacher(modules, how="tasks", names=list(SIZES), places=["third.1"])
    _, _, batch = answers()
    batch = Batch(batch.ids, {"x": torch.randn(8, 3)}, batch.target)
    with torch.no_grad():
        each = [module(batch.inputs["x"]) for module in modules]
    said = teacher.answer(batch)
    assert isinstance(said.logits, Tensor)
    assert torch.equal(said.logits, torch.cat(each, 1))
    assert torch.equal(said.features["third.1"], each[2])
    assert said.members is None
    assert teacher.by_example
    assert not teacher.reads_labels
    panel = teacher.panel()
    assert panel is not None
    assert torch.equal(panel(batch.inputs["x"]), said.logits)
    assert teacher.judged().how == "tasks"
    turned = EnsembleTeacher([ModuleTeacher(one) for one in modules[::-1]], how="tasks", names=list(SIZES)[::-1])
    assert turned.fingerprint() != teacher.fingerprint()
    with pytest.raises(TutelageError, match="has no weights"):
        EnsembleTeacher(modules, how="tasks", weights=[1, 1, 1])
