"""Embeddings that are handed over, most of them without a label: what a student's features are worth after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tutelage.data import Batches, Views, load
from tutelage.distiller import Distiller
from tutelage.losses import (
    compress_one_queue,
    compress_two_queues,
    contrastive_memory,
    cross_entropy,
    seed_similarity,
    self_consistent,
)
from tutelage.models import ModelSpec, build
from tutelage.objective import Term
from tutelage.taps import Taps

POOLED = "net.dropout"


def net(width: int, seed_: int = 1) -> nn.Module:
    torch.manual_seed(seed_)
    return build(ModelSpec("cnn", {"width": width}), input_shape=(1, 8, 8), classes=10, mean=[0.3], std=[0.4])


@pytest.fixture(scope="module")
def digits() -> Any:
    return load("digits", path=None, val=0.1, test=0.2, seed=0)


@pytest.fixture(scope="module")
def teacher(digits: Any) -> nn.Module:
    module = net(8, 0)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for epoch in range(4):
        for batch in Batches(digits.train, batch_size=64, views=Views(), seed=0).epoch(epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(batch.inputs["x"]), batch.target).backward()
            optimizer.step()
    return module


def learned(digits: Any, teacher: nn.Module, term: Term, student: nn.Module, *, lr: float, labels: Tensor) -> Distiller:
    """Three epochs of one term; batches hold no label, what is known of the training part those that are given."""
    batches = Batches(digits.train, batch_size=64, views=Views(), seed=0)
    known, example = (digits.train.ids, labels), next(iter(batches.epoch(0)))
    distiller = Distiller(student, teacher, [term], example=example, known=known).train()
    optimizer = torch.optim.Adam(distiller.parameters(), lr)
    for epoch in range(3):
        for number_, batch in enumerate(batches.epoch(epoch)):
            optimizer.zero_grad()
            unlabelled = replace(batch, target=torch.full_like(batch.target, -1))
            distiller(unlabelled, progress=(epoch + number_ / batches.steps_per_epoch) / 3).loss.backward()
            optimizer.step()
    return distiller


@torch.no_grad()
def features(module: nn.Module, examples: Any) -> tuple[Tensor, Tensor]:
    (batch,) = Batches(examples, batch_size=len(examples), views=Views(), seed=0).epoch(0)
    module.eval()
    taps = Taps(module, (POOLED,))
    module(batch.inputs["x"])
    return taps.take()[POOLED], batch.target


def neighbours(module: nn.Module, digits: Any) -> float:
    """Accuracy on the test part of the five nearest neighbours of the training part."""
    from sklearn.neighbors import KNeighborsClassifier

    known, asked = features(module, digits.train), features(module, digits.test)
    nearest = KNeighborsClassifier(5).fit(known[0].numpy(), known[1].numpy())
    return float(nearest.score(asked[0].numpy(), asked[1].numpy()))


@pytest.fixture(scope="module")
def untrained(digits: Any) -> float:
    module = net(3, 1)
    with torch.no_grad():  # with statistics of these examples, as the others have
        for batch in Batches(digits.train, batch_size=64, views=Views(), seed=0).epoch(0):
            module(batch.inputs["x"])
    return neighbours(module, digits)


@pytest.mark.parametrize("loss", [seed_similarity, compress_one_queue, compress_two_queues])
def test_features_are_learned_without_any_label(
    loss: Callable[..., Tensor], digits: Any, teacher: nn.Module, untrained: float
) -> None:
    student, nobody = net(3), torch.full_like(digits.train.targets, -1)
    learned(digits, teacher, Term(loss, at=POOLED), student, lr=0.01, labels=nobody)
    assert untrained < 0.4
    assert neighbours(student, digits) > untrained + 0.3


def test_contrast_finds_the_teachers_embedding_of_the_same_example(digits: Any, teacher: nn.Module) -> None:
    term, student = Term(contrastive_memory, at=POOLED, companion={"negatives": 256}), net(8)
    distiller = learned(digits, teacher, term, student, lr=0.003, labels=digits.train.targets)
    (companion,) = distiller.student.companions.values()
    (ours, classes), theirs = features(student, digits.test), features(teacher, digits.test)[0]
    with torch.no_grad():
        scores = nn.functional.normalize(companion.student(ours)) @ nn.functional.normalize(companion.teacher(theirs)).T
    rank = (scores > scores.diagonal().unsqueeze(-1)).double().mean(-1)  # 0 the first of all, ½ by chance
    assert float(rank.mean()) < 0.15
    assert float((classes[scores.argmax(-1)] == classes).double().mean()) > 0.5


def test_examples_without_a_label_count_like_all_others(digits: Any, teacher: nn.Module) -> None:
    batch = next(iter(Batches(digits.train, batch_size=64, views=Views(), seed=0).epoch(0)))
    few = replace(batch, labelled=torch.arange(len(batch)) < 6)
    terms = [Term(cross_entropy), Term(self_consistent), Term(seed_similarity, at=POOLED)]

    def parts(one: Any) -> dict[str, float]:
        torch.manual_seed(0)
        distiller = Distiller(net(3), teacher, terms, example=batch)
        return {name: float(value) for name, value in distiller(one).parts.items()}

    some, every = parts(few), parts(batch)
    assert some.pop("cross_entropy") != every.pop("cross_entropy")
    assert some == every
