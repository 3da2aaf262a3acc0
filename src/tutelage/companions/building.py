"""Which companion each word of `words.COMPANIONS` is, and how it is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from tutelage.companions.assignment import Calibration, Projections
from tutelage.companions.branches import Branches
from tutelage.companions.centres import Centre
from tutelage.companions.contrast import Contrast
from tutelage.companions.exits import Exits
from tutelage.companions.experts import Experts
from tutelage.companions.fusion import Fusion
from tutelage.companions.generation import Generation
from tutelage.companions.heads import Regressed
from tutelage.companions.judges import FeatureJudge, LogitJudge
from tutelage.companions.memories import PastProbabilities
from tutelage.companions.numbers import TemperatureParameter
from tutelage.companions.protocol import Around, Companion
from tutelage.companions.queues import Anchors, TwinAnchors
from tutelage.objective import Term
from tutelage.types import Outputs

__all__ = ["BUILDERS"]

# (term, student, what the student says of around.batch, around) -> companion
Builder = Callable[[Term, nn.Module, Outputs, Around], Companion]

BUILDERS: Mapping[str, Builder] = {
    "temperature_parameter": TemperatureParameter.build,
    "reviewed_features": Fusion.build,
    "calibrated_features": Projections.build,
    "calibration": Calibration.build,
    "regressed": Regressed.build,
    "generated_feature": Generation.build,
    "expert_guesses": Experts.build,
    "past_probabilities": PastProbabilities.build,
    "judged": LogitJudge.build,
    "judged_feature": FeatureJudge.build,
    "exits": Exits.build,
    "branches": Branches.build,
    "contrast": Contrast.build,
    "anchors": Anchors.build,
    "twin_anchors": TwinAnchors.build,
    "centre": Centre.build,
}
