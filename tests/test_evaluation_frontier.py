"""The edge of accuracy against cost: equal to its definition, point by point."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tutelage.evaluation.frontier import frontier


def model(name: str, accuracy: float, size: int = 0, ms: float | None = None, **more: Any) -> dict[str, Any]:
    """A row of a report, with what the frontier reads of it."""
    share = {"value": accuracy, "ci_low": accuracy - 0.01, "ci_high": accuracy + 0.01}
    times = (
        [] if ms is None else [{"batch": 1, "threads": 1, "p50_ms": ms, "ci_low_ms": 0.9 * ms, "ci_high_ms": 2 * ms}]
    )
    return {
        "name": name, "student": "", "method": name, "compression": "", "role": "distilled",
        "metrics": {"accuracy": share}, "accuracy_items": {"value": accuracy, "ci_low": 0.0, "ci_high": 1.0},
        "parameters": size // 4, "file_bytes": size, "multiply_adds": 0, "latency": times, **more,
    }  # fmt: skip


def on(found: dict[str, Any], edge: str) -> list[str]:
    return [point["name"] for point in found["points"] if point[edge]]


def test_the_teacher_and_the_small_ones_stand_on_the_edge_and_the_beaten_do_not() -> None:
    found = frontier(
        [
            model("teacher", 0.92, 9000, 9.0),
            model("scratch", 0.80, 1000, 1.0),
            model("distilled", 0.86, 1000, 1.0),
            model("wide", 0.85, 2000, 0.5),
            model("int8", 0.855, 300, 1.1),
        ]
    )
    assert on(found, "on_size") == ["teacher", "distilled", "int8"]
    assert on(found, "on_latency") == ["teacher", "distilled", "wide"]
    assert (found["batch"], found["threads"]) == (1, 1)


def beaten(point: dict[str, Any], others: list[dict[str, Any]], cost: Any) -> bool:
    """The definition, word by word."""
    return any(
        other["accuracy"]["value"] >= point["accuracy"]["value"]
        and cost(other) <= cost(point)
        and (other["accuracy"]["value"] > point["accuracy"]["value"] or cost(other) < cost(point))
        for other in others
    )


@pytest.mark.parametrize("draw", range(20))
def test_the_edge_equals_its_definition(draw: int) -> None:
    generator = np.random.default_rng(draw)
    # Few distinct values, so that many points tie in one of the two or in both; some sizes and times are unknown.
    rows = [
        model(f"m{index}", float(generator.integers(5, 9)) / 10, int(generator.integers(0, 5)) if index else 0,
              float(generator.integers(1, 5)) if generator.random() < 0.8 else None)
        for index in range(25)
    ]  # fmt: skip
    points = frontier(rows)["points"]
    sized = [point for point in points if point["file_bytes"]]
    timed = [point for point in points if point["p50_ms"]]
    assert 0 < len(sized) < 25
    for point in points:
        assert point["on_size"] == (point in sized and not beaten(point, sized, lambda one: one["file_bytes"]))
        assert point["on_latency"] == (point in timed and not beaten(point, timed, lambda one: one["p50_ms"]["value"]))


def test_a_model_of_unknown_size_is_not_on_the_edge_and_pushes_nobody_off() -> None:
    found = frontier([model("teacher", 0.99), model("small", 0.5, 10)])
    assert on(found, "on_size") == ["small"]
    assert on(found, "on_latency") == []
    assert (found["batch"], found["threads"]) == (None, None)
    assert found["points"][0]["p50_ms"] is None
    assert found["points"][0]["multiply_adds"] is None


def test_times_count_at_one_batch_size_and_thread_number_only() -> None:
    other = [{"batch": 64, "threads": 1, "p50_ms": 0.1, "ci_low_ms": 0.1, "ci_high_ms": 0.1}]
    threads = [{"batch": 1, "threads": 8, "p50_ms": 0.1, "ci_low_ms": 0.1, "ci_high_ms": 0.1}]
    found = frontier(
        [model("teacher", 0.9, 5, 4.0), model("a", 0.95, 5, latency=other), model("b", 1.0, 5, latency=threads)]
    )
    assert on(found, "on_latency") == ["teacher"]
    assert found["points"][0]["p50_ms"] == {"value": 4.0, "ci_low": 3.6, "ci_high": 8.0}


def test_a_single_run_has_the_interval_over_examples() -> None:
    alone = model("alone", 0.7, 3)
    alone["metrics"]["accuracy"].update(ci_low=None, ci_high=None)
    first, second = frontier([alone, model("several", 0.7, 3)])["points"]
    assert first["accuracy"] == alone["accuracy_items"]
    assert second["accuracy"]["ci_low"] == pytest.approx(0.69)
    assert first["on_size"]
    assert second["on_size"]  # alike in both, so neither beats the other
