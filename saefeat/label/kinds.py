"""What a feature is about, in one word and in one sentence: emotion, family, dimension, lexical, topic, or none.

The rules, the first that holds:
1. *lexical*: it fires on an emotion's word itself, or promotes it (`lexical.py`), and the stories it singles out best
   are of that emotion's family, or nothing below holds but topic or none;
2. *dimension*: its emotion means correlate with valence or arousal by at least .3 in size (q < .01), and more than
   with being its best emotion, or of that emotion's family; and topic does not explain more than emotion does;
3. *family*: at least two emotions, and at least half, of its best emotion's family have q < .01, and the best is not
   .05 ahead of all others in AUROC;
4. *emotion*: its best emotion has q < .01 and an AUROC at least .05 above the best emotion outside its family;
5. *topic*: topic explains at least a tenth of its variance over stories, and more than emotion does (omega²);
6. *none*.
A q is a false discovery rate over all features and emotions, or over all features and both dimensions.

Shapes: F features (f: a block of them), E emotions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saefeat.label.lexical import Lexical
from saefeat.label.statistics import q_values

KINDS = ("emotion", "family", "dimension", "lexical", "topic", "none")
DIMENSIONS = ("valence", "arousal")
POLES = {"valence": ("less pleasant", "more pleasant"), "arousal": ("calmer", "more stirred")}
Q = 0.01
AHEAD = 0.05
CORRELATION = 0.3
TOPIC_SHARE = 0.1
BLOCK = 4096


@dataclass(frozen=True)
class Kinds:
    """The kind of each feature and what decided it. Emotions are indices, -1 for none.

    kind_F: words of KINDS. emotion_F, auroc_F, q_F: the best emotion; outside_F, outside_auroc_F: the best outside
    its family (NaN if there is none). family_F: the best emotion's family; significant_F of its members_F emotions
    have q < .01. emotion_r_F, family_r_F: correlation of emotion means with being the best emotion, or of its family;
    second_auroc_F: the second best emotion's AUROC. dimension_F: 0 valence, 1 arousal,
    the one of larger |r|; dimension_r_F, dimension_q_F. omega2_emotion_F, omega2_topic_F. fires_F, promotes_F: words.
    """

    kind_F: np.ndarray
    emotion_F: np.ndarray
    auroc_F: np.ndarray
    q_F: np.ndarray
    outside_F: np.ndarray
    outside_auroc_F: np.ndarray
    family_F: np.ndarray
    significant_F: np.ndarray
    members_F: np.ndarray
    second_auroc_F: np.ndarray
    emotion_r_F: np.ndarray
    family_r_F: np.ndarray
    dimension_F: np.ndarray
    dimension_r_F: np.ndarray
    dimension_q_F: np.ndarray
    omega2_emotion_F: np.ndarray
    omega2_topic_F: np.ndarray
    fires_F: np.ndarray
    promotes_F: np.ndarray
    promoted_F: np.ndarray

    def row(self, f: int, emotions: Sequence[str]) -> dict[str, Any]:
        """One feature as plain values, emotions by name (None for none): what `sentence` reads."""

        def name(index: np.ndarray) -> str | None:
            return emotions[int(index[f])] if index[f] >= 0 else None

        return {
            "kind": str(self.kind_F[f]),
            "emotion": name(self.emotion_F),
            "auroc": float(self.auroc_F[f]),
            "q": float(self.q_F[f]),
            "outside": name(self.outside_F),
            "outside_auroc": float(self.outside_auroc_F[f]),
            "family": str(self.family_F[f]),
            "significant": int(self.significant_F[f]),
            "members": int(self.members_F[f]),
            "dimension": DIMENSIONS[int(self.dimension_F[f])],
            "dimension_r": float(self.dimension_r_F[f]),
            "dimension_q": float(self.dimension_q_F[f]),
            "omega2_emotion": float(self.omega2_emotion_F[f]),
            "omega2_topic": float(self.omega2_topic_F[f]),
            "fires_on": name(self.fires_F),
            "promotes": name(self.promotes_F),
            "promoted": int(self.promoted_F[f]),
        }


def kinds(
    auroc_FE: np.ndarray,
    q_FE: np.ndarray,
    mean_FE: np.ndarray,
    family_E: Sequence[str],
    omega2_emotion_F: np.ndarray,
    omega2_topic_F: np.ndarray,
    *,
    valence_E: np.ndarray | None = None,
    arousal_E: np.ndarray | None = None,
    lexical: Lexical | None = None,
) -> Kinds:
    """The kind of every feature (see the rules above).

    auroc_FE: mean over topics of the AUROC within topics; q_FE: its false discovery rate; mean_FE: mean reading in
    the stories of each emotion; family_E: the family of each emotion; omega²: see `variance.py`, NaN counts as 0;
    ratings: NaN for an unrated emotion, None: no feature is of a dimension; lexical None: none is lexical.
    """
    F = len(auroc_FE)
    family_code_E = np.unique(np.asarray(family_E), return_inverse=True)[1]
    ratings_2E = np.stack([np.full(auroc_FE.shape[1], np.nan) if r is None else r for r in (valence_E, arousal_E)])
    best_F, out_F = np.zeros(F, np.int64), np.full(F, -1)
    auroc_F, q_F, out_auroc_F = np.zeros(F), np.ones(F), np.full(F, np.nan)
    significant_F, members_F = np.zeros(F, np.int64), np.zeros(F, np.int64)
    second_F, emotion_r_F, family_r_F = np.full(F, np.nan), np.zeros(F), np.zeros(F)
    r_F2, p_F2 = np.zeros((F, 2)), np.ones((F, 2))
    for start in range(0, F, BLOCK):
        part = slice(start, min(start + BLOCK, F))
        auroc_fE = np.nan_to_num(auroc_FE[part].astype(np.float64))  # an emotion that no topic tells is never best
        rows = np.arange(len(auroc_fE))
        best = auroc_fE.argmax(1)
        inside_fE = family_code_E == family_code_E[best][:, None]
        outside_fE = np.where(inside_fE, -np.inf, auroc_fE)
        best_F[part], auroc_F[part], q_F[part] = best, auroc_fE[rows, best], q_FE[part][rows, best]
        outside = outside_fE.argmax(1)
        some = ~inside_fE.all(1)
        out_F[part] = np.where(some, outside, -1)
        out_auroc_F[part] = np.where(some, auroc_fE[rows, outside], np.nan)
        significant_F[part], members_F[part] = (inside_fE & (q_FE[part] < Q)).sum(1), inside_fE.sum(1)
        if auroc_fE.shape[1] > 1:
            second_F[part] = np.partition(auroc_fE, -2, axis=1)[:, -2]
        emotion_r_F[part] = _row_correlation(mean_FE[part], np.arange(auroc_fE.shape[1]) == best[:, None])
        family_r_F[part] = _row_correlation(mean_FE[part], inside_fE)
        for d, rating_E in enumerate(ratings_2E):
            rated = np.isfinite(rating_E)
            if rated.sum() < 4:
                continue
            r_F2[part, d] = _row_correlation(mean_FE[part][:, rated], rating_E[rated][None])
            p_F2[part, d] = correlation_p(r_F2[part, d], int(rated.sum()))
    alive = mean_FE.max(1) > mean_FE.min(1)
    q_F2 = np.ones((F, 2))
    q_F2[alive] = q_values(p_F2[alive])
    dimension_F = np.abs(r_F2).argmax(1)
    r_F, dimension_q_F = r_F2[np.arange(F), dimension_F], q_F2[np.arange(F), dimension_F]
    omega2_emotion_F, omega2_topic_F = np.nan_to_num(omega2_emotion_F), np.nan_to_num(omega2_topic_F)
    none_F = np.full(F, -1)
    fires_F, promotes_F = (lexical.fires_F, lexical.promotes_F) if lexical else (none_F, none_F)
    promoted_F = lexical.promoted_F if lexical else np.zeros(F, np.int64)
    word_F = lexical.word_F if lexical else none_F

    def lead(over_F: np.ndarray) -> np.ndarray:
        return auroc_F - np.where(np.isnan(over_F), 0.5, over_F) >= AHEAD - 1e-9  # of chance, if there is no other

    is_topic_F = omega2_topic_F > omega2_emotion_F
    is_dimension_F = (dimension_q_F < Q) & (np.abs(r_F) >= CORRELATION) & ~is_topic_F
    is_dimension_F &= np.abs(r_F) > np.maximum(emotion_r_F, family_r_F)
    is_family_F = (significant_F >= 2) & (2 * significant_F >= members_F) & ~lead(second_F)
    is_emotion_F = (q_F < Q) & lead(out_auroc_F)
    is_topic_F &= omega2_topic_F >= TOPIC_SHARE
    conditions = [is_dimension_F, is_family_F, is_emotion_F, is_topic_F]
    kind_F = np.select(conditions, ["dimension", "family", "emotion", "topic"], "none").astype("<U9")
    own_word_F = (word_F >= 0) & (family_code_E[word_F] == family_code_E[best_F])
    weak_F = np.isin(kind_F, ("topic", "none"))
    kind_F[own_word_F | ((word_F >= 0) & weak_F)] = "lexical"
    return Kinds(
        kind_F=kind_F, emotion_F=best_F, auroc_F=auroc_F, q_F=q_F, outside_F=out_F, outside_auroc_F=out_auroc_F,
        family_F=np.asarray(family_E)[best_F], significant_F=significant_F, members_F=members_F,
        second_auroc_F=second_F, emotion_r_F=emotion_r_F, family_r_F=family_r_F,
        dimension_F=dimension_F, dimension_r_F=r_F, dimension_q_F=dimension_q_F,
        omega2_emotion_F=omega2_emotion_F, omega2_topic_F=omega2_topic_F, fires_F=fires_F, promotes_F=promotes_F,
        promoted_F=promoted_F,
    )  # fmt: skip


def correlation_p(r_F: np.ndarray, n: int) -> np.ndarray:
    """Two-sided p of Pearson correlations over n > 3 pairs, by Fisher's z (1921)."""
    z_F = np.abs(np.arctanh(np.clip(r_F, -1 + 1e-15, 1 - 1e-15))) * math.sqrt(n - 3)
    return np.array([math.erfc(z / math.sqrt(2)) for z in z_F])


