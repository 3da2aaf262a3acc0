"""The words that a term is made of: what a loss may read, what connects layers, of which number a gradient is taken."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["CONNECTORS", "GRADIENTS", "NEEDS"]

NEEDS: Mapping[str, str] = {
    "student_logits": "the student's logits, (B, C)",
    "teacher_logits": "the teacher's logits, (B, C) or its k largest",
    "teacher_members": "the logits of every member of an ensemble, (M, B, C)",
    "target": "labels (B,), or probabilities (B, C) where examples are mixed, or several labels or numbers (B, C)",
    "labels": "labels (B,); not to be had where examples are mixed",
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
