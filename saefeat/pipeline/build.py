"""Text and stories to an atlas: harvest, train, label, index, each resumed where it stopped and skipped when done."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saefeat.atlas import build_atlas
from saefeat.config import BuildConfig, to_dict
from saefeat.corpus import StoryCorpus, load_corpus
from saefeat.errors import InputError
from saefeat.files import directory_lock, fingerprint, read_json, require_disk, sha256_file, write_json
from saefeat.harvest import ActivationStore, harvest
from saefeat.label import label
from saefeat.sae import load_sae, quality, train
from saefeat.subject import Subject, load_subject

Report = Callable[[str], Callable[[int, int], None] | None]
"""Called with a stage's name when it starts; what it returns is called with (done, total) as the stage proceeds."""

QUALITY_TOKENS = 20_000


def silent(stage: str) -> None:
    """A Report that shows nothing."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """Where the parts of a build lie."""

    atlas: Path
    sae: Path
    labels: Path
    activations: Path
    quality: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a build will take (bytes and tokens), known before it starts."""

    tokens_harvested: int
    token_visits: int
    disk_bytes: int
    layers: tuple[int, ...]


def plan(config: BuildConfig, subject: Subject) -> Plan:
    """The size of a build: a harvested token takes 2 bytes a residual dimension and layer (bfloat16)."""
    layers = tuple(subject.check_layer(layer) for layer in layers_of(config))
    width = 2 if subject.dtype.itemsize == 2 else 4
    activations = config.harvest.tokens * subject.d_model * width * len(layers)
    checkpoint = 3 * 2 * 4 * config.train.features * subject.d_model
    return Plan(
        tokens_harvested=config.harvest.tokens,
        token_visits=config.train.tokens,
        disk_bytes=int(activations * 1.02) + 2 * checkpoint,
        layers=layers,
    )


def layers_of(config: BuildConfig) -> tuple[int, ...]:
    """The harvested layers; the trained one must be among them."""
    layers = config.harvest.layers or ((config.train.layer,) if config.train.layer is not None else ())
    if not layers:
        raise InputError("no layer to read", do="set harvest.layers, such as layers = [18]")
    trained = layers[0] if config.train.layer is None and len(layers) == 1 else config.train.layer
    if trained not in layers:
        raise InputError(f"train.layer is {trained}, harvested are {list(layers)}", do="name one of them")
    return layers


def build(config: BuildConfig, out: Path, *, report: Report = silent) -> Built:
    """Run all stages into `out`: activations/, sae/, labels/ and the atlas `out/<name>/`.

    A second call with the same config reuses what is done; a killed one continues. Raises InputError for whatever
    the user can mend; nothing is left half-written.
    """
    layers = layers_of(config)
    layer = layers[0] if config.train.layer is None else config.train.layer
    subject = load_subject(config.subject.model, device=config.subject.device, dtype=config.subject.dtype)
    corpus = load_corpus(config.label.stories)
    corpus = corpus.on_topics(config.label.topics) if config.label.topics else corpus
    needed = plan(config, subject)
    if not (out / "sae" / "cfg.json").exists():
        require_disk(out, needed.disk_bytes)
    with directory_lock(out):
        harvesting = dataclasses.replace(config.harvest, layers=layers)
        activations = harvest(subject, harvesting, out / "activations", on_progress=report("harvest"))
        store = ActivationStore(activations)
        training = dataclasses.replace(config.train, layer=layer)
        sae_path = train(store, training, out / "sae", device=subject.device, on_progress=report("train"))
        figures = measured_quality(sae_path, store, subject, training.heldout, report)
        labels = label(subject, [sae_path], corpus, config.label, out / "labels", on_progress=report("label"))
        atlas = index(config, subject, corpus, labels, sae_path, out, report)
    return Built(atlas=atlas, sae=sae_path, labels=labels, activations=activations, quality=figures)


def measured_quality(
    sae_path: Path, store: ActivationStore, subject: Subject, share: float, report: Report
) -> dict[str, Any]:
    """The SAE's figures on held-out tokens, kept beside it as quality.json; measured once per SAE."""
    path = sae_path / "quality.json"
    weights = sha256_file(sae_path / "sae_weights.safetensors")
    if path.exists():
        known = read_json(path, kind="quality", version=1)
        if known["weights"] == weights:
            return known["figures"]
    report("quality")
    figures = quality(load_sae(sae_path).to(subject.device), store, subject, share=share, max_tokens=QUALITY_TOKENS)
    write_json(path, {"format": "quality", "format_version": 1, "weights": weights, "figures": figures})
    return figures


def index(
    config: BuildConfig, subject: Subject, corpus: StoryCorpus, labels: Path, sae_path: Path, out: Path, report: Report
) -> Path:
    """The atlas, made anew only when the labels or the SAE changed."""
    target, stamp = out / config.name, out / f".{config.name}.json"
    inputs = fingerprint([sha256_file(labels / "manifest.json"), sha256_file(sae_path / "sae_weights.safetensors")])
    if stamp.exists() and (target / "atlas.json").exists():
        known = read_json(stamp, kind="build", version=1)
        if known["inputs"] == inputs:
            return target
    shutil.rmtree(target, ignore_errors=True)
    made = build_atlas(
        labels, [sae_path], target, subject=subject, name=config.name, corpus=corpus, on_progress=report("index")
    )
    write_json(stamp, {"format": "build", "format_version": 1, "inputs": inputs, "config": to_dict(config)})
    return made
