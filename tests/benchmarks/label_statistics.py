"""The label table with all its statistics, at full width, and its exact p-values against a plain twin.

    python tests/benchmarks/label_statistics.py [--features 65536] [--threads 2] [--json]

Synthetic activations as pooled stories show them: most features active on 10 to 30 % of 171 emotions x 12 topics, one
in twenty on all, one in twenty on 1 %; every tenth carries an emotion. Peak memory is counted beyond the input
(538 MB at 65,536 features). The twin ranks, convolves and looks up one feature at a time, with numpy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time

import numpy as np

from saefeat.label import crossing, label_features, nested_best, p_values, rank_table

E, P, BLOCK, SLICE = 171, 12, 1024, 48


def stories(F: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X_NF float32, emotion_N, topic_N."""
    rng = np.random.default_rng(seed)
    emotion_N, topic_N = np.tile(np.arange(E), P), np.repeat(np.arange(P), E)
    active_F = rng.uniform(0.1, 0.3, F)
    active_F[rng.random(F) < 0.05], active_F[rng.random(F) < 0.05] = 1.0, 0.01
    X_NF = np.empty((E * P, F), np.float32)
    for start in range(0, F, BLOCK):
        part = slice(start, min(start + BLOCK, F))
        shape = (E * P, part.stop - part.start)
        x_Nf = rng.exponential(size=shape).astype(np.float32)
        x_Nf *= rng.random(shape, dtype=np.float32) < active_F[part]
        carries = np.arange(part.start, part.stop) % 10 == 0
        own_Nf = emotion_N[:, None] == (np.arange(part.start, part.stop) // 10 % E)
        X_NF[:, part] = x_Nf + 2 * (own_Nf & carries)
    return X_NF, emotion_N, topic_N


def plain_p_values(X_NF: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray) -> np.ndarray:
    """(E, F): rank by counting, convolve the midranks of the topics, sum the tail."""
    p_EF = np.empty((E, X_NF.shape[1]))
    for f, x_N in enumerate(X_NF.T):
        null, sums_E = np.ones(1), np.zeros(E, np.int64)
        for topic in range(P):
            own = topic_N == topic
            x, n = x_N[own], int(own.sum())
            doubled = 2 * (x[:, None] > x).sum(1) + (x[:, None] == x).sum(1) + 1
            sums_E[emotion_N[own]] += doubled
            null = np.convolve(null, np.bincount(doubled, minlength=2 * n + 1) / n)
        p_EF[:, f] = np.cumsum(null[::-1])[::-1][sums_E]
    return p_EF


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def seconds(run: object, *given: object, **settings: object) -> tuple[float, object]:
    begun = time.perf_counter()
    result = run(*given, **settings)  # type: ignore[operator]
    return time.perf_counter() - begun, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="Print the figures as JSON.")
    parser.add_argument("--features", type=int, default=65_536)
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args()
    X_NF, emotion_N, topic_N = stories(given.features)
    before = peak_mb()
    took, table = seconds(
        label_features, X_NF, emotion_N, topic_N, np.ones(given.features, np.float32), E, threads=given.threads
    )
    memory = peak_mb() - before
    nested_took, best = seconds(nested_best, X_NF, emotion_N, topic_N, E, threads=given.threads)
    part_NF, design = np.ascontiguousarray(X_NF[:, :SLICE]), crossing(emotion_N, topic_N, E)
    ours, p_EF = seconds(lambda: p_values(rank_table(part_NF, design), design))
    plain, plain_EF = seconds(plain_p_values, part_NF, emotion_N, topic_N)
    np.testing.assert_allclose(p_EF, plain_EF, rtol=1e-6, atol=1e-14)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}"
    figures = {
        "features": given.features,
        "label_features_seconds": round(took, 1),
        "label_features_peak_mb_beyond_input": round(memory),
        "input_mb": round(X_NF.nbytes / 2**20),
        "nested_best_seconds": round(nested_took, 1),
        "rows": len(table["feature"]),  # type: ignore[index]
        "found": best.found(),  # type: ignore[attr-defined]
    }
    ratios = {"p_values_vs_plain": round(plain / ours, 2)}
    if given.json:
        print(json.dumps({"benchmark": "label_statistics", "machine": machine, **figures, "ratios": ratios}))
        return
    print(f"label_statistics  ({machine})")
    for name, value in (figures | ratios).items():
        print(f"  {name:38} {value:12,}")


if __name__ == "__main__":
    main()
