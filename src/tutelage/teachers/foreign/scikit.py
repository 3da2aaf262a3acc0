"""scikit-learn as a teacher: a fitted estimator or pipeline, or one by name that is fitted on the training part.

A fitted one is kept as a skops file, which holds no code: of the types in it only scikit-learn's own are made again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from torch import Tensor

from tutelage.errors import DamagedError, InputError, MissingExtraError, ModelError, nearest
from tutelage.files import read_json, sha256, write_bytes, write_json
from tutelage.teachers.foreign.bridge import ForeignTeacher, Settings, as_array
from tutelage.teachers.foreign.digest import file_digest, found_file, object_digest
from tutelage.teachers.foreign.need import need, quiet

__all__ = ["TEXT", "Fitting", "fitted_teacher", "teacher_of_estimator", "teacher_of_skops"]

TEXT = "tfidf"
_TEXT_ARGS: Mapping[str, object] = {"ngram": 2, "analyzer": "word", "C": 10.0, "max_features": 50_000}
_OWN = "sklearn."
# An answer of these is a walk through trees, row by row: the same bits in any company.
_BY_ROW = ("sklearn.ensemble.", "sklearn.tree.")


@final
@dataclass(frozen=True, slots=True)
class Fitting:
    """How a teacher is fitted, and where it is kept."""

    name: str  # a classifier of scikit-learn, or "tfidf"
    args: Mapping[str, object]
    inputs: Tensor  # (N, …) the training part of the view that it reads
    targets: Tensor  # (N,) int64
    seed: int
    keep: Path | None = None  # `<keep>.skops` and `<keep>.json`


def teacher_of_estimator(
    model: Any,
    *,
    classes: Sequence[str] | None = None,
    view: str = "x",
    settings: Settings | None = None,
    name: str = "teacher",
    digest: str | None = None,
) -> ForeignTeacher:
    """A fitted classifier or pipeline as a teacher; one that reads texts gets a list of them.

    It says probabilities where it has `predict_proba`; otherwise the margins of its `decision_function` are taken as
    logits, and where it has neither, its classes.

    Raises:
        ModelError: it is not fitted, no classifier, or its classes are not those of the data.
    """
    own = getattr(model, "classes_", None)
    if own is None or not hasattr(model, "predict"):
        raise ModelError(
            f"a {type(model).__name__} that is fitted as a classifier can be a teacher, and this one is not",
            given="no `classes_`", fix="call its fit(inputs, labels) first",
        )  # fmt: skip
    own = [one.item() if isinstance(one, np.generic) else one for one in own]
    gives, answer = _asked(model, own)
    by_row = type(model).__module__.startswith(_BY_ROW)
    return ForeignTeacher(
        answer, gives=gives, own=own, classes=classes, view=view, name=name, settings=settings, flat=True,
        digest=digest or (lambda: object_digest(model)), block=None if by_row else 64,
    )  # fmt: skip


def _asked(model: Any, own: Sequence[object]) -> tuple[str, Any]:
    """What an estimator gives, and the function that gives it."""

    def calls(function: Any) -> Any:
        def answer(inputs: Any) -> Any:
            with quiet():
                return function(_precise(inputs))

        return answer

    if hasattr(model, "predict_proba"):
        return "probabilities", calls(model.predict_proba)
    if hasattr(model, "decision_function"):
        return "logits", calls(model.decision_function)
    places = {one: place for place, one in enumerate(own)}
    return "classes", calls(lambda inputs: np.array([places[one] for one in model.predict(inputs).tolist()]))


def _precise(inputs: Any) -> Any:
    """Numbers in float64, whose last bits, which depend on a row's place in the batch, never reach an answer."""
    return inputs if isinstance(inputs, list) else inputs.astype(np.float64)


def fitted_teacher(
    fitting: Fitting,
    *,
    classes: Sequence[str],
    view: str = "x",
    settings: Settings | None = None,
    name: str = "teacher",
) -> ForeignTeacher:
    """Fit a classifier by its name on the training part, or take it from where it was kept.

    Without skops it is fitted again when a run goes on, and its digest compared with that of before.

    Args:
        classes: the data's classes; targets are their numbers.

    Raises:
        InputError: there is no such classifier, it takes no such argument, or it refuses a value.
        ModelError: it cannot learn from the data, or fitted again it is another one.
        DamagedError: the kept file was altered.
    """
    estimator = estimator_of(fitting.name, fitting.args, fitting.seed)
    facts = _facts(fitting)
    before = _recorded(fitting.keep, facts)
    model = None if before is None or fitting.keep is None else _kept(fitting.keep, before)
    if model is not None and before is not None:
        digest = str(before["digest"])
    else:
        model = _fitted(estimator, fitting)
        digest = object_digest(model)
        if before is not None and before["digest"] != digest:
            raise ModelError(
                f"the {name} was fitted again, and is another one than before",
                given=f"digest {digest[:16]}", expected=str(before["digest"])[:16],
                fix="go on where it was fitted first, or begin anew in another folder; with skops it is kept as a file",
            )  # fmt: skip
        if fitting.keep is not None:
            _keep(fitting.keep, model, facts, digest)
    own = [int(one) for one in model.classes_]
    named = Settings(tuple(classes[one] for one in own)) if settings is None else settings
    if named.classes is None:
        named = Settings(tuple(classes[one] for one in own), named.gives, named.floor, named.layout, named.scale)
    return teacher_of_estimator(model, classes=classes, view=view, settings=named, name=name, digest=digest)


