"""How well k columns tell each emotion, for any matrix of pooled texts: choice, weights and calibration on the
training topics alone, figures on the others. All representations, nulls and baselines go through this one function.

AUROC is counted within topics (an emotion's story among its topic's others) and says how well one detector tells one
emotion. The hit rate sets all detectors against each other: how often a text's own one is among its five highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saefeat.errors import InputError
from saefeat.evaluate.retrieval import RESAMPLES, share_with_interval
from saefeat.evaluate.sparse import KS, SparseDetectors, fit_detectors
from saefeat.label import fit_prototypes, places, scores, within_topic_auroc

GOOD = 0.90
HITS = 5


@dataclass(frozen=True)
class DetectorRow:
    """Figures of detectors of k columns (None: all). auroc: mean over emotions, with a 95 % interval by bootstrap
    over emotions; top5 with one over texts; good: emotions with an AUROC of at least GOOD; auroc_E (NaN: untested)."""

    k: int | None
    auroc: float
    auroc_interval: tuple[float, float]
    top5: float
    top5_interval: tuple[float, float]
    good: int
    auroc_E: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        by_emotion = [None if np.isnan(a) else round(float(a), 4) for a in self.auroc_E]
        return {**self.__dict__, "auroc_E": by_emotion}


@dataclass(frozen=True)
class DetectorResult:
    """One row per k; the detectors of each fold with the columns and weights chosen; width: columns to choose from."""

    rows: tuple[DetectorRow, ...]
    fitted: tuple[SparseDetectors, ...]
    width: int
    texts: int
    emotions: int

    @property
    def ks(self) -> tuple[int, ...]:
        return self.fitted[0].ks

    @property
    def auroc_kE(self) -> np.ndarray:
        return np.stack([row.auroc_E for row in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """Figures, and of each fold each emotion's columns in the order they were chosen."""
        return {
            "rows": [row.to_dict() for row in self.rows],
            "features": [one.feature_EK.tolist() for one in self.fitted],
            "width": self.width,
            "texts": self.texts,
            "emotions": self.emotions,
        }


def detectors(
    X_NF: np.ndarray,
    emotion_N: np.ndarray,
    topic_N: np.ndarray,
    test_N: np.ndarray | None = None,
    *,
    ks: Sequence[int] = KS,
    labels_N: np.ndarray | None = None,
    seed: int = 0,
) -> DetectorResult:
    """Fit on rows where test_N is False and score the others; None: leave each topic out in turn.

    labels_N: what the fit takes the emotions to be (for shuffled controls); figures count the true emotion_N.
    Raises InputError: no two topics to train on, none to test on, or as `fit_detectors`.
    """
    E = int(emotion_N.max()) + 1
    fitted_N = emotion_N if labels_N is None else labels_N
    order, fitted, parts = [], [], []
    for train, test in _folds(topic_N, test_N):
        one = fit_detectors(X_NF[train], fitted_N[train], topic_N[train], E, ks)
        fitted.append(one)
        parts.append(one.scores(X_NF[test]))
        order.append(test)
    rows = np.concatenate(order)
    scores_kNE = np.concatenate(parts, axis=1)
    figures = (
        detector_row(k, scores_NE, emotion_N[rows], topic_N[rows], seed)
        for k, scores_NE in zip(fitted[0].ks, scores_kNE, strict=True)
    )
    return DetectorResult(tuple(figures), tuple(fitted), X_NF.shape[1], len(rows), E)


def ceiling(
    X_NF: np.ndarray,
    emotion_N: np.ndarray,
    topic_N: np.ndarray,
    test_N: np.ndarray | None = None,
    *,
    ridge: float | None = None,
    seed: int = 0,
) -> DetectorRow:
    """The same figures for detectors that weigh all columns (`fit_prototypes`; ridge None: chosen within each fold)."""
    E = int(emotion_N.max()) + 1
    order, parts = [], []
    for train, test in _folds(topic_N, test_N):
        prototypes = fit_prototypes(X_NF[train], emotion_N[train], topic_N[train], ridge=ridge, n_emotions=E)
        parts.append(scores(X_NF[test], prototypes))
        order.append(test)
    rows = np.concatenate(order)
    return detector_row(None, np.concatenate(parts), emotion_N[rows], topic_N[rows], seed)


def detector_row(
    k: int | None, scores_NE: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, seed: int
) -> DetectorRow:
    """Figures from calibrated scores of texts that no detector was fitted on."""
    auroc_E = own_auroc(scores_NE, emotion_N, topic_N)
    known = auroc_E[~np.isnan(auroc_E)]
    draws = np.random.default_rng(seed).integers(0, len(known), (RESAMPLES, len(known)))
    low, high = np.quantile(known[draws].mean(1), [0.025, 0.975])
    top5, interval = share_with_interval(places(scores_NE, emotion_N) < HITS, seed)
    good = int((known >= GOOD).sum())
    return DetectorRow(k, float(known.mean()), (float(low), float(high)), top5, interval, good, auroc_E)


def own_auroc(scores_NE: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray) -> np.ndarray:
    """(E,) AUROC of each emotion's detector for that emotion within topics, mean over topics; NaN where untested."""
    E = scores_NE.shape[1]
    sum_E, count_E = np.zeros(E), np.zeros(E)
    for part, auroc_eEP in within_topic_auroc(scores_NE, emotion_N, topic_N, E):
        own = np.arange(part.start, part.stop)
        own_eP = auroc_eEP[own - part.start, own]
        sum_E[own], count_E[own] = np.nansum(own_eP, 1), (~np.isnan(own_eP)).sum(1)
    return np.divide(sum_E, count_E, out=np.full(E, np.nan), where=count_E > 0)


def _folds(topic_N: np.ndarray, test_N: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """(training rows, test rows), in order."""
    tests = [topic_N == topic for topic in np.unique(topic_N)] if test_N is None else [test_N]
    folds = [(np.flatnonzero(~test), np.flatnonzero(test)) for test in tests]
    if any(not len(test) or len(np.unique(topic_N[train])) < 2 for train, test in folds):
        raise InputError("needs at least two topics to train on and one to test on", do="name other topics")
    return folds
