"""How well one feature tells one emotion from the others: AUROC within topics, and its nested held-out estimate.

Within a topic the stories of an emotion are compared with the topic's other stories, so a feature gains nothing by
knowing the topic. With one story per emotion and topic, the AUROC is that story's midrank among the topic's.

The best of many features looks good by chance. So features are also chosen on all topics but one and scored on
that one (nested selection): `heldout_auroc` is the mean over those topics on which a feature was so chosen.

Shapes: N stories, F features (f: a block of them), E emotions, P topics.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 512
TOP_FEATURES = 25
TOP_EMOTIONS = 3


def midranks(X_NF: np.ndarray) -> np.ndarray:
    """Ranks 1..N down each column, ties sharing their mean rank."""
    N, F = X_NF.shape
    order_NF = np.argsort(X_NF, axis=0, kind="stable")
    sorted_NF = np.take_along_axis(X_NF, order_NF, axis=0)
    place_NF = np.broadcast_to(np.arange(N)[:, None], (N, F))
    new_NF = np.ones((N, F), bool)  # where a run of equal values starts
    new_NF[1:] = sorted_NF[1:] != sorted_NF[:-1]
    end_NF = np.ones((N, F), bool)  # and where it ends
    end_NF[:-1] = new_NF[1:]
    first_NF = np.maximum.accumulate(np.where(new_NF, place_NF, 0), axis=0)
    last_NF = np.minimum.accumulate(np.where(end_NF, place_NF, N)[::-1], axis=0)[::-1]
    ranks_NF = np.empty((N, F))
    np.put_along_axis(ranks_NF, order_NF, (first_NF + last_NF) / 2 + 1, axis=0)
    return ranks_NF


def within_topic_auroc(
    X_NF: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, n_emotions: int, *, block: int = BLOCK
) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of (features, auroc_fEP float32), one AUROC per feature, emotion and topic; NaN where a topic lacks
    the emotion (or has nothing else). Topics in sorted order."""
    topics = np.unique(topic_N)
    rows = [np.flatnonzero(topic_N == topic) for topic in topics]
    one_NE = (emotion_N[:, None] == np.arange(n_emotions)).astype(np.float64)
    for start in range(0, X_NF.shape[1], block):
        part = slice(start, min(start + block, X_NF.shape[1]))
        auroc_fEP = np.full((part.stop - part.start, n_emotions, len(topics)), np.nan, np.float32)
        for p, own in enumerate(rows):
            positives_E = one_NE[own].sum(0)
            pairs_E = positives_E * (len(own) - positives_E)
            ranks_fE = midranks(X_NF[own, part]).T @ one_NE[own]
            wins_fE = ranks_fE - positives_E * (positives_E + 1) / 2
            auroc_fEP[:, :, p] = np.where(pairs_E > 0, wins_fE / np.maximum(pairs_E, 1), np.nan)
        yield part, auroc_fEP


def nested_auroc(auroc_FEP: np.ndarray, chosen: int) -> tuple[np.ndarray, np.ndarray]:
    """heldout_FE and folds_FE: a topic's fold chooses the `chosen` best features of each emotion by their mean
    AUROC on the other topics, and scores them on that topic. NaN and 0 where a feature was never chosen."""
    F, E, P = auroc_FEP.shape
    known_FEP = ~np.isnan(auroc_FEP)
    sum_FE = np.where(known_FEP, auroc_FEP, 0).sum(2, dtype=np.float64)
    count_FE = known_FEP.sum(2)
    total_FE, folds_FE = np.zeros((F, E)), np.zeros((F, E), np.int64)
    columns = np.arange(E)
    for p in range(P):
        here_FE, known_FE = np.where(known_FEP[:, :, p], auroc_FEP[:, :, p], 0), known_FEP[:, :, p]
        others_FE = (sum_FE - here_FE) / np.maximum(count_FE - known_FE, 1)
        best_cE = _top(others_FE, chosen)
        took = known_FE[best_cE, columns] & ((count_FE - known_FE)[best_cE, columns] > 0)
        total_FE[best_cE, columns] += np.where(took, here_FE[best_cE, columns], 0)
        folds_FE[best_cE, columns] += took
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(folds_FE > 0, total_FE / folds_FE, np.nan), folds_FE


