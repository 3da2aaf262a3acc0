"""Losses from elsewhere: what installed packages offer by name, and functions of the user's own.

A package offers losses by an entry point, as it would offer plugins to other tools:

    [project.entry-points."tutelage.losses"]
    gentle = "gentle_losses:gentle"

Names are read from what is installed, without importing anything; a module is imported when its loss is named or
listed. Installing a package is the user's word for its code. A function that only a recipe names, as
`package.module:function`, runs when it is trusted.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tutelage.errors import InputError, TutelageError, nearest
from tutelage.words import COMPANIONS, NEEDS

__all__ = ["LOSSES", "Offer", "imported", "load", "loss_named", "offers", "origin_of", "versions_of"]

LOSSES = "tutelage.losses"
Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Offer:
    """A function under a name: by a package, or, where `package` is empty, by the recipe itself."""

    name: str
    function: str  # package.module:function
    package: str = ""
    version: str = ""

    @property
    def home(self) -> str:
        """Package and version, as one would ask an index for them."""
        return f"{self.package} {self.version}".strip()

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"the loss `{self.name}` of the package `{self.home}`" if self.package else f"the loss `{self.function}`"


def offers(group: str = LOSSES) -> tuple[Offer, ...]:
    """What installed packages offer, sorted by name; nothing is imported."""
    return _offers(group, tuple(sys.path))


@functools.lru_cache(maxsize=8)
def _offers(group: str, _: tuple[str, ...]) -> tuple[Offer, ...]:
    # Kept, since looking through everything that is installed takes milliseconds and every term asks.
    found = []
    for entry in metadata.entry_points(group=group):
        package, version = _package(entry)
        found.append(Offer(entry.name, entry.value.replace(" ", ""), package, version))
    return tuple(sorted(found, key=lambda offer: (offer.name, offer.package)))


def _package(entry: metadata.EntryPoint) -> tuple[str, str]:
    """Name and version of the package behind an entry point; a damaged installation may not know them."""
    try:
        about = entry.dist.metadata if entry.dist is not None else None
        return ("", "") if about is None else (about["Name"] or "", about["Version"] or "")
    except Exception:  # whatever is wrong with one package's files, others must stay usable
        return "", ""


def loss_named(name: str, *, built_in: Mapping[str, Function], trust: bool = False) -> Function:
    """The loss that a recipe calls by a name.

    Args:
        name: a built-in name, one that a package offers, or `package.module:function`.
        built_in: the losses of tutelage itself.
        trust: whether a recipe may name code.

    Returns:
        The built-in loss, or the function from elsewhere under that name; what goes wrong inside that one is told as
        its own fault, and `origin_of` knows whose it is.

    Raises:
        InputError: nobody or more than one offers it, it cannot be imported, it is no function, it reads what no step
            provides, or it is code without trust.
    """
    if ":" in name:
        if not trust:
            raise InputError(
                "a recipe names code, and code runs only when you say so",
                given=name,
                expected="the name of a loss that is built in or that an installed package offers",
                fix="if you trust whoever wrote it, run it with --trust",
            )
        loss = load(Offer(name.rpartition(":")[2].rpartition(".")[2], name))
        return next((own for own in built_in.values() if own is inspect.unwrap(loss)), loss)
    found = [offer for offer in offers() if offer.name == name]
    if name in built_in and not found:
        return built_in[name]
    if not found:
        known = {*built_in, *(offer.name for offer in offers())}
        raise InputError(f"there is no loss `{name}`", fix=nearest(name, known))
    if name in built_in or len(found) > 1:
        # Guessing which is meant would let an installation change what an old recipe computes.
        own = ["the built-in one"] if name in built_in else []
        raise InputError(
            f"the name `{name}` means {len(own) + len(found)} losses",
            given=" and ".join([*own, *(f"`{offer.function}` of `{offer.home}`" for offer in found)]),
            fix=f"uninstall what you do not mean, or name a function with --trust: loss: {found[0].function}",
        )
    return load(found[0])


def imported(name: str, *, whose: str | None = None, failed: type[TutelageError] = InputError) -> object:
    """What `package.module:function` names.

    Args:
        name: the module and the function; a dot goes into classes.
        whose: how messages say whose it is.
        failed: the kind of error that a module is which fails on import.

    Raises:
        InputError: it is no such name, or there is no such module or function.
        TutelageError: of the kind `failed`, the module fails on import.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        what = "a function is named by its module and its name"
        raise InputError(what, where=whose, given=name, expected="package.module:function")
    try:
        target: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        outer = error.name is not None and (module_name + ".").startswith(error.name + ".")
        raise InputError(
            f"there is no module `{error.name}`"
            if outer
            else f"`{module_name}` needs the missing module `{error.name}`",
            where=whose,
            given=name,
            fix="install it, or put its folder on PYTHONPATH" if outer else f"install `{error.name}`",
        ) from error
    except (Exception, SystemExit) as error:
        what = f"`{module_name}` fails on import: {type(error).__name__}: {_line(error)}"
        raise failed(what, where=whose, given=name) from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            fix = nearest(part, [one for one in dir(target) if not one.startswith("_")])
            raise InputError(f"`{module_name}` has no `{attribute}`", where=whose, given=name, fix=fix)
        target = getattr(target, part)
    return target


