"""Residual vectors from the running model, shuffled through a ring buffer: nothing is written to disk.

The buffer is two halves, allocated once, in the model's dtype, on its device. While the rows of one half leave in a
random order, the other one, all of whose rows have left, is filled from the next contexts of the text. So a row leaves
exactly once each time the text is read, and never before its half was filled anew. Rows do not move: they are drawn by
a permutation of their numbers. On a CPU the model and the training would only take the cores from each other (on two
cores they are 10 % slower together than in turn): there the two take turns, and one half is all there is. The order of
the rows is the same.

Memory: buffer_tokens x d_model x layers x bytes of the dtype, for each process; for 131,072 tokens of one layer of
width 576 in bfloat16, 151 MB; half of that on a CPU. Beside it, one forward pass and a few contexts of token ids.

What a half holds follows from its number, so a run that was killed continues exactly: the half it was reading is
filled again by the same forward passes, and the rows that had left are skipped.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from saefeat.config import HarvestConfig
from saefeat.corpus import documents
from saefeat.errors import InputError
from saefeat.harvest.manifest import new_manifest
from saefeat.harvest.pack import Context, ahead, pack
from saefeat.harvest.ranks import ALONE, Ranks
from saefeat.harvest.source import START, Fed, Position, n_heldout, part, sampled
from saefeat.harvest.write import SINK_CONTEXTS, first_usable, median_norm, usable
from saefeat.subject import Subject

log = logging.getLogger(__name__)
BUFFER_TOKENS = 131_072
HALVES = 2


class Half(NamedTuple):
    """A filled half: which it is, when it was filled (pass over the text, number in it), the order of its rows."""

    half: int
    epoch: int
    number: int
    order_N: Tensor
    skip: int
    """How many of the rows left before the run was killed."""


class Stream:
    """Batches for training from a running subject and a text; a `Source`.

    A token counts if it is neither first nor prefix nor a sink in any of the layers: rows of all layers are of the
    same tokens. config.tokens: how much of the text is read at most; read to its end, it begins again, in the same
    contexts. The last share of the contexts is held out, as in a harvest: they are counted first, by packing the text
    once without the model. Several processes (`ranks`) take the contexts in turn, each with a buffer of its own, and
    a batch is made of one part from each.
    """

    def __init__(
        self, subject: Subject, config: HarvestConfig, *, buffer_tokens: int = BUFFER_TOKENS, ranks: Ranks = ALONE,
        overlap: bool | None = None,
    ) -> None:  # fmt: skip
        """Nothing is read yet. overlap: whether one half is filled while the other is used; None: unless on a CPU.

        Raises InputError for settings that cannot work or a text that is not there.
        """
        self.subject, self.config, self.ranks = subject, config, ranks
        self.halves = HALVES if (subject.device.type != "cpu" if overlap is None else overlap) else 1
        self.manifest: dict[str, Any] = new_manifest(subject, config)
        self.fingerprint = subject.fingerprint.to_dict()
        self.layers: tuple[int, ...] = tuple(config.layers)
        self.d_model, self.context, self.dtype = subject.d_model, config.context, subject.dtype
        self.first = first_usable(subject)
        self.half_contexts = buffer_tokens // HALVES // config.context
        if not self.half_contexts:
            least = HALVES * config.context
            raise InputError(f"a buffer of {buffer_tokens} tokens is too small", do=f"give it at least {least}")
        self.n_contexts = 0
        self.sink_norm: dict[int, float] = {}
        self.median_norm: dict[int, float] = {}
        self._rows: dict[int, Tensor] = {}
        """{layer: (halves, rows, D)}, the buffer."""
        self._counts = np.zeros(0, np.int64)
        """Rows of each context in the half that was filled last."""
        self._waiting: tuple[int, int] | None = None
        """(n_train, rows) if the first half of the first pass lies in the buffer, from which no row has left yet."""

    # ------------------------------------------------------------ what is there
    @property
    def where(self) -> str:
        """What to name in an error: the text."""
        return ", ".join(map(str, self.config.text))

    @property
    def identity(self) -> list[Any]:
        """What settles the rows and their order. Paths do not count, contents do."""
        names = ("tokens", "context", "batch_contexts", "sink_multiple", "seed", "layers")
        settings = {name: self.manifest["config"][name] for name in names}
        text = [name.rsplit(":", 1)[-1] for name in self.manifest["text"]]
        return ["stream", settings, text, self.manifest["dtype"], self.fingerprint, self.half_contexts, self.ranks.size]

    @property
    def buffer_bytes(self) -> int:
        """What the buffer of this process takes."""
        rows = self.halves * self.half_contexts * (self.context - self.first)
        return rows * self.d_model * self.dtype.itemsize * len(self.layers)

    def check_layer(self, layer: int) -> int:
        """`layer` if it is read here. Raises InputError."""
        if layer not in self.layers:
            raise InputError(f"layer {layer} is not read from this stream", do=f"use one of {self.layers}")
        return layer

    def hook_point(self, layer: int) -> str:
        """The HF module path that is read."""
        return self.subject.hook_point(self.check_layer(layer))

    def n_heldout(self, share: float) -> int:
        """How many contexts, the last ones, a share is."""
        return n_heldout(self.n_contexts, share, self.where)

    def prepare(self) -> None:
        """Count the contexts, find the sink norms from the first of them as a harvest does, allocate the buffer.

        Raises InputError if the text is shorter than a context.
        """
        if self._rows:
            return
        self.n_contexts = sum(1 for _ in self._packed(0, max(1, self.config.tokens // self.context)))
        if not self.n_contexts:
            raise InputError(f"the text is shorter than one context of {self.context} tokens", do="pass more text")
        norms: dict[int, list[np.ndarray]] = {layer: [] for layer in self.layers}
        for batch in self._batched(self._packed(0, min(SINK_CONTEXTS, self.n_contexts))):
            for layer, norms_BT in self._norms(self._forward(batch)).items():
                norms[layer].append(norms_BT)
        self.median_norm = {
            layer: median_norm(np.concatenate(parts), layer, first=self.first) for layer, parts in norms.items()
        }
        self.sink_norm = {layer: self.config.sink_multiple * norm for layer, norm in self.median_norm.items()}
        shape = (self.halves, self.half_contexts * (self.context - self.first), self.d_model)
        self._rows = {layer: torch.empty(shape, dtype=self.dtype, device=self.subject.device) for layer in self.layers}
        n = self.n_contexts * self.context
        log.info("%s tokens a pass; buffer of %.0f MB on %s", f"{n:,}", self.buffer_bytes / 1e6, self.subject.device)

    # ------------------------------------------------------------ training
    def sample(self, layer: int, n: int, seed: int, *, heldout: float = 0.0) -> Tensor:
        """x_ND: at most `n` rows of the half that is filled first, which then need not be filled again."""
        self.check_layer(layer)
        self.prepare()
        n_train = self.n_contexts - self.n_heldout(heldout)
        if self._waiting is None or self._waiting[0] != n_train:
            self._waiting = (n_train, self._fill(0, self._mine(0, n_train)))
        chosen, order = sampled(self._counts, n, seed)
        begins = np.cumsum(self._counts) - self._counts
        at = [np.arange(begins[i], begins[i] + self._counts[i]) for i in chosen]
        rows = torch.from_numpy(np.concatenate(at)[order] if at else order)
        return self._rows[layer][0, rows.to(self.subject.device)]

    def feed(
        self, layers: tuple[int, ...], batch: int, *, seed: int, heldout: float, start: list[Position] | None = None
    ) -> Iterator[Fed]:
        """Endless batches of rows of the same tokens in all layers; see `Source`. One feed at a time.

        Raises InputError if `start` is of another number of processes, or if no token of the text counts.
        """
        for layer in layers:
            self.check_layer(layer)
        self.prepare()
        if start is not None and len(start) != self.ranks.size:
            do = f"go on with {len(start)} processes"
            raise InputError(f"this run was begun by {len(start)} processes, not {self.ranks.size}", do=do)
        mine = part(batch, self.ranks)
        n_train = self.n_contexts - self.n_heldout(heldout)
        if not len(range(self.ranks.rank, n_train, self.ranks.size)):
            raise InputError("has fewer contexts than there are processes", where=self.where, do="take more text")
        begin = START if start is None else start[self.ranks.rank]
        return self._feed(tuple(sorted(set(layers))), mine.stop - mine.start, seed, n_train, begin)

    def _feed(self, layers: tuple[int, ...], rows: int, seed: int, n_train: int, begin: Position) -> Iterator[Fed]:
        free: queue.Queue[int] = queue.Queue()
        for half in range(self.halves):
            free.put(half)
        stop = threading.Event()
        halves = self._halves(seed, n_train, begin, free, stop)
        if self.halves > 1:
            halves = ahead(halves, 1)
        parts: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        have = 0
        try:
            for half, epoch, number, order_N, at in halves:
                n, order_N = len(order_N), order_N.to(self.subject.device)
                if at >= n:
                    free.put(half)
                while at < n:
                    chosen = order_N[at : at + rows - have]
                    for layer in layers:
                        parts[layer].append(self._rows[layer][half, chosen])  # a copy: the half may be filled again
                    at, have = at + len(chosen), have + len(chosen)
                    if at == n:
                        free.put(half)
                    if have == rows:
                        x = {layer: torch.cat(of) if len(of) > 1 else of[0] for layer, of in parts.items()}
                        yield Fed(x, (epoch, number, at) if at < n else (epoch, number + 1, 0))
                        parts, have = {layer: [] for layer in layers}, 0
        finally:
            stop.set()
            halves.close()  # type: ignore[attr-defined]

    def _halves(
        self, seed: int, n_train: int, begin: Position, free: queue.Queue[int], stop: threading.Event
    ) -> Iterator[Half]:
        """Halves as they are filled, endlessly; each waits for one that is free."""
        epoch, number, skip = begin
        who = (self.ranks.rank,) if self.ranks.rank else ()
        while True:
            contexts = ahead(self._mine(number * self.half_contexts, n_train), 4 * self.config.batch_contexts)
            total = 0
            try:
                while True:
                    half = _taken(free, stop)
                    if half is None:
                        return
                    if self._waiting is not None and self._waiting[0] == n_train and (epoch, number) == (0, 0):
                        n = self._waiting[1]  # `sample` has filled half 0, which is the first to be taken
                        for _ in itertools.islice(contexts, self.half_contexts):
                            pass
                    else:
                        n = self._fill(half, contexts)
                    self._waiting = None
                    if not len(self._counts):  # the text has ended
                        free.put(half)
                        break
                    order_N = np.random.default_rng([seed, epoch, number, *who]).permutation(n)
                    yield Half(half, epoch, number, torch.from_numpy(order_N), skip)
                    number, skip, total = number + 1, 0, total + n
            finally:
                contexts.close()  # type: ignore[attr-defined]
            if not total and begin[:2] != (epoch, number):
                raise InputError("holds no usable token", where=self.where)
            epoch, number = epoch + 1, 0

    def _fill(self, half: int, contexts: Iterator[Context]) -> int:
        """Fill a half with the usable rows of the next contexts; how many they are."""
        at, counts = 0, []
        for batch in self._batched(itertools.islice(contexts, self.half_contexts)):
            x = self._forward(batch)
            usable_BT = self._usable(x)
            counts.append(usable_BT.sum(1))
            n = int(counts[-1].sum())
            chosen_BT = torch.from_numpy(usable_BT).to(self.subject.device)
            for layer, x_BTD in x.items():
                self._rows[layer][half, at : at + n] = x_BTD[chosen_BT]
            at += n
        self._counts = np.concatenate(counts) if counts else np.zeros(0, np.int64)
        return at

    # ------------------------------------------------------------ held out
    def heldout_contexts(
        self, layer: int, share: float, *, batch_contexts: int = 8
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(ids_NT int64, x_NTD, usable_NT bool) of the last `share` of the contexts, a few at a time, in order."""
        self.check_layer(layer)
        self.prepare()
        held = self._packed(self.n_contexts - self.n_heldout(share), self.n_contexts)
        while batch := list(itertools.islice(held, batch_contexts)):
            x = self._forward(batch)
            usable_NT = torch.from_numpy(self._usable(x))
            yield torch.tensor([context.ids for context in batch]), x[layer].cpu(), usable_NT

    # ------------------------------------------------------------ reading
    def _packed(self, first: int, last: int) -> Iterator[Context]:
        """Contexts first to last of the text."""
        stream = pack(self.subject, documents(self.config.text, seed=self.config.seed), self.context)
        return itertools.islice(stream, first, last)

    def _mine(self, skip: int, n_train: int) -> Iterator[Context]:
        """This process's training contexts, without the first `skip` of them."""
        rank, size = self.ranks.rank, self.ranks.size
        return itertools.islice(self._packed(0, n_train), rank + skip * size, None, size)

    def _batched(self, contexts: Iterator[Context]) -> Iterator[list[Context]]:
        while batch := list(itertools.islice(contexts, self.config.batch_contexts)):
            yield batch

    def _forward(self, batch: list[Context]) -> dict[int, Tensor]:
        return self.subject.residuals(torch.tensor([context.ids for context in batch]), self.layers)

    def _norms(self, x: dict[int, Tensor]) -> dict[int, np.ndarray]:
        return {layer: x_BTD.float().norm(dim=-1).cpu().numpy() for layer, x_BTD in x.items()}

    def _usable(self, x: dict[int, Tensor]) -> np.ndarray:
        """usable_BT: tokens that count in all layers."""
        parts = [usable(norms, self.sink_norm[layer], first=self.first) for layer, norms in self._norms(x).items()]
        return np.logical_and.reduce(parts)


def _taken(free: queue.Queue[int], stop: threading.Event) -> int | None:
    """The next free half; None once the feed has ended."""
    while not stop.is_set():
        try:
            return free.get(timeout=0.1)
        except queue.Empty:
            continue
    return None
