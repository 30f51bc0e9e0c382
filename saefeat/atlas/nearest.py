"""From pooled features to emotions: `score_e = bias_e + Σ_f W_fe · x_f`, and how a score explains itself.

Every figure is of one text alone. Shapes: F features, E emotions, K active features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DIGITS = 6


@dataclass(frozen=True)
class Prototype:
    """One readout's linear map: W_FE float32, bias_E float32."""

    W_FE: np.ndarray
    bias_E: np.ndarray

    def scores(self, x_F: np.ndarray, emotions: np.ndarray | None = None) -> np.ndarray:
        """(E,) float64 scores of one pooled text, of all emotions or of those with the given numbers."""
        active_K = np.flatnonzero(x_F)
        columns = slice(None) if emotions is None else emotions
        W_KE = self.W_FE[active_K][:, columns].astype(np.float64)
        return x_F[active_K].astype(np.float64) @ W_KE + self.bias_E[columns].astype(np.float64)

    def contributions(self, x_F: np.ndarray, emotion: int) -> tuple[np.ndarray, np.ndarray]:
        """(features, W_fe · x_f float64) of the active features, the largest contribution first."""
        active_K = np.flatnonzero(x_F)
        parts_K = x_F[active_K].astype(np.float64) * self.W_FE[active_K, emotion].astype(np.float64)
        order = np.argsort(-parts_K, kind="stable")
        return active_K[order], parts_K[order]


def choose_readout(readouts: Mapping[str, Mapping[str, Any]], n_tokens: int) -> str:
    """The readout that 'auto' means for a text of so many tokens: the one made for the shortest texts that this one is
    still shorter than (`below`), else the first without such a bound."""
    bounded = {name: told["below"] for name, told in readouts.items() if told.get("below")}
    fitting = [name for name, below in bounded.items() if n_tokens < below]
    if fitting:
        return min(fitting, key=lambda name: bounded[name])
    return next(name for name in readouts if name not in bounded)


def explain(
    prototype: Prototype, x_F: np.ndarray, emotion: int, score: float, *, sae: str, features: int | None
) -> dict[str, Any]:
    """`{"features": [...], "rest", "bias"}` of one emotion's score.

    features: how many to list, those that push the score up most first; None: all active ones. The listed
    contributions, `rest` (the sum of those not listed) and `bias` add up to `score`.
    """
    index_K, parts_K = prototype.contributions(x_F, emotion)
    bias = round(float(prototype.bias_E[emotion]), DIGITS)
    listed: list[dict[str, Any]] = [
        {
            "feature": f"{sae}.{index}",
            "activation": round(float(x_F[index]), DIGITS),
            "contribution": round(float(part), DIGITS),
        }
        for index, part in zip(index_K[:features], parts_K[:features], strict=True)
    ]
    rest = score - bias - math.fsum(row["contribution"] for row in listed)
    return {"features": listed, "rest": round(rest, DIGITS), "bias": bias}


def profile(scores_NE: np.ndarray) -> np.ndarray:
    """Unit profiles of texts: scores less their mean over the emotions, scaled to length 1, float32."""
    centred_NE = scores_NE - scores_NE.mean(1, keepdims=True)
    length_N = np.linalg.norm(centred_NE, axis=1, keepdims=True)
    return (centred_NE / np.where(length_N > 0, length_N, 1)).astype(np.float32)
