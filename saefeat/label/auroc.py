"""How well one feature tells one emotion from the others: AUROC within topics, its chance, its held-out estimate.

Within a topic the stories of an emotion are compared with the topic's other stories, so a feature gains nothing by
knowing the topic. With one story per emotion and topic, the AUROC is that story's midrank among the topic's.

The best of many features looks good by chance. Four answers to that stand in the label table: the q-value over all
pairs of a feature and an emotion, the max-T p-value, an interval over topics, and nested selection: features are
chosen on all topics but one and scored on that one; `heldout_auroc` is the mean over those topics on which a
feature was so chosen.

What 65,536 features x 171 emotions x 2,052 stories cost, besides X (538 MB in float32, never copied whole):
the table of ranks in int16, 269 MB; for every pair the AUROC, the mean difference and the p-value in float32, 45 MB
each, and one rank, 22 MB; while q-values are made, 3 x 45 MB more. Work: 134 million values sorted in topics of 171,
once; 12 passes over a null distribution of up to 4,100 places for each feature, 1.8e9 steps; 134 million additions
a permutation.

Shapes: N stories, F features (f: a block of them), E emotions, P topics.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from saefeat.label.exact import p_values
from saefeat.label.ranks import (
    blocks,
    crossing,
    emotion_auroc,
    integers,
    mean_auroc,
    over_blocks,
    rank_table,
    topic_auroc,
)
from saefeat.label.statistics import PERMUTATIONS, max_t, q_values, topic_bootstrap
from saefeat.label.variance import VarianceSplit, mean_differences, variance_split

TOP_FEATURES = 25
TOP_EMOTIONS = 3


@dataclass(frozen=True)
class FeatureLabels:
    """table: see `label_features`. alive: the features that fire, whose AUROC and q-value for every emotion are
    auroc_EF and q_EF (1 where an emotion could not be tested); variance: of all features."""

    table: dict[str, np.ndarray]
    alive: np.ndarray
    auroc_EF: np.ndarray
    q_EF: np.ndarray
    variance: VarianceSplit


def within_topic_auroc(
    X_NF: np.ndarray, emotion_N: np.ndarray, topic_N: np.ndarray, n_emotions: int, *, block: int = 512
) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of (features, auroc_fEP float32), one AUROC per feature, emotion and topic; NaN where a topic lacks
    the emotion (or has nothing else). Topics in sorted order."""
    design = crossing(emotion_N, topic_N, n_emotions)
    for part in blocks(X_NF.shape[1], block):
        ranks_Nf = rank_table(X_NF[:, part], design)
        auroc_PEf = [topic_auroc(ranks_Nf, design, p) for p in range(len(design.size_P))]
        yield part, np.stack(auroc_PEf).transpose(2, 1, 0).astype(np.float32)


def nested_auroc(auroc_PF: np.ndarray, chosen: int) -> tuple[np.ndarray, np.ndarray]:
    """heldout_F and folds_F of one emotion: a topic's fold chooses the `chosen` best features by their mean AUROC on
    the other topics, and scores them on that topic. NaN and 0 where a feature was never chosen."""
    F = auroc_PF.shape[1]
    known = np.flatnonzero(~np.isnan(auroc_PF).all(1))
    total_F, folds_F = np.zeros(F), np.zeros(F, np.int64)
    sum_F, count = auroc_PF[known].sum(0), min(chosen, F)
    for p in known if len(known) > 1 and count else ():
        best = np.argpartition(auroc_PF[p] - sum_F, count - 1)[:count]  # the largest sums of the other topics
        total_F[best] += auroc_PF[p, best]
        folds_F[best] += 1
    return np.divide(total_F, folds_F, out=np.full(F, np.nan), where=folds_F > 0), folds_F


