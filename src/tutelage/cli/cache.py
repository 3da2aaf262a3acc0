"""`tutelage cache …`: the stores of teacher answers, seen from the command line."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from tutelage import lang
from tutelage.cli.group import Commands
from tutelage.errors import DamagedError, InputError, TutelageError, nearest

__all__ = ["cache"]

Command = Callable[..., Any]


@click.group(cls=Commands)
def cache() -> None:
    """Teacher answers on disk: asked once, used by every student, seed and epoch.

    A store lies at --store DIR, else at TUTELAGE_STORE, else in the user's cache folder, under a key that changes with
    the teacher, its preprocessing, the views, the codec and the classes. `teacher.store: auto` in a recipe uses it.
    """


_store = click.option("--store", metavar="DIR", help="Where stores lie.  [default: $TUTELAGE_STORE, or the cache]")


def _of_recipe(command: Command) -> Command:
    options = [
        click.argument("recipe"),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key of the recipe."),
        click.option("--trust", is_flag=True, help="Allow the recipe to name Python code, which will be run."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output."),
        click.option("--quiet", "-q", is_flag=True, help="Show no progress."),
        click.option("--device", help="Where the teacher answers: auto, cpu, cuda, cuda:N or mps."),
        _store,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _recipe(recipe: str, overrides: tuple[str, ...], device: str | None) -> Any:
    from tutelage import recipe as recipes

    return recipes.load(recipe, [*overrides, *([f"device={device}"] if device is not None else [])])


@cache.command()
@_of_recipe
@click.option("--no-wait", is_flag=True, help="Fail with exit code 6 where another build has to end first.")
def build(
    recipe: str, overrides: tuple[str, ...], trust: bool, as_json: bool, quiet: bool, device: str | None,
    store: str | None, no_wait: bool,
) -> None:  # fmt: skip
    """Ask a RECIPE's teacher about everything its students will see.

    Rows that are there are not asked again. Killed at any moment, the same command goes on; several at once, also under
    torchrun, share the work.
    """
    parsed = _recipe(recipe, overrides, device)
    from tutelage.run import build_store

    built = build_store(parsed, store=store, trust=trust, quiet=quiet, wait=not no_wait)
    if as_json:
        click.echo(json.dumps(built.to_json(), indent=2))
    else:
        click.echo(lang.say(built.summary()))


@cache.command()
@_of_recipe
def repair(
    recipe: str, overrides: tuple[str, ...], trust: bool, as_json: bool, quiet: bool, device: str | None,
    store: str | None,
) -> None:  # fmt: skip
    """Ask a RECIPE's teacher again about damaged rows, and only those."""
    parsed = _recipe(recipe, overrides, device)
    from tutelage.run import repair_store

    found, built = repair_store(parsed, store=store, trust=trust, quiet=quiet)
    if as_json:
        click.echo(json.dumps({"damage": [str(one) for one in found]}, indent=2, ensure_ascii=False))
        return
    click.echo(
        lang.say(f"{len(found)} damaged file{'s' * (len(found) != 1)} mended" if found else "nothing was damaged")
    )
    click.echo(lang.say(built.summary()))


@cache.command()
@_of_recipe
def estimate(
    recipe: str, overrides: tuple[str, ...], trust: bool, as_json: bool, quiet: bool, device: str | None,
    store: str | None,
) -> None:  # fmt: skip
    """Say what a RECIPE's store will take: bytes, time, and the error of the gradient, for every codec."""
    parsed = _recipe(recipe, overrides, device)
    from tutelage.run import estimate_store

    found = estimate_store(parsed, store=store, trust=trust, quiet=quiet)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else lang.say(found.summary()))


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@_store
def ls(as_json: bool, store: str | None) -> None:
    """List the stores: key, size, rows, views, codec, classes, age in days."""
    rows = [_facts(folder) for folder in _folders(store, ())]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not rows:
        click.echo(lang.say(f"no stores in {_root(store)}"))
        return
    from tutelage.files import human_bytes

    click.echo(
        f"{'key':<32}  {'size':>10}  {'rows':>11}  {'views':>5}  {'codec':<10}  {'classes':>7}  {'days':>5}  teacher"
    )
    for row in rows:
        if "damage" in row:
            click.echo(lang.say(f"{row['key']:<32}  damaged: see `tutelage cache verify {row['key'][:8]}`"))
            continue
        click.echo(
            f"{row['key']:<32}  {human_bytes(row['bytes']):>10}  {row['rows']:>11,}  {row['views']:>5}  "
            f"{row['codec']:<10}  {row['classes']:>7,}  {row['days']:>5.1f}  {row['teacher'][:12]}"
        )
    click.echo(lang.say(f"{len(rows)} in {_root(store)}, {human_bytes(sum(row.get('bytes', 0) for row in rows))}"))


