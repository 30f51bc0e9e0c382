"""Texts into an index of texts: read with the atlas, their profiles kept."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saefeat import __version__
from saefeat.atlas import lists
from saefeat.atlas.indexed import check_same, check_weights, default_directory, told_of
from saefeat.atlas.nearest import profile
from saefeat.atlas.opened import Opened
from saefeat.atlas.pooled import pooled_texts
from saefeat.atlas.rows import Batch, Rows, Writer, writing
from saefeat.corpus import TextItem
from saefeat.errors import InputError

logger = logging.getLogger(__name__)
Progress = Callable[[int, int], None] | None

ROWS, SECONDS = 2048, 20.0
"""Rows are made to count at least every so many, or every so many seconds."""
BEGINNING = 200
"""Characters of a text that are kept, to show what was found."""
RECENT = 1 << 16
"""New keys that are held apart before they are sorted among the others."""


@dataclass(frozen=True, kw_only=True)
class Added:
    """What an addition did. skipped: texts that were in already, by id or content; changed: those of them that had
    another text under their id (the first stays); failed: texts that could not be read. rows: all that are in now."""

    directory: str
    readout: str
    added: int
    skipped: int
    changed: int
    failed: int
    rows: int
    search: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def add_texts(
    atlas: Opened,
    texts: Iterable[str | TextItem],
    to: Path | str | None = None,
    *,
    readout: str | None = None,
    keep_going: bool = False,
    on_progress: Progress = None,
) -> Added:
    """Read texts and keep their profiles in the directory `to`, after those that are there.

    A text is known by its id, or, without one, by its content; one that is in already is skipped, so that an addition
    that was interrupted goes on where it stopped when it is run again. readout: of a new index, the atlas's first
    unless said. Memory does not grow with the texts but for 16 bytes each. on_progress counts texts (of 0: nobody
    knows how many), then rows put into lists. Raises Busy, InputError, FormatError, ModelMismatch; rows that were
    committed stay.
    """
    to = default_directory(atlas) if to is None else Path(to)
    asked = readout if readout is None else atlas.check_readout(readout)
    told = told_of(atlas, asked or next(iter(atlas.readouts)))
    with writing(to, told | {"saefeat": __version__}) as writer:
        check_same(atlas, writer.manifest, to)
        if asked not in (None, writer.manifest["readout"]):
            what = f"holds profiles by the readout {writer.manifest['readout']}, not {asked}"
            raise InputError(what, where=to, do="choose another --to")
        if "weights" in writer.manifest:
            check_weights(atlas, writer.manifest, to)
        adding = _Adding(atlas, writer, on_progress)
        try:
            adding.read(texts, keep_going)
        finally:
            adding.flush()
        if not writer.rows:
            raise InputError("none of the texts could be read" if adding.failed else "there are no texts to add")
        search = writer.manifest["search"]
        if lists.wanted(writer.rows, search):
            search = _make_lists(to, writer, on_progress)
        counts = {"added": adding.added, "skipped": adding.skipped, "changed": adding.changed, "failed": adding.failed}
        readout = str(writer.manifest["readout"])
        return Added(directory=str(to), readout=readout, **counts, rows=writer.rows, search=search)


def add_rows(
    atlas: Opened, batches: Iterable[Batch], to: Path | str, *, readout: str, on_progress: Progress = None
) -> dict[str, Any] | None:
    """Append profiles that were read elsewhere, and make lists if there are many rows; returns what is told of those.

    Every row is taken as it is: no text is read, and no id is looked up.
    """
    to = Path(to)
    with writing(to, told_of(atlas, atlas.check_readout(readout)) | {"saefeat": __version__}) as writer:
        check_same(atlas, writer.manifest, to)
        for batch in batches:
            writer.append(batch)
            writer.commit(weights=writer.manifest.get("weights", atlas.fingerprint.weights))
        if lists.wanted(writer.rows, writer.manifest["search"]):
            _make_lists(to, writer, on_progress)
        return writer.manifest["search"]


def build_lists(directory: Path | str, *, on_progress: Progress = None) -> dict[str, Any] | None:
    """Make the lists of an index of texts anew; None, and nothing made, if it is small enough for exact search."""
    directory = Path(directory)
    Rows.open(directory)
    with writing(directory, {}) as writer:
        if writer.rows <= lists.EXACT_ROWS:
            return None
        return _make_lists(directory, writer, on_progress)


def _make_lists(directory: Path, writer: Writer, on_progress: Progress) -> dict[str, Any]:
    old = writer.manifest["search"]
    search = lists.make(Rows.open(directory, verify=False).profiles_NE, directory, on_progress)
    writer.commit(search=search)
    if old and old["file"] not in (None, search["file"]):
        (directory / old["file"]).unlink(missing_ok=True)
    return search


# ---------------------------------------------------------------- inside
class _Adding:
    """Texts on their way into the rows: those not yet written, and the counts."""

    def __init__(self, atlas: Opened, writer: Writer, on_progress: Progress) -> None:
        self.atlas, self.writer, self.on_progress = atlas, writer, on_progress
        self.known = Known(writer)
        self.added = self.skipped = self.changed = self.failed = 0
        self._scores: list[np.ndarray] = []
        self._keys: list[tuple[int, int]] = []
        self._records: list[bytes] = []
        self._since = time.monotonic()

    def read(self, texts: Iterable[str | TextItem], keep_going: bool) -> None:
        readout = self.writer.manifest["readout"]
        for pooled in pooled_texts(self.atlas, self._new(texts), readout, keep_going):
            if pooled.x_F is None:
                logger.warning("%s: %s", pooled.item.id, pooled.error)
                self.failed += 1
                continue
            self._scores.append(self.atlas.prototypes[readout].scores(pooled.x_F))
            self._keys.append(keys(named(pooled.item)))
            self._records.append(record(named(pooled.item)))
            if len(self._records) >= ROWS or time.monotonic() - self._since > SECONDS:
                self.flush()

    def _new(self, texts: Iterable[str | TextItem]) -> Iterator[TextItem]:
        """The texts that are not in."""
        for number, given in enumerate(texts, 1):
            item = TextItem(str(number), given, named=False) if isinstance(given, str) else given
            if self.on_progress:
                self.on_progress(number, 0)
            if item.text is not None:
                own = keys(named(item))
                known = self.known.text_of(*own)
                if known is not None:
                    self.skipped += 1
                    self.changed += known != own[1]
                    continue
            yield item

    def flush(self) -> None:
        """Make what was read count."""
        self._since = time.monotonic()
        if not self._records:
            return
        scores_NE = np.stack(self._scores)
        mean_N = scores_NE.mean(1)
        length_N = np.linalg.norm(scores_NE - mean_N[:, None], axis=1)
        levels_N2 = np.stack([mean_N, length_N], 1)
        keys_N2 = np.array(self._keys, np.uint64)
        batch = Batch(profiles_NE=profile(scores_NE), levels_N2=levels_N2, keys_N2=keys_N2, records=self._records)
        self.writer.append(batch)
        self.writer.commit(weights=self.atlas.subject().fingerprint.weights)
        self.added += len(self._records)
        self._scores, self._keys, self._records = [], [], []


class Known:
    """Which texts are in: of the hash of each id, the hash of its text. 16 bytes a text."""

    def __init__(self, writer: Writer) -> None:
        keys_N2 = Rows.open(writer.directory).keys_N2 if writer.rows else np.zeros((0, 2), np.uint64)
        self._sorted = _sorted(keys_N2)
        self._recent: dict[int, int] = {}

    def text_of(self, id_key: int, text_key: int) -> int | None:
        """The hash of the text that is in under an id; None if there is none, and from now on it is this one."""
        if id_key in self._recent:
            return self._recent[id_key]
        place = int(np.searchsorted(self._sorted[0], np.uint64(id_key)))
        if place < len(self._sorted[0]) and int(self._sorted[0][place]) == id_key:
            return int(self._sorted[1][place])
        self._recent[id_key] = text_key
        if len(self._recent) >= RECENT:
            recent = np.array(list(self._recent.items()), np.uint64)
            self._sorted = _sorted(np.concatenate([np.stack(self._sorted, 1), recent]))
            self._recent = {}
        return None


def _sorted(keys_N2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(keys_N2[:, 0], kind="stable")
    return np.ascontiguousarray(keys_N2[order, 0]), np.ascontiguousarray(keys_N2[order, 1])


def named(item: TextItem) -> TextItem:
    """A text under its id; without one, under the hash of its content."""
    if item.named:
        return item
    return TextItem(f"{_hash(str(item.text)):016x}", item.text, fields=item.fields)


def keys(item: TextItem) -> tuple[int, int]:
    """The hashes of a text's id and of the text: 64 bits each, of SHA-256."""
    return _hash(item.id), _hash(str(item.text))


def record(item: TextItem) -> bytes:
    """What is kept of a text beside its profile, as one line of JSON. Fields that are neither text, number, true,
    false nor null are left out."""
    fields = {key: value for key, value in item.fields.items() if _is_plain(value)}
    if len(fields) < len(item.fields):
        logger.debug("%s: fields that hold lists or objects are left out", item.id)
    return json.dumps({"id": item.id, "text": str(item.text)[:BEGINNING], "fields": fields}).encode()


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
