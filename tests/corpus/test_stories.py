"""Story corpora: reading, names, and what the check finds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from saefeat.corpus import Neutral, Story, StoryCorpus, check_corpus, corpus_stats, emotion_name, load_corpus
from saefeat.errors import FormatError, InputError, UnknownName


def words(emotion: str, topic: str) -> str:
    return " ".join(f"{emotion[1]}{topic}x{i}" for i in range(60))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound corpus of 3 emotions and 2 topics."""
    emotions = ["at ease", "angry", "proud"]
    (tmp_path / "emotions.txt").write_text("\n".join(emotions) + "\n")
    for topic in ("t2", "t1"):
        rows = [{"emotion": e, "topic": topic, "text": words(e, topic)} for e in emotions]
        (tmp_path / f"{topic}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    neutral = [{"topic": t, "kind": "narrative", "text": f"flat {t}"} for t in ("t1", "t2")]
    (tmp_path / "neutral.jsonl").write_text("".join(json.dumps(row) + "\n" for row in neutral))
    families = {"at ease": "at ease", "angry": "angr\\w*|anger\\w*", "proud": "prou?d\\w*|pride"}
    (tmp_path / "word_families.json").write_text(json.dumps(families))
    return tmp_path


def kinds(corpus: StoryCorpus) -> set[tuple[str, str]]:
    return {(problem.severity, problem.kind) for problem in check_corpus(corpus)}


def with_story(corpus: StoryCorpus, index: int, text: str) -> StoryCorpus:
    stories = list(corpus.stories)
    stories[index] = dataclasses.replace(stories[index], text=text)
    return dataclasses.replace(corpus, stories=tuple(stories))


def test_the_shipped_corpus_is_crossed_and_without_errors() -> None:
    corpus = load_corpus("stories")
    assert len(corpus.emotions) == 171
    assert len(corpus.topics) == 12
    assert len(corpus.stories) == 171 * 12
    assert set(corpus.word_families) == set(corpus.emotions)
    assert [problem for problem in check_corpus(corpus) if problem.severity == "error"] == []


def test_emotions_keep_their_order_and_topics_are_sorted(folder: Path) -> None:
    corpus = load_corpus(folder)
    assert corpus.emotions == ("at ease", "angry", "proud")
    assert corpus.topics == ("t1", "t2")
    assert kinds(corpus) == set()
    assert len(corpus.neutral) == 2


def test_on_topics_filters_both_kinds_of_text_and_changes_the_fingerprint(folder: Path) -> None:
    corpus = load_corpus(folder)
    part = corpus.on_topics(["t2"])
    assert {story.topic for story in part.stories} == {text.topic for text in part.neutral} == {"t2"}
    assert part.topics == ("t2",)
    assert part.fingerprint != corpus.fingerprint
    assert corpus.on_topics(("t1", "t2")).fingerprint == corpus.fingerprint
    with pytest.raises(UnknownName, match="t1"):
        corpus.on_topics(["t3"])
    with pytest.raises(InputError, match="no topic"):
        corpus.on_topics([])


@pytest.mark.parametrize("text", ["at ease", "At-Ease", "AT_EASE", " at  ease "])
def test_emotion_names_are_read_loosely(text: str) -> None:
    assert emotion_name(text, ["angry", "at ease"]) == "at ease"


def test_an_unknown_emotion_offers_spellings() -> None:
    with pytest.raises(UnknownName, match="'desperate'"):
        emotion_name("desparate", ["calm", "desperate"])


def test_every_seeded_fault_is_found(folder: Path) -> None:
    corpus = load_corpus(folder)
    assert ("error", "leak") in kinds(with_story(corpus, 1, words("angry", "z") + " in ANGER she left"))
    assert ("error", "leak") not in kinds(with_story(corpus, 1, words("angry", "z") + " a stranger sang"))
    assert ("error", "duplicate") in kinds(with_story(corpus, 1, corpus.stories[0].text.upper()))
    assert ("warning", "length") in kinds(with_story(corpus, 1, "too short"))
    shared = " ".join(corpus.stories[0].text.split()[:8])
    assert ("warning", "overlap") in kinds(with_story(corpus, 1, words("angry", "z") + " " + shared))
    seven = " ".join(corpus.stories[0].text.split()[:7])
    assert ("warning", "overlap") not in kinds(with_story(corpus, 1, words("angry", "z") + " " + seven))
    assert ("error", "crossing") in kinds(dataclasses.replace(corpus, stories=corpus.stories[1:]))
    twice = (*corpus.stories, Story("angry", "t1", words("angry", "y")))
    assert kinds(dataclasses.replace(corpus, stories=twice)) == {("warning", "balance")}
    assert ("warning", "neutral") in kinds(dataclasses.replace(corpus, neutral=(Neutral("t1", "dialogue", "flat"),)))
    assert ("warning", "family") in kinds(dataclasses.replace(corpus, word_families={"angry": "angry"}))


def test_stats_count(folder: Path) -> None:
    stats = corpus_stats(load_corpus(folder))
    assert stats["stories"] == 6
    assert stats["words"] == {"total": 360, "min": 60, "median": 60, "max": 60}
    assert stats["stories_per_topic"] == {"t1": 3, "t2": 3}
    assert stats["neutral_kinds"] == {"narrative": 2}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("t1.jsonl", '{"emotion": "angry", "topic": "t1"}\n', "line 1: has no 'text'"),
        ("t1.jsonl", "\n{broken\n", "line 2: is not JSON"),
        ("t1.jsonl", '{"emotion": "sly", "topic": "t1", "text": "x"}\n', "'sly' is not in emotions.txt"),
        ("t1.jsonl", "[1]\n", "has no 'emotion'"),
        ("emotions.txt", "angry\nAngry\n", "listed twice"),
        ("emotions.txt", "\n", "lists no emotion"),
        ("word_families.json", '{"angry": "("}', "no regular expression"),
        ("word_families.json", '{"sly": "sly"}', "'sly' is not in"),
        ("word_families.json", "[", "is not JSON"),
    ],
)
def test_malformed_corpora_are_refused_with_the_place(folder: Path, file: str, content: str, message: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(FormatError, match=message):
        load_corpus(folder)


def test_what_is_no_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such story corpus"):
        load_corpus("nothing-of-the-kind")
    with pytest.raises(FormatError, match=r"no emotions\.txt"):
        load_corpus(tmp_path)
    (tmp_path / "emotions.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="UTF-8"):
        load_corpus(tmp_path)