def label_features(
    X_NF: np.ndarray,
    emotion_N: np.ndarray,
    topic_N: np.ndarray,
    density_F: np.ndarray,
    n_emotions: int,
    *,
    top_features: int = TOP_FEATURES,
    top_emotions: int = TOP_EMOTIONS,
) -> dict[str, np.ndarray]:
    """The columns of the label table: each emotion's `top_features` best features and each feature's `top_emotions`
    best emotions, by AUROC. Features that never fire get no label.

    feature, emotion (indices); auroc (mean over topics); heldout_auroc (nested, NaN if no fold chose it), folds (how
    many did); mean_difference (mean activation on the emotion's stories minus that on the others', topic means taken
    away); density (share of positions on which the feature fires); rank_for_emotion, rank_for_feature (1 = best).
    """
    alive = np.flatnonzero(X_NF.any(axis=0))
    X_NF = X_NF[:, alive]
    F, E, P = len(alive), n_emotions, len(np.unique(topic_N))
    auroc_FEP = np.empty((F, E, P), np.float32)
    for part, block in within_topic_auroc(X_NF, emotion_N, topic_N, E):
        auroc_FEP[part] = block
    with np.errstate(invalid="ignore"):
        auroc_FE = np.nansum(auroc_FEP, 2) / np.maximum((~np.isnan(auroc_FEP)).sum(2), 1)
    heldout_FE, folds_FE = nested_auroc(auroc_FEP, top_features)
    # by AUROC; of equal ones (common with few topics) the larger mean difference, in sd of the feature, is first
    difference_FE = mean_differences(X_NF, emotion_N, topic_N, E)
    key_FE = auroc_FE + 1e-7 * np.clip(difference_FE / (X_NF.std(0)[:, None] + 1e-9), -9, 9)
    rank_e_FE, rank_f_FE = _ranks(key_FE, 0), _ranks(key_FE, 1)
    f, e = np.nonzero((rank_e_FE <= top_features) | (rank_f_FE <= top_emotions))
    order = np.lexsort((rank_e_FE[f, e], e))
    f, e = f[order], e[order]
    return {
        "feature": alive[f],
        "emotion": e,
        "auroc": auroc_FE[f, e].astype(np.float32),
        "heldout_auroc": heldout_FE[f, e].astype(np.float32),
        "folds": folds_FE[f, e].astype(np.int32),
        "mean_difference": difference_FE[f, e].astype(np.float32),
        "density": density_F[alive][f].astype(np.float32),
        "rank_for_emotion": rank_e_FE[f, e].astype(np.int32),
        "rank_for_feature": rank_f_FE[f, e].astype(np.int32),
    }


def mean_differences(X_NF: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, E: int) -> np.ndarray:
    """(F, E): mean of an emotion's rows minus mean of all other rows, after centring by topic."""
    X_NF = X_NF.astype(np.float64)
    for topic in np.unique(topic_N):
        X_NF[topic_N == topic] -= X_NF[topic_N == topic].mean(0)
    one_NE = (emotion_N[:, None] == np.arange(E)).astype(np.float64)
    inside_FE, count_E = X_NF.T @ one_NE, one_NE.sum(0)
    rest_FE = X_NF.sum(0)[:, None] - inside_FE
    return inside_FE / np.maximum(count_E, 1) - rest_FE / np.maximum(len(X_NF) - count_E, 1)


def _top(values_FE: np.ndarray, count: int) -> np.ndarray:
    """Row indices (count, E) of the largest values of each column."""
    count = min(count, len(values_FE))
    return np.argpartition(-values_FE, count - 1, axis=0)[:count] if count else np.zeros((0, values_FE.shape[1]), int)


def _ranks(values: np.ndarray, axis: int) -> np.ndarray:
    """Ranks along an axis, 1 for the largest."""
    order = np.argsort(-values, axis=axis, kind="stable")
    places = np.arange(1, values.shape[axis] + 1).reshape([-1 if a == axis else 1 for a in range(2)])
    ranks = np.empty(values.shape, np.int64)
    np.put_along_axis(ranks, order, np.broadcast_to(places, values.shape), axis=axis)
    return ranks
