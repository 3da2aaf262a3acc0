"""What is remembered along with a student: embeddings to be told apart from, queues of the latest, a centre."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from companion_parts import CE, recipe, train
from tutelage.companions import Around, Listening, Seen, centres, contrast, queues
from tutelage.companions.centres import Centre
from tutelage.companions.contrast import Contrast, Others
from tutelage.companions.known import everyones, rows_of
from tutelage.companions.queues import Anchors, TwinAnchors
from tutelage.data.draws import Stream
from tutelage.distiller import Distiller
from tutelage.errors import InputError, ModelError
from tutelage.losses import compress_two_queues, contrastive_memory, seed_similarity, self_consistent
from tutelage.losses.targets import top_k
from tutelage.models import ModelSpec, build
from tutelage.objective import Objective, Place, Term
from tutelage.sources import Ema
from tutelage.types import Batch, Outputs

CLASSES, OURS, THEIRS = 4, 3, 5
PLACE = Place("s", "t")
IDS = torch.tensor([50, 11, 42, 7, 30, 23, 61, 19])
TARGETS = torch.tensor([0, 1, 0, 2, -1, 1, -1, 0])


def batch(ids: Tensor, view: int = 0) -> Batch:
    return Batch(ids, {}, torch.zeros(len(ids), dtype=torch.int64), view=view)


def told(features: Tensor) -> Outputs:
    return Outputs(torch.zeros(len(features), CLASSES), {"t": features})


def said(features: Tensor) -> Outputs:
    return Outputs(torch.zeros(len(features), CLASSES), {"s": features})


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def directions(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def shared(monkeypatch: pytest.MonkeyPatch, module: Any, shares: list[tuple[Tensor, ...]]) -> None:
    """As if several processes had each said their share."""
    monkeypatch.setattr(module, "everyones", lambda *mine: shares)


# ---- whom an example is told apart from ------------------------------------------------------------------------------


def pool(number: int) -> set[int]:
    """The ids that an example may be told apart from, one by one."""
    classes = dict(zip(IDS.tolist(), TARGETS.tolist(), strict=True))
    own = classes[number]
    return {other for other, its in classes.items() if other != number and (own < 0 or its != own)}


def test_negatives_are_all_examples_of_other_classes_alike_often() -> None:
    others = Others(IDS, TARGETS)
    assert others.ids.tolist() == sorted(IDS.tolist())
    count = 6000
    drawn = others.drawn(batch(IDS), rows_of(IDS, others.ids), count, seed=3, progress=0.25)
    assert drawn.shape == (len(IDS), count)
    for number, row in zip(IDS.tolist(), others.ids[drawn], strict=True):
        found = Counter(row.tolist())
        assert set(found) == pool(number)
        assert stats.chisquare(list(found.values())).pvalue > 1e-4


def test_a_draw_belongs_to_the_example_its_view_and_the_step() -> None:
    others = Others(IDS, TARGETS)

    def drawn(ids: Tensor, view: int = 0, seed: int = 3, progress: float = 0.25) -> Tensor:
        return others.drawn(batch(ids, view), rows_of(ids, others.ids), 40, seed=seed, progress=progress)

    whole = drawn(IDS)
    assert torch.equal(torch.cat([drawn(IDS[:3]), drawn(IDS[3:])]), whole)
    assert torch.equal(drawn(IDS.flip(0)), whole.flip(0))
    state = torch.get_rng_state()
    for other in (drawn(IDS, view=1), drawn(IDS, seed=4), drawn(IDS, progress=0.26)):
        assert float((other != whole).double().mean()) > 0.5
    assert torch.equal(torch.get_rng_state(), state)
    assert len(set(Stream)) == len(Stream.__members__)


def test_targets_that_are_no_classes_leave_out_the_example_only() -> None:
    for targets in (torch.rand(8), torch.rand(8, 3), torch.full((8,), -1)):
        others = Others(IDS, targets)
        drawn = others.drawn(batch(IDS), rows_of(IDS, others.ids), 300, seed=0, progress=0.0)
        for number, row in zip(IDS.tolist(), others.ids[drawn], strict=True):
            assert set(row.tolist()) == set(IDS.tolist()) - {number}


def test_the_same_example_twice_is_one() -> None:
    others = Others(torch.cat([IDS, IDS[:3]]), torch.cat([TARGETS, TARGETS[:3]]))
    assert others.ids.tolist() == sorted(IDS.tolist())


@pytest.mark.parametrize("targets", [torch.zeros(8, dtype=torch.int64), torch.full((8,), 3)], ids=["0", "3"])
def test_one_class_alone_has_no_negatives(targets: Tensor) -> None:
    with pytest.raises(InputError, match="negatives are drawn among examples of other classes"):
        Others(IDS, targets)
    with pytest.raises(InputError, match="negatives are drawn among examples of other classes"):
        Others(IDS[:1], torch.tensor([-1]))


# ---- the memory of embeddings ----------------------------------------------------------------------------------------


def remembering(negatives: int = 6, momentum: float = 0.5, tau: float = 0.07) -> Contrast:
    torch.manual_seed(0)
    settings = {"width": 4, "momentum": momentum, "tau": tau}
    return Contrast(PLACE, (OURS, THEIRS), Others(IDS, TARGETS), negatives, settings, seed=9)


def test_the_memory_is_that_of_a_plain_loop() -> None:
    made = remembering(momentum=0.3, tau=0.2)
    memory = made.memory.clone().numpy()
    numbers = sorted(IDS.tolist())
    levels: list[float] = []
    for step in range(5):
        ids = IDS[torch.randperm(8, generator=torch.Generator().manual_seed(step))[: 3 + step % 3]]
        features, theirs = normal(len(ids), OURS, seed=step), normal(len(ids), THEIRS, 2, 2, seed=step + 50)
        seen = Seen(batch(ids, view=step), told(theirs), step / 10)
        found = [one.detach() for one in made(said(features), seen)]
        s = directions(made.student(features)).detach().numpy()
        t = directions(made.teacher(theirs.mean((2, 3)))).detach().numpy()
        at = [numbers.index(number) for number in ids.tolist()]
        drawn = made._others.drawn(seen.batch, torch.tensor(at), 6, seed=9, progress=step / 10).numpy()
        of_student = np.array([[s[i] @ memory[1, n] / 0.2 for n in row] for i, row in enumerate(drawn)])
        of_teacher = np.array([[t[i] @ memory[0, n] / 0.2 for n in row] for i, row in enumerate(drawn)])
        own = (s * t).sum(-1) / 0.2
        if step == 0:
            levels = [float(np.log(np.exp(np.c_[own, u]).mean())) for u in (of_student, of_teacher)]
        for value, expected in zip(found, (own, of_student, of_teacher, np.array(levels)), strict=True):
            assert np.allclose(value.numpy(), expected, rtol=1e-4, atol=1e-5)
        for i, row in enumerate(at):
            for side, now in ((0, s[i]), (1, t[i])):
                kept = 0.3 * memory[side, row] + 0.7 * now
                memory[side, row] = kept / np.linalg.norm(kept)
        assert np.allclose(made.memory.numpy(), memory, atol=1e-5)


def test_both_embeddings_and_the_student_learn_and_the_teacher_does_not() -> None:
    made = remembering()
    ours, theirs = normal(8, OURS).requires_grad_(), normal(8, THEIRS, seed=1).requires_grad_()
    value = contrastive_memory(made(said(ours), Seen(batch(IDS), told(theirs), 0.0)))
    value.backward()
    assert theirs.grad is None
    assert ours.grad is not None
    assert float(ours.grad.abs().sum()) > 0
    for weight in made.parameters():
        assert weight.grad is not None
        assert float(weight.grad.abs().sum()) > 0
    assert not any(buffer.requires_grad for buffer in made.buffers())


def test_autocast_and_half_precision_change_no_embedding() -> None:
    one, other = remembering(), remembering()
    ours, theirs = normal(8, OURS).bfloat16(), normal(8, THEIRS, seed=1).bfloat16()
    plain = one(said(ours.float()), Seen(batch(IDS), told(theirs.float()), 0.0))
    with torch.autocast("cpu", torch.bfloat16):
        half = other(said(ours), Seen(batch(IDS), told(theirs), 0.0))
    assert all(torch.equal(a, b) for a, b in zip(plain, half, strict=True))
    assert torch.equal(one.memory, other.memory)


def test_shares_of_a_batch_are_remembered_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = normal(8, OURS), normal(8, THEIRS, seed=1)
    whole = remembering()
    expected = whole(said(ours), Seen(batch(IDS), told(theirs), 0.5))
    shares: list[tuple[Tensor, ...]] = []
    monkeypatch.setattr(contrast, "everyones", lambda *mine: [shares.append(mine) or mine])  # type: ignore[func-returns-value]
    for part in (slice(0, 3), slice(3, 8)):
        remembering()(said(ours[part]), Seen(batch(IDS[part]), told(theirs[part]), 0.5))
    shared(monkeypatch, contrast, shares)
    part = remembering()
    found = part(said(ours[:3]), Seen(batch(IDS[:3]), told(theirs[:3]), 0.5))
    assert torch.allclose(part.memory, whole.memory, atol=1e-6)
    assert torch.allclose(part.log_levels, whole.log_levels, atol=1e-6)
    assert torch.allclose(found[1], expected[1][:3], atol=1e-5)


def test_an_example_that_is_not_known_is_refused() -> None:
    strangers = torch.tensor([7, 8])
    with pytest.raises(InputError, match="none of the training part"):
        remembering()(said(normal(2, OURS)), Seen(batch(strangers), told(normal(2, THEIRS)), 0.0))


# ---- queues ----------------------------------------------------------------------------------------------------------


def test_a_queue_holds_the_latest_with_this_batch_first_in() -> None:
    made, kept = Anchors(PLACE, THEIRS, 7), deque[Tensor](maxlen=7)
    for step, count in enumerate([3, 3, 4, 7, 1, 5, 2]):
        rows = normal(count, THEIRS, seed=step)
        found = made(said(normal(count, OURS)), Seen(batch(torch.arange(count)), told(rows), 0.0))
        kept.extend(directions(rows))
        there = found[~found.isnan().any(-1)]
        assert len(there) == len(kept)
        assert sorted(there[:, 0].tolist()) == pytest.approx(sorted(float(row[0]) for row in kept), abs=1e-6)
        assert torch.allclose(there.norm(dim=-1), torch.ones(len(there)))
        as_it_was = found.clone()
    made(said(normal(2, OURS)), Seen(batch(torch.arange(2)), told(normal(2, THEIRS, seed=99)), 0.0))
    assert torch.equal(found, as_it_was)  # what a step's graph keeps, no later step overwrites
    assert not torch.equal(made.queue.rows, found)


def test_twin_queues_hold_the_same_examples() -> None:
    made = TwinAnchors(PLACE, (OURS, THEIRS), 9)
    for step in range(5):
        theirs = normal(4, THEIRS, seed=step)
        ours = (2.0 * theirs[:, :OURS]).requires_grad_()
        teacher, student = made(said(ours), Seen(batch(torch.arange(4)), told(theirs), 0.0))
        there = ~teacher.isnan().any(-1)
        assert int(there.sum()) == min(4 * (step + 1), 9)
        assert torch.allclose(student[there], directions(teacher[there][:, :OURS]), atol=1e-6)
        assert student[~there].isnan().all()
        assert not student.requires_grad


def test_all_processes_put_the_same_rows_in(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = directions(normal(6, THEIRS))
    shared(monkeypatch, queues, [(rows[:2],), (rows[2:],)])
    made = Anchors(PLACE, THEIRS, 8)
    found = made(said(normal(2, OURS)), Seen(batch(torch.arange(2)), told(rows[:2]), 0.0))
    assert torch.equal(found[:6], rows)
    assert int(made.queue.at) == 6


def test_a_queue_shorter_than_a_batch_is_refused() -> None:
    with pytest.raises(InputError, match="a queue is shorter than a batch"):
        Anchors(PLACE, THEIRS, 3)(said(normal(4, OURS)), Seen(batch(torch.arange(4)), told(normal(4, THEIRS)), 0.0))


# ---- how they are built ----------------------------------------------------------------------------------------------


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(ModelSpec("cnn", {"width": 4}), input_shape=(1, 8, 8), classes=CLASSES, mean=[0.5], std=[0.3])


def pictures(count: int = 12) -> Batch:
    return Batch(torch.arange(count), {"x": torch.rand(count, 1, 8, 8)}, torch.arange(count) % CLASSES)


def listening(term: Term, known: tuple[Tensor, Tensor] | None = None, size: int = 12) -> Any:
    example = pictures()
    answer = Outputs(torch.randn(12, CLASSES), {"vector": torch.randn(12, 7), "map": torch.randn(12, 7, 2, 2)})
    made = Listening(net(), Objective([term]), Around(example, answer, known=known, batch_size=size))
    (companion,) = made.companions.values()
    return companion


def test_sizes_follow_the_data() -> None:
    at, known = ("net.dropout", "vector"), (torch.arange(300), torch.arange(300) % 3)
    assert listening(Term(seed_similarity, at=at)).queue.rows.shape == (4096, 7)
    assert listening(Term(seed_similarity, at=at), known).queue.rows.shape == (300, 7)
    assert listening(Term(seed_similarity, at=at), known, 200).queue.rows.shape == (400, 7)
    twin = listening(Term(compress_two_queues, at=at, companion={"size": 50}), known)
    assert twin.teacher.rows.shape == (50, 7)
    assert twin.student.rows.shape == (50, 8)
    made = listening(Term(contrastive_memory, at=at), known)
    assert made.memory.shape == (2, 300, 128)
    assert made.negatives == 300
    assert (made.student.in_features, made.teacher.in_features) == (8, 7)
    many = (torch.arange(20_000), torch.arange(20_000) % 3)
    assert listening(Term(contrastive_memory, at=at, companion={"width": 2}), many).negatives == 16384
    mapped = listening(Term(contrastive_memory, at=("net.stages.1", "map"), companion={"width": 2}), known)
    assert mapped.teacher.in_features == 7


@pytest.mark.parametrize(
    ("loss", "companion", "says"),
    [
        (contrastive_memory, {"width": 0}, "`width`"),
        (contrastive_memory, {"negatives": 1.5}, "`negatives`"),
        (contrastive_memory, {"momentum": 1.0}, "the momentum"),
        (contrastive_memory, {"tau": 0.0}, "tau must be"),
        (seed_similarity, {"size": True}, "`size`"),
        (self_consistent, {"momentum": -0.1}, "the momentum"),
    ],
)
def test_settings_out_of_range_are_refused(loss: Any, companion: dict[str, Any], says: str) -> None:
    at = () if loss is self_consistent else ("net.dropout", "vector")
    known = (torch.arange(30), torch.arange(30) % 3)
    with pytest.raises(InputError, match=says):
        listening(Term(loss, at=at, companion=companion), known)


def test_what_cannot_be_remembered_is_refused() -> None:
    with pytest.raises(ModelError, match="a queue keeps one vector"):
        listening(Term(seed_similarity, at=("net.stages.1", "map"), connector="linear"))
    with pytest.raises(ModelError, match="a queue keeps one vector"):
        listening(Term(compress_two_queues, at=("net.stages.1", "vector")))
    with pytest.raises(InputError, match="the examples are not known"):
        listening(Term(contrastive_memory, at=("net.dropout", "vector")))


# ---- the centre ------------------------------------------------------------------------------------------------------


def test_a_centre_follows_what_its_own_source_says() -> None:
    ema = Ema(0.5)
    terms = [Term(self_consistent, source=ema), Term(self_consistent, companion={"momentum": 0.5})]
    example = pictures()
    distiller = Distiller(net(), net(3), terms, example=example)
    own, theirs = (made.centre for made in distiller.student.companions.values())
    expected = [torch.zeros(CLASSES), torch.zeros(CLASSES)]
    for step in range(4):
        average, answer = normal(12, CLASSES, seed=step) + 3.0, normal(12, CLASSES, seed=step + 50) - 2.0
        before = [one.clone() for one in expected]
        done = distiller(example, answer=Outputs(answer), others={ema: (Outputs(average),)})
        student = distiller.student.student(example.inputs["x"]).detach()
        for part, heard, centre in zip(done.parts.values(), (average, answer), before, strict=True):
            value = -((((heard - centre) / 0.04).softmax(-1)) * (student / 0.1).log_softmax(-1)).sum(-1).mean()
            assert float(part) == pytest.approx(float(value), rel=1e-4)
        expected[0] = 0.9 * expected[0] + 0.1 * average.mean(0)
        expected[1] = 0.5 * expected[1] + 0.5 * answer.mean(0)
        assert torch.allclose(own, expected[0], atol=1e-6)
        assert torch.allclose(theirs, expected[1], atol=1e-6)


def test_a_centre_is_the_mean_of_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, counts = normal(6, CLASSES), torch.tensor([True, False, True, False, False, True])
    spoiled = torch.where(counts.unsqueeze(-1), logits, math.nan)
    made = Centre(CLASSES, 0.0)
    made.hear([Outputs(spoiled, counts=counts)])
    assert torch.allclose(made.centre, logits[counts].mean(0), atol=1e-6)
    kept = made.centre.clone()
    made.hear([Outputs(spoiled, counts=torch.zeros(6, dtype=torch.bool))])
    made.hear([])
    assert torch.equal(made.centre, kept)
    shared(monkeypatch, centres, [(torch.tensor([2.0] * CLASSES + [1.0]),), (torch.tensor([4.0] * CLASSES + [2.0]),)])
    made.hear([Outputs(logits)])
    assert torch.allclose(made.centre, torch.full((CLASSES,), 2.0))


def test_a_centre_needs_all_logits() -> None:
    with pytest.raises(InputError, match="a centre reads every logit"):
        Centre(CLASSES, 0.9).hear([Outputs(top_k(normal(3, CLASSES), 2))])


def test_in_a_run_the_centre_hears_the_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: dict[int, list[Tensor]] = {}
    hear = Centre.hear

    def hears(self: Centre, told: Sequence[Outputs]) -> None:
        (answer,) = told
        assert isinstance(answer.logits, Tensor)
        heard.setdefault(id(self), []).append(answer.logits)
        hear(self, told)

    monkeypatch.setattr(Centre, "hear", hears)
    arms = {"own": [CE, {"loss": "self_consistent", "source": {"ema": 0.9}}], "told": [CE, {"loss": "self_consistent"}]}
    found = train(recipe(arms), tmp_path / "run")
    own, theirs = heard.values()
    assert len(own) == len(theirs) == 6
    for arm, answers in zip(arms, (own, theirs), strict=True):
        centre = torch.zeros(10)
        for answer in answers:
            centre = 0.9 * centre + 0.1 * answer.mean(0)
        assert torch.allclose(found.along(arm)["1+centre.centre"], centre, atol=1e-6)
    assert all(not torch.allclose(a, b, atol=0.1) for a, b in zip(own, theirs, strict=True))


def test_one_process_hears_itself() -> None:
    one, other = torch.ones(2), torch.zeros(3)
    ((first, second),) = everyones(one, other)
    assert first is one
    assert second is other
