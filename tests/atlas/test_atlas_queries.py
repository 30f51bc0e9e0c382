"""What an atlas knows of features, emotions and stories; and Python's front door."""

import numpy as np
import pytest

import saefeat
from saefeat.atlas import Atlas
from saefeat.atlas.examples import LENGTH, Gathered, gather
from saefeat.errors import InputError, UnknownName
from saefeat.label import pool_tokens
from tests.tiny_atlas import EMOTIONS, FEATURES


def test_encode_is_the_pool_of_the_text(tiny_atlas: Atlas) -> None:
    text = "The dog slept, and the rain went on."
    _, acts_TF, usable_T = pool_tokens(tiny_atlas.subject(), text, tiny_atlas.readout_config("story"), tiny_atlas.sae())
    mean_F = acts_TF[usable_T].mean(0) ** 0.5
    told = next(tiny_atlas.encode([text]))
    assert told["readout"] == "story"
    assert told["features"] == pytest.approx({f"L1.{f}": mean_F[f] for f in np.flatnonzero(mean_F)}, abs=1e-5)


def test_similar_finds_stories_of_the_same_words(tiny_atlas: Atlas) -> None:
    text = f"Listen. {EMOTIONS['furious']}. It was at night, in the rain, and nobody was there."
    result = tiny_atlas.similar(text, top=4, readout="story")
    similarity = [row["similarity"] for row in result["stories"]]
    assert similarity == sorted(similarity, reverse=True)
    assert all(-1.01 <= s <= 1.01 for s in similarity)
    assert sum(row["emotion"] == "furious" for row in result["stories"]) >= 3
    assert tiny_atlas.stories[result["stories"][0]["story"]].text == result["stories"][0]["text"]


def test_features_come_in_the_order_of_their_rank(tiny_atlas: Atlas) -> None:
    rows = tiny_atlas.features("At-Ease", top=None)
    assert {row["emotion"] for row in rows} == {"at ease"}
    assert [row["rank_for_emotion"] for row in rows] == sorted(row["rank_for_emotion"] for row in rows)
    assert tiny_atlas.features("at ease", top=2) == rows[:2]
    assert {row["readout"] for row in tiny_atlas.features("joyful", readout="felt")} == {"felt"}
    with pytest.raises(UnknownName, match="did you mean 'desperate'"):
        tiny_atlas.features("desparate")
    with pytest.raises(InputError, match="top must be"):
        tiny_atlas.features("joyful", top=0)


def test_a_feature_is_told_with_its_snippets(tiny_atlas: Atlas) -> None:
    name = tiny_atlas.features("furious", top=1)[0]["feature"]
    told = tiny_atlas.feature(name)
    assert told["feature"] == name
    assert told["layer"] == 1
    assert "furious" in {row["emotion"] for row in told["labels"]}
    assert 0 < told["density"] < 1
    assert len(told["histogram"]["edges"]) == len(told["histogram"]["counts"]) + 1
    peaks = []
    for example in told["examples"]:
        assert len(example["tokens"]) == len(example["activations"]) <= LENGTH
        assert example["activations"][example["peak"]] == max(example["activations"])
        story = tiny_atlas.stories[example["story"]]
        assert (story.emotion, story.topic) == (example["emotion"], example["topic"])
        assert "".join(example["tokens"]) in story.text
        peaks.append(max(example["activations"]))
    assert peaks == sorted(peaks, reverse=True)
    assert len(peaks) == 5
    assert len({example["story"] for example in told["examples"]}) == 5
    logits = tiny_atlas.subject().unembed(tiny_atlas.sae().W_dec_FD)[int(name.split(".")[1])]
    assert told["words"]["up"][0]["logit"] == pytest.approx(float(logits.max()), abs=1e-3)
    assert told["words"]["down"][0]["logit"] == pytest.approx(float(logits.min()), abs=1e-3)


