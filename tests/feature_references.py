"""Losses on features and relations again, in float64 NumPy, one example and one pair at a time, from their equations.

There are no masks, no zero vectors and no care for extremes, so there is little to get wrong. Names and options are
those of `tutelage.losses`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray


def softmax(scores: Array) -> Array:
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def kl(p: Array, q: Array) -> Array:
    return (p * np.log(p / q)).sum(-1)


def unit(vector: Array) -> Array:
    return vector / np.sqrt((vector**2).sum())


def huber(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) <= 1 else abs(difference) - 0.5


def shrunk(feature: Array, height: int, width: int) -> Array:
    """(C, H, W) averaged over windows that cover it."""
    channels, rows, columns = feature.shape
    found = np.zeros((channels, height, width))
    for i, j in itertools.product(range(height), range(width)):
        top, bottom = math.floor(i * rows / height), math.ceil((i + 1) * rows / height)
        left, right = math.floor(j * columns / width), math.ceil((j + 1) * columns / width)
        found[:, i, j] = feature[:, top:bottom, left:right].mean((1, 2))
    return found


def places(one: Array, other: Array) -> tuple[Array, Array]:
    """Two examples' features as (C, L) with the same L: tokens (T, D), or maps (C, H, W)."""
    if one.ndim == 2:
        return one.T, other.T
    height, width = min(one.shape[1], other.shape[1]), min(one.shape[2], other.shape[2])
    return tuple(shrunk(maps, height, width).reshape(len(maps), -1) for maps in (one, other))


def over_examples(value: Callable[..., float], student: Array, teacher: Array) -> float:
    return float(np.mean([value(s, t) for s, t in zip(student, teacher, strict=True)]))


def over_layers(value: Callable[..., float], students: Sequence[Array], teachers: Sequence[Array]) -> float:
    return float(np.mean([value(s, t) for s, t in zip(students, teachers, strict=True)]))


# Features


def hint(student: Array, teacher: Array, whiten: bool = False) -> float:
    if whiten:
        axis = 1 if teacher.ndim == 4 else -1
        centred = teacher - teacher.mean(axis, keepdims=True)
        teacher = centred / np.sqrt((centred**2).mean(axis, keepdims=True) + 1e-5)
    return float(((student - teacher) ** 2).sum() / student.size)


def attention_transfer(student: Array, teacher: Array, power: float = 2.0, distance: str = "square") -> float:
    def one(s: Array, t: Array) -> float:
        s, t = (unit((np.abs(maps) ** power).sum(0)) for maps in places(s, t))
        return float(((s - t) ** 2).mean() if distance == "square" else np.sqrt(((s - t) ** 2).sum()))

    return over_examples(one, student, teacher)


def flow(students: Sequence[Array], teachers: Sequence[Array]) -> float:
    def gram(first: Array, second: Array) -> Array:
        first, second = places(first, second)
        total = np.zeros((len(first), len(second)))
        for place in range(first.shape[1]):
            total += np.outer(first[:, place], second[:, place])
        return total / first.shape[1]

    found = []
    for layer in range(len(students) - 1):
        for example in range(len(students[0])):
            ours = gram(students[layer][example], students[layer + 1][example])
            theirs = gram(teachers[layer][example], teachers[layer + 1][example])
            found.append(((ours - theirs) ** 2).mean())
    return float(np.mean(found))


def neuron_selectivity(student: Array, teacher: Array) -> float:
    def mean_kernel(some: list[Array], others: list[Array]) -> float:
        return float(np.mean([(x @ y) ** 2 for x in some for y in others]))

    def one(s: Array, t: Array) -> float:
        ours, theirs = ([unit(channel) for channel in maps] for maps in places(s, t))
        return mean_kernel(ours, ours) + mean_kernel(theirs, theirs) - 2 * mean_kernel(ours, theirs)

    return over_examples(one, student, teacher)


def factor_transfer(student: Array, teacher: Array) -> float:
    return over_examples(lambda s, t: float(np.abs(unit(s) - unit(t)).mean()), student, teacher)


# Targets of another kind


def activation_boundary(student: Array, teacher: Array, margin: float = 1.0) -> float:
    total = 0.0
    for s, t in zip(student.flat, teacher.flat, strict=True):
        if t <= 0 and s > -margin:
            total += (s + margin) ** 2
        if t > 0 and s <= margin:
            total += (s - margin) ** 2
    return total / len(student)


def overhaul(student: Array, teacher: Array, margin: float | Array | None = None) -> float:
    axis = 1 if teacher.ndim == 4 else teacher.ndim - 1
    total = 0.0
    for channel in range(teacher.shape[axis]):
        ours, theirs = (np.take(one, channel, axis).ravel() for one in (student, teacher))
        if margin is None:
            least = theirs[theirs < 0].mean() if (theirs < 0).any() else 0.0
        else:
            least = margin[channel] if isinstance(margin, Array) else margin
        for s, t in zip(ours, theirs, strict=True):
            target = max(t, least)
            total += 0.0 if s <= target <= 0 else (s - target) ** 2
    return total / len(student)


def variational(student: Array, teacher: Array, log_variance: Array | None = None) -> float:
    axis = 1 if teacher.ndim == 4 else teacher.ndim - 1
    found = []
    for channel in range(teacher.shape[axis]):
        variance = 5.0 if log_variance is None else math.exp(log_variance[channel]) + 1e-5
        error = np.take(teacher, channel, axis) - np.take(student, channel, axis)
        found.append(0.5 * (math.log(variance) + (error**2).mean() / variance))
    return float(np.mean(found))


# Transformers


