"""Labels and prototypes to an atlas: everything that answers a query, in one directory."""

from __future__ import annotations

import datetime
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saefeat import __version__
from saefeat.atlas.examples import gather, write_examples
from saefeat.atlas.index import half_scale, write_index
from saefeat.atlas.locate import FORMAT, MANIFEST, VERSION
from saefeat.atlas.nearest import Prototype, profile
from saefeat.corpus import StoryCorpus, load_corpus
from saefeat.errors import FormatError, InputError
from saefeat.files import atomic_directory, atomic_path, read_json, sha256_file, shipped, write_json
from saefeat.label import read_manifest, read_prototypes
from saefeat.sae import SAE, load_sae
from saefeat.subject import Fingerprint, Subject, recipes

logger = logging.getLogger(__name__)
Progress = Callable[[int, int], None] | None

LABELS, PROTOTYPES, STORIES, EXAMPLES = "labels.parquet", "prototypes.safetensors", "stories.faiss", "examples.h5"
SAE_FILES = ("cfg.json", "sae_weights.safetensors", "sparsity.safetensors")
WEIGHTS = "sae_weights.safetensors"
SHIPPED_SAE = "checkpoints:"
MOST_EXAMPLES = 800
STATEMENT = (
    "An emotion here is functional: a pattern in activations that can be read and that shifts behaviour. "
    "No claim is made that a model feels anything."
)


def build_atlas(
    labels: Path | str,
    saes: Sequence[Path | str],
    out: Path | str,
    *,
    subject: Subject,
    name: str | None = None,
    corpus: StoryCorpus | None = None,
    allow_other_weights: bool = False,
    on_progress: Progress = None,
) -> Path:
    """Make the atlas `out` of a label directory and the SAE folders it was made with; returns `out`.

    An SAE that lies in the checkpoints/ that ship is referred to by name and checksum, any other is copied. corpus:
    the story corpus of the labels, loaded by the name in their manifest if left out. on_progress counts the windows
    of stories read for the examples. Nothing is left at `out` unless all of it is complete. Raises InputError,
    FormatError, ModelMismatch.
    """
    labels, out = Path(labels), Path(out)
    told = read_manifest(labels)
    if out.exists() and not (out.is_dir() and ((out / MANIFEST).exists() or not any(out.iterdir()))):
        raise InputError("is there already and is no atlas", where=out, do="choose another --out")
    Fingerprint.from_dict(told["subject"]).check(
        subject.fingerprint, allow_other_weights=allow_other_weights, where=labels
    )
    loaded = _load_saes(saes, told, labels)
    corpus = _corpus(told, labels) if corpus is None else corpus
    if corpus.fingerprint != told["corpus"]["fingerprint"]:
        raise InputError("the stories have changed since", where=labels, do="run saefeat label again")
    rows = np.array([i for i, story in enumerate(corpus.stories) if story.topic in set(told["topics"])])
    stories = [corpus.stories[i] for i in rows]

    with atomic_directory(out) as made:
        shutil.copyfile(labels / LABELS, made / LABELS)
        # scores are those of the weights that the atlas holds: halves, scaled
        prototypes: dict[str, tuple[Prototype, float]] = {}
        fitted = read_prototypes(labels)
        for readout, fit in fitted.items():
            scale = half_scale(fit.W_FE)
            half_FE = (fit.W_FE / np.float32(scale)).astype(np.float16).astype(np.float32) * np.float32(scale)
            prototypes[readout] = Prototype(half_FE, fit.bias_E), scale
        names = [readout["name"] for readout in told["readouts"]]
        _write_prototypes(made / PROTOTYPES, {n: prototypes[n] for n in names})

        # a story's profile is by prototypes that never saw its topic
        profiles = [
            profile(np.nan_to_num(fitted[told_of["name"]].heldout_NE[: len(stories)].astype(np.float64)))
            for told_of in told["readouts"]
            if told_of["stories"]
        ]
        write_index(np.concatenate(profiles or [np.zeros((0, len(corpus.emotions)))]), made / STORIES)

        saes_by_name = {sae_name: sae for sae_name, (sae, _) in loaded.items()}
        chosen = _features_with_examples(labels / LABELS, list(loaded))
        write_examples(made / EXAMPLES, gather(subject, stories, saes_by_name, chosen, on_progress), stories)

        manifest = {
            "format": FORMAT,
            "format_version": VERSION,
            "name": name or out.name,
            "saefeat": __version__,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "statement": STATEMENT,
            "subject": {**subject.fingerprint.to_dict(), "name": _findable(subject.name), "dtype": str(subject.dtype)},
            "saes": [_placed(sae, path, made) for sae, path in loaded.values()],
            "readouts": [{**readout, "scale": prototypes[readout["name"]][1]} for readout in told["readouts"]],
            "emotions": list(corpus.emotions),
            "families": told["families"],
            "topics": told["topics"],
            "stories": len(stories),
            "files": {f: sha256_file(made / f) for f in (LABELS, PROTOTYPES, STORIES, EXAMPLES)},
            "provenance": _provenance(told, [path for _, path in loaded.values()]),
        }
        write_json(made / MANIFEST, manifest)
    return out


