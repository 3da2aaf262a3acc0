"""`tutelage bench RUN`: how fast the models of a run are, from their files."""

from __future__ import annotations

import json

import click

from tutelage.errors import InputError

__all__ = ["bench"]


@click.command()
@click.argument("run")
@click.option("--batch", "batches", default="1,64", show_default=True, metavar="N[,N…]", help="Examples per call.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of torch.")
@click.option("--seconds", type=float, default=10.0, show_default=True, help="How long to time, in all.")
@click.option("--trust", is_flag=True, help="Allow Python code that the run's recipe names, to build its models.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def bench(run: str, batches: str, threads: int, seconds: float, trust: bool, as_json: bool) -> None:
    """Time the teacher and the students of the finished run in the folder RUN.

    All take turns on one machine's CPU with the same threads; ratios come with intervals.
    """
    try:
        sizes = [int(one) for one in batches.split(",")]
    except ValueError:
        raise InputError("--batch takes whole numbers", given=batches, expected="for instance 1,64") from None
    from tutelage.run.bench import bench_run

    found = bench_run(run, batch_sizes=sizes, threads=threads, seconds=seconds, trust=trust)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else found.summary())