def estimator_of(name: str, args: Mapping[str, object], seed: int) -> Any:
    """An estimator that is not fitted yet; what in it is random follows from the seed.

    Raises:
        InputError: there is none of that name, or it takes no such argument.
    """
    if name == TEXT:
        return _text_pipeline(args, seed)
    known = _classifiers()
    if name not in known:
        raise InputError(
            f"scikit-learn has no classifier `{name}` that can be made by its name", expected=f"{TEXT}, or its classes",
            fix=nearest(name, [*known, TEXT]),
        )  # fmt: skip
    given = {key: value for key, value in args.items() if key != "standardise"}
    takes = [key for key in inspect.signature(known[name]).parameters if key != "random_state"]
    _only(name, given, [*takes, "standardise"])
    if "random_state" in inspect.signature(known[name]).parameters:
        given["random_state"] = seed
    if name == "HistGradientBoostingClassifier":
        # Early stopping splits its data by chance where there are many; who wants it says so.
        given.setdefault("early_stopping", False)
    estimator = known[name](**{key: tuple(v) if isinstance(v, list) else v for key, v in given.items()})
    if not args.get("standardise", False):
        return estimator
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), estimator)


@functools.cache
def _classifiers() -> dict[str, Any]:
    """scikit-learn's own classifiers that need nothing but options."""
    with quiet():
        from sklearn.utils import all_estimators

        found = dict(all_estimators(type_filter="classifier"))
    return {name: kind for name, kind in found.items() if not _required(kind)}


def _required(kind: Any) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(kind).parameters.values()
    return [one.name for one in parameters if one.default is one.empty and one.kind in kinds]


def _text_pipeline(args: Mapping[str, object], seed: int) -> Any:
    """Words and pairs of words, weighted by how rare they are, and a logistic regression on them.

    On 4,000 short descriptions in 20 classes a calibrated linear SVM named the right one as often (72.3 % and 71.6 %),
    but its probabilities were worse (1.12 and 1.08 nats for the label), and these are what a student learns from.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    _only(TEXT, args, _TEXT_ARGS)
    told = {**_TEXT_ARGS, **args}
    analyzer, c, longest, most = told["analyzer"], told["C"], told["ngram"], told["max_features"]
    if analyzer not in ("word", "char_wb"):
        raise InputError(f"`analyzer` of {TEXT} reads other pieces", given=analyzer, expected="word or char_wb")
    for key, value in (("ngram", longest), ("max_features", most)):
        if type(value) is not int or value < 1:
            raise InputError(f"`{key}` of {TEXT} is a whole number", given=value, expected="1 or more")
    if isinstance(c, bool) or not isinstance(c, (int, float)) or not 0 < c < float("inf"):
        raise InputError(f"`C` of {TEXT} is a number above 0", given=c)
    # Of letters single ones say little; of words a single one says most.
    shortest = 2 if analyzer == "char_wb" and longest != 1 else 1
    vectors = TfidfVectorizer(
        analyzer=analyzer, ngram_range=(shortest, longest), sublinear_tf=True, max_features=most, dtype=np.float32
    )  # fmt: skip
    # Of 35,000 texts sixty steps took 17 CPU seconds and had 84.0 % right; three hundred had not ended after four
    # minutes.
    return make_pipeline(vectors, LogisticRegression(C=float(c), max_iter=100, tol=1e-3, random_state=seed))


def _only(name: str, args: Mapping[str, object], takes: Any) -> None:
    for arg in args:
        if arg == "random_state":
            raise InputError(f"`{name}` takes its random_state from the teacher's seed", given=arg, fix="leave it out")
        if arg not in takes:
            raise InputError(f"`{name}` takes no argument `{arg}`", fix=nearest(arg, takes))


def _fitted(estimator: Any, fitting: Fitting) -> Any:
    """Fit it; what it refuses is told in its own words."""
    inputs = as_array(fitting.inputs)
    if not isinstance(inputs, list):
        if fitting.name == TEXT:
            raise ModelError(
                f"`{TEXT}` reads plain text, and this view holds other inputs", given=f"shape {inputs.shape}",
                fix="give the teacher a view of text: inputs: {raw: {text: [column]}}, reads: raw",
            )  # fmt: skip
        inputs = inputs.reshape(len(inputs), -1)
    elif fitting.name != TEXT:
        raise ModelError(
            f"`{fitting.name}` reads numbers, and this view holds text", fix=f"use sklearn:{TEXT}, or a view of numbers"
        )
    try:
        with quiet():
            return estimator.fit(_precise(inputs), fitting.targets.cpu().numpy())
    except MemoryError:
        raise
    except Exception as error:  # a value out of range as well as data that it cannot learn
        # The first line may only announce the reason.
        reason = " ".join(str(error).split())[:240]
        wrong = InputError if type(error).__name__ == "InvalidParameterError" else ModelError
        raise wrong(f"`{fitting.name}` cannot be fitted: {reason}", given=str(dict(fitting.args))) from error


def _facts(fitting: Fitting) -> dict[str, Any]:
    """All that decides what fitting gives."""
    import sklearn

    digest = hashlib.sha256()
    for tensor in (fitting.inputs, fitting.targets):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    args = json.loads(json.dumps(dict(fitting.args), default=str))
    return {
        "model": fitting.name, "args": args, "seed": fitting.seed, "data": digest.hexdigest(),
        "scikit-learn": str(sklearn.__version__),
    }  # fmt: skip


def _keep(keep: Path, model: Any, facts: Mapping[str, Any], digest: str) -> None:
    """Write the fitted model as a skops file where that is installed, and its digest in any case."""
    file, told = keep.with_name(f"{keep.name}.skops"), {"made of": facts, "digest": digest, "sha256": None}
    with contextlib.suppress(ImportError):
        io = need("skops.io", package="skops", extra="skops", purpose="writing a scikit-learn model")
        with quiet():
            write_bytes(file, io.dumps(model))
        told["sha256"] = sha256(file)
    write_json(keep.with_name(f"{keep.name}.json"), told)


def _recorded(keep: Path | None, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was written down of a model that was fitted before, if it was made of the same."""
    file = None if keep is None else keep.with_name(f"{keep.name}.json")
    if file is None or not file.is_file():
        return None
    told = read_json(file)
    return told if told.get("made of") == facts and isinstance(told.get("digest"), str) else None


