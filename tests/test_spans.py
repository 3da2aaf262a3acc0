"""Answers that are a stretch of a text: the best pair of places, and how near it is to the truth."""

from __future__ import annotations

import numpy as np
import pytest

from tutelage.errors import InputError
from tutelage.evaluation import spans
from tutelage.evaluation.spans import best_spans, exact, overlap


def slowly(start: np.ndarray, end: np.ndarray, longest: int) -> list[tuple[int, int]]:
    """Every pair of every row, one after the other."""
    found = []
    for one, two in zip(start, end, strict=True):
        one, two = (row - np.log(np.exp(row).sum()) for row in (one, two))
        best, pair = one[0] + two[0], (0, 0)
        for first in range(1, len(one)):
            for last in range(first, min(first + longest, len(one))):
                possible = one[first] > -90 and two[last] > -90
                if possible and one[first] + two[last] > best + 1e-9:
                    best, pair = one[first] + two[last], (first, last)
        found.append(pair)
    return found


@pytest.mark.parametrize("longest", [1, 3, 30])
@pytest.mark.parametrize("at_once", [1, 40, 1 << 21])
def test_the_best_pair_is_that_of_a_search_through_all(
    longest: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "_MOST_AT_ONCE", at_once)
    generator = np.random.default_rng(longest)
    # Few values, so that many pairs are equally good; small ones, so that the search's logarithms keep them apart.
    start, end = (generator.integers(-3, 4, (60, 17)).astype(np.float32) for _ in range(2))
    start[:, 1:4] = end[:, 1:4] = -100.0  # the question
    end[:20, 12:] = start[:20, 12:] = -100.0  # behind a short text
    found = best_spans(start, end, longest=longest)
    assert found.dtype == np.int64
    assert [tuple(pair) for pair in found.tolist()] == slowly(start.astype(float), end.astype(float), longest)
    assert {(0, 0)} < {tuple(pair) for pair in found.tolist()}


def test_an_answer_ends_where_it_starts_or_later() -> None:
    start, end = np.zeros((1, 6)), np.zeros((1, 6))
    start[0, 4], end[0, 2], end[0, 5] = 5.0, 9.0, 1.0
    # The likeliest end stands before the likeliest start; 2 to 2 has 0 + 9, 4 to 5 has 5 + 1.
    assert best_spans(start, end).tolist() == [[1, 2]]
    assert best_spans(start, end, longest=1).tolist() == [[2, 2]]


def test_no_answer_wins_where_it_is_as_likely() -> None:
    start, end = np.zeros((3, 4)), np.zeros((3, 4))
    start[1, 2] = 1.0
    start[2, 0] = end[2, 3] = 2.0
    assert best_spans(start, end).tolist() == [[0, 0], [2, 2], [0, 0]]


def test_places_that_are_impossible_are_never_named() -> None:
    start, end = np.full((2, 5), -100.0), np.full((2, 5), -100.0)
    end[0, 3] = 4.0
    start[1, 2], end[1, 3] = -3.0, -90.0  # unlikely, and possible
    assert best_spans(start, end).tolist() == [[0, 0], [2, 3]]
    # A file in fewer bits moves -100 a little.
    assert best_spans(start + 0.4, end + 0.4).tolist() == [[0, 0], [2, 3]]


def test_exact_and_overlap_against_sets_of_places() -> None:
    pairs = [(0, 0), *((first, last) for first in range(1, 6) for last in range(first, 6))]
    found = np.array([one for one in pairs for _ in pairs])
    truth = np.array([other for _ in pairs for other in pairs])
    shares = []
    for ours, theirs in zip(found.tolist(), truth.tolist(), strict=True):
        named, true = (set(range(one[0], one[1] + 1)) if one[0] else set() for one in (ours, theirs))
        both = len(named & true)
        precision, recall = both / max(1, len(named)), both / max(1, len(true))
        harmonic = 2 * precision * recall / (precision + recall) if both else 0.0
        shares.append(harmonic if named or true else 1.0)
    np.testing.assert_allclose(overlap(found, truth), shares, rtol=1e-12)
    assert exact(found, truth).tolist() == [a == b for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    assert (overlap(found, truth)[exact(found, truth)] == 1.0).all()


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        ([[3, 2]], "ends before it starts"),
        ([[0, 2]], "holds place 0"),
        ([[1, 2], [1, 2]], "differ in number"),
        ([[1.0, 2.0]], "first and last place"),
    ],
)
def test_what_is_no_answer_is_refused(truth: list[list[float]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        overlap(np.array([[1, 2]]), np.array(truth))


def test_logits_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="same places"):
        best_spans(np.zeros((2, 4)), np.zeros((2, 5)))
    with pytest.raises(InputError, match="NaN"):
        best_spans(np.full((1, 4), np.nan), np.zeros((1, 4)))
    with pytest.raises(InputError, match="at least one token"):
        best_spans(np.zeros((1, 4)), np.zeros((1, 4)), longest=0)
