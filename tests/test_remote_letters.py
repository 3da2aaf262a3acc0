"""What an answer says of classes that stand behind letters, and what it does not say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tutelage.errors import InputError
from tutelage.teachers.remote.letters import Position, Prompt, label_in, labels_for, shares, votes

CLASSES = ("cats", "dogs", "fish")


def test_unseen_letters_share_what_is_left_within_their_bound() -> None:
    labels = labels_for(4)
    top = (("A", math.log(0.6)), (" A", math.log(0.1)), ("The", math.log(0.08)), ("B", math.log(0.02)))
    told = shares([Position("A", top)], labels, least=0.05, floor=1e-5)
    assert told is not None
    # 0.2 is left for two unseen letters, but each of them is likelier than 0.02 in no case.
    raw = np.array([0.7, 0.02, 0.02, 0.02])
    np.testing.assert_allclose(told.chances, raw / raw.sum(), rtol=1e-12)
    assert told.unseen == 2
    assert told.mass == pytest.approx(0.72)
    little = (("A", math.log(0.9)), ("The", math.log(0.07)), ("B", math.log(0.025)))
    told = shares([Position("A", little)], labels, least=0.05, floor=1e-5)
    assert told is not None
    raw = np.array([0.9, 0.025, 0.0025, 0.0025])
    np.testing.assert_allclose(told.chances, raw / raw.sum(), rtol=1e-12)
    sure = shares([Position("A", (("A", 0.0),))], labels, least=0.05, floor=1e-5)
    assert sure is not None
    np.testing.assert_allclose(sure.chances, np.array([1, 1e-5, 1e-5, 1e-5]) / (1 + 3e-5), rtol=1e-12)


@pytest.mark.parametrize(
    "positions",
    [[], [Position("\n", (("A", 0.0),))], [Position("The", (("The", -0.01), ("A", math.log(0.04))))],
     [Position("A", ())],
     [Position("a", (("a", -0.1), ("Apple", -3.0)))]],
    ids=["nothing", "blank", "too-little", "no-candidates", "other-words"],
)  # fmt: skip
def test_an_answer_that_names_no_class_is_none(positions: list[Position]) -> None:
    assert shares(positions, labels_for(3), least=0.05, floor=1e-5) is None


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("B", 1), (" b", None), ("B.", 1), ("(B)", 1), ("**B**", 1), ("B. dogs", 1), ("B dogs", 1), ("Answer: B", 1),
        ("The answer is C.", 2), ("dogs", 1), ("Dogs!", None), ("A good question", None), ("", None), ("D", None),
        ("A: cats, since they purr", 0), ("Banana", None), ("`fish`", 2),
    ],
)  # fmt: skip
def test_a_free_answer_is_read_only_where_it_is_plain(said: str, place: int | None) -> None:
    assert label_in(said, labels_for(3), CLASSES) == place


def test_sampled_answers_are_shares() -> None:
    prompt = Prompt("{classes} {text}", CLASSES)
    # Beside the letters A, B, C stand dogs, fish, cats; the answers are counted by letter.
    told = votes(["A", "C.", "hm", "A", "fish"], prompt, 1, smoothing=0.2)
    assert told is not None
    np.testing.assert_allclose(told.chances, 0.8 * np.array([2, 1, 1]) / 4 + 0.2 / 3, rtol=1e-12)
    assert votes(["hm"], prompt, 0, smoothing=0.2) is None


def test_a_prompt_is_filled_once_and_in_order() -> None:
    prompt = Prompt("Q: {text}\n{classes}\n{label}?", CLASSES)
    assert prompt.ask("is {classes} a {text}?", 2) == "Q: is {classes} a {text}?\nA. fish\nB. cats\nC. dogs\nletter?"
    assert prompt.ask("x", remind=True).endswith("must be one of A, B, C, and nothing else.")
    many = Prompt("{classes}{text}{label}", [f"c{number}" for number in range(30)])
    assert many.labels[0] == "1"
    assert many.labels[-1] == "30"
    assert many.ask("").endswith("number")


@pytest.mark.parametrize("template", ["{text}", "{classes}", "{classes} {text} {text}"])
def test_a_prompt_without_its_places_is_refused(template: str) -> None:
    with pytest.raises(InputError, match=r"the prompt has (no|2) places for"):
        Prompt(template, CLASSES)
