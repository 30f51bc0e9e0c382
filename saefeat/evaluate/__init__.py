"""The evaluation battery: how good the labels are, beside nulls and baselines."""

from saefeat.evaluate.controls import RandomEncoder, sentence_embeddings
from saefeat.evaluate.retrieval import Retrieval, retrieval, shuffled_within_topics
from saefeat.evaluate.stories import evaluate_stories

__all__ = [
    "RandomEncoder",
    "Retrieval",
    "evaluate_stories",
    "retrieval",
    "sentence_embeddings",
    "shuffled_within_topics",
]
