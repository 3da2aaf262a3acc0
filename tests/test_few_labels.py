"""Training parts with few labels: which examples have one, who leaves the others out, and what pseudo-labels count."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.data import Batches, Paired, PartlyLabelled, Views, labelled_ids, load
from tutelage.data.unlabelled import with_unlabelled
from tutelage.errors import DataError, InputError, TutelageError
from tutelage.losses import cross_entropy, hint, soft_target
from tutelage.objective import Objective, Term
from tutelage.recipe import from_mapping
from tutelage.run import run_recipe
from tutelage.sources import Pseudo
from tutelage.teachers.pseudo import PseudoTeacher, sure_rows
from tutelage.types import Batch, Outputs

TEACHER = {"model": "cnn", "args": {"width": 10}, "train": {"epochs": 8, "batch_size": 32, "lr": 0.013}}


@pytest.fixture(scope="module")
def splits():  # type: ignore[no-untyped-def]
    return load("digits", path=None, val=0.1, test=0.2, seed=0)


def batch(labelled: Tensor | None = None, size: int = 6) -> Batch:
    return Batch(torch.arange(size), {"x": torch.rand(size, 3)}, torch.arange(size) % 3, labelled=labelled)


# ---- which examples have a label -------------------------------------------------------------------------------------


def test_a_share_of_every_class_keeps_its_labels(splits) -> None:  # type: ignore[no-untyped-def]
    train = splits.train
    ids = labelled_ids(train, 0.1)
    rows = torch.isin(train.ids, ids)
    counts = torch.bincount(train.targets[rows], minlength=10)
    assert torch.equal(counts, (torch.bincount(train.targets) * 0.1).round().long())
    assert torch.equal(ids, ids.sort().values)
    # Fewer labels are some of the same ones, whatever the order of rows.
    assert set(labelled_ids(train, 0.05).tolist()) < set(ids.tolist())
    shuffled = train.take(torch.randperm(len(train), generator=torch.Generator().manual_seed(0)))
    assert torch.equal(labelled_ids(shuffled, 0.1), ids)
    assert len(labelled_ids(train, 1e-9)) == 10


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_out_of_range_is_refused(splits, share: float) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="share of labelled examples"):
        labelled_ids(splits.train, share)


def test_batches_say_who_has_a_label_and_are_otherwise_the_same(splits) -> None:  # type: ignore[no-untyped-def]
    plain = Batches(splits.train, batch_size=50, views=Views(shift=1), seed=3)
    ids = labelled_ids(splits.train, 0.2)
    marked = PartlyLabelled(plain, ids)
    assert marked.steps_per_epoch == plain.steps_per_epoch
    for one, other in zip(plain.epoch(1, start=2), marked.epoch(1, start=2), strict=True):
        assert torch.equal(one.inputs["x"], other.inputs["x"])
        assert other.labelled is not None
        assert torch.equal(other.labelled, torch.tensor([i in set(ids.tolist()) for i in other.ids.tolist()]))


def test_a_loss_on_labels_leaves_out_those_that_have_none() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = torch.tensor([True, False, True, False, False, True])
    one = batch(mask)
    step = Objective([cross_entropy])(Outputs(logits), None, one)
    expected = torch.nn.functional.cross_entropy(logits[mask], one.target[mask])
    torch.testing.assert_close(step.loss, expected)
    [gradient] = torch.autograd.grad(step.loss, logits)
    assert not gradient[~mask].any()
    # What reads no labels is about all of them.
    told = Outputs(torch.randn(6, 3))
    whole = Objective([soft_target])(Outputs(logits), told, one).loss
    assert torch.equal(whole, Objective([soft_target])(Outputs(logits), told, batch()).loss)


def test_no_label_in_a_whole_batch_is_no_error() -> None:
    logits = torch.randn(6, 3, requires_grad=True)
    step = Objective([cross_entropy])(Outputs(logits), None, batch(torch.zeros(6, dtype=torch.bool)))
    assert float(step.loss.detach()) == 0.0
    step.loss.backward()


def test_a_loss_that_cannot_leave_out_examples_is_refused() -> None:
    def whole(student_logits: Tensor, labels: Tensor) -> Tensor:
        return student_logits.mean() * labels.float().mean()

    with pytest.raises(InputError, match="cannot leave out examples that have no label"):
        Objective([whole])(Outputs(torch.randn(6, 3)), None, batch(torch.ones(6, dtype=torch.bool)))


# ---- pseudo-labels ---------------------------------------------------------------------------------------------------


def test_only_sure_answers_count_and_of_each_class_the_surest() -> None:
    logits = torch.tensor([[5.0, 0, 0], [1.0, 0, 0], [4.0, 0, 0], [0, 3.0, 0], [0.1, 0, 0], [0, 0, 2.0], [4.0, 0, 0]])
    shares = logits.softmax(-1).amax(-1)
    assert sure_rows(logits, confidence=0.6).tolist() == (shares >= 0.6).tolist()
    assert sure_rows(logits, confidence=0.5, per_class=2).tolist() == [True, False, True, True, False, True, False]
    assert bool(sure_rows(logits).all())


def test_answers_to_plain_examples_are_given_whatever_the_view() -> None:
    ids, logits = torch.tensor([9, 4, 7]), torch.arange(9.0).reshape(3, 3)
    teacher = PseudoTeacher(ids, logits, torch.tensor([True, False, True]))
    answer = teacher.answer(Batch(torch.tensor([4, 9, 5, 9]), {}, torch.zeros(4), view=77))
    assert answer.counts is not None
    assert answer.counts.tolist() == [False, True, False, True]
    assert isinstance(answer.logits, Tensor)
    assert torch.equal(answer.logits[[0, 1, 3]], logits[[1, 0, 0]])
    other = PseudoTeacher(ids, logits, torch.tensor([True, True, True]))
    assert teacher.fingerprint() != other.fingerprint()
    with pytest.raises(InputError, match="do not belong together"):
        PseudoTeacher(ids, logits[:2], torch.tensor([True, True, True]))


def test_a_source_of_pseudo_labels_says_what_it_is() -> None:
    assert str(Pseudo(0.3, 10, "first")) == "pseudo-labels of first, 0.3 sure, at most 10 a class"
    for wrong in ({"confidence": 1.5}, {"per_class": 0}):
        with pytest.raises(InputError):
            Pseudo(**wrong)
    with pytest.raises(InputError, match="cannot tell"):
        Term(hint, at="net.stages.1", source="pseudo")


# ---- partners --------------------------------------------------------------------------------------------------------


def test_everybody_has_a_partner_of_the_same_class_who_changes(splits) -> None:  # type: ignore[no-untyped-def]
    train = splits.train
    plain = Batches(train, batch_size=64, views=Views(), seed=5)
    paired = Paired(plain, train, Views(), seed=5)
    ids = train.ids.numpy()
    first, second = paired.partners(0, ids), paired.partners(1, ids)
    assert np.array_equal(train.targets.numpy()[first], train.targets.numpy())
    assert not (first == np.arange(len(train))).any()
    assert (first != second).mean() > 0.9
    # A function of the id, not of who else is in the batch.
    assert np.array_equal(paired.partners(0, ids[::-7]), first[::-7])
    counts = np.bincount(first, minlength=len(train))
    assert counts.max() < 12  # about one each, as it is when they are drawn by chance
    shown = next(paired.epoch(0))
    rows = torch.from_numpy(paired.partners(0, shown.ids.numpy()))
    assert torch.equal(shown.inputs["partner"], train.inputs[rows].float() / 255)


def test_who_is_alone_in_a_class_comes_with_itself(splits) -> None:  # type: ignore[no-untyped-def]
    few = splits.train.take(torch.cat([(splits.train.targets == k).nonzero().flatten()[: 1 + k] for k in range(3)]))
    paired = Paired(Batches(few, batch_size=4, views=Views(), seed=0), few, Views(), seed=0)
    alone = (few.targets == 0).nonzero().flatten().numpy()
    assert np.array_equal(paired.partners(0, few.ids.numpy())[alone], alone)


def test_mixed_labels_have_no_partners(splits) -> None:  # type: ignore[no-untyped-def]
    plain = Batches(splits.train, batch_size=64, views=Views(mixup=0.2), seed=0)
    with pytest.raises(InputError, match="no single one"):
        Paired(plain, splits.train, Views(mixup=0.2), seed=0)


# ---- a pool without labels -------------------------------------------------------------------------------------------


def test_a_pool_joins_the_training_part_and_nothing_of_the_test_part_does(splits, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    generator = np.random.default_rng(0)
    new = generator.integers(0, 255, (5, 8, 8), dtype=np.uint8)
    known = [part.inputs[:2, 0].numpy() for part in (splits.train, splits.val, splits.test)]
    np.savez(tmp_path / "pool.npz", x=np.concatenate([new, new[:1], *known]))
    joined, ids, told = with_unlabelled(splits, tmp_path / "pool.npz")
    assert len(joined.train) == len(splits.train) + 5
    assert torch.equal(ids, splits.train.ids.unique())
    assert torch.equal(joined.train.ids, joined.train.ids.sort().values)
    assert told.startswith("5 unlabelled examples")
    assert "7 more are copies" in told
    assert joined.test is splits.test
    rows = torch.searchsorted(joined.train.ids, splits.train.ids)
    assert torch.equal(joined.train.inputs[rows], splits.train.inputs)


def test_a_folder_of_images_is_a_pool(splits, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from PIL import Image

    (tmp_path / "in" / "here").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(np.full((8, 8), 40 * number + 3, dtype=np.uint8)).save(tmp_path / f"in/here/{number}.png")
    joined, _, _ = with_unlabelled(splits, tmp_path / "in")
    assert len(joined.train) == len(splits.train) + 3


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"y": np.zeros(3)}, "holds no array `x`"),
        ({"x": np.zeros((3, 9, 9), dtype=np.uint8)}, "of another kind"),
        ({"x": np.zeros((3, 8, 8), dtype=np.float32)}, "of another kind"),
    ],
)
def test_a_pool_that_does_not_fit_is_refused(splits, tmp_path: Path, arrays: dict[str, object], says: str) -> None:  # type: ignore[no-untyped-def]
    np.savez(tmp_path / "pool.npz", **arrays)
    with pytest.raises(DataError, match=says):
        with_unlabelled(splits, tmp_path / "pool.npz")
    np.savez(tmp_path / "known.npz", x=splits.test.inputs.numpy())
    with pytest.raises(DataError, match="already"):
        with_unlabelled(splits, tmp_path / "known.npz")


# ---- whole runs ------------------------------------------------------------------------------------------------------


def recipe(**changes: object):  # type: ignore[no-untyped-def]
    arms = {
        "noisy": [
            {"loss": "cross_entropy", "weight": 0.3},
            {"loss": "soft_target", "temperature": 1.0, "source": "pseudo"},
        ],
        "second": [{"loss": "soft_target", "temperature": 1.0, "source": {"pseudo": 0.5, "arm": "noisy"}}],
    }  # fmt: skip
    keys = {
        "name": "few", "seeds": [0], "data": {"source": "digits", "labelled": 0.1}, "teacher": TEACHER,
        "student": {"model": "cnn", "args": {"width": 6}}, "arms": arms, "train": {"epochs": 2, "lr": 0.01},
        "report": {"latency": False, "bootstrap": 200},
    }  # fmt: skip
    return from_mapping({**keys, **changes})


def test_pseudo_labels_of_the_teacher_and_of_a_student(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_recipe(recipe(), tmp_path / "run")
    told = capsys.readouterr().err
    assert "data: 126 of 1,259 training examples have labels" in told
    assert "pseudo-labels of the teacher, 0.3 sure:" in told
    assert "pseudo-labels of noisy, 0.5 sure:" in told
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["headline"] == "noisy"
    assert {model["name"] for model in report["models"]} == {"teacher", "scratch", "noisy", "second"}
    assert run.verdict


def test_labels_that_are_not_known_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The honest proof that they are not read: with other labels in their place the students are the same bits."""
    from tutelage.run import job as jobs

    bits, true = {}, jobs.labelled_ids
    for name in ("true", "false"):
        run_recipe(recipe(seeds=[1]), tmp_path / name, quiet=True)
        files = sorted((tmp_path / name).glob("students/*/seed-1/student.safetensors"))
        bits[name] = [file.read_bytes() for file in files]
        assert len(files) == 3

        def swapped(examples, share):  # type: ignore[no-untyped-def]
            ids = true(examples, share)
            hidden = ~torch.isin(examples.ids, ids)
            examples.targets[hidden] = (examples.targets[hidden] + 1) % 10
            return ids

        monkeypatch.setattr(jobs, "labelled_ids", swapped)
    assert bits["true"] == bits["false"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": {"source": "digits", "labelled": 0.1, "views": {"mixup": 0.2}}}, "need a label for every example"),
        ({"data": {"source": "digits", "labelled": 0.1, "balance": "over"}}, "need a label for every example"),
        ({"data": {"source": "digits", "labelled": 0}}, "labelled"),
        ({"data": {"source": "digits", "unlabelled": "/nowhere.npz"}}, "no such file|does not exist|not"),
    ],
)
def test_what_needs_every_label_is_refused(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(TutelageError, match=says):
        run_recipe(recipe(**changes), tmp_path / "run", quiet=True)
