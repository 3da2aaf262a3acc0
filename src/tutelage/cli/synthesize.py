"""`tutelage synthesize RECIPE`: examples made from nothing but a recipe's teacher."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tutelage import lang
from tutelage.errors import InputError
from tutelage.files import cache_folder, read_json, write_bytes, write_json

if TYPE_CHECKING:
    from tutelage.recipe import Recipe
    from tutelage.run.job import Job
    from tutelage.run.teacher import TeacherInHand

__all__ = ["synthesize"]


@click.command()
@click.argument("recipe")
@click.option("--count", type=click.IntRange(2), default=1000, show_default=True, help="How many examples to make.")
@click.option("--out", default="made.npz", show_default=True, help="The file; its facts and the teacher go beside it.")
@click.option("--method", type=click.Choice(["inversion"]), default="inversion", show_default=True, help="How.")
@click.option("--steps", type=click.IntRange(1), default=200, show_default=True, help="Of every batch: more, better.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all that is random.")
@click.option("--against", metavar="FOLDER", help="A student whose weaknesses are sought: <run>/students/<arm>/seed-0.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key of the recipe.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@click.option("--trust", is_flag=True, help="Allow the recipe to name Python code, which will be run.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def synthesize(
    recipe: str,
    count: int,
    out: str,
    method: str,
    steps: int,
    seed: int,
    against: str | None,
    overrides: tuple[str, ...],
    overwrite: bool,
    trust: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make examples from nothing but the teacher of a RECIPE, for students to learn from without its data.

    They take the place of the training part by `data.train`; validation and test stay what they are, so that students
    are judged on real examples. The teacher's weights are written beside them, since it cannot be trained on these.
    """
    from tutelage import recipe as recipes
    from tutelage.strategies.made import check_target, write_made

    target = Path(out).expanduser()
    check_target(target, overwrite=overwrite)
    parsed = recipes.load(recipe, list(overrides))

    from tutelage.data import as_model_input
    from tutelage.models import state_digest
    from tutelage.run.students import load_student
    from tutelage.strategies.inversion import Inversion, agreement, invert

    student = None if against is None else load_student(against, trust=trust)

    def tell(line: str) -> None:
        if not quiet:
            click.echo(lang.say(line), err=True)

    with _teacher(parsed, trust=trust, quiet=quiet) as (job, hand):
        if hand.module is None or hand.file is None:
            raise InputError("examples are made from one teacher", fix="name one under `teacher:`")
        module = hand.module
        real = job.splits.val
        inside = 0.0 <= float(real.inputs.min()) <= float(as_model_input(real.inputs).max()) <= 1.0
        settings = Inversion(
            steps=steps, shift=job.views.shift, flip=job.views.flip > 0, bounds=(0.0, 1.0) if inside else None
        )
        whole = str(real.inputs.dtype) == "torch.uint8"
        examples = invert(
            module, count, real.shape, real.classes, settings=settings, student=student, seed=seed, device=job.device,
            as_bytes=whole, tell=tell, quiet=quiet,
        )  # fmt: skip
        facts = {
            "method": method, "seed": seed, "settings": asdict(settings), "agreement": agreement(module, examples),
            "teacher": state_digest(module), "recipe": job.name, "against": against,
        }  # fmt: skip
        beside = _keep_teacher(hand.file, target)
    write_made(target, examples, facts)
    if as_json:
        click.echo(json.dumps({"file": str(target), "teacher_file": str(beside), **facts}, indent=2))
        return
    agreed = f"{facts['agreement']:.1%}"
    click.echo(lang.say(f"{count:,} examples in {target}; the teacher takes {agreed} of them for what was asked"))
    click.echo(lang.say("to learn from them and be judged on real examples:"))
    words = [recipe, f"data.train={target}", f"teacher.weights={beside}", "teacher.train=null"]
    words += [word for word in overrides if not word.startswith("teacher.train")]
    click.echo(f"  tutelage run {' --set '.join(map(shlex.quote, words))}")


@contextlib.contextmanager
def _teacher(recipe: Recipe, *, trust: bool, quiet: bool) -> Iterator[tuple[Job, TeacherInHand]]:
    """A recipe's teacher, trained first where it has to be, in a folder of its own that continues after a kill."""
    from tutelage.run.cohorts import Workshop, torch_settings
    from tutelage.run.execute import facts_of
    from tutelage.run.folder import RunFolder
    from tutelage.run.job import job_of_recipe
    from tutelage.run.teacher import obtain_teacher
    from tutelage.training import StopSignals, make_device

    job = job_of_recipe(recipe, trust=trust)
    if job.splits.train.vocabulary:
        raise InputError(
            "examples are made by gradients of their inputs, and tokens have none", where="data.inputs",
            fix="use students and teachers that read words or numbers",
        )  # fmt: skip
    device = make_device(job.device, precision=job.train.precision)
    key = hashlib.sha256(f"{job.config} {job.splits.fingerprint}".encode()).hexdigest()[:16]
    with (
        StopSignals(fix="the same command starts again, with the teacher that it has by now") as signals,
        torch_settings(job),
        RunFolder.open(cache_folder() / "work" / key, overwrite=False, quiet=quiet) as folder,
    ):
        folder.begin(job.config, lambda earlier: [], facts_of(job))
        yield job, obtain_teacher(job, Workshop(folder, device, signals, quiet))
        folder.clear()


def _keep_teacher(file: Path, target: Path) -> Path:
    """The teacher's weights beside what was made, with the facts by which its classes are met by name."""
    beside = target.with_suffix(".teacher.safetensors")
    write_bytes(beside, file.read_bytes())
    write_json(beside.with_suffix(".json"), read_json(file.with_suffix(".json")))
    return beside
