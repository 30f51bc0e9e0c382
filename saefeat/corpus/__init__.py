"""Stories and dialogues with known emotions and topics, neutral texts, streams of documents, texts a user passes."""

from saefeat.corpus.check import Problem, check_corpus, corpus_stats
from saefeat.corpus.dialogues import (
    Dialogue,
    DialogueCorpus,
    Spoken,
    check_dialogues,
    is_dialogue_corpus,
    load_dialogues,
)
from saefeat.corpus.documents import Document, documents, source_fingerprints
from saefeat.corpus.ratings import Ratings, load_ratings
from saefeat.corpus.stories import Neutral, Story, StoryCorpus, emotion_name, load_corpus
from saefeat.corpus.texts import TextItem, read_texts, text_or_messages

__all__ = [
    "Dialogue",
    "DialogueCorpus",
    "Document",
    "Neutral",
    "Problem",
    "Ratings",
    "Spoken",
    "Story",
    "StoryCorpus",
    "TextItem",
    "check_corpus",
    "check_dialogues",
    "corpus_stats",
    "documents",
    "emotion_name",
    "is_dialogue_corpus",
    "load_corpus",
    "load_dialogues",
    "load_ratings",
    "read_texts",
    "source_fingerprints",
    "text_or_messages",
]
