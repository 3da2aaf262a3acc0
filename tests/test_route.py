"""A teacher's route: states of its own training, walked again bit for bit, each teaching for its share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tutelage.errors import InputError
from tutelage.recipe import from_mapping
from tutelage.run import run_recipe
from tutelage.sources import Route
from tutelage.teachers import TableTeacher
from tutelage.teachers.route import RouteTeacher
from tutelage.types import Batch

TEACHER = {"model": "cnn", "args": {"width": 8}, "train": {"epochs": 4, "batch_size": 64, "lr": 0.0121}}


def recipe(**changes: object):  # type: ignore[no-untyped-def]
    arms = {
        "kd": [{"loss": "soft_target", "temperature": 4}],
        "route": [{"loss": "soft_target", "temperature": 4, "source": {"route": 2}}],
    }
    keys = {
        "name": "route", "seeds": [0], "data": {"source": "digits"}, "teacher": TEACHER,
        "student": {"model": "cnn", "args": {"width": 6}}, "arms": arms, "train": {"epochs": 2, "lr": 0.01},
        "report": {"latency": False, "bootstrap": 200},
    }  # fmt: skip
    return from_mapping({**keys, **changes})


def test_every_anchor_answers_for_its_share() -> None:
    ids = torch.tensor([1, 2])
    anchors = [TableTeacher(ids, torch.full((2, 3), float(number))) for number in range(4)]
    route = RouteTeacher(anchors)
    said = []
    for progress in (0.0, 0.2499, 0.25, 0.5, 0.7499, 0.75, 1.0):
        route.walk(progress)
        logits = route.answer(Batch(ids, {}, torch.zeros(2))).logits
        assert isinstance(logits, Tensor)
        said.append(int(logits[0, 0]))
    assert said == [0, 0, 1, 2, 2, 3, 3]
    assert route.fingerprint() != RouteTeacher(anchors[::-1]).fingerprint()
    before = route.fingerprint()
    route.walk(0.0)
    assert route.fingerprint() == before
    with pytest.raises(InputError, match="no anchors"):
        RouteTeacher([])


def test_the_way_is_the_teachers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    run_recipe(recipe(), tmp_path / "one", quiet=True)
    [home] = (tmp_path / "cache" / "teachers").iterdir()
    files = sorted(path.name for path in (home / "route").glob("*.safetensors"))
    assert files == ["epoch-2.safetensors", "epoch-4.safetensors"]
    # Its best epoch by validation is the last one here, so that the end of the way is the teacher itself.
    assert (home / "route" / "epoch-4.safetensors").read_bytes() != (home / "route" / files[0]).read_bytes()
    # Walked a second time only where something is missing, and to the same bits.
    kept = {path.name: path.read_bytes() for path in (home / "route").iterdir()}
    (home / "route" / "epoch-2.safetensors").write_bytes(b"damaged")
    run_recipe(recipe(), tmp_path / "two", quiet=True)
    assert {path.name: path.read_bytes() for path in (home / "route").iterdir()} == kept
    one, two = (tmp_path / name / "students/route/seed-0/student.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    plain = tmp_path / "one/students/kd/seed-0/student.safetensors"
    assert one.read_bytes() != plain.read_bytes()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arms": {"route": [{"loss": "soft_target", "source": {"route": 9}}]}}, "no more anchors than"),
        ({"arms": {"route": [{"loss": "soft_target", "source": {"route": 2, "ema": 0.9}}]}}, "one source, not to 2"),
    ],
)
def test_a_route_that_cannot_be_walked_is_refused(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        run_recipe(recipe(**changes), tmp_path / "run", quiet=True)


def test_anchors_are_counted() -> None:
    with pytest.raises(InputError):
        Route(0)
