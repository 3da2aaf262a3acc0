"""What the schema refuses, in the words of the recipe: which key, on which line, what was expected, what was meant.

Pydantic knows that something is wrong and where; what would be right is read off the JSON Schema at the same spot, so
that a message never lags behind the rule it explains.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import ValidationError

from tutelage.errors import InputError, Problem, nearest
from tutelage.recipe.learners import TEACHER
from tutelage.recipe.moving import NUMBER, SCHEDULE
from tutelage.recipe.places import Keys, Located, Places, dotted
from tutelage.recipe.reader import Tree
from tutelage.recipe.scalars import show
from tutelage.recipe.schema import Recipe

MOST_SHOWN = 20

Node = Mapping[str, Any]
Loc = tuple[str | int, ...]

# What other tools call things that have another name here.
_OTHER_NAMES = {
    "alpha": "weight",
    "batch": "batch_size",
    "betas": "optimizer_args",
    "dataset": "source",
    "dropout": "args",
    "grad_clip": "clip",
    "label_smoothing": "options",
    "learning_rate": "lr",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "method": "loss",
    "modules_to_save": "train",
    "momentum": "optimizer_args",
    "r": "rank",
    "t": "temperature",
    "target_modules": "targets",
    "tau": "temperature",
    "weight_decay": "optimizer_args",
}


def all_problems(tree: Tree, error: ValidationError | None, within: Loc = ()) -> list[Problem]:
    """What reading found and what the schema refused, by line; `within` is where in a recipe the values belong."""
    unread = [one.keys for one in tree.problems if one.unread]
    refused = [] if error is None else _located_all(error, tree.places, within)
    refused = [one for one in refused if not any(one.keys[: len(keys)] == keys for keys in unread)]
    return in_order([*tree.problems, *refused])


def in_order(found: Sequence[Located]) -> list[Problem]:
    """Problems by line, each once, and no more than fit a screen."""
    problems = list(dict.fromkeys(one.problem for one in sorted(found, key=lambda one: one.order)))
    if len(problems) > MOST_SHOWN:
        problems = [*problems[:MOST_SHOWN], Problem(f"… and {len(problems) - MOST_SHOWN} more")]
    return problems


def check_names(
    recipe: Recipe, *, losses: Collection[str], models: Collection[str], sources: Collection[str]
) -> list[Problem]:
    """Names in a recipe that the given catalogues do not hold, each with the nearest one that they do."""
    found: list[Located] = []

    def check(kind: str, name: str, known: Collection[str], keys: Keys) -> None:
        if name not in known:
            what, where = f"unknown {kind} {show(name)}", recipe.places.label(keys) or f"`{dotted(keys)}`"
            found.append(Located(recipe.places.find(keys).order, Problem(what, where, fix=nearest(name, known))))

    check("data source", recipe.data.source, sources, ("data", "source"))
    named: list[tuple[Keys, str]] = [
        (("teachers", name) if name else ("teacher",), one.model) for name, one in recipe.trusted.items()
    ]
    named += [(("students", name) if name else ("student",), one.model) for name, one in recipe.learners.items()]
    for keys, model in named:
        # What has a colon, `hf:…` or a function, is looked for where it lives.
        if model == TEACHER and keys[0] != "teacher" and recipe.teacher is not None:
            continue
        if ":" not in model:
            check("model", model, models, (*keys, "model"))
    for arm, terms in recipe.arms.items():
        for index, term in enumerate(terms):
            if ":" not in term.loss:
                check("loss", term.loss, losses, ("arms", arm, index, "loss"))
    return in_order(found)


# ---- one error -------------------------------------------------------------------------------------------------------


def _located_all(error: ValidationError, places: Places, within: Loc) -> list[Located]:
    found = []
    for one in error.errors():
        # A list of which every item is wrong is also called too short.
        if one["type"] == "too_short" and one["input"]:
            continue
        loc: Loc = (*within, *one["loc"])
        keys = _keys(loc)
        problem = _problem(one["type"], loc, one["input"], one.get("ctx", {}), places.label(keys))
        found.append(Located(places.find(keys).order, problem, keys))
    return found


def _problem(kind: str, loc: Loc, given: object, context: Mapping[str, Any], where: str | None) -> Problem:
    keys = _keys(loc)
    name = f"`{dotted(keys)}`" if keys else "the recipe"
    cause = context.get("error")
    if kind == "extra_forbidden":
        return _unknown_key(loc, keys, where)
    if kind == "missing":
        return Problem(f"{name} is missing", where, expected=_describe(_node(loc)))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _unknown_schedule(name, given, loc, where)
    if isinstance(cause, InputError):
        told = cause.problem
        return Problem(f"{name}: {told.what}", where, told.given, told.expected, told.fix)
    if loc[-1:] == ("[key]",):
        parent = f" in `{dotted(keys[:-1])}`" if keys[:-1] else ""
        expected = _node(loc[:-2]).get("expected_keys")
        return Problem(f"the name {show(keys[-1])}{parent} cannot be used", where, expected=expected)
    what = f"{name}: expected {_describe(_node(loc)) or 'something else'}, got {show(given)}"
    return Problem(what, where, fix=_fix(_node(loc), given))


def _keys(loc: Loc) -> Keys:
    """A pydantic location without its own marks: which member of a union it was, and that a key was meant."""
    kept: list[str | int] = []
    skip = False
    for step in loc:
        if skip:
            skip = False
        elif step == SCHEDULE:
            skip = True  # followed by the kind of schedule
        elif step not in (NUMBER, "[key]"):
            kept.append(step)
    return tuple(kept)


def _unknown_key(loc: Loc, keys: Keys, where: str | None) -> Problem:
    """The nearest key at this level, or the level at which this key would be right."""
    key, parent = str(keys[-1]), keys[:-1]
    known = sorted(_node(loc[:-1]).get("properties", {}))
    where = where or (f"in `{dotted(parent)}`" if parent else None)
    what = f"unknown key `{key}`"
    # The arguments of a schedule are a small world of their own.
    if SCHEDULE in loc or difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.75):
        return Problem(what, where, fix=nearest(key, known))
    other = _OTHER_NAMES.get(key.lower())
    if other is not None and other in known:
        fix = f"write {other}: {{{key}: …}}" if other.endswith(("args", "options")) else f"did you mean `{other}`?"
        return Problem(what, where, fix=fix)
    inside = any(level.startswith(f"{dotted(parent)}.") for level in _levels().get(key, ()))
    # A name of other tools that is also a key of ours somewhere: what is nearby is meant, else what they mean by it.
    for wanted in filter(None, (key, other) if inside else (other, key)):
        if levels := _levels().get(wanted):
            belongs = " or ".join(f"`{level}:`" if level else "the top level" for level in levels)
            if wanted == key:
                return Problem(f"`{key}` belongs under {belongs}", where)
            return Problem(what, where, fix=f"did you mean `{wanted}`, under {belongs}?")
    return Problem(what, where, fix=nearest(key, known))


def _unknown_schedule(name: str, given: object, loc: Loc, where: str | None) -> Problem:
    kinds = sorted(_node(loc).get("discriminator", {}).get("mapping", {}))
    word = given.get("schedule") if isinstance(given, dict) else None
    if isinstance(word, str):
        return Problem(f"{name}: unknown schedule {show(word)}", where, fix=nearest(word, kinds))
    expected = f"`schedule:` with one of {', '.join(kinds)}"
    return Problem(f"{name}: this schedule does not say which it is", where, expected=expected)


def _fix(node: Node, given: object) -> str | None:
    choices = [choice for choice in _choices(node) if isinstance(choice, str)]
    if choices and isinstance(given, str):
        guess = nearest(given, choices)
        return guess if guess.startswith("did you mean") else None
    if given is None and "properties" in node:
        return "fill it in, or take the line out"
    required = node.get("required", ())
    if len(required) == 1 and isinstance(given, str):
        return f"write {{{required[0]}: {given}}}" if len(given) <= 60 else None
    if "items" in node and type(given) in (int, float):
        return f"write [{given}]"
    return None


# ---- reading the JSON Schema -----------------------------------------------------------------------------------------


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of recipes."""
    return Recipe.model_json_schema()


