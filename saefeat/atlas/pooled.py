"""Texts as a readout sees them: checked, then pooled a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from saefeat.atlas.nearest import choose_readout
from saefeat.atlas.opened import Opened
from saefeat.corpus import TextItem
from saefeat.errors import InputError
from saefeat.label import pool_texts

FIRST, CHUNK = 16, 256
"""Texts that are taken together, at first and at most, twice as many each time: the first answers come soon, and later
batches can be of texts of like length (with 32 texts one token in twelve is padding, with 256 one in seventy)."""


@dataclass(frozen=True)
class Pooled:
    """A text as a readout sees it; or, with `error`, why there is no such thing."""

    item: TextItem
    readout: str = ""
    x_F: np.ndarray | None = None
    windows: int = 0
    error: str | None = None


def pooled_texts(atlas: Opened, texts: Iterable[str | TextItem], readout: str, keep_going: bool) -> Iterator[Pooled]:
    """Texts in order; readout 'auto' chooses for each text by its length. Raises UnknownName, InputError."""
    if readout != "auto":
        atlas.check_readout(readout)
    chunk: list[TextItem] = []
    size = min(FIRST, CHUNK)
    for number, text in enumerate(texts, 1):
        chunk.append(TextItem(str(number), text) if isinstance(text, str) else text)
        if len(chunk) == size:
            yield from _pooled_chunk(atlas, chunk, readout, keep_going)
            chunk, size = [], min(2 * size, CHUNK)
    if chunk:
        yield from _pooled_chunk(atlas, chunk, readout, keep_going)


def _pooled_chunk(atlas: Opened, chunk: list[TextItem], readout: str, keep_going: bool) -> list[Pooled]:
    done: list[Pooled | None] = [None] * len(chunk)
    for i, item in enumerate(chunk):
        try:
            _check_text(item)
        except InputError as error:
            if not keep_going:
                raise
            done[i] = Pooled(item, error=item.error or error.what)
    waiting = [i for i, one in enumerate(done) if one is None]
    chosen = {i: _readout_of(atlas, str(chunk[i].text), readout) for i in waiting}
    for readout in dict.fromkeys(chosen.values()):
        members = [i for i in waiting if chosen[i] == readout]
        sae, config = atlas.sae(atlas.readouts[readout]["sae"]), atlas.readout_config(readout)
        pools = pool_texts(atlas.subject(), [str(chunk[i].text) for i in members], [config], {readout: sae})
        for row, i in enumerate(members):
            windows = int(pools.n_windows_N[row]) if config.pool == "mean" else 1
            done[i] = Pooled(chunk[i], readout, pools.features[readout][row], windows)
    return [one for one in done if one is not None]


def _readout_of(atlas: Opened, text: str, readout: str) -> str:
    if readout != "auto":
        return readout
    return choose_readout(atlas.readouts, len(atlas.subject().tokenize(text)))


def _check_text(item: TextItem) -> None:
    """Raises InputError for what cannot be read as a text."""
    where = f"text {item.id}"
    if item.error is not None:
        raise InputError(item.error, where=where)
    if item.text is None:
        raise InputError("is a conversation, not a text", where=where, do='give it as {"text": ...}')
    try:
        item.text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError("is not UTF-8 text", where=where) from error
    if not item.text.strip():
        raise InputError("the text is empty", where=where, do="pass some words")
