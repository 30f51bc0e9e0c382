"""The stages of a build as a plan sees them: how far each has come, what it takes, and what that rests on.

Sizes follow from the formats and the settings; times from measured speeds. Nothing here writes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from saefeat.config import BuildConfig, HarvestConfig, ReadoutConfig
from saefeat.corpus import StoryCorpus, documents, source_fingerprints
from saefeat.errors import InputError
from saefeat.files import sha256_file
from saefeat.harvest import ActivationStore, harvested, pack
from saefeat.label import corpora_of, default_readouts, emotions_and_topics, is_labelled, label_inputs, texts_of
from saefeat.pipeline.adopt import SAMPLE_TOKENS, chosen_model, prepare, story_quality, story_streams
from saefeat.pipeline.build import (
    QUALITY_TOKENS,
    activation_bytes,
    check,
    checkpoint_bytes,
    is_indexed,
    layers_of,
    too_short,
)
from saefeat.pipeline.shape import SECONDS, Shape, loaded_shape, shape_of
from saefeat.pipeline.speed import encode_speed, fit_seconds, peak_memory, statistics_seconds
from saefeat.sae import is_trained, load_sae, step_seconds, steps_done
from saefeat.subject import load_subject

COUNTING_SECONDS = 10.0
"""How long the text is counted before its length is taken on trust."""
POOL_BYTES = 1 << 28
STREAM_SHARE = 0.44
"""Of the features that a text could switch on, 1 - exp(-STREAM_SHARE k tokens / F) are: fits pooled stories (.50 of
4,608 features, k 48, 150 tokens) and remarks (.15, 40 tokens)."""
NONZERO_BYTES, ROW_BYTES, STORY_BYTES, FEATURE_BYTES = 5.1, 34, 700, 450
"""In pools.h5 a nonzero, in labels.parquet a row, in examples.h5 a story and a feature; as measured."""
LABEL_COPIES = 5
"""Matrices of texts x features that labelling one readout holds beside the pools."""
LATER_BYTES = 400_000_000
"""What libraries loaded later and the logits of decoder directions take, as measured."""
MOST_EXAMPLES, METRICS_BYTES = 800, 220
UNKNOWN_FEATURES, UNKNOWN_ACTIVE = 1 << 15, 64.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a build. Sizes are those of the whole stage; seconds are what is left of it."""

    name: str
    done: float
    """0 to 1."""
    tokens: int
    """Tokens read by the model, or visited by training."""
    disk_bytes: int
    """What it leaves on the disk."""
    scratch_bytes: int = 0
    """What it needs beside that while it runs."""
    memory_bytes: int
    """The most memory it holds, estimated."""
    seconds: float
    basis: str
    """What the numbers rest on."""


class Found(NamedTuple):
    """The stages of a build, its subject and layers, and what else is to be said."""

    stages: list[Stage]
    shape: Shape
    layers: tuple[int, ...]
    notes: list[str]


