"""Stories to a label directory: pools.h5, labels.parquet, prototypes.safetensors and, written last, manifest.json."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saefeat import __version__
from saefeat.config import LabelConfig, ReadoutConfig, to_dict
from saefeat.corpus import StoryCorpus
from saefeat.errors import FormatError, InputError, UnknownName
from saefeat.files import atomic_path, directory_lock, fingerprint, read_json, sha256_file, write_json
from saefeat.label.auroc import label_features
from saefeat.label.families import families
from saefeat.label.pools import Progress, pool_texts
from saefeat.label.prototypes import Prototypes, distinctness, fit_prototypes, scores
from saefeat.sae import SAE, load_sae
from saefeat.subject import Fingerprint, Subject

logger = logging.getLogger(__name__)
FORMAT, VERSION = "labels", 1
PARTS = ("W_FE", "bias_E", "heldout_NE")
NEUTRAL_SHARE = 0.95
"""A text stands out if its `distinctness` exceeds that of this share of the neutral texts."""


def label(
    subject: Subject,
    saes: Sequence[Path | str],
    corpus: StoryCorpus,
    config: LabelConfig,
    out: Path | str,
    on_progress: Progress = None,
    *,
    allow_other_weights: bool = False,
) -> Path:
    """Make the label directory `out` of SAE folders and a story corpus; with unchanged inputs it is left as it is.

    Readouts without an SAE of their own (`ReadoutConfig.sae`) use the first. All stories and neutral texts of the
    corpus are pooled; labels and prototypes use config.topics. Neutral texts serve only for `stands_out`.
    Raises InputError, UnknownName (topic, SAE), ModelMismatch, FormatError, Busy.
    """
    out, began = Path(out), time.time()
    paths = [Path(path) for path in saes]
    if not paths:
        raise InputError("no SAE given", do="pass --sae DIR")
    loaded = {path: load_sae(path).to(subject.device) for path in paths}
    for path, sae in loaded.items():
        _check(sae, subject, path, allow_other_weights)
    of_readout = _assign(config.readouts, loaded)
    weights = {path: sha256_file(path / "sae_weights.safetensors") for path in paths}
    train = corpus.on_topics(config.topics) if config.topics else corpus
    inputs = fingerprint(
        [subject.fingerprint.to_dict(), str(subject.dtype), list(weights.values()), corpus.fingerprint, to_dict(config)]
    )
    with directory_lock(out):
        if _is_done(out, inputs):
            logger.info("%s: labels are up to date", out)
            return out
        keys = {
            name: fingerprint([subject.fingerprint.to_dict(), str(subject.dtype), weights[path], corpus.fingerprint])
            for name, path in of_readout.items()
        }
        sae_of = {name: loaded[path] for name, path in of_readout.items()}
        pools = _pooled(subject, corpus, config.readouts, sae_of, keys, out / "pools.h5", on_progress)
        rows = _rows_on(corpus, set(train.topics))
        stories = [corpus.stories[i] for i in rows]
        emotion_N = np.array([corpus.emotions.index(s.emotion) for s in stories])
        topic_N = np.array([s.topic for s in stories])
        table: list[dict[str, Any]] = []
        fitted: dict[str, Prototypes] = {}
        described = []
        for readout in config.readouts:
            X_NF, density_F = pools[readout.name]
            fit = fit_prototypes(X_NF[rows], emotion_N, topic_N, ridge=config.ridge, n_emotions=len(corpus.emotions))
            fitted[readout.name] = fit
            columns = label_features(X_NF[rows], emotion_N, topic_N, density_F, len(corpus.emotions))
            sae = sae_of[readout.name]
            table.append({"sae": sae.name, "readout": readout.name, **columns})
            neutral_N = distinctness(scores(X_NF[len(corpus.stories) :], fit))
            described.append(
                {
                    **to_dict(readout),
                    "sae": sae.name,
                    "layer": sae.layer,
                    "features": sae.n_features,
                    "stands_out": float(np.quantile(neutral_N, NEUTRAL_SHARE)) if len(neutral_N) else None,
                    "heldout": top_k(fit.heldout_NE, emotion_N),
                    "ridge": fit.ridge,
                }
            )
        first = fitted[config.readouts[0].name]
        _write_prototypes(out / "prototypes.safetensors", fitted)
        _write_labels(out / "labels.parquet", table, corpus.emotions)
        files = ("prototypes.safetensors", "labels.parquet", "pools.h5")
        manifest = {
            "format": FORMAT,
            "format_version": VERSION,
            "saefeat": __version__,
            "inputs": inputs,
            "config": to_dict(config),
            "subject": {"name": subject.name, "dtype": str(subject.dtype), **subject.fingerprint.to_dict()},
            "saes": [
                {"name": sae.name, "path": str(path), "sha256": weights[path], "layer": sae.layer}
                for path, sae in loaded.items()
            ],
            "corpus": {
                "fingerprint": corpus.fingerprint,
                "stories": len(corpus.stories),
                "neutral": len(corpus.neutral),
            },
            "emotions": list(corpus.emotions),
            "topics": list(train.topics),
            "families": families(first.heldout_NE, emotion_N, corpus.emotions),
            "readouts": described,
            "files": {name: sha256_file(out / name) for name in files},
            "seed": config.seed,
            "seconds": round(time.time() - began, 1),
        }
        write_json(out / "manifest.json", manifest)
    return out


def top_k(scores_NE: np.ndarray, emotion_N: np.ndarray) -> dict[str, float]:
    """Share of texts whose own emotion scores highest, or among the five highest (unknown scores count lowest)."""
    known_NE = np.where(np.isnan(scores_NE), -np.inf, scores_NE)
    own_N = known_NE[np.arange(len(emotion_N)), emotion_N]
    place_N = (known_NE > own_N[:, None]).sum(1)
    return {"top1": float((place_N < 1).mean()), "top5": float((place_N < 5).mean())}


# ---------------------------------------------------------------- reading a label directory
def read_manifest(directory: Path | str) -> dict[str, Any]:
    """The manifest of a label directory. Raises FormatError."""
    return read_json(Path(directory) / "manifest.json", kind=FORMAT, version=VERSION)


def read_prototypes(directory: Path | str) -> dict[str, Prototypes]:
    """Readout name → its prototypes, float32. Raises FormatError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(directory) / "prototypes.safetensors"
    try:
        tensors = load_file(path)
        names = [name.removesuffix(".W_FE") for name in tensors if name.endswith(".W_FE")]
        return {
            n: Prototypes(**{part: tensors[f"{n}.{part}"] for part in PARTS}, ridge=float(tensors[f"{n}.ridge"][0]))
            for n in names
        }
    except (OSError, SafetensorError, KeyError) as error:
        raise FormatError(f"cannot be read as prototypes ({error})", where=path, do="run `label` again") from error


