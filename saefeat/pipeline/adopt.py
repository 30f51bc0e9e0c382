"""An SAE of others in the place of a trained one: read, joined with its subject model, measured on the stories, kept.

Such files do not say which tokens are sinks. So the rule of a harvest is measured at this point, on the subject and
the stories: a token is a sink if its norm exceeds so many times the median norm. That, what the SAE explains of the
stories, and where it came from is recorded in the folder that the later stages read.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saefeat.config import BuildConfig, HarvestConfig, SubjectConfig, to_dict
from saefeat.corpus import StoryCorpus
from saefeat.errors import InputError, MissingModel
from saefeat.files import atomic_directory, fingerprint, read_json, require_disk, sha256_file, write_json
from saefeat.sae import SAE, Foreign, identity, read_foreign, write_foreign
from saefeat.subject import Subject, load_subject, resolve

log = logging.getLogger(__name__)
FORMAT, VERSION = "sae", 1
SAMPLE_STORIES, SAMPLE_TOKENS, WINDOW = 96, 8192, 256
ENCODED_ELEMENTS = 1 << 24
LITTLE = 0.2
"""An SAE that explains less than this of the stories is probably of another model or layer: it is said."""


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What stands between a config and an adopted SAE; foreign is None if the folder holds this very one already."""

    subject: Subject
    foreign: Foreign | None
    inputs: str


def prepare(config: BuildConfig, corpus: StoryCorpus, folder: Path) -> Adoption:
    """Read the SAE and load its subject, unless `folder` holds what they would make. Nothing is written.

    Raises InputError, FormatError, MissingModel: see `read_foreign` and `load_subject`; InputError also for an SAE
    that does not fit the subject, and for a folder that holds another SAE.
    """
    source = identity(config.sae.from_)
    known, chosen = _known(folder, source), chosen_model(config)
    if known:
        subject = _load(config.subject, chosen or known["subject"]["name"])
        if known["inputs"] == _inputs(source, config, subject, corpus):
            return Adoption(subject=subject, foreign=None, inputs=known["inputs"])
    foreign = read_foreign(config.sae.from_, layer=config.sae.layer)
    if not known:
        subject = _load(config.subject, chosen or named_model(foreign) or config.subject.model)
    subject.check_layer(foreign.layer)
    if foreign.sae.d_model != subject.d_model:
        what = f"reads {foreign.sae.d_model} dimensions, {subject.name} has {subject.d_model}"
        raise InputError(what, where=config.sae.from_, do="pass its subject model with --model")
    return Adoption(subject=subject, foreign=foreign, inputs=_inputs(source, config, subject, corpus))


def adopt(adoption: Adoption, corpus: StoryCorpus, folder: Path) -> Path:
    """The adopted SAE's folder: SAELens' files, quality.json of the stories, manifest.json; whole or not at all."""
    subject, foreign = adoption.subject, adoption.foreign
    if foreign is None:
        return folder
    require_disk(folder.parent, 4 * 2 * foreign.sae.d_model * foreign.sae.n_features)
    sae = foreign.uncentred() if isinstance(subject.parts.final_norm, nn.LayerNorm) else foreign.sae
    x_ND = story_streams(subject, foreign.layer, corpus)
    multiple = HarvestConfig().sink_multiple
    median = float(x_ND.norm(dim=1).median())
    if not 0 < median < float("inf"):
        what = f"the residual stream of layer {foreign.layer} is not finite"
        raise InputError(what, where=subject.name, do="use --dtype float32")
    figures = story_quality(sae.to(subject.device), x_ND, sink_norm=multiple * median)
    if figures["explained_variance"] < LITTLE:
        log.warning(
            "%s explains %.2f of the variance of layer %d of %s on the stories: is it an SAE of this model and layer?",
            *(config_name(foreign), figures["explained_variance"], foreign.layer, subject.name),
        )
    metadata = {
        "model_name": subject.name,
        "hook_name": subject.hook_point(foreign.layer),
        "saefeat": {
            "format_version": VERSION,
            "sink_norm": multiple * median,
            "median_norm": median,
            "sink_rule": f"{multiple:g} x the median norm of {len(x_ND)} tokens of the stories",
            "subject": subject.fingerprint.to_dict(),
            "layer": foreign.layer,
            "source": {**foreign.source, **{k: sae.metadata.get(k) for k in ("model_name", "hook_name")}},
        },
    }
    manifest = {
        "format": FORMAT, "format_version": VERSION, "inputs": adoption.inputs, "adopted": foreign.source,
        "subject": {"name": subject.name, **subject.fingerprint.to_dict()}, "corpus": corpus.fingerprint,
    }  # fmt: skip
    with atomic_directory(folder) as made:
        write_foreign(foreign, sae, made, metadata=metadata, header=adoption.inputs)
        weights = sha256_file(made / "sae_weights.safetensors")
        quality = {"format": "quality", "format_version": 1, "weights": weights, "figures": figures}
        write_json(made / "quality.json", quality)
        write_json(made / "manifest.json", manifest)
    return folder