# ---------------------------------------------------------------- harvest and train
def training(config: BuildConfig, corpus: StoryCorpus, out: Path) -> Found:
    """The stages of a build that trains its SAE. Raises InputError as the build would."""
    layers, train = layers_of(config), config.train
    shape, notes = shape_of(config)
    layer = layers[0] if train.layer is None else train.layer
    check(config, shape)
    harvest = dataclasses.replace(config.harvest, layers=layers)
    source_fingerprints(harvest.text)  # that the texts are there
    known: dict[str, Any] = {"contexts": 0, "finished": False}
    if shape.subject:
        known = harvested(shape.subject, harvest, out / "activations")
    contexts = known["contexts"] if known["finished"] else _contexts(shape, harvest, notes)
    T, F, D, steps = harvest.context, train.features, shape.d_model, max(1, train.tokens // train.batch)
    if contexts * T < train.batch:
        raise too_short(contexts * T, train.batch)

    speed, base = shape.speed(max(layers), harvest), peak_memory()
    told = "measured, to layer" if shape.subject else "by FLOPs, to layer"
    done = 1.0 if known["finished"] else known["contexts"] / contexts
    activations = activation_bytes(config, D, shape.itemsize, contexts)
    first = Stage(
        name="harvest",
        done=done,
        tokens=contexts * T,
        disk_bytes=activations,
        memory_bytes=base + harvest.batch_contexts * T * D * (4 + 4 * shape.itemsize * len(layers)),
        seconds=(1 - done) * contexts * T / speed,
        basis=f"{speed:,.0f} tokens/s {told} {max(layers)}; sizes follow from the settings",
    )

    sae, settings = out / "sae", dataclasses.replace(train, layer=layer)
    trained = bool(known["finished"]) and is_trained(ActivationStore(out / "activations"), settings, sae)
    each = 0.0 if trained else step_seconds(settings, D, shape.device, seconds=SECONDS)
    done = 1.0 if trained else min(1.0, steps_done(sae) / steps)
    # pre-activations and their masks; weights, gradients and two moments
    working = train.batch * F * 10 + 4 * 2 * 4 * F * D
    second = Stage(
        name="train",
        done=done,
        tokens=steps * train.batch,
        disk_bytes=sae_bytes(F, D) + METRICS_BYTES * (steps // 50 + 1),
        scratch_bytes=2 * checkpoint_bytes(F, D),
        memory_bytes=base + working + 2 * min(POOL_BYTES, activations // len(layers)),
        seconds=(1 - done) * steps * each,
        basis="done" if trained else f"{train.batch / each:,.0f} tokens/s measured, without dead features to revive",
    )

    held = min(QUALITY_TOKENS, max(1, math.ceil(contexts * train.heldout)) * T)
    measured = trained and (sae / "quality.json").exists()
    third = Stage(
        name="quality",
        done=float(measured),
        tokens=held,
        disk_bytes=500,
        memory_bytes=base + 8 * F * D,
        seconds=0.0 if measured else 3 * held / speed * shape.n_layers / (max(layers) + 1),
        basis="three forward passes through the whole model",
    )
    rest = labelling(config, corpus, shape, out, Latents(layer, F, train.k, trained), speed)
    return Found([first, second, third, *rest], shape, layers, notes)


def sae_bytes(features: int, d_model: int, itemsize: int = 2) -> int:
    """Bytes of an SAE's folder: two matrices; biases, thresholds and sparsity in float32; the manifests."""
    return 2 * features * d_model * itemsize + 4 * (3 * features + d_model) + 3000


def _contexts(shape: Shape, harvest: HarvestConfig, notes: list[str]) -> int:
    """How many of the contexts asked for the text makes, counted as the harvest packs them."""
    T, total = harvest.context, max(1, harvest.tokens // harvest.context)
    if shape.subject is None:
        return total
    until, contexts = time.monotonic() + COUNTING_SECONDS, 0
    for _ in itertools.islice(pack(shape.subject, documents(harvest.text, seed=harvest.seed), T), total):
        contexts += 1
        if time.monotonic() > until and contexts < total:
            notes.append(f"the text was counted up to {contexts * T:,} tokens; it is taken to hold all that are asked")
            return total
    if not contexts:
        raise InputError(f"the text is shorter than one context of {T} tokens", do="pass more text")
    if contexts < total:
        notes.append(f"the text holds {contexts * T:,} tokens, {harvest.tokens:,} are asked for")
    return contexts


# ---------------------------------------------------------------- an SAE that is there already
def adopting(config: BuildConfig, corpus: StoryCorpus, out: Path) -> Found:
    """The stages of a build that labels somebody else's SAE. Raises InputError as the build would."""
    there = Path(config.sae.from_).expanduser().exists() or (out / "sae" / "manifest.json").exists()
    if not there:
        return _unfetched(config, corpus, out)
    adoption = prepare(config, corpus, out / "sae")
    shape, foreign = loaded_shape(adoption.subject), adoption.foreign
    sae = load_sae(out / "sae") if foreign is None else foreign.sae
    layer = sae.layer if foreign is None else foreign.layer
    x_ND = story_streams(adoption.subject, layer, corpus)[:512]
    sink_norm = HarvestConfig().sink_multiple * float(x_ND.norm(dim=1).median())
    active = story_quality(sae.to(adoption.subject.device), x_ND, sink_norm=sink_norm)["l0"]
    itemsize = 4 if foreign is None or foreign.dtype == "float32" else 2
    latents = Latents(layer, sae.n_features, active, foreign is None)
    return _adopted(config, corpus, shape, out, latents, itemsize, "its files", [])


def _unfetched(config: BuildConfig, corpus: StoryCorpus, out: Path) -> Found:
    """Of a release that is not on this machine: its width and layer as far as its name tells them."""
    name, model = config.sae.from_, chosen_model(config)
    if "/" not in name or name.startswith((".", "/", "~")):
        raise InputError("no such SAE", where=name, do="name a directory, or RELEASE/ID of SAELens' list")
    if not model:
        raise InputError("was not fetched, so its model is not known", where=name, do="pass --model for a dry run")
    shape = loaded_shape(load_subject(model, device=config.subject.device, dtype=config.subject.dtype))
    wide = re.search(r"(?:width_|w|_)(\d+)(k|m)\b", name, re.IGNORECASE)
    features = int(wide[1]) << (10 if wide[2].lower() == "k" else 20) if wide else UNKNOWN_FEATURES
    at = re.search(r"(?:layer|blocks|l)[_.]?(\d+)", name, re.IGNORECASE)
    layer = min(int(at[1]), shape.n_layers - 1) if at else shape.n_layers - 1
    guess = f"{features:,} features{'' if wide else ' (a guess)'} of layer {layer}{'' if at else ' (a guess)'}"
    notes = [f"{name} is read only by the build: {guess}, by its name; a download comes on top"]
    return _adopted(config, corpus, shape, out, Latents(layer, features, UNKNOWN_ACTIVE, False), 4, guess, notes)


def _adopted(
    config: BuildConfig, corpus: StoryCorpus, shape: Shape, out: Path, latents: Latents, itemsize: int, basis: str,
    notes: list[str],
) -> Found:  # fmt: skip
    F, D = latents.features, shape.d_model
    speed = shape.speed(latents.layer, config.harvest)
    first = Stage(
        name="sae",
        done=float(latents.there),
        tokens=SAMPLE_TOKENS,
        disk_bytes=sae_bytes(F, D, itemsize),
        memory_bytes=peak_memory() + 8 * F * D,
        seconds=0.0 if latents.there else SAMPLE_TOKENS / speed,
        basis=f"{basis}; at most so many tokens of the stories tell which tokens are sinks",
    )
    return Found([first, *labelling(config, corpus, shape, out, latents, speed)], shape, (latents.layer,), notes)


# ---------------------------------------------------------------- label and index
class Latents(NamedTuple):
    """An SAE as labelling sees it."""

    layer: int
    features: int
    active: float
    """Features active on a token."""
    there: bool
    """Whether it lies in the build's folder."""


def labelling(
    config: BuildConfig, corpus: StoryCorpus, shape: Shape, out: Path, latents: Latents, speed: float
) -> list[Stage]:
    """The stages after the SAE; speed: tokens a second of the forward pass to its layer."""
    F, E, base = latents.features, len(corpus.emotions), peak_memory()
    readouts = config.label.readouts or default_readouts(corpus)
    read = {readout.name: corpora_of(readout, corpus) for readout in readouts}
    lengths = {c.fingerprint: _lengths(c, shape) for own in [*read.values(), [corpus]] for c in own}
    passes = {(c.fingerprint, *_sequence(r)) for r in readouts for c in read[r.name]}
    pooled = [n for r in readouts for c in read[r.name] for n in lengths[c.fingerprint]]
    texts = {name: sum(len(lengths[c.fingerprint]) for c in own) for name, own in read.items()}
    stories = sum(lengths[corpus.fingerprint][: len(corpus.stories)])

    rows = ROW_BYTES * len(readouts) * min(3 * F + 8 * E, F * E) + 12_000
    on = sum(F * -math.expm1(-STREAM_SHARE * latents.active * n / F) for n in pooled)
    prototypes = sum(4 * (F * E + E + n * E) for n in texts.values())
    tokens = sum(sum(lengths[one]) for one, *_ in passes)
    labelled = latents.there and _is_labelled(config, shape, corpus, out)
    indexed = labelled and is_indexed(config, out)

    emotion_N, topic_N = emotions_and_topics([corpus])
    own_N = emotion_N >= 0
    tests = 0.0 if labelled else len(readouts) * statistics_seconds(emotion_N[own_N], topic_N[own_N], E, F)
    fits = 0.0 if labelled else sum(fit_seconds(n, budget=SECONDS / 8) for n in texts.values())
    encoding = encode_speed(F, shape.d_model, shape.device, budget=SECONDS / 4)
    index_bytes = sae_bytes(F, shape.d_model, 4 if config.sae.from_ else 2) + rows + 4 * E * (F + 1) * len(readouts)
    index_bytes += FEATURE_BYTES * min(F, MOST_EXAMPLES)
    index_bytes += len(corpus.stories) * (2 * E * len(readouts) + STORY_BYTES) + 20_000
    return [
        Stage(
            name="label",
            done=float(labelled),
            tokens=tokens,
            disk_bytes=round(NONZERO_BYTES * on) + rows + prototypes,
            memory_bytes=base + LATER_BYTES + 4 * F * (LABEL_COPIES * max(texts.values()) + sum(texts.values())),
            seconds=0.0 if labelled else tokens / speed + sum(pooled) / encoding + tests + fits,
            basis="done" if labelled else f"{tests:.0f} s of statistics, from measured ones of a few features, and "
            f"{fits:.0f} s of solving; about {on / len(pooled):,.0f} features active in a text",
        ),
        Stage(
            name="index",
            done=float(indexed),
            tokens=stories,
            disk_bytes=index_bytes,
            memory_bytes=base + LATER_BYTES + 8 * F * shape.d_model,
            seconds=0.0 if indexed else stories / speed + stories / encoding,
            basis="the stories read once more",
        ),
    ]  # fmt: skip


def _sequence(readout: ReadoutConfig) -> tuple[str, str]:
    """What two readouts must share to be served by one forward pass."""
    return readout.frame, readout.continuation if readout.pool == "last" else ""


def _lengths(corpus: StoryCorpus, shape: Shape) -> list[int]:
    """Tokens of a corpus's stories and then its neutral texts, prefix included."""
    prefix = len(shape.subject.prefix_ids) if shape.subject else 1
    return [prefix + shape.tokens(text) for text in texts_of(corpus)]


def _is_labelled(config: BuildConfig, shape: Shape, corpus: StoryCorpus, out: Path) -> bool:
    if shape.subject is None:
        return False
    weights = sha256_file(out / "sae" / "sae_weights.safetensors")
    return is_labelled(out / "labels", label_inputs(shape.subject, [weights], corpus, config.label))
