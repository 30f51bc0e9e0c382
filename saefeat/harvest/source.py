"""What training asks of whatever it is fed from: a harvest on disk, or the running model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from saefeat.errors import InputError
from saefeat.harvest.ranks import Ranks

Position = tuple[int, int, int]
"""Where a feed stands, in numbers that its source alone understands; START is the beginning."""
START: Position = (0, 0, 0)


class Fed(NamedTuple):
    """One batch, or this process's part of it: {layer: x_ND}, and where the feed goes on after it."""

    x: dict[int, Tensor]
    position: Position


class Source(Protocol):
    """Batches of residual vectors of one subject, the same each time; ActivationStore and Stream are two.

    ranks: the processes that share the batches. layers, d_model, context, manifest, fingerprint: as of a harvest.
    sink_norm, median_norm: {layer: norm}, there after `prepare`. where: what to name in an error. identity: whatever
    settles which vectors come in which order, for JSON.
    """

    ranks: Ranks
    layers: tuple[int, ...]
    d_model: int
    context: int
    manifest: dict[str, Any]
    fingerprint: dict[str, str]
    sink_norm: dict[int, float]
    median_norm: dict[int, float]

    @property
    def where(self) -> object: ...

    @property
    def identity(self) -> list[Any]: ...

    def prepare(self) -> None:
        """Do what has to be done once before the first vector; again, it does nothing."""

    def check_layer(self, layer: int) -> int:
        """`layer` if it is read here. Raises InputError."""

    def hook_point(self, layer: int) -> str:
        """The HF module path that is read."""

    def sample(self, layer: int, n: int, seed: int, *, heldout: float = 0.0) -> Tensor:
        """x_ND: `n` vectors (or as many as are at hand) that training may see."""

    def feed(
        self, layers: tuple[int, ...], batch: int, *, seed: int, heldout: float, start: list[Position] | None = None
    ) -> Iterator[Fed]:
        """Endless batches of `batch` vectors of each layer, of which each process gets batch / size.

        start: the positions of all processes after an earlier batch: what follows is what followed then.
        """

    def heldout_contexts(
        self, layer: int, share: float, *, batch_contexts: int = 8
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(ids_NT, x_NTD, usable_NT) of the contexts held out, a few at a time."""


def n_heldout(n_contexts: int, share: float, where: object) -> int:
    """How many contexts, the last ones, a share is: at least one if it is positive, never all. Raises InputError."""
    if not 0 <= share < 1:
        raise InputError(f"heldout must lie between 0 and 1, not {share}")
    if share and n_contexts < 2:
        raise InputError("holds one context only, none can be held out", where=where, do="take more text")
    return min(math.ceil(n_contexts * share), n_contexts - 1)


def sampled(count_N: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(contexts, order) of a random sample of `n` rows from contexts that hold count_N rows each.

    Contexts, ascending, are enough that a quarter of the rows of each makes `n`; order picks among all their rows.
    """
    chance = np.random.default_rng([seed, 0x5A])
    order = chance.permutation(len(count_N))
    enough = int(np.searchsorted(np.cumsum(count_N[order]), 4 * n)) + 1
    chosen = np.sort(order[: max(64, enough)])
    return chosen, chance.permutation(int(count_N[chosen].sum()))[:n]


def part(batch: int, ranks: Ranks) -> slice:
    """This process's rows of a batch. Raises InputError if the processes cannot share it equally."""
    if batch % ranks.size:
        do = f"choose a multiple of {ranks.size}"
        raise InputError(f"a batch of {batch} tokens cannot be shared equally by {ranks.size} processes", do=do)
    rows = batch // ranks.size
    return slice(ranks.rank * rows, (ranks.rank + 1) * rows)
