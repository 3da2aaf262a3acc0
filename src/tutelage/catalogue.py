"""What there is to choose from: losses from their docstrings, combinations of them, models from their builders."""

from __future__ import annotations

import importlib.resources
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tutelage.costs import cost
from tutelage.errors import InputError
from tutelage.words import COMPANIONS

__all__ = [
    "Entry", "called", "combinations", "foreign_methods", "headings", "losses", "methods", "models", "recipes",
]  # fmt: skip

# The file of a loss -> what it works on, in the order in which a reader should meet them.
_FAMILIES = {
    "logits": "labels and logits",
    "divergences": "labels and logits",
    "scale_free": "labels and logits",
    "normalised": "labels and logits",
    "temperatures": "labels and logits",
    "curricula": "labels and logits",
    "independent": "several labels at once, and numbers",
    "ranking": "rankings of items",
    "features": "features of a layer",
    "features_targets": "features of a layer",
    "features_companions": "features of a layer",
    "features_transformer": "hidden states and attention of transformers",
    "relations": "relations between examples",
    "contrastive": "relations between examples",
    "self_taught": "the student itself",
    "self_supervised": "without labels",
    "adversaries": "a judge that learns along",
    "gradients": "gradients, and attacked inputs",
    "ensembles": "the members of an ensemble",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to choose: its name, one line, and all there is to say."""

    name: str
    line: str
    text: str
    family: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def methods() -> list[Entry]:
    """Every method of the literature that a recipe can say: the built-in losses, then what is made of several parts."""
    return [*losses(), *combinations()]


def losses() -> list[Entry]:
    """The built-in losses that a recipe can name."""
    from tutelage import losses as room

    found = []
    for name in room.__all__:
        loss = getattr(room, name)
        family = _FAMILIES.get(loss.__module__.rpartition(".")[2], "others")
        found.append(_card(name, loss, family))
    order = list(dict.fromkeys(_FAMILIES.values()))
    return sorted(found, key=lambda entry: [*order, entry.family].index(entry.family))


def combinations() -> list[Entry]:
    """Methods that are no loss of their own, with the parts of a recipe that are each of them."""
    from tutelage import combinations as room

    found = []
    for one in room.combinations():
        equation, use, reference, recipe, typed = (
            textwrap.indent(part, "    ") for part in (one.equation, one.use, one.reference, one.recipe, one.commands)
        )
        how = f"In a recipe:\n{recipe}" if recipe else ""
        how += ("\n\n" if recipe and typed else "") + (f"On the command line:\n{typed}" if typed else "")
        defaults, dear = (" ".join(part.split()) for part in (one.defaults, one.cost))
        head = f"{one.name}: {one.line}\n\nEquation:\n{equation}\n\nUse:\n{use}"
        text = f"{head}\n\nDefaults: {defaults}\nCost: {dear}\n\n{how}\n\nReference:\n{reference}"
        found.append(Entry(one.name, one.line, text, one.family))
    return found


def called(entries: Iterable[Entry], name: str) -> list[Entry]:
    """The entries that papers call so: "TinyBERT: …", or in brackets, "(DKD)", "(TinyBERT, MobileBERT)".

    Where the title of some is that name, these alone.
    """
    titles, brackets = [], []
    for entry in entries:
        title = entry.line.partition(":")[0]
        groups = re.findall(r"\(([^()…]*)\)", entry.line)
        if title.casefold() == name.casefold():
            titles.append(entry)
        elif len(name) > 1 and any(name.casefold() in group.casefold().split(", ") for group in groups):
            brackets.append(entry)
    return titles or brackets


def foreign_methods(name: str | None) -> list[Entry]:
    """The losses that installed packages offer, under their package's name.

    Args:
        name: of the one that is meant: only its package is imported, the others stay names. None imports all of them,
            and tells of each that cannot be used why.

    Raises:
        InputError: the one that is meant cannot be used.
    """
    from tutelage import extensions
    from tutelage import losses as room

    found = []
    offered = extensions.offers()
    for offer in offered:
        family = offer.home or "a package without a name"
        others = [f"`{one.function}` of `{one.home}`" for one in offered if one.name == offer.name and one != offer]
        others += ["the built-in one"] * (offer.name in room.__all__)
        if others:
            # No recipe can name it so; the name of its function always leads to it.
            line = f"with --trust; the name `{offer.name}` means {' and '.join(others)} as well"
            found.append(Entry(offer.function, line, f"{offer.function}: {line}", family))
        elif name not in (None, offer.name):
            found.append(Entry(offer.name, "", "", family))
        else:
            try:
                found.append(_card(offer.name, extensions.load(offer), family))
            except InputError as error:
                if name is not None:
                    raise
                found.append(Entry(offer.name, f"cannot be used: {error.problem.what}", str(error), family))
    return sorted(found, key=lambda entry: (entry.family, entry.name))


def _card(name: str, loss: Callable[..., Any], family: str) -> Entry:
    """All there is to say of a loss, from its docstring and its parameters."""
    text = inspect.getdoc(loss) or "says nothing about itself"
    signature = inspect.signature(loss)
    reads = ", ".join(p.name for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY)
    options = ", ".join(
        f"{p.name}={p.default}" for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY and p.name != "mask"
    )
    options, dear = options or "none", cost(name, reads.split(", "))
    head = f"{name}: {text}\n\nReads: {reads}\nDefaults: {options}\nCost: {dear}\n\nIn a recipe:\n  - loss: {name}"
    along = {COMPANIONS[word].places for word in reads.split(", ") if word in COMPANIONS}
    if "_feature" in reads or along - {"none"}:
        several = "[net.stages.1, net.stages.2]" if "_features" in reads or "several" in along else "net.stages.1"
        head += f"\n    at: {several}  # or {{student: …, teacher: …}} where layers are called differently"
    if "_gradient" in reads:
        head += "\n    gradient: label  # or max, cross_entropy, projection"
    if "adversarial_logits" in reads:
        head += "\n    attack: {eps: 0.03, steps: 10}"
    return Entry(name, text.splitlines()[0], head, family)


def models() -> list[Entry]:
    """The models that a recipe can name."""
    from tutelage.models import NETS

    found = []
    for name, info in NETS.items():
        given = "64 of 8,000 tokens" if info.reads == "tokens" else "1×28×28"
        size = f"{info.parameters:,} parameters for {given} and 10 classes"
        args = ", ".join(f"{key}={value}" for key, value in info.args.items())
        found.append(Entry(name, f"{info.line} ({size})", f"{name}: {info.line}\n\nDefaults: {args}\nSize: {size}"))
    others = {
        "hf:TYPE": "a classifier of transformers by its type, fresh (hf:resnet, hf:bert), with its config as args",
        "hf:/FOLDER": "a saved Hugging Face classifier with its weights; also hf:owner/name where it is cached",
        "package.module:function": "your own function(input_shape, classes, **args) -> module; needs --trust",
    }
    return found + [Entry(name, line, f"{name}: {line}") for name, line in others.items()]


def recipes() -> list[Entry]:
    """The recipes that `tutelage run` knows by name."""
    from tutelage.recipe import builtin_recipes

    folder = importlib.resources.files("tutelage.recipes")
    return [
        Entry(name, line, (folder / f"{name}.yaml").read_text(encoding="utf-8").rstrip())
        for name, line in builtin_recipes().items()
    ]


def headings(text: str) -> dict[str, str]:
    """The parts of a loss's docstring: "Equation", "Use", …, each with its lines joined."""
    parts = re.split(r"^(\w+):$", text, flags=re.MULTILINE)
    return {name: inspect.cleandoc(body).strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}
