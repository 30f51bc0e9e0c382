"""`similar` among 10⁶ indexed profiles against brute force with numpy.

    python tests/benchmarks/similar.py [--json] [--rounds 5]

The profiles are synthetic: drawn with the mean and covariance of the shipped stories' profiles, plus noise (a standard
deviation of .02 an emotion, a quarter of their length). They are written into an index and its lists are built as
`saefeat index add` does; queries are drawn likewise and are not in the index. Both sides take the same 100 queries one
by one, in turns: the library's search of an open index, and one matrix-vector product over all rows in memory with
the ten largest picked out. recall_at_10: the share of numpy's ten that the library finds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import arguments, report

from saefeat.atlas import Atlas, Batch, IndexedTexts, add_rows

N, QUERIES, TOP, NOISE, PART = 1_000_000, 100, 10, 0.02, 1 << 16


def draw(stories_NE: np.ndarray, n: int, seed: int) -> np.ndarray:
    """(n, E) unit profiles like those of the stories."""
    E = stories_NE.shape[1]
    root_EE = np.linalg.cholesky(np.cov(stories_NE.T) + 1e-9 * np.eye(E)).astype(np.float32)
    chance = torch.Generator().manual_seed(seed)
    x_NE = torch.randn(n, E, generator=chance) @ torch.from_numpy(np.ascontiguousarray(root_EE.T))
    x_NE += torch.from_numpy(stories_NE.mean(0)) + NOISE * torch.randn(n, E, generator=chance)
    x_NE -= x_NE.mean(1, keepdim=True)
    return (x_NE / x_NE.norm(dim=1, keepdim=True)).numpy()


def batches(x_NE: np.ndarray) -> list[Batch]:
    """Rows as texts leave them."""
    chance = np.random.default_rng(0)
    made = []
    for start in range(0, len(x_NE), PART):
        part_NE = x_NE[start : start + PART]
        keys_N2 = chance.integers(0, 1 << 63, (len(part_NE), 2)).astype(np.uint64)
        records = [b'{"id": "%d", "text": "", "fields": {}}' % n for n in range(start, start + len(part_NE))]
        made.append(Batch(profiles_NE=part_NE, levels_N2=np.ones((len(part_NE), 2)), keys_N2=keys_N2, records=records))
    return made


def main() -> None:
    given = arguments(__doc__ or "")
    atlas = Atlas.open()
    stories_NE = atlas.story_index.reconstruct_n(0, atlas.n_stories)
    x_NE, queries_QE = draw(stories_NE, N, 0), draw(stories_NE, QUERIES, 1)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        add_rows(atlas, batches(x_NE), Path(folder) / "index", readout=atlas.story_readouts[0])
        build = time.perf_counter() - begun
        begun = time.perf_counter()
        indexed = IndexedTexts(Path(folder) / "index", atlas)
        assert indexed.lists is not None
        opened = time.perf_counter() - begun

        def ours(query_E: np.ndarray) -> np.ndarray:
            return indexed.nearest(query_E, top=TOP)[0]

        def brute(query_E: np.ndarray) -> np.ndarray:
            product_N = x_NE @ query_E
            near_K = np.argpartition(product_N, -TOP)[-TOP:]
            return near_K[np.argsort(-product_N[near_K])]

        seconds: dict[str, list[float]] = {"ours": [], "brute": []}
        hits = 0
        ours(queries_QE[0]), brute(queries_QE[0])
        for query_E in np.tile(queries_QE, (min(given.rounds, 2), 1)):
            found = {}
            for name, side in (("ours", ours), ("brute", brute)):
                begun = time.perf_counter()
                found[name] = side(query_E)
                seconds[name].append(time.perf_counter() - begun)
            hits += len(set(found["ours"].tolist()) & set(found["brute"].tolist()))
        whole = []
        for query_E in queries_QE:  # as it is asked from outside: a profile in, ten texts with their emotions out
            asked = dict(zip(atlas.emotion_names, map(float, query_E), strict=True))
            begun = time.perf_counter()
            assert len(atlas.similar(profile=asked, within=indexed, top=TOP)["texts"]) == TOP
            whole.append(time.perf_counter() - begun)
        told = indexed.manifest["search"]
    p50 = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {
        "speedup": p50["brute"] / p50["ours"],
        "recall_at_10": hits / (TOP * len(seconds["ours"])),
        "p50_ms": 1e3 * p50["ours"],
        "p50_ms_with_texts": 1e3 * statistics.median(whole),
        "brute_p50_ms": 1e3 * p50["brute"],
        "recall_at_10_when_built": told["recall_at_10"],
        "probes": told["probes"],
        "build_seconds": build,
        "open_seconds": opened,
    }
    report("similar", {"saefeat similar": 1 / p50["ours"], "numpy": 1 / p50["brute"]}, ratios, as_json=given.json)


if __name__ == "__main__":
    main()
