"""Writes the pages that are made from the code: methods, commands, recipes. A test compares them.

python docs/generate.py
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tutelage import catalogue
from tutelage.cli import cli
from tutelage.combinations import FAMILIES, combinations
from tutelage.recipe import json_schema

HERE = Path(__file__).parent


def methods() -> str:
    """Every loss with its card, then every combination."""
    entries = catalogue.losses()
    lines = [
        "# Methods",
        "",
        "Made by `python docs/generate.py` from the code itself. A loss is one line in a recipe; the",
        "[combinations](#combinations) are parts of a recipe that together are a method of the literature. `tutelage",
        "methods NAME` prints the same card, also by the name that papers use, such as DKD.",
        "",
        "How to choose: start with `soft_target`; where the teacher is much larger or much surer than the student can",
        "be, try `decoupled`, `dist` or `standardized`; keep what the report says helped. In a short training high",
        "temperatures start slowly; [measured-methods.md](measured-methods.md) shows one comparison. Measured times",
        "come from there: a `cnn` of width 8, batches of 128 pictures, one CPU thread.",
        "",
        "## Losses",
        "",
        "| loss | works on | in one line |",
        "|---|---|---|",
        *[f"| [`{entry.name}`](#{entry.name}) | {entry.family} | {entry.line} |" for entry in entries],
    ]
    for entry in entries:
        parts = catalogue.headings(entry.text)
        lines += ["", f"## {entry.name}", "", entry.line, ""]
        lines += ["```", parts["Equation"], "```", "", " ".join(parts["Use"].split()), ""]
        defaults = re.search(r"^Defaults: (.*)$", entry.text, re.MULTILINE)
        lines += [f"Defaults: `{defaults.group(1) if defaults else 'none'}`.", ""]
        # What was measured is said once, at the top.
        cost = re.search(r"^Cost: (.*?)( \(cnn of width.*)?$", entry.text, re.MULTILINE)
        lines += [f"Cost: {cost.group(1) if cost else ''}.", ""]
        lines += [f"Returns: {' '.join(parts['Returns'].split())}", ""]
        lines += [f"Source: {' '.join(parts['Reference'].split('Reads:')[0].split())}"]
    return "\n".join([*lines, *_combinations()]) + "\n"


def _combinations() -> list[str]:
    """The combinations, family by family; each with the part of a recipe that it is."""
    entries = combinations()
    lines = [
        "",
        "## Combinations",
        "",
        "What makes a recipe this method; the rest of it is as it was. Tests run each of them.",
    ]
    for family in FAMILIES:
        lines += ["", f"{family[0].upper()}{family[1:]}:", ""]
        lines += [f"* [`{one.name}`](#{one.name}): {one.line}" for one in entries if one.family == family]
    for one in entries:
        lines += ["", f"## {one.name}", "", one.line, "", "```", one.equation, "```", "", " ".join(one.use.split()), ""]
        lines += [f"Defaults: {' '.join(one.defaults.split())}", "", f"Cost: {' '.join(one.cost.split())}", ""]
        for language, block in (("sh", one.commands), ("yaml", one.recipe)):
            lines += [f"```{language}", block, "```", ""] if block else []
        lines += [f"Source: {' '.join(one.reference.split())}"]
    return lines


def commands() -> str:
    """Every command's help, as the terminal shows it."""
    lines = ["# Commands", "", "Made by `python docs/generate.py` from the command line itself."]
    # As the program itself starts: click remembers the names of the help option from its first use.
    context = cli.make_context("tutelage", [], resilient_parsing=True, max_content_width=100, terminal_width=100)
    lines += ["", "```", cli.get_help(context), "```"]
    for name in cli.list_commands(context):
        lines += _help(cli.commands[name], name, context)
    return "\n".join(line.rstrip() for line in "\n".join(lines).splitlines()) + "\n"


def _help(command: click.Command, name: str, parent: click.Context) -> list[str]:
    """A command's help, and below it those of its own commands."""
    context = click.Context(command, info_name=name, parent=parent, max_content_width=100, terminal_width=100)
    lines = ["", f"## {context.command_path}", "", "```", command.get_help(context), "```"]
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            lines += _help(command.commands[inner], inner, context)
    return lines


def recipes() -> str:
    """Every key of a recipe, with its kind, its default and what it means."""
    whole = json_schema()
    lines = [
        "# Recipes",
        "",
        "Made by `python docs/generate.py` from the schema. A recipe is a YAML file; every key that is not marked",
        "*required* may be left out. `tutelage recipes NAME` prints a built-in one to start from, and `tutelage run",
        "RECIPE --set train.epochs=3` changes one key. Unknown keys are refused, with the nearest name.",
        "[parts.md](parts.md) shows regularisers, and students that learn in parts; [columns.md](columns.md) text,",
        "tables and sound; [recipes/](recipes/README.md) holds the pages of those that come along.",
        "",
    ]
    order = ["Data", "ViewsSpec", "Teacher", "Store", "Student", "AdapterSpec", "TermSpec", "Train", "Stop", "Report"]
    # Whatever else the schema holds is shown after these.
    order += sorted(set(whole["$defs"]) - set(order))
    paths = {
        "Data": "data",
        "ViewsSpec": "data.views",
        "Store": "teacher.store",
        "Teacher": "teacher",
        "Student": "student",
        "AdapterSpec": "student.adapter",
        "TermSpec": "arms: the terms of an arm",
        "Train": "train, and teacher.train",
        "Stop": "train.stop",
        "Report": "report",
        "AttackSpec": "attack, of a term",
        "RobustnessSpec": "report.attack",
        "SourceSpec": "source, of a term",
        "PlaceSpec": "at, of a term",
        "Combine": "combine",
        "BlocksSpec": "student.layers",
        "PruneSpec": "student.prune",
        "RankSpec": "student.rank",
    }
    sections = [("at the top", whole)] + [
        (paths.get(name, f"a number that moves: {name}"), whole["$defs"][name]) for name in order
    ]
    for title, section in sections:
        lines += [f"## {title}", "", " ".join(section.get("description", "").split()), ""]
        lines += ["| key | kind | default | meaning |", "|---|---|---|---|"]
        for key, about in section["properties"].items():
            usual = json.dumps(about.get("default"))
            default = "*required*" if key in section.get("required", ()) else f"`{usual}`"
            if isinstance(about.get("default"), (dict, list)) and about["default"]:
                default = "see below"
            meaning = " ".join(about.get("description", "").split())
            lines.append(f"| `{key}` | {kind(about)} | {default} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def kind(about: Mapping[str, Any]) -> str:
    """The values that a key takes, in a few words."""
    if "$ref" in about:
        return about["$ref"].rsplit("/", 1)[-1].removesuffix("Spec").lower()
    for several in ("anyOf", "oneOf"):
        if several in about:
            return " or ".join(dict.fromkeys(kind(one) for one in about[several]))
    if "enum" in about:
        return ", ".join(str(value) for value in about["enum"])
    if "const" in about:
        return f"`{about['const']}`"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {about[name]}" for name, sign in bounds.items() if name in about]
    names = {
        "object": "mapping",
        "array": "list",
        "integer": "whole number",
        "string": "text",
        "boolean": "true or false",
    }
    word = names.get(about.get("type", ""), about.get("type", "anything"))
    return " ".join([word, ", ".join(limits)]).strip()


PAGES = {"methods.md": methods, "commands.md": commands, "recipes.md": recipes}

if __name__ == "__main__":
    os.environ["NO_COLOR"] = "1"
    for name, make in PAGES.items():
        (HERE / name).write_text(make(), encoding="utf-8")
        print(f"docs/{name}")