def hidden_mse(students: Sequence[Array], teachers: Sequence[Array]) -> float:
    return over_layers(hint, students, teachers)


def cosine_hidden(student: Array, teacher: Array) -> float:
    width = student.shape[-1]
    return over_examples(
        lambda s, t: float(1 - (s @ t) / math.sqrt((s @ s) * (t @ t))),
        student.reshape(-1, width),
        teacher.reshape(-1, width),
    )


def patient(students: Sequence[Array], teachers: Sequence[Array]) -> float:
    def first(s: Array, t: Array) -> float:
        return 2 * cosine_hidden(*(one[:, 0] if one.ndim == 3 else one for one in (s, t)))

    return over_layers(first, students, teachers)


def attention_mse(students: Sequence[Array], teachers: Sequence[Array]) -> float:
    return over_layers(lambda s, t: hint(np.where(s <= -100, 0, s), np.where(t <= -100, 0, t)), students, teachers)


def attention_kl(students: Sequence[Array], teachers: Sequence[Array], given: str = "maps") -> float:
    def one(s: Array, t: Array) -> float:
        if given == "scores":
            s, t = softmax(s), softmax(t)
        return float(kl(t, s).mean())

    return over_layers(one, students, teachers)


def relation_kl(student: Array, teacher: Array, heads: int = 1) -> float:
    def one(s: Array, t: Array) -> float:
        found = []
        for ours, theirs in zip(np.split(s, heads, -1), np.split(t, heads, -1), strict=True):
            q, p = (softmax(part @ part.T / math.sqrt(part.shape[-1])) for part in (ours, theirs))
            found.append(kl(p, q).mean())
        return float(np.mean(found))

    return over_examples(one, student, teacher)


# Relations


def rows_of(feature: Array) -> Array:
    return feature.reshape(len(feature), -1)


def relational_distance(student: Array, teacher: Array) -> float:
    def relative(rows: Array) -> Array:
        found = np.array([[np.sqrt(((x - y) ** 2).sum()) for y in rows] for x in rows])
        return found / found[found > 0].mean()

    differences = relative(rows_of(student)) - relative(rows_of(teacher))
    return float(np.mean([huber(one) for one in differences.flat]))


def relational_angle(student: Array, teacher: Array) -> float:
    def angles(rows: Array) -> list[float]:
        found = []
        for i, j, k in itertools.product(range(len(rows)), repeat=3):
            same = j in (i, k)
            found.append(0.0 if same else float(unit(rows[i] - rows[j]) @ unit(rows[k] - rows[j])))
        return found

    pairs = zip(angles(rows_of(student)), angles(rows_of(teacher)), strict=True)
    return float(np.mean([huber(ours - theirs) for ours, theirs in pairs]))


def similarity_preserving(student: Array, teacher: Array) -> float:
    ours, theirs = (np.array([unit(row) for row in rows_of(one) @ rows_of(one).T]) for one in (student, teacher))
    return float(((ours - theirs) ** 2).sum() / len(student) ** 2)


def cosines(feature: Array) -> Array:
    rows = np.array([unit(row) for row in rows_of(feature)])
    return rows @ rows.T


def correlation_congruence(student: Array, teacher: Array, gamma: float = 0.4, order: int = 2) -> float:
    def kernel(feature: Array) -> Array:
        terms = [(2 * gamma) ** p / math.factorial(p) * cosines(feature) ** p for p in range(order + 1)]
        return math.exp(-2 * gamma) * np.sum(terms, 0)

    return float(((kernel(student) - kernel(teacher)) ** 2).mean())


def probabilistic_transfer(student: Array, teacher: Array) -> float:
    def shares(feature: Array) -> Array:
        kernel = (1 + cosines(feature)) / 2 + 1e-7
        return kernel / kernel.sum(-1, keepdims=True)

    return float(kl(shares(teacher), shares(student)).mean())


def contrastive(
    student: Array,
    teacher: Array,
    tau: float = 0.07,
    level: float | None = None,
    negatives: Array | None = None,
    student_negatives: Array | None = None,
) -> float:
    ours, theirs = (np.array([unit(row) for row in rows_of(one)]) for one in (student, teacher))

    def direction(anchors: Array, partners: Array, others: Array | None) -> float:
        drawn = [np.delete(partners, i, 0) if others is None else _of(others, i) for i in range(len(anchors))]
        right = [math.exp(a @ p / tau) for a, p in zip(anchors, partners, strict=True)]
        wrong = [[math.exp(a @ unit(n) / tau) for n in some] for a, some in zip(anchors, drawn, strict=True)]
        mean = float(np.mean(right + [one for some in wrong for one in some])) if level is None else level
        total = 0.0
        for good, bad in zip(right, wrong, strict=True):
            number = len(bad)
            total -= math.log(good / mean / (good / mean + number))
            total -= sum(math.log(number / (one / mean + number)) for one in bad)
        return total / len(anchors)

    total = direction(ours, theirs, negatives)
    if negatives is None or student_negatives is not None:
        total += direction(theirs, ours, student_negatives)
    return total


def info_nce(student: Array, teacher: Array, tau: float = 0.07, negatives: Array | None = None) -> float:
    ours, theirs = (np.array([unit(row) for row in rows_of(one)]) for one in (student, teacher))
    total = 0.0
    for i, row in enumerate(ours):
        others = np.delete(theirs, i, 0) if negatives is None else [unit(n) for n in _of(negatives, i)]
        scores = np.array([row @ theirs[i], *[row @ other for other in others]]) / tau
        total -= math.log(softmax(scores)[0])
    return total / len(ours)


def _of(negatives: Array, example: int) -> Array:
    return negatives[example] if negatives.ndim == 3 else negatives
