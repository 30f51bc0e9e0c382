"""Streams of documents for harvesting: any mixture of files, in one deterministic shuffled order, in bounded memory.

Files are cut into blocks (byte ranges, row groups). The blocks are permuted, read one after the other, and their
documents leave through a pool in random order: with less text than the pool holds, that is a full shuffle.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from saefeat.corpus.texts import text_or_messages
from saefeat.errors import InputError

SUFFIXES = (".txt", ".jsonl", ".ndjson", ".parquet")
BLOCK = 1 << 18
"""Bytes of a text file in a block."""
POOL = 1 << 26
"""Characters waiting to leave in random order."""
PIECE = 8_000
"""Characters after which a .txt is cut at the next line end: a book is many documents."""
WHOLE = 1 << 28
"""Files up to this many bytes are fingerprinted whole, larger ones by a sample."""


@dataclass(frozen=True)
class Document:
    """A text or a conversation (exactly one of them), and the file it comes from."""

    text: str | None
    messages: list[dict[str, str]] | None
    source: str

    @property
    def size(self) -> int:
        """Characters."""
        return len(self.text or "") + sum(len(message["content"]) for message in self.messages or ())


class _Block(NamedTuple):
    path: Path
    start: int  # byte, or row group
    stop: int


def documents(paths: Iterable[str | Path], *, seed: int) -> Iterator[Document]:
    """Every document of the files, once, in an order that depends on the files' contents, their order and `seed` only.

    paths: .txt (cut into pieces of about 8,000 characters), .jsonl (`text` or `messages` a line), .parquet (a column
    `text` or `messages`), directories of them, or `hf:DATASET[:SPLIT]` (needs `datasets` and the network). Empty
    documents are skipped. Raises InputError: nothing there, or a line that cannot be read, with its number.
    """
    files, datasets = expand(paths)
    blocks = [block for path in files for block in _blocks(path)]
    chance = random.Random(seed)
    chance.shuffle(blocks)
    streams: list[Iterator[Document]] = [(document for block in blocks for document in _read(block))]
    streams += [_hf(name, seed) for name in datasets]
    return _shuffled(_mixed(streams, chance), chance)


def source_fingerprints(paths: Iterable[str | Path]) -> list[str]:
    """'NAME:16 hex digits' of every file behind `paths`, in the order in which `documents` takes them.

    Files above 256 MiB are sampled (size and 64 pieces); a dataset of a hub is its name alone.
    """
    files, datasets = expand(paths)
    return [f"{path.name}:{_file_fingerprint(path)}" for path in files] + [f"hf:{name}" for name in datasets]


def expand(paths: Iterable[str | Path]) -> tuple[list[Path], list[str]]:
    """(files, hub datasets) that `paths` mean; directories are walked in sorted order. Raises InputError."""
    files: list[Path] = []
    datasets: list[str] = []
    for given in paths:
        if str(given).startswith("hf:"):
            datasets.append(str(given)[3:])
            continue
        path = Path(given).expanduser()
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not found:
                raise InputError(f"holds no {', '.join(SUFFIXES)}", where=path)
            files += found
        elif not path.is_file():
            raise InputError("no such file", where=path)
        elif path.suffix.lower() not in SUFFIXES:
            raise InputError(f"is of none of the kinds {', '.join(SUFFIXES)}", where=path)
        else:
            files.append(path)
    if not files and not datasets:
        raise InputError("no text given", do='pass --text FILE, or set text = ["FILE"]')
    return files, datasets


# ---------------------------------------------------------------- order
def _shuffled(stream: Iterator[Document], chance: random.Random) -> Iterator[Document]:
    pool: list[Document] = []
    waiting = 0
    for document in stream:
        pool.append(document)
        waiting += document.size
        while waiting > POOL:
            i = chance.randrange(len(pool))
            pool[i], pool[-1] = pool[-1], pool[i]
            waiting -= pool[-1].size
            yield pool.pop()
    chance.shuffle(pool)
    while pool:
        yield pool.pop()


def _mixed(streams: Sequence[Iterator[Document]], chance: random.Random) -> Iterator[Document]:
    alive = list(streams)
    while alive:
        stream = alive[0] if len(alive) == 1 else chance.choice(alive)
        document = next(stream, None)
        if document is None:
            alive.remove(stream)
        elif document.size:
            yield document


# ---------------------------------------------------------------- files
def _blocks(path: Path) -> list[_Block]:
    if path.suffix.lower() == ".parquet":
        return [_Block(path, i, i + 1) for i in range(_parquet(path).num_row_groups)]
    size = path.stat().st_size
    return [_Block(path, start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]


def _read(block: _Block) -> Iterator[Document]:
    if block.path.suffix.lower() == ".parquet":
        return _read_parquet(block)
    return _read_txt(block) if block.path.suffix.lower() == ".txt" else _read_jsonl(block)


def _lines(block: _Block) -> Iterator[tuple[int, str]]:
    """(byte position, line) of the lines that start inside the block."""
    try:
        with block.path.open("rb") as file:
            if block.start:
                file.seek(block.start - 1)
                file.readline()  # the rest of a line that started before the block
            while (position := file.tell()) < block.stop:
                raw = file.readline()
                if position == 0:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                try:
                    yield position, raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise InputError("is not UTF-8 text", where=_line_name(block.path, position)) from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=block.path) from error


def _line_name(path: Path, position: int) -> str:
    """'FILE line N' of the line at a byte position; counted only when something is wrong there."""
    number, left = 1, position
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(left, 1 << 20))):
            number, left = number + chunk.count(b"\n"), left - len(chunk)
    return f"{path} line {number}"


def _read_txt(block: _Block) -> Iterator[Document]:
    piece: list[str] = []
    size = 0
    for _, line in _lines(block):
        piece.append(line)
        size += len(line)
        if size >= PIECE:
            yield Document("".join(piece).strip(), None, block.path.name)
            piece, size = [], 0
    yield Document("".join(piece).strip(), None, block.path.name)


def _read_jsonl(block: _Block) -> Iterator[Document]:
    for position, line in _lines(block):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if isinstance(row, dict) and row.get("text") == "":
                continue
            yield Document(*text_or_messages(row), block.path.name)
        except (ValueError, RecursionError) as error:
            raise InputError(str(error), where=_line_name(block.path, position)) from error


def _parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"is not a readable parquet file ({error})", where=path) from error


def _read_parquet(block: _Block) -> Iterator[Document]:
    file = _parquet(block.path)
    column = next((name for name in ("text", "messages") if name in file.schema_arrow.names), None)
    if column is None:
        raise InputError("has no column 'text' or 'messages'", where=block.path)
    for number, value in enumerate(file.read_row_group(block.start, columns=[column])[column].to_pylist(), 1):
        if not value:
            continue
        try:
            yield Document(*text_or_messages({column: value}), block.path.name)
        except ValueError as error:
            raise InputError(str(error), where=f"{block.path} row group {block.start} row {number}") from error


def _file_fingerprint(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= WHOLE:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
        else:
            for i in range(64):
                file.seek((size - (1 << 20)) * i // 63)
                digest.update(file.read(1 << 20))
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- a hub's datasets
def _hf(name: str, seed: int) -> Iterator[Document]:
    dataset, _, split = name.partition(":")
    try:
        import datasets as hub

        stream = hub.load_dataset(dataset, split=split or "train", streaming=True).shuffle(seed=seed, buffer_size=1_000)
    except Exception as error:  # of the hub, the network, a missing package: all are the user's to mend
        raise InputError(
            f"cannot be loaded ({error})", where=f"hf:{name}", do="check the name and the network, or pass files"
        ) from error
    for row in stream:
        try:
            yield Document(*text_or_messages({k: row[k] for k in ("text", "messages") if row.get(k)}), f"hf:{dataset}")
        except ValueError as error:
            raise InputError(str(error), where=f"hf:{name}") from error
