"""The whole battery on a tiny atlas: every section with its nulls, one text at a time, nothing read twice."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from saefeat.atlas import Atlas, build_atlas
from saefeat.config import STORY, LabelConfig
from saefeat.corpus import load_corpus
from saefeat.errors import FormatError, InputError
from saefeat.evaluate import Bench, Given, as_text, evaluate, open_bench, read_labelled, write_report
from saefeat.evaluate.outside import class_scores, labelled_files
from saefeat.evaluate.run import read_sets
from saefeat.evaluate.seeds import seeds
from saefeat.label import label
from saefeat.sae import load_sae
from saefeat.subject import load_subject
from tests.tiny_atlas import EMOTIONS, TOPICS, write_sae

TEXTS = [f"{what}, {place}" for what in EMOTIONS.values() for place in ("at home", "in the rain", "as ever")]
LABELS = [emotion for emotion in EMOTIONS for _ in range(3)]
MAP = (
    '[classes]\ngood = ["joyful", "at ease"]\nbad = ["desperate", "furious"]\n[neutral]\nlabels = ["none"]\n[labels]\n'
)
MAP += "".join(f'"{e}" = "{"good" if e in ("joyful", "at ease") else "bad"}"\n' for e in EMOTIONS)


@pytest.fixture
def given(tmp_path: Path) -> Given:
    rows = [*zip(TEXTS, LABELS, strict=True), ("The table has four legs.", "none"), ("It rained.", "none")]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in rows))
    (tmp_path / "map.toml").write_text(MAP)
    return Given(tmp_path / "set.jsonl", tmp_path / "map.toml")


def bench(atlas: Atlas, **settings: object) -> Bench:
    stories = load_corpus(atlas.directory.parents[1] / "stories")
    split = {"train": ["t01", "t02"], "test": ["t03"]}
    return open_bench(atlas, stories=stories, embeddings=False, **(split | settings))  # type: ignore[arg-type]


def by_id(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {section["id"]: section for section in results["sections"]}


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing may be read."""
    monkeypatch.setattr("saefeat.subject.Subject.residuals", lambda *a, **k: pytest.fail("something was read"))


# ---------------------------------------------------------------- the whole
def test_every_section_holds_figures_beside_their_nulls(tiny_atlas: Atlas, given: Given, tmp_path: Path) -> None:
    second = load_sae(write_sae(tmp_path / "second", tiny_atlas.subject(), seed=1))
    background = tmp_path / "mine.txt"
    background.write_text("The bus is late.\nThe bread is on the table.\n")
    results, figures = evaluate(bench(tiny_atlas), [given], calibrate=4, background=background, second=second)
    told = by_id(results)
    every = "sae retrieval labels single detectors geometry flat lengths labelled seeds"
    assert list(told) == every.split(), "no readout of short texts, and too few emotions for messages"
    for name, section in told.items():
        assert all(len(row["values"]) == len(section["columns"]) == len(section["units"]) for row in section["rows"])
        if name not in ("sae", "labels", "lengths"):
            assert any(row["own"] for row in section["rows"]), name
            assert any(row["null"] for row in section["rows"]), name
    assert {section["figure"] for section in told.values()} - {None} < figures.keys()
    names = [row["name"] for row in told["labelled"]["rows"]]
    assert "SAE features, calibrated on 4 labelled rows" in names
    assert "SAE features, with --background" in names
    assert told["labelled"]["notes"][0].startswith("set.jsonl: 12 rows of 2 classes; 0 rows of other labels")
    assert "against neutral rows" in told["labelled"]["notes"][1]
    assert results["data"][0]["rows"] == 14
    assert "set.jsonl" in as_text(results)
    page = write_report(results, figures, tmp_path / "report")
    assert {path.name for path in page.parent.iterdir()} == {"results.json", "report.md", "report.html", *figures}
    assert json.loads((page.parent / "results.json").read_text())["sections"][0]["id"] == "sae"


