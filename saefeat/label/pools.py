"""Texts to one vector each: forward passes shared by all readouts, pooled features of each text.

A pooled feature is its mean activation raised to the readout's power, by default its square root: activations are
heavy-tailed, and without the root one loud feature speaks for the whole text (docs/method.md has the comparison).
Ranks, and so AUROCs, are not touched.

A text is cut into windows, each a sequence of its own (the model's prefix, then tokens). A readout that pools the
mean needs every window; one that reads the last token, or the markup after the text, needs the last window. Where one
sequence starts with another (the model is causal) one forward pass serves both. A text's vector depends on that
text alone, never on its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from saefeat.config import ReadoutConfig
from saefeat.errors import InputError
from saefeat.subject import Subject, render_chat

Progress = Callable[[int, int], None] | None
ENCODED_ELEMENTS = 1 << 24
"""Activations held at once: 64 MiB in float32."""
PLAIN_TURN = ("User: ", "\n\nAssistant:")
"""What stands before and after a user's turn for a model without a chat template."""


class Encoder(Protocol):
    """What pooling asks of an SAE, or of a control that stands in for one."""

    @property
    def layer(self) -> int: ...

    @property
    def n_features(self) -> int: ...

    @property
    def sink_norm(self) -> float | None: ...

    def encode(self, x_ND: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Pools:
    """Pooled texts. By readout name: features X_NF (mean activation to the readout's power) and (if asked for) dense
    residual streams x_ND (mean), float32, and density_F, the share of the pooled positions on which a feature was
    active. n_tokens_N: tokens of each text;
    n_windows_N: windows it took."""

    features: dict[str, np.ndarray]
    dense: dict[str, np.ndarray]
    density: dict[str, np.ndarray]
    n_tokens_N: np.ndarray
    n_windows_N: np.ndarray


@dataclass
class Sequence_:
    """Token ids of one forward pass, and who reads which positions [start, stop): (readout, text) rows."""

    ids: list[int]
    reads: list[tuple[str, int, int, int]]  # readout, text, start, stop


def pool_texts(
    subject: Subject,
    texts: Sequence[str],
    readouts: Sequence[ReadoutConfig],
    saes: Mapping[str, Encoder],
    *,
    dense: bool = False,
    window: int = 512,
    batch_tokens: int = 4096,
    on_progress: Progress = None,
) -> Pools:
    """Pool every text for every readout; saes: readout name → its SAE.

    A mean is over a text's own tokens, over all windows, without the first position of a window, the prefix and
    sink tokens (norm above the SAE's `sink_norm`); a text without any such token is all zeros. The last token is
    that of the continuation after the text's end; an opening is the markup there, sinks left out. on_progress counts
    tokens. Raises InputError: an empty text, a continuation that leaves no room, no such layer.
    """
    window = min(window, subject.context)
    text_ids = [subject.tokenize(text) for text in texts]
    for i, ids in enumerate(text_ids):
        if not ids:
            raise InputError("the text is empty", where=f"text {i + 1}", do="pass some words")
    sequences, n_windows_N = _plan(subject, text_ids, readouts, window)
    N, layers = len(texts), sorted({subject.check_layer(saes[r.name].layer) for r in readouts})
    features = {r.name: np.zeros((N, saes[r.name].n_features), np.float32) for r in readouts}
    streams = {r.name: np.zeros((N, subject.d_model), np.float32) for r in readouts} if dense else {}
    active = {r.name: np.zeros(saes[r.name].n_features, np.int64) for r in readouts}
    counts = {r.name: np.zeros(N, np.int64) for r in readouts}
    done, total = 0, sum(len(s.ids) for s in sequences)
    for batch in _batches(sequences, batch_tokens):
        x = subject.residuals(_padded([s.ids for s in batch]), layers)
        for readout in readouts:
            sae, name = saes[readout.name], readout.name
            rows_ND, text_N = _rows(x[sae.layer], batch, readout, sae.sink_norm)
            own = np.unique(text_N)
            slot_N = torch.from_numpy(np.searchsorted(own, text_N)).to(rows_ND.device)
            counts[name] += np.bincount(text_N, minlength=N)
            if dense:
                streams[name][own] += _sums(rows_ND, slot_N, len(own))
            step = max(1, ENCODED_ELEMENTS // sae.n_features)
            for i in range(0, len(rows_ND), step):
                acts_NF = sae.encode(rows_ND[i : i + step])
                features[name][own] += _sums(acts_NF, slot_N[i : i + step], len(own))
                active[name] += (acts_NF > 0).sum(0).cpu().numpy()
        done += sum(len(s.ids) for s in batch)
        if on_progress:
            on_progress(done, total)
    for readout in readouts:
        name, count_N1 = readout.name, np.maximum(counts[readout.name], 1)[:, None]
        features[name] = np.maximum(features[name] / count_N1, 0, dtype=np.float32) ** np.float32(readout.power)
        if dense:
            streams[name] /= count_N1
    density = {name: (active[name] / max(int(counts[name].sum()), 1)).astype(np.float32) for name in active}
    return Pools(features, streams, density, np.array([len(ids) for ids in text_ids]), n_windows_N)


def pool_tokens(
    subject: Subject, text: str, readout: ReadoutConfig, sae: Encoder, *, window: int = 512
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """One text token by token: ids, acts_TF (float32), usable_T (the positions that the readout's pool takes).

    mean: the text's tokens, window after window. last, opening: the last window's tokens and those after it; only the
    last one, or those of the markup, are usable.
    """
    ids = subject.tokenize(text)
    if not ids:
        raise InputError("the text is empty", do="pass some words")
    sequences, _ = _plan(subject, [ids], [readout], min(window, subject.context))
    out_ids: list[int] = []
    acts, usable = [], []
    first = len(_frame(subject, readout)[0])
    for sequence in sequences:
        x_TD = subject.residuals(_padded([sequence.ids]), [sae.layer])[sae.layer][0, first:]
        acts.append(sae.encode(x_TD).float().cpu().numpy())
        usable_T = _usable(x_TD, sae.sink_norm).cpu().numpy()
        pooled_T = np.zeros(len(sequence.ids), bool)
        for _, _, start, stop in sequence.reads:
            pooled_T[start:stop] = True
        usable.append((usable_T if readout.pool != "last" else True) & pooled_T[first:])
        out_ids += sequence.ids[first:]
    return out_ids, np.concatenate(acts), np.concatenate(usable)


# ---------------------------------------------------------------- which sequences
def _plan(
    subject: Subject, text_ids: Sequence[list[int]], readouts: Sequence[ReadoutConfig], window: int
) -> tuple[list[Sequence_], np.ndarray]:
    """The fewest sequences that serve all readouts, and the number of windows of each text."""
    # tokenised apart and joined, so that the text's own tokens stay as they are
    frames = {readout.name: _frame(subject, readout) for readout in readouts}
    for name, (head, tail) in frames.items():
        if len(head) + len(tail) + 2 > window:
            raise InputError(f"the frame of readout {name!r} leaves no room in windows of {window} tokens")
    sequences: list[Sequence_] = []
    n_windows_N = np.zeros(len(text_ids), np.int64)
    for i, ids in enumerate(text_ids):
        own: list[Sequence_] = []
        for readout in sorted(readouts, key=lambda r: (r.pool == "mean", -len(frames[r.name][1]))):
            head, tail = frames[readout.name]
            room = window - len(head) - len(tail)
            if readout.pool != "mean":
                whole = head + ids[-room:] + tail
                first = len(whole) - (1 if readout.pool == "last" else len(tail))
                _sequence(own, whole).reads.append((readout.name, i, first, len(whole)))
                n_windows_N[i] = max(n_windows_N[i], 1)
                continue
            parts = [ids[a : a + room] for a in range(0, len(ids), room)]
            n_windows_N[i] = max(n_windows_N[i], len(parts))
            for part in parts:
                whole = head + part + tail
                first = max(len(head), 1)  # position 0 is never pooled
                _sequence(own, whole).reads.append((readout.name, i, first, len(head) + len(part)))
        sequences += own
    return sequences, n_windows_N


def _frame(subject: Subject, readout: ReadoutConfig) -> tuple[list[int], list[int]]:
    """The token ids that a readout puts before a text and after it."""
    tail = subject.tokenize(readout.continuation) if readout.continuation else []
    if readout.frame == "text":
        return list(subject.prefix_ids), tail if readout.pool != "mean" else []
    if not subject.tokenizer.chat_template:
        before, after = (subject.tokenize(part) for part in PLAIN_TURN)
        return [*subject.prefix_ids, *before], [*after, *tail] if readout.pool != "mean" else []
    ids, (turn,) = render_chat(subject, [{"role": "user", "content": "so"}], add_generation_prompt=True)
    return ids[: turn.content_start], [*ids[turn.content_stop :], *tail] if readout.pool != "mean" else []


def _sequence(own: list[Sequence_], ids: list[int]) -> Sequence_:
    """A sequence of `own` that starts with `ids`, or a new one."""
    for sequence in own:
        if sequence.ids[: len(ids)] == ids:
            return sequence
    own.append(Sequence_(ids, []))
    return own[-1]


def _batches(sequences: list[Sequence_], batch_tokens: int) -> Iterator[list[Sequence_]]:
    """Batches of sequences of like length, the longest first, each at most `batch_tokens` with its padding."""
    order = sorted(sequences, key=lambda s: -len(s.ids))
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // len(order[start].ids))
        yield order[start : start + size]
        start += size


# ---------------------------------------------------------------- which rows
def _padded(sequences: Sequence[list[int]]) -> Tensor:
    ids_BT = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    for row, ids in enumerate(sequences):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
    return ids_BT


def _rows(
    x_BTD: Tensor, batch: list[Sequence_], readout: ReadoutConfig, sink_norm: float | None
) -> tuple[Tensor, np.ndarray]:
    """The positions of a batch that `readout` pools: x_ND, and the text each belongs to."""
    parts, owners = [x_BTD.new_zeros(0, x_BTD.shape[-1])], [np.zeros(0, np.int64)]
    for b, sequence in enumerate(batch):
        for name, text, start, stop in sequence.reads:
            if name != readout.name:
                continue
            x_TD = x_BTD[b, start:stop]
            if readout.pool != "last":
                x_TD = x_TD[_usable(x_TD, sink_norm)]
            parts.append(x_TD)
            owners.append(np.full(len(x_TD), text, np.int64))
    return torch.cat(parts).float(), np.concatenate(owners)


def _usable(x_TD: Tensor, sink_norm: float | None) -> Tensor:
    """True where a token is no sink."""
    if sink_norm is None:
        return torch.ones(len(x_TD), dtype=torch.bool, device=x_TD.device)
    return x_TD.float().norm(dim=-1) <= sink_norm


def _sums(rows_NF: Tensor, slot_N: Tensor, slots: int) -> np.ndarray:
    """Sums of rows by slot, float32."""
    sums_SF = torch.zeros(slots, rows_NF.shape[1], device=rows_NF.device)
    return sums_SF.index_add_(0, slot_N, rows_NF.float()).cpu().numpy()
