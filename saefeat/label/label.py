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
from saefeat.corpus import StoryCorpus, load_ratings
from saefeat.errors import FormatError, InputError, UnknownName
from saefeat.files import atomic_path, directory_lock, fingerprint, read_json, sha256_file, write_json
from saefeat.label.described import described
from saefeat.label.evidence import WordEvidence, feature_table
from saefeat.label.families import families
from saefeat.label.pools import Progress
from saefeat.label.prototypes import NEUTRAL, Prototypes, fit_prototypes
from saefeat.label.store import (
    Corpus,
    corpora_of,
    default_readouts,
    dialogues_of,
    emotions_and_topics,
    is_read,
    pooled,
)
from saefeat.sae import SAE, load_sae
from saefeat.subject import Fingerprint, Subject

logger = logging.getLogger(__name__)
FORMAT, VERSION = "labels", 2
PARTS = ("W_FE", "bias_E", "heldout_NE")


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

    Readouts without an SAE of their own (`ReadoutConfig.sae`) use the first. All texts of the corpora that readouts
    are fitted on are pooled; labels and prototypes use config.topics of the stories, and all of the others. Features
    are labelled by the readouts of texts, not by those of dialogues. Raises InputError, UnknownName (topic, SAE),
    ModelMismatch, FormatError, Busy.
    """
    out, began = Path(out), time.time()
    paths = [Path(path) for path in saes]
    if not paths:
        raise InputError("no SAE given", do="pass --sae DIR")
    loaded = {path: load_sae(path).to(subject.device) for path in paths}
    for path, sae in loaded.items():
        _check(sae, subject, path, allow_other_weights)
    readouts = _readouts(subject, corpus, config)
    if not config.readouts and len(readouts) < len(default_readouts(corpus, chat=True)):
        logger.warning("%s has no chat template: no readouts of conversations are made", subject.name)
    of_readout = _assign(readouts, loaded)
    weights = {path: sha256_file(path / "sae_weights.safetensors") for path in paths}
    train = corpus.on_topics(config.topics) if config.topics else corpus
    ratings = load_ratings(config.ratings or None).of(corpus.emotions)
    corpora: dict[str, list[Corpus]] = {r.name: [*corpora_of(r, corpus), *dialogues_of(r, corpus)] for r in readouts}
    inputs = label_inputs(subject, list(weights.values()), corpus, config)
    with directory_lock(out):
        if _is_done(out, inputs):
            logger.info("%s: labels are up to date", out)
            return out
        sae_of = {name: loaded[path] for name, path in of_readout.items()}
        weights_of = {name: weights[path] for name, path in of_readout.items()}
        pools = pooled(subject, readouts, sae_of, corpora, weights_of, out / "pools.h5", on_progress)
        left_out = sorted(set(corpus.topics) - set(train.topics))
        read = {r.name: _texts_read(r, pools[r.name][0], corpora[r.name], left_out) for r in readouts}
        E = len(corpus.emotions)
        fitted = {name: fit_prototypes(*texts, ridge=config.ridge, n_emotions=E) for name, texts in read.items()}
        of_texts = [r for r in readouts if not r.dialogues]
        family = _families(fitted, {r.name: read[r.name] for r in of_texts}, corpus.emotions, config)
        words: dict[str, WordEvidence] = {}
        table: list[dict[str, Any]] = []
        for readout in of_texts:
            name, sae = readout.name, sae_of[readout.name]
            if sae.name not in words:
                words[sae.name] = WordEvidence(subject, sae, corpus.emotions, corpus.word_families)
            X_NF, emotion_N, topic_N = (part[read[name][1] != NEUTRAL] for part in read[name])
            X_NF = X_NF ** np.float32(1 / readout.power)
            columns = feature_table(
                X_NF, emotion_N, topic_N, pools[name][1], sae, corpus.emotions,
                [family[emotion] for emotion in corpus.emotions], ratings, words[sae.name], seed=config.seed,
            )  # fmt: skip
            table.append({"sae": sae.name, "readout": name, **columns})
        told = [described(r, sae_of[r.name], fitted[r.name], read[r.name][1], corpora[r.name]) for r in readouts]
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
            "families": family,
            "readouts": told,
            "files": {name: sha256_file(out / name) for name in files},
            "seed": config.seed,
            "seconds": round(time.time() - began, 1),
        }
        write_json(out / "manifest.json", manifest)
    return out


def label_inputs(subject: Subject, weights: Sequence[str], corpus: StoryCorpus, config: LabelConfig) -> str:
    """The fingerprint of all that settles a label directory; weights: the checksums of the SAEs. Reads nothing else."""
    readouts = _readouts(subject, corpus, config)
    corpora: list[list[Corpus]] = [[*corpora_of(r, corpus), *dialogues_of(r, corpus)] for r in readouts]
    ratings = load_ratings(config.ratings or None).of(corpus.emotions)
    return fingerprint(
        [
            subject.fingerprint.to_dict(), str(subject.dtype), list(weights),
            [[one.fingerprint for one in own] for own in corpora], [to_dict(r) for r in readouts],
            to_dict(config), [r.tolist() for r in ratings],
        ]
    )  # fmt: skip


def is_labelled(out: Path | str, inputs: str) -> bool:
    """Whether `out` is a whole label directory of these inputs (`label_inputs`). Nothing is written."""
    return _is_done(Path(out), inputs)


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
            n: Prototypes(
                W_FE=tensors[f"{n}.W_FE"],
                bias_E=tensors[f"{n}.bias_E"],
                heldout_NE=tensors[f"{n}.heldout_NE"],
                ridge=float(tensors[f"{n}.ridge"][0]),
                share=float(tensors[f"{n}.share"][0]),
            )
            for n in names
        }
    except (OSError, SafetensorError, KeyError) as error:
        raise FormatError(f"cannot be read as prototypes ({error})", where=path, do="run `label` again") from error


# ---------------------------------------------------------------- steps
def _readouts(subject: Subject, corpus: StoryCorpus, config: LabelConfig) -> list[ReadoutConfig]:
    """The readouts asked for, those of texts first: what is asked without a name is read by one of them."""
    chosen = config.readouts or default_readouts(corpus, chat=bool(subject.tokenizer.chat_template))
    return sorted(chosen, key=lambda readout: bool(readout.dialogues))


def _texts_read(
    readout: ReadoutConfig, X_NF: np.ndarray, corpora: Sequence[Corpus], left_out: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(X_NF, emotion_N, topic_N) of a readout's pooled texts without those of some topics."""
    emotion_N, topic_N = emotions_and_topics(corpora)
    used_N = ~np.isin(topic_N, left_out) & is_read(readout, corpora)
    return X_NF[used_N], emotion_N[used_N], topic_N[used_N]


