"""The pooled texts behind labels: which corpora a readout is fitted on, and pools.h5, which keeps what was pooled.

A piece is one corpus read in one way; readouts that read alike share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from saefeat.config import DIALOGUES, OF_DIALOGUES, SHORT_TEXTS, STORY, WITH_SHORT_TEXTS, ReadoutConfig
from saefeat.corpus import DialogueCorpus, StoryCorpus, load_corpus, load_dialogues
from saefeat.errors import FormatError, InputError
from saefeat.files import atomic_path, fingerprint
from saefeat.label.pools import Progress, pool_texts
from saefeat.label.prototypes import NEUTRAL
from saefeat.label.spoken import pool_dialogues, spoken_by
from saefeat.sae import SAE
from saefeat.subject import Subject

FORMAT, VERSION = "pools", 2
Piece = tuple[np.ndarray, np.ndarray]
"""X_NF of a corpus's stories and then its neutral texts, or of the turns of dialogues; density_F."""
Corpus = StoryCorpus | DialogueCorpus


def default_readouts(corpus: StoryCorpus, *, chat: bool) -> tuple[ReadoutConfig, ...]:
    """story, felt and turn where the short texts that ship have the corpus's emotions, with speaker and other where the
    dialogues have them too and the model is for chats; else story alone."""
    if load_corpus(SHORT_TEXTS).emotions != corpus.emotions:
        return (STORY,)
    same = chat and sorted(load_dialogues(DIALOGUES).emotions) == sorted(corpus.emotions)
    return (*WITH_SHORT_TEXTS, *OF_DIALOGUES) if same else WITH_SHORT_TEXTS


def corpora_of(readout: ReadoutConfig, stories: StoryCorpus) -> list[StoryCorpus]:
    """The corpora of texts that a readout is fitted on, the stories first. Raises InputError: other emotions, a topic
    twice."""
    own = ([stories] if readout.stories else []) + [load_corpus(name) for name in readout.also]
    topics: set[str] = set()
    for corpus, name in zip(own[-len(readout.also) :] if readout.also else [], readout.also, strict=True):
        if corpus.emotions != stories.emotions:
            raise InputError("lists other emotions than the stories", where=name, do="give it the same emotions.txt")
    for corpus in own:
        both = sorted(topics & set(corpus.topics))
        if both:
            raise InputError(f"two corpora of readout {readout.name} have the topic {both[0]}", do="name topics apart")
        topics |= set(corpus.topics)
    return own


def dialogues_of(readout: ReadoutConfig, stories: StoryCorpus) -> list[DialogueCorpus]:
    """The dialogue corpora that a readout is fitted on. Raises InputError: other emotions, a topic twice."""
    topics = {topic for corpus in corpora_of(readout, stories) for topic in corpus.topics}
    own = [load_dialogues(name, stories.emotions) for name in readout.dialogues]
    for corpus in own:
        both = sorted(topics & set(corpus.topics))
        if both:
            raise InputError(f"two corpora of readout {readout.name} have the topic {both[0]}", do="name topics apart")
        topics |= set(corpus.topics)
    return own


def emotions_and_topics(corpora: Sequence[Corpus]) -> tuple[np.ndarray, np.ndarray]:
    """emotion_N (NEUTRAL for flat texts) and topic_N: of each corpus its stories and then its neutral texts, or of
    dialogues the speaker's of every turn."""
    emotion_N: list[int] = []
    topic_N: list[str] = []
    for corpus in corpora:
        if isinstance(corpus, DialogueCorpus):
            speaker_N, _, own_N = spoken_by(corpus)
            emotion_N, topic_N = emotion_N + speaker_N.tolist(), topic_N + own_N.tolist()
            continue
        number = {emotion: index for index, emotion in enumerate(corpus.emotions)}
        emotion_N += [number[story.emotion] for story in corpus.stories] + [NEUTRAL] * len(corpus.neutral)
        topic_N += [story.topic for story in corpus.stories] + [text.topic for text in corpus.neutral]
    return np.array(emotion_N), np.array(topic_N)


def is_read(readout: ReadoutConfig, corpora: Sequence[Corpus]) -> np.ndarray:
    """(N,) False where a row of `emotions_and_topics` is no text to this readout: what opens after a last turn."""
    read: list[bool] = []
    for corpus in corpora:
        if isinstance(corpus, DialogueCorpus):
            read += [turn.answered or readout.pool != "opening" for turn in corpus.turns]
        else:
            read += [True] * len(texts_of(corpus))
    return np.array(read, bool)


