"""Streams of documents: every one once, in a reproducible order, in bounded memory."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.corpus import documents, source_fingerprints
from saefeat.errors import InputError


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    module = importlib.import_module("saefeat.corpus.documents")
    monkeypatch.setattr(module, "BLOCK", 64)
    monkeypatch.setattr(module, "POOL", 500)
    monkeypatch.setattr(module, "PIECE", 30)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(min_size=1, max_size=150).filter(str.strip), min_size=1, max_size=40))
def test_every_line_of_a_jsonl_comes_once_however_blocks_fall(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    import importlib

    module = importlib.import_module("saefeat.corpus.documents")
    path = write_jsonl(tmp_path_factory.mktemp("jsonl") / "a.jsonl", texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", 50)
        patch.setattr(module, "POOL", 200)
        found = [document.text for document in documents([path], seed=1)]
    assert Counter(found) == Counter(texts)


def test_the_order_follows_the_seed_and_nothing_else(tmp_path: Path, small_blocks: None) -> None:
    texts = [f"text number {i}" for i in range(200)]
    write_jsonl(tmp_path / "a.jsonl", texts[:100])
    write_jsonl(tmp_path / "b.jsonl", texts[100:])
    order = [[d.text for d in documents([tmp_path], seed=seed)] for seed in (0, 0, 1)]
    assert order[0] == order[1] != order[2]
    assert sorted(map(str, order[0])) == sorted(texts)
    from_b = [int(str(text).split()[-1]) >= 100 for text in order[0][:100]]
    assert 25 < sum(from_b) < 75, "files are not mixed"


def test_a_txt_is_cut_at_line_ends_and_loses_nothing(tmp_path: Path, small_blocks: None) -> None:
    lines = [f"line {i} of a book\n" for i in range(100)]
    (tmp_path / "book.txt").write_text("".join(lines))
    pieces = [str(document.text) for document in documents([tmp_path / "book.txt"], seed=0)]
    assert len(pieces) > 20
    assert Counter(line for piece in pieces for line in piece.split("\n")) == Counter(map(str.strip, lines))


def test_parquet_and_conversations(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a", None, "b", ""]}), tmp_path / "a.parquet", row_group_size=2)
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    pq.write_table(pa.table({"messages": [talk]}), tmp_path / "b.parquet")
    (tmp_path / "c.jsonl").write_text(json.dumps({"messages": talk, "source": "x"}) + "\n")
    found = list(documents([tmp_path], seed=0))
    assert sorted(d.text for d in found if d.text) == ["a", "b"]
    assert [d.messages for d in found if d.messages] == [talk, talk]


def test_memory_stays_bounded(tmp_path: Path, small_blocks: None) -> None:
    """After n documents no more than the pool was read: a bad line far away has not been met."""
    path = write_jsonl(tmp_path / "a.jsonl", [f"text {i:05d}" for i in range(2000)])
    with path.open("a") as file:
        file.write("not json\n")
    stream = documents([path], seed=3)
    with pytest.raises(InputError, match=r"a\.jsonl line 2001: "):
        list(stream)
    assert len(list(itertools.islice(documents([path], seed=3), 5))) == 5


def test_fingerprints_follow_the_contents(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["one", "two"])
    before = source_fingerprints([tmp_path])
    assert before == source_fingerprints([path])
    write_jsonl(path, ["one", "twp"])
    assert source_fingerprints([path]) != before


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.pdf").write_text("x")
    (tmp_path / "b.parquet").write_text("x")
    for given_paths, message in [
        ([], "no text given"),
        ([tmp_path / "none.txt"], "no such file"),
        ([tmp_path / "empty"], "holds no"),
        ([tmp_path / "a.pdf"], "none of the kinds"),
        ([tmp_path / "b.parquet"], "not a readable parquet"),
    ]:
        with pytest.raises(InputError, match=message):
            list(documents(given_paths, seed=0))