def _row_correlation(a_fE: np.ndarray, b_fE: np.ndarray) -> np.ndarray:
    """Pearson correlation of each row of a with that of b (or with b's only row); 0 where one does not vary."""
    a_fE = a_fE - a_fE.mean(1, keepdims=True, dtype=np.float64)
    b_fE = b_fE - b_fE.mean(1, keepdims=True, dtype=np.float64)
    length_f = np.sqrt((a_fE**2).sum(1) * (b_fE**2).sum(1))
    return np.divide((a_fE * b_fE).sum(1), length_f, out=np.zeros(len(a_fE)), where=length_f > 1e-15)


# ---------------------------------------------------------------- in words
def sentence(row: Mapping[str, Any]) -> str:
    """One plain sentence on a feature. row: see `Kinds.row`; p (exact), heldout_auroc (on topics it was not chosen
    on) and tests ('4,608 x 171', what q is over) are told if they are there."""
    kind, best = row["kind"], f"'{row['emotion']}'"
    if kind == "emotion":
        text = f"Reads higher on stories of {best} than on {100 * row['auroc']:.0f} % of the others on the same topic"
        return f"{text} ({_evidence(row)}){_heldout(row)}{_outside(row)}."
    if kind == "family":
        text = f"Reads higher on stories of the family '{row['family']}' than on others on the same topic: "
        text += f"{row['significant']} of its {row['members']} emotions stand out (q < {_small(Q)}), most of all {best}"
        return f"{text} (AUROC {_small(row['auroc'])}, {_evidence(row)}){_heldout(row)}{_outside(row)}."
    if kind == "dimension":
        low, high = POLES[row["dimension"]]
        text = f"Reads higher the {high if row['dimension_r'] > 0 else low} a story's emotion is: its mean reading "
        text += f"correlates with {row['dimension']} by {_signed(row['dimension_r'])} over emotions"
        return f"{text} (q {_small(row['dimension_q'])}), more than with any family."
    if kind == "lexical":
        tells = f"of stories it tells {best} best (AUROC {_small(row['auroc'])}, q {_small(row['q'])})"
        parts = []
        if row.get("fires_on"):
            parts.append(f"fires on the word '{row['fires_on']}' itself, in sentences without any feeling")
        if row.get("promotes"):
            parts.append(f"promotes the words of '{row['promotes']}' ({row['promoted']} of its top tokens)")
        text = " and ".join(parts)
        return f"{text[:1].upper()}{text[1:]}; {tells}."
    if kind == "topic":
        text = f"Tells topics rather than emotions: topic explains {100 * row['omega2_topic']:.0f} % of its variance "
        return f"{text}over stories, emotion {100 * max(row['omega2_emotion'], 0):.0f} %."
    evidence = f"best is {best} (AUROC {_small(row['auroc'])}, {_evidence(row)}){_outside(row)}."
    if row["q"] < Q:
        return f"Tells emotions of several families, none of them ahead, and follows no dimension: {evidence}"
    return f"Tells no emotion, family, dimension or topic apart: {evidence}"


def _evidence(row: Mapping[str, Any]) -> str:
    p = f"exact p {_small(row['p'])}, " if row.get("p") is not None else ""
    return f"{p}q {_small(row['q'])}" + (f" over {row['tests']} pairs" if row.get("tests") else "")


def _heldout(row: Mapping[str, Any]) -> str:
    value = row.get("heldout_auroc")
    return "" if value is None or math.isnan(value) else f"; on topics it was not chosen on {_small(value)}"


def _outside(row: Mapping[str, Any]) -> str:
    if row.get("outside") is None:
        return ""
    return f"; next outside its family: '{row['outside']}' {_small(row['outside_auroc'])}"


def _small(value: float) -> str:
    """'.93', '1.00', '.004', '2e-11'."""
    if 0 < value < 0.0005:
        return f"{value:.0e}"
    text = f"{value:.2f}" if value >= 0.095 or value == 0 else f"{value:.1g}"
    return text.removeprefix("0") if text.startswith("0.") else text


def _signed(value: float) -> str:
    return ("−" if value < 0 else "+") + _small(abs(value))
