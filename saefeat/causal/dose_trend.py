"""Does a reading follow the strength? Slopes within blocks, a test by permutation, intervals over prompts.

A block is one prompt with one seed: all its texts were drawn alike, and only the strength differs. If steering did
nothing, every order of a block's readings would be as likely, which is the null that the test draws from. Texts that
continue one prompt are alike, so intervals are by bootstrap over prompts.

Shapes: B blocks, P prompts, S strengths (0 among them), R draws.
"""

from __future__ import annotations

import numpy as np

from saefeat.causal.proportions import UNKNOWN, Interval

PERMUTATIONS = 9999
DRAWS = 2000
CHUNK = 500


def slopes(x_S: np.ndarray, y_BS: np.ndarray) -> np.ndarray:
    """(B,) least-squares slope of each row of readings on the strengths. Raises ValueError: strengths do not vary."""
    centred_S = np.asarray(x_S, np.float64) - np.mean(x_S)
    length = float(centred_S @ centred_S)
    if not length > 0:
        raise ValueError("strengths do not vary")
    return np.asarray(y_BS, np.float64) @ centred_S / length


def trend_p(
    x_S: np.ndarray, y_BS: np.ndarray, *, two_sided: bool = False, seed: int = 0, draws: int = PERMUTATIONS
) -> float:
    """The chance of a mean slope this large (two-sided: this far from 0) if strengths are shuffled within blocks.

    By `draws` permutations of each block's readings, the data themselves counted as one of them (Phipson & Smyth 2010),
    so p is at least 1 / (1 + draws). NaN: no block. Readings must be finite.
    """
    if not len(y_BS):
        return float("nan")
    rng, y_BS = np.random.default_rng(seed), np.asarray(y_BS, np.float64)
    observed = float(slopes(x_S, y_BS).mean())
    reached, slack = 0, 1e-9 * (1 + abs(observed))
    for start in range(0, draws, CHUNK):
        R = min(CHUNK, draws - start)
        shuffled_RBS = rng.permuted(np.broadcast_to(y_BS, (R, *y_BS.shape)), axis=2)
        mean_R = slopes(x_S, shuffled_RBS).mean(1)
        reached += int((np.abs(mean_R) >= abs(observed) - slack if two_sided else mean_R >= observed - slack).sum())
    return (1 + reached) / (1 + draws)


def over_prompts(values_P: np.ndarray, seed: int = 0, draws: int = DRAWS) -> Interval:
    """The mean of one value a prompt, NaN left out, with its 95 % interval by bootstrap over prompts."""
    known_P = np.asarray(values_P, np.float64)
    known_P = known_P[np.isfinite(known_P)]
    if not len(known_P):
        return UNKNOWN
    if len(known_P) == 1:
        return Interval(float(known_P[0]), float("nan"), float("nan"))
    drawn_RP = np.random.default_rng(seed).integers(0, len(known_P), (draws, len(known_P)))
    low, high = np.quantile(known_P[drawn_RP].mean(1), [0.025, 0.975])
    return Interval(float(known_P.mean()), float(low), float(high))


def whole(y_BS: np.ndarray) -> np.ndarray:
    """(B,) whether all readings of a block are known (a text without a word has none)."""
    return np.isfinite(y_BS).all(1)


def surgical_range(strengths: np.ndarray, regimes: list[str]) -> np.ndarray:
    """(S,) which strengths lie in the surgical regime without a break from 0, on either side of it.

    What lies beyond a strength at which the text has fallen apart is left out, whatever its own regime.
    """
    within_S = np.zeros(len(strengths), bool)
    for side in (1, -1):
        for s in sorted(np.flatnonzero(strengths * side > 0), key=lambda s: abs(strengths[s])):
            if regimes[s] != "surgical":
                break
            within_S[s] = True
    within_S[strengths == 0] = True
    return within_S
