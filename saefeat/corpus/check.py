"""What is wrong with a story corpus, and what it holds: crossing, leaks, lengths, duplicates."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from saefeat.corpus.stories import Neutral, Story, StoryCorpus

UNUSUAL = 5.0
"""A text this many times shorter or longer (in words) than its topic's median is worth a look."""
SHINGLE = 8
"""Two stories that share a run of this many words may be copies of each other."""


@dataclass(frozen=True)
class Problem:
    """One finding. severity: 'error' spoils the statistics, 'warning' is worth a look. kind: see `check_corpus`."""

    severity: Literal["error", "warning"]
    kind: str
    where: str
    what: str


def check_corpus(corpus: StoryCorpus) -> list[Problem]:
    """Every problem of a corpus, errors first; an empty list means none was found.

    Errors: 'crossing' (an emotion without a story on a topic: the topic can then not be removed exactly), 'leak' (a
    story names its emotion or a word of its family), 'duplicate' (one text twice). Warnings: 'balance' (cells with
    different numbers of stories), 'length', 'overlap' (two stories share 8 words in a row), 'neutral' (a topic
    without neutral texts), 'leak' in a neutral text, 'family' (an emotion without word family).
    """
    problems = _crossing(corpus) + _leaks(corpus) + _copies(corpus) + _lengths(corpus) + _neutral(corpus)
    return sorted(problems, key=lambda problem: problem.severity != "error")


def corpus_stats(corpus: StoryCorpus) -> dict[str, Any]:
    """Counts and lengths (in words) of a corpus."""
    words = [len(story.text.split()) for story in corpus.stories]
    neutral = [len(text.text.split()) for text in corpus.neutral]
    return {
        "emotions": len(corpus.emotions),
        "topics": len(corpus.topics),
        "stories": len(words),
        "stories_per_topic": dict(sorted(Counter(story.topic for story in corpus.stories).items())),
        "words": _spread(words),
        "neutral": len(neutral),
        "neutral_kinds": dict(sorted(Counter(text.kind for text in corpus.neutral).items())),
        "neutral_words": _spread(neutral),
        "fingerprint": corpus.fingerprint,
    }


def _spread(counts: list[int]) -> dict[str, float]:
    if not counts:
        return {"total": 0}
    return {"total": sum(counts), "min": min(counts), "median": statistics.median(counts), "max": max(counts)}


def _name(text: Story | Neutral, number: int) -> str:
    if isinstance(text, Story):
        return f"story {number} ({text.emotion}, {text.topic})"
    return f"neutral text {number} ({text.kind}, {text.topic})"


def _crossing(corpus: StoryCorpus) -> list[Problem]:
    cells = Counter((story.emotion, story.topic) for story in corpus.stories)
    problems = [
        Problem("error", "crossing", f"{emotion}, {topic}", "no story")
        for emotion in corpus.emotions
        for topic in corpus.topics
        if not cells[emotion, topic]
    ]
    if len(set(cells.values())) > 1:
        usual = Counter(cells.values()).most_common(1)[0][0]
        odd = [(cell, n) for cell, n in sorted(cells.items()) if n != usual]
        problems += [
            Problem("warning", "balance", f"{e}, {t}", f"{n} stories, most cells have {usual}") for (e, t), n in odd
        ]
    return problems


def _leaks(corpus: StoryCorpus) -> list[Problem]:
    patterns = {
        emotion: re.compile(rf"\b(?:{corpus.word_families.get(emotion, re.escape(emotion))})\b", re.IGNORECASE)
        for emotion in corpus.emotions
    }
    problems = []
    for number, story in enumerate(corpus.stories, 1):
        if found := patterns[story.emotion].search(story.text):
            problems.append(Problem("error", "leak", _name(story, number), f"names the emotion: {found.group()!r}"))
    if corpus.word_families:
        missing = [emotion for emotion in corpus.emotions if emotion not in corpus.word_families]
        problems += [Problem("warning", "family", emotion, "has no word family") for emotion in missing]
    return problems


def _copies(corpus: StoryCorpus) -> list[Problem]:
    problems: list[Problem] = []
    whole: dict[tuple[str, ...], str] = {}
    runs: dict[int, int] = {}  # hash of a run of words: the first story that has it
    for number, story in enumerate(corpus.stories, 1):
        words = tuple(re.findall(r"\w+", story.text.lower()))
        here = _name(story, number)
        if words in whole:
            problems.append(Problem("error", "duplicate", here, f"the same text as {whole[words]}"))
            continue
        whole[words] = here
        shared = set()
        for i in range(len(words) - SHINGLE + 1):
            first = runs.setdefault(hash(words[i : i + SHINGLE]), number)
            if first != number and first not in shared:
                shared.add(first)
                other = _name(corpus.stories[first - 1], first)
                run = " ".join(words[i : i + SHINGLE])
                problems.append(Problem("warning", "overlap", here, f"shares {run!r} with {other}"))
    return problems


def _lengths(corpus: StoryCorpus) -> list[Problem]:
    words_N = [len(story.text.split()) for story in corpus.stories]
    of_topic = {
        topic: statistics.median(w for w, story in zip(words_N, corpus.stories, strict=True) if story.topic == topic)
        for topic in corpus.topics
    }
    problems = []
    for number, (words, story) in enumerate(zip(words_N, corpus.stories, strict=True), 1):
        usual = of_topic[story.topic]
        if not usual / UNUSUAL <= words <= usual * UNUSUAL:
            what = f"{words} words, {usual:.0f} is usual on this topic"
            problems.append(Problem("warning", "length", _name(story, number), what))
    return problems


def _neutral(corpus: StoryCorpus) -> list[Problem]:
    if not corpus.neutral:
        return []
    covered = {text.topic for text in corpus.neutral}
    problems = [
        Problem("warning", "neutral", topic, "no neutral text") for topic in corpus.topics if topic not in covered
    ]
    foreign = sorted(covered - set(corpus.topics))
    return problems + [Problem("warning", "neutral", topic, "neutral texts but no story") for topic in foreign]
