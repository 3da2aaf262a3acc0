"""Personal students: from one shared student a student for every user, who learns from that user's examples alone.

    shared     the run's student as it is                local      learns the user's labels
    scratch    the user's labels, from random weights    anchored   labels, and what the shared teacher (or the shared
                                                                    student itself) says of the same examples

The training part is divided among users, and so are the other two, by the same rule: a user's students are chosen and
judged on examples like those they learned from, and once more on the whole test part, where one sees what they forgot.
A user's arms are a cohort like any other: the same batches, the same beginning.

    <out>/students/user-<k>.<arm>/seed-<n>/    a student of user k, like those of a run
    <out>/users.json, README.md                everybody's figures, and means over users with intervals
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Unpack, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tutelage import losses
from tutelage.data.users import Users, artificial_users, given_users, read_users
from tutelage.errors import DamagedError, InputError, ModelError, nearest
from tutelage.evaluation.predict import predict
from tutelage.files import read_json, write_json, write_text
from tutelage.lang.markdown import say_markdown
from tutelage.models import adapt
from tutelage.objective import Objective, Term
from tutelage.run.armplan import ArmPlan
from tutelage.run.arms import check_learning
from tutelage.run.cohorts import Workshop, torch_settings, train_cohort
from tutelage.run.execute import Run, facts_of
from tutelage.run.folder import RunFolder, check_place
from tutelage.run.job import Job
from tutelage.run.origin import Origin, origin_of
from tutelage.run.several import begin
from tutelage.run.students import load_student, save_student, student_file
from tutelage.run.teacher import obtain_teacher
from tutelage.run.usertable import FORMAT, How, Personal, Settings, readme, result_of
from tutelage.teachers import ModuleTeacher, Teacher
from tutelage.training import StopSignals, make_device

__all__ = ["personalise"]

# Whose name stands in a cohort's table of builders.
_SHARED, _RANDOM = "shared", "random"


def personalise(
    run: Run | Path | str,
    out: Path | str,
    *,
    users: int | Mapping[str, Any] | Path | str,
    skew: float = 0.3,
    seed: int = 0,
    changes: Sequence[str] = (),
    **how: Unpack[How],
) -> Personal:
    """Train a student of their own for every user, from the student of a finished run, and say who gains by it.

    What was stopped goes on with the same call; what is finished is left as it is.

    Args:
        run: a run that a recipe made, or its folder, with an arm after a colon: "runs/a:distilled"; by default the arm
            of the headline. Every seed of it has users of its own.
        out: the folder, exactly as given.
        users: how many artificial ones, or whose each example is: see `tutelage.data.users.given_users`, or a JSON file
            with such a mapping.
        skew: of artificial users: see `tutelage.data.users.mixtures`.
        seed: of artificial users.
        changes: keys of the recipe for this, `train.epochs=3`: of `train`, `seeds`, `device` or `threads`.
        how: fields of `Settings`, which say how users' students learn; and trust, overwrite, quiet and command, as for
            `run_recipe`.

    Raises:
        TutelageError: everything a user can mend, as the tree in `tutelage.errors` says.

    References: Arivazhagan, Aggarwal, Singh and Choudhary, "Federated learning with personalization layers", 2019,
    arXiv 1912.00818 (layers of one's own above shared ones: `train=["net.head"]`). Li and Hoiem, "Learning without
    forgetting", ECCV 2016, arXiv 1606.09282 (the student's own earlier answers as what it must not forget).
    """
    given = dict(how)
    quiet, overwrite = bool(given.pop("quiet", False)), bool(given.pop("overwrite", False))
    trust, command = bool(given.pop("trust", False)), cast("str | None", given.pop("command", None))
    settings = Settings(**cast(dict[str, Any], given))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("personal students are trained in one process", fix="start it without torchrun")
    check_place(Path(out))
    origin = origin_of(run, changes, trust, taught=settings.anchor == "teacher")
    _refuse_inside(Path(out), origin.home)
    divided, left = _divided(origin.job, users, skew, seed).with_enough(settings.least)
    told = origin.told | {"division": divided.fingerprint, "users": len(divided), "settings": asdict(settings)}
    said = command or f'tutelage.personalise("{origin.home}:{origin.arm}", "{out}", …)'
    with RunFolder.open(Path(out).expanduser(), overwrite=overwrite, quiet=quiet) as folder:
        _refuse_another(folder, told)
        begin(folder, origin.recipe, facts_of(origin.job) | {"users": told})
        if folder.complete:
            folder.tell("already complete; to do it again, choose another --out or add --overwrite")
            return _finished(folder)
        division = {
            "by": "file" if not isinstance(users, int) else "dirichlet",
            "skew": skew if isinstance(users, int) else None, "seed": seed if isinstance(users, int) else None,
            "left_out": list(left), "unowned": divided.unowned,
        }  # fmt: skip
        for name in left:
            folder.tell(f"user {name} has too few examples and is left out")
        facts = {"recipe": origin.recipe.name, "run": str(origin.home), "arm": origin.arm, "command": said}
        return _under_way(origin, divided, settings, folder, facts | {"division": division}, quiet=quiet)


# ---- before anything is trained --------------------------------------------------------------------------------------


def _divided(job: Job, users: int | Mapping[str, Any] | Path | str, skew: float, seed: int) -> Users:
    if isinstance(users, int):
        return artificial_users(job.splits, users, skew=skew, seed=seed)
    return given_users(job.splits, users if isinstance(users, Mapping) else read_users(users))


def _refuse_inside(out: Path, home: Path) -> None:
    """The folder of the run itself would be emptied by --overwrite."""
    place = out.expanduser().resolve()
    if place == home or home in place.parents or place in home.parents:
        raise InputError(
            "personal students need a folder of their own", given=str(out), expected=f"a folder outside {home}",
            fix="choose another folder with --out",
        )  # fmt: skip


def _refuse_another(folder: RunFolder, told: Mapping[str, Any]) -> None:
    """Refuse a folder that holds something else, or the students of other users."""
    if not folder.manifest:
        return
    before = folder.manifest.get("users")
    fix = "choose another folder with --out, or add --overwrite"
    if not isinstance(before, dict):
        raise InputError(f"{folder.path} holds no personal students, but another run", fix=fix)
    changed = [key for key in told if before.get(key) != told[key]]
    if changed:
        raise InputError(
            f"{folder.path} holds personal students of another kind", given="other " + ", ".join(changed), fix=fix
        )


def _finished(folder: RunFolder) -> Personal:
    path = folder.path / "users.json"
    result = read_json(path)
    if result.get("format") != FORMAT:
        raise DamagedError(f"{path} is not what this version writes", fix="add --overwrite to do it again")
    return Personal(folder.path, result)


# ---- training --------------------------------------------------------------------------------------------------------


def _under_way(
    origin: Origin, users: Users, settings: Settings, folder: RunFolder, facts: Mapping[str, Any], *, quiet: bool
) -> Personal:
    """Everything between the begin and the end, however it ends."""
    started, job = time.monotonic(), origin.job
    arms = _plans(settings)
    with StopSignals(fix=f"the same command continues: {facts['command']}") as signals, torch_settings(job):
        try:
            (folder.path / "users.json").unlink(missing_ok=True)
            device = make_device(job.device, precision=job.train.precision, engine=job.train.engine)
            shop = Workshop(folder, device, signals, quiet)
            _train(origin, users, settings, arms, shop)
            folder.tell("judging everybody's students by their files")
            found = _judged(origin, users, arms, shop)
        finally:
            folder.manifest["wall_seconds"] = folder.manifest.get("wall_seconds", 0.0) + time.monotonic() - started
            folder.save()
    about = {**facts, "settings": asdict(settings), "seeds": list(origin.files)}
    about |= {"test_looks": folder.manifest["test_looks"], "wall_seconds": folder.manifest["wall_seconds"]}
    result = result_of(users, found, about, resamples=job.resamples)
    write_json(folder.path / "users.json", result)
    made = Personal(folder.path, result)
    write_text(folder.path / "README.md", say_markdown(readme(made)))
    folder.seal()
    return made


def _plans(settings: Settings) -> dict[str, ArmPlan]:
    """What is trained for every user."""
    anchored = [
        Term(losses.soft_target, weight=settings.weight, temperature=settings.temperature),
        *([Term(losses.cross_entropy, weight=1 - settings.weight)] if settings.weight < 1 else []),
    ]
    found = {
        "local": ArmPlan(_SHARED, "local", Objective([losses.cross_entropy])),
        "anchored": ArmPlan(_SHARED, "anchored", Objective(anchored)),
    }
    if settings.scratch:
        found["scratch"] = ArmPlan(_RANDOM, "scratch", Objective([losses.cross_entropy]))
    return found


def _train(origin: Origin, users: Users, settings: Settings, arms: Mapping[str, ArmPlan], shop: Workshop) -> None:
    """Train every student that is not on disk yet."""
    plan, folder = origin.job.students[origin.student], shop.folder
    if settings.scratch and plan.head is not None:
        raise InputError("a student that ends in its teacher's last layer does not begin from random weights",
                         fix="leave `scratch` out")  # fmt: skip
    check_learning(origin.job.train, _only(origin.shared(next(iter(origin.files))), settings.train))
    teacher = obtain_teacher(origin.job, shop).teacher if settings.anchor == "teacher" else None
    for seed in origin.files:
        anchor = teacher or ModuleTeacher(origin.shared(seed).to(shop.device.device))
        builds = {_SHARED: _beginning(origin, seed, settings.train), _RANDOM: plan.anew}
        for number, name in enumerate(users.names):
            files = {arm: _file(folder.path, number, arm, seed) for arm in arms}
            if all(path.with_name("student.json").is_file() for path in files.values()):
                continue
            folder.tell(f"seed {seed}, user {name} ({number + 1} of {len(users)})")
            _train_user(replace(origin.job, splits=users.of(number)), shop, anchor, arms, builds, files, seed=seed,
                        number=number, config=origin.config(seed))  # fmt: skip


def _train_user(
    job: Job, shop: Workshop, anchor: Teacher, arms: Mapping[str, ArmPlan],
    builds: Mapping[str, Callable[[], nn.Module]], files: Mapping[str, Path],
    *, seed: int, number: int, config: Mapping[str, Any],
) -> None:  # fmt: skip
    """Train one user's students of one seed side by side, and write their files."""
    name = f"seed-{seed}-user-{number + 1}"
    made = train_cohort(job, shop, name=name, seed=seed, train=job.train, teacher=anchor, arms=arms, builds=builds)
    for arm, one in made.items():
        save_student(files[arm], one, config)
    # Of many users' cohorts the checkpoints would be most of the folder, and nobody goes on from these.
    shutil.rmtree(shop.folder.path / "checkpoints" / name, ignore_errors=True)
    shop.signals.check()


def _beginning(origin: Origin, seed: int, train: Sequence[str]) -> Callable[[], nn.Module]:
    return lambda: _only(origin.shared(seed), train)


def _file(root: Path, number: int, arm: str, seed: int) -> Path:
    return student_file(root, f"user-{number + 1}.{arm}", seed)


def _only(module: nn.Module, train: Sequence[str]) -> nn.Module:
    """Let only some layers of a module learn, in place; without a name all of them do.

    Raises:
        ModelError: a layer that is not there, or nothing would learn.
    """
    if not train:
        return module
    layers = dict(module.named_modules())
    inside: set[str] = set()
    for pattern in train:
        named = [path for path in layers if fnmatchcase(path, pattern)]
        if not named:
            raise ModelError(
                f"the student has no layer `{pattern}`", where="train", fix=nearest(pattern, filter(None, layers))
            )
        inside |= {path for path in layers for one in named if path == one or path.startswith(f"{one}." if one else "")}
    above = {path for path in layers if any(one.startswith(f"{path}." if path else "") for one in inside)} - inside
    # A layer is frozen with all inside it, so those above the ones that learn are not named, and held still by hand.
    adapt(module, frozen=[path for path in layers if path not in inside | above])
    for path in above:
        for parameter in layers[path].parameters(recurse=False):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ModelError("nothing of this student would learn", where="train", given=", ".join(train))
    return module


# ---- judging ---------------------------------------------------------------------------------------------------------


def _judged(
    origin: Origin, users: Users, arms: Mapping[str, ArmPlan], shop: Workshop
) -> dict[str, NDArray[np.float64]]:
    """Every arm -> shares (S, U, 2) that are right, of every user's own test examples and of all test examples."""
    folder = shop.folder
    folder.manifest["test_looks"] += 1
    folder.save()
    own = [users.rows("test", number) for number in range(len(users))]

    def right(folder_of: Path, compression: str = "") -> NDArray[np.bool_]:
        shop.signals.check()
        student = load_student(folder_of, compression=compression, trust=origin.trust).to(shop.device.device)
        test = users.splits.test
        said = predict(student, shop.plain(test), shop.device.device).argmax(-1)
        return cast("NDArray[np.bool_]", (said == test.targets).numpy())

    def shared() -> Iterator[list[tuple[float, float]]]:
        for path in origin.files.values():
            hits = right(path.parent, origin.compression)
            yield [(float(hits[rows].mean()), float(hits.mean())) for rows in own]

    def trained(arm: str) -> Iterator[list[tuple[float, float]]]:
        for seed in origin.files:
            every = [right(_file(folder.path, number, arm, seed).parent) for number in range(len(users))]
            yield [(float(hits[rows].mean()), float(hits.mean())) for hits, rows in zip(every, own, strict=True)]

    return {"shared": np.array(list(shared()))} | {arm: np.array(list(trained(arm))) for arm in arms}
