"""An index of texts: what is added, what is skipped, what is found, and by whom."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import saefeat
from saefeat.atlas import Atlas, IndexedTexts, add_texts, build_lists, lists, profiles
from saefeat.atlas import rows as rows_module
from saefeat.atlas.nearest import profile
from saefeat.atlas.rows import Batch, Rows, writing
from saefeat.corpus import TextItem
from saefeat.errors import FormatError, InputError, ModelMismatch, UnknownName
from tests.forks import ended, fork
from tests.tiny_atlas import EMOTIONS, TOPICS

TEXTS = [
    TextItem(f"{emotion}-{topic}", f"{what}. It was {place}.", fields={"topic": topic, "n": n, "list": [1]})
    for emotion, what in EMOTIONS.items()
    for n, (topic, place) in enumerate(TOPICS.items())
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tiny_atlas: Atlas) -> Path:
    directory = tmp_path_factory.mktemp("texts") / "index"
    assert tiny_atlas.add_texts(TEXTS, directory).added == len(TEXTS)
    return directory


def scores(atlas: Atlas, text: str, readout: str = "story") -> np.ndarray:
    """(E,) by asking for every emotion."""
    told = next(atlas.nearest([text], top=None, readout=readout))["emotions"]
    found = {row["emotion"]: row["score"] for row in told}
    return np.array([found[emotion] for emotion in atlas.emotion_names])


# ---------------------------------------------------------------- adding
def test_a_row_is_the_profile_of_its_text_alone(index: Path, tiny_atlas: Atlas) -> None:
    rows = Rows.open(index)
    for n, item in enumerate(TEXTS):
        alone_E = scores(tiny_atlas, str(item.text))
        np.testing.assert_allclose(
            rows.levels_N2[n, 0] + rows.levels_N2[n, 1] * rows.profiles_NE[n], alone_E, atol=2e-4
        )
        np.testing.assert_allclose(rows.profiles_NE[n], profile(alone_E[None])[0], atol=2e-4)
        expected = {"topic": item.fields["topic"], "n": item.fields["n"]}
        assert rows.record(n) == {"id": item.id, "text": str(item.text)[:200], "fields": expected}


def test_texts_that_are_in_are_skipped(index: Path, tiny_atlas: Atlas, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(index, tmp_path / "copy"))
    more = [*TEXTS[:3], TextItem("furious-t01", "another text"), "no id", TextItem("7", "no id", named=False), "new"]
    done = tiny_atlas.add_texts(more, copy)
    assert (done.added, done.skipped, done.changed, done.rows) == (2, 5, 1, len(TEXTS) + 2)
    again = tiny_atlas.add_texts(more, copy)
    assert (again.added, again.skipped, again.rows) == (0, 7, len(TEXTS) + 2)
    rows = Rows.open(copy)
    assert rows.record(len(TEXTS) + 1)["text"] == "new"
    assert len(rows.record(len(TEXTS))["id"]) == 16


def test_many_new_keys_are_known_as_few_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "RECENT", 5)
    with writing(tmp_path / "index", {"emotions": ["a"]}) as writer:
        known = profiles.Known(writer)
        chance = np.random.default_rng(0)
        slow: dict[int, int] = {}
        for key, text in chance.integers(0, 30, (200, 2)).tolist():
            assert known.text_of(key, text) == slow.get(key)
            slow.setdefault(key, text)


def test_a_text_that_cannot_be_read_stops_or_is_counted(tiny_atlas: Atlas, tmp_path: Path) -> None:
    bad = ["the rain", TextItem("x", error="line 2: is not JSON"), "the dog"]
    with pytest.raises(InputError, match="not JSON"):
        tiny_atlas.add_texts(bad, tmp_path / "index")
    assert not (tmp_path / "index").exists()
    done = tiny_atlas.add_texts(bad, tmp_path / "index", keep_going=True)
    assert (done.added, done.failed) == (2, 1)


def test_what_was_read_before_an_error_counts(
    tiny_atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saefeat.atlas.pooled.CHUNK", 2)
    with pytest.raises(InputError, match="empty"):
        tiny_atlas.add_texts(["one", "two", "three", " "], tmp_path / "index")
    assert Rows.open(tmp_path / "index").n == 2


def test_an_addition_that_is_killed_goes_on(tiny_atlas: Atlas, index: Path, tmp_path: Path) -> None:
    def dying() -> Iterator[TextItem]:
        for number, item in enumerate(TEXTS):
            if number == 9:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item

    def work() -> None:
        import torch

        torch.set_num_threads(1)
        profiles.ROWS = 2
        pooled = __import__("saefeat.atlas.pooled", fromlist=["CHUNK"])
        pooled.CHUNK = 3
        add_texts(tiny_atlas, dying(), tmp_path / "index")

    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert ended(fork(work)) == -signal.SIGKILL
    finally:
        torch.set_num_threads(threads)
    left = Rows.open(tmp_path / "index").n
    assert left in (8, 9)
    done = tiny_atlas.add_texts(TEXTS, tmp_path / "index")
    assert (done.skipped, done.added) == (left, len(TEXTS) - left)
    whole, resumed = Rows.open(index), Rows.open(tmp_path / "index")
    np.testing.assert_allclose(resumed.profiles_NE, whole.profiles_NE, atol=1e-5)
    assert [resumed.record(i) for i in range(resumed.n)] == [whole.record(i) for i in range(whole.n)]


def test_an_index_is_of_one_atlas_readout_and_model(
    index: Path, tiny_atlas: Atlas, tiny_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="holds profiles by the readout story, not felt"):
        tiny_atlas.add_texts(["x y"], index, readout="felt")
    with pytest.raises(InputError, match="holds profiles by the readout story, not felt"):
        tiny_atlas.similar("x y", within=index, readout="felt")
    with pytest.raises(UnknownName, match="did you mean 'felt'"):
        tiny_atlas.add_texts(["x y"], tmp_path / "index", readout="fell")
    copy = Path(shutil.copytree(tiny_root / "indexes" / "tiny", tmp_path / "other"))
    manifest = json.loads((copy / "atlas.json").read_text())
    manifest["saes"][0]["sha256"] = "0" * 64
    (copy / "atlas.json").write_text(json.dumps(manifest))
    other = Atlas.open(copy, subject=tiny_atlas.subject())
    for use in (lambda: other.similar("x y", within=index), lambda: other.add_texts(["x y"], index)):
        with pytest.raises(ModelMismatch, match="profiles that another atlas read"):
            use()
    reworked = Path(shutil.copytree(index, tmp_path / "reworked"))
    with writing(reworked, {}) as writer:
        writer.commit(weights="0" * 16)
    with pytest.raises(ModelMismatch, match="allow-other-weights"):
        tiny_atlas.similar("x y", within=reworked)
    assert tiny_atlas.similar(profile={"joyful": 1}, within=reworked)["texts"]
    lax = Atlas.open(tiny_atlas.directory, subject=tiny_atlas.subject(), allow_other_weights=True)
    assert lax.similar("x y", within=reworked)["texts"]


# ---------------------------------------------------------------- finding
def test_similar_texts_equal_a_slow_twin(index: Path, tiny_atlas: Atlas) -> None:
    text = f"Listen. {EMOTIONS['joyful']}, and it was late."
    result = tiny_atlas.similar(text, within=index, top=None)
    assert (result["readout"], result["rows"], result["exact"]) == ("story", len(TEXTS), True)
    query_E = profile(scores(tiny_atlas, text)[None])[0]
    slow = {item.id: float(profile(scores(tiny_atlas, str(item.text))[None])[0] @ query_E) for item in TEXTS}
    assert {row["id"]: row["similarity"] for row in result["texts"]} == pytest.approx(slow, abs=2e-3)
    assert result["texts"][0]["id"].startswith("joyful")
    first = result["texts"][0]
    assert list(first) == ["similarity", "id", "emotions", "text", "fields"]
    assert first["emotions"][0]["score"] == pytest.approx(scores(tiny_atlas, str(next(
        item.text for item in TEXTS if item.id == first["id"]))).max(), abs=1e-3)  # fmt: skip


def test_a_profile_and_features_find_what_their_text_finds(index: Path, tiny_atlas: Atlas) -> None:
    text = str(TEXTS[4].text)
    for within in (None, index):
        options = {"within": within, "top": 4}
        key = "stories" if within is None else "texts"
        by_text = tiny_atlas.similar(text, readout="story", **options)[key]
        told = next(tiny_atlas.nearest([text], top=None, readout="story"))["emotions"]
        by_profile = tiny_atlas.similar(profile={row["emotion"]: row["score"] for row in told}, **options)[key]
        features = next(tiny_atlas.encode([text], readout="story"))["features"]
        by_features = tiny_atlas.similar(features=features, **options)[key]
        for other in (by_profile, by_features):
            assert [row["text"] for row in other] == [row["text"] for row in by_text]
            assert [row["similarity"] for row in other] == pytest.approx([r["similarity"] for r in by_text], abs=2e-3)


def test_conditions(index: Path, tiny_atlas: Atlas) -> None:
    everything = tiny_atlas.similar(profile={"furious": 2}, within=index, top=None)["texts"]
    some = tiny_atlas.similar(profile={"furious": 2}, within=index, top=2, where={"topic": "t02", "n": 1})
    assert some["texts"] == [row for row in everything if row["fields"]["topic"] == "t02"][:2]
    level = float(np.median([scores(tiny_atlas, str(item.text))[1] for item in TEXTS]))
    above = tiny_atlas.similar(profile={"joyful": 1}, within=index, top=None, emotions=[f"joyful>{level:.4f}"])["texts"]
    slow = {item.id for item in TEXTS if scores(tiny_atlas, str(item.text))[1] > level}
    assert {row["id"] for row in above} == slow
    assert tiny_atlas.similar(profile={"joyful": 1}, within=index, where=["topic=t09"])["texts"] == []
    stories = tiny_atlas.similar(profile={"joyful": 1}, top=None, where={"emotion": "At-Ease", "topic": "t01"})
    assert [(s["emotion"], s["topic"]) for s in stories["stories"]] == [("at ease", "t01")] * 2


def test_questions_that_cannot_be_answered(index: Path, tiny_atlas: Atlas, tmp_path: Path) -> None:
    ask = tiny_atlas.similar
    for wrong in ({}, {"text": "x", "profile": {"joyful": 1}}, {"profile": {"joyful": 1}, "features": {"L1.1": 1}}):
        with pytest.raises(InputError, match="exactly one"):
            ask(**wrong)
    with pytest.raises(UnknownName, match="did you mean 'joyful'"):
        ask(profile={"joyfull": 1})
    for bad, words in (
        ({"joyful": "much"}, "not a number"), ({"joyful": float("nan")}, "not a number"), ({"joyful": True}, "number"),
        ({"joyful": 0}, "same score for every"), ({}, "same score"), ({"at ease": 1, "at-ease": 2}, "twice"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            ask(profile=bad)
    for bad_features, words in (
        ({}, "no feature given"), ({"L1.1": -1}, "never below zero"), ({"L1.1": 0}, "none of the features"),
        ({"L1.99": 1}, "no feature L1.99"), ({"x": 1}, "is not a feature's name"), ({"1": 1, "L1.1": 1}, "named twice"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            ask(features=bad_features)
    with pytest.raises(InputError, match="not its scores"):
        ask("x", emotions=["joyful>2"])
    with pytest.raises(UnknownName, match="emotion, family, topic"):
        ask("x", where={"lang": "en"})
    with pytest.raises(InputError, match="top must be"):
        ask("x", top=0)
    with pytest.raises(FormatError, match="no index of texts here"):
        ask("x", within=tmp_path)


def test_the_same_from_python(index: Path, tiny_atlas: Atlas, tmp_path: Path) -> None:
    loaded = saefeat.load(tiny_atlas.directory, subject=tiny_atlas.subject())
    assert loaded.add_texts(["the rain", "the dog"], tmp_path / "new")["added"] == 2
    texts = loaded.texts(index)
    assert isinstance(texts, IndexedTexts)
    assert loaded.similar("The rent", within=texts) == tiny_atlas.similar("The rent", within=index)


# ---------------------------------------------------------------- beyond exact search
E_WIDE, N_MANY = 24, 6000


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of 6,000 rows around 60 centres, as if that were many."""
    monkeypatch.setattr(lists, "EXACT_ROWS", 2000)
    with writing(tmp_path / "many", {"emotions": [f"e{i}" for i in range(E_WIDE)]}) as writer:
        writer.append(made(N_MANY, 0))
        writer.commit()
    return tmp_path / "many"


