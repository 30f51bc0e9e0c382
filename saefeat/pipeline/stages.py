"""The stages of a build as a plan sees them: how far each has come, what it takes, and what that rests on.

Sizes follow from the formats and the settings; times from measured speeds. Nothing here writes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

from saefeat.config import BuildConfig, HarvestConfig
from saefeat.corpus import StoryCorpus, documents, source_fingerprints
from saefeat.errors import InputError
from saefeat.harvest import POOL_BYTES, ActivationStore, harvested, pack
from saefeat.pipeline.adopt import SAMPLE_TOKENS, chosen_model, prepare, story_quality, story_streams
from saefeat.pipeline.build import (
    QUALITY_TOKENS,
    activation_bytes,
    check,
    checkpoint_bytes,
    layers_of,
    too_short,
)
from saefeat.pipeline.labelling import Latents, labelling_stages
from saefeat.pipeline.shape import SECONDS, Shape, loaded_shape, shape_of
from saefeat.pipeline.speed import encode_speed, peak_memory, seconds_of
from saefeat.pipeline.stage import Stage, sae_bytes
from saefeat.sae import is_trained, load_sae, step_seconds, steps_done
from saefeat.subject import load_subject

COUNTING_SECONDS = 10.0
"""How long the text is counted before its length is taken on trust."""
METRICS_BYTES = 220
UNKNOWN_FEATURES, UNKNOWN_ACTIVE = 1 << 15, 64.0


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
    encoding = encode_speed(F, D, shape.device, budget=SECONDS / 4)
    rest = labelling_stages(config, corpus, shape, out, Latents(layer, F, train.k, trained, encoding), speed)
    return Found([first, second, third, *rest], shape, layers, notes)


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
    x_ND = story_streams(adoption.subject, layer, corpus)[:256]
    sink_norm = HarvestConfig().sink_multiple * float(x_ND.norm(dim=1).median())
    sae = sae.to(adoption.subject.device)
    active = story_quality(sae, x_ND, sink_norm=sink_norm)["l0"]
    itemsize = 4 if foreign is None or foreign.dtype == "float32" else 2
    encoding = len(x_ND) / seconds_of(lambda: sae.encode(x_ND)[0, 0].item(), SECONDS / 4)
    latents = Latents(layer, sae.n_features, active, foreign is None, encoding)
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
    encoding = encode_speed(features, shape.d_model, shape.device, budget=SECONDS / 4)
    latents = Latents(layer, features, UNKNOWN_ACTIVE, False, encoding)
    return _adopted(config, corpus, shape, out, latents, 4, guess, notes)


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
    return Found([first, *labelling_stages(config, corpus, shape, out, latents, speed)], shape, (latents.layer,), notes)
