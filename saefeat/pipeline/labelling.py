"""The stages after the SAE as a plan sees them: labels and the atlas. Nothing here writes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch

from saefeat.atlas import MOST_EXAMPLES
from saefeat.config import BuildConfig, ReadoutConfig
from saefeat.corpus import StoryCorpus
from saefeat.files import sha256_file
from saefeat.label import (
    Corpus,
    corpora_of,
    default_readouts,
    dialogues_of,
    emotions_and_topics,
    is_labelled,
    label_inputs,
    texts_of,
)
from saefeat.pipeline.build import is_indexed
from saefeat.pipeline.shape import SECONDS, Shape
from saefeat.pipeline.speed import fit_seconds, matmul_speed, peak_memory, statistics_seconds
from saefeat.pipeline.stage import Stage, sae_bytes

STREAM_SHARE = 0.44
"""Of the features that a text could switch on, 1 - exp(-STREAM_SHARE k tokens / F) are: fits pooled stories (.50 of
4,608 features, k 48, 150 tokens) and remarks (.15, 40 tokens)."""
NONZERO_BYTES, ROW_BYTES, STORY_BYTES, FEATURE_BYTES = 5.1, 34, 700, 450
"""In pools.h5 a nonzero, in labels.parquet a row, in examples.h5 a story and a feature; as measured."""
LABEL_COPIES = 5
"""Matrices of texts x features that labelling one readout holds beside the pools."""
LATER_BYTES = 400_000_000
"""What libraries loaded later and the logits of decoder directions take, as measured."""


class Latents(NamedTuple):
    """An SAE as labelling sees it."""

    layer: int
    features: int
    active: float
    """Features active on a token."""
    there: bool
    """Whether it lies in the build's folder."""
    encoding: float
    """Tokens a second of its encoder."""


def labelling_stages(
    config: BuildConfig, corpus: StoryCorpus, shape: Shape, out: Path, latents: Latents, speed: float
) -> list[Stage]:
    """The stages after the SAE; speed: tokens a second of the forward pass to its layer."""
    F, E, base = latents.features, len(corpus.emotions), peak_memory()
    chat = shape.subject is None or bool(shape.subject.tokenizer.chat_template)
    readouts = config.label.readouts or default_readouts(corpus, chat=chat)
    read: dict[str, list[Corpus]] = {r.name: [*corpora_of(r, corpus), *dialogues_of(r, corpus)] for r in readouts}
    every: list[Corpus] = [corpus, *(one for own in read.values() for one in own)]
    lengths = {one.fingerprint: _lengths(one, shape) for one in every}
    passes = {(c.fingerprint, *_sequence(r)) for r in readouts for c in read[r.name]}
    pooled = [n for r in readouts for c in read[r.name] for n in lengths[c.fingerprint]]
    texts = {name: sum(len(lengths[c.fingerprint]) for c in own) for name, own in read.items()}
    stories = sum(lengths[corpus.fingerprint][: len(corpus.stories)])

    of_texts = sum(not readout.dialogues for readout in readouts)  # features are labelled by these alone
    rows = ROW_BYTES * of_texts * min(3 * F + 8 * E, F * E) + 12_000
    on = sum(F * -math.expm1(-STREAM_SHARE * latents.active * n / F) for n in pooled)
    prototypes = sum(4 * (F * E + E + n * E) for n in texts.values())
    tokens = sum(sum(lengths[one]) for one, *_ in passes)
    labelled = latents.there and _is_labelled(config, shape, corpus, out)
    indexed = labelled and is_indexed(config, out)

    emotion_N, topic_N = emotions_and_topics([corpus])
    own_N = emotion_N >= 0
    tests = 0.0 if labelled else of_texts * statistics_seconds(emotion_N[own_N], topic_N[own_N], E, F)
    fits = 0.0 if labelled else sum(fit_seconds(n, budget=SECONDS / 8) for n in texts.values())
    products = 2 * F * shape.n_vocab * shape.d_model  # the logits of every decoder direction
    words = 0.0 if labelled else products / matmul_speed(shape.d_model, torch.float32, shape.device, budget=SECONDS / 8)
    index_bytes = sae_bytes(F, shape.d_model, 4 if config.sae.from_ else 2) + rows + 2 * E * (F + 2) * len(readouts)
    index_bytes += FEATURE_BYTES * min(F, MOST_EXAMPLES)
    index_bytes += len(corpus.stories) * (2 * E * len(readouts) + STORY_BYTES) + 20_000
    return [
        Stage(
            name="label",
            done=float(labelled),
            tokens=tokens,
            disk_bytes=round(NONZERO_BYTES * on) + rows + prototypes,
            memory_bytes=base + LATER_BYTES + 4 * F * (LABEL_COPIES * max(texts.values()) + sum(texts.values())),
            seconds=0.0 if labelled else tokens / speed + sum(pooled) / latents.encoding + tests + fits + words,
            basis="done" if labelled else f"{tests:.0f} s of statistics, {fits:.0f} s of solving and {words:.0f} s of "
            f"logits, from small ones measured; about {on / len(pooled):,.0f} features active in a text",
        ),
        Stage(
            name="index",
            done=float(indexed),
            tokens=stories,
            disk_bytes=index_bytes,
            memory_bytes=base + LATER_BYTES + 8 * F * shape.d_model,
            seconds=0.0 if indexed else stories / speed + stories / latents.encoding,
            basis="the stories read once more",
        ),
    ]  # fmt: skip


def _sequence(readout: ReadoutConfig) -> tuple[str, str]:
    """What two readouts must share to be served by one forward pass."""
    return readout.frame, readout.continuation if readout.pool == "last" else ""


def _lengths(corpus: Corpus, shape: Shape) -> list[int]:
    """Tokens of a corpus's texts or turns, prefix included."""
    prefix = len(shape.subject.prefix_ids) if shape.subject else 1
    return [prefix + shape.tokens(text) for text in texts_of(corpus)]


def _is_labelled(config: BuildConfig, shape: Shape, corpus: StoryCorpus, out: Path) -> bool:
    if shape.subject is None:
        return False
    weights = sha256_file(out / "sae" / "sae_weights.safetensors")
    return is_labelled(out / "labels", label_inputs(shape.subject, [weights], corpus, config.label))