def _kept(keep: Path, before: Mapping[str, Any]) -> Any:
    """The model of before, if it was kept and can be read; else None, and it is fitted again."""
    file = keep.with_name(f"{keep.name}.skops")
    if before.get("sha256") is None or not file.is_file():
        return None
    if sha256(file) != before["sha256"]:
        raise DamagedError(f"{file} was altered since it was fitted", fix="remove it; it is fitted again")
    try:
        return _loaded(file, trust=False)
    except MissingExtraError:
        return None


def teacher_of_skops(
    model: str,
    *,
    classes: Sequence[str] | None,
    view: str = "x",
    settings: Settings | None = None,
    trust: bool = False,
    name: str = "teacher",
) -> ForeignTeacher:
    """An estimator that was saved by `skops.io.dump`.

    Args:
        trust: make other types than scikit-learn's own, which runs their code.

    Raises:
        InputError: it holds such types, without trust.
        DamagedError: it is no such file.
    """
    path = found_file(model, suffixes=(".skops",), whose="scikit-learn")
    estimator = _loaded(path, trust=trust)
    return teacher_of_estimator(
        estimator, classes=classes, view=view, settings=settings, name=name, digest=file_digest(path)
    )


def _loaded(path: Path, *, trust: bool) -> Any:
    io = need("skops.io", package="skops", extra="skops", purpose="reading a scikit-learn model from a file")
    try:
        with quiet():
            strange = io.get_untrusted_types(file=path)
            foreign = [one for one in strange if not _is_own(one)]
            if foreign and not trust:
                raise InputError(
                    f"{path.name} holds types that are not scikit-learn's own, and making them runs their code",
                    given=", ".join(foreign),
                    fix="if you trust whoever wrote it, run it with --trust",
                )
            return io.load(path, trusted=strange)
    except InputError:
        raise
    except Exception as error:  # a damaged archive fails in many ways
        raise DamagedError(
            f"{path} cannot be read as a skops file: {type(error).__name__}: {str(error)[:200]}", fix="copy it again"
        ) from error


def _is_own(title: str) -> bool:
    """Whether it names a class of scikit-learn; functions are none."""
    if not title.startswith(_OWN):
        return False
    module, _, name = title.rpartition(".")
    try:
        with quiet():
            return inspect.isclass(getattr(need(module, package="scikit-learn", extra="skops", purpose=title), name))
    except (ImportError, AttributeError):
        return False
