"""The story corpus: emotion by topic, fully crossed, the emotion never named; and neutral texts on the same topics.

A corpus is a directory:
- `emotions.txt`: one emotion a line, in the order used everywhere;
- `*.jsonl`: stories, `{"emotion", "topic", "text"}`, as many files as one likes;
- `neutral.jsonl` (optional): `{"topic", "kind", "text"}`;
- `ratings.jsonl` (optional): valence and arousal of the emotions, read by `load_ratings`;
- `word_families.json` (optional): `{emotion: regular expression}` of the words that would give the emotion away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from saefeat.errors import FormatError, InputError, UnknownName
from saefeat.files import fingerprint, shipped

NEUTRAL_FILE, EMOTIONS_FILE, FAMILIES_FILE = "neutral.jsonl", "emotions.txt", "word_families.json"
RATINGS_FILE = "ratings.jsonl"


@dataclass(frozen=True)
class Story:
    """A short text in which somebody is in the state `emotion`, on the topic `topic`, without naming it."""

    emotion: str
    topic: str
    text: str


@dataclass(frozen=True)
class Neutral:
    """An emotionally flat text on a topic; kind: narrative, dialogue, …"""

    topic: str
    kind: str
    text: str


@dataclass(frozen=True)
class StoryCorpus:
    """All stories and neutral texts.

    emotions: in the order of emotions.txt. topics: sorted. word_families: emotion to regular expression.
    fingerprint: 16 hex digits of the contents.
    """

    stories: tuple[Story, ...]
    neutral: tuple[Neutral, ...]
    emotions: tuple[str, ...]
    topics: tuple[str, ...]
    word_families: dict[str, str]
    fingerprint: str

    def on_topics(self, topics: Iterable[str]) -> StoryCorpus:
        """The corpus of some topics only, with its own fingerprint. Raises UnknownName."""
        wanted = tuple(topics)
        for topic in wanted:
            if topic not in self.topics:
                raise UnknownName("topic", topic, self.topics, do="the topics are " + ", ".join(self.topics))
        if not wanted:
            raise InputError("no topic is left", do="the topics are " + ", ".join(self.topics))
        kept = replace(
            self,
            stories=tuple(story for story in self.stories if story.topic in wanted),
            neutral=tuple(text for text in self.neutral if text.topic in wanted),
            topics=tuple(sorted(set(wanted))),
        )
        return replace(kept, fingerprint=_fingerprint(kept))


def emotion_name(text: str, emotions: Iterable[str]) -> str:
    """The emotion that `text` spells: case, '-', '_' and spaces do not matter ('At-Ease' is 'at ease').

    Raises UnknownName with the nearest spellings.
    """
    emotions = list(emotions)
    exact = {_loose(emotion): emotion for emotion in reversed(emotions)}
    if _loose(text) in exact:
        return exact[_loose(text)]
    raise UnknownName("emotion", text.strip(), emotions, do="`saefeat emotions` lists them")


def load_corpus(name_or_dir: str | Path) -> StoryCorpus:
    """Read a story corpus: a directory, or the name of one that ships ('stories').

    Raises InputError if there is none, FormatError with file and line where it is malformed. Whether it is a good
    corpus (crossed, without leaks) is for `check_corpus` to say.
    """
    directory = _locate(name_or_dir)
    emotions = _emotions(directory / EMOTIONS_FILE)
    families = _families(directory / FAMILIES_FILE, emotions)
    stories: list[Story] = []
    for path in sorted(directory.glob("*.jsonl")):
        if path.name in (NEUTRAL_FILE, RATINGS_FILE):
            continue
        for where, row in _rows(path, ("emotion", "topic", "text")):
            if row["emotion"] not in emotions:
                raise FormatError(f"emotion {row['emotion']!r} is not in {EMOTIONS_FILE}", where=where)
            stories.append(Story(row["emotion"], row["topic"], row["text"]))
    if not stories:
        raise FormatError("holds no stories (no .jsonl with emotion, topic and text)", where=directory)
    neutral: list[Neutral] = []
    if (directory / NEUTRAL_FILE).exists():
        rows = _rows(directory / NEUTRAL_FILE, ("topic", "kind", "text"))
        neutral = [Neutral(row["topic"], row["kind"], row["text"]) for _, row in rows]
    topics = tuple(sorted({story.topic for story in stories}))
    corpus = StoryCorpus(tuple(stories), tuple(neutral), emotions, topics, families, "")
    return replace(corpus, fingerprint=_fingerprint(corpus))


def _locate(name_or_dir: str | Path) -> Path:
    for directory in (Path(name_or_dir), shipped("corpora") / str(name_or_dir)):
        if (directory / EMOTIONS_FILE).is_file():
            return directory
    if Path(name_or_dir).is_dir():
        raise FormatError(f"is no story corpus (no {EMOTIONS_FILE})", where=name_or_dir)
    raise InputError("no such story corpus", where=name_or_dir, do="pass a directory, or 'stories', the one that ships")


def _emotions(path: Path) -> tuple[str, ...]:
    emotions = tuple(line.strip() for line in _text(path).splitlines() if line.strip())
    seen: dict[str, str] = {}
    for emotion in emotions:
        if _loose(emotion) in seen:
            raise FormatError(f"{emotion!r} is listed twice", where=path)
        seen[_loose(emotion)] = emotion
    if not emotions:
        raise FormatError("lists no emotion", where=path)
    return emotions


def _families(path: Path, emotions: tuple[str, ...]) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        families = json.loads(_text(path))
    except ValueError as error:
        raise FormatError(f"is not JSON ({error})", where=path) from error
    if not isinstance(families, dict):
        raise FormatError("must be a table of emotion to regular expression", where=path)
    for emotion, pattern in families.items():
        if emotion not in emotions:
            raise FormatError(f"emotion {emotion!r} is not in {EMOTIONS_FILE}", where=path)
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise FormatError(f"the pattern of {emotion!r} is no regular expression ({error})", where=path) from error
    return families


def _rows(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """('FILE line N', row) of every non-empty line, each with the given text fields, none of them blank."""
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise FormatError(f"is not JSON ({error})", where=where) from error
        for name in fields:
            if not isinstance(row, dict) or not isinstance(row.get(name), str) or not row[name].strip():
                raise FormatError(f"has no {name!r}", where=where, do=f"each line needs {', '.join(fields)}")
        yield where, row


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"is not UTF-8 text ({error})", where=path) from error
    except OSError as error:
        raise FormatError(f"cannot be read ({error.strerror})", where=path) from error


def _loose(name: str) -> str:
    return " ".join(name.lower().replace("-", " ").replace("_", " ").split())


def _fingerprint(corpus: StoryCorpus) -> str:
    """16 hex digits of a corpus's contents."""
    stories, neutral = ([asdict(text) for text in texts] for texts in (corpus.stories, corpus.neutral))
    return fingerprint([stories, neutral, corpus.emotions, corpus.word_families])
