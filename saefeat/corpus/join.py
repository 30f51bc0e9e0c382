"""Several story corpora of the same emotions as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from saefeat.corpus.stories import StoryCorpus, fingerprint_of
from saefeat.errors import InputError


def join(corpora: Sequence[StoryCorpus]) -> StoryCorpus:
    """The texts of all corpora, the first one's first. Raises InputError: other emotions, a topic in two of them."""
    first, *others = corpora
    if not others:
        return first
    for other in others:
        if other.emotions != first.emotions:
            raise InputError("the corpora list different emotions", do="give them the same emotions.txt")
        both = sorted(set(first.topics) & set(other.topics))
        if both:
            raise InputError(f"two corpora have the topic {both[0]}", do="name topics apart")
    joined = replace(
        first,
        stories=tuple(story for corpus in corpora for story in corpus.stories),
        neutral=tuple(text for corpus in corpora for text in corpus.neutral),
        topics=tuple(sorted(topic for corpus in corpora for topic in corpus.topics)),
    )
    return replace(joined, fingerprint=fingerprint_of(joined))