def test_with_four_emotions_the_five_highest_are_no_figure(tiny_atlas: Atlas) -> None:
    told = by_id(evaluate(bench(tiny_atlas))[0])
    assert all(row["values"][0] and row["values"][1] is None for row in told["retrieval"]["rows"])
    for row in told["detectors"]["rows"]:
        assert row["values"][0] is not None
        assert set(row["values"][2:]) == {None}
    assert told["detectors"]["figure"] is None


def test_without_labelled_files_their_rows_say_so(tiny_atlas: Atlas) -> None:
    results, figures = evaluate(bench(tiny_atlas))
    told = by_id(results)
    assert told["labelled"]["rows"][0]["values"] == ["data not given"]
    assert told["seeds"]["rows"][0]["values"][0] == "data not given"
    assert "labelled.png" not in figures


# ---------------------------------------------------------------- one text at a time, nothing read twice
def test_a_text_is_scored_alone(tiny_atlas: Atlas) -> None:
    together = bench(tiny_atlas).scores("sae", "all", TEXTS)
    alone = bench(tiny_atlas)
    for n in (0, 5, 11):
        np.testing.assert_allclose(alone.scores("sae", f"text {n}", [TEXTS[n]])[0], together[n], rtol=1e-3, atol=1e-3)


def test_rows_that_leave_a_labelled_file_change_no_other_rows_figures(tiny_atlas: Atlas, given: Given) -> None:
    own = bench(tiny_atlas)
    whole = read_labelled(given.path, given.map_path, own.emotions)
    kept = np.array([0, 3, 4, 7, 11, 13])
    given.path.write_text("".join(np.array(given.path.read_text().splitlines(keepends=True))[kept]))
    part = read_labelled(given.path, given.map_path, own.emotions)
    for name in ("sae", "dense", "random_encoder", "shuffled"):
        scores_NC = class_scores(own, name, whole, "whole", whole.texts)
        np.testing.assert_allclose(
            class_scores(own, name, part, "part", part.texts), scores_NC[kept], rtol=1e-3, atol=1e-3
        )


