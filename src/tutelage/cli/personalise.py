"""`tutelage personalise RUN[:ARM]`: a student of their own for every user, from the student that all share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tutelage.cli.options import place, typed, what_to_run
from tutelage.lang.markdown import say_markdown

__all__ = ["personalise"]


@click.command()
@click.argument("run", metavar="RUN[:ARM]")
@click.option(
    "--users",
    required=True,
    metavar="N|FILE",
    help="How many artificial users, or a JSON file that says whose every example is.",
)
@click.option(
    "--skew",
    type=float,
    default=0.3,
    show_default=True,
    metavar="X",
    help="Of artificial users: 0.1 gives most of them two or three classes of ten, 100 all the same mixture.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of artificial users.")
@click.option(
    "--anchor",
    default="teacher",
    show_default=True,
    metavar="WHO",
    help="Whose soft targets hold the anchored students: teacher or student.",
)
@click.option(
    "--weight",
    type=float,
    default=0.5,
    show_default=True,
    metavar="X",
    help="How much of their loss these are, from 0 to 1; labels are the rest.",
)
@click.option("--temperature", type=float, default=4.0, show_default=True, metavar="T", help="Of these soft targets.")
@click.option(
    "--train",
    multiple=True,
    metavar="LAYER",
    help="Let only this layer learn, such as net.head. May be given again.  [default: all]",
)
@click.option("--scratch", is_flag=True, help="Also train a student of random weights for every user.")
@click.option(
    "--least",
    type=int,
    default=10,
    show_default=True,
    metavar="N",
    help="Leave out users with fewer training examples.",
)
@what_to_run(help="The folder, exactly as typed.  [default: runs/<name of the run's folder>-users]")
@click.option("--overwrite", is_flag=True, help="Remove what an earlier run left in the folder.")
@click.option("--trust", is_flag=True, help="Allow the recipe to name Python code, which will be run.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def personalise(run: str, users: str, out: str | None, overrides: tuple[str, ...], as_json: bool, **asked: Any) -> None:
    """Train a student for every user, from the student of a finished RUN, and say who gains by it.

    \b
      tutelage personalise runs/digits --users 10 --skew 0.3

    The run's data is divided among users, all three parts by the same rule. Everybody's students begin with the weights
    of the shared one: ‘local’ learns the user's labels, ‘anchored’ also soft targets of the shared teacher, so that it
    forgets less. They are compared with the shared student on the user's own test examples, and on all.

    The recipe is the run's; --set changes keys of train, seeds, device or threads. The same command goes on after a
    stop.
    """
    home = Path(run if Path(run).expanduser().is_dir() else run.rpartition(":")[0] or run)
    folder = place(out, f"{home.expanduser().resolve().name}-users")

    from tutelage.run.personal import personalise as train_users

    whose = int(users) if users.strip().isdecimal() else users
    found = train_users(run, folder, users=whose, changes=overrides, command=typed(), **asked)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        click.echo(say_markdown(found.summary()))