def config_name(foreign: Foreign) -> str:
    """How an SAE's source is spoken of."""
    return str(foreign.source.get("directory") or foreign.source.get("release"))


# ---------------------------------------------------------------- measured on the stories
def story_streams(subject: Subject, layer: int, corpus: StoryCorpus) -> Tensor:
    """x_ND float32 on the subject's device: the stream of evenly chosen stories, without first and prefix tokens."""
    first, prefix = max(1, len(subject.prefix_ids)), list(subject.prefix_ids)
    parts: list[Tensor] = []
    for story in corpus.stories[:: max(1, len(corpus.stories) // SAMPLE_STORIES)]:
        ids = (prefix + subject.tokenize(story.text))[: min(WINDOW, subject.context)]
        parts.append(subject.residuals(torch.tensor([ids]), [layer])[layer][0, first:].float())
        if sum(map(len, parts)) >= SAMPLE_TOKENS:
            break
    return torch.cat(parts)


def story_quality(sae: SAE, x_ND: Tensor, *, sink_norm: float) -> dict[str, Any]:
    """Explained variance and L0 on vectors that are no sinks; of the stories, so not comparable to held-out text."""
    x_ND = x_ND[x_ND.norm(dim=1) <= sink_norm]
    mse = l0 = 0.0
    for rows_ND in x_ND.split(max(1, ENCODED_ELEMENTS // sae.n_features)):
        acts_NF = sae.encode(rows_ND)
        l0 += float((acts_NF > 0).sum())
        mse += float((rows_ND - sae.decode(acts_NF)).double().square().sum())
    variance = float((x_ND - x_ND.mean(0)).double().square().sum())
    return {"on": "stories", "tokens": len(x_ND), "explained_variance": 1 - mse / variance, "l0": l0 / len(x_ND)}


# ---------------------------------------------------------------- what is there, and which model
def _known(folder: Path, source: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of an SAE adopted from the same source; None if there is nothing. Raises InputError for another."""
    if not (folder / "manifest.json").exists():
        return None
    known = read_json(folder / "manifest.json", kind=FORMAT, version=VERSION)
    if known.get("adopted") != source:
        raise InputError("holds another SAE", where=folder, do="choose another --out")
    return known


def _inputs(source: dict[str, Any], config: BuildConfig, subject: Subject, corpus: StoryCorpus) -> str:
    told = [source, to_dict(config.sae)["layer"], subject.fingerprint.to_dict(), str(subject.dtype), corpus.fingerprint]
    return fingerprint(told)


def chosen_model(config: BuildConfig) -> str:
    """The subject model that the config asks for; '' if it leaves that to the SAE's files."""
    default = config.subject.model == SubjectConfig().model
    return config.sae.model or ("" if default else config.subject.model)


def named_model(foreign: Foreign) -> str:
    """The model that an SAE's files name, as it is found on this machine; '' if they name none. Raises MissingModel."""
    if not foreign.model or _is_here(foreign.model):
        return foreign.model
    hub = foreign.hub_model()
    if _is_here(hub):
        return hub
    do = f"run: saefeat model fetch {hub}, or pass --model" if "/" in hub else "pass --model"
    what = f"was trained on {foreign.model}, which is not on this machine"
    raise MissingModel(what, where=config_name(foreign), do=do)


def _is_here(name: str) -> bool:
    try:
        resolve(name)
    except MissingModel:
        return False
    return True


def _load(config: SubjectConfig, model: str) -> Subject:
    return load_subject(model, device=config.device, dtype=config.dtype)
