"""The command line: parse, call a verb, print. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
import traceback
from typing import Any, NoReturn

import click

from tutelage import __version__, lang
from tutelage.cli.bench import bench
from tutelage.cli.cache import cache
from tutelage.cli.check import check
from tutelage.cli.compare import compare
from tutelage.cli.compress import compress
from tutelage.cli.crossval import crossval
from tutelage.cli.data import data
from tutelage.cli.demo import demo
from tutelage.cli.evaluate import evaluate
from tutelage.cli.export import export
from tutelage.cli.group import Commands
from tutelage.cli.iterate import iterate
from tutelage.cli.options import how_to_run, place, typed, what_to_run
from tutelage.cli.personalise import personalise
from tutelage.cli.report import report
from tutelage.cli.rules import rules
from tutelage.cli.serve import serve
from tutelage.cli.synthesize import synthesize
from tutelage.errors import INTERNAL_FAULT, InputError, TutelageError, nearest

_EXIT_CODES = """\b
Exit codes:
  0 done   1 failed while running   2 wrong flag, recipe or argument   3 data and models do not fit
  4 a quality gate failed   5 a file is damaged   6 the folder is in use   101 a fault of tutelage itself
  130 stopped by Ctrl-C, saved   143 stopped by SIGTERM, saved
"""

_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


# What a disk or a system refuses, which is no fault of ours.
_REFUSALS = {
    errno.EACCES, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EPERM, errno.EROFS,
}  # fmt: skip


@click.group(cls=Commands, context_settings=_SETTINGS, epilog=_EXIT_CODES, invoke_without_command=True)
@click.version_option(__version__, prog_name="tutelage")
@click.pass_context
def cli(context: click.Context) -> None:
    """Turn a large model you trust into a small one you can ship, and say honestly what it cost.

    \b
    A first run, on data that comes with the installation:
      tutelage run digits --out runs/digits
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


cli.add_command(bench)
cli.add_command(cache)
cli.add_command(check)
cli.add_command(compare)
cli.add_command(compress)
cli.add_command(crossval)
cli.add_command(data)
cli.add_command(demo)
cli.add_command(evaluate)
cli.add_command(export)
cli.add_command(iterate)
cli.add_command(personalise)
cli.add_command(report)
cli.add_command(rules)
cli.add_command(serve)
cli.add_command(synthesize)


