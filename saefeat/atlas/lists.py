"""Search beyond 10⁵ rows: an inverted file that names candidates, which are then compared exactly.

Rows are turned to their first principal components and sorted into lists around centroids (k-means); within a list
each component is kept in 4 bits, which FAISS scans in registers (IVF, PQ fast scan: arXiv:2401.08281, section 5). A
query looks into the `probes` nearest lists, takes the `CANDIDATES` best by the 4-bit codes, and ranks those by the
rows themselves. `probes` is the fewest that find RECALL + MARGIN of the ten nearest of held-out rows.
Rows have length 1, so the nearest by distance, which the components keep, are the nearest by cosine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from saefeat.atlas.exact import best, exact_many
from saefeat.atlas.index import import_faiss, one_thread
from saefeat.atlas.rows import BLOCK
from saefeat.errors import FormatError
from saefeat.files import atomic_path, sha256_file

logger = logging.getLogger(__name__)

EXACT_ROWS = 100_000
"""Up to so many rows every row is compared."""
SHARE = 0.1
"""The share of rows that may be beyond the lists, and are compared exactly, before these are made again."""
RECALL, MARGIN = 0.97, 0.01
QUERIES, NEAREST = 300, 10
COMPONENTS, PER_LIST, ROUNDS = 96, 40, 8
CANDIDATES, PER_ROW, MOST = 300, 30, 20
"""Candidates compared exactly: at least so many, and for each row asked for; beyond MOST rows search is exact."""


class Lists:
    """An inverted file over the first `rows` rows of an index of texts."""

    def __init__(self, index: Any, told: dict[str, Any]) -> None:
        self.index, self.told = index, told
        self.rows: int = told["rows"]
        import_faiss().extract_index_ivf(index).nprobe = told["probes"]

    def search(self, rows_NE: np.ndarray, query_E: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """(numbers, inner products) of the nearest rows that the lists find, in order."""
        candidates = max(CANDIDATES, PER_ROW * top)
        with one_thread():
            _, found_1K = self.index.search(np.ascontiguousarray(query_E[None], np.float32), candidates)
        own_K = found_1K[0][found_1K[0] >= 0]
        return best(own_K, rows_NE[own_K] @ query_E, top)


def wanted(n_rows: int, told: dict[str, Any] | None) -> bool:
    """Whether lists are to be made (again) for so many rows; told: what is known of those there are."""
    covered = told["rows"] if told else 0
    return n_rows > EXACT_ROWS and n_rows - covered > SHARE * n_rows


def make(rows_NE: np.ndarray, directory: Path, on_progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Make lists of the rows, measure them, and write them into `directory`; returns what the manifest says of them.

    {"file", "sha256", "rows", "lists", "components", "probes", "recall_at_10", "queries"}; file is None where not even
    all lists reach RECALL, and search stays exact. Memory: a sample of 40 rows a list, and the 4-bit codes.
    """
    N, E = rows_NE.shape
    lists = 2 ** round(np.log2(2 * np.sqrt(N)))
    components = min(COMPONENTS, E)
    chance = np.random.default_rng(0)
    drawn_K = chance.permutation(N)[: QUERIES + PER_LIST * lists] if N < 1 << 24 else _drawn(N, lists, chance)
    held_Q, sample_K = np.sort(drawn_K[:QUERIES]), np.sort(drawn_K[QUERIES:])

    faiss = import_faiss()
    index = faiss.index_factory(E, f"PCA{components},IVF{lists},PQ{components}x4fs", faiss.METRIC_L2)
    inner = faiss.extract_index_ivf(index)
    inner.cp.niter, inner.cp.max_points_per_centroid, inner.cp.min_points_per_centroid = ROUNDS, PER_LIST, 1
    index.train(np.ascontiguousarray(rows_NE[sample_K]))
    for start in range(0, N, BLOCK):
        index.add(np.ascontiguousarray(rows_NE[start : start + BLOCK]))
        if on_progress:
            on_progress(min(start + BLOCK, N), N)
    told: dict[str, Any] = {"rows": N, "lists": lists, "components": components, "queries": QUERIES}
    told["probes"], told["recall_at_10"] = _fewest_probes(index, inner, rows_NE, held_Q, lists)
    if told["recall_at_10"] < RECALL:
        logger.warning("lists find only %.3f of the ten nearest: search stays exact", told["recall_at_10"])
        return told | {"file": None}
    path = directory / f"lists-{N}.faiss"
    with atomic_path(path) as temporary:
        faiss.write_index(index, str(temporary))
    return told | {"file": path.name, "sha256": sha256_file(path)}


def _drawn(N: int, lists: int, chance: np.random.Generator) -> np.ndarray:
    """Distinct row numbers in random order, without an array of all."""
    return chance.permutation(np.unique(chance.integers(0, N, 2 * (QUERIES + PER_LIST * lists))))[
        : QUERIES + PER_LIST * lists
    ]


def _fewest_probes(index: Any, inner: Any, rows_NE: np.ndarray, held_Q: np.ndarray, lists: int) -> tuple[int, float]:
    """(probes, recall@10) on rows that the centroids were not fitted to, each without itself."""
    queries_QE = np.ascontiguousarray(rows_NE[held_Q])
    truth = [_without(own, q) for own, q in zip(exact_many(rows_NE, queries_QE, NEAREST + 1), held_Q, strict=True)]
    probes, recall = 8, 0.0
    while True:
        inner.nprobe = min(probes, lists)
        found = 0
        for query_E, own_K, q, true in zip(
            queries_QE, index.search(queries_QE, CANDIDATES)[1], held_Q, truth, strict=True
        ):
            own_K = own_K[own_K >= 0]
            near_K, _ = best(own_K, rows_NE[own_K] @ query_E, NEAREST + 1)
            found += len(set(_without(near_K, q)) & set(true))
        recall = found / sum(map(len, truth))
        if recall >= RECALL + MARGIN or probes >= lists:
            return int(inner.nprobe), round(recall, 4)
        probes = probes * 3 // 2 if probes & (probes - 1) == 0 else probes * 4 // 3  # 8, 12, 16, 24, 32, …


def _without(number_K: np.ndarray, own: int) -> list[int]:
    return [int(number) for number in number_K if number != own][:NEAREST]


def read(directory: Path, told: dict[str, Any]) -> Lists | None:
    """The lists that the manifest tells of; None if search is exact. Raises FormatError."""
    if told["file"] is None:
        return None
    path = directory / told["file"]
    do = f"make them again: saefeat index build {directory}"
    if not path.is_file():
        raise FormatError("is missing", where=path, do=do)
    if sha256_file(path) != told["sha256"]:
        raise FormatError("is not as it was written (its SHA-256 differs)", where=path, do=do)
    try:
        return Lists(import_faiss().read_index(str(path)), told)
    except (RuntimeError, MemoryError) as error:
        raise FormatError("is corrupt: faiss cannot read it", where=path, do=do) from error
