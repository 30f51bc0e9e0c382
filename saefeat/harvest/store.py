"""Residual streams back from disk: shuffled batches for training, held-out contexts, samples.

Shuffling reads whole contexts in a random order into a pool and draws rows from the pool at random: rows of a batch
come from hundreds of contexts, while the disk is read in pieces of a context. Which rows a batch holds follows from
the store, the seed and the batch's number alone, so a run can start at any batch without reading those before it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saefeat.errors import FormatError, InputError
from saefeat.files import read_json
from saefeat.harvest.pack import ahead
from saefeat.harvest.write import KIND, MANIFEST, VERSION

POOL_TOKENS = 65_536
POOL_BYTES = 1 << 28
OPEN_FILES = 128


class ActivationStore:
    """An open harvest; thread-safe, since every reader opens its own files.

    manifest: as written. layers, d_model, context, dtype. n_contexts; n_tokens: all tokens, and `n_usable(layer)`
    those that count. sink_norm, median_norm: {layer: norm}. fingerprint: of the subject, as a dict.
    """

    def __init__(self, directory: Path | str) -> None:
        """Open the harvest in `directory`, finished or not. Raises FormatError if there is none."""
        self.directory = Path(directory)
        self.manifest: dict[str, Any] = read_json(self.directory / MANIFEST, kind=KIND, version=VERSION)
        try:
            self.layers: tuple[int, ...] = tuple(self.manifest["layers"])
            self.d_model: int = self.manifest["d_model"]
            self.context: int = self.manifest["context"]
            self.dtype: torch.dtype = getattr(torch, self.manifest["dtype"])
            self.sink_norm = {int(layer): norm for layer, norm in self.manifest["sink_norm"].items()}
            self.median_norm = {int(layer): norm for layer, norm in self.manifest["median_norm"].items()}
            subject = self.manifest["subject"]
            self.fingerprint = {part: subject[part] for part in ("architecture", "tokenizer", "weights")}
            self._files = [self.directory / shard["file"] for shard in self.manifest["shards"]]
            self._ends = np.cumsum([shard["contexts"] for shard in self.manifest["shards"]], dtype=np.int64)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise FormatError(f"is incomplete ({error})", where=self.directory / MANIFEST) from error
        self.n_contexts = int(self._ends[-1]) if len(self._ends) else 0
        if not self.n_contexts:
            raise FormatError("holds no finished shard yet", where=self.directory, do="run the harvest again")
        self.n_tokens = min(self.n_usable(layer) for layer in self.layers)

    # ------------------------------------------------------------ what is there
    def n_usable(self, layer: int) -> int:
        """Tokens that are neither first, prefix nor sink."""
        self.check_layer(layer)
        return sum(int(shard["usable"][str(layer)]) for shard in self.manifest["shards"])

    def hook_point(self, layer: int) -> str:
        """The HF module path that was read."""
        return self.manifest["hook_points"][str(self.check_layer(layer))]

    def check_layer(self, layer: int) -> int:
        """`layer` if it was harvested. Raises InputError."""
        if layer not in self.layers:
            raise InputError(f"layer {layer} was not harvested", where=self.directory, do=f"use one of {self.layers}")
        return layer

    def n_heldout(self, share: float) -> int:
        """How many contexts, the last ones, a share is: at least one if it is positive, never all."""
        if not 0 <= share < 1:
            raise InputError(f"heldout must lie between 0 and 1, not {share}")
        n = math.ceil(self.n_contexts * share)
        if share and self.n_contexts < 2:
            raise InputError("holds one context only, none can be held out", where=self.directory, do="harvest more")
        return min(n, self.n_contexts - 1)

    # ------------------------------------------------------------ training
    def batches(self, layer: int, batch: int, *, seed: int, start: int = 0, heldout: float = 0.0) -> Iterator[Tensor]:
        """Endless batches x_ND of exactly `batch` usable tokens, in the store's dtype, reshuffled every epoch.

        The order depends on the store, seed and heldout only; `start` batches are skipped without reading them. A
        batch may span two epochs. The contexts held out are never among them.
        """
        self.check_layer(layer)
        n_train = self.n_contexts - self.n_heldout(heldout)
        usable_NT = self._usable(layer)[:n_train]
        count_N = usable_NT.sum(1)
        rows = int(count_N.sum())
        if not rows:
            raise InputError("holds no usable token", where=self.directory)
        return self._batches(layer, batch, seed, start * batch, usable_NT, count_N, rows)

    def _batches(
        self, layer: int, batch: int, seed: int, skip: int, usable_NT: np.ndarray, count_N: np.ndarray, rows: int
    ) -> Iterator[Tensor]:
        pools = ahead(self._pools(layer, seed, skip, usable_NT, count_N, rows), 1)
        left = torch.empty(0, self.d_model, dtype=self.dtype)
        try:
            for pool_ND, order_N in pools:
                at = 0
                if len(left):
                    at = min(batch - len(left), len(order_N))
                    left = torch.cat([left, pool_ND[order_N[:at]]])
                    if len(left) < batch:
                        continue
                    yield left
                while at + batch <= len(order_N):
                    yield pool_ND[order_N[at : at + batch]]
                    at += batch
                left = pool_ND[order_N[at:]]
        finally:
            pools.close()  # type: ignore[attr-defined]

    def _pools(
        self, layer: int, seed: int, skip: int, usable_NT: np.ndarray, count_N: np.ndarray, rows: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows of a pool, the order in which they leave), endlessly, after skipping `skip` rows."""
        tokens = min(POOL_TOKENS, POOL_BYTES // (self.d_model * self.dtype.itemsize))
        size = max(1, tokens // self.context)
        epoch, skip = divmod(skip, rows)
        with Shards(self._files) as shards:
            while True:
                order = np.random.default_rng([seed, epoch]).permutation(len(count_N))
                for number, begin in enumerate(range(0, len(order), size)):
                    chosen = np.sort(order[begin : begin + size])
                    n = int(count_N[chosen].sum())
                    if skip >= n:
                        skip -= n
                        continue
                    leave = np.random.default_rng([seed, epoch, number]).permutation(n)[skip:]
                    skip = 0
                    yield self._read(shards, layer, chosen, usable_NT), torch.from_numpy(leave)
                epoch += 1

    # ------------------------------------------------------------ held out, samples
    def heldout_contexts(
        self, layer: int, share: float, *, batch_contexts: int = 8
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(ids_NT int64, x_NTD, usable_NT bool) of the last `share` of the contexts, a few at a time, in order."""
        self.check_layer(layer)
        usable_NT = self._usable(layer)
        with Shards(self._files) as shards:
            first = self.n_contexts - self.n_heldout(share)
            for begin in range(first, self.n_contexts, batch_contexts):
                chosen = np.arange(begin, min(begin + batch_contexts, self.n_contexts))
                x_NTD = torch.stack([self._tensor(self._context(shards, layer, int(i), "x")) for i in chosen])
                ids_NT = torch.from_numpy(np.stack([self._context(shards, None, int(i), "ids") for i in chosen])).long()
                yield ids_NT, x_NTD, torch.from_numpy(usable_NT[chosen])

    def sample(self, layer: int, n: int, seed: int, *, heldout: float = 0.0) -> Tensor:
        """x_ND: `n` usable tokens from random contexts (all there are, if fewer), none of the contexts held out."""
        self.check_layer(layer)
        usable_NT = self._usable(layer)[: self.n_contexts - self.n_heldout(heldout)]
        chance = np.random.default_rng([seed, 0x5A])
        order = chance.permutation(len(usable_NT))
        enough = np.searchsorted(np.cumsum(usable_NT[order].sum(1)), 4 * n) + 1  # a quarter of each context's rows
        with Shards(self._files) as shards:
            x_ND = self._read(shards, layer, np.sort(order[: max(64, enough)]), usable_NT)
        return x_ND[torch.from_numpy(chance.permutation(len(x_ND))[:n])]

    # ------------------------------------------------------------ reading
    def _usable(self, layer: int) -> np.ndarray:
        """usable_NT of all contexts."""
        with Shards(self._files) as shards:
            parts = [shards.read(i, f"layer_{layer}/usable", slice(None)) for i in range(len(self._files))]
        usable_NT = np.concatenate(parts).astype(bool)
        if usable_NT.shape != (self.n_contexts, self.context):
            raise FormatError("its shards do not hold what its manifest says", where=self.directory)
        return usable_NT

    def _read(self, shards: Shards, layer: int, chosen: np.ndarray, usable_NT: np.ndarray) -> Tensor:
        """The usable rows x_ND of some contexts."""
        counts = usable_NT[chosen].sum(1)
        rows_ND: np.ndarray | None = None
        at = 0
        for i, n in zip(chosen, counts, strict=True):
            x_TD = self._context(shards, layer, int(i), "x")
            if rows_ND is None:
                rows_ND = np.empty((int(counts.sum()), self.d_model), x_TD.dtype)
            rows_ND[at : at + n] = x_TD[usable_NT[i]]
            at += int(n)
        if rows_ND is None:
            return torch.empty(0, self.d_model, dtype=self.dtype)
        return self._tensor(rows_ND)

    def _context(self, shards: Shards, layer: int | None, context: int, name: str) -> np.ndarray:
        shard = int(np.searchsorted(self._ends, context, side="right"))
        within = context - (int(self._ends[shard - 1]) if shard else 0)
        return shards.read(shard, name if layer is None else f"layer_{layer}/{name}", within)

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if self.dtype == torch.bfloat16 else tensor


class Shards:
    """The shard files of a store, opened when needed and no more than 128 at once; checksums are verified."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._open: OrderedDict[int, Any] = OrderedDict()

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def read(self, shard: int, name: str, index: int | slice) -> np.ndarray:
        """Part of a dataset of one shard. Raises FormatError if the file is missing or corrupt."""
        try:
            return self._file(shard)[name][index]
        except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
            raise FormatError(
                f"is missing or corrupt ({error})", where=self._paths[shard], do="delete the directory, harvest again"
            ) from error

    def _file(self, shard: int) -> Any:
        import h5py

        if shard not in self._open:
            if len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            # no chunk cache: a context is a chunk, and is read once an epoch
            self._open[shard] = h5py.File(self._paths[shard], "r", rdcc_nbytes=0)
        self._open.move_to_end(shard)
        return self._open[shard]
