"""Groups that stay in one part, such as a patient's pictures, where the same picture may be two patients'."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tutelage.data.examples import Examples

__all__ = ["whole_groups"]


def whole_groups(examples: Examples) -> NDArray[np.int64]:
    """(N,) the group of every example, in which groups that share a content, directly or by way of others, are one: a
    content stays in one part, and so must all groups that it is in.

    Args:
        examples: with groups.
    """
    assert examples.groups is not None
    groups, ids = examples.groups.numpy(), examples.ids.numpy()
    pairs = np.unique(np.stack([ids, groups], axis=1), axis=0)
    _, times = np.unique(pairs[:, 0], return_counts=True)
    if times.max() == 1:
        return groups
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    contents, own = np.unique(ids, return_inverse=True)
    names, member = np.unique(groups, return_inverse=True)
    size = len(contents) + len(names)
    edges = coo_matrix((np.ones(len(ids)), (own, len(contents) + member)), shape=(size, size))
    _, component = connected_components(edges, directed=False)
    # Each component bears the least of its groups' names, so that the order of rows has no say.
    least = np.full(size, np.iinfo(np.int64).max, dtype=np.int64)
    np.minimum.at(least, component[len(contents) :], names)
    found: NDArray[np.int64] = least[component[len(contents) + member]]
    return found
