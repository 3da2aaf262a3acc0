"""`tutelage report RUN`: the pages of a finished run, made again, and its numbers checked against the saved answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tutelage import lang
from tutelage.errors import DamagedError, InputError

__all__ = ["report"]

_MOST_SHOWN = 12


@click.command()
@click.argument("run")
@click.option("--accept", is_flag=True, help="Where report.json says otherwise than the answers, write it anew.")
@click.option("--pages", is_flag=True, help="Only write the pages: compute nothing, and look at no answers.")
def report(run: str, accept: bool, pages: bool) -> None:
    """Write report.html and README.md of the finished run in the folder RUN again.

    Both are views of its report.json. Every statistic in there is computed again from the answers that the run saved
    in eval/; no model is built or asked. Sizes, times and training records are taken from report.json as they are.

    If the two agree, report.json stays as it is. If a number in it is not the one that the answers give, because
    somebody altered it, nothing is written, the differences are listed and the exit code is 5; --accept writes the
    computed numbers instead.
    """
    from tutelage.report import write_report
    from tutelage.run.execute import read_report

    folder = Path(run).expanduser()
    if not (folder / "report.json").is_file():
        raise InputError(f"no finished run in {run}", expected="a run's folder, with its report.json")
    if accept and pages:
        raise InputError("--pages computes nothing that --accept could take", fix="leave one of them out")
    found = read_report(folder / "report.json")
    if not pages:
        found = _checked(folder, found, accept=accept)
    write_report(folder, found)
    click.echo(lang.say(f"report: {folder / 'report.html'}"))


def _checked(folder: Path, found: dict[str, Any], *, accept: bool) -> dict[str, Any]:
    """The report as it stands where the answers bear it out, and otherwise, if that is accepted, as they make it."""
    from tutelage.evaluation.rebuild import can_rebuild, differences
    from tutelage.run.rescore import rescore

    if not can_rebuild(found):
        click.echo(
            lang.say(
                "only the pages: report.json is of an earlier version, from which numbers cannot be computed again"
            )
        )
        return found
    made = rescore(folder)
    changed = differences(found, made)
    if not changed:
        click.echo(lang.say("every number that answers tell follows from the saved ones"))
        return found
    more = len(changed) - _MOST_SHOWN
    lines = [*changed[:_MOST_SHOWN], *([f"and {more:,} more"] if more > 0 else [])]
    if not accept:
        raise DamagedError(
            f"{folder / 'report.json'} says otherwise than the answers that the run saved",
            given="\n            ".join(lines),
            fix=_advice(found),
        )
    click.echo(lang.say("\n".join(["written anew from the saved answers:", *(f"  {line}" for line in lines)])))
    return made


def _advice(found: Mapping[str, Any]) -> str:
    """What to do; another version of this program may well compute more, or otherwise."""
    from tutelage import __version__
    from tutelage.evaluation.rebuild import is_earlier

    if is_earlier(found):
        return "an earlier version wrote it, which compared less: --accept writes it anew by this one"
    wrote = found["versions"].get("tutelage", __version__)
    if wrote != __version__:
        return (
            f"tutelage {wrote} wrote it and this is {__version__}: only that version can tell whether it was altered; "
            "--accept writes it anew by this one"
        )
    return "restore report.json from a copy, or write it anew from the answers with --accept"
