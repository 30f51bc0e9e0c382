"""Text and stories to an atlas: harvest, train, label, index, each resumed where it stopped and skipped when done."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from saefeat.atlas import build_atlas
from saefeat.config import BuildConfig, to_dict
from saefeat.corpus import StoryCorpus, load_corpus
from saefeat.errors import InputError
from saefeat.files import directory_lock, fingerprint, read_json, require_disk, sha256_file, write_json
from saefeat.harvest import ActivationStore, Source, harvest
from saefeat.label import label
from saefeat.pipeline.adopt import adopt, prepare
from saefeat.sae import load_sae, quality, train
from saefeat.subject import Subject, load_subject

Report = Callable[[str], Callable[[int, int], None] | None]
"""Called with a stage's name when it starts; what it returns is called with (done, total) as the stage proceeds."""

QUALITY_TOKENS = 20_000
CHUNK_BYTES, SHARD_BYTES = 80, 12_000
"""What HDF5 adds to a chunk (a context of one layer) and to a shard file, as measured."""


def silent(stage: str) -> None:
    """A Report that shows nothing."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """Where the parts of a build lie."""

    atlas: Path
    sae: Path
    labels: Path
    activations: Path | None
    """None if the SAE was there already."""
    quality: dict[str, Any]


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

    With an SAE that is there already (`config.sae`) nothing is harvested or trained: sae/ is that SAE, adopted. A
    second call with the same config reuses what is done; a killed one continues. Raises InputError for whatever the
    user can mend; nothing is left half-written.
    """
    return _adopted(config, out, report) if config.sae.from_ else _trained(config, out, report)


def stories_of(config: BuildConfig) -> StoryCorpus:
    """The stories of a build, on its topics."""
    corpus = load_corpus(config.label.stories)
    return corpus.on_topics(config.label.topics) if config.label.topics else corpus


def _trained(config: BuildConfig, out: Path, report: Report) -> Built:
    layers = layers_of(config)
    layer = layers[0] if config.train.layer is None else config.train.layer
    subject = load_subject(config.subject.model, device=config.subject.device, dtype=config.subject.dtype)
    check(config, subject)
    corpus = stories_of(config)
    if not (out / "sae" / "cfg.json").exists():
        require_disk(out, disk_of_training(config, subject))
    with directory_lock(out):
        harvesting = dataclasses.replace(config.harvest, layers=layers)
        activations = harvest(subject, harvesting, out / "activations", on_progress=report("harvest"))
        store = ActivationStore(activations)
        if store.n_contexts * store.context < config.train.batch:
            raise too_short(store.n_contexts * store.context, config.train.batch)
        training = dataclasses.replace(config.train, layer=layer)
        sae_path = train(store, training, out / "sae", device=subject.device, on_progress=report("train"))
        figures = measured_quality(sae_path, store, subject, training.heldout, report)
        atlas = _labelled(config, subject, corpus, sae_path, out, report)
    return Built(atlas=atlas, sae=sae_path, labels=out / "labels", activations=activations, quality=figures)


def _adopted(config: BuildConfig, out: Path, report: Report) -> Built:
    corpus = stories_of(config)
    adoption = prepare(config, corpus, out / "sae")
    with directory_lock(out):
        report("sae")
        sae_path = adopt(adoption, corpus, out / "sae")
        figures = read_json(sae_path / "quality.json", kind="quality", version=1)["figures"]
        atlas = _labelled(config, adoption.subject, corpus, sae_path, out, report)
    return Built(atlas=atlas, sae=sae_path, labels=out / "labels", activations=None, quality=figures)


def _labelled(
    config: BuildConfig, subject: Subject, corpus: StoryCorpus, sae_path: Path, out: Path, report: Report
) -> Path:
    labels = label(subject, [sae_path], corpus, config.label, out / "labels", on_progress=report("label"))
    return index(config, subject, corpus, labels, sae_path, out, report)


class HasLayers(Protocol):
    """A subject, or what is known of one that is not on this machine."""

    @property
    def name(self) -> str: ...

    @property
    def n_layers(self) -> int: ...


def check(config: BuildConfig, subject: HasLayers) -> None:
    """Raise InputError for settings of [harvest] and [train] that cannot work."""
    for layer in layers_of(config):
        if layer >= subject.n_layers:
            raise InputError(f"{subject.name} has no layer {layer}", do=f"use 0 to {subject.n_layers - 1}")
    for name, tokens in (("harvest", config.harvest.tokens), ("train", config.train.tokens)):
        if tokens < config.train.batch:
            what = f"{name}.tokens = {tokens} are fewer than one batch ({config.train.batch})"
            raise InputError(what, do="set more tokens, or a smaller train.batch")


def too_short(tokens: int, batch: int) -> InputError:
    """The error of a text that does not fill one batch of training."""
    return InputError(f"the text makes {tokens} tokens, fewer than one batch ({batch})", do="pass more text")


def disk_of_training(config: BuildConfig, subject: Subject) -> int:
    """Bytes that the activations, the SAE and two checkpoints of its training take at most."""
    contexts = config.harvest.tokens // config.harvest.context + 1
    return activation_bytes(config, subject.d_model, subject.dtype.itemsize, contexts) + 2 * checkpoint_bytes(
        config.train.features, subject.d_model
    )


def activation_bytes(config: BuildConfig, d_model: int, itemsize: int, contexts: int) -> int:
    """Bytes of a harvest: per token the streams, its id and whether it counts; per chunk its checksum and address."""
    T, layers = config.harvest.context, len(layers_of(config))
    shards = -(-contexts // config.harvest.shard_contexts)
    per_context = T * (layers * (d_model * itemsize + 1) + 4) + CHUNK_BYTES * (layers + 1)
    return contexts * per_context + shards * SHARD_BYTES


def checkpoint_bytes(features: int, d_model: int) -> int:
    """Bytes of a training checkpoint: encoder, decoder and two moments of each in float32."""
    return 3 * 2 * 4 * features * d_model


def measured_quality(sae_path: Path, store: Source, subject: Subject, share: float, report: Report) -> dict[str, Any]:
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
    if is_indexed(config, out):
        return target
    shutil.rmtree(target, ignore_errors=True)
    made = build_atlas(
        labels, [sae_path], target, subject=subject, name=config.name, corpus=corpus, on_progress=report("index")
    )
    inputs = _index_inputs(out)
    write_json(stamp, {"format": "build", "format_version": 1, "inputs": inputs, "config": to_dict(config)})
    return made


def is_indexed(config: BuildConfig, out: Path) -> bool:
    """Whether the atlas in `out` is of the labels and the SAE that are there. Nothing is written."""
    stamp = out / f".{config.name}.json"
    if not stamp.exists() or not (out / config.name / "atlas.json").exists():
        return False
    return read_json(stamp, kind="build", version=1)["inputs"] == _index_inputs(out)


def _index_inputs(out: Path) -> str:
    parts = (out / "labels" / "manifest.json", out / "sae" / "sae_weights.safetensors")
    return fingerprint([sha256_file(path) for path in parts])
