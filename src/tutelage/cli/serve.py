"""`tutelage serve ARTIFACT`: a file that answers over HTTP."""

from __future__ import annotations

import re

import click

from tutelage import lang
from tutelage.errors import InputError

__all__ = ["serve"]

_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@click.command()
@click.argument("artifact")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=int, default=8000, show_default=True, help="The port; 0 takes a free one.")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of the runtime.")
@click.option("--max-batch", type=int, default=64, show_default=True, help="Examples in one call of the model.")
@click.option("--max-bytes", default="8MiB", show_default=True, metavar="SIZE", help="Of one request's body.")
@click.option("--timeout", type=float, default=10.0, show_default=True, help="Seconds for a request to arrive.")
@click.option("--queue", type=int, default=256, show_default=True, help="Requests that may wait for the model.")
@click.option("--trust", is_flag=True, help="Allow a file that may run code that it holds.")
def serve(
    artifact: str, host: str, port: int, threads: int, max_batch: int, max_bytes: str, timeout: float, queue: int,
    trust: bool,
) -> None:  # fmt: skip
    """Answer over HTTP for the file ARTIFACT, which `tutelage export` wrote, to programs on this machine.

    GET /health, GET /model and POST /predict, in JSON. Requests that come together share calls of the model. Ctrl-C or
    SIGTERM stops it after what is under way.
    """
    size = _size(max_bytes)
    from tutelage.serve import Limits
    from tutelage.serve import serve as serve_file

    limits = Limits(max_batch=max_batch, max_bytes=size, timeout=timeout, queue=queue)
    found = serve_file(
        artifact, host=host, port=port, limits=limits, threads=threads, trust=trust,
        tell=lambda line: click.echo(lang.say(line)),
    )  # fmt: skip
    click.echo(lang.say(f"stopped; requests answered: {found.answered:,}"))


def _size(text: str) -> int:
    """`8MiB` → 8388608."""
    found = re.fullmatch(r"(\d{1,12})\s*([a-z]*)", text.strip().lower(), re.ASCII)
    if found is None or found[2] not in _UNITS:
        raise InputError("--max-bytes takes a size", given=text, expected="for instance 8MiB or 500KiB")
    return int(found[1]) * _UNITS[found[2]]
