"""The order in which images lie in memory: chosen by a rule or by a stopwatch, and never a reason for other bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tutelage.data import Batches, Examples, Views
from tutelage.distiller import Distiller
from tutelage.losses import cross_entropy
from tutelage.models import ModelSpec, build
from tutelage.training import (
    Arm,
    Checkpoints,
    Cohort,
    Listener,
    Moment,
    PlainDevice,
    fit,
    learning_rate,
    make_optimizer,
    pays_channels_last,
    suits_channels_last,
)


def net(name: str, side: int, **args: object) -> nn.Module:
    return build(ModelSpec(name, args), input_shape=(1, side, side), classes=3, mean=[0.5], std=[0.3])


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [("cnn", {"width": 64}, True), ("cnn", {}, False), ("dscnn", {}, True), ("mlp", {}, False), ("gru", {}, False)],
)
def test_the_order_of_memory_follows_from_the_model_alone(name: str, args: dict[str, object], expected: bool) -> None:
    model = net(name, 28, **args)
    assert suits_channels_last(model, torch.zeros(2, 1, 28, 28)) is expected


def test_the_order_of_memory_is_measured_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    model = net("cnn", 12, width=8)
    example = torch.rand(4, 1, 12, 12)
    found = pays_channels_last(model, example, learns=True)
    (path,) = tmp_path.glob("probes/*.json")
    path.write_text(json.dumps({"channels_last": not found}))
    assert pays_channels_last(model, example, learns=True) is not found
    assert not pays_channels_last(nn.Linear(3, 2), torch.zeros(4, 3), learns=True)


@pytest.mark.parametrize("last", [True, False])
def test_a_cut_run_in_either_order_of_memory_ends_with_the_same_bits(last: bool, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (48, 1, 8, 8), dtype=torch.uint8)
    data = Examples.make(images, images.flatten(1).float().argmax(1) % 3, ["a", "b", "c"], "toy")

    def cohort() -> Cohort:
        torch.manual_seed(3)
        student = build(
            ModelSpec("cnn", {"width": 4, "depth": 1}), input_shape=(1, 8, 8), classes=3, mean=[0.5], std=[0.3]
        )
        if last:
            student.to(memory_format=torch.channels_last)
        made = make_optimizer("adamw", student.parameters(), lr=0.01)
        return Cohort(
            "c", 0, [Arm("a", Distiller(student, None, [cross_entropy]), made, learning_rate(None, made, lr=0.01))]
        )

    def go(one: Cohort, *listeners: Listener) -> None:
        steps = Batches(data, batch_size=8, views=Views(shift=1), seed=0)
        fit(one, steps, lambda _: {"accuracy": 0.0, "nll": 1.0}, PlainDevice(), epochs=2, listeners=listeners)

    straight, cut, resumed = cohort(), cohort(), cohort()
    go(straight)
    checkpoints = Checkpoints(tmp_path, seconds=1e9)

    class SaveAtSeven(Listener):
        def on_step(self, cohort: Cohort, at: Moment) -> None:
            if at.step == 7:
                checkpoints.save(cohort)

    go(cut, SaveAtSeven())
    checkpoints.restore(resumed, device=torch.device("cpu"))
    assert resumed.at.step == 7
    for parameter in resumed.arms[0].parameters:
        moment = resumed.arms[0].optimizer.state[parameter]["exp_avg"]
        assert moment.stride() == parameter.stride()
    go(resumed)
    left, right = (one.arms[0].student.state_dict() for one in (straight, resumed))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_cut_run_in_half_precision_keeps_its_scale(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (48, 1, 8, 8), dtype=torch.uint8)
    data = Examples.make(images, images.flatten(1).float().argmax(1) % 3, ["a", "b", "c"], "toy")

    def go(stop_at: int | None, resume: bool) -> tuple[Cohort, dict[str, object]]:
        torch.manual_seed(3)
        device = PlainDevice(dtype=torch.float16)
        student = net("mlp", 8, width=8)
        made = make_optimizer("adamw", student.parameters(), lr=0.01)
        prepared = device.prepare(student, made)
        arm = Arm("a", Distiller(prepared, None, [cross_entropy]), made, learning_rate(None, made, lr=0.01))
        cohort = Cohort("c", 0, [arm])
        checkpoints = Checkpoints(tmp_path, seconds=1e9, device=device)

        class Save(Listener):
            def on_step(self, cohort: Cohort, at: Moment) -> None:
                if at.step == stop_at:
                    checkpoints.save(cohort)

        if resume:
            assert checkpoints.restore(cohort, device=torch.device("cpu"))
            assert device.scaler_state(made)["_growth_tracker"] == 7
        steps = Batches(data, batch_size=8, views=Views(), seed=0)
        fit(cohort, steps, lambda _: {"accuracy": 0.0, "nll": 1.0}, device, epochs=2, listeners=[Save()])
        return cohort, device.scaler_state(made)

    straight, scale = go(7, resume=False)
    resumed, again = go(None, resume=True)
    assert scale == again
    left, right = (one.arms[0].student.state_dict() for one in (straight, resumed))
    assert all(torch.equal(left[name], right[name]) for name in left)
