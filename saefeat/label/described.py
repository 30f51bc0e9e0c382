"""What the manifest says of a readout: how it reads, and how well on topics left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from saefeat.config import ReadoutConfig, to_dict
from saefeat.corpus import DialogueCorpus
from saefeat.label.prototypes import NEUTRAL, Prototypes
from saefeat.label.spoken import spoken_by
from saefeat.label.store import Corpus, is_read
from saefeat.sae import SAE

NEUTRAL_SHARE = 0.95
"""A text stands out if its highest score exceeds that of this share of the flat texts (topics left out)."""


def described(
    readout: ReadoutConfig, sae: SAE, fit: Prototypes, emotion_N: np.ndarray, corpora: Sequence[Corpus]
) -> dict[str, Any]:
    """What the manifest says of a readout; of dialogues also how often the wrong speaker's emotion comes first."""
    story_N = emotion_N != NEUTRAL
    top_N = np.nanmax(fit.heldout_NE[~story_N], 1) if not story_N.all() else np.zeros(0)
    return {
        **to_dict(readout),
        "sae": sae.name,
        "layer": sae.layer,
        "features": sae.n_features,
        "stands_out": float(np.quantile(top_N, NEUTRAL_SHARE)) if len(top_N) else None,
        "heldout": top_k(fit.heldout_NE[story_N], emotion_N[story_N]),
        "ridge": fit.ridge,
        "share": fit.share,
        **_of_dialogues(readout, fit, corpora),
    }


def _of_dialogues(readout: ReadoutConfig, fit: Prototypes, corpora: Sequence[Corpus]) -> dict[str, Any]:
    """top-1 and top-5 on dialogues alone (topics left out), of the emotion that is read and of the other's."""
    own = [corpus for corpus in corpora if isinstance(corpus, DialogueCorpus)]
    if not own:
        return {}
    read_N = is_read(readout, own)
    speaker_N, other_N = (np.concatenate([spoken_by(one)[i] for one in own])[read_N] for i in (0, 1))
    scores_NE, told_N = fit.heldout_NE[-len(speaker_N) :], speaker_N != NEUTRAL
    names = ("heldout_dialogues", "the_wrong_one")
    return {name: top_k(scores_NE[told_N], e_N[told_N]) for name, e_N in zip(names, (speaker_N, other_N), strict=True)}


def top_k(scores_NE: np.ndarray, emotion_N: np.ndarray) -> dict[str, float]:
    """Share of texts whose own emotion scores highest, or among the five highest (unknown scores count lowest)."""
    known_NE = np.where(np.isnan(scores_NE), -np.inf, scores_NE)
    own_N = known_NE[np.arange(len(emotion_N)), emotion_N]
    place_N = (known_NE > own_N[:, None]).sum(1)
    return {"top1": float((place_N < 1).mean()), "top5": float((place_N < 5).mean())}
