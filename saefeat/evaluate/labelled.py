"""Labelled files that others made: their classes as lists of our emotions, and how well texts find their class.

A map is a TOML file: `[classes]` names each class and lists its emotions; `[labels]` (optional) says which class a
label of the file belongs to; `[neutral] labels` (optional) names the labels of texts without emotion. Rows of any
other label are left out.

A class scores the mean of its emotions' scores less the mean of all emotions' scores (what raises them all says how
emotional a text is, not which emotion it has), standardised over corpus texts of other emotions, so that a class of
many emotions is not favoured: zero-shot, nothing of the file is used but the names of its classes.

Shapes: N texts, E emotions, C classes.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saefeat.corpus import emotion_name
from saefeat.errors import FormatError, InputError, UnknownName

RESAMPLES = 1000
FLAT = -1
SHRINK = 0.1


@dataclass(frozen=True)
class Labelled:
    """texts with class_N (FLAT: no emotion); classes: names; members: the emotions' numbers of each class."""

    name: str
    texts: tuple[str, ...]
    class_N: np.ndarray
    classes: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    left_out: int


def read_labelled(path: Path | str, map_path: Path | str, emotions: Sequence[str]) -> Labelled:
    """A file of {"text", "label"} lines by a map. Raises InputError, FormatError naming file and line (or class)."""
    path, map_path = Path(path), Path(map_path)
    classes, label_of, neutral = _read_map(map_path, emotions)
    names, texts, numbers, left_out = tuple(classes), [], [], 0
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        text, label = _row(line, f"{path} line {number}")
        known = label_of.get(label, label)
        if label in neutral or known in classes:
            texts.append(text)
            numbers.append(FLAT if label in neutral else names.index(known))
        else:
            left_out += 1
    if not any(number != FLAT for number in numbers):
        raise InputError(f"no row has a label of {map_path}", where=path, do="its classes are " + ", ".join(names))
    return Labelled(path.name, tuple(texts), np.array(numbers), names, tuple(classes.values()), left_out)


