"""The few shapes of data that every room passes on.

Shape legend, used everywhere:  B batch · M members · C classes · k kept classes · T tokens · D features · H, W height
and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """The k largest logits of a teacher, and how much probability the others hold together.

    The tail is one more outcome, so a divergence over k + 1 outcomes stays a proper one; nothing is renormalised. The
    mass of the tail depends on the temperature it was taken at, so that temperature is part of the value.
    """

    values: Tensor  # (..., k) logits, not divided by the temperature
    indices: Tensor  # (..., k) int64 class numbers, each at most once per row
    tail: Tensor  # (...,) logsumexp over the other classes of logits / temperature; -inf where k = C
    classes: int  # C
    temperature: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """Classes drawn from a teacher's distribution: in the mean over draws it is that distribution, unlike a top-k."""

    indices: Tensor  # (..., n) int64 class numbers, each at most once per row where its weight is above 0
    weights: Tensor  # (..., n) float32 share of the draws that fell on the class; a row adds up to 1
    classes: int  # C
    temperature: float = 1.0  # of the distribution that was drawn from


Logits = Tensor | TopK | Sampled

# The number of a view that no draw made: whoever looks answers up by (id, view) finds none, as it must be.
ATTACKED = -1
# The view that holds, for every example, another one of its class.
PARTNER = "partner"


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Examples as every arm of a cohort sees them."""

    ids: Tensor  # (B,) int64 content ids
    inputs: Mapping[str, Tensor]  # view name -> (B, …); the view that students read is called "x"
    target: Tensor  # (B,) int64 labels, or (B, C) probabilities after mixup and cutmix
    view: int = 0  # number of the random draw that made the views; 0 where nothing was random
    labelled: Tensor | None = None  # (B,) bool, which examples have a label; None where all have
    tasks: Mapping[str, Tensor] = field(default_factory=dict)  # further task -> its own target, like `target`

    def __len__(self) -> int:
        return int(self.ids.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What a model answers: logits, and features at the places that were asked for."""

    logits: Logits  # (B, C)
    features: Mapping[str, Tensor] = field(default_factory=dict)  # layer -> what it put out, (B, …)
    matched: Mapping[str, Tensor | list[Tensor]] = field(default_factory=dict)  # what connectors and companions made
    attacked: Mapping[object, Logits] = field(default_factory=dict)  # attack -> logits (B, C) on what it made of inputs
    members: Tensor | None = None  # of an ensemble: every member's logits, (M, B, C)
    counts: Tensor | None = None  # of a teacher: (B,) bool, which examples it has a say about; None where about all
    partner: Tensor | None = None  # of a student: logits (B, C) on another example of each one's class, without a graph


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One step's loss with its graph, and its named parts without."""

    loss: Tensor  # () nats
    parts: Mapping[str, Tensor]  # name -> () nats, detached, before weighting
