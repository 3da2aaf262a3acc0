"""The benchmark of all methods: that none is forgotten, that it runs, and that its table says what was measured."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

import pytest
import torch
from scipy import stats

from tutelage import losses
from tutelage.data import Batches, Views, load
from tutelage.distiller import Distiller
from tutelage.errors import TutelageError
from tutelage.models import ModelSpec, build
from tutelage.objective import Term

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "methods.py"


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_methods", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


methods = _loaded()
USED = {term["loss"] for method in methods.METHODS for term in method.arm(1.0)}


def _loss(name: str) -> Callable[..., torch.Tensor]:
    """A loss of the catalogue, or of a file of it that recipes cannot name yet."""
    names = [f"{losses.__name__}.{file.name}" for file in iter_modules(losses.__path__)]
    files = [losses, *map(importlib.import_module, names)]
    return next(getattr(file, name) for file in files if name in getattr(file, "__all__", ()))


def test_every_loss_is_in_the_table_or_left_out_for_a_reason() -> None:
    assert USED.isdisjoint(methods.LEFT_OUT)
    assert set(losses.__all__) - USED - set(methods.LEFT_OUT) == set()
    assert set(losses.__all__) >= USED
    assert all(callable(_loss(name)) for name in methods.LEFT_OUT)
    assert all(len(reason.split()) >= 3 for reason in methods.LEFT_OUT.values())
    names = [method.name for method in methods.METHODS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", sorted(methods.LEFT_OUT))
def test_what_is_left_out_cannot_learn_from_one_label_and_maps(name: str) -> None:
    data = load("digits", val=0.1, test=0.2).train
    batch = next(Batches(data, batch_size=8, views=Views(), seed=0).epoch(0))
    teacher, student = (
        build(ModelSpec("cnn", {"width": width}), input_shape=(1, 8, 8), classes=10, mean=[0.5], std=[0.3])
        for width in (8, 4)
    )
    loss = _loss(name)
    reads = inspect.signature(loss).parameters
    places = [methods.LAST] if any(word.endswith("_features") for word in reads) else methods.LAST
    at = places if any("_feature" in word for word in reads) else ()
    with pytest.raises(TutelageError):
        Distiller(student, teacher, [Term(loss, at=at)], example=batch)(batch)


def test_a_method_is_the_terms_of_a_recipe_with_its_factor() -> None:
    found = {method.name: method for method in methods.METHODS}
    assert found["scratch"].arm(1.0) == [{"loss": "cross_entropy", "weight": 1.0}]
    soft = found["soft_target"].arm(3.0)
    assert [term["weight"] for term in soft] == pytest.approx([2.7, 0.1])
    assert {name: found[name].asks for name in ("scratch", "teacher_free", "soft_target", "hint")} == {
        "scratch": "nothing", "teacher_free": "nothing", "soft_target": "logits", "hint": "layers",
    }  # fmt: skip


def test_of_equal_factors_the_nearest_to_one_is_chosen() -> None:
    assert methods.chosen({0.1: 0.8, 1.0: 0.8, 10.0: 0.7}) == 1.0
    assert methods.chosen({0.1: 0.8, 1.0: 0.7, 10.0: 0.81}) == 10.0


def test_gains_are_paired_by_seed_and_adjusted_over_all_methods() -> None:
    accuracy = {
        "scratch": [0.80, 0.82, 0.81],
        "a": [0.84, 0.85, 0.86],
        "b": [0.81, 0.80, 0.83],
        "c": [0.70, 0.75, 0.79],
    }
    found = methods.gains(methods.Results(1_000, 0.9, accuracy), "scratch")
    assert set(found) == {"a", "b", "c"}
    raw = {}
    for name in found:
        test = stats.ttest_rel(accuracy[name], accuracy["scratch"])
        low, high = test.confidence_interval(0.95)
        raw[name] = float(test.pvalue)
        assert found[name][0].ci_low == pytest.approx(low)
        assert found[name][0].ci_high == pytest.approx(high)
    order = sorted(raw, key=raw.__getitem__)
    expected, running = {}, 0.0
    for rank, name in enumerate(order):
        running = max(running, min(1.0, (3 - rank) * raw[name]))
        expected[name] = running
    assert {name: p for name, (_, p) in found.items()} == pytest.approx(expected)


def test_all_methods_learn_side_by_side_and_the_table_has_them_all(tmp_path: Path) -> None:
    words = "--source digits --views none --limit 32 --epochs 1 --seeds 1 --teacher-width 4 --teacher-epochs 1"
    words += " --rounds 1 --steps 1 --memory-rounds 1 --quiet"
    results = methods.run(methods.parsed([*words.split(), "--out", str(tmp_path)]))
    names = [method.name for method in methods.METHODS]
    assert list(results.accuracy) == names
    assert all(len(seeds) == 1 and 0.0 <= seeds[0] <= 1.0 for seeds in results.accuracy.values())
    assert results.seconds["scratch"] == 0.0
    assert all(math.isfinite(seconds) for seconds in results.seconds.values())
    layers = {method.name for method in methods.METHODS if method.asks == "layers"}
    assert {name for name, held in results.held.items() if held} == layers | {"jacobian_matching", "grad_cam"}
    rows = methods.table(results).splitlines()[2:]
    assert sorted(row.split("`")[1] for row in rows) == sorted(names)
    shown = [float(row.split("|")[3]) for row in rows]
    assert shown == sorted(shown, reverse=True)
    assert not torch.are_deterministic_algorithms_enabled()
