"""Order boxes so that those which may touch each other lie together, best score first."""

from __future__ import annotations

import numpy as np

from cxr.boxes.compiled import HAVE_NUMBA, compiled


def group_by_score(keys: np.ndarray, scores: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Order by group, then by falling score, then by input order.

    Args:
        keys: Group of every box, `int64 (N,)` in `[0, n_groups)`.
        scores: Score of every box, `float64 (N,)`.
        n_groups: Number of groups.

    Returns:
        The order, `int64 (N,)`, and where each group starts in it, `int64 (n_groups + 1,)`.
    """
    if HAVE_NUMBA:
        # Made here, not in the compiled loop: numpy asks the system for large pages, numba does not.
        order = np.empty(len(keys), np.int64)
        return order, _group_by_score(keys, scores, n_groups, order)
    order = np.lexsort((-scores, keys))
    return order, np.searchsorted(keys[order], np.arange(n_groups + 1))


@compiled
def _group_by_score(keys: np.ndarray, scores: np.ndarray, n_groups: int, order: np.ndarray) -> np.ndarray:
    # A counting sort, then a stable insertion sort of each small group: a general sort over
    # (group, score) costs several times what all the rest of a fusion does.
    n = keys.shape[0]
    starts = np.zeros(n_groups + 1, np.int64)
    for i in range(n):
        starts[keys[i] + 1] += 1
    for g in range(n_groups):
        starts[g + 1] += starts[g]
    fill = starts[:-1].copy()
    for i in range(n):
        order[fill[keys[i]]] = i
        fill[keys[i]] += 1
    sorted_scores = np.empty(64)  # of the group at hand, beside its order: no look-up while it is sorted
    for g in range(n_groups):
        first, last = starts[g], starts[g + 1]
        if last - first > 64:
            members = order[first:last].copy()
            order[first:last] = members[np.argsort(-scores[members], kind="mergesort")]
            continue
        for i in range(last - first):
            index = order[first + i]
            score = scores[index]
            j = i - 1
            while j >= 0 and sorted_scores[j] < score:
                order[first + j + 1] = order[first + j]
                sorted_scores[j + 1] = sorted_scores[j]
                j -= 1
            order[first + j + 1] = index
            sorted_scores[j + 1] = score
    return starts


def dense_keys(*labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Number every combination of labels from 0, in sorted order.

    Args:
        *labels: Integer arrays of the same length, the first one the most significant.

    Returns:
        The number of each element's combination, `int64 (N,)`, and how many numbers there are; not
        every one of them need occur.
    """
    keys = np.zeros(len(labels[0]), dtype=np.int64)
    count = 1
    for values in labels:
        if len(values) == 0:
            return keys, 0
        values = np.asarray(values)
        low, high = int(values.min()), int(values.max())
        spread = high - low + 1
        if spread > 4 * len(values) + 1024:
            unique, values = np.unique(values, return_inverse=True)
            low, spread = 0, len(unique)
        keys = keys * spread + (values - low)
        count *= spread
    if count > 8 * len(keys) + 65536:
        unique, keys = np.unique(keys, return_inverse=True)
        count = len(unique)
    return keys.astype(np.int64, copy=False), count
