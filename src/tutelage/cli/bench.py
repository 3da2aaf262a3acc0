"""`tutelage bench`: what the models of a run cost, from their files, or files that were exported."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tutelage import lang
from tutelage.errors import InputError

__all__ = ["bench"]


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="RUN|FILE…")
@click.option("--batch", "batches", default="1,64", show_default=True, metavar="N[,N…]", help="Examples per call.")
@click.option("--threads", default="1", show_default=True, metavar="N|all", help="Threads of every model.")
@click.option("--seconds", type=float, default=10.0, show_default=True, help="How long to measure, in all.")
@click.option("--cold", is_flag=True, help="Start fresh processes as well: load a student and get its first answer.")
@click.option("--trust", is_flag=True, help="Allow Python code that the run's recipe names or that a file holds.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def bench(
    models: tuple[str, ...], batches: str, threads: str, seconds: float, cold: bool, trust: bool, as_json: bool
) -> None:
    """Measure time, memory and energy of the teacher and the students of the finished run in the folder RUN.

    What was exported of these students is timed as well; FILEs, that `tutelage export` wrote, are timed alone.
    All take turns on one machine's CPU with the same threads; times and ratios come with intervals.
    """
    try:
        sizes = [int(one) for one in batches.split(",")]
    except ValueError:
        raise InputError("--batch takes whole numbers", given=batches, expected="for instance 1,64") from None
    if threads != "all" and not threads.isdecimal():
        raise InputError("--threads takes a whole number or `all`", given=threads, expected="for instance 4")
    from tutelage.evaluation.cost import every_core
    from tutelage.run.bench import bench_files, bench_run

    count = every_core() if threads == "all" else int(threads)
    if len(models) > 1 or Path(models[0]).expanduser().is_file():
        if cold:
            raise InputError("--cold is for runs, and these are files", given=", ".join(models))
        found = bench_files(models, batch_sizes=sizes, threads=count, seconds=seconds, trust=trust)
    else:
        found = bench_run(models[0], batch_sizes=sizes, threads=count, seconds=seconds, cold=cold, trust=trust)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else lang.say(found.summary()))