def made(n: int, seed: int) -> Batch:
    chance = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(60, E_WIDE))
    profiles_NE = profile(centres[chance.integers(0, 60, n)] + 0.6 * chance.normal(size=(n, E_WIDE)))
    keys_N2 = chance.integers(0, 2**63, (n, 2)).astype(np.uint64)
    records = [b'{"id": "%d", "text": "", "fields": {}}' % i for i in range(n)]
    return Batch(profiles_NE=profiles_NE, levels_N2=np.ones((n, 2)), keys_N2=keys_N2, records=records)


def test_lists_find_nearly_all_of_the_nearest(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = build_lists(many)
    assert told is not None
    rows = Rows.open(many)
    assert rows.manifest["search"] == told
    assert told["recall_at_10"] >= lists.RECALL + lists.MARGIN
    assert told["rows"] == N_MANY
    found = lists.read(many, told)
    assert found is not None
    queries_QE = made(100, 5).profiles_NE
    hits = 0
    for query_E in queries_QE:
        numbers, products = found.search(rows.profiles_NE, query_E, 10)
        product_N = rows.profiles_NE @ query_E
        np.testing.assert_allclose(products, product_N[numbers], atol=1e-6)
        assert list(products) == sorted(products, reverse=True)
        hits += len(set(numbers.tolist()) & set(np.argsort(-product_N)[:10].tolist()))
    assert hits / 1000 >= lists.RECALL - 0.01


def test_rows_beyond_the_lists_are_searched_exactly_until_they_are_many(
    many: Path, tiny_atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("saefeat.atlas.indexed.check_same", "saefeat.atlas.indexed.IndexedTexts.readout"):
        monkeypatch.setattr(module, lambda *_: None, raising=False)
    told = build_lists(many)
    with writing(many, {}) as writer:
        writer.append(made(50, 7))
        writer.commit(readout="story")
    assert not lists.wanted(N_MANY + 50, told)
    assert lists.wanted(N_MANY + 800, told)
    assert not lists.wanted(2000, None)
    texts = IndexedTexts(many, tiny_atlas)
    for n in (N_MANY, N_MANY + 49, 3):
        numbers, products, exact = texts.nearest(texts.rows.profiles_NE[n], top=3)
        assert not exact
        assert numbers[0] == n
        assert products[0] == pytest.approx(1, abs=1e-5)
    numbers, _, exact = texts.nearest(texts.rows.profiles_NE[3], top=lists.MOST + 1)
    assert exact
    assert len(numbers) == lists.MOST + 1
    (many / told["file"]).write_bytes(b"nothing")  # type: ignore[index]
    with pytest.raises(FormatError, match="saefeat index build"):
        IndexedTexts(many, tiny_atlas).nearest(texts.rows.profiles_NE[3], top=3)
    again = build_lists(many)
    assert again is not None
    assert again["rows"] == N_MANY + 50
    assert [path.name for path in many.glob("lists-*")] == [again["file"]]


def test_lists_that_find_too_few_are_not_used(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "CANDIDATES", 3)  # of which ten can never be found
    told = build_lists(many)
    assert told is not None
    assert told["file"] is None
    assert told["recall_at_10"] < lists.RECALL
    assert lists.read(many, told) is None
    assert not lists.wanted(N_MANY, told)


def test_adding_makes_lists_when_there_are_many(
    tiny_atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "EXACT_ROWS", 5)
    monkeypatch.setattr(lists, "QUERIES", 10)
    monkeypatch.setattr(rows_module, "BLOCK", 4)
    texts = [TextItem(f"{item.id} {i}", f"{item.text} {'So it was. ' * i}") for item in TEXTS for i in range(4)]
    assert tiny_atlas.add_texts(texts[:3], tmp_path / "index").search is None
    done = tiny_atlas.add_texts(texts, tmp_path / "index")
    assert done.search is not None
    assert done.search["rows"] == len(texts)
    assert done.search == build_lists(tmp_path / "index")
    result = tiny_atlas.similar(str(texts[2].text), within=tmp_path / "index", top=1, readout="story")
    assert not result["exact"]
    assert result["texts"][0]["id"] == texts[2].id
