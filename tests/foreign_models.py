"""Real models of other frameworks, fitted on a few digits, and the run that distils one: live and from its store."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tutelage
from tutelage.data import Splits, load
from tutelage.data.examples import as_model_input
from tutelage.run import Run
from tutelage.run.job import Job
from tutelage.teachers.foreign.need import quiet
from tutelage.types import Batch

STUDENT = {"model": "mlp", "args": {"width": 8, "depth": 1}}


@functools.cache
def digits() -> Splits:
    """300 digits to learn, 90 to choose by, 90 to judge by."""
    whole = load("digits", path=None, val=0.1, test=0.2, seed=0)
    few = {"train": 300, "val": 90, "test": 90}
    return replace(whole, **{part: getattr(whole, part).take(torch.arange(n)) for part, n in few.items()})


def arrays(shape: tuple[int, ...] = (64,)) -> tuple[Any, Any]:
    """The training part as other frameworks read it: (N, *shape) float32 in [0, 1], (N,) int64."""
    train = digits().train
    return as_model_input(train.inputs).numpy().reshape(-1, *shape), train.targets.numpy()


def batch_of(count: int = 30, *, first: int = 0) -> Batch:
    """Examples of the test part as a teacher is asked about them."""
    test = digits().test
    part = slice(first, first + count)
    return Batch(test.ids[part], {"x": as_model_input(test.inputs[part])}, test.targets[part])


def batch(inputs: torch.Tensor, *, view: str = "x") -> Batch:
    """Any inputs as a batch."""
    return Batch(torch.arange(len(inputs)), {view: inputs}, torch.zeros(len(inputs), dtype=torch.int64))


def students(folder: Path) -> dict[str, str]:
    """The digests of all students of a run."""
    found = sorted(folder.glob("students/*/*/student.safetensors"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def distilled(teacher: Any, out: Path, **options: Any) -> Run:
    """A run of two epochs without the timing of its models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_STORE", str(out.parent / "store"))
        patch.setattr("tutelage.run.python.Job", functools.partial(Job, latency=False, resamples=200))
        told = {"student": STUDENT, "epochs": 2, "batch_size": 64, "lr": 0.01, **options}
        return tutelage.distill(teacher, told.pop("student"), digits(), out=out, quiet=True, **told)


def same_live_and_stored(teacher: Any, folder: Path, **options: Any) -> Run:
    """Distil twice, live and from stored answers: the students have the same bits, and the arms differ."""
    live = distilled(teacher, folder / "live", **options)
    distilled(teacher, folder / "kept", store="auto", **options)
    found = students(folder / "live")
    assert found == students(folder / "kept")
    assert len(found) == 2 == len(set(found.values()))
    assert list((folder / "store").rglob("manifest.json"))
    return live


@functools.cache
def forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(20, random_state=0).fit(*arrays())


@functools.cache
def logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=200).fit(*arrays())


@functools.cache
def xgboost_model() -> Any:
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=6, max_depth=3, n_jobs=1, random_state=0).fit(*arrays())


@functools.cache
def lightgbm_model() -> Any:
    with quiet():
        from lightgbm import LGBMClassifier

        model = LGBMClassifier(n_estimators=6, num_leaves=7, n_jobs=1, verbose=-1, random_state=0)
        return model.fit(*arrays())


def keras_model(*, last: str | None = "softmax", separate: bool = False, epochs: int = 2) -> Any:
    """A small convolutional net in Keras with a batch norm and dropout, trained a little."""
    from tutelage.models.kerasnet import keras_library

    keras = keras_library()
    with quiet():
        keras.utils.set_random_seed(0)
        layers = keras.layers
        end = [layers.Dense(10), layers.Softmax()] if separate else [layers.Dense(10, activation=last)]
        model = keras.Sequential(
            [keras.Input((8, 8, 1)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Activation("relu"),
             layers.Dropout(0.2), layers.Flatten(), *end]
        )  # fmt: skip
        if epochs:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=last is None and not separate)
            model.compile(keras.optimizers.Adam(0.01), loss)
            model.fit(*arrays((8, 8, 1)), epochs=epochs, batch_size=50, verbose=0)
    return model


def softmax(logits: torch.Tensor) -> Any:
    """In float64."""
    return logits.double().softmax(-1).numpy()


def close(found: Any, expected: Any, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
