"""Items in order for each query: whether what is relevant stands in front.

Shapes: M rows, each one item of one query · Q queries. Relevance is 0 for what is not relevant and larger for what is
more so; a file of 0 and 1 is the plain case. Items of equal score have no order, so every metric is its mean over all
orders that they could stand in, by the formulas of McSherry & Najork (2008). What is defined depends on the relevance
alone, so two models are always judged on the same queries.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln
from scipy.stats import kendalltau

from tutelage.errors import InputError
from tutelage.evaluation.metrics import Floats
from tutelage.evaluation.resampling import Part, ratios, values_of

AT = 10
MAIN = "ndcg"
METHODS = {
    "ndcg": "mean over queries of Σ relevance / log₂(1 + place) over the first k items, divided by the largest value "
    "that it could have; queries without a relevant item are left out",
    "map": "mean over queries of the average precision within the first k: Σ precision at each relevant item, divided "
    "by the number of relevant items, or by k if that is less; queries without a relevant item are left out",
    "mrr": "mean over queries of 1 / place of the first relevant item, however far down; queries without a relevant "
    "item are left out",
    "recall": "mean over queries of the share of relevant items that stand among the first k; queries without a "
    "relevant item are left out",
    "precision": "mean over queries of the relevant items among the first k, divided by k even where a query has fewer "
    "items; queries without a relevant item are left out",
    "kendall_tau": "mean over queries of Kendall's τ-b between score and relevance; 0 for a query whose scores are all "
    "equal; queries whose items are all equally relevant are left out",
}
LOWER: frozenset[str] = frozenset()
PLAIN = frozenset({"kendall_tau"})
_FEW = 500  # items up to which all pairs are looked at at once


class Rows(NamedTuple):
    """Items by query and falling score, each (M,): number of the query, score and relevance; and Q."""

    query: NDArray[np.int64]
    score: Floats
    relevance: Floats
    queries: int


def as_rows(queries: ArrayLike, scores: ArrayLike, relevance: ArrayLike) -> Rows:
    """Items sorted by query and score.

    Args:
        queries: (M,) integers or text: which query a row belongs to.
        scores: (M,) finite numbers, larger for what should stand in front.
        relevance: (M,) finite numbers of at least 0, or bool.

    Raises:
        InputError: the shapes differ, or a number is not finite or below 0.
    """
    named = np.asarray(queries)
    values, worth = np.asarray(scores, dtype=np.float64), np.asarray(relevance, dtype=np.float64)
    if values.ndim != 1 or not values.size or values.shape != named.shape or values.shape != worth.shape:
        raise InputError(
            "every row needs a query, a score and a relevance",
            given=f"queries {named.shape}, scores {values.shape}, relevance {worth.shape}",
            expected="(M,) each, not empty",
        )
    if not np.isfinite(values).all() or not ((worth >= 0) & (worth < 1e100)).all():
        raise InputError("scores must be finite, and relevance finite and at least 0", given=float(worth.min()))
    _, query = np.unique(named, return_inverse=True)
    order = np.lexsort((-values, query))
    return Rows(query[order].astype(np.int64), values[order], worth[order], int(query.max()) + 1)


def by_query(rows: Rows, k: int = AT) -> dict[str, Floats]:
    """Every metric of every query, (Q,), NaN where not defined; queries by rising id.

    Raises:
        InputError: k is below 1.
    """
    if k < 1:
        raise InputError("a ranking is judged by its first k items, k at least 1", given=k)
    query, count = rows.query, rows.queries
    m = query.size
    relevant = (rows.relevance > 0).astype(np.float64)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(query) > 0]))
    place = np.arange(m) - starts[query] + 1.0

    def total(values: Floats) -> Floats:
        return np.asarray(np.bincount(query, weights=values, minlength=count), dtype=np.float64)

    # Of the group of equal scores that each item stands in: items, relevant ones, and those in front of it.
    tied = np.concatenate([[True], (np.diff(query) > 0) | (np.diff(rows.score) != 0)]).cumsum() - 1
    first = np.flatnonzero(np.concatenate([[True], np.diff(tied) > 0]))
    size = np.bincount(tied)[tied].astype(np.float64)
    hits = np.bincount(tied, weights=relevant)[tied]
    inside = place - place[first][tied]  # 0 for the first of its group
    running = relevant.cumsum()
    before = (running - relevant)[first][tied] - (running - relevant)[starts][query]

    top = place <= k
    expected = hits / size
    worth = np.bincount(tied, weights=rows.relevance)[tied] / size
    discount = 1 / np.log2(1 + place)
    best = rows.relevance[np.lexsort((-rows.relevance, query))]
    found = total(relevant)
    some = found > 0
    # At a place held by a relevant item: it, the relevant ones in front, and its group's mean share of the others.
    among = before + 1 + inside * np.maximum(hits - 1, 0) / np.maximum(size - 1, 1)
    per = {
        "ndcg": total(worth * discount * top) / np.where(some, total(best * discount * top), 1.0),
        "map": total(expected * among / place * top) / np.maximum(np.minimum(found, k), 1),
        "mrr": total(_first(size, hits, inside, before) / place),
        "recall": total(expected * top) / np.maximum(found, 1),
        "precision": total(expected * top) / k,
    }
    taus = [
        _tau(s, r) for s, r in zip(np.split(rows.score, starts[1:]), np.split(rows.relevance, starts[1:]), strict=True)
    ]
    return {name: np.where(some, values, np.nan) for name, values in per.items()} | {"kendall_tau": np.array(taus)}


def _first(size: Floats, hits: Floats, inside: Floats, before: Floats) -> Floats:
    """The chance that the first relevant item of a query stands at this place, over all orders of equal scores.

    Of a group of g with h relevant, the first of them is at place j with the chance C(g − j, h − 1) / C(g, h).
    """
    left = size - inside - 1  # items of the group behind this place
    possible = (before == 0) & (hits > 0) & (left >= hits - 1)
    g, h, rest = (np.where(possible, values, 1.0) for values in (size, hits, left))
    ways = gammaln(rest + 1) - gammaln(h) - gammaln(np.maximum(rest - h + 2, 1))
    every = gammaln(g + 1) - gammaln(h + 1) - gammaln(g - h + 1)
    return np.where(possible, np.exp(ways - every), 0.0)


def _tau(scores: Floats, relevance: Floats) -> float:
    """Kendall's τ-b of one query; NaN where all items are equally relevant, 0 where all scores are equal."""
    if np.ptp(relevance) == 0:
        return float("nan")
    if np.ptp(scores) == 0:
        return 0.0
    if scores.size > _FEW:
        return float(kendalltau(scores, relevance).statistic)
    ours, theirs = (np.sign(values[:, None] - values[None, :]) for values in (scores, relevance))
    return float((ours * theirs).sum() / np.sqrt(np.abs(ours).sum() * np.abs(theirs).sum()))


def parts(rows: Rows, k: int = AT) -> list[Part]:
    """Every metric of this module, for `resampling` over queries."""
    found = by_query(rows, k)
    held = {name: ~np.isnan(values) for name, values in found.items()}
    return [ratios({name: (np.where(held[name], v, 0.0), held[name].astype(np.float64)) for name, v in found.items()})]


def measure(queries: ArrayLike, scores: ArrayLike, relevance: ArrayLike, *, k: int = AT) -> dict[str, float]:
    """Every metric of this module by name; what is not defined is left out.

    Args:
        queries: (M,) which query a row belongs to.
        scores: (M,).
        relevance: (M,) at least 0.
        k: how many items are looked at; MRR and Kendall's τ look at all.

    Raises:
        InputError: as `as_rows`, or k is below 1.
    """
    rows = as_rows(queries, scores, relevance)
    return values_of(parts(rows, k), rows.queries)