def test_what_is_kept_is_not_read_again(
    tiny_atlas: Atlas, given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = load_sae(write_sae(tmp_path / "second", tiny_atlas.subject(), seed=1))
    first, _ = evaluate(bench(tiny_atlas, keep=tmp_path), [given], second=second)
    refuse(monkeypatch)
    again, _ = evaluate(bench(tiny_atlas, keep=tmp_path), [given], second=second)
    assert again["sections"] == first["sections"]
    assert bench(tiny_atlas, keep=tmp_path, seed=0).scores("sae", "all", TEXTS[:0]).shape == (0, 4)
    with pytest.raises(pytest.fail.Exception, match="was read"):
        bench(tiny_atlas, keep=tmp_path, seed=1).read("story")  # other random encoders


def test_a_damaged_file_of_what_was_kept_is_named(tiny_atlas: Atlas, tmp_path: Path) -> None:
    bench(tiny_atlas, keep=tmp_path).scores("sae", "all", TEXTS)
    paths = list(tmp_path.glob("*.safetensors"))
    for path in paths:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(FormatError, match=r"is damaged .*; delete it") as error:
        bench(tiny_atlas, keep=tmp_path).scores("sae", "all", TEXTS)
    assert error.value.where in paths
    for path in paths:
        save_file({"sae": np.zeros((3, 64), np.float32)}, path)
    with pytest.raises(FormatError, match="holds other texts; delete it"):
        bench(tiny_atlas, keep=tmp_path).scores("sae", "all", TEXTS)


def test_texts_of_the_same_name_are_not_taken_for_each_other(tiny_atlas: Atlas) -> None:
    own = bench(tiny_atlas)
    first, second = own.scores("sae", "set", TEXTS[:6]), own.scores("sae", "set", TEXTS[6:])
    assert not np.allclose(first, second)


# ---------------------------------------------------------------- held out
def test_labels_of_test_topics_change_no_prototypes_and_those_of_training_topics_do(tiny_atlas: Atlas) -> None:
    own = bench(tiny_atlas)
    name = {e: other for e, other in zip(own.emotions, own.emotions[1:] + own.emotions[:1], strict=True)}

    def relabelled(topics: tuple[str, ...]) -> np.ndarray:
        other = bench(tiny_atlas)
        stories = (replace(s, emotion=name[s.emotion]) if s.topic in topics else s for s in own.stories.stories)
        other.stories = replace(own.stories, stories=tuple(stories))
        return other.fit("story", "sae").prototypes.W_FE

    W_FE = own.fit("story", "sae").prototypes.W_FE
    np.testing.assert_array_equal(relabelled(("t03",)), W_FE)
    assert not np.allclose(relabelled(("t02",)), W_FE)


def test_prototypes_for_retrieval_never_see_the_test_topics(tiny_atlas: Atlas) -> None:
    own = bench(tiny_atlas)
    fitted = own.fit("story", "sae")
    assert set(fitted.topic_N) == {"t01", "t02"}
    assert set(own.fit("story", "sae", every_topic=True).topic_N) == {"t01", "t02", "t03"}
    mixed = own.fit("story", "shuffled")
    assert (mixed.emotion_N != fitted.emotion_N).any()
    for topic in ("t01", "t02"):
        here = fitted.topic_N == topic
        assert sorted(mixed.emotion_N[here]) == sorted(fitted.emotion_N[here])


def test_topics_are_checked_before_anything_is_read(tiny_atlas: Atlas) -> None:
    with pytest.raises(InputError, match="both trained and tested"):
        bench(tiny_atlas, train=["t01", "t02"], test=["t02"])
    with pytest.raises(InputError, match="t09"):
        bench(tiny_atlas, train=["t01", "t02"], test=["t09"])
    with pytest.raises(InputError, match="at least two topics"):
        bench(tiny_atlas, train=["t01"], test=["t02"])
    assert bench(tiny_atlas, train=None, test=None).test == ("t03",)
    with pytest.raises(InputError, match="not the stories"):
        open_bench(tiny_atlas, stories=load_corpus("stories"))


# ---------------------------------------------------------------- what the user gives
def test_a_second_sae_of_another_layer_is_refused(
    tiny_atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = load_sae(write_sae(tmp_path / "second", tiny_atlas.subject()))
    second.cfg["metadata"]["hook_name"] = "model.layers.2"
    refuse(monkeypatch)
    with pytest.raises(InputError, match="another layer"):
        evaluate(bench(tiny_atlas), second=second)


def test_an_sae_beside_itself_gives_the_same_labels_and_a_random_dictionary_does_not(tiny_atlas: Atlas) -> None:
    own, null = seeds(bench(tiny_atlas), tiny_atlas.sae())["rows"]
    assert own["values"] == [1.0, 1.0, 1.0]
    assert null["values"][0] < 0.2
    assert null["values"][1] < 0.8


def test_files_of_one_name_are_told_apart(tiny_atlas: Atlas, given: Given, tmp_path: Path) -> None:
    other = Given(tmp_path / "other" / "set.jsonl", tmp_path / "other.toml")
    other.path.parent.mkdir()
    other.path.write_text("".join(given.path.read_text().splitlines(keepends=True)[2:]))
    other.map_path.write_text(given.map_path.read_text())
    by_path = Given(other.path, tmp_path / "other" / "map.toml")
    by_path.map_path.write_text(given.map_path.read_text())
    own = bench(tiny_atlas)
    assert [one.name for one in read_sets(own, [given], None)] == ["set.jsonl"]
    assert [one.name for one in read_sets(own, [given, by_path], None)] == [
        f"{one.path} by {one.map_path}" for one in (given, by_path)
    ]
    with pytest.raises(InputError, match="given twice"):
        read_sets(own, [given, given], None)
    section, bars = labelled_files(own, read_sets(own, [given, other], None))
    assert section["columns"] == ["set.jsonl by map.toml", "set.jsonl by other.toml", "mean"]
    assert list(bars["SAE features"]) == section["columns"][:2]


def test_what_cannot_be_done_with_labelled_files_is_said_first(
    tiny_atlas: Atlas, given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch)
    with pytest.raises(InputError, match=r"set\.jsonl: --calibrate must lie between 1 and 11, not 12"):
        evaluate(bench(tiny_atlas), [given], calibrate=12)
    (tmp_path / "talks.jsonl").write_text('{"messages": [{"role": "user", "content": "hello"}]}\n')
    with pytest.raises(InputError, match=r"talks\.jsonl: holds no texts"):
        evaluate(bench(tiny_atlas), [given], background=tmp_path / "talks.jsonl")
    for only in ({"calibrate": 4}, {"background": given.path}):
        with pytest.raises(InputError, match="for --labelled files"):
            evaluate(bench(tiny_atlas), **only)  # type: ignore[arg-type]


def test_a_class_without_rows_is_said(tiny_atlas: Atlas, given: Given) -> None:
    rows = [line for line in given.path.read_text().splitlines(keepends=True) if '"joyful"' not in line]
    given.path.write_text("".join(line for line in rows if '"at ease"' not in line))
    own = bench(tiny_atlas)
    section, _ = labelled_files(own, read_sets(own, [given], None))
    assert section["notes"][0].endswith("Without a row, and so without an F1 above 0: good.")


# ---------------------------------------------------------------- odd corpora
ODD = ("excited", "proud", "glum-ish", "wibbly", "wobbly", "so so")


@pytest.fixture(scope="module")
def odd_atlas(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """One readout, no flat texts, emotions that hardly anything knows, one of them on two topics only."""
    root = tmp_path_factory.mktemp("odd")
    (root / "stories").mkdir()
    (root / "stories" / "emotions.txt").write_text("\n".join(ODD))
    rows = [
        {"emotion": emotion, "topic": topic, "text": f"{n} {place} and {emotion[::-1]} it was {n}"}
        for n, emotion in enumerate(ODD)
        for topic, place in TOPICS.items()
        if (emotion, topic) != ("so so", "t02")
    ]
    (root / "stories" / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    subject, sae = load_subject(str(tiny_root / "model"), device="cpu", dtype="float32"), tiny_root / "sae"
    config = LabelConfig(stories=str(root / "stories"), readouts=(STORY,))
    labels = label(subject, [sae], load_corpus(root / "stories"), config, root / "labels")
    return Atlas(build_atlas(labels, [sae], root / "indexes" / "odd", subject=subject, name="odd"), subject=subject)


def test_an_odd_corpus_is_measured_as_far_as_it_can_be(odd_atlas: Atlas, tmp_path: Path) -> None:
    results, figures = evaluate(bench(odd_atlas))
    told = by_id(results)
    write_report(results, figures, tmp_path)
    assert told["retrieval"]["rows"][0]["values"][1] is not None, "the five highest of six"
    assert told["detectors"]["rows"] == []
    assert told["detectors"]["notes"] == [
        "Not measured: 1 emotions have stories on fewer than two topics; see `saefeat corpus check`."
    ]
    assert all(row["values"] == [None] * 4 for row in told["geometry"]["rows"]), "two emotions are rated"
    assert told["geometry"]["figure"] is None
    assert len(told["geometry"]["notes"]) == 1, "and there are no near-synonyms"
    assert all(set(row["values"]) == {None} for row in told["flat"]["rows"]), "there are no flat texts"
    assert figures.keys() == {"similarity.png"}
    assert told["messages"]["notes"][0].endswith("messages expect none of these emotions and are left out.")
    assert all(0 <= row["values"][0]["value"] <= 1 for row in told["messages"]["rows"])