@cli.command()
@click.argument("recipe")
@what_to_run(help="The run's folder, exactly as typed.  [default: runs/<name of the recipe>]")
@click.option("--seed", "--seeds", "seeds", metavar="N[,N…]", help="The seeds: 0 or 0,1,2.")
@click.option("--device", help="auto, cpu, cuda, cuda:N or mps.")
@how_to_run
def run(
    recipe: str,
    out: str | None,
    overrides: tuple[str, ...],
    seeds: str | None,
    device: str | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Run a RECIPE: a file, or a built-in one by name (see `tutelage recipes`).

    The same command again continues a run that was stopped; a finished run is left as it is.
    """
    from tutelage import recipe as recipes

    changes = list(overrides)
    if seeds is not None:
        changes.append(f"seeds=[{seeds}]")
    if device is not None:
        changes.append(f"device={device}")
    parsed = recipes.load(recipe, changes)
    folder = place(out, parsed.name)

    from tutelage.run import run_recipe
    from tutelage.run.folder import check_place

    check_place(folder)  # before the data is read, which may take long
    result = run_recipe(parsed, folder, command=typed(), **how)
    if not result.report:
        # One of several processes, and not the one that reports. About one in twenty of these was aborted by the
        # threads of the process group while the interpreter took itself down; there is nothing left to take down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2, ensure_ascii=False))
    else:
        click.echo(lang.say(result.summary()))


@cli.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def methods(name: str | None, as_json: bool) -> None:
    """List the methods, or show one with its equation, its use, its cost and its paper.

    NAME is a loss, a combination of parts, or what papers call it, such as DKD.
    """
    from tutelage import catalogue

    _show([*catalogue.methods(), *catalogue.foreign_methods(name)], name, as_json, "method")


@cli.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def models(name: str | None, as_json: bool) -> None:
    """List the built-in models with their sizes, and the other ways to name one."""
    from tutelage import catalogue

    _show(catalogue.models(), name, as_json, "model")


@cli.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def recipes(name: str | None, as_json: bool) -> None:
    """List the built-in recipes, or print one, to be copied and changed."""
    from tutelage import catalogue

    _show(catalogue.recipes(), name, as_json, "recipe")


@cli.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from tutelage.recipe import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


def _show(entries: Any, name: str | None, as_json: bool, kind: str) -> None:
    found = {entry.name: entry for entry in entries}
    if name is None:
        if as_json:
            click.echo(json.dumps({n: e.line for n, e in found.items()}, indent=2, ensure_ascii=False))
            return
        width, family = max(map(len, found)), ""
        for entry in found.values():
            if entry.family != family:
                click.echo(("\n" if family else "") + lang.say(entry.family) + ":")
                family = entry.family
            click.echo(f"{entry.name:<{width}}  {lang.say(entry.line)}")
        return
    if name not in found:
        from tutelage.catalogue import called

        known = called(found.values(), name) if kind == "method" else []
        if len(known) != 1:
            fix = f"papers call these so: {', '.join(one.name for one in known)}" if known else nearest(name, found)
            raise InputError(f"no {kind} `{name}`", fix=fix)
        name = known[0].name
    entry = found[name]
    click.echo(json.dumps(entry.to_json(), indent=2, ensure_ascii=False) if as_json else lang.say(entry.text))


def _fail(text: str, code: int) -> NoReturn:
    first, _, rest = text.partition("\n")
    prefix = lang.after(click.style(lang.say("error:"), fg="red", bold=True))
    click.echo(f"{prefix}{first}" + (f"\n{rest}" if rest else ""), err=True)
    sys.exit(code)


def _refused(error: Exception) -> TutelageError | None:
    """What the machine refused, in our words; None where the fault is our own."""
    # By its name, so that torch is not imported for it.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        said = (str(error).strip().splitlines() or ["no more could be had"])[0]
        fix = (
            "free some and repeat the command, which continues; or choose a smaller train.batch_size and another --out"
        )
        return TutelageError("the memory is full", given=said[:240], fix=fix)
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        where = None if error.filename is None else str(error.filename)
        fix = "make room or mend the rights; the same command then continues from what is saved"
        return TutelageError(str(error.strerror), where=where, fix=fix)
    return None


def _internal(error: Exception) -> NoReturn:
    """Keep what is needed to mend a fault of ours, and say where."""
    details = f"tutelage {__version__}, Python {sys.version}\n{typed()}\n\n{traceback.format_exc()}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="tutelage-fault-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(details)
        hint = f"the details are in {file.name}; please open an issue with them"
    except OSError:
        hint = "set TUTELAGE_DEBUG=1 and repeat the command to see the details; please open an issue with them"
    said = (str(error).strip().splitlines() or ["without a word"])[0]
    _fail(lang.say(f"a fault of tutelage itself: {type(error).__name__}: {said}\nhint: {hint}"), INTERNAL_FAULT)


def main() -> NoReturn:
    """Run the command line; every way out has an exit code, and none a traceback unless TUTELAGE_DEBUG is set."""
    with lang.speaking(lang.of_command(sys.argv[1:])):
        _main()


def _main() -> NoReturn:
    try:
        code = cli.main(prog_name="tutelage", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        name = context.command_path if context else "tutelage"
        _fail(f"{lang.say(error.format_message())}\n{lang.say(f'hint: see `{name} --help`')}", 2)
    except (KeyboardInterrupt, click.Abort):
        said = "stopped at once; the last checkpoint is whole, and the same command continues from it"
        _fail(lang.say(said), 130)
    except Exception as error:
        if os.environ.get("TUTELAGE_DEBUG"):
            traceback.print_exc()
        known = error if isinstance(error, TutelageError) else _refused(error)
        if known is None:
            _internal(error)
        _fail(lang.say_error(known), known.exit_code)
