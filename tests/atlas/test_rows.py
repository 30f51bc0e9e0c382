"""Rows on disk: appended, counted once they are safe, whole after a crash, and checked when opened."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.atlas import rows as rows_module
from saefeat.atlas.exact import exact, exact_many
from saefeat.atlas.filters import Threshold, kept, parse_threshold, parse_where, spellings
from saefeat.atlas.rows import FILES, KEYS, LEVELS, MANIFEST, PROFILES, RECORDS, Batch, Rows, writing
from saefeat.errors import Busy, FormatError, InputError, UnknownName

EMOTIONS = ["joyful", "calm", "at ease", "furious", "sad"]
TOLD = {"emotions": EMOTIONS, "readout": "story"}


def batch(n: int, seed: int = 0, **fields: object) -> Batch:
    chance = np.random.default_rng(seed)
    profiles_NE = chance.normal(size=(n, len(EMOTIONS))).astype(np.float32)
    profiles_NE -= profiles_NE.mean(1, keepdims=True)
    profiles_NE /= np.linalg.norm(profiles_NE, axis=1, keepdims=True)
    records = [json.dumps({"id": f"{seed}.{i}", "text": f"text {i}", "fields": {"n": i, **fields}}) for i in range(n)]
    return Batch(
        profiles_NE=profiles_NE,
        levels_N2=chance.normal(size=(n, 2)).astype(np.float32) ** 2,
        keys_N2=chance.integers(0, 2**63, (n, 2)).astype(np.uint64),
        records=[record.encode() for record in records],
    )


def write(directory: Path, *batches: Batch) -> Path:
    with writing(directory, TOLD) as writer:
        for one in batches:
            writer.append(one)
            writer.commit()
    return directory


# ---------------------------------------------------------------- what was written is read
@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), block=st.sampled_from([1, 7, 16, 64]))
def test_rows_come_back_in_order_whatever_the_batches(sizes: list[int], block: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "BLOCK", block)
        batches = [batch(n, seed) for seed, n in enumerate(sizes)]
        rows = Rows.open(write(Path(folder) / "index", *batches))
        assert rows.n == sum(sizes)
        np.testing.assert_array_equal(rows.profiles_NE, np.concatenate([b.profiles_NE for b in batches]))
        np.testing.assert_array_equal(rows.levels_N2, np.concatenate([b.levels_N2 for b in batches]))
        np.testing.assert_array_equal(rows.keys_N2, np.concatenate([b.keys_N2 for b in batches]))
        lines = [json.loads(record) for b in batches for record in b.records]
        assert [rows.record(i) for i in range(rows.n)] == lines
        assert {len(sums) for sums in rows.manifest["sums"].values()} == {-(-rows.n // block)}


def test_a_tail_that_was_not_committed_is_not_seen_and_cut(tmp_path: Path) -> None:
    index = write(tmp_path / "index", batch(10))
    before = {name: (index / name).read_bytes() for name in FILES}
    with writing(index, TOLD) as writer:
        writer.append(batch(5, 1))  # the process dies before it counts them
    for name in FILES:
        with (index / name).open("ab") as file:
            file.write(b"torn")
    (index / ".index.json.x.tmp").write_text("half")
    (index / "lists-9.faiss").write_text("of no manifest")
    assert Rows.open(index).n == 10
    with writing(index, TOLD):
        assert {name: (index / name).read_bytes() for name in FILES} == before
    assert sorted(path.name for path in index.iterdir()) == sorted([".lock", MANIFEST, *FILES])
    assert Rows.open(write(index, batch(3, 2))).n == 13


@pytest.mark.parametrize("step", range(1, 9))
def test_a_writer_killed_at_any_step_loses_nothing_that_counts(tmp_path: Path, step: int) -> None:
    """The steps: five files synced, then the manifest written, synced, renamed."""
    index = write(tmp_path / "index", batch(10))
    child = os.fork()
    if not child:
        calls = 0

        def struck(call):  # type: ignore[no-untyped-def]
            def strike(*arguments):  # type: ignore[no-untyped-def]
                nonlocal calls
                calls += 1
                if calls == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments)

            return strike

        os.fsync, os.replace = struck(os.fsync), struck(os.replace)
        write(index, batch(6, 1))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    rows = Rows.open(index)
    assert rows.n == (16 if step == 8 else 10)
    np.testing.assert_array_equal(rows.profiles_NE[:10], batch(10).profiles_NE)
    again = Rows.open(write(index, batch(4, 2)))
    assert again.n == rows.n + 4
    np.testing.assert_array_equal(again.profiles_NE[-4:], batch(4, 2).profiles_NE)


def test_a_full_disk_is_said_and_costs_only_what_did_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = write(tmp_path / "index", batch(10))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"No space left.*the 10 rows that count are safe"):
            write(index, batch(5, 1))
    assert Rows.open(index).n == 10


def test_one_writer_and_a_directory_of_its_own(tmp_path: Path) -> None:
    index = write(tmp_path / "index", batch(3))
    with writing(index, TOLD), pytest.raises(Busy, match="is being written by pid"):
        write(index, batch(3))
    assert Rows.open(index).n == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="is no index of texts"):
        write(tmp_path / "mine", batch(3))
    with pytest.raises(RuntimeError), writing(tmp_path / "new", TOLD):
        raise RuntimeError
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["flipped", "short", "gone"])
def test_damage_is_found_when_the_index_is_opened(tmp_path: Path, name: str, how: str) -> None:
    index = write(tmp_path / "index", batch(50))
    data = bytearray((index / name).read_bytes())
    if how == "flipped":
        data[len(data) // 3] ^= 4
    (index / name).write_bytes(data[:-1] if how == "short" else data)
    if how == "gone":
        (index / name).unlink()
    with pytest.raises(FormatError, match="index"):
        Rows.open(index)


def test_the_manifest_is_checked(tmp_path: Path) -> None:
    index = write(tmp_path / "index", batch(5))
    manifest = json.loads((index / MANIFEST).read_text())
    for change, words in (
        ({"rows": 4}, "checksum"), ({"format_version": 2}, "upgrade saefeat"), ({"format": "atlas"}, "not the manifest")
    ):  # fmt: skip
        (index / MANIFEST).write_text(json.dumps({**manifest, **change}))
        with pytest.raises(FormatError, match=words):
            Rows.open(index)
    with pytest.raises(FormatError, match="no index of texts here"):
        Rows.open(tmp_path / "none")


# ---------------------------------------------------------------- exact search
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.sampled_from([None, 0.01, 0.5, 1.0]), st.integers(0, 90))
def test_exact_search_equals_sorting_everything(seed: int, top: int, share: float | None, first: int) -> None:
    chance = np.random.default_rng(seed)
    rows_NE = chance.integers(-2, 3, size=(100, 4)).astype(np.float32)  # with ties
    query_E = chance.integers(-2, 3, size=4).astype(np.float32)
    keep_N = None if share is None else chance.random(100) < share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saefeat.atlas.exact.BLOCK", 16)
        numbers, products = exact(rows_NE, query_E, top=top, first=first, keep_N=keep_N)
        many_QK = exact_many(rows_NE, query_E[None], top)
    allowed = [i for i in range(first, 100) if keep_N is None or keep_N[i]]
    slow = sorted(allowed, key=lambda i: (-float(rows_NE[i] @ query_E), i))[:top]
    assert numbers.tolist() == slow
    assert products.tolist() == [float(rows_NE[i] @ query_E) for i in slow]
    best = sorted((float(row @ query_E) for row in rows_NE), reverse=True)[:top]
    assert sorted((float(rows_NE[i] @ query_E) for i in many_QK[0]), reverse=True) == best


# ---------------------------------------------------------------- conditions
def filtered(tmp_path: Path) -> Rows:
    fields: list[dict[str, object]] = [
        {"lang": "de", "year": 2024, "open": True},
        {"lang": "en", "year": "2024", "open": None},
        {"lang": 'he said: "lang": "de"}', "year": 20241},
        {"lang": "dé", "year": 2024.5, "x": "de"},
    ]
    one = batch(len(fields))
    records = [
        json.dumps({"id": str(i), "text": 'a text with "lang": "de", in it', "fields": own}).encode()
        for i, own in enumerate(fields)
    ]
    made = Batch(profiles_NE=one.profiles_NE, levels_N2=one.levels_N2, keys_N2=one.keys_N2, records=records)
    return Rows.open(write(tmp_path / "index", made))


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (["lang=de"], [0]), (["lang=dé"], [3]), (["year=2024"], [0, 1]), ({"year": 2024}, [0]), (["year=2024.50"], [3]),
        (["open=true"], [0]), (["open=null"], [1]), ({"open": None}, [1]), (["lang=de", "year=2024"], [0]),
        (["lang=nobody"], []), (["none=1"], []), (["x=de"], [3]),
    ],
)  # fmt: skip
def test_conditions_on_fields_are_exact(tmp_path: Path, where: list[str], found: list[int]) -> None:
    keep_N = kept(filtered(tmp_path), parse_where(where), [])
    assert keep_N is not None
    assert np.flatnonzero(keep_N).tolist() == found


def test_conditions_on_emotions_are_on_the_scores_before_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saefeat.atlas.filters.BLOCK", 16)
    rows = Rows.open(write(tmp_path / "index", batch(100)))
    scores_NE = rows.levels_N2[:, :1] + rows.levels_N2[:, 1:] * rows.profiles_NE
    keep_N = kept(rows, {}, [parse_threshold("At-Ease > .4", EMOTIONS), parse_threshold("sad<1", EMOTIONS)])
    assert keep_N is not None
    assert keep_N.tolist() == ((scores_NE[:, 2] > 0.4) & (scores_NE[:, 4] < 1)).tolist()
    assert 0 < keep_N.sum() < 100
    assert kept(rows, {}, []) is None


def test_conditions_that_are_none_are_said() -> None:
    assert parse_threshold("calm < -1.5", EMOTIONS) == Threshold(emotion=1, level=-1.5, below=True)
    for bad in ("calm", "calm>", ">2", "calm=2", "calm>x", "calm>>2", "calm>=2"):
        with pytest.raises(InputError, match="write it like 'joyful>2'"):
            parse_threshold(bad, EMOTIONS)
    with pytest.raises(UnknownName, match="did you mean 'joyful'"):
        parse_threshold("joyfull>2", EMOTIONS)
    assert parse_where(["a=b=c"]) == {"a": "b=c"}
    for bad in ("lang", "=x"):
        with pytest.raises(InputError, match="write it like lang=en"):
            parse_where([bad])
    with pytest.raises(InputError, match="two conditions on the field 'a'"):
        parse_where(["a=1", "a=2"])
    assert spellings("1e3") == ['"1e3"', "1000.0"]


def test_what_a_writer_makes_is_what_the_files_are(tmp_path: Path) -> None:
    """Formats that others may read: plain little-endian arrays and JSON lines."""
    index, one = tmp_path / "index", batch(4)
    write(index, one)
    np.testing.assert_array_equal(np.fromfile(index / PROFILES, "<f4").reshape(4, 5), one.profiles_NE)
    np.testing.assert_array_equal(np.fromfile(index / LEVELS, "<f4").reshape(4, 2), one.levels_N2)
    np.testing.assert_array_equal(np.fromfile(index / KEYS, "<u8").reshape(4, 2), one.keys_N2)
    assert (index / RECORDS).read_bytes() == b"".join(record + b"\n" for record in one.records)
