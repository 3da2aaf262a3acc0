"""The catalogue of losses: pure functions, named by the field's terms, each with equation, use and paper.

`__all__` is the list that drives the tests, the documentation and `tutelage methods`. The names of a loss's positional
parameters say what it reads. Helpers are in `losses.targets` (top-k, masks) and `losses.chunking`.
"""

from tutelage.losses.divergences import jensen_shannon, reverse_soft_target, skewed, skewed_reverse, soft_target
from tutelage.losses.logits import cross_entropy, decoupled, hard_label, logit_mse
from tutelage.losses.scale_free import dist, standardized

__all__ = [
    "cross_entropy",
    "decoupled",
    "dist",
    "hard_label",
    "jensen_shannon",
    "logit_mse",
    "reverse_soft_target",
    "skewed",
    "skewed_reverse",
    "soft_target",
    "standardized",
]
