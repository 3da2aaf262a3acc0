"""Every loss again, in float64 NumPy, written from its equation and nothing else: what the contract compares with.

Rows are examples; there are no masks, no half precision, no top-k and no care for extremes, so there is little to get
wrong. Names and options are those of `tutelage.losses`.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def softmax(logits: Array, temperature: float = 1.0) -> Array:
    scaled = np.exp(logits / temperature - np.max(logits / temperature, axis=-1, keepdims=True))
    return scaled / scaled.sum(-1, keepdims=True)


def kl(a: Array, b: Array) -> Array:
    return (a * np.log(a / b)).sum(-1)


def cross_entropy(
    student: Array,
    target: Array,
    label_smoothing: float = 0.0,
    smoothing: str = "all",
    class_weights: Array | None = None,
) -> float:
    rows, classes = student.shape
    total = 0.0
    for row in range(rows):
        shares = np.eye(classes)[target[row]] if target.ndim == 1 else target[row].copy()
        if smoothing == "all":
            shares = (1 - label_smoothing) * shares + label_smoothing / classes
        else:
            shares = np.full(classes, label_smoothing / (classes - 1))
            shares[target[row]] = 1 - label_smoothing
        weights = np.ones(classes) if class_weights is None else class_weights
        total -= (weights * shares * np.log(softmax(student[row]))).sum()
    return total / rows


def hard_label(student: Array, teacher: Array) -> float:
    return cross_entropy(student, teacher.argmax(-1))


def logit_mse(student: Array, teacher: Array) -> float:
    return ((student - teacher) ** 2).sum() / student.size


def soft_target(student: Array, teacher: Array, temperature: float = 4.0) -> float:
    return temperature**2 * kl(softmax(teacher, temperature), softmax(student, temperature)).mean()


def reverse_soft_target(student: Array, teacher: Array, temperature: float = 1.0) -> float:
    return temperature**2 * kl(softmax(student, temperature), softmax(teacher, temperature)).mean()


def jensen_shannon(student: Array, teacher: Array, mix: float = 0.5, temperature: float = 1.0) -> float:
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    m = mix * p + (1 - mix) * q
    return temperature**2 * (mix * kl(p, m) + (1 - mix) * kl(q, m)).mean()


def skewed(student: Array, teacher: Array, skew: float = 0.1, temperature: float = 1.0) -> float:
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return temperature**2 * kl(p, skew * p + (1 - skew) * q).mean()


def skewed_reverse(student: Array, teacher: Array, skew: float = 0.1, temperature: float = 1.0) -> float:
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return temperature**2 * kl(q, (1 - skew) * p + skew * q).mean()


def decoupled(
    student: Array,
    teacher: Array,
    labels: Array,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> float:
    total = 0.0
    for z_s, z_t, y in zip(student, teacher, labels, strict=True):
        p, q = softmax(z_t, temperature), softmax(z_s, temperature)
        others_p, others_q = np.delete(p, y), np.delete(q, y)
        binary = kl(np.array([p[y], others_p.sum()]), np.array([q[y], others_q.sum()]))
        among = kl(others_p / others_p.sum(), others_q / others_q.sum())
        total += temperature**2 * (alpha * binary + beta * among)
    return total / len(labels)


def standardized(student: Array, teacher: Array, temperature: float = 2.0, ddof: int = 1) -> float:
    def z_score(z: Array) -> Array:
        return (z - z.mean(-1, keepdims=True)) / (z.std(-1, ddof=ddof, keepdims=True) + 1e-7)

    return soft_target(z_score(student), z_score(teacher), temperature)


def dist(student: Array, teacher: Array, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> float:
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    rows = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)]
    columns = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)]
    return temperature**2 * (beta * np.mean(rows) + gamma * np.mean(columns))


def log_sigmoid(z: Array) -> Array:
    return -np.log1p(np.exp(-z))


def normalized(student: Array, teacher: Array, labels: Array, gamma: float = 1.5, temperature: float = 1.0) -> float:
    total = 0.0
    for z_s, z_t, y in zip(student, teacher, labels, strict=True):
        total -= softmax(z_t)[y] * np.log(softmax(z_s)[y])
        among_p, among_q = (softmax(np.delete(z, y), temperature) for z in (z_t, z_s))
        total -= gamma * temperature**2 * (among_p * np.log(among_q)).sum()
    return total / len(labels)


def weighted_soft_target(student: Array, teacher: Array, labels: Array, temperature: float = 2.0) -> float:
    rows = np.arange(len(labels))
    own, theirs = (-np.log(softmax(z)[rows, labels]) for z in (student, teacher))
    weights = 1 - np.exp(-own / (theirs + 1e-7))
    return temperature**2 * (weights * kl(softmax(teacher, temperature), softmax(student, temperature))).mean()


def one_for_all(student: Array, teacher: Array, labels: Array, gamma: float = 1.5) -> float:
    label = np.eye(student.shape[-1])[labels]
    return -(((softmax(teacher) + label) ** gamma - label) * np.log(softmax(student))).sum(-1).mean()


def adaptive_kl(student: Array, teacher: Array, head: float = 0.5, temperature: float = 1.0) -> float:
    total = 0.0
    for z_s, z_t in zip(student, teacher, strict=True):
        p, q = softmax(z_t, temperature), softmax(z_s, temperature)
        chosen, held = [], 0.0
        for c in np.argsort(-p):
            held += p[c]
            if chosen and held > head:
                break
            chosen.append(c)
        w = np.abs(p - q)[chosen].sum() / np.abs(p - q).sum()
        total += w * kl(p, q) + (1 - w) * kl(q, p)
    return temperature**2 * total / len(student)


def teacher_free(student: Array, labels: Array, certainty: float = 0.99, temperature: float = 20.0) -> float:
    classes = student.shape[-1]
    u = np.full(student.shape, (1 - certainty) / (classes - 1))
    u[np.arange(len(labels)), labels] = certainty
    softened = u ** (1 / temperature)
    softened /= softened.sum(-1, keepdims=True)
    return temperature**2 * kl(softened, softmax(student, temperature)).mean()


def power_sum(teacher: Array, temperature: float) -> Array:
    return (softmax(teacher) ** (1 / temperature)).sum(-1, keepdims=True)


def transformed_teacher(student: Array, teacher: Array, temperature: float = 10.0) -> float:
    transformed = softmax(teacher) ** (1 / temperature) / power_sum(teacher, temperature)
    return kl(transformed, softmax(student)).mean()


def weighted_transformed_teacher(student: Array, teacher: Array, temperature: float = 10.0) -> float:
    sums = power_sum(teacher, temperature)
    transformed = softmax(teacher) ** (1 / temperature) / sums
    return (sums[:, 0] * kl(transformed, softmax(student))).mean()


def multi_level(
    student: Array,
    teacher: Array,
    temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0),
    instance: float = 1.0,
    batch: float = 1.0,
    classes: float = 1.0,
) -> float:
    total = 0.0
    rows, width = student.shape
    for temperature in temperatures:
        p, q = softmax(teacher, temperature), softmax(student, temperature)
        total += instance * soft_target(student, teacher, temperature)
        for i in range(rows):
            for j in range(rows):
                total += batch * ((q[i] * q[j]).sum() - (p[i] * p[j]).sum()) ** 2 / rows
        for i in range(width):
            for j in range(width):
                total += classes * ((q[:, i] * q[:, j]).sum() - (p[:, i] * p[:, j]).sum()) ** 2 / width
    return total


def binary_soft_target(student: Array, teacher: Array, temperature: float = 1.0) -> float:
    a, b = teacher / temperature, student / temperature
    yes = np.exp(log_sigmoid(a)) * (log_sigmoid(a) - log_sigmoid(b))
    no = np.exp(log_sigmoid(-a)) * (log_sigmoid(-a) - log_sigmoid(-b))
    return temperature**2 * (yes + no).sum(-1).mean()


def binary_cross_entropy(student: Array, target: Array, positive_weights: Array | None = None) -> float:
    weights = np.ones(student.shape[-1]) if positive_weights is None else positive_weights
    return -(weights * target * log_sigmoid(student) + (1 - target) * log_sigmoid(-student)).sum(-1).mean()


def regression_mse(student: Array, target: Array) -> float:
    return float(((student - target) ** 2).sum() / student.size)


def bounded_regression(student: Array, teacher: Array, target: Array, margin: float = 0.0) -> float:
    total = 0.0
    for s, t, y in zip(student, teacher, target, strict=True):
        own, bound = ((s - y) ** 2).mean(), ((t - y) ** 2).mean()
        total += own if own + margin > bound else 0.0
    return total / len(target)


def margin_mse(student: Array, teacher: Array, labels: Array) -> float:
    total = 0.0
    for s, t, y in zip(student, teacher, labels, strict=True):
        others = [c for c in range(len(s)) if c != y]
        total += np.mean([((t[y] - t[c]) - (s[y] - s[c])) ** 2 for c in others])
    return total / len(labels)


def relaxed_ranking(student: Array, teacher: Array, top: int | None = None, others: int | None = None) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        order = np.argsort(-t)
        ahead, rest = list(order[:top]), list(order[top:]) if top else []
        share = 1.0 if others is None or not rest else others / len(rest)
        for place, best in enumerate(ahead):
            total -= np.log(np.exp(s[best]) / (np.exp(s[ahead[place:]]).sum() + share * np.exp(s[rest]).sum()))
    return total / len(student)


def position_weighted_ranking(
    student: Array, teacher: Array, top: int | None = None, decay: float = 10.0, discrepancy: float | None = 0.1
) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        weights, parts = [], []
        for place, item in enumerate(np.argsort(-t)[:top], 1):
            own = 1 + sum(other > s[item] for other in s)
            weights.append(np.exp(-place / decay))
            if discrepancy is not None:
                weights[-1] *= np.tanh(max(discrepancy * (own - place), 0))
            parts.append(np.log(1 + np.exp(-s[item])))
        total += np.dot(weights, parts) / sum(weights) if sum(weights) > 0 else 0.0
    return total / len(student)


def collaborative_ranking(
    student: Array, teacher: Array, temperature: float = 1.0, top: int | None = None, decay: float = 10.0
) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        items = np.argsort(-t)[:top]
        chances = np.exp(-np.arange(1, len(items) + 1) / decay)
        for chance, item in zip(chances / chances.sum(), items, strict=True):
            p, q = 1 / (1 + np.exp(-t[item] / temperature)), 1 / (1 + np.exp(-s[item]))
            total += chance * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    return total / len(student)
