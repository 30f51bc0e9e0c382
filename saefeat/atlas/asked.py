"""What is looked up: a text, an emotion profile, or a set of features, each as one score per emotion."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saefeat.atlas.opened import Opened
from saefeat.atlas.pooled import pooled_texts
from saefeat.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A query: its id, the readout its scores are of, scores_E float64."""

    id: str
    readout: str
    scores_E: np.ndarray


def asked(
    atlas: Opened,
    text: str | None,
    profile: Mapping[str, float] | None,
    features: Mapping[str, float] | None,
    readout: str,
) -> Asked:
    """The query that exactly one of text, profile and features is.

    readout 'auto': for a text by its length; for a profile or features the first in which stories were read (and,
    for features, that reads their SAE). Raises InputError, UnknownName.
    """
    if (text is not None) + (profile is not None) + (features is not None) != 1:
        raise InputError("a text, a profile, or features: exactly one of them is looked up")
    if readout != "auto":
        atlas.check_readout(readout)
    if text is not None:
        pooled = next(pooled_texts(atlas, [text], readout, False))
        assert pooled.x_F is not None
        scores_E = atlas.prototypes[pooled.readout].scores(pooled.x_F)
        return Asked(id=pooled.item.id, readout=pooled.readout, scores_E=scores_E)
    known = list(dict.fromkeys([*atlas.story_readouts, *atlas.readouts])) if readout == "auto" else [readout]
    if profile is not None:
        return Asked(id="profile", readout=known[0], scores_E=profile_scores(atlas, profile))
    assert features is not None
    numbers, sae = feature_numbers(atlas, features)
    readouts = [name for name in known if atlas.readouts[name]["sae"] == sae]
    if not readouts:
        reads = f"readout {readout} reads {atlas.readouts[readout]['sae']}" if readout != "auto" else "no readout"
        raise InputError(f"{reads}, the features are of {sae}", do="name features of the SAE that the readout reads")
    x_F = np.zeros(atlas.sae_entries[sae]["features"], np.float32)
    x_F[list(numbers)] = list(numbers.values())
    return Asked(id="features", readout=readouts[0], scores_E=atlas.prototypes[readouts[0]].scores(x_F))


def profile_scores(atlas: Opened, profile: Mapping[str, float]) -> np.ndarray:
    """(E,) float64 of {emotion: score}; emotions left out score 0, as the average story does."""
    scores_E, seen = np.zeros(len(atlas.emotion_names)), set()
    numbers = {emotion: number for number, emotion in enumerate(atlas.emotion_names)}
    for name, score in profile.items():
        emotion = str(name) if name in numbers else atlas.emotion_name(str(name))
        if emotion in seen:
            raise InputError(f"the profile names {emotion!r} twice")
        seen.add(emotion)
        scores_E[numbers[emotion]] = _number(score, f"the profile's {emotion!r}")
    if not np.ptp(scores_E):
        raise InputError("the profile has the same score for every emotion", do="give some emotions other scores")
    return scores_E


def feature_numbers(atlas: Opened, features: Mapping[str, float]) -> tuple[dict[int, float], str]:
    """({number: pooled activation}, the SAE they are of). Raises InputError, UnknownName."""
    found: dict[tuple[str, int], float] = {}
    for name, value in features.items():
        feature = atlas.parse_feature(str(name))
        if feature in found:
            raise InputError(f"the feature {feature[0]}.{feature[1]} is named twice")
        found[feature] = _number(value, f"the activation of {name}")
        if found[feature] < 0:
            raise InputError(f"the activation of {name} is {value}, an activation is never below zero")
    saes = sorted({sae for sae, _ in found})
    if len(saes) != 1:
        raise InputError("the features are of several SAEs" if saes else "no feature given", do="name those of one SAE")
    if not any(found.values()):
        raise InputError("none of the features is active", do="give at least one an activation above zero")
    return {number: value for (_, number), value in found.items()}, saes[0]


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{what} is {value!r}, not a number")
    return float(value)


# ---------------------------------------------------------------- as they are written
def read_profile(path: Path | str) -> dict[str, float]:
    """The profile in a JSON file: {"joyful": 2.1, …}, or what `saefeat nearest --top all --json` prints."""
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not JSON ({error})", where=path) from error
    rows = value.get("emotions") if isinstance(value, dict) else None
    if isinstance(rows, list) and all(isinstance(row, dict) and {"emotion", "score"} <= row.keys() for row in rows):
        value = {row["emotion"]: row["score"] for row in rows}
    if not isinstance(value, dict) or not value:
        raise InputError('is no profile such as {"joyful": 2.1, "calm": -0.5}', where=path)
    return value


def parse_features(text: str) -> dict[str, float]:
    """{"L19.12": 0.5} of 'L19.12=0.5,L19.7=1'."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise InputError(f"{part.strip()!r} is no feature with its activation", do="write L19.12=0.5,…") from None
        if name.strip() in found:
            raise InputError(f"the feature {name.strip()} is named twice")
        found[name.strip()] = number
    return found
