"""Readouts at work on a conversation: which of the atlas's readouts reads a turn, a token, a reply's start.

A readout scores a pooled reading linearly, `score_e = bias_e + Σ_f W_fe · mean_f ** power`. What differs between a
turn, a token and the start of a reply is only over which positions the mean is taken:

- a turn: over its tokens, without the first position of the conversation and sinks. So `nearest` reads a text;
- a token: a running mean over its turn up to it (`RunningMean`), of the last `smooth` tokens or so. With smooth=1 it
  is the token's own reading; with smooth=None the last token's score is the turn's;
- where a turn opens, and where a reply is to start: what the chat template writes between the turn before and this
  one, under a readout fitted there ('opening'), which tells the emotion of the one who has just spoken. An atlas
  without one reads the one token after which the assistant speaks, by the readout of turns.

The calibration of a readout holds for what it was fitted on. Few tokens have few active features, so scores of single
tokens, and of reply starts under a readout made for turns, are comparable among themselves, not with those of turns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saefeat.atlas import Atlas, Prototype
from saefeat.config import ReadoutConfig
from saefeat.errors import InputError
from saefeat.sae import SAE

TURN = "turn"
"""The readout that is taken for turns if the atlas has none of dialogues."""


@dataclass(frozen=True)
class Reader:
    """A readout with all that it needs. stands_out: the score above which an emotion stands out, if it is known."""

    config: ReadoutConfig
    sae: SAE
    prototype: Prototype
    stands_out: float | None

    @property
    def opens(self) -> bool:
        """Whether it reads what stands between two turns."""
        return self.config.pool == "opening"

    def pooled(self, mean: np.ndarray) -> np.ndarray:
        """A mean activation (any shape, F last) as the readout takes it, float32."""
        return np.maximum(mean, 0, dtype=np.float32) ** np.float32(self.config.power)

    def scores(self, mean_F: np.ndarray, emotions: np.ndarray | None = None) -> np.ndarray:
        """(E,) float64 scores of one mean activation, as `nearest` scores it."""
        return self.prototype.scores(self.pooled(mean_F), emotions)

    def scores_of_rows(self, mean_TF: np.ndarray) -> np.ndarray:
        """(T, E) float32 scores of many."""
        return self.pooled(mean_TF) @ self.prototype.W_FE + self.prototype.bias_E

    def usable(self, x_TD: Tensor) -> np.ndarray:
        """(T,) True where a token is no sink."""
        if self.sae.sink_norm is None:
            return np.ones(len(x_TD), bool)
        return (x_TD.float().norm(dim=-1) <= self.sae.sink_norm).cpu().numpy()

    @torch.no_grad()
    def encode(self, x_TD: Tensor) -> np.ndarray:
        """(T, F) float32 activations."""
        return self.sae.encode(x_TD.float()).float().cpu().numpy()


def turn_readout(atlas: Atlas, name: str | None = None) -> str:
    """The name of the readout of turns: `name`, else one of dialogues, else 'turn', else the first that pools a mean.
    Loads nothing.

    Raises UnknownName; InputError for a readout that reads something else than a text's tokens.
    """
    configs = [atlas.readout_config(readout) for readout in atlas.readouts]
    means = [config.name for config in configs if config.pool == "mean"]
    spoken = [config.name for config in configs if config.pool == "mean" and config.dialogues]
    if name is None and not means:
        raise InputError(f"the atlas {atlas.name} has no readout that reads the tokens of a turn")
    name = name or next(iter(spoken), TURN if TURN in means else means[0])
    atlas.check_readout(name)
    if name not in means:
        what = "what opens a turn" if atlas.readout_config(name).pool == "opening" else "one token"
        raise InputError(f"readout {name} reads {what}, not a turn", do="use " + " or ".join(means))
    return name


def turn_reader(atlas: Atlas, name: str | None = None) -> Reader:
    """The readout of turns, ready to read. Raises as `turn_readout` does."""
    return _reader(atlas, turn_readout(atlas, name))


def reply_readout(atlas: Atlas, name: str | None = None) -> str:
    """The name of the readout of reply starts: `name`, else one made for them (the opening of a turn, or the last token
    in the chat's frame), else that of turns. Loads nothing. Raises UnknownName."""
    if name is None:
        configs = [atlas.readout_config(readout) for readout in atlas.readouts]
        made = [c.name for pool in ("opening", "last") for c in configs if c.pool == pool and c.frame == "chat"]
        name = made[0] if made else turn_readout(atlas)
    return atlas.check_readout(name)


def reply_reader(atlas: Atlas, name: str | None = None) -> Reader:
    """The readout of reply starts, ready to read. Raises as `reply_readout` does."""
    return _reader(atlas, reply_readout(atlas, name))


def _reader(atlas: Atlas, name: str) -> Reader:
    told = atlas.readouts[name]
    atlas.subject()  # so that the SAE lies on its device
    threshold = told.get("stands_out") if atlas.manifest["format_version"] > 1 else None
    return Reader(atlas.readout_config(name), atlas.sae(told["sae"]), atlas.prototypes[name], threshold)


class RunningMean:
    """The mean of the first n rows, from then on an exponential mean of weight 1/n; n None: the mean of all rows.

    After t rows m_t = m_{t-1} + (a_t − m_{t-1}) / min(t, n).
    """

    def __init__(self, n: int | None) -> None:
        if n is not None and n < 1:
            raise InputError(f"smooth must be at least 1 token, not {n}")
        self.n, self.count = n, 0
        self.mean_F: np.ndarray | None = None

    def add(self, acts_F: np.ndarray) -> np.ndarray:
        """Take in a row; the mean after it (float64), which the next call changes in place."""
        self.count += 1
        if self.mean_F is None:
            self.mean_F = acts_F.astype(np.float64)
        else:
            self.mean_F += (acts_F - self.mean_F) / (self.count if self.n is None else min(self.count, self.n))
        return self.mean_F

    def clear(self) -> None:
        self.count, self.mean_F = 0, None
