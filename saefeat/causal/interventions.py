"""What is done to a residual stream along one direction: add to it, project it out, clamp it, cap it.

A coefficient says how much of a direction a vector x holds: for an emotion the projection x · d, for a feature of an
SAE its activation, in units of its decoder row. An edit moves x along d alone, from the coefficient it has to the one
it shall have,

    x ← x + (a' − a) d,

so what the SAE does not reconstruct stays as it is. Strengths are fractions of the layer's mean residual norm.
Shapes: N positions, D residual width, F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from saefeat.errors import InputError
from saefeat.sae import SAE

Action = Literal["add", "ablate", "clamp", "cap"]
Positions = Literal["all", "prompt", "generated"]
LARGEST = 10.0
"""Strengths beyond this many mean norms are taken for slips of the pen."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Direction:
    """A direction in the residual stream after one block.

    name: 'desperate', 'L19.12', 'random 0'. layer: 0-based. unit_D: float32, of length 1. norm: the layer's mean
    residual norm, the unit of strengths; sink_norm: positions of a larger norm are sinks and never edited (both
    without first tokens). sae, feature: set if this is a feature of an SAE, whose activation then is the coefficient.
    """

    name: str
    layer: int
    unit_D: Tensor
    norm: float
    sink_norm: float
    sae: SAE | None = None
    feature: int | None = None

    def coefficients(self, x_ND: Tensor) -> Tensor:
        """(N,) how much of this direction each row of x_ND (float32) holds, in the stream's own units."""
        if self.sae is None or self.feature is None:
            return x_ND @ self.unit_D.to(x_ND)
        acts_N = self.sae.encode(x_ND)[:, self.feature].to(x_ND)
        if self.sae.architecture == "topk" and self.sae.cfg.get("rescale_acts_by_decoder_norm"):
            return acts_N  # such activations are in units of the decoder row already
        return acts_N * self.sae.W_dec_FD[self.feature].norm().to(x_ND)

    def to(self, device: torch.device | str) -> Direction:
        """The same direction on another device."""
        sae = None if self.sae is None else self.sae.to(device)
        return replace(self, unit_D=self.unit_D.to(device), sae=sae)


@dataclass(frozen=True, kw_only=True, eq=False)
class Intervention:
    """One edit of the residual stream at its direction's layer.

    action: add `strength` mean norms of the direction; ablate: the coefficient becomes 0; clamp: it becomes
    `strength` mean norms; cap: at most that. positions: which tokens. turns: in a chat, only the contents of these
    turns, by role ('user') or number (0 is the first message, -1 the last given one); the reply that is being
    written is the turn after the last, of the role 'assistant'.
    """

    direction: Direction
    action: Action
    strength: float = 0.0
    positions: Positions = "all"
    turns: tuple[str | int, ...] | None = None

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise InputError(f"unknown action {self.action!r}", do="use " + ", ".join(get_args(Action)))
        if self.positions not in get_args(Positions):
            raise InputError(f"unknown positions {self.positions!r}", do="use " + ", ".join(get_args(Positions)))
        if not math.isfinite(self.strength) or abs(self.strength) > LARGEST:
            what = f"the strength of {self.direction.name} is {self.strength:g}"
            raise InputError(what, do=f"pass a fraction of the mean residual norm, within ±{LARGEST:g}")

    @property
    def layer(self) -> int:
        return self.direction.layer

    def to(self, device: torch.device | str) -> Intervention:
        """The same intervention on another device."""
        return replace(self, direction=self.direction.to(device))


def add(
    direction: Direction, strength: float, positions: Positions = "all", *, turns: Sequence[str | int] | None = None
) -> Intervention:
    """Add `strength` mean residual norms of a direction; negative strengths take it away."""
    return _made(direction, "add", strength, positions, turns)


def ablate(
    direction: Direction, positions: Positions = "all", *, turns: Sequence[str | int] | None = None
) -> Intervention:
    """Take a direction out: the projection on it, or a feature's activation, becomes 0."""
    return _made(direction, "ablate", 0.0, positions, turns)


def clamp(
    direction: Direction, value: float, positions: Positions = "all", *, turns: Sequence[str | int] | None = None
) -> Intervention:
    """Set a direction's coefficient to `value` mean residual norms, whatever it was."""
    return _made(direction, "clamp", value, positions, turns)


def cap(
    direction: Direction, value: float, positions: Positions = "all", *, turns: Sequence[str | int] | None = None
) -> Intervention:
    """Limit a direction's coefficient to at most `value` mean residual norms."""
    return _made(direction, "cap", value, positions, turns)


def _made(
    direction: Direction, action: Action, strength: float, positions: Positions, turns: Sequence[str | int] | None
) -> Intervention:
    told = None if turns is None else tuple(turns)
    return Intervention(direction=direction, action=action, strength=strength, positions=positions, turns=told)


def edited(x_ND: Tensor, intervention: Intervention) -> Tensor:
    """Rows x_ND (float32) after one intervention: x + (a' − a) d."""
    direction = intervention.direction
    unit_D, target = direction.unit_D.to(x_ND), intervention.strength * direction.norm
    if intervention.action == "add":
        return x_ND + target * unit_D
    now_N = direction.coefficients(x_ND)
    then_N = {
        "ablate": torch.zeros_like(now_N),
        "clamp": torch.full_like(now_N, target),
        "cap": now_N.clamp(max=target),
    }[intervention.action]
    return x_ND + (then_N - now_N)[:, None] * unit_D