def _row(line: str, where: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
        text, label = row["text"], row["label"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError('is not a line {"text": ..., "label": ...}', where=where) from error
    if not isinstance(text, str) or not text.strip() or not isinstance(label, str):
        raise FormatError("text and label must be words", where=where)
    if any("\ud800" <= character <= "\udfff" for character in text):  # JSON can escape it, tokenizers cannot take it
        raise FormatError("holds half a character", where=where)
    return text, label


def _read_map(
    path: Path, emotions: Sequence[str]
) -> tuple[dict[str, tuple[int, ...]], dict[str, str], tuple[str, ...]]:
    """Class → its emotions' numbers; label → class; the labels of texts without emotion."""
    try:
        table = tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is not a readable map ({error})", where=path) from error
    told, labels, neutral = table.get("classes"), table.get("labels", {}), table.get("neutral", {})
    if not isinstance(told, dict) or len(told) < 2:
        raise InputError("has no [classes] of at least two classes", where=path, do='write joy = ["happy", ...]')
    classes = {name: _members(own, emotions, f"{path}, class {name}") for name, own in told.items()}
    if not isinstance(labels, dict) or not all(isinstance(name, str) for name in labels.values()):
        raise InputError("[labels] must name a class for each label", where=path, do='write annoyance = "anger"')
    unknown = sorted(set(labels.values()) - set(classes))
    if unknown:
        raise InputError(f"[labels] names no class of the map: {', '.join(unknown)}", where=path)
    flat = neutral.get("labels", []) if isinstance(neutral, dict) else None
    if not isinstance(flat, list) or not all(isinstance(label, str) for label in flat):
        raise InputError("[neutral] must list labels", where=path, do='write labels = ["neutral"]')
    both = sorted(set(flat) & {*labels, *classes})
    if both:
        raise InputError(f"labels are neutral and of a class: {', '.join(both)}", where=path)
    return classes, labels, tuple(flat)


def _members(own: object, emotions: Sequence[str], where: str) -> tuple[int, ...]:
    """The numbers of a class's emotions."""
    if not isinstance(own, list) or not own or not all(isinstance(emotion, str) for emotion in own):
        raise InputError("needs a list of emotions", where=where)
    try:
        numbers = tuple(dict.fromkeys(list(emotions).index(emotion_name(emotion, emotions)) for emotion in own))
    except UnknownName as error:
        raise InputError(error.what, where=where, do=error.do) from error
    if len(numbers) == len(emotions):
        raise InputError("has all emotions, so nothing could be told from it", where=where)
    return numbers


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", where=path) from error


# ---------------------------------------------------------------- scores of classes
@dataclass(frozen=True)
class ClassScorer:
    """members of each class; mean_C, sd_C of what it scores above all emotions, over texts of other emotions."""

    members: tuple[tuple[int, ...], ...]
    mean_C: np.ndarray
    sd_C: np.ndarray

    def __call__(self, scores_NE: np.ndarray) -> np.ndarray:
        return (_means(scores_NE, self.members) - self.mean_C) / self.sd_C


def class_scorer(members: Sequence[Sequence[int]], heldout_NE: np.ndarray, emotion_N: np.ndarray) -> ClassScorer:
    """heldout_NE: scores of corpus texts by prototypes that never saw their topic (NaN: not known); emotion_N, their
    emotions. No class may have all of them."""
    means_NC = _means(heldout_NE, members)
    others = [means_NC[~np.isin(emotion_N, own), c] for c, own in enumerate(members)]
    mean_C, sd_C = np.array([np.nanmean(o) for o in others]), np.array([np.nanstd(o) for o in others])
    return ClassScorer(tuple(map(tuple, members)), mean_C, np.where(sd_C > 1e-9, sd_C, 1.0))


def against_background(scores_NC: np.ndarray, background_MC: np.ndarray) -> np.ndarray:
    """Class scores standardised on the user's own unlabelled texts."""
    sd_C = background_MC.std(0)
    return (scores_NC - background_MC.mean(0)) / np.where(sd_C > 1e-9, sd_C, 1.0)


def calibrated(scores_NC: np.ndarray, class_N: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """(N,) classes of all rows by a linear discriminant on the class scores of the labelled rows `sample`.

    Classes that the sample lacks are never named.
    """
    own_MC, own_M = scores_NC[sample], class_N[sample]
    present = np.unique(own_M)
    centre_KC = np.stack([own_MC[own_M == c].mean(0) for c in present])
    R_MC = own_MC - centre_KC[np.searchsorted(present, own_M)]
    S_CC = R_MC.T @ R_MC / max(len(own_M) - len(present), 1)
    S_CC += SHRINK * max(np.trace(S_CC) / len(S_CC), 1e-9) * np.eye(len(S_CC))
    W_CK = np.linalg.solve(S_CC, centre_KC.T)
    prior_K = np.log([(own_M == c).mean() for c in present])
    return present[(scores_NC @ W_CK - (centre_KC.T * W_CK).sum(0) / 2 + prior_K).argmax(1)]


def labelled_sample(class_N: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Row numbers of a labelled sample, spread evenly over the classes as far as they go. Raises InputError."""
    rows = np.flatnonzero(class_N != FLAT)
    if not 0 < count < len(rows):
        raise InputError(f"--calibrate must lie between 1 and {len(rows) - 1}, not {count}")
    order = np.random.default_rng(seed).permutation(rows)
    turn = np.zeros(len(order), np.int64)  # how many of the same class came before
    for c in np.unique(class_N[order]):
        own = class_N[order] == c
        turn[own] = np.arange(own.sum())
    return np.sort(order[np.argsort(turn, kind="stable")][:count])


def macro_f1(class_N: np.ndarray, named_N: np.ndarray, C: int) -> float:
    """Mean over classes of 2 TP / (2 TP + FP + FN)."""
    return float(_f1(np.bincount(class_N * C + named_N, minlength=C * C).reshape(1, C, C))[0])


def macro_f1_interval(class_N: np.ndarray, named_N: np.ndarray, C: int, seed: int) -> tuple[float, float]:
    """95 % interval by bootstrap over texts (multinomial draws of the confusion table)."""
    table = np.bincount(class_N * C + named_N, minlength=C * C)
    draws = np.random.default_rng(seed).multinomial(len(class_N), table / table.sum(), RESAMPLES)
    low, high = np.quantile(_f1(draws.reshape(-1, C, C)), [0.025, 0.975])
    return float(low), float(high)


def _f1(table_BCC: np.ndarray) -> np.ndarray:
    hits_BC = np.einsum("bcc->bc", table_BCC)
    both_BC = table_BCC.sum(1) + table_BCC.sum(2)
    return (2 * hits_BC / np.maximum(both_BC, 1)).mean(1)


def _means(scores_NE: np.ndarray, members: Sequence[Sequence[int]]) -> np.ndarray:
    """(N, C): mean over a class's emotions less the mean over all that are known."""
    known_NE = ~np.isnan(scores_NE)
    all_N = np.where(known_NE, scores_NE, 0).sum(1) / np.maximum(known_NE.sum(1), 1)
    return np.stack([scores_NE[:, list(own)].mean(1) for own in members], axis=1) - all_N[:, None]
