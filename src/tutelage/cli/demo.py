"""`tutelage demo RUN`: a finished student in the browser, beside its teacher."""

from __future__ import annotations

import threading
import webbrowser

import click

from tutelage import lang
from tutelage.errors import InputError

__all__ = ["demo"]


@click.command()
@click.argument("run", metavar="RUN[:ARM]")
@click.option("--seed", type=int, metavar="N", help="Whose student.  [default: the first seed of the run]")
@click.option("--port", type=int, default=0, show_default=True, help="Of the page; 0 takes a free one.")
@click.option("--no-browser", is_flag=True, help="Print the address, and open nothing.")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of the teacher.")
@click.option("--trust", is_flag=True, help="Allow Python code that the run's recipe names, to build its models.")
def demo(run: str, seed: int | None, port: int, no_browser: bool, threads: int, trust: bool) -> None:
    """Try a student of the finished run RUN on images that you draw, upload or pick, beside its teacher.

    A page on this machine, for this machine alone: the student runs in the browser, as ONNX in WebAssembly, the teacher
    in this program. Both answers come with the time that they took. ARM is by default that of the headline.

    Ctrl-C ends it.
    """
    if threads < 1 or not 0 <= port <= 65535:
        raise InputError(
            "the page cannot be served like this", given=f"port {port}, {threads} threads",
            expected="a port of 0 … 65535 and at least one thread",
        )  # fmt: skip
    click.echo(lang.say("loading the run, and writing its student as ONNX …"), err=True)
    from tutelage.demo import Server, prepare

    exhibit = prepare(run, seed=seed, threads=threads, trust=trust)
    for notice in exhibit.notices:
        click.echo(lang.say(f"notice: {notice}"), err=True)
    with Server(exhibit, port=port) as server:
        click.echo(lang.say(f"open {server.address} (Ctrl-C ends it)"))
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            if not no_browser:
                webbrowser.open(server.address)  # where that is a browser in this terminal, it stays until it is left
            while serving.is_alive():
                serving.join(0.5)  # which lets Ctrl-C through on every system
        except KeyboardInterrupt:
            click.echo(lang.say("the demo is over"), err=True)
        finally:
            server.shutdown()
            exhibit.teacher.close()
