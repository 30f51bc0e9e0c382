"""Residual streams back from disk: shuffled batches for training, held-out contexts, samples.

Shuffling reads whole contexts in a random order into a pool and draws rows from the pool at random: rows of a batch
come from hundreds of contexts, while the disk is read in pieces of a context. Which rows a batch holds follows from
the store, the seed and the batch's number alone, so a run can start at any batch without reading those before it.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saefeat.errors import FormatError, InputError
from saefeat.files import read_json
from saefeat.harvest.manifest import KIND, MANIFEST, VERSION
from saefeat.harvest.pack import ahead
from saefeat.harvest.ranks import ALONE, Ranks
from saefeat.harvest.source import Fed, Position, n_heldout, part, sampled

POOL_TOKENS = 65_536
POOL_BYTES = 1 << 28
OPEN_FILES = 128


class ActivationStore:
    """An open harvest; thread-safe, since every reader opens its own files.

    manifest: as written. layers, d_model, context, dtype. n_contexts; n_tokens: all tokens, and `n_usable(layer)`
    those that count. sink_norm, median_norm: {layer: norm}. fingerprint: of the subject, as a dict. ranks: the
    processes that share the batches of `feed`.
    """

    def __init__(self, directory: Path | str, *, ranks: Ranks = ALONE) -> None:
        """Open the harvest in `directory`, finished or not. Raises FormatError if there is none."""
        self.directory = Path(directory)
        self.ranks = ranks
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
    @property
    def where(self) -> Path:
        """What to name in an error: the directory."""
        return self.directory

    @property
    def identity(self) -> list[Any]:
        """What settles the rows and their order."""
        return [self.manifest["config"], self.fingerprint, self.n_contexts]

    def prepare(self) -> None:
        """Nothing: whatever is needed was settled by the harvest."""

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
        return n_heldout(self.n_contexts, share, self.directory)

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

    def feed(
        self, layers: tuple[int, ...], batch: int, *, seed: int, heldout: float, start: list[Position] | None = None
    ) -> Iterator[Fed]:
        """The `batches` of several layers side by side, of each the part that is this process's; see `Source`.

        Every process reads all rows and keeps its own: they lie in the same contexts.
        """
        mine, first = part(batch, self.ranks), start[0][0] if start else 0
        streams = {
            layer: self.batches(layer, batch, seed=seed, start=first, heldout=heldout) for layer in sorted(set(layers))
        }
        try:
            for number in itertools.count(first + 1):
                yield Fed({layer: next(stream)[mine] for layer, stream in streams.items()}, (number, 0, 0))
        finally:
            for stream in streams.values():
                stream.close()  # type: ignore[attr-defined]

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
        """(rows of a pool, the order in which they leave), endlessly, after skipping `skip` rows.

        Pools lie in three buffers in turn, since fresh memory takes longer than the reading: one is used, one waits,
        one is filled. So the rows are good until the next pool but one is asked for.
        """
        tokens = min(POOL_TOKENS, POOL_BYTES // (self.d_model * self.dtype.itemsize))
        size = max(1, tokens // self.context)
        epoch, skip = divmod(skip, rows)
        buffers: list[np.ndarray | None] = [None, None, None]
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
                    buffer = buffers.pop(0)
                    if buffer is None:
                        buffer = self._buffer(min(size, len(order)) * self.context)
                    buffers.append(buffer)
                    yield self._read(shards, layer, chosen, usable_NT, buffer), torch.from_numpy(leave)
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
        chosen, order = sampled(usable_NT.sum(1), n, seed)
        with Shards(self._files) as shards:
            return self._read(shards, layer, chosen, usable_NT)[torch.from_numpy(order)]

    # ------------------------------------------------------------ reading
    def _usable(self, layer: int) -> np.ndarray:
        """usable_NT of all contexts."""
        with Shards(self._files) as shards:
            parts = [shards.read(i, f"layer_{layer}/usable", slice(None)) for i in range(len(self._files))]
        usable_NT = np.concatenate(parts).astype(bool)
        if usable_NT.shape != (self.n_contexts, self.context):
            raise FormatError("its shards do not hold what its manifest says", where=self.directory)
        return usable_NT

    def _read(
        self, shards: Shards, layer: int, chosen: np.ndarray, usable_NT: np.ndarray, buffer: np.ndarray | None = None
    ) -> Tensor:
        """The usable rows x_ND of some contexts; in `buffer`, if one is given."""
        counts = usable_NT[chosen].sum(1)
        rows_ND = self._buffer(int(counts.sum())) if buffer is None else buffer[: int(counts.sum())]
        at = 0
        for i, n in zip(chosen, counts, strict=True):
            x_TD = self._context(shards, layer, int(i), "x")
            np.compress(usable_NT[i], x_TD, axis=0, out=rows_ND[at : at + n])
            at += int(n)
        return self._tensor(rows_ND)

    def _buffer(self, rows: int) -> np.ndarray:
        """Room for rows as they are stored."""
        bits = np.dtype("u2") if self.dtype == torch.bfloat16 else torch.empty(0, dtype=self.dtype).numpy().dtype
        return np.empty((rows, self.d_model), bits)

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
        self._datasets: dict[tuple[int, str], Any] = {}
        """Looked up once a file: HDF5 takes as long to find a dataset as to read a context of it."""

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._close(next(iter(self._open)))

    def read(self, shard: int, name: str, index: int | slice) -> np.ndarray:
        """Part of a dataset of one shard. Raises FormatError if the file is missing or corrupt."""
        try:
            file = self._file(shard)  # first: it may close another one, whose datasets go
            if (shard, name) not in self._datasets:
                self._datasets[shard, name] = file[name]
            return self._datasets[shard, name][index]
        except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
            raise FormatError(
                f"is missing or corrupt ({error})", where=self._paths[shard], do="delete the directory, harvest again"
            ) from error

    def _file(self, shard: int) -> Any:
        import h5py

        if shard not in self._open:
            if len(self._open) >= OPEN_FILES:
                self._close(next(iter(self._open)))
            # no chunk cache: a context is a chunk, and is read once an epoch
            self._open[shard] = h5py.File(self._paths[shard], "r", rdcc_nbytes=0)
        self._open.move_to_end(shard)
        return self._open[shard]

    def _close(self, shard: int) -> None:
        self._datasets = {key: value for key, value in self._datasets.items() if key[0] != shard}
        self._open.pop(shard).close()
