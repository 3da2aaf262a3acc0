"""Rankings: numbers that the papers' equations give, draws in the mean, stored top-k, and the places of labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from sklearn import metrics as reference
from torch import Tensor, nn

from tutelage.distiller import Distiller
from tutelage.errors import InputError
from tutelage.evaluation import ranking
from tutelage.losses import collaborative_ranking, cross_entropy, position_weighted_ranking, relaxed_ranking
from tutelage.objective import Term
from tutelage.store import codec_of
from tutelage.types import Batch, TopK

LOSSES = [collaborative_ranking, position_weighted_ranking, relaxed_ranking]


def scores(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def slope(loss: object, student: Tensor, teacher: Tensor, **options: object) -> Tensor:
    student = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(student, teacher, **options), student)  # type: ignore[operator]
    return found


# Known numbers


def test_weights_of_positions() -> None:
    # At scores of 0 the gradient of −log σ is −1/2: what is left are the weights, in the order of the teacher.
    teacher = torch.tensor([[1.0, 9.0, 5.0, 3.0]])
    found = -2 * slope(position_weighted_ranking, torch.zeros(1, 4), teacher, top=3, decay=1.0, discrepancy=None)
    assert found[0].tolist() == pytest.approx([0.0, 0.665241, 0.244728, 0.090031], abs=5.1e-7)
    assert float(position_weighted_ranking(torch.zeros(1, 4), teacher, discrepancy=None)) == pytest.approx(math.log(2))


def test_what_stands_in_its_place_weighs_nothing() -> None:
    teacher = torch.tensor([[9.0, 5.0, 3.0, 1.0, 0.0]])
    # The student has the third item first and the first one last: one place ahead, or four behind.
    student = torch.tensor([[-1.0, 2.0, 3.0, 1.0, 0.0]])
    found = slope(position_weighted_ranking, student, teacher, top=3, decay=1.0, discrepancy=0.5)[0]
    assert found[2] == 0.0  # two places too far ahead
    assert found[1] == 0.0  # where the teacher has it
    assert float(found[0]) == pytest.approx(-float(torch.sigmoid(torch.tensor(1.0))))  # all the weight
    same = position_weighted_ranking(teacher - 9.0, teacher)
    assert float(same) == 0.0
    two = torch.tensor([[0.0, 0.0, 5.0, 4.0, 3.0]])  # both three places behind; equal ones in the order of the items
    w = [math.exp(-1) * math.tanh(1.5), math.exp(-2) * math.tanh(1.5)]
    found = -2 * slope(position_weighted_ranking, two, teacher, top=2, decay=1.0, discrepancy=0.5)[0]
    assert found[:2].tolist() == pytest.approx([one / sum(w) for one in w])


def test_few_places_as_papers_print_them() -> None:
    student, teacher = torch.tensor([[2.0, 1.0, 0.0, 0.5]]), torch.tensor([[9.0, 8.0, 1.0, 0.0]])
    assert float(relaxed_ranking(student, teacher, top=2)) == pytest.approx(1.226276, abs=5.1e-7)
    assert float(relaxed_ranking(student + 7, teacher, top=2)) == pytest.approx(1.226276, abs=5.1e-6)


def test_chances_stand_for_draws() -> None:
    """The mean of what drawn items say, drawn with chances that fall with the rank, is what the loss says at once."""
    student, teacher = scores(1, 30), scores(1, 30, seed=1)
    order = teacher[0].argsort(descending=True)
    chances = torch.exp(-torch.arange(1, 31, dtype=torch.float64) / 5)
    drawn = torch.multinomial(chances, 100_000, replacement=True, generator=torch.Generator().manual_seed(0))
    p, q = torch.sigmoid(teacher[0, order] / 2), torch.sigmoid(student[0, order])
    each = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())[drawn]
    found = float(collaborative_ranking(student, teacher, temperature=2.0, decay=5.0))
    assert found == pytest.approx(float(each.mean()), abs=4 * float(each.std()) / math.sqrt(len(each)))


def test_few_others_stand_for_drawn_ones() -> None:
    """Drawn anew, the others say in the mean a little less than their mean inside the logarithm, and less than all."""
    student, teacher = scores(1, 60, scale=0.5), scores(1, 60, seed=1)
    order = teacher[0].argsort(descending=True)
    generator = torch.Generator().manual_seed(0)
    each = []
    for _ in range(2000):
        drawn = order[5:][torch.randperm(55, generator=generator)[:20]]
        chosen = torch.cat([order[:5], drawn])
        each.append(float(relaxed_ranking(student[:, chosen], teacher[:, chosen], top=5)))
    found = float(relaxed_ranking(student, teacher, top=5, others=20))
    assert 0 < found - np.mean(each) < 0.01 * found
    assert found < float(relaxed_ranking(student, teacher, top=5))
    assert float(relaxed_ranking(student, teacher, top=5, others=55)) == pytest.approx(
        float(relaxed_ranking(student, teacher, top=5))
    )


def test_a_shift_gives_scores_a_level() -> None:
    student, teacher = scores(4, 6), scores(4, 6, seed=1)
    moved = collaborative_ranking(student, teacher, shift=3.0, temperature=2.0)
    assert float(moved) == pytest.approx(float(collaborative_ranking(student, teacher + 3.0, temperature=2.0)))
    assert float(collaborative_ranking((teacher + 3.0) / 2.0, teacher, shift=3.0, temperature=2.0)) < 1e-12


# What is stored


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_stored_top_k_ranks_as_all_logits_do(loss: object) -> None:
    student, teacher = scores(8, 40).float(), scores(8, 40, seed=1).float()
    codec = codec_of("top-10", 4.0)
    kept = codec.decode(codec.encode(teacher, torch.arange(8), 0), 40)
    assert isinstance(kept, TopK)
    # float16 keeps the order of these; the store says how far values move.
    for top in (3, 10):
        whole, found = (loss(student, told, top=top) for told in (teacher, kept))  # type: ignore[operator]
        assert float(found) == pytest.approx(float(whole), rel=1e-3)
    with pytest.raises(InputError, match="top=11 of the 10 that the teacher's top-k holds"):
        loss(student, kept, top=11)  # type: ignore[operator]


# What is learned


@pytest.mark.parametrize(
    ("loss", "least"), [(collaborative_ranking, 0.95), (relaxed_ranking, 0.95), (position_weighted_ranking, 0.5)],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
def test_scores_that_learn_from_it_take_on_the_order(loss: object, least: float) -> None:
    teacher, student = scores(20, 12), scores(20, 12, seed=1, scale=0.1).requires_grad_()
    before = taus(student, teacher)
    optimizer = torch.optim.Adam([student], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss(student, teacher).backward()  # type: ignore[operator]
        optimizer.step()
    assert abs(before) < 0.2
    assert taus(student, teacher) > least


def taus(student: Tensor, teacher: Tensor) -> float:
    pairs = zip(student.detach().numpy(), teacher.numpy(), strict=True)
    return float(np.mean([kendalltau(a, b).statistic for a, b in pairs]))


class Bag(nn.Module):
    """A user is the mean of the embeddings of its history: a factorisation."""

    def __init__(self, items: int, width: int = 8) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(items, width, padding_idx=0), nn.Linear(width, items)

    def forward(self, x: Tensor) -> Tensor:
        there = (x > 0).unsqueeze(-1)
        mean = (self.table(x) * there).sum(1) / there.sum(1).clamp(min=1)
        return self.head(mean)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_bag_of_items_distils_in_the_one_step(loss: object) -> None:
    generator = torch.Generator().manual_seed(0)
    histories = torch.randint(0, 50, (64, 6), generator=generator)
    batch = Batch(torch.arange(64), {"x": histories}, torch.randint(1, 50, (64,), generator=generator))
    torch.manual_seed(0)
    teacher, student = Bag(50, 32).eval(), Bag(50)
    terms = [Term(cross_entropy, weight=0.1), Term(loss, options={"top": 5})]  # type: ignore[arg-type]
    distiller = Distiller(student, teacher, terms)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    found = []
    for _ in range(30):
        optimizer.zero_grad()
        step = distiller(batch)
        step.loss.backward()
        optimizer.step()
        found.append(float(step.parts[loss.__name__]))  # type: ignore[attr-defined]
    assert found[-1] < found[0]
    assert student.table.weight.grad is not None
    assert not student.table.weight.grad[0].any()  # padding learns nothing


# Where labels stand


def answers(n: int = 200, items: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, items, size=n)
    return 2.0 * np.eye(items)[labels] + generator.normal(size=(n, items)), labels


def test_places_equal_scikit_learn() -> None:
    logits, labels = answers()
    truth = np.eye(120)[labels]
    found = ranking.gains(ranking.places(logits, labels), 10)
    assert found["ndcg_10"].mean() == pytest.approx(reference.ndcg_score(truth, logits, k=10))
    assert found["mrr"].mean() == pytest.approx(reference.label_ranking_average_precision_score(truth, logits))
    assert found["hit_rate_10"].mean() == pytest.approx(ranking.top_k_accuracy(logits, labels, 10))
    assert ranking.measure(logits, labels, np.array([]))["mrr"] == pytest.approx(found["mrr"].mean())


def test_few_classes_have_no_places() -> None:
    logits, labels = answers(items=99)
    assert set(ranking.measure(logits, labels, np.array([]))) == {"top5_accuracy"}
    assert ranking.gain_columns(logits, labels) == {}


def test_places_by_hand_with_ties_and_items_that_are_not_shown() -> None:
    logits = np.array([[3.0, 2.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    labels = np.array([2, 3])
    assert ranking.places(logits, labels).tolist() == [3, 4]
    seen = np.array([[True, False, True, False], [True, True, False, False]])  # the label itself is shown all the same
    assert ranking.places(logits, labels, leave_out=seen).tolist() == [2, 2]
    assert ranking.gains(np.array([1, 2, 3]), 2)["ndcg_2"] == pytest.approx([1.0, 1 / math.log2(3), 0.0])
    with pytest.raises(InputError, match="does not fit the logits"):
        ranking.places(logits, labels, leave_out=seen[:1])
    with pytest.raises(InputError, match="at least one place"):
        ranking.gains(labels, 0)


def test_two_recommenders_are_paired_over_users() -> None:
    logits, labels = answers(n=300)
    worse = logits + np.random.default_rng(1).normal(size=logits.shape)
    ours, theirs, difference = ranking.compare_places(logits, worse, labels, resamples=2000)
    gains = [ranking.gains(ranking.places(side, labels))["ndcg_10"] for side in (logits, worse)]
    apart = gains[0] - gains[1]
    found = difference["ndcg_10"]
    assert found.value == pytest.approx(apart.mean()) == pytest.approx(ours["ndcg_10"].value - theirs["ndcg_10"].value)
    # Means of 300 paired differences are nearly normal, so the interval is about that of the t test.
    half = 1.96 * apart.std(ddof=1) / math.sqrt(300)
    assert found.ci_low == pytest.approx(apart.mean() - half, abs=0.15 * half)
    assert found.ci_high == pytest.approx(apart.mean() + half, abs=0.15 * half)
    assert "users" in found.method


def test_alone_it_only_lifts_scores() -> None:
    lifted = slope(position_weighted_ranking, torch.zeros(5, 9, dtype=torch.float64), scores(5, 9))
    assert bool((lifted <= 0).all())
    assert bool((lifted < 0).any())