def load(offer: Offer) -> Function:
    """An offer's function, if a term can be made of it.

    Raises:
        InputError: it cannot be imported, it is no function, or it reads what no step provides.
    """
    title = offer.title
    target = imported(offer.function, whose=title if offer.package else None)
    if not callable(target) or inspect.isclass(target):
        kind = "a class" if inspect.isclass(target) else type(target).__name__
        raise InputError(f"{title} is no function", given=kind, expected="a function that returns a scalar tensor")
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError) as error:
        raise InputError(f"{title} does not say what it reads", expected="a function written in Python") from error
    reads = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for unknown in (name for name in reads if name not in NEEDS):
        guess = nearest(unknown, NEEDS)
        raise InputError(
            f"{title} asks for `{unknown}`, which no step provides",
            expected="positional parameters named " + ", ".join(NEEDS),
            fix=guess if guess.startswith("did you mean") else "make it keyword-only, so that it is an option",
        )
    if not any(name in COMPANIONS or re.match("student_|matched_|adversarial_", name) for name in reads):
        raise InputError(
            f"{title} reads nothing of the student, which could not learn from it",
            given=", ".join(reads) or "no positional parameters",
            expected="a positional parameter such as student_logits",
        )
    return _guarded(target, offer)


def _guarded(function: Function, offer: Offer) -> Function:
    """The function under the offer's name, with its faults told as its own and not as ours."""

    @functools.wraps(function)
    def guarded(*read: Any, **options: Any) -> Any:
        try:
            value = function(*read, **options)
        except (TutelageError, MemoryError):
            raise
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError":  # by its name: torch is not imported here
                raise
            raise TutelageError(
                f"{offer.title} fails: {type(error).__name__}: {_line(error)}",
                given=", ".join(map(_shown, read)),
                fix="ask whoever wrote it, or take its term out of the recipe",
            ) from error
        learns = any(getattr(one, "requires_grad", False) for one in read)
        if not hasattr(value, "backward") or tuple(value.shape) != () or (learns and not value.requires_grad):
            given = _shown(value)
            raise TutelageError(
                f"{offer.title} returns nothing to learn from",
                given=given if getattr(value, "requires_grad", True) else f"{given}, which has no graph",
                expected="a scalar tensor with the graph that led to it",
            )
        return value

    guarded.__name__ = offer.name
    guarded.__dict__["tutelage_origin"] = offer
    return guarded


def origin_of(loss: object) -> Offer | None:
    """Whose a loss is; None for what is built in or was handed over in Python."""
    found = getattr(loss, "tutelage_origin", None)
    return found if isinstance(found, Offer) else None


def versions_of(losses: Iterable[object]) -> dict[str, str]:
    """The versions of all losses from elsewhere: of packages, or the digest of the file that a function stands in."""
    found: dict[str, str] = {}
    for loss in losses:
        offer = origin_of(loss)
        if offer is None:
            continue
        if offer.package:
            found[offer.package] = offer.version or "unknown"
        else:
            file = inspect.getsourcefile(inspect.unwrap(loss)) if callable(loss) else None
            digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else "unknown"
            found[offer.function] = f"SHA-256 {digest}"
    return dict(sorted(found.items()))


def _shown(value: object) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:240] if lines else type(error).__name__
