"""Intervals of shares, of differences of shares, and of means over clusters, all of 95 %."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959964
DRAWS = 4000


class Interval(NamedTuple):
    """A value and the ends of its 95 % interval; NaN of what there is no data for (ends: of a single cluster)."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or −1 if the whole interval lies above or below 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)


UNKNOWN = Interval(math.nan, math.nan, math.nan)


def wilson(hits: int, n: int) -> Interval:
    """A share (Wilson 1927, score interval)."""
    if n == 0:
        return UNKNOWN
    share = hits / n
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + (Z / (2 * n)) ** 2)
    return Interval(share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)))


def difference(hits: int, n: int, hits_0: int, n_0: int) -> Interval:
    """A share less another, of independent episodes (Newcombe 1998, method 10: from Wilson's intervals)."""
    if n == 0 or n_0 == 0:
        return UNKNOWN
    one, other = wilson(hits, n), wilson(hits_0, n_0)
    between = one.value - other.value
    low = between - math.hypot(one.value - one.low, other.high - other.value)
    high = between + math.hypot(one.high - one.value, other.value - other.low)
    return Interval(between, low, high)


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable], seed: int = 0) -> Interval:
    """The mean of values, by bootstrap over the clusters (tasks) that they belong to."""
    return _bootstrap({c: [[v for v, k in zip(values, clusters, strict=True) if k == c]] for c in clusters}, seed)


def clustered_difference(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    values_0: Sequence[float],
    clusters_0: Sequence[Hashable],
    seed: int = 0,
) -> Interval:
    """A mean less another, by bootstrap over the clusters that both have: tasks are drawn, with all their episodes."""
    groups = {
        c: [[v for v, k in zip(values, clusters, strict=True) if k == c],
            [v for v, k in zip(values_0, clusters_0, strict=True) if k == c]]
        for c in dict.fromkeys([*clusters, *clusters_0])
        if c in set(clusters) and c in set(clusters_0)
    }  # fmt: skip
    return _bootstrap(groups, seed)


def _bootstrap(groups: dict[Hashable, list[list[float]]], seed: int) -> Interval:
    """Mean of the first values of all groups, less that of the second ones if there are any."""
    if not groups:
        return UNKNOWN
    sides = np.array([[(sum(side), len(side)) for side in group] for group in groups.values()], float)  # C, 1 or 2, 2
    drawn_RC = np.random.default_rng(seed).integers(0, len(groups), (DRAWS, len(groups)))

    def value(total: np.ndarray) -> np.ndarray:
        mean = total[..., 0] / total[..., 1]
        return mean[..., 0] - (mean[..., 1] if mean.shape[-1] == 2 else 0)

    if len(groups) < 2:
        return Interval(float(value(sides.sum(0))), math.nan, math.nan)
    low, high = np.quantile(value(sides[drawn_RC].sum(1)), [0.025, 0.975])
    return Interval(float(value(sides.sum(0))), float(low), float(high))
