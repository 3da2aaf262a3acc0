"""`tutelage report RUN`: the pages of a finished run, made again from its report.json."""

from __future__ import annotations

from pathlib import Path

import click

from tutelage.errors import InputError

__all__ = ["report"]


@click.command()
@click.argument("run")
def report(run: str) -> None:
    """Write report.html and README.md of the finished run in the folder RUN again.

    Nothing is measured again: both are views of its report.json, which stays as it is.
    """
    from tutelage.report import write_report
    from tutelage.run.execute import read_report

    folder = Path(run).expanduser()
    if not (folder / "report.json").is_file():
        raise InputError(f"no finished run in {run}", expected="a run's folder, with its report.json")
    write_report(folder, read_report(folder / "report.json"))
    click.echo(f"report: {folder / 'report.html'}")
