"""The words that a term is made of: what a loss may read, what connects layers, of which number a gradient is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["COMBINED", "COMPANIONS", "CONNECTORS", "GRADIENTS", "MAPS", "NEEDS", "CompanionWord"]


@dataclass(frozen=True, slots=True)
class CompanionWord:
    """What learns along, or remembers, for one term: the value that a loss reads, and what it is made from.

    `settings` are the keys of a term's `companion`, with their defaults; `places` says whether the term names layers:
    "none", "one" or "several"; `teacher` whether the value depends on what the teacher says.
    """

    line: str
    places: str = "none"
    teacher: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


COMPANIONS: Mapping[str, CompanionWord] = {
    "temperature_parameter": CompanionWord(
        "a number that learns along, from which a temperature is made, ()", settings={"initial": 1.0}
    ),
    "reviewed_features": CompanionWord(
        "the student's layers, each fused with all deeper ones, in the shapes of the teacher's, a list",
        places="several",
        settings={"width": None},
    ),
    "calibrated_features": CompanionWord(
        "every layer of the student projected to every one of the teacher, then those of the teacher, a list",
        places="several",
        teacher=True,
    ),
    "calibration": CompanionWord(
        "how much each pair of the student's and the teacher's layers counts for each example, (B, S, L)",
        places="several",
        teacher=True,
        settings={"width": None},
    ),
    "regressed": CompanionWord(
        "the student's feature in the teacher's width, and the teacher's logits of it, a list",
        places="one",
        teacher=True,
    ),
    "generated_feature": CompanionWord(
        "the student's tokens made up in the teacher's width, and which were hidden, a list",
        places="one",
        settings={"share": 0.5},
    ),
    "expert_guesses": CompanionWord(
        "what experts that learn along guess of the teacher's feature (B, M, D), a gate's noisy logits of them (B, M), "
        "and the teacher's feature (B, D), a list",
        places="one",
        teacher=True,
        settings={"experts": 30},
    ),
    "past_probabilities": CompanionWord(
        "the student's probabilities when it last saw each example, a constant, NaN where it never did, (B, C)"
    ),
    "judged": CompanionWord(
        "what a judge that learns along says of logits: three tensors of scores (B,), a list",
        teacher=True,
        settings={"width": 64, "labels": True},
    ),
    "judged_feature": CompanionWord(
        "what a judge that learns along says of a layer's output: three tensors of scores (B,), a list",
        places="one",
        teacher=True,
        settings={"width": 64},
    ),
    "exits": CompanionWord(
        "of exits that learn along at all places but the deepest, the last: their logits, then their features, a list",
        places="several",
    ),
    "branches": CompanionWord(
        "of copies that learn along of what the student has behind a place: logits, then a gate (B, n), a list",
        places="one",
        settings={"count": 3},
    ),
    "contrast": CompanionWord(
        "similarities of two embeddings that learn along: of each pair (B,), of each side with negatives from a memory "
        "(B, K), and the logarithms of their levels (2,), a list",
        places="one",
        teacher=True,
        settings={"width": 128, "negatives": None, "momentum": 0.5, "tau": 0.07},
    ),
    "anchors": CompanionWord(
        "the teacher's embeddings of the examples seen lately, NaN in rows that are not filled yet, (K, D)",
        places="one",
        teacher=True,
        settings={"size": None},
    ),
    "twin_anchors": CompanionWord(
        "the teacher's embeddings of the examples seen lately, then the student's of the same ones, a list",
        places="one",
        teacher=True,
        settings={"size": None},
    ),
    # It hears what the term's own source says after each batch, whoever that is.
    "centre": CompanionWord(
        "a running mean of the logits of whom the term listens to, (C,)", settings={"momentum": 0.9}
    ),
}
_READ: Mapping[str, str] = {
    "student_logits": "the student's logits, (B, C)",
    "teacher_logits": "the teacher's logits, (B, C) or its k largest",
    "teacher_members": "the logits of every member of an ensemble, (M, B, C)",
    "target": "labels (B,), or probabilities (B, C) where examples are mixed, or several labels or numbers (B, C)",
    "labels": "labels (B,); not to be had where examples are mixed",
    "partner_logits": "the student's logits on another example of the same class, a constant, (B, C)",
    "progress": "how far training is, from 0 at the first step to 1 at the end, a number",
    "student_feature": "what the student's layer puts out, (B, …)",
    "matched_feature": "the same behind a connector, in the teacher's shape",
    "teacher_feature": "what the teacher's layer puts out, (B, …)",
    "student_features": "what several of the student's layers put out, a list",
    "matched_features": "the same behind connectors, each in the shape of the teacher's",
    "teacher_features": "what several of the teacher's layers put out, a list",
    "log_variance": "a number for each of the teacher's channels that learns with the connector, (C,)",
    "student_input_gradient": "of one number of the student's answer with respect to the input, (B, …)",
    "teacher_input_gradient": "the same of the teacher",
    "student_feature_gradient": "of one number of the student's answer with respect to what a layer puts out, (B, …)",
    "teacher_feature_gradient": "the same of the teacher",
    "student_feature_gradients": "the same of several of the student's layers, a list",
    "teacher_feature_gradients": "the same of several of the teacher's layers, a list",
    "adversarial_logits": "the student's logits on attacked inputs, (B, C)",
    "teacher_adversarial_logits": "the teacher's logits on inputs that attack the student, (B, C)",
}
NEEDS: Mapping[str, str] = {**_READ, **{word: companion.line for word, companion in COMPANIONS.items()}}
GRADIENTS: Mapping[str, str] = {
    "label": "the label's logit",
    "max": "the logit that the teacher ranks first",
    "cross_entropy": "the cross-entropy with the target",
    "projection": "the logits, each with a random sign that belongs to the example and its view",
}
CONNECTORS: Mapping[str, str] = {
    "auto": "linear where the widths differ, else none",
    "none": "the shapes are equal as they are",
    "linear": "one linear layer; a 1×1 convolution on maps",
    "mlp": "two layers with a ReLU between them",
    "block": "a transformer block, then a linear layer; for tokens",
}
MAPS: Mapping[str, str] = {
    "uniform": "the student's m-th of M layers beside the teacher's ⌈m · N / M⌉-th of N",
    "last": "the student's layers beside as many of the teacher's last ones",
    "first": "the student's layers beside as many of the teacher's first ones",
}
COMBINED: Mapping[str, str] = {
    "each": "the loss with each of them, averaged",
    "mean_logits": "the mean of all logits, the student's own among them",
    "mean_probabilities": "the mean of all probabilities, the student's own among them",
    "best": "for each example, the logits with the least cross-entropy, the student's own among them",
    "least_logits": "each logit less the label's, the least of all of them, the student's own among them",
}


# Where models live that are no torch modules: before the colon of a teacher's name.
FRAMEWORKS = ("sklearn", "xgboost", "lightgbm", "onnx", "keras", "savedmodel", "jax")
ADDRESSES = ("http", "https", "chat")


def answers_elsewhere(model: str) -> bool:
    """Whether a name leads to what is no torch module: another framework's model, or an address."""
    return model.partition(":")[0] in FRAMEWORKS or is_remote(model)


def is_fitted(model: str) -> bool:
    """Whether a name means a teacher that is fitted on the training part when the run begins."""
    prefix, _, rest = model.partition(":")
    return prefix == "sklearn" and not rest.endswith(".skops")


def is_remote(model: str) -> bool:
    """Whether a name is an address, `http://…`, `https://…` or `chat:…`."""
    kind, colon, _ = model.partition(":")
    return bool(colon) and kind in ADDRESSES
