"""The label table of one readout: readings of features, their statistics, the words for them, and what each is about.

Shapes: N stories, F features, E emotions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from saefeat.label.aligned import aligned
from saefeat.label.auroc import FeatureLabels, label_features
from saefeat.label.kinds import Kinds, kinds, sentence
from saefeat.label.lexical import Lexical, family_tokens, lexical, promoted_tokens, vocabulary, word_activations
from saefeat.label.prototypes import class_means
from saefeat.label.ranks import crossing, mean_auroc, rank_table
from saefeat.sae import SAE
from saefeat.subject import Subject

Ratings = tuple[np.ndarray, np.ndarray]
"""valence_E and arousal_E, NaN for an unrated emotion."""


def feature_table(
    X_NF: np.ndarray,
    emotion_N: np.ndarray,
    topic_N: np.ndarray,
    density_F: np.ndarray,
    sae: SAE,
    emotions: Sequence[str],
    family_E: Sequence[str],
    ratings: Ratings,
    words: WordEvidence,
    *,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The columns of `label_features`, of readings (`aligned`) of mean activations X_NF, and

    firing_auroc: the AUROC of the feature's own activation, for comparison; kind: of the feature, a word of KINDS;
    says: a plain sentence on it.
    """
    E = len(emotions)
    reading_NF = aligned(X_NF, sae.W_dec_FD.float().cpu().numpy())
    labels = label_features(reading_NF, emotion_N, topic_N, density_F, E, seed=seed)
    fired = np.unique(labels.table["feature"])
    design = crossing(emotion_N, topic_N, E)
    firing_Ef = mean_auroc(rank_table(X_NF[:, fired], design), design)
    slot = np.searchsorted(fired, labels.table["feature"])
    own_words = words.of(class_means(X_NF, emotion_N, E).T, density_F)
    means_FE = class_means(reading_NF, emotion_N, E).T[labels.alive]
    found = kinds_of(labels, means_FE, family_E, ratings, own_words)
    said = sentences(labels, found, emotions)
    place = np.searchsorted(labels.alive, labels.table["feature"])
    return {
        **labels.table,
        "firing_auroc": firing_Ef[labels.table["emotion"], slot].astype(np.float32),
        "kind": found.kind_F[place],
        "says": said[place],
    }


def kinds_of(
    labels: FeatureLabels, means_FE: np.ndarray, family_E: Sequence[str], ratings: Ratings, words: Lexical
) -> Kinds:
    """The kinds of the features that fire, in the order of labels.alive."""
    alive = labels.alive
    own = Lexical(*(getattr(words, name)[alive] for name in ("promotes_F", "promoted_F", "fires_F", "z_F")))
    return kinds(
        labels.auroc_EF.T,
        labels.q_EF.T,
        means_FE,
        family_E,
        labels.variance.omega2_emotion_F[alive],
        labels.variance.omega2_topic_F[alive],
        valence_E=ratings[0],
        arousal_E=ratings[1],
        lexical=own,
    )


def sentences(labels: FeatureLabels, found: Kinds, emotions: Sequence[str]) -> np.ndarray:
    """A sentence for each feature that fires, with the p-value and the held-out AUROC of its best emotion."""
    table, tests = labels.table, f"{len(labels.alive):,} × {len(emotions)}"
    best: dict[tuple[int, int], int] = {
        (int(f), int(e)): row for row, (f, e) in enumerate(zip(table["feature"], table["emotion"], strict=True))
    }
    said = []
    for slot, feature in enumerate(labels.alive):
        told = found.row(slot, emotions) | {"tests": tests}
        row = best.get((int(feature), int(found.emotion_F[slot])))
        if row is not None:
            told |= {"p": float(table["p_value"][row]), "heldout_auroc": float(table["heldout_auroc"][row])}
        said.append(sentence(told))
    return np.array(said)


class WordEvidence:
    """What a subject's words say of an SAE's features; the passes over vocabulary and carriers are made once."""

    def __init__(self, subject: Subject, sae: SAE, emotions: Sequence[str], word_families: Mapping[str, str]) -> None:
        self.top_ids_FK = promoted_tokens(subject, sae.W_dec_FD.float())
        self.family_VE = family_tokens(vocabulary(subject), word_families, emotions)
        self.word_acts_FE = word_activations(subject, sae, emotions)

    def of(self, story_means_FE: np.ndarray, density_F: np.ndarray) -> Lexical:
        """The lexical evidence beside the mean activations in the stories of each emotion."""
        return lexical(self.top_ids_FK, self.family_VE, self.word_acts_FE, story_means_FE, density_F)