def _follow(node: Node) -> Node:
    """Behind references, and into the one branch of a value that may also be null."""
    while True:
        if "$ref" in node:
            node = schema()["$defs"][node["$ref"].rsplit("/", 1)[-1]]
            continue
        # A word that stands for a whole mapping, such as `auto`, has no keys to follow.
        branches = [one for one in node.get("anyOf", ()) if one.get("type") != "null" and "const" not in one]
        if len(branches) != 1:
            return node
        node = branches[0]


def _node(loc: Loc) -> Node:
    """The part of the schema that a pydantic location speaks of; empty where there is none."""
    node: Node = schema()
    for step in loc:
        node = _follow(node)
        if step in (NUMBER, SCHEDULE):
            branches = node.get("oneOf", ())
            # A plain number's message still offers both, so that branch is not entered.
            if step == SCHEDULE:
                node = next((branch for branch in branches if "discriminator" in branch), {})
        elif step == "[key]":
            return node
        elif "discriminator" in node:
            node = {"$ref": node["discriminator"]["mapping"][step]}
        elif isinstance(step, int):
            prefix = node.get("prefixItems", ())
            node = prefix[step] if step < len(prefix) else node.get("items", {})
        elif step in node.get("properties", {}):
            node = node["properties"][step]
        else:
            patterns: Mapping[str, Node] = node.get("patternProperties", {})
            node = next(iter(patterns.values()), node.get("additionalProperties") or {})
    return _follow(node)