@cache.command()
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@_store
def verify(keys: tuple[str, ...], as_json: bool, store: str | None) -> None:
    """Read every byte of the stores named by KEY (or its first letters), or of all; exit code 5 on damage."""
    from tutelage import store as stores

    found = []
    folders = list(_folders(store, keys))
    for folder in folders:
        own = list(stores.verify(folder))
        found += own
        if not as_json:
            click.echo(f"{folder.name}  " + lang.say("whole" if not own else f"{len(own)} damaged"))
            for damage in own:
                click.echo(lang.say(f"  {damage.file}: {damage.what}"))
    if as_json:
        listed = [{"store": one.store.name, "file": one.file, "what": one.what} for one in found]
        click.echo(json.dumps({"stores": len(folders), "damage": listed}, indent=2, ensure_ascii=False))
    if found:
        raise DamagedError(
            f"{len(found)} file{'s' * (len(found) > 1)} of {len(folders)} store{'s' * (len(folders) > 1)} damaged",
            fix="`tutelage cache repair RECIPE` asks the teacher again about what was lost",
        )


@cache.command()
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--all", "everything", is_flag=True, help="All stores.")
@click.option("--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Only those not built on for so long.")
@click.option("--yes", is_flag=True, help="Really remove them; without it they are only listed.")
@_store
def prune(keys: tuple[str, ...], everything: bool, older_than: float | None, yes: bool, store: str | None) -> None:
    """Remove stores: those named by KEY (or its first letters), --all, or those --older-than DAYS."""
    if not keys and not everything and older_than is None:
        raise InputError("nothing is named to be removed", expected="KEY, --all or --older-than DAYS")
    from tutelage.files import human_bytes
    from tutelage.store.locks import BuildLock

    total = 0
    for folder in list(_folders(store, keys)):
        age = _days(folder)
        if older_than is not None and age < older_than:
            continue
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        total += size
        click.echo(
            lang.say(f"{folder.name}  {human_bytes(size)}  {age:.1f} days" + ("" if yes else "  would be removed"))
        )
        if yes:
            with BuildLock(folder) as lock, lock.planning():
                if not lock.alone():
                    raise TutelageError(f"{folder} is being built by {lock.holder()}", fix="wait for it to end")
                # The manifest first: half a removal must not look like a store.
                (folder / "manifest.json").unlink(missing_ok=True)
                shutil.rmtree(folder)
    click.echo(lang.say(f"{human_bytes(total)} " + ("freed" if yes else "would be freed; add --yes to remove them")))


@cache.command()
@click.argument("key")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--overwrite", is_flag=True, help="Replace OUT where it exists.")
@_store
def export(key: str, out: Path, overwrite: bool, store: str | None) -> None:
    """Write the answers of the store KEY as a Parquet file, for readers without tutelage."""
    from tutelage.store.export import export as write

    rows = write(_one(store, key), out, overwrite=overwrite)
    click.echo(lang.say(f"{rows:,} rows in {out}"))


def _root(store: str | None) -> Path:
    from tutelage.store import store_root

    root = store_root(store)
    if isinstance(root, str):
        raise InputError(f"{root} can be read by recipes, but not listed", fix="name a local folder with --store")
    return root


def _folders(store: str | None, keys: tuple[str, ...]) -> Iterator[Path]:
    from tutelage.store import stores_in

    root = _root(store)
    if not keys:
        yield from stores_in(root)
    for key in keys:
        yield _one(str(root), key)


def _one(store: str | None, key: str) -> Path:
    from tutelage.store import stores_in

    root = _root(store)
    known = {folder.name: folder for folder in stores_in(root)}
    found = [folder for name, folder in known.items() if key and name.startswith(key)]
    if len(found) == 1:
        return found[0]
    raise InputError(
        f"{len(found) or 'no'} store{'s' * (len(found) != 1)} in {root} begin{'s' * (len(found) == 1)} with `{key}`",
        fix="write more of the key" if found else nearest(key, known) if known else "`tutelage cache build RECIPE`",
    )


def _facts(folder: Path) -> dict[str, Any]:
    from tutelage.store import StoredTeacher

    try:
        stored = StoredTeacher(folder, resident=False)
    except DamagedError as error:
        return {"key": folder.name, "damage": error.problem.what}
    identity = stored.manifest.identity
    return {
        "key": folder.name,
        "bytes": stored.bytes,
        "rows": len(stored),
        "views": len([view for view in stored.views if view]),
        "codec": identity["codec"],
        "classes": len(stored.classes),
        "precision": identity["precision"],
        "places": identity["places"],
        "teacher": identity["teacher"],
        "devices": sorted({shard.device for shard in stored.manifest.shards}),
        "days": round(_days(folder), 2),
    }


def _days(folder: Path) -> float:
    return max(0.0, time.time() - (folder / "manifest.json").stat().st_mtime) / 86400