def label_features(
    X_NF: np.ndarray,
    emotion_N: np.ndarray,
    topic_N: np.ndarray,
    density_F: np.ndarray,
    n_emotions: int,
    *,
    top_features: int = TOP_FEATURES,
    top_emotions: int = TOP_EMOTIONS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    threads: int | None = None,
) -> FeatureLabels:
    """The label table, and the figures of all pairs behind it.

    The table's rows are each emotion's `top_features` best features and each feature's `top_emotions` best emotions,
    by AUROC. Features that never fire get no label. Its columns:

    feature, emotion (indices); auroc (mean over topics); heldout_auroc (nested, NaN if no fold chose it), folds (how
    many did); mean_difference (mean activation on the emotion's stories minus that on the others', topic means taken
    away); density (share of positions on which the feature fires); rank_for_emotion, rank_for_feature (1 = best);
    auroc_low, auroc_high (95 % interval of auroc, topics drawn anew); p_value (one-sided, that chance ranks the
    emotion's stories so high), q_value (false discovery rate, over all pairs of a living feature and an emotion);
    max_t_p (that chance gives any feature so high an AUROC for any emotion, from `permutations` of the emotions
    within topics: at least 1 / (1 + permutations)); eta2_emotion, omega2_emotion, eta2_topic, omega2_topic (shares of
    the feature's variance).
    """
    alive = np.flatnonzero(X_NF.any(axis=0))
    design = crossing(emotion_N, topic_N, n_emotions)
    F, E, N = len(alive), n_emotions, len(X_NF)
    ranks_NF = np.empty((N, F), design.dtype)
    auroc_EF, difference_EF, p_EF = (np.empty((E, F), np.float32) for _ in range(3))
    rank_f_EF = np.empty((E, F), integers(E))

    def run(part: slice) -> None:
        X_Nf = X_NF[:, alive[part]]
        ranks_NF[:, part] = ranks_Nf = rank_table(X_Nf, design)
        auroc_EF[:, part] = mean_auroc(ranks_Nf, design)
        p_EF[:, part] = p_values(ranks_Nf, design, seed=seed)
        difference_EF[:, part] = difference_Ef = mean_differences(X_Nf, design)
        rank_f_EF[:, part] = _ranks(_key(auroc_EF[:, part], difference_Ef, X_Nf.std(0)), 0)

    over_blocks(run, F, threads=threads)
    variance = variance_split(X_NF, emotion_N, topic_N, E, threads=threads)
    chance = max_t(ranks_NF, design, permutations=permutations, seed=seed, threads=threads)
    spread_F = np.concatenate([X_NF[:, alive[part]].std(0) for part in blocks(F)]) if F else np.zeros(0)
    parts = []
    for e in range(E):
        rank_F = _ranks(_key(auroc_EF[e], difference_EF[e], spread_F), 0)
        own = np.flatnonzero((rank_F <= top_features) | (rank_f_EF[e] <= top_emotions))
        own = own[np.argsort(rank_F[own])]
        auroc_PF = emotion_auroc(ranks_NF, design, e)
        heldout_F, folds_F = nested_auroc(auroc_PF, top_features)
        low_f, high_f = topic_bootstrap(auroc_PF[:, own].T, seed=seed)
        parts.append(
            {
                "feature": alive[own],
                "emotion": np.full(len(own), e),
                "auroc": auroc_EF[e, own],
                "heldout_auroc": heldout_F[own].astype(np.float32),
                "folds": folds_F[own].astype(np.int32),
                "mean_difference": difference_EF[e, own],
                "density": density_F[alive[own]].astype(np.float32),
                "rank_for_emotion": rank_F[own].astype(np.int32),
                "rank_for_feature": rank_f_EF[e, own].astype(np.int32),
                "auroc_low": low_f.astype(np.float32),
                "auroc_high": high_f.astype(np.float32),
                "p_value": p_EF[e, own],
                "q_value": p_EF[e, own],  # put right below
                "max_t_p": chance.overall_p(auroc_EF[e, own]).astype(np.float32),
                **{
                    name: getattr(variance, f"{name}_F")[alive[own]].astype(np.float32)
                    for name in ("eta2_emotion", "omega2_emotion", "eta2_topic", "omega2_topic")
                },
            }
        )
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    tested_E = design.usable_EP.any(1)
    q_EF = np.ones((E, F), np.float32)
    q_EF[tested_E] = q_values(p_EF[tested_E])
    slot = np.searchsorted(alive, table["feature"])
    table["q_value"] = q_EF[table["emotion"], slot]
    return FeatureLabels(table, alive, auroc_EF, q_EF, variance)


def _key(auroc: np.ndarray, difference: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """What features are ranked by: AUROC; of equal ones (common with few topics) the larger mean difference, in
    standard deviations of the feature, is first."""
    return auroc.astype(np.float64) + 1e-7 * np.clip(difference / (spread + 1e-9), -9, 9)


def _ranks(values: np.ndarray, axis: int) -> np.ndarray:
    """Ranks along an axis, 1 for the largest."""
    order = np.argsort(-values, axis=axis, kind="stable")
    places = np.arange(1, values.shape[axis] + 1).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    ranks = np.empty(values.shape, np.int64)
    np.put_along_axis(ranks, order, np.broadcast_to(places, values.shape), axis=axis)
    return ranks