def texts_of(corpus: Corpus) -> list[str]:
    """A corpus's stories and then its neutral texts, or every turn of dialogues."""
    if isinstance(corpus, DialogueCorpus):
        return [turn.text for turn in corpus.turns]
    return [story.text for story in corpus.stories] + [text.text for text in corpus.neutral]


def pooled(
    subject: Subject,
    readouts: Sequence[ReadoutConfig],
    saes: Mapping[str, SAE],
    corpora: Mapping[str, Sequence[Corpus]],
    weights: Mapping[str, str],
    path: Path,
    on_progress: Progress = None,
) -> dict[str, Piece]:
    """(X_NF, density_F) by readout name, the rows of its corpora one after the other; density is the first one's.

    weights: the checksum of each readout's SAE. Pieces come from pools.h5 where they were pooled from the same inputs
    before; what is new is written there corpus by corpus, so that a kill costs one.
    """
    keys = {
        (r.name, c.fingerprint): fingerprint(
            [subject.fingerprint.to_dict(), str(subject.dtype), weights[r.name], c.fingerprint,
             r.pool, r.power, r.continuation, r.frame]
        )
        for r in readouts
        for c in corpora[r.name]
    }  # fmt: skip
    wanted = set(keys.values())
    known = _read(path) if path.exists() else {}
    pieces = {key: piece for key, piece in known.items() if key in wanted}
    for corpus in {c.fingerprint: c for own in corpora.values() for c in own}.values():
        missing = {
            keys[r.name, corpus.fingerprint]: r
            for r in readouts
            if corpus.fingerprint in {c.fingerprint for c in corpora[r.name]}
            and keys[r.name, corpus.fingerprint] not in pieces
        }
        if missing:
            asked = [replace(readout, name=key) for key, readout in missing.items()]
            own_saes = {key: saes[readout.name] for key, readout in missing.items()}
            if isinstance(corpus, DialogueCorpus):
                pieces |= pool_dialogues(subject, corpus, asked, own_saes, on_progress=on_progress)
            else:
                found = pool_texts(subject, texts_of(corpus), asked, own_saes, on_progress=on_progress)
                pieces |= {key: (found.features[key], found.density[key]) for key in missing}
            _write(path, pieces)
    if set(known) - wanted:
        _write(path, pieces)
    whole = {}
    for readout in readouts:
        own = [pieces[keys[readout.name, corpus.fingerprint]] for corpus in corpora[readout.name]]
        whole[readout.name] = (np.concatenate([X_NF for X_NF, _ in own]), own[0][1])
    return whole


# ---------------------------------------------------------------- pools.h5
def _write(path: Path, pieces: Mapping[str, Piece]) -> None:
    """Sparse rows (CSR) by piece: data float32, indices int32, indptr int64; density; attribute shape."""
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"], file.attrs["format_version"] = FORMAT, VERSION
        for key, (X_NF, density_F) in pieces.items():
            group = file.create_group(key)
            group.attrs["shape"] = X_NF.shape
            row, column = np.nonzero(X_NF)
            options = {"fletcher32": True, "compression": "gzip", "compression_opts": 1} if len(row) else {}
            group.create_dataset("data", data=X_NF[row, column], **options)
            group.create_dataset("indices", data=column.astype(np.int32), **options)
            group["indptr"] = np.searchsorted(row, np.arange(len(X_NF) + 1))
            group["density"] = density_F


def _read(path: Path) -> dict[str, Piece]:
    """The pieces of pools.h5; none of a file of format 1, whose pools were plain means."""
    import h5py

    pieces = {}
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT or file.attrs["format_version"] > VERSION:
                raise FormatError("is not a file of pools that this saefeat reads", where=path)
            if file.attrs["format_version"] < VERSION:
                return {}
            for key, group in file.items():
                X_NF = np.zeros(tuple(group.attrs["shape"]), np.float32)
                row = np.repeat(np.arange(len(X_NF)), np.diff(group["indptr"][:]))
                X_NF[row, group["indices"][:]] = group["data"][:]
                pieces[key] = (X_NF, group["density"][:])
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise FormatError(f"cannot be read as pools ({error})", where=path, do="delete it and run again") from error
    return pieces
