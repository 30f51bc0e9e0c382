"""What the readings of a dose–response study amount to: a trend for each emotion turned, and what else moves with it.

Shapes: B blocks (prompt by prompt, sample by sample), P prompts, S strengths with 0 among them, N texts of a cell (one
a block), E emotions read, A arms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saefeat.causal.dose import PLAIN, Arm, key_of
from saefeat.causal.dose_read import Key, Reader, Topic
from saefeat.causal.dose_trend import over_prompts, slopes, surgical_range, trend_p, whole
from saefeat.causal.effects import mean_shift
from saefeat.causal.fluency import Fluency, regime
from saefeat.causal.proportions import Interval

LEVEL = 0.01
"""p below which a reading is said to rise with the strength, and a random direction not to be flat."""
RISES, NOT_FLAT, FALLS, NO_TREND, TOO_FEW = (
    "rises", "rises, and so does random", "falls", "no trend shown", "too few surgical strengths",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The records of a study by cell; strengths in order with 0; how many samples a prompt has; arms as they ran."""

    rows: Mapping[Key, Mapping[str, Any]]
    strengths: np.ndarray
    samples: int
    arms: tuple[Arm, ...]

    def key(self, arm: Arm, strength: float) -> Key:
        """The cell of an arm at a strength; at 0 that of the unsteered texts."""
        return (PLAIN.kind, PLAIN.name, 0.0) if strength == 0 else (arm.kind, arm.name, strength)

    def of(self, *kinds: str) -> list[Arm]:
        return [arm for arm in self.arms if arm.kind in kinds]

    def regime(self, arm: Arm, strength: float) -> str:
        return regime(_fluency(self.rows[self.key(arm, strength)]), _fluency(self.rows[self.key(arm, 0.0)]))

    def ratio(self, arm: Arm, strength: float) -> float:
        """Perplexity over that of the unsteered texts; NaN if nothing was written."""
        own, plain = (_fluency(self.rows[self.key(arm, s)]).perplexity for s in (strength, 0.0))
        return own / plain

    def distinct(self, arm: Arm, strength: float) -> float:
        """Distinct 3-grams over those of the unsteered texts."""
        own, plain = (_fluency(self.rows[self.key(arm, s)]).distinct for s in (strength, 0.0))
        return own / plain if plain else math.nan

    def surgical(self, arm: Arm) -> np.ndarray:
        """(S,) which strengths of an arm are surgical without a break from 0."""
        return surgical_range(self.strengths, [self.regime(arm, float(s)) for s in self.strengths])

    def strongest(self, arm: Arm) -> float | None:
        """The largest positive strength in the surgical range; None if there is none."""
        within = self.strengths[self.surgical(arm)]
        return float(within.max()) if within.max() > 0 else None


def texts_by_cell(records: Sequence[Mapping[str, Any]], arms: Sequence[Arm], samples: int) -> Texts:
    """Records of all cells of these arms at the same strengths."""
    strengths = np.array(sorted({float(row["strength"]) for row in records}))
    return Texts(rows={key_of(row): row for row in records}, strengths=strengths, samples=samples, arms=tuple(arms))


def _fluency(row: Mapping[str, Any]) -> Fluency:
    perplexity = math.nan if row["perplexity"] is None else row["perplexity"]
    return Fluency(perplexity=perplexity, distinct=row["distinct"], tie=math.nan)


# ---------------------------------------------------------------- dose and response
@dataclass(frozen=True, kw_only=True)
class Response:
    """How one reader's reading of an arm's own emotion follows the strength.

    curve, random: by strength, the mean difference from the unsteered texts of the same prompts and samples, of the arm
    and of all random directions; within_S: which strengths are surgical, on which alone slope (of the reading by one
    mean norm), p (one-sided: rises) and those of random directions at the same strengths (two-sided) stand. ahead: the
    slope less that of random directions, prompt by prompt. Intervals are over prompts.
    """

    arm: Arm
    reader: str
    strengths: np.ndarray
    within_S: np.ndarray
    curve: tuple[Interval, ...]
    random: tuple[Interval, ...]
    slope: Interval
    p: float
    random_slope: Interval
    random_p: float
    ahead: Interval

    @property
    def verdict(self) -> str:
        """By rule: 'rises' is p below LEVEL where random directions show no trend upward at that level."""
        if not math.isfinite(self.p):
            return TOO_FEW
        if self.p < LEVEL:
            return NOT_FLAT if self.random_p < LEVEL and self.random_slope.value > 0 else RISES
        return FALLS if 1 - self.p < LEVEL else NO_TREND


