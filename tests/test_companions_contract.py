"""What every method with a companion must keep, one row of the table for each; a word without a row fails.

1 the teacher stays as it is · 2 what learns along is in the optimizer and the checkpoint, and changes · 3 killed and
taken up again it ends with the same bits · 4 the file that ships is that of the plain student · 5 at weight 0 the
student's bits are those without the term · 6 from a store it is what it is from the live teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from companion_parts import CE, Trained, bits, killed, recipe, teacher_file, train
from tutelage.terms import companion_key
from tutelage.words import COMPANIONS

STAGES = ["net.stages.0", "net.stages.1", "net.stages.2"]
LAST, POOLED = STAGES[-1], "net.dropout"


@dataclass(frozen=True)
class Row:
    """One method: the term that reads companions, and what of the contract can be asked of it."""

    name: str
    words: Sequence[str]  # of `words.COMPANIONS`
    term: Mapping[str, Any]  # as in a recipe; `cross_entropy` of weight 1 stands beside it
    stored: bool = True  # whether a store can hold what it asks of the teacher
    features: Sequence[str] = ()  # the teacher's layers that the store needs for it
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the recipe, as `companion_parts.recipe` takes them


TRANSFORMERS = {
    "teacher": {
        "model": "transformer", "args": {"width": 8, "depth": 2, "patch": 2},
        "train": {"epochs": 1, "batch_size": 64, "lr": 0.01},
    },
    "student": {"model": "transformer", "args": {"width": 4, "depth": 2, "patch": 2}},
}  # fmt: skip

ROWS = [
    Row("adversarial", ["judged"], {"loss": "adversarial", "options": {"logit": 0.1}}),
    Row("adversarial-unlabelled", ["judged"], {"loss": "adversarial", "companion": {"labels": False, "width": 8}}),
    Row("adversarial_feature", ["judged_feature"], {"loss": "adversarial_feature", "at": LAST}, features=[LAST]),
    Row("curriculum_temperature", ["temperature_parameter"], {"loss": "curriculum_temperature"}),
    Row("native_ensemble", ["branches"], {"loss": "native_ensemble", "at": STAGES[0]}),
    Row(
        "native_ensemble-dropout",
        ["branches"],
        {"loss": "native_ensemble", "at": STAGES[1], "companion": {"count": 2}},
        changes={"student__args": {"width": 4, "dropout": 0.3}},
    ),
    Row("own_exits", ["exits"], {"loss": "own_exits", "at": STAGES}),
    Row("progressive", ["past_probabilities"], {"loss": "progressive"}),
    Row("review", ["reviewed_features"], {"loss": "review", "at": STAGES}, features=STAGES),
    Row(
        "semantic_calibration",
        ["calibrated_features", "calibration"],
        {"loss": "semantic_calibration", "at": STAGES[1:]},
        features=STAGES[1:],
    ),
    Row("representation_regression", ["regressed"], {"loss": "representation_regression", "at": LAST}, features=[LAST]),
    Row(
        "masked_generation",
        ["generated_feature"],
        {"loss": "masked_generation", "weight": 1e-3, "at": "net.blocks.1"},
        features=["net.blocks.1"],
        changes=TRANSFORMERS,
    ),
    Row(
        "distillation_experts",
        ["expert_guesses"],
        {"loss": "distillation_experts", "weight": 0.01, "at": POOLED, "companion": {"experts": 4}},
        features=[POOLED],
    ),
    Row("contrastive_memory", ["contrast"], {"loss": "contrastive_memory", "at": POOLED}, features=[POOLED]),
    Row(
        "contrastive_memory-few-labels",
        ["contrast"],
        {"loss": "contrastive_memory", "at": LAST, "companion": {"width": 8, "negatives": 20, "momentum": 0.9}},
        features=[LAST],
        changes={"data__labelled": 0.3},
    ),
    Row("seed_similarity", ["anchors"], {"loss": "seed_similarity", "at": POOLED}, features=[POOLED]),
    Row(
        "compress_one_queue",
        ["anchors"],
        {"loss": "compress_one_queue", "at": POOLED, "connector": "mlp", "companion": {"size": 70}},
        features=[POOLED],
    ),
    Row("compress_two_queues", ["twin_anchors"], {"loss": "compress_two_queues", "at": POOLED}, features=[POOLED]),
    Row("self_consistent", ["centre"], {"loss": "self_consistent"}),
    Row("self_consistent-own", ["centre"], {"loss": "self_consistent", "source": {"ema": 0.9}}),
]
every = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
_kept: dict[str, Trained] = {}


def written(row: Row, **changes: Any) -> dict[str, Any]:
    off = {**row.term, "weight": 0.0}
    arms = {"scratch": [CE], "method": [CE, row.term], "off": [CE, off]}
    return recipe(arms, **{**row.changes, **changes})


def straight(row: Row, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The run that is not killed, once for all tests of a row."""
    if row.name not in _kept:
        _kept[row.name] = train(written(row), tmp_path_factory.mktemp(row.name) / "run")
    return _kept[row.name]


