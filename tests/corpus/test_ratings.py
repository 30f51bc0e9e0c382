"""Valence and arousal of words: the ratings that ship, norms of the user's, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from saefeat.corpus import load_corpus, load_ratings
from saefeat.errors import FormatError, InputError
from saefeat.files import shipped


def test_every_emotion_of_the_stories_is_rated_between_0_and_1() -> None:
    emotions = load_corpus("stories").emotions
    valence_E, arousal_E = load_ratings().of(emotions)
    for rating_E in (valence_E, arousal_E):
        assert (rating_E >= 0).all()
        assert (rating_E <= 1).all()
        assert np.array_equal(rating_E, rating_E.round(2))


def test_the_ratings_order_words_as_anybody_would() -> None:
    def of(*words: str) -> tuple[list[float], list[float]]:
        valence, arousal = load_ratings().of(words)
        return valence.tolist(), arousal.tolist()

    valence, _ = of("miserable", "grumpy", "pleased", "ecstatic")
    assert valence == sorted(valence)
    _, arousal = of("sleepy", "sad", "worried", "furious")
    assert arousal == sorted(arousal)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "n.jsonl",
            '{"emotion": "At-Ease", "valence": 7.5, "arousal": 2}\n\n{"word": "mad", "valence": 2, "arousal": 8}\n',
        ),
        ("n.csv", "Word,Arousal,VALENCE,n\nat_ease,2,7.5,30\nmad,8,2,31\n"),
        ("n.csv", "\ufeffemotion;valence;arousal\r\nat ease;7.5;2\r\n\r\nmad;2;8\r\n"),
        ("n.tsv", "word\tvalence\tarousal\n AT  EASE \t7.5\t2\nmad\t2\t8\n"),
    ],
)
def test_norms_of_any_scale_are_read_by_name(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    valence_E, arousal_E = load_ratings(tmp_path / name).of(["mad", "at ease", "proud"])
    np.testing.assert_array_equal(valence_E, [2, 7.5, np.nan])
    np.testing.assert_array_equal(arousal_E, [8, 2, np.nan])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("n.jsonl", "{broken\n", "line 1: is not JSON"),
        ("n.jsonl", "[1]\n", "line 1: is no object"),
        ("n.jsonl", '{"valence": 1, "arousal": 2}\n', "line 1: has no 'emotion'"),
        ("n.jsonl", '{"emotion": "mad", "valence": true, "arousal": 2}\n', "valence of 'mad' is no number"),
        ("n.jsonl", '{"emotion": "mad", "valence": 1}\n', "arousal of 'mad' is no number"),
        ("n.jsonl", '{"emotion": "mad", "valence": NaN, "arousal": 1}\n', "valence of 'mad' is no number"),
        ("n.jsonl", "\n", "holds no ratings"),
        ("n.csv", "", "no header"),
        ("n.csv", "mad,1,2\n", "no header"),
        ("n.csv", "word,valence,arousal\nmad,1\n", "line 2: arousal of 'mad'"),
        ("n.csv", "word,valence,arousal\nmad,1,high\n", "line 2: arousal of 'mad'"),
        ("n.tsv", "word\tvalence\tarousal\non edge\t1\t2\nOn-Edge\t1\t2\n", "line 3: 'On-Edge' is rated twice"),
        ("n.xlsx", "x", "xlsx is not read"),
    ],
)
def test_malformed_norms_are_refused_with_the_place(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(FormatError, match=message):
        load_ratings(tmp_path / name)


def test_missing_files_and_other_encodings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_ratings(tmp_path / "none.csv")
    (tmp_path / "n.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="UTF-8"):
        load_ratings(tmp_path / "n.csv")


def test_ratings_beside_the_stories_are_no_stories(tmp_path: Path) -> None:
    whole = shipped("corpora") / "stories"
    for name in ("emotions.txt", "t01_letter.jsonl", "neutral.jsonl", "word_families.json"):
        shutil.copy(whole / name, tmp_path / name)
    without = load_corpus(tmp_path)
    shutil.copy(whole / "ratings.jsonl", tmp_path / "ratings.jsonl")
    assert load_corpus(tmp_path) == without