def _families(
    fitted: Mapping[str, Prototypes],
    read: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    emotions: Sequence[str],
    config: LabelConfig,
) -> dict[str, str]:
    """Emotion → family, by the readout that has read most texts: plots are then shared by fewest."""
    name = max(read, key=lambda readout: len(read[readout][1]))  # of equals the first
    _, emotion_N, topic_N = read[name]
    own_N = emotion_N != NEUTRAL
    heldout_NE = fitted[name].heldout_NE[own_N]
    return families(heldout_NE, emotion_N[own_N], topic_N[own_N], emotions, seed=config.seed)


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


def _is_done(out: Path, inputs: str) -> bool:
    if not (out / "manifest.json").exists():
        return False
    known = read_manifest(out)
    return known["inputs"] == inputs and all(
        (out / name).exists() and sha256_file(out / name) == sha for name, sha in known["files"].items()
    )


def _write_prototypes(path: Path, fitted: Mapping[str, Prototypes]) -> None:
    from safetensors.numpy import save_file

    tensors: dict[str, np.ndarray] = {}
    for name, fit in fitted.items():
        tensors |= {f"{name}.{part}": np.ascontiguousarray(getattr(fit, part)) for part in PARTS}
        tensors[f"{name}.ridge"] = np.array([fit.ridge], np.float32)
        tensors[f"{name}.share"] = np.array([fit.share], np.float32)
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
        numbers = {k: shortened(v) if v.dtype.kind == "f" else v for k, v in columns.items() if k not in fixed}
        parts.append(pa.table({**fixed, **numbers}))
    whole = pa.concat_tables(parts).replace_schema_metadata({"format": FORMAT, "format_version": str(VERSION)})
    floats = [field.name for field in whole.schema if pa.types.is_floating(field.type)]
    words = [field.name for field in whole.schema if field.name not in floats]
    with atomic_path(path) as temporary:
        pq.write_table(
            whole, temporary, compression="zstd", compression_level=19, use_dictionary=words,
            use_byte_stream_split=floats,  # type: ignore[arg-type]
        )  # fmt: skip


def shortened(values: np.ndarray) -> np.ndarray:
    """Float32 figures to 12 bits (three digits and a half): a table of them takes two thirds of the room."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(1 << 10)) & ~np.uint32((1 << 11) - 1)).view(np.float32)
    return np.where(np.isfinite(values), rounded, values).astype(np.float32)