def test_every_word_has_a_row() -> None:
    assert {word for row in ROWS for word in row.words} == set(COMPANIONS)
    assert len({row.name for row in ROWS}) == len(ROWS)


@every
def test_the_teacher_stays_as_it_is(row: Row, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = teacher_file().read_bytes()
    distiller = straight(row, tmp_path_factory).learned["method"].distiller
    # That it is the same at the end is checked by the run itself; here, that nothing of it learned or could.
    assert teacher_file().read_bytes() == before
    if distiller.teacher is not None:
        assert not any(parameter.requires_grad for parameter in distiller.teacher.module.parameters())
        mine = {id(parameter) for parameter in distiller.teacher.module.parameters()}
        assert mine.isdisjoint(id(p) for p in straight(row, tmp_path_factory).learned["method"].parameters)


@every
def test_what_learns_along_is_trained_and_kept(row: Row, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = straight(row, tmp_path_factory)
    arm, kept = found.learned["method"], found.along("method")
    assert arm.extras is not None
    keys = {companion_key(1, word) for word in row.words}
    assert keys <= {name for name, _ in arm.extras.named_children()}
    learning = {id(parameter) for parameter in arm.parameters}
    weights = {name: p for name, p in arm.extras.named_parameters() if p.requires_grad}
    assert all(id(parameter) in learning for parameter in weights.values())
    state = arm.extras.state_dict()
    assert kept.keys() == state.keys()
    assert bits(kept) == bits(state)
    begun = bits(found.begun["method"])
    for key in keys:
        moved = [name for name, value in bits(kept).items() if name.startswith(f"{key}.") and value != begun[name]]
        frozen = [name for name, p in arm.extras.named_parameters() if not p.requires_grad]
        assert moved, f"nothing of {key} changes"
        assert set(moved).isdisjoint(frozen)
    still = [name for name in weights if bits(kept)[name] == begun[name]]
    assert not still, f"these learn nothing: {still}"


@every
def test_a_kill_changes_nothing(row: Row, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    expected = straight(row, tmp_path_factory)
    found = killed(written(row), tmp_path / "run", step=4)
    assert found.files == expected.files
    assert bits(found.checkpoint) == bits(expected.checkpoint)


@every
def test_what_ships_is_the_plain_student(row: Row, tmp_path_factory: pytest.TempPathFactory) -> None:
    students = straight(row, tmp_path_factory).students
    assert students["method"].keys() == students["scratch"].keys()
    assert {k: v.shape for k, v in students["method"].items()} == {k: v.shape for k, v in students["scratch"].items()}
    assert any(not torch.equal(value, students["scratch"][name]) for name, value in students["method"].items())


@every
def test_at_weight_nothing_it_is_as_if_it_were_not_there(row: Row, tmp_path_factory: pytest.TempPathFactory) -> None:
    files = straight(row, tmp_path_factory).files
    assert files["off"] == files["scratch"]


@every
def test_a_store_answers_as_the_live_teacher(
    row: Row, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not row.stored:
        pytest.skip("no store holds what it asks")
    features = {"features": list(row.features)} if row.features else {}
    found = train(written(row, teacher__store={"views": "none", **features}), tmp_path / "run")
    expected = straight(row, tmp_path_factory)
    for name, value in expected.students["method"].items():
        # The store asks in batches of another size, in which sums are added up in another order.
        torch.testing.assert_close(found.students["method"][name], value, rtol=1e-3, atol=1e-4)
