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