# ---------------------------------------------------------------- what goes in
def _load_saes(saes: Sequence[Path | str], told: Mapping[str, Any], labels: Path) -> dict[str, tuple[SAE, Path]]:
    """SAE name → (SAE, folder), in the order of the labels' manifest, each the one that the labels are of."""
    if not saes:
        raise InputError("no SAE given", do="pass --sae DIR")
    given = {}
    for path in map(Path, saes):
        sae = load_sae(path)
        given[sae.name] = (sae, path)
    ordered = {}
    for known in told["saes"]:
        if known["name"] not in given:
            raise InputError(f"was made with the SAE {known['name']}", where=labels, do="pass it with --sae DIR")
        sae, path = given[known["name"]]
        if sha256_file(path / WEIGHTS) != known["sha256"]:
            raise InputError(f"was made with another {sae.name}", where=labels, do=f"label again with {path}")
        ordered[known["name"]] = (sae, path)
    return ordered


def _corpus(told: Mapping[str, Any], labels: Path) -> StoryCorpus:
    try:
        return load_corpus(told["config"]["stories"])
    except InputError as error:
        raise InputError(f"its stories cannot be read again ({error})", where=labels, do="run saefeat label") from error


def _features_with_examples(path: Path, saes: Sequence[str]) -> dict[str, np.ndarray]:
    """SAE → sorted numbers of the labelled features, those that rank highest for an emotion if there are many."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["sae", "feature", "rank_for_emotion"])
    sae_N = np.array(table["sae"].to_pylist())
    feature_N, rank_N = table["feature"].to_numpy(), table["rank_for_emotion"].to_numpy()
    chosen = {}
    for sae in saes:
        own = np.flatnonzero(sae_N == sae)
        ranked = feature_N[own[np.argsort(rank_N[own], kind="stable")]]
        _, first = np.unique(ranked, return_index=True)
        chosen[sae] = np.sort(ranked[np.sort(first)[:MOST_EXAMPLES]])
    return chosen


# ---------------------------------------------------------------- what comes out
def _write_prototypes(path: Path, prototypes: Mapping[str, tuple[Prototype, float]]) -> None:
    from safetensors.numpy import save_file

    tensors = {}
    for name, (prototype, scale) in prototypes.items():
        tensors[f"{name}.W_FE"] = (prototype.W_FE / np.float32(scale)).astype(np.float16)
        tensors[f"{name}.bias_E"] = prototype.bias_E
    with atomic_path(path) as temporary:  # safetensors alone would leave it readable by its owner only
        save_file(tensors, temporary, metadata={"format": "atlas prototypes", "format_version": str(VERSION)})


def _placed(sae: SAE, path: Path, made: Path) -> dict[str, Any]:
    """Where the atlas finds an SAE: among the checkpoints that ship, or in its own folder, into which it is copied."""
    entry = {"name": sae.name, "layer": sae.layer, "hook_point": sae.hook_point, "features": sae.n_features}
    entry |= {"d_model": sae.d_model, "architecture": sae.architecture, "sha256": sha256_file(path / WEIGHTS)}
    if path.resolve().parent == shipped("checkpoints").resolve():
        return entry | {"path": SHIPPED_SAE + path.resolve().name}
    target = made / "saes" / sae.name
    target.mkdir(parents=True)
    for file in SAE_FILES:
        if (path / file).exists():
            shutil.copyfile(path / file, target / file)
    return entry | {"path": f"saes/{sae.name}"}


def _provenance(told: Mapping[str, Any], paths: Sequence[Path]) -> dict[str, Any]:
    """The manifests of the stages before, without this machine's directories."""
    train: dict[str, Any] = {}
    for path in paths:
        found = {}
        for file, kind in (("manifest.json", None), ("quality.json", "quality")):
            if (path / file).exists():
                found[file.removesuffix(".json")] = _any_json(path / file, kind)
        train[path.name] = found
    return {"label": _without_directories(dict(told)), "saes": _without_directories(train)}


def _any_json(path: Path, kind: str | None) -> Any:
    import json

    try:
        return json.loads(path.read_text(encoding="utf-8")) if kind is None else read_json(path, kind=kind, version=1)
    except (ValueError, OSError, FormatError) as error:
        logger.warning("%s is left out of the provenance: %s", path, error)
        return None


def _without_directories(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_directories(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_directories(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def _findable(name: str) -> str:
    """A subject's name as it finds the model from anywhere: a path (that is no recipe's name) made absolute."""
    is_path = Path(name).exists() and all(recipe.name != name for recipe in recipes())
    return str(Path(name).resolve()) if is_path else name
