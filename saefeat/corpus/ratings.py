"""Valence and arousal of emotion words: our own ratings, or norms that the user brings.

A file of norms is `.jsonl` (`{"emotion", "valence", "arousal"}`) or a table with a header line, `.csv` (comma or
semicolon) or `.tsv`. The column of words may be called `emotion` or `word`; other columns are ignored. The scale is
the file's own: what is made of ratings (correlations, predictions) does not depend on it.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saefeat.corpus.stories import RATINGS_FILE, _loose, _text
from saefeat.errors import FormatError, InputError
from saefeat.files import shipped

WORD_COLUMNS = ("emotion", "word")
NUMBER_COLUMNS = ("valence", "arousal")


@dataclass(frozen=True)
class Ratings:
    """Words as the file spells them, and one rating of each: valence_W and arousal_W, float64, finite."""

    words: tuple[str, ...]
    valence_W: np.ndarray
    arousal_W: np.ndarray

    def of(self, emotions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(valence_E, arousal_E) in the order of `emotions`, NaN for one without a rating.

        Case, '-', '_' and spaces do not matter.
        """
        place = {_loose(word): i for i, word in enumerate(self.words)}
        rows = [place.get(_loose(emotion), len(self.words)) for emotion in emotions]
        return np.append(self.valence_W, np.nan)[rows], np.append(self.arousal_W, np.nan)[rows]


def load_ratings(path: str | Path | None = None) -> Ratings:
    """Read a file of norms; None: the ratings that ship with the stories (0 to 1, written by a language model).

    Raises InputError: no such file. FormatError: another kind of file, no header or a column missing, a rating that
    is no finite number, a word rated twice, no rows; each with file and line.
    """
    path = shipped("corpora") / "stories" / RATINGS_FILE if path is None else Path(path)
    if not path.is_file():
        raise InputError("no such file of ratings", where=path, do="pass a .jsonl, .csv or .tsv")
    if path.suffix == ".jsonl":
        rows = _json_rows(path)
    elif path.suffix in (".csv", ".tsv"):
        rows = _table_rows(path)
    else:
        raise FormatError(f"{path.suffix or 'a file without ending'} is not read", where=path, do="use .jsonl or .csv")
    seen: dict[str, tuple[str, float, float]] = {}
    for where, row in rows:
        word, valence, arousal = _row(row, where)
        if _loose(word) in seen:
            raise FormatError(f"{word!r} is rated twice", where=where)
        seen[_loose(word)] = word, valence, arousal
    if not seen:
        raise FormatError("holds no ratings", where=path)
    words, valence_W, arousal_W = zip(*seen.values(), strict=True)
    return Ratings(words, np.array(valence_W), np.array(arousal_W))


# ---------------------------------------------------------------- rows
def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise FormatError(f"is not JSON ({error})", where=where) from error
        if not isinstance(row, dict):
            raise FormatError("is no object", where=where, do='each line is {"emotion", "valence", "arousal"}')
        yield where, {name.lower(): value for name, value in row.items()}


def _table_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = _text(path).removeprefix("\ufeff")
    first = text.partition("\n")[0]
    delimiter = "\t" if path.suffix == ".tsv" else ";" if first.count(";") > first.count(",") else ","
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    header = [name.strip().lower() for name in next(reader, [])]
    if not set(WORD_COLUMNS) & set(header) or not set(NUMBER_COLUMNS) <= set(header):
        do = "the first line names the columns: emotion (or word), valence, arousal"
        raise FormatError("has no header with the columns of ratings", where=path, do=do)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield f"{path} line {reader.line_num}", dict(zip(header, cells, strict=False))


def _row(row: dict[str, Any], where: str) -> tuple[str, float, float]:
    word = next((row[name] for name in WORD_COLUMNS if name in row), None)
    if not isinstance(word, str) or not word.strip():
        raise FormatError("has no 'emotion' (or 'word')", where=where)
    numbers = []
    for name in NUMBER_COLUMNS:
        value = row.get(name)
        try:
            number = math.nan if value is None or isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise FormatError(f"{name} of {word.strip()!r} is no number", where=where)
        numbers.append(number)
    return word.strip(), numbers[0], numbers[1]
