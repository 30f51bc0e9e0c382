"""Which rows a search may find: conditions on their fields and on their emotions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from saefeat.atlas.rows import BLOCK, Rows
from saefeat.corpus import emotion_name
from saefeat.errors import InputError

CONDITION = re.compile(r"\s*(?P<emotion>[^<>=]*[^<>=\s])\s*(?P<sign>[<>])\s*(?P<level>[-+]?(?:\d+\.?\d*|\.\d+))\s*")
Scalar = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A score of one emotion (its number) above, or with `below` below, a level."""

    emotion: int
    level: float
    below: bool = False

    def holds(self, score_N: np.ndarray) -> np.ndarray:
        return score_N < self.level if self.below else score_N > self.level


def parse_threshold(text: str, emotions: Sequence[str]) -> Threshold:
    """'joyful>2', 'at-ease < -1.5'. Raises InputError (not so written), UnknownName (emotion)."""
    match = CONDITION.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is no condition on an emotion", do="write it like 'joyful>2' or 'calm<-1'")
    number = list(emotions).index(emotion_name(match["emotion"], emotions))
    return Threshold(emotion=number, level=float(match["level"]), below=match["sign"] == "<")


def parse_where(conditions: Mapping[str, Scalar] | Sequence[str]) -> dict[str, Scalar]:
    """{"lang": "de"} of ["lang=de"]. Raises InputError: no '=', no key, a key twice."""
    if isinstance(conditions, Mapping):
        return dict(conditions)
    found: dict[str, Scalar] = {}
    for condition in conditions:
        key, equals, value = condition.partition("=")
        if not equals or not key.strip():
            raise InputError(f"{condition!r} is no condition on a field", do="write it like lang=en")
        if key.strip() in found:
            raise InputError(f"two conditions on the field {key.strip()!r}", do="pass one, no row can meet both")
        found[key.strip()] = value.strip()
    return found


def spellings(value: Scalar) -> list[str]:
    """How a field that equals `value` is written in JSON; a string also stands for the number (or true, false, null)
    that is written so."""
    written = [json.dumps(value)]
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except ValueError:
            return written
        if parsed is None or isinstance(parsed, bool | int | float):
            written.append(json.dumps(parsed))
    return written


def kept(rows: Rows, where: Mapping[str, Scalar], thresholds: Sequence[Threshold]) -> np.ndarray | None:
    """(N,) bool: the rows that meet every condition; None if there is none to meet. Exact.

    Fields are found in the records as they lie on disk: within a JSON string every quote has a backslash before it,
    so that '"lang": "en"' cannot be part of a text.
    """
    if not where and not thresholds:
        return None
    keep_N = np.ones(rows.n, bool)
    for key, value in where.items():
        pattern = re.escape(json.dumps(key)) + ": (?:" + "|".join(map(re.escape, spellings(value))) + ")[,}]"
        starts = [match.start() for match in re.finditer(pattern.encode(), rows.records)]
        own_N = np.zeros(rows.n, bool)
        own_N[np.searchsorted(rows.ends_N, np.array(starts, np.uint64), side="right")] = True
        keep_N &= own_N
    for start in range(0, rows.n if thresholds else 0, BLOCK):
        part = slice(start, min(start + BLOCK, rows.n))
        mean_N, length_N = rows.levels_N2[part].T
        for threshold in thresholds:
            keep_N[part] &= threshold.holds(mean_N + length_N * rows.profiles_NE[part, threshold.emotion])
    return keep_N
