"""Models from a name: small nets of our own, Hugging Face image classifiers, and the user's functions.

Whatever the source, the rest of tutelage sees one thing, a `Classifier`: inputs in [0, 1] to logits, with its own
normalisation inside and its output shape checked.
"""

from __future__ import annotations

from tutelage.models.adapters import Adapter, adapt, is_adapted, learning_count, merge, takes_any_order
from tutelage.models.build import ModelSpec, build
from tutelage.models.classifier import Classifier, Normalise
from tutelage.models.folding import fold_batchnorm
from tutelage.models.identity import architecture_digest
from tutelage.models.nets import NETS, NetInfo, parameter_count
from tutelage.models.weights import load_weights, save_weights, state_digest, weights_as_bytes

__all__ = [
    "NETS",
    "Adapter",
    "Classifier",
    "ModelSpec",
    "NetInfo",
    "Normalise",
    "adapt",
    "architecture_digest",
    "build",
    "fold_batchnorm",
    "is_adapted",
    "learning_count",
    "load_weights",
    "merge",
    "parameter_count",
    "save_weights",
    "state_digest",
    "takes_any_order",
    "weights_as_bytes",
]
