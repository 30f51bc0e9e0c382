"""Corpora as one: order, topics, and what cannot be joined."""

from dataclasses import replace

import pytest

from saefeat.corpus import join, load_corpus
from saefeat.errors import InputError


def test_stories_and_remarks_join_in_order() -> None:
    stories, remarks = load_corpus("stories"), load_corpus("remarks")
    both = join([stories, remarks])
    assert both.stories == stories.stories + remarks.stories
    assert both.neutral == stories.neutral + remarks.neutral
    assert set(both.topics) == set(stories.topics) | set(remarks.topics)
    assert both.fingerprint not in (stories.fingerprint, remarks.fingerprint)
    assert join([stories]) == stories


def test_other_emotions_or_the_same_topics_are_refused() -> None:
    stories = load_corpus("stories")
    with pytest.raises(InputError, match="different emotions"):
        join([stories, replace(stories, emotions=stories.emotions[1:])])
    with pytest.raises(InputError, match="topic t01"):
        join([stories, stories])