def _choices(node: Node) -> list[Any]:
    return list(dict.fromkeys(node.get("enum", ())))


def _describe(node: Node) -> str | None:
    """What a part of the schema asks for, in words."""
    node = _follow(node)
    if "expected" in node:
        return str(node["expected"])
    if "const" in node:
        return str(node["const"])
    if choices := list(dict.fromkeys(str(choice) for choice in _choices(node))):
        return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))
    if "discriminator" in node:
        return "a schedule such as {schedule: linear, start: 8, end: 2}"
    if branches := node.get("anyOf") or node.get("oneOf"):
        return " or ".join(text for branch in branches if (text := _describe(branch)))
    match node.get("type"):
        case "null":
            return "null"
        case "boolean":
            return "true or false"
        case "string":
            return "text"
        case "integer":
            return "a whole number" + _bounds(node)
        case "number":
            return "a number" + _bounds(node)
        case "array":
            return "a list"
        case "object" if "properties" in node:
            return "a mapping with " + ", ".join(f"`{key}`" for key in node.get("required") or node["properties"])
        case "object":
            return "a mapping" + (" with at least one entry" if node.get("minProperties") else "")
    return None


def _bounds(node: Node) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None and high is not None:
        return f" from {low:.10g} to {high:.10g}"
    signs = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    found = [f"{sign} {node[key]:.10g}" for key, sign in signs if key in node]
    return " " + " and ".join(found) if found else ""


@cache
def _levels() -> dict[str, list[str]]:
    """Every key of the schema -> the levels at which it is right, as paths that a reader of recipes knows."""
    found: dict[str, list[str]] = {}
    for path, key in sorted(_walk(schema(), ""), key=lambda pair: pair[0].count(".")):
        # Several teachers are rare: what one may have stands under `teacher`, and what only they have is told last.
        if not path.startswith("teachers."):
            found.setdefault(key, []).append(path)
    return {key: [path for path in paths if path != "combine"] or paths for key, paths in found.items()}


def _walk(node: Node, path: str) -> Iterator[tuple[str, str]]:
    node = _follow(node)
    for key, child in node.get("properties", {}).items():
        yield path, key
        yield from _walk(child, f"{path}.{key}" if path else key)
    for child in (node.get("items"), *node.get("patternProperties", {}).values()):
        if isinstance(child, Mapping):
            yield from _walk(child, path if path.endswith(">") else f"{path}.<arm>")