def read_pools(directory: Path | str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Readout name → (X_NF, density_F): all stories of the corpus in its order, then its neutral texts."""
    path = Path(directory) / "pools.h5"
    return {name: (X_NF, density_F) for name, (_, X_NF, density_F) in _read_pools(path).items()}


# ---------------------------------------------------------------- steps
def _check(sae: SAE, subject: Subject, path: Path, allow_other_weights: bool) -> None:
    """Raise unless the SAE reads this model."""
    if sae.d_model != subject.d_model:
        what = f"reads {sae.d_model} dimensions, {subject.name} has {subject.d_model}"
        raise InputError(what, where=path, do="use the model it was trained on")
    subject.check_layer(sae.layer)
    trained_on = sae.metadata.get("saefeat", {}).get("subject")
    if trained_on:
        known = Fingerprint.from_dict(trained_on)
        known.check(subject.fingerprint, allow_other_weights=allow_other_weights, where=path)


def _assign(readouts: Sequence[ReadoutConfig], loaded: Mapping[Path, SAE]) -> dict[str, Path]:
    """Readout name → the SAE's folder."""
    by_name = {sae.name: path for path, sae in loaded.items()}
    if len(by_name) < len(loaded):
        raise InputError("two SAEs have the same name", do="give one SAE a layer")
    for readout in readouts:
        if readout.sae and readout.sae not in by_name:
            raise UnknownName("SAE", readout.sae, by_name, do="the SAEs are " + ", ".join(by_name))
    first = next(iter(loaded))
    return {readout.name: by_name.get(readout.sae, first) for readout in readouts}


def _rows_on(corpus: StoryCorpus, topics: set[str]) -> np.ndarray:
    return np.array([i for i, story in enumerate(corpus.stories) if story.topic in topics], dtype=np.int64)


def _is_done(out: Path, inputs: str) -> bool:
    if not (out / "manifest.json").exists():
        return False
    known = read_manifest(out)
    return known["inputs"] == inputs and all(
        (out / name).exists() and sha256_file(out / name) == sha for name, sha in known["files"].items()
    )


def _pooled(
    subject: Subject,
    corpus: StoryCorpus,
    readouts: Sequence[ReadoutConfig],
    saes: Mapping[str, SAE],
    keys: Mapping[str, str],
    path: Path,
    on_progress: Progress,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(X_NF, density_F) by readout name, from pools.h5 where a readout was pooled from the same inputs before."""
    keys = {r.name: fingerprint([keys[r.name], r.pool, r.continuation]) for r in readouts}
    known = _read_pools(path) if path.exists() else {}
    kept = {name: known[name] for name in keys if name in known and known[name][0] == keys[name]}
    missing = [r for r in readouts if r.name not in kept]
    if missing:
        texts = [s.text for s in corpus.stories] + [n.text for n in corpus.neutral]
        pools = pool_texts(subject, texts, missing, saes, on_progress=on_progress)
        kept |= {r.name: (keys[r.name], pools.features[r.name], pools.density[r.name]) for r in missing}
    if missing or set(known) != set(kept):
        _write_pools(path, kept)
    return {name: (X_NF, density_F) for name, (_, X_NF, density_F) in kept.items()}


def _write_pools(path: Path, pools: Mapping[str, tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Sparse rows (CSR) by readout: data float32, indices int32, indptr int64; density; attributes key, shape."""
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"], file.attrs["format_version"] = "pools", VERSION
        for name, (key, X_NF, density_F) in pools.items():
            group = file.create_group(name)
            group.attrs["key"], group.attrs["shape"] = key, X_NF.shape
            row, column = np.nonzero(X_NF)
            options = {"fletcher32": True, "compression": "gzip", "compression_opts": 1} if len(row) else {}
            group.create_dataset("data", data=X_NF[row, column], **options)
            group.create_dataset("indices", data=column.astype(np.int32), **options)
            group["indptr"] = np.searchsorted(row, np.arange(len(X_NF) + 1))
            group["density"] = density_F


def _read_pools(path: Path) -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
    import h5py

    pools = {}
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != "pools" or file.attrs["format_version"] > VERSION:
                raise FormatError("is not a file of pools that this saefeat reads", where=path)
            for name, group in file.items():
                X_NF = np.zeros(tuple(group.attrs["shape"]), np.float32)
                row = np.repeat(np.arange(len(X_NF)), np.diff(group["indptr"][:]))
                X_NF[row, group["indices"][:]] = group["data"][:]
                pools[name] = (str(group.attrs["key"]), X_NF, group["density"][:])
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise FormatError(f"cannot be read as pools ({error})", where=path, do="delete it and run again") from error
    return pools


def _write_prototypes(path: Path, fitted: Mapping[str, Prototypes]) -> None:
    from safetensors.numpy import save_file

    tensors: dict[str, np.ndarray] = {}
    for name, fit in fitted.items():
        tensors |= {f"{name}.{part}": np.ascontiguousarray(getattr(fit, part)) for part in PARTS}
        tensors[f"{name}.ridge"] = np.array([fit.ridge], np.float32)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "prototypes", "format_version": str(VERSION)})


def _write_labels(path: Path, tables: Sequence[Mapping[str, Any]], emotions: Sequence[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = np.array(emotions)
    parts = []
    for columns in tables:
        count = len(columns["feature"])
        fixed = {"sae": [columns["sae"]] * count, "feature": columns["feature"].astype(np.int32)}
        fixed |= {"emotion": names[columns["emotion"]].tolist(), "readout": [columns["readout"]] * count}
        numbers = {k: v for k, v in columns.items() if k not in fixed}
        parts.append(pa.table({**fixed, **numbers}))
    whole = pa.concat_tables(parts).replace_schema_metadata({"format": FORMAT, "format_version": str(VERSION)})
    with atomic_path(path) as temporary:
        pq.write_table(whole, temporary, compression="zstd")
