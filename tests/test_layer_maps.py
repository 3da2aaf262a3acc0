"""Layers lined up by a pattern on each side: which pairs come of it, and that runs and checks learn by those pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from companion_parts import CE, recipe, train
from tutelage.errors import InputError, ModelError, RecipeError
from tutelage.layermaps import lined_up, pairs
from tutelage.losses import hidden_mse, hint
from tutelage.objective import Objective, Place, Term
from tutelage.recipe import dump, from_mapping, from_text
from tutelage.run.checks.recipe import check_recipe
from tutelage.run.job import job_of_recipe
from tutelage.words import MAPS


def stack(depth: int) -> nn.Module:
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.ReLU()) for _ in range(depth)))
    return nn.ModuleDict({"blocks": blocks, "head": nn.Linear(3, 2)})


def mapped(how: str, student: str = "blocks.*", teacher: str = "blocks.*") -> Objective:
    return Objective([Term(hidden_mse, at=Place(student, teacher, how))])


def named(numbers: list[int]) -> list[str]:
    return [f"b.{n}" for n in numbers]


@pytest.mark.parametrize(
    ("ours", "theirs", "how", "expected"),
    [
        # Every third of twelve, as small BERTs are taught by large ones.
        (4, 12, "uniform", [2, 5, 8, 11]),
        (6, 12, "uniform", [1, 3, 5, 7, 9, 11]),
        (3, 3, "uniform", [0, 1, 2]),
        (3, 4, "uniform", [1, 2, 3]),
        (2, 3, "uniform", [1, 2]),
        (4, 2, "uniform", [0, 0, 1, 1]),
        (3, 12, "last", [9, 10, 11]),
        (3, 12, "first", [0, 1, 2]),
        (1, 1, "last", [0]),
    ],
)
def test_layers_are_lined_up(ours: int, theirs: int, how: str, expected: list[int]) -> None:
    found = pairs([f"a.{n}" for n in range(ours)], named(list(range(theirs))), how)
    assert found == list(zip([f"a.{n}" for n in range(ours)], named(expected), strict=True))


def test_a_uniform_map_ends_at_both_ends_and_never_turns_back() -> None:
    for ours in range(1, 9):
        for theirs in range(1, 14):
            numbers = [
                int(layer[2:])
                for _, layer in pairs([str(n) for n in range(ours)], named(list(range(theirs))), "uniform")
            ]
            assert numbers == sorted(numbers)
            assert numbers[-1] == theirs - 1
            assert ours < theirs or set(numbers) == set(range(theirs))


def test_a_star_is_one_part_of_a_path() -> None:
    found = lined_up(mapped("uniform"), stack(2), stack(12))
    assert found.terms[0].places == (Place("blocks.0", "blocks.5"), Place("blocks.1", "blocks.11"))
    inner = lined_up(mapped("last", "blocks.*.0", "blocks.*.1"), stack(2), stack(3))
    assert inner.terms[0].places == (Place("blocks.0.0", "blocks.1.1"), Place("blocks.1.0", "blocks.2.1"))


def test_what_has_no_map_stays_the_same_object() -> None:
    plain = Objective([Term(hidden_mse, at=["blocks.0"])])
    assert lined_up(plain, stack(1), None) is plain


def test_a_moving_average_has_the_students_layers() -> None:
    term = Term(hidden_mse, at=Place("blocks.*", "blocks.*", "last"), source="ema", weight=0.3, name="own")
    found = lined_up(Objective([term]), stack(2), None).terms[0]
    assert found.places == (Place("blocks.0", "blocks.0"), Place("blocks.1", "blocks.1"))
    assert (found.name, found.source, found.weight(0.0)) == ("own", term.source, 0.3)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("objective", "student", "teacher", "says"),
    [
        (mapped("last"), stack(3), stack(2), "more layers than the teacher"),
        (mapped("first"), stack(3), stack(2), "more layers than the teacher"),
        (mapped("uniform", "bloks.*"), stack(1), stack(2), "no layer `bloks.\\*` to line up"),
        (mapped("uniform"), stack(1), None, "nobody knows those"),
    ],
)
def test_what_cannot_be_lined_up_says_why(
    objective: Objective, student: nn.Module, teacher: nn.Module | None, says: str
) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        lined_up(objective, student, teacher)
    assert caught.value.problem.fix


def test_an_unknown_map_and_a_loss_of_one_place_are_refused_at_once() -> None:
    with pytest.raises(InputError, match="no layer map `unifrom`") as caught:
        mapped("unifrom")
    assert "uniform" in str(caught.value.problem.fix)
    with pytest.raises(InputError, match="reads one place"):
        Term(hint, at=Place("a.*", "a.*", "uniform"))


# ---- in a run -------------------------------------------------------------------------------------------------------

NETS: dict[str, Any] = {"student": {"model": "cnn", "args": {"width": 4, "depth": 2}}}


def written(at: Any, loss: str = "review") -> dict[str, Any]:
    return recipe({"scratch": [CE], "method": [CE, {"loss": loss, "at": at}]}, **NETS)


def star(how: str) -> dict[str, str]:
    return {"student": "net.stages.*", "teacher": "net.stages.*", "map": how}


def test_a_recipe_lines_up_two_stages_beside_three_and_learns_as_by_pairs(tmp_path: Path) -> None:
    by_pairs = [
        {"student": "net.stages.0", "teacher": "net.stages.1"},
        {"student": "net.stages.1", "teacher": "net.stages.2"},
    ]
    one, other = (train(written(at), tmp_path / str(n)) for n, at in enumerate((star("uniform"), by_pairs)))
    assert one.files == other.files
    first = job_of_recipe(from_mapping(written(star("first"))), trust=False)
    assert first.teacher_places == ("net.stages.0", "net.stages.1")


def test_a_recipe_with_a_map_is_written_and_read_again() -> None:
    made = from_mapping(written(star("last")))
    assert from_text(dump(made), "again") == made
    assert {place.map for term in made.arms["method"] for place in term.at} == {"last"}
    assert set(MAPS) == {"uniform", "last", "first"}


def test_a_recipe_says_where_a_map_is_wrong() -> None:
    with pytest.raises(RecipeError, match=r"at\.0\.map.*expected uniform, last, first or null, got 'lst'") as wrong:
        from_mapping(written(star("lst")))
    assert "did you mean `last`" in str(wrong.value)
    with pytest.raises(ModelError, match="to line up") as caught:
        job_of_recipe(from_mapping(written({**star("last"), "student": "net.stage.*"})), trust=False)
    assert caught.value.problem.where == "arms.method"
    assert "net.stages" in str(caught.value.problem.fix)


def test_the_checks_see_the_pairs() -> None:
    found = check_recipe(from_mapping(written(star("uniform"))))
    said = "\n".join(str(finding) for finding in found.findings)
    assert "net.stages.0 (4, 4, 4) beside the teacher's net.stages.1" in said.replace("`", "")
    assert not [finding for finding in found.findings if finding.level == "fault" and "arm" in finding.title]
