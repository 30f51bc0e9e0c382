"""Intervals of shares, of differences of shares, and of means over clusters, all of 95 %."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
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


def clustered_mean(values: Iterable[float], clusters: Iterable[Hashable], seed: int = 0) -> Interval:
    """The mean of values, by bootstrap over the clusters (tasks) that they belong to."""
    return _bootstrap({cluster: [own] for cluster, own in _grouped(values, clusters).items()}, seed)


def clustered_difference(
    values: Iterable[float],
    clusters: Iterable[Hashable],
    values_0: Iterable[float],
    clusters_0: Iterable[Hashable],
    seed: int = 0,
) -> Interval:
    """A mean less another, by bootstrap over the clusters that both have: tasks are drawn, with all their episodes."""
    ours, theirs = _grouped(values, clusters), _grouped(values_0, clusters_0)
    groups = {cluster: [ours[cluster], theirs[cluster]] for cluster in ours if cluster in theirs}
    return _bootstrap(groups, seed)


def _grouped(values: Iterable[float], clusters: Iterable[Hashable]) -> dict[Hashable, list[float]]:
    """The values of each cluster, in the order in which they come."""
    groups: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        groups.setdefault(cluster, []).append(float(value))
    return groups


def _bootstrap(groups: Mapping[Hashable, list[list[float]]], seed: int) -> Interval:
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