def respond(texts: Texts, reader: Reader, arm: Arm, seed: int = 0) -> Response:
    """The response of an arm's own emotion. Raises ValueError: a control has none, or the reader does not cover it."""
    if arm.own is None or not reader.covers(arm.own):
        raise ValueError(f"{reader.name} has no reading of what {arm.name} should move")
    x_S, within_S = texts.strengths, texts.surgical(arm)
    own_BS = _grid(texts, reader, arm, arm.own)
    random_RBS = np.array([_grid(texts, reader, other, arm.own) for other in texts.of("random")])
    own, random = _trend(x_S, own_BS, within_S), _trend(x_S, random_RBS, within_S)
    enough = within_S.sum() >= 3 and len(own[0]) > 0
    own_P, random_P = _by_prompt(own[1], texts.samples), _by_prompt(_mean_known(random[1]), texts.samples)
    nothing = Interval(math.nan, math.nan, math.nan)
    return Response(
        arm=arm, reader=reader.name, strengths=x_S, within_S=within_S, curve=_curve(x_S, own_BS[None], texts, seed),
        random=_curve(x_S, random_RBS, texts, seed),
        slope=over_prompts(own_P, seed) if enough else nothing,
        p=trend_p(x_S[within_S], own[0], seed=seed) if enough else math.nan,
        random_slope=over_prompts(random_P, seed) if enough else nothing,
        random_p=trend_p(x_S[within_S], random[0], two_sided=True, seed=seed) if enough else math.nan,
        ahead=over_prompts(own_P - random_P, seed) if enough else nothing,
    )  # fmt: skip


def _grid(texts: Texts, reader: Reader, arm: Arm, emotion: str) -> np.ndarray:
    """(B, S) readings."""
    return np.stack([reader.of(texts.key(arm, float(s)), emotion) for s in texts.strengths], axis=1)


def _trend(x_S: np.ndarray, y_BS: np.ndarray, within_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole blocks (b, s) at the strengths within, and the slope of every block (NaN if it is not whole)."""
    kept = y_BS[..., within_S]
    flat = kept.reshape(-1, kept.shape[-1])
    slope_B = np.full(len(flat), np.nan)
    if within_S.sum() >= 2:
        slope_B[whole(flat)] = slopes(x_S[within_S], flat[whole(flat)])
    return flat[whole(flat)], slope_B.reshape(kept.shape[:-1])


def _by_prompt(values_B: np.ndarray, samples: int) -> np.ndarray:
    """(P,) means over the samples of each prompt, NaN left out."""
    return _mean_known(values_B.reshape(-1, samples).T)


def _curve(x_S: np.ndarray, y_ABS: np.ndarray, texts: Texts, seed: int) -> tuple[Interval, ...]:
    """By strength the mean difference from strength 0 over arms, samples and prompts."""
    zero = int(np.flatnonzero(x_S == 0)[0])
    rise_ABS = y_ABS - y_ABS[..., zero : zero + 1]
    out = []
    for s in range(len(x_S)):
        out.append(over_prompts(_by_prompt(_mean_known(rise_ABS[..., s]), texts.samples), seed))
    return tuple(out)


def _mean_known(values_AB: np.ndarray) -> np.ndarray:
    """(B,) means over the first axis, NaN left out; NaN of nothing."""
    count_B = (~np.isnan(values_AB)).sum(0)
    total_B = np.where(np.isnan(values_AB), 0, values_AB).sum(0)
    return np.divide(total_B, count_B, out=np.full(count_B.shape, np.nan), where=count_B > 0)


# ---------------------------------------------------------------- specificity
@dataclass(frozen=True, kw_only=True)
class Effect:
    """One arm at one strength: shift_E, by how much each emotion's reading rises (mean over texts); what text it makes.

    rank: place of the own emotion among all (1: it rises most; None for a control); topic: mean cosine with the
    unsteered texts, NaN if it was not read.
    """

    arm: Arm
    strength: float
    shift_E: np.ndarray
    rank: int | None
    ratio: float
    distinct: float
    regime: str
    topic: float


def effect(texts: Texts, reader: Reader, arm: Arm, strength: float, topic: Topic) -> Effect:
    """What turning an arm to one strength does to the readings of all emotions."""
    cell, plain = texts.key(arm, strength), texts.key(arm, 0.0)
    shift_E = mean_shift(reader.scores[cell], reader.scores[plain])
    rank = None
    if arm.own is not None and arm.own in reader.emotions:
        own = shift_E[reader.emotions.index(arm.own)]
        rank = None if np.isnan(own) else 1 + int((shift_E > own).sum())
    near = topic.by_cell.get(cell)
    return Effect(
        arm=arm, strength=strength, shift_E=shift_E, rank=rank, ratio=texts.ratio(arm, strength),
        distinct=texts.distinct(arm, strength), regime=texts.regime(arm, strength),
        topic=math.nan if near is None else float(near.mean()),
    )  # fmt: skip


def own_on_top(shift_AE: np.ndarray, own_AE: np.ndarray) -> np.ndarray:
    """(A,) whether what rises most in each row is one of the row's own columns (own_AE: bool); no row of NaN does."""
    top_A = np.nan_to_num(shift_AE, nan=-np.inf).argmax(1)
    known_A: np.ndarray = ~np.isnan(shift_AE).all(1)
    return own_AE[np.arange(len(shift_AE)), top_A] & known_A


def shuffled_on_top(shift_AE: np.ndarray, own_AE: np.ndarray, seed: int = 0, draws: int = 2000) -> np.ndarray:
    """(draws,) shares of rows on top if rows are given each other's own columns."""
    rng, A = np.random.default_rng(seed), len(shift_AE)
    hit_AA = np.array([own_on_top(shift_AE, np.broadcast_to(own_AE[a], own_AE.shape)) for a in range(A)])  # own × row
    return np.array([hit_AA[rng.permutation(A), np.arange(A)].mean() for _ in range(draws)])
