"""Exact search over unit profiles that lie on disk: one pass over the rows, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from saefeat.atlas.rows import BLOCK

FEW = 16
"""Where fewer than one row in so many is kept, those are gathered; else all rows of a block are multiplied."""


def exact(
    rows_NE: np.ndarray, query_E: np.ndarray, *, top: int, first: int = 0, keep_N: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(numbers, inner products) of the `top` nearest rows from `first` on, the nearest first, of equals the lower row.

    keep_N: bool, the rows that may be found; None: all.
    """
    numbers, products = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    least = -np.inf
    for own_K, product_K in _products(rows_NE, query_E, first, keep_N):
        if len(product_K) > top:
            least = max(least, float(np.partition(product_K, -top)[-top]))
        chosen_K = product_K >= least
        numbers.append(own_K[chosen_K])
        products.append(product_K[chosen_K])
    return best(np.concatenate(numbers), np.concatenate(products), top)


def best(number_K: np.ndarray, product_K: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top` largest products and their numbers, in order."""
    order = np.lexsort((number_K, -product_K))[:top]
    return number_K[order], product_K[order]


def exact_many(rows_NE: np.ndarray, queries_QE: np.ndarray, top: int) -> np.ndarray:
    """(Q, top) numbers of the rows nearest to each query, in no order: one pass for all queries."""
    number_QK = np.zeros((len(queries_QE), 0), np.int64)
    product_QK = np.zeros((len(queries_QE), 0), np.float32)
    for start in range(0, len(rows_NE), BLOCK):
        product_QN = queries_QE @ rows_NE[start : start + BLOCK].T
        taken = min(top, product_QN.shape[1])
        near_QK = np.argpartition(product_QN, -taken, axis=1)[:, -taken:]
        number_QK = np.concatenate([number_QK, near_QK + start], axis=1)
        product_QK = np.concatenate([product_QK, np.take_along_axis(product_QN, near_QK, 1)], axis=1)
        kept = min(top, number_QK.shape[1])
        near_QK = np.argpartition(product_QK, -kept, axis=1)[:, -kept:]
        number_QK = np.take_along_axis(number_QK, near_QK, 1)
        product_QK = np.take_along_axis(product_QK, near_QK, 1)
    return number_QK


def _products(
    rows_NE: np.ndarray, query_E: np.ndarray, first: int, keep_N: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(numbers, products) of the rows to compare, block by block."""
    query_E = np.ascontiguousarray(query_E, np.float32)
    for start in range(first, len(rows_NE), BLOCK):
        block_NE = rows_NE[start : start + BLOCK]
        if keep_N is None:
            yield np.arange(start, start + len(block_NE)), block_NE @ query_E
            continue
        kept_K = np.flatnonzero(keep_N[start : start + BLOCK])
        few = len(kept_K) * FEW < len(block_NE)
        if len(kept_K):
            yield kept_K + start, block_NE[kept_K] @ query_E if few else (block_NE @ query_E)[kept_K]
