"""Trained models made smaller: pruned, of lower rank, with fewer blocks; and built again from the facts alone.

What comes out is where a student starts: it learns from there by any arm, so that pruning before distillation and
before fine-tuning are two arms of one comparison.
"""

from __future__ import annotations

from tutelage.compress.lowrank import Rank
from tutelage.compress.masks import is_masked, plain, remasked, zeros_of
from tutelage.compress.shrink import Prune, Shrink, Smaller, shrink
from tutelage.compress.steps import rebuilt
from tutelage.compress.thinning import Thin

__all__ = [
    "Prune", "Rank", "Shrink", "Smaller", "Thin", "is_masked", "plain", "rebuilt", "remasked", "shrink", "zeros_of",
]  # fmt: skip
