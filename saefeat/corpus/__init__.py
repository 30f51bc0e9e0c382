"""Stories with a known emotion and topic, neutral texts, streams of documents, and the texts a user passes."""

from saefeat.corpus.check import Problem, check_corpus, corpus_stats
from saefeat.corpus.documents import Document, documents, source_fingerprints
from saefeat.corpus.ratings import Ratings, load_ratings
from saefeat.corpus.stories import Neutral, Story, StoryCorpus, emotion_name, load_corpus
from saefeat.corpus.texts import TextItem, read_texts, text_or_messages

__all__ = [
    "Document",
    "Neutral",
    "Problem",
    "Ratings",
    "Story",
    "StoryCorpus",
    "TextItem",
    "check_corpus",
    "corpus_stats",
    "documents",
    "emotion_name",
    "load_corpus",
    "load_ratings",
    "read_texts",
    "source_fingerprints",
    "text_or_messages",
]
