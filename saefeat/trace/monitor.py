"""Readings while a model generates: a hook on the SAE's layer, right under the KV cache.

    with Monitor(atlas, emotions=["desperate", "calm"], on_reading=print) as monitor:
        atlas.subject().model.generate(...)
    monitor.readings

The hooks hear only forward passes of the thread that opened the Monitor, and are removed when the block ends.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from saefeat.atlas import Atlas
from saefeat.errors import InputError
from saefeat.trace.layout import opening_ids
from saefeat.trace.readers import RunningMean, reply_reader, turn_reader

SMOOTH = 16


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What is read at one token: `place` 'reply start' (the prompt's last token, index -1) or 'token'.

    run: which call of `generate`, from 0; row: of its batch; index: of the generated token, from 0; token_id, token:
    the token there. scores: {emotion: score}, of a token after smoothing; {} before the first token that is no sink,
    and at the start of a reply whose prompt does not end as the chat template asks for one, if it is read there.
    """

    run: int
    row: int
    place: Literal["reply start", "token"]
    index: int
    token_id: int
    token: str
    scores: dict[str, float]


class Monitor:
    """A context manager around `generate` that reads every token as it is generated.

    emotions: which; None: all. smooth: the running mean over the reply up to a token, of about so many tokens (see
    `RunningMean`); None: over all of it. on_reading: called with every Reading as it comes, in the generating thread;
    an error it raises ends the generation. readings: all of them.

    The scores are those that `trace` gives the finished conversation's tokens with the same `smooth`. A token is read
    as it is fed back, so the last one generated, which is not, has no reading; nor do tokens after a row's end.
    Rows of a batch are read apart (left padding as `generate` wants it). Several calls of `generate` in one block are
    several runs. Not for beam search, assisted or chunked decoding, where one pass is not one token.
    """

    def __init__(
        self,
        atlas: Atlas,
        *,
        emotions: Sequence[str] | None = None,
        smooth: int | None = SMOOTH,
        on_reading: Callable[[Reading], None] | None = None,
        readout: str | None = None,
        reply_readout: str | None = None,
    ) -> None:
        self.emotions = tuple(dict.fromkeys(map(atlas.emotion_name, emotions or atlas.emotion_names)))
        self.readings: list[Reading] = []
        self._columns = np.array([atlas.emotion_names.index(e) for e in self.emotions], np.int64)
        self._subject = atlas.subject()
        self._reader, self._replies = turn_reader(atlas, readout), reply_reader(atlas, reply_readout)
        self._on_reading, self._smooth = on_reading, smooth
        self._stack: contextlib.ExitStack | None = None
        ends = getattr(self._subject.model, "generation_config", None)
        eos = getattr(ends, "eos_token_id", None)
        self._eos = set(eos if isinstance(eos, list | tuple) else [] if eos is None else [eos])
        self._opening = opening_ids(self._subject) if self._replies.opens else []
        RunningMean(smooth)  # raises InputError if that makes no sense

    def __enter__(self) -> Monitor:
        if self._stack is not None:
            raise InputError("this Monitor is in use already", do="make one for each thread")
        self._thread = threading.get_ident()
        self._ids_BT: Tensor | None = None
        self._fresh = False
        self._run, self._index = -1, -1
        self._smoothers: list[RunningMean] = []
        self._ended: list[bool] = []
        self._stack = contextlib.ExitStack()
        embeddings = self._subject.model.get_input_embeddings()
        self._stack.callback(embeddings.register_forward_pre_hook(self._take_ids).remove)
        for layer in {self._reader.sae.layer, self._replies.sae.layer}:
            hook = self._hook(layer)
            self._stack.callback(self._subject.blocks[layer].register_forward_hook(hook).remove)
        return self

    def __exit__(self, *_: Any) -> None:
        assert self._stack is not None
        self._stack.close()
        self._stack = None
        self._ids_BT, self._smoothers = None, []

    # ------------------------------------------------------------ inside a forward pass
    def _take_ids(self, _module: Any, inputs: tuple[Any, ...]) -> None:
        """Tell a new prompt from one more token, by the ids that the pass is given."""
        if threading.get_ident() != self._thread:
            return
        ids_BT = inputs[0]
        known = self._ids_BT
        cached = known is not None and ids_BT.shape == (len(known), 1)
        whole = (
            known is not None
            and ids_BT.shape == (len(known), known.shape[1] + 1)
            and bool((ids_BT[:, :-1] == known).all())
        )
        self._fresh = not (cached or whole)
        if self._fresh:
            self._ids_BT = ids_BT.clone()
            self._run, self._index = self._run + 1, -1
            self._smoothers = [RunningMean(self._smooth) for _ in range(len(ids_BT))]
            self._ended = [False] * len(ids_BT)
            return
        assert known is not None
        self._ids_BT = torch.cat([known, ids_BT[:, -1:]], dim=1)
        self._index += 1

    def _hook(self, layer: int) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            if threading.get_ident() != self._thread or self._ids_BT is None:
                return
            x_BTD = output[0] if isinstance(output, tuple) else output
            if self._fresh:
                if layer == self._replies.sae.layer and not self._replies.config.continuation:
                    self._tell_replies(x_BTD)
            elif layer == self._reader.sae.layer:
                self._tell_tokens(x_BTD[:, -1])

        return hook

    def _tell_replies(self, x_BTD: Tensor) -> None:
        assert self._ids_BT is not None
        for row, x_TD in enumerate(x_BTD[:, -(len(self._opening) or 1) :]):
            scores_E = None
            if self._ids_BT[row, len(self._ids_BT[row]) - len(self._opening) :].tolist() == self._opening:
                used_T = self._replies.usable(x_TD) if self._replies.opens else np.ones(len(x_TD), bool)
                if used_T.any():
                    mean_F = self._replies.encode(x_TD)[used_T].mean(0)
                    scores_E = self._replies.scores(mean_F, self._columns)
            self._tell(row, "reply start", scores_E)

    def _tell_tokens(self, x_BD: Tensor) -> None:
        acts_BF, usable_B = self._reader.encode(x_BD), self._reader.usable(x_BD)
        for row, smoother in enumerate(self._smoothers):
            assert self._ids_BT is not None
            self._ended[row] = self._ended[row] or int(self._ids_BT[row, -1]) in self._eos
            if self._ended[row]:
                continue
            if usable_B[row]:
                smoother.add(acts_BF[row])
            scores_E = None if smoother.mean_F is None else self._reader.scores(smoother.mean_F, self._columns)
            self._tell(row, "token", scores_E)

    def _tell(self, row: int, place: Literal["reply start", "token"], scores_E: np.ndarray | None) -> None:
        assert self._ids_BT is not None
        token = int(self._ids_BT[row, -1])
        named = {} if scores_E is None else dict(zip(self.emotions, map(float, scores_E), strict=True))
        reading = Reading(
            run=self._run,
            row=row,
            place=place,
            index=self._index,
            token_id=token,
            token=self._subject.token_strings([token])[0],
            scores=named,
        )
        self.readings.append(reading)
        if self._on_reading is not None:
            self._on_reading(reading)
