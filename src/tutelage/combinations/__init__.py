"""Methods of the literature that are no loss of their own: the parts of a recipe which, put together, are the method.

Each is a file of this folder, `<name>.md`: a title that says in one line what it is, then the headings of `HEADINGS`.
Under `Recipe` stands, as YAML, what of a recipe makes it this method; the rest of the recipe is whatever it was. Where
a command belongs to the method, it stands there as well.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["FAMILIES", "HEADINGS", "Combination", "combinations", "parsed"]

HEADINGS = ("Equation", "Use", "Defaults", "Cost", "Recipe", "Reference")

# What a reader looks for -> the methods, in the order in which to meet them.
_FAMILIES = (
    ("students who teach each other", ("deep_mutual", "collaborative", "codistillation")),
    ("students taught by earlier students", (
        "mean_teacher", "own_average_sharpened", "teacher_free_self", "born_again", "teacher_assistant",
        "densely_guided",
    )),
    ("several teachers", (
        "mean_of_teachers", "weighted_teachers", "random_teacher", "entropy_weighted", "confidence_weighted",
        "gradient_weighted", "distribution_of_teachers",
    )),
    ("when, and how much", ("early_stopped", "annealing", "warmed_up", "curriculum", "route_of_checkpoints")),
    ("examples and labels", (
        "function_matching", "model_compression", "noisy_student", "stored_views", "sampled_answers", "label_smoothing",
        "class_weighted", "class_balanced", "data_free",
    )),
    ("several losses together", (
        "layer_by_layer", "relational", "tiny_bert", "distil_bert", "mini_lm", "gradient_matching", "robust",
    )),
    ("parts of students, rounds, and users", ("low_rank_adapters", "reused_head", "smallest_enough", "personalised")),
)  # fmt: skip
FAMILIES: Mapping[str, tuple[str, ...]] = dict(_FAMILIES)


@dataclass(frozen=True, slots=True)
class Combination:
    """One method: its name, one line, and what stands under each heading.

    `recipe` is YAML, some keys of a recipe with all that is below them; `commands` are lines to be typed, each a whole
    command, where the method needs any.
    """

    name: str
    line: str
    family: str
    equation: str
    use: str
    defaults: str
    cost: str
    recipe: str
    commands: str
    reference: str


def combinations() -> list[Combination]:
    """All of them, family by family."""
    folder = importlib.resources.files("tutelage.combinations")
    return [
        parsed(name, family, (folder / f"{name}.md").read_text(encoding="utf-8"))
        for family, names in FAMILIES.items()
        for name in names
    ]


def parsed(name: str, family: str, text: str) -> Combination:
    """A file of this folder, taken apart.

    Raises:
        ValueError: it has no title, other headings or another order than `HEADINGS`, nothing under one of them, or no
            recipe and no command. The files are our own, so this is a fault of ours.
    """
    title, *parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    found = dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))
    if not re.fullmatch(r"# \S.*\n\s*", title) or tuple(found) != HEADINGS or not all(found.values()):
        raise ValueError(f"{name}.md: expected a title, then something under each of {', '.join(HEADINGS)}")
    blocks = {kind: _block(found["Recipe"], kind) for kind in ("yaml", "sh")}
    if not any(blocks.values()):
        raise ValueError(f"{name}.md: expected a block of yaml or sh under Recipe")
    return Combination(
        name, title[2:].strip(), family, found["Equation"], found["Use"], found["Defaults"], found["Cost"],
        blocks["yaml"], blocks["sh"], found["Reference"],
    )  # fmt: skip


def _block(text: str, kind: str) -> str:
    found = re.search(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return found[1].rstrip() if found else ""
