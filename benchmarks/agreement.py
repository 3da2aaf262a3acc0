"""The same losses in other frameworks: what each gives on the same random inputs, and why where it is not the same.

Every framework that is installed is asked, and the others are left out by name; none is a dependency of tutelage.
Inputs are float64. A deviation is the largest over all draws of |a − b| / max(|a|, |b|), and for gradients with respect
to all that the student puts out of ‖a − b‖ / max(‖a‖, ‖b‖). Where a framework computes something else by design, the
reason stands beside it, in terms of ours where it can, and the deviations from what the reason says show whether it is
the whole of it.

    pip install torchdistill pytorch-metric-learning info-nce-pytorch sentence-transformers trl nvidia-modelopt
    pip install --no-deps textbrewer mmrazor kd-lib aquvitae lightly
    python benchmarks/agreement.py [--draws 20] [--out docs/agreement.md]

Where torchvision comes for another torch than the one that is installed, take it away again: nothing here needs it, and
transformers, which some of these import, cannot be imported beside a broken one.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tutelage
from tutelage import losses

EXACT = 1e-9  # rounding in float64, with room for other orders of addition
NONE = "—"


@dataclass(frozen=True)
class Row:
    """What came of one pair over all draws."""

    pair: Any
    plain: float  # of the two values as the libraries give them
    value: float  # of theirs from what the reason says it is; from ours where there is no reason
    gradient: float


@dataclass(frozen=True)
class Compared:
    """One framework: its rows, or why there are none."""

    name: str
    version: str
    rows: Sequence[Row] = ()
    absent: str = ""


def apart(a: Tensor, b: Tensor) -> float:
    """The relative deviation of two numbers, or of two gradients by their lengths."""
    scale = max(float(a.norm()), float(b.norm()))
    return float((a - b).norm()) / scale if scale else 0.0


def slope(value: Tensor, leaves: Sequence[Tensor]) -> Tensor:
    """The gradient with respect to all leaves, in one vector; zeros for those that are not read."""
    found = torch.autograd.grad(value, leaves, allow_unused=True, retain_graph=True)
    parts = zip(found, leaves, strict=True)
    return torch.cat([(torch.zeros_like(leaf) if one is None else one).flatten() for one, leaf in parts])


def compared(pair: Any, draws: int, draw: Any) -> Row:
    """One pair on as many draws."""
    plain = value = gradient = 0.0
    for seed in range(draws):
        x = draw(seed)
        their, our = pair.their(x), pair.ours(x)
        said = pair.stated(our, x)
        plain = max(plain, apart(their.detach(), our.detach()))
        value = max(value, apart(their.detach(), said.detach()))
        gradient = max(gradient, apart(slope(their, x.leaves), slope(said, x.leaves)))
    return Row(pair, plain, value, gradient)


def ask(name: str, pairs: Any, draws: int, draw: Any) -> Compared:
    """Every pair of one framework, if it is installed and can be read."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Compared(name, "", absent="not installed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's code
            return Compared(name, version, [compared(pair, draws, draw) for pair in pairs()])
    except (ImportError, RuntimeError, AttributeError) as error:
        return Compared(name, version, absent=f"cannot be read here: {str(error).splitlines()[0]}")


def shown(deviation: float) -> str:
    return "0" if deviation == 0 else f"{deviation:.0e}" if deviation < 0.01 else f"{deviation:.2g}"


def table(found: Sequence[Compared]) -> list[str]:
    lines = [
        "| framework | theirs | ours | apart as they come | why | apart from that: value | gradient |",
        "|---|---|---|--:|---|--:|--:|",
    ]
    for one in found:
        for row in one.rows:
            said = row.pair.reason or NONE
            names = f"{one.name} {one.version} | {row.pair.name} | [`{row.pair.loss}`](methods.md#{row.pair.loss})"
            apart_from = f"{shown(row.value)} | {shown(row.gradient)}"
            lines.append(f"| {names} | {shown(row.plain)} | {said} | {apart_from} |")
    return lines


def page(found: Sequence[Compared], draws: int) -> str:
    """The whole comparison as a page of the documentation."""
    rows = [row for one in found for row in one.rows]
    equal = [row for row in rows if row.plain < EXACT]
    explained = [row for row in rows if row.plain >= EXACT and max(row.value, row.gradient) < EXACT]
    left = [row for row in rows if row not in equal and row not in explained]
    covered = {row.pair.loss for row in rows}
    said = f"""
        Made by `python benchmarks/agreement.py`, which says how to install what it compares with; none of it is a
        dependency. tutelage {tutelage.__version__}, torch {torch.__version__}, {draws} draws of random inputs of other
        sizes and scales for each row, in float64.

        **Of {len(rows)} pairs {len(equal)} are equal as they come, {len(explained)} differ by design and by nothing but
        the reason given, and {len(left)} agree no further than the table says.** Equal is: no deviation above
        {EXACT:.0e}. {len(covered)} of the {len(losses.__all__)} losses have a partner.

        *As they come* is the largest relative deviation of the two values. Where there is a reason, the last columns
        tell how far theirs is from what the reason says it is, as a value and in its gradient with respect to all that
        the student puts out: so a weight can be carried over from there to here by the formula in the reason."""
    lines = ["# Agreement with other frameworks", *_paragraphs(said), "", *table(found)]
    if left:
        names = ", ".join(f"{row.pair.name} ({shown(max(row.value, row.gradient))})" for row in left)
        lines += _paragraphs(f"No further than that: {names}. What is left are guards against dividing by zero.")
    if absent := [one for one in found if one.absent]:
        lines += _paragraphs("Left out: " + "; ".join(f"{one.name} ({one.absent})" for one in absent) + ".")
    without = ", ".join(f"`{name}`" for name in sorted(set(losses.__all__) - covered))
    lines += _paragraphs(
        "Without a partner in these packages, and so compared only with the float64 references of `tests/`, which are "
        f"written from the equations, and with known numbers: {without}."
    )
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> list[str]:
    """Paragraphs with an empty line before each, wrapped."""
    lines = []
    for part in text.split("\n\n"):
        lines += ["", *textwrap.wrap(" ".join(part.split()), 120, break_long_words=False, break_on_hyphens=False)]
    return lines


def main(words: Sequence[str] | None = None) -> list[Compared]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--only", nargs="*", help="Frameworks by name; all by default.")
    parser.add_argument("--out", type=Path, help="A page to write.")
    options = parser.parse_args(words)
    sys.path.insert(0, str(Path(__file__).parent))
    frameworks, inputs = map(importlib.import_module, ("agreement_frameworks", "agreement_pairs"))
    found = [
        ask(name, pairs, options.draws, inputs.draw)
        for name, pairs in frameworks.FRAMEWORKS.items()
        if options.only is None or name in options.only
    ]
    print("\n".join(table(found)))
    for one in found:
        if one.absent:
            print(f"left out: {one.name}: {one.absent}")
    if options.out is not None:
        options.out.write_text(page(found, options.draws), encoding="utf-8")
    worst = max((max(row.value, row.gradient) for one in found for row in one.rows), default=math.nan)
    print(f"largest deviation that no reason covers: {worst:.1e}")
    return found


if __name__ == "__main__":
    main()
