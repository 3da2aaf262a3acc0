"""The catalogue of losses: pure functions, named by the field's terms, each with equation, use and paper.

`__all__` is the list that drives the tests, the documentation and `tutelage methods`. The names of a loss's positional
parameters say what it reads. Helpers are in `losses.targets` (top-k, masks) and `losses.chunking`.
"""

from tutelage.losses.adversaries import adversarial, adversarial_feature
from tutelage.losses.contrastive import contrastive, contrastive_memory, info_nce
from tutelage.losses.curricula import annealed, curriculum_temperature
from tutelage.losses.divergences import jensen_shannon, reverse_soft_target, skewed, skewed_reverse, soft_target
from tutelage.losses.ensembles import adaptive_ensemble, ensemble_distribution
from tutelage.losses.features import (
    attention_transfer,
    factor_transfer,
    flow,
    hint,
    neuron_selectivity,
)
from tutelage.losses.features_companions import (
    distillation_experts,
    masked_generation,
    representation_regression,
    review,
    semantic_calibration,
    vit_mimic,
)
from tutelage.losses.features_targets import activation_boundary, overhaul, variational
from tutelage.losses.features_transformer import (
    attention_kl,
    attention_mse,
    cosine_hidden,
    hidden_mse,
    patient,
    relation_kl,
)
from tutelage.losses.gradients import (
    adversarially_robust,
    feature_gradient_matching,
    grad_cam,
    introspective,
    jacobian_matching,
    robust_soft_label,
)
from tutelage.losses.independent import (
    binary_cross_entropy,
    binary_soft_target,
    bounded_regression,
    margin_mse,
    regression_mse,
)
from tutelage.losses.logits import cross_entropy, decoupled, hard_label, logit_mse
from tutelage.losses.normalised import adaptive_kl, normalized, one_for_all, teacher_free, weighted_soft_target
from tutelage.losses.ranking import collaborative_ranking, position_weighted_ranking, relaxed_ranking
from tutelage.losses.relations import (
    correlation_congruence,
    probabilistic_transfer,
    relational_angle,
    relational_distance,
    similarity_preserving,
)
from tutelage.losses.scale_free import dist, standardized
from tutelage.losses.self_supervised import (
    compress_one_queue,
    compress_two_queues,
    seed_similarity,
    self_consistent,
)
from tutelage.losses.self_taught import class_consistency, native_ensemble, own_exits, progressive
from tutelage.losses.temperatures import multi_level, transformed_teacher, weighted_transformed_teacher

__all__ = [
    "activation_boundary",
    "adaptive_ensemble",
    "adaptive_kl",
    "adversarial",
    "adversarial_feature",
    "adversarially_robust",
    "annealed",
    "attention_kl",
    "attention_mse",
    "attention_transfer",
    "binary_cross_entropy",
    "binary_soft_target",
    "bounded_regression",
    "class_consistency",
    "collaborative_ranking",
    "compress_one_queue",
    "compress_two_queues",
    "contrastive",
    "contrastive_memory",
    "correlation_congruence",
    "cosine_hidden",
    "cross_entropy",
    "curriculum_temperature",
    "decoupled",
    "dist",
    "distillation_experts",
    "ensemble_distribution",
    "factor_transfer",
    "feature_gradient_matching",
    "flow",
    "grad_cam",
    "hard_label",
    "hidden_mse",
    "hint",
    "info_nce",
    "introspective",
    "jacobian_matching",
    "jensen_shannon",
    "logit_mse",
    "margin_mse",
    "masked_generation",
    "multi_level",
    "native_ensemble",
    "neuron_selectivity",
    "normalized",
    "one_for_all",
    "overhaul",
    "own_exits",
    "patient",
    "position_weighted_ranking",
    "probabilistic_transfer",
    "progressive",
    "regression_mse",
    "relation_kl",
    "relational_angle",
    "relational_distance",
    "relaxed_ranking",
    "representation_regression",
    "reverse_soft_target",
    "review",
    "robust_soft_label",
    "seed_similarity",
    "self_consistent",
    "semantic_calibration",
    "similarity_preserving",
    "skewed",
    "skewed_reverse",
    "soft_target",
    "standardized",
    "teacher_free",
    "transformed_teacher",
    "variational",
    "vit_mimic",
    "weighted_soft_target",
    "weighted_transformed_teacher",
]
