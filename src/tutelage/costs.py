"""What a loss costs at every step: told from what it reads, and measured where `benchmarks/methods.py` has done so.

Formulas count what learns along with the student, or remembers, and never ships; `_LETTERS` says what they are made of.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.words import COMPANIONS, CompanionWord

__all__ = ["FORMULAS", "cost", "measured", "told"]

_LETTERS = {
    "c_s": "the student's channels", "c_t": "the teacher's channels", "C": "classes", "N": "training examples",
    "S": "the student's layers", "L": "the teacher's layers",
}  # fmt: skip
_NOTHING = CompanionWord("")

# What is read -> how many numbers learn along (or are remembered), and for what.
FORMULAS: Mapping[str, tuple[str, str]] = {
    "log_variance": ("c_t", "parameters, the variances"),
    "temperature_parameter": ("1", "parameters"),
    "reviewed_features": (
        "m · (c_s + 9 · c_t + 6) + 2 · c_t + 2",
        "parameters for each layer, 4 m + 2 fewer for the earliest, m the width of the student's deepest, at most 512",
    ),
    "calibrated_features": ("c_s · c_t + 10 · c_t² + 6 · c_t", "parameters for each of S · L pairs of layers"),
    "calibration": (
        "2 · d · N_B + 2 · d + 2 · d² + d",
        "parameters for each of S + L layers, N_B examples in a batch, d = N_B / 4, at least 16",
    ),
    "regressed": ("c_s · c_t + 2 · c_t", "parameters"),
    "generated_feature": ("c_s · c_t + 18 · c_t² + 4 · c_t", "parameters"),
    "expert_guesses": (
        "m · (h · (c_s + c_t + 1) + 2 · c_t + 1)",
        "parameters of m = 30 experts and their gate, h = (c_s + c_t) / 2",
    ),
    "past_probabilities": ("N · C", "numbers in memory"),
    "judged": ("w · (2 · C + w + 3) + 1", "parameters of a judge, w = 64, which is asked twice"),
    "judged_feature": (
        "w · (c_t + w + 3) + 1",
        "parameters of a judge, w = 64, which is asked twice, and c_s · c_t + c_t more where widths differ",
    ),
    "exits": (
        "c_s · n + 9 · n² + 4 · n + n · d + d + d · C + C",
        "parameters of an exit at each place but the last, on maps, d the deepest layer's channels, n = d / 2",
    ),
    "branches": (
        "c_s · n + n",
        "parameters of a gate over n branches, beside n − 1 copies of all that lies behind the place",
    ),
    "contrast": ("d · (c_s + c_t + 2)", "parameters of two embeddings, d = 128, and 2 · N · d numbers in memory"),
    "anchors": ("K · c_t", "numbers in memory, K = 4,096, fewer where there are fewer examples"),
    "twin_anchors": ("K · (c_s + c_t)", "numbers in memory, K = 4,096, fewer where there are fewer examples"),
    "centre": ("C", "numbers in memory"),
}


def cost(name: str, reads: Sequence[str]) -> str:
    """What a loss costs, in one line.

    Args:
        name: of the loss.
        reads: the names of its positional parameters.
    """
    return "; ".join(part for part in (told(reads), measured(name)) if part)


def told(reads: Sequence[str]) -> str:
    """What must be done for a loss that reads this, beside the student's own pass forward and back."""
    parts = [_of_teacher(reads), *_of_student(reads), *_along(reads)]
    used = set(re.findall(r"\b\w+\b", " ".join(_along(reads))))
    return "; ".join([*parts, *(f"{letter}: {meaning}" for letter, meaning in _LETTERS.items() if letter in used)])


def _of_teacher(reads: Sequence[str]) -> str:
    slopes = [word for word in reads if word.startswith("teacher_") and "gradient" in word]
    if slopes:
        whither = "the input" if "teacher_input_gradient" in slopes else "its layer"
        return f"a pass of the teacher and one back to {whither}, live"
    if "teacher_adversarial_logits" in reads:
        return "two passes of the teacher, one of them on attacked inputs, live"
    if "teacher_members" in reads:
        return "a pass of every teacher, or a row of each one's store"
    layers = [word for word in reads if word.startswith("teacher_feature") or _listens(word) in ("one", "several")]
    if layers:
        several = any(word == "teacher_features" or _listens(word) == "several" for word in layers)
        kept = {
            False: "a pass of the teacher, whose layer is kept",
            True: "a pass of the teacher, whose layers are kept",
        }
        return kept[several]
    return "a pass of the teacher, or a row of its store" if "teacher_logits" in reads else "no teacher"


def _listens(word: str) -> str:
    """To how many layers of the teacher what learns along for this word listens: none, one or several."""
    companion = COMPANIONS.get(word, _NOTHING)
    return companion.places if companion.teacher else "none"


def _of_student(reads: Sequence[str]) -> list[str]:
    found = []
    if any(word.startswith("student_") and "gradient" in word for word in reads):
        found.append("a pass through the student's own gradient: about three of its steps in one")
    if "adversarial_logits" in reads:
        found.append("for each step of the attack a pass of the student forward and back, and one more at its end")
    if "partner_logits" in reads:
        found.append("a forward pass of the student on as many other examples")
    return found


def _along(reads: Sequence[str]) -> list[str]:
    found = []
    if any(word.startswith("matched_feature") for word in reads):
        found.append("parameters of a linear connector for each layer where widths differ: c_s · c_t + c_t")
    for word in reads:
        if word in FORMULAS:
            formula, what = FORMULAS[word]
            found.append(f"{what}: {formula}")
        elif word in COMPANIONS:
            found.append("something learns along or remembers, see what it reads")
    return found


def measured(name: str) -> str:
    """What a step of a loss took more than one on labels alone; "" where that was not measured."""
    facts = _measured()
    if name not in facts["extra_ms"]:
        return ""
    extra, memory = facts["extra_ms"][name], facts["extra_mib"].get(name) or 0.0
    more = f"{extra:.1f} ms" if extra >= facts["noise_ms"] else f"less than {facts['noise_ms']:g} ms"
    if memory >= facts["noise_mib"]:
        more = f"{more} and {memory:.1f} MiB at its peak"
    step = f"the {facts['step_ms']:.1f} ms of a step on labels alone"
    return f"measured {more} more than {step} (cnn of width 8, batches of 128 pictures, one CPU thread)"


@functools.cache
def _measured() -> dict[str, Any]:
    """What `benchmarks/methods.py --costs` wrote."""
    file = importlib.resources.files("tutelage") / "measured.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
