"""The story battery: retrieval of all emotions on topics never trained on, one text at a time, beside its nulls."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from saefeat.config import STORY, ReadoutConfig
from saefeat.corpus import StoryCorpus
from saefeat.errors import InputError
from saefeat.evaluate.controls import RandomEncoder, sentence_embeddings
from saefeat.evaluate.retrieval import RIDGES, retrieval, shuffled_within_topics
from saefeat.label import Encoder, Progress, pool_texts
from saefeat.sae import SAE
from saefeat.subject import Subject

SAMPLE = 64
"""Stories on which the stream's mean and the SAE's L0 are measured for the random encoders."""
NOT_INSTALLED = "not installed"


def evaluate_stories(
    subject: Subject,
    sae: SAE,
    corpus: StoryCorpus,
    train_topics: Sequence[str],
    test_topics: Sequence[str],
    *,
    readout: ReadoutConfig = STORY,
    ridges: tuple[float, ...] = RIDGES,
    embeddings: bool = True,
    seed: int = 0,
    on_progress: Progress = None,
) -> dict[str, Any]:
    """Rows of `Retrieval` by representation: sae, dense, minilm, shuffled, random_directions, random_encoder.

    All share one forward pass per text, one readout and the code of `retrieval`; the SAE must not have been trained
    on the test topics for its row to mean what it says. Raises InputError: topics that overlap or are unknown.
    """
    both = sorted(set(train_topics) & set(test_topics))
    if both:
        raise InputError(f"topics {', '.join(both)} are both trained and tested on", do="name each topic once")
    corpus.on_topics(train_topics)  # unknown names end here
    stories = corpus.on_topics([*train_topics, *test_topics]).stories
    texts = [story.text for story in stories]
    emotion_N = np.array([corpus.emotions.index(story.emotion) for story in stories])
    topic_N = np.array([story.topic for story in stories])
    test_N = np.isin(topic_N, list(test_topics))

    encoders = {"sae": sae, **_random_encoders(subject, sae, texts, readout, seed)}
    readouts = [dataclasses.replace(readout, name=name) for name in encoders]
    pools = pool_texts(subject, texts, readouts, encoders, dense=True, on_progress=on_progress)
    representations: dict[str, np.ndarray | None] = {
        "sae": pools.features["sae"],
        "dense": pools.dense["sae"],
        "minilm": sentence_embeddings(texts) if embeddings else None,
        "random_directions": pools.features["random_directions"],
        "random_encoder": pools.features["random_encoder"],
    }
    rows: dict[str, Any] = {}
    for name, X_NF in representations.items():
        if X_NF is None:
            rows[name] = NOT_INSTALLED if embeddings else "left out"
            continue
        rows[name] = retrieval(X_NF, emotion_N, topic_N, test_N, ridges=ridges, seed=seed).to_dict()
    shuffled_N = shuffled_within_topics(emotion_N, topic_N, seed)
    rows["shuffled"] = retrieval(
        pools.features["sae"], emotion_N, topic_N, test_N, labels_N=shuffled_N, ridges=ridges, seed=seed
    ).to_dict()
    return {
        "sae": sae.name,
        "readout": dataclasses.asdict(readout),
        "l0": float(pools.density["sae"].sum()),
        "l0_random_encoder": float(pools.density["random_encoder"].sum()),
        "train_topics": list(train_topics),
        "test_topics": list(test_topics),
        "chance_top1": 1 / len(corpus.emotions),
        "seed": seed,
        "rows": rows,
    }


def _random_encoders(
    subject: Subject, sae: SAE, texts: Sequence[str], readout: ReadoutConfig, seed: int
) -> dict[str, Encoder]:
    """Random directions, and a random encoder as sparse as the SAE, both centred on the stream's mean."""
    import torch

    sample = texts[:: max(1, len(texts) // SAMPLE)][:SAMPLE]
    pools = pool_texts(subject, sample, [readout], {readout.name: sae}, dense=True)
    mean_D = torch.from_numpy(pools.dense[readout.name].mean(0)).to(subject.device)
    k = max(1, round(float(pools.density[readout.name].sum())))
    given = (mean_D, sae.n_features, sae.layer, sae.sink_norm)
    return {
        "random_directions": RandomEncoder(*given, seed=seed),
        "random_encoder": RandomEncoder(*given, seed=seed + 1, k=k),
    }