def test_gathering_equals_a_slow_twin(tiny_atlas: Atlas) -> None:
    stories, sae, subject = tiny_atlas.stories, tiny_atlas.sae(), tiny_atlas.subject()
    gathered = gather(subject, stories, {"L1": sae}, {"L1": np.arange(FEATURES)})["L1"]
    best, fired, tokens = np.zeros((len(stories), FEATURES)), np.zeros(FEATURES), 0
    for n, story in enumerate(stories):
        _, acts_TF, usable_T = pool_tokens(subject, story.text, tiny_atlas.readout_config("story"), sae)
        best[n] = acts_TF[usable_T].max(0)
        fired += (acts_TF[usable_T] > 0).sum(0)
        tokens += int(usable_T.sum())
    arrays = gathered.arrays()
    np.testing.assert_allclose(arrays["score"], -np.sort(-best.T, axis=1)[:, :5], atol=1e-4)
    np.testing.assert_allclose(arrays["density"], fired / tokens, atol=2e-3)
    np.testing.assert_array_equal(arrays["histogram"].sum(1), gathered.fired)


def test_snippets_of_a_story_in_windows_are_its_best_one() -> None:
    gathered = Gathered(np.array([7]))
    ids = np.arange(100)
    for peak in (1.0, 3.0, 2.0):
        acts_TF = np.zeros((100, 1), np.float32)
        acts_TF[60] = peak
        gathered.add(ids, acts_TF, np.ones(100, bool), story=4)
    arrays = gathered.arrays()
    assert arrays["story"][0].tolist() == [4, -1, -1, -1, -1]
    assert arrays["score"][0, 0] == 3.0
    assert arrays["ids"][0, 0, arrays["peak"][0, 0]] == 60
    assert arrays["length"][0].tolist() == [40, 0, 0, 0, 0]


def test_unusable_positions_are_never_in_the_evidence() -> None:
    gathered = Gathered(np.array([0, 1]))
    acts_TF = np.array([[9.0, 0.0], [1.0, 0.0]], np.float32)
    gathered.add(np.array([5, 6]), acts_TF, np.array([False, True]), story=0)
    arrays = gathered.arrays()
    assert arrays["score"][0, 0] == 1.0
    assert arrays["density"].tolist() == [1.0, 0.0]
    assert arrays["length"][1].tolist() == [0] * 5


def test_emotions_are_a_map_and_one_by_one(tiny_atlas: Atlas) -> None:
    rows = tiny_atlas.emotions()
    assert {row["emotion"] for row in rows} == set(EMOTIONS)
    one = tiny_atlas.emotions("at_ease")
    assert one["emotion"] == "at ease"
    assert "at ease" in one["members"]
    assert len(one["nearest"]) == 3
    assert one["features"]
    with pytest.raises(UnknownName, match="did you mean 'joyful'"):
        tiny_atlas.emotions("joyfull")


def test_names_of_features(tiny_atlas: Atlas) -> None:
    assert tiny_atlas.parse_feature("L1.12") == ("L1", 12)
    assert tiny_atlas.parse_feature(" 12 ") == ("L1", 12)
    for bad in ("L1.", "L1.x", "1.2", "", "L1.-3", "feature", "L1.1.1", "L1.99999999999"):
        with pytest.raises(InputError, match=r"is not a feature's name; write it like L1\.1234"):
            tiny_atlas.parse_feature(bad)
    with pytest.raises(InputError, match=r"no feature L1\.64; L1 has features 0 to 63"):
        tiny_atlas.parse_feature("L1.64")
    with pytest.raises(UnknownName, match=r"unknown SAE 'L20'.*L1"):
        tiny_atlas.parse_feature("L20.1")


def test_load_is_the_same_from_python(tiny_atlas: Atlas) -> None:
    loaded = saefeat.load(tiny_atlas.directory, subject=tiny_atlas.subject())
    one = loaded.nearest("The rent was due.", top=3)
    assert one == next(tiny_atlas.nearest(["The rent was due."], top=3))
    assert [r["id"] for r in loaded.nearest(["a b", "c d"])] == ["1", "2"]
    assert loaded.encode("The rent")["features"]
    assert loaded.similar("The rent", top=1)["stories"]
    assert loaded.features("joyful") == tiny_atlas.features("joyful")
    assert loaded.feature("L1.3")["feature"] == "L1.3"
    assert loaded.emotions() == tiny_atlas.emotions()
