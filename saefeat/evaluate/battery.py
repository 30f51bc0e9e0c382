"""The battery: every figure of an atlas beside its nulls and baselines, in one run, each text scored alone.

Prototypes, detectors and single features are fitted on the training topics (and on the short texts), for the SAE's
features and for every representation of `pooled.NAMES` alike, by the same code, and scored on the test topics and on
texts from elsewhere. A section is a plain dictionary, {"id", "title", "about", "columns", "units", "rows", "notes",
"figure"}, a row {"name", "values", "own", "null"}; `report.py` prints them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from saefeat.atlas import Atlas, choose_readout
from saefeat.causal import cell
from saefeat.config import ReadoutConfig
from saefeat.corpus import StoryCorpus, load_corpus
from saefeat.errors import InputError
from saefeat.evaluate.pooled import NAMES, SHUFFLED, Pooler, Pools
from saefeat.evaluate.retrieval import share_with_interval, shuffled_within_topics
from saefeat.label import (
    NEUTRAL,
    Progress,
    Prototypes,
    corpora_of,
    emotions_and_topics,
    fit_prototypes,
    scores,
    texts_of,
)

logger = logging.getLogger(__name__)
Report = Callable[[str], Progress]


@dataclass(frozen=True)
class Fitted:
    """Prototypes, and the emotions (as fitted) and topics of the texts behind their held-out scores."""

    prototypes: Prototypes
    emotion_N: np.ndarray
    topic_N: np.ndarray


@dataclass
class Bench:
    """An atlas, its corpora and split, and what has been pooled and fitted so far, so that nothing is done twice."""

    atlas: Atlas
    stories: StoryCorpus
    train: tuple[str, ...]
    test: tuple[str, ...]
    seed: int = 0
    embeddings: bool = True
    keep: Path | None = None
    report: Report = lambda stage: None
    _poolers: dict[str, Pooler] = field(default_factory=dict)
    _pools: dict[tuple[Pooler, tuple[str, ...]], Pools] = field(default_factory=dict)
    _fits: dict[tuple[str, str, bool], Fitted] = field(default_factory=dict)

    @property
    def emotions(self) -> tuple[str, ...]:
        return self.stories.emotions

    @property
    def main(self) -> str:
        """The first readout that is fitted on the stories: what is measured on stories is measured with it."""
        return self.atlas.story_readouts[0]

    def readout(self, name: str) -> ReadoutConfig:
        return self.atlas.readout_config(name)

    def pooler(self, readout: str) -> Pooler:
        """The pooler of a readout; readouts that read alike share one."""
        config, told = self.readout(readout), self.atlas.readouts[readout]
        key = str([told["sae"], config.pool, config.power, config.continuation, config.frame])
        if key not in self._poolers:
            subject = self.atlas.subject()
            sae, sample = self.atlas.sae(told["sae"]), texts_of(self.stories)
            settings: dict[str, Any] = {"embeddings": self.embeddings, "seed": self.seed, "keep": self.keep}
            self._poolers[key] = Pooler(subject, sae, config, sample, **settings)
        return self._poolers[key]

    def pool(self, readout: str, name: str, texts: Sequence[str]) -> Pools:
        """Texts under every representation; `name` is what they are called while they are read."""
        key = (self.pooler(readout), tuple(texts))
        if key not in self._pools:
            began = time.time()
            self._pools[key] = key[0](texts, self.report(f"reading {name}, {readout}"))
            logger.info("read %s for %s in %.0f s", name, readout, time.time() - began)
        return self._pools[key]

    def corpora(self, readout: str) -> list[StoryCorpus]:
        return corpora_of(self.readout(readout), self.stories)

    def read(self, readout: str) -> tuple[Pools, np.ndarray, np.ndarray]:
        """All texts that a readout is fitted on (test topics too): pools, emotion_N, topic_N."""
        corpora = self.corpora(readout)
        parts = [self.pool(readout, f"corpus {c.topics[0]}–{c.topics[-1]}", texts_of(c)) for c in corpora]
        emotion_N, topic_N = emotions_and_topics(corpora)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, emotion_N, topic_N

    def fit(self, readout: str, representation: str, *, every_topic: bool = False) -> Fitted:
        """Prototypes of a representation (SHUFFLED: the SAE's, emotions permuted within topics) on all but the test
        topics, or on every topic. The ridge of each representation is chosen once, on the training stories."""
        key = (readout, representation, every_topic)
        if key not in self._fits:
            pools, emotion_N, topic_N = self.read(readout)
            used_N = np.ones(len(topic_N), bool) if every_topic else ~np.isin(topic_N, self.test)
            emotion_N, topic_N = emotion_N[used_N], topic_N[used_N]
            labels_N = emotion_N
            if representation == SHUFFLED:
                labels_N = emotion_N.copy()
                told_N = emotion_N != NEUTRAL
                labels_N[told_N] = shuffled_within_topics(emotion_N[told_N], topic_N[told_N], self.seed)
            X_NF, began = columns_of(pools, representation)[used_N], time.time()
            chosen = readout == self.main and not every_topic
            ridge = None if chosen else self.fit(self.main, representation).prototypes.ridge
            fit = fit_prototypes(X_NF, labels_N, topic_N, ridge=ridge, n_emotions=len(self.emotions))
            self._fits[key] = Fitted(fit, labels_N, topic_N)
            logger.info("fitted %s for %s in %.0f s", representation, readout, time.time() - began)
        return self._fits[key]

    def representations(self, readout: str) -> list[str]:
        """Those at hand, the SAE's first."""
        embeddings = self.pooler(readout).embeddings
        return [name for name in NAMES if name != "minilm" or embeddings]

    def chosen(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Readout → row numbers of the texts that 'auto' reads with it."""
        subject = self.atlas.subject()
        names = np.array([choose_readout(self.atlas.readouts, len(subject.tokenize(text))) for text in texts])
        return {name: np.flatnonzero(names == name) for name in dict.fromkeys(names)}

    def scores(self, representation: str, name: str, texts: Sequence[str]) -> np.ndarray:
        """(N, E) scores of texts from elsewhere, each read as 'auto' would."""
        out_NE = np.zeros((len(texts), len(self.emotions)))
        for readout, rows in self.chosen(texts).items():
            pools = self.pool(readout, name, [texts[row] for row in rows])
            out_NE[rows] = scores(columns_of(pools, representation), self.fit(readout, representation).prototypes)
        return out_NE


def columns_of(pools: Pools, representation: str) -> np.ndarray:
    """The columns that a representation, or SHUFFLED, is made of."""
    return pools["sae" if representation == SHUFFLED else representation]


def open_bench(
    atlas: Atlas,
    *,
    stories: StoryCorpus | None = None,
    train: Sequence[str] | None = None,
    test: Sequence[str] | None = None,
    seed: int = 0,
    embeddings: bool = True,
    keep: Path | None = None,
    report: Report = lambda stage: None,
) -> Bench:
    """A bench for an atlas. stories: those it was made with, by name if left out; train, test: topics, by default the
    first two thirds and the others.

    Raises InputError (other stories, a topic on both sides, too few, no readout of stories), UnknownName.
    """
    told = atlas.manifest["provenance"]["label"]
    stories = load_corpus(told["config"]["stories"]) if stories is None else stories
    if stories.fingerprint != told["corpus"]["fingerprint"]:
        raise InputError("these are not the stories the atlas was made with", do="pass theirs with --stories DIR")
    if not atlas.story_readouts:
        raise InputError(f"no readout of the atlas {atlas.name} is fitted on stories", do="label it with another")
    topics = list(stories.topics)
    if test is None:
        cut = -(-len(topics) * 2 // 3)
        test = [topic for topic in topics if topic not in train] if train else topics[cut:]
    train = [topic for topic in topics if topic not in test] if train is None else train
    both = sorted(set(train) & set(test))
    if both:
        raise InputError(f"topics {', '.join(both)} are both trained and tested on", do="name each topic once")
    for side in (train, test):
        stories.on_topics(side)  # unknown names end here
    if len(train) < 2:
        raise InputError("needs at least two topics to train on", do="name more --train-topics")
    unused = sorted(set(topics) - set(train) - set(test))
    used = stories.on_topics([*train, *test]) if unused else stories
    settings: dict[str, Any] = {"seed": seed, "embeddings": embeddings, "keep": keep, "report": report}
    return Bench(atlas, used, tuple(train), tuple(test), **settings)


# ---------------------------------------------------------------- rows
def value(figure: float, interval: tuple[float, float] | None = None) -> Any:
    """A figure as results.json holds it, with its 95 % interval if there is one; None if it is not known."""
    return cell(figure, *(interval or ()))


def share(hit_N: np.ndarray, seed: int) -> Any:
    """The value of a share of hits; None of nothing."""
    return value(*share_with_interval(hit_N, seed)) if len(hit_N) else None


def among_first(place_N: np.ndarray, seed: int, E: int, ks: Sequence[int] = (1, 5)) -> list[Any]:
    """The values of how often an own emotion is among the first k; None where k takes in all E of them."""
    return [share(place_N < k, seed) if k < E else None for k in ks]
