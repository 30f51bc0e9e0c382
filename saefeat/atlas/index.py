"""FAISS: exact inner-product search over prototypes and story profiles, in half precision.

Emotions: row r·E + e holds [W_:,e / scale_r ; bias_e] of readout r; the query [x · scale_r ; 1] finds the highest
scores in one inner product. That index is made of the prototypes when an atlas is first asked: a few milliseconds, and
no file that says the same twice. Stories: row r·N + n holds the unit profile of story n. faiss is imported on first
use, after torch (two OpenMP runtimes in one process crash on macOS unless torch comes first and faiss keeps to one
thread).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: F401  (before faiss)

from saefeat.errors import FormatError
from saefeat.files import atomic_path


def import_faiss() -> Any:
    """The faiss module; on macOS held to one thread."""
    import faiss

    if sys.platform == "darwin":
        faiss.omp_set_num_threads(1)
    return faiss


def make_index(rows_ND: np.ndarray) -> Any:
    """An exact inner-product index of rows, float16; ids are the rows' numbers."""
    faiss = import_faiss()
    index = faiss.IndexScalarQuantizer(rows_ND.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.add(np.ascontiguousarray(rows_ND, np.float32))
    return index


@contextlib.contextmanager
def one_thread() -> Iterator[Any]:
    """The faiss module, held to one thread: for one query, waiting for a second costs more than it does (measured on
    2 busy cores: 8 ms instead of .1)."""
    faiss = import_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(before)


def write_index(rows_ND: np.ndarray, path: Path) -> None:
    """`make_index` in a file."""
    with atomic_path(path) as temporary:
        import_faiss().write_index(make_index(rows_ND), str(temporary))


def read_index(path: Path, *, rows: int, width: int) -> Any:
    """The index in `path`. Raises FormatError unless it holds `rows` rows of `width` numbers."""
    faiss = import_faiss()
    if not path.is_file():
        raise FormatError("is missing", where=path, do="make the index again: saefeat index")
    try:
        index = faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        raise FormatError("is corrupt: faiss cannot read it", where=path, do="make the index again") from error
    if (index.ntotal, index.d) != (rows, width):
        what = f"holds {index.ntotal} rows of {index.d}, the atlas says {rows} of {width}"
        raise FormatError(what, where=path, do="make the index again")
    return index


def search(index: Any, query_D: np.ndarray, *, first: int, count: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    """(numbers, inner products) of the `top` nearest among the `count` rows from `first` on, numbered from 0."""
    query = np.ascontiguousarray(query_D[None], np.float32)
    with one_thread() as faiss:
        chosen = faiss.SearchParameters(sel=faiss.IDSelectorRange(first, first + count))
        products, ids = index.search(query, min(top, count), params=chosen)
    found = ids[0] >= 0
    return ids[0][found] - first, products[0][found]


# ---------------------------------------------------------------- emotions
def emotion_rows(prototypes: list[tuple[np.ndarray, np.ndarray, float]], width: int) -> np.ndarray:
    """(R·E, width+1) rows [W / scale ; bias] of every readout's (W_FE, bias_E, scale), padded to `width` features."""
    parts = []
    for W_FE, bias_E, scale in prototypes:
        rows_ED = np.zeros((W_FE.shape[1], width + 1), np.float32)
        rows_ED[:, : len(W_FE)] = (W_FE / np.float32(scale)).T
        rows_ED[:, -1] = bias_E
        parts.append(rows_ED)
    return np.concatenate(parts)


def emotion_query(x_F: np.ndarray, scale: float, width: int) -> np.ndarray:
    """[x · scale ; 1], padded to `width` features."""
    query_D = np.zeros(width + 1, np.float32)
    query_D[: len(x_F)] = x_F * np.float32(scale)
    query_D[-1] = 1
    return query_D


def half_scale(W_FE: np.ndarray) -> float:
    """The power of two that brings the largest weight to [1, 2): float16 keeps its precision whatever the units."""
    largest = float(np.abs(W_FE).max(initial=0))
    return float(2.0 ** np.floor(np.log2(largest))) if largest > 0 else 1.0
