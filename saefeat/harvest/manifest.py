"""The manifest of a harvest: what it was made with, which shards are finished, and whether a run may go on with it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from saefeat import __version__
from saefeat.config import HarvestConfig, to_dict
from saefeat.corpus import source_fingerprints
from saefeat.errors import InputError
from saefeat.files import read_json, write_json
from saefeat.subject import Subject

KIND, VERSION = "activations", 1
MANIFEST = "manifest.json"
SAME = ("tokens", "context", "shard_contexts", "sink_multiple", "seed", "layers")
"""Settings that a store is made with; the others (batch size, where the text lies) may change between resumes."""


def new_manifest(subject: Subject, config: HarvestConfig) -> dict[str, Any]:
    """The manifest of a harvest that has not begun. Raises InputError for settings that cannot work."""
    if not config.layers:
        raise InputError("no layer to read", do="pass --layers, such as --layers 18")
    hooks = {str(layer): subject.hook_point(layer) for layer in config.layers}
    if config.context > subject.context:
        raise InputError(f"context is {config.context}, {subject.name} takes at most {subject.context} tokens")
    if config.context <= len(subject.prefix_ids) + 1:
        raise InputError(f"context is {config.context}, the prefix alone takes {len(subject.prefix_ids)} tokens")
    return {
        "format": KIND,
        "format_version": VERSION,
        "saefeat": __version__,
        "finished": False,
        "subject": {"name": subject.name, **subject.fingerprint.to_dict()},
        "prefix_ids": list(subject.prefix_ids),
        "hook_points": hooks,
        "layers": list(config.layers),
        "d_model": subject.d_model,
        "context": config.context,
        "dtype": str(subject.dtype).removeprefix("torch."),
        "config": {**to_dict(config), "text": list(map(str, config.text)), "layers": list(config.layers)},
        "text": source_fingerprints(config.text),
        "seed": config.seed,
        "median_norm": {},
        "sink_norm": {},
        "contexts": 0,
        "shards": [],
        "seconds": 0.0,
        "tokens_per_second": 0.0,
        "machine": {"device": str(subject.device), "torch": torch.__version__, "python": platform.python_version()},
    }


def continued(out: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The manifest in `out` if it is of the same harvest as `wanted`. Raises InputError saying what differs."""
    known = read_json(out / MANIFEST, kind=KIND, version=VERSION)
    do = "choose another --out, or delete this one"
    for name in SAME:
        ours, theirs = wanted["config"].get(name), known["config"].get(name)
        if ours != theirs:
            raise InputError(f"holds a harvest with {name} = {_short(theirs)}, not {_short(ours)}", where=out, do=do)
    for name, what in (("subject", "model"), ("dtype", "dtype"), ("text", "text")):
        if wanted[name] != known[name]:
            raise InputError(
                f"holds a harvest of another {what}: {_short(known[name])}, not {_short(wanted[name])}",
                where=out, do=do,
            )  # fmt: skip
    for shard in known["shards"]:
        if not (out / shard["file"]).is_file():
            raise InputError(f"has lost its file {shard['file']}", where=out, do="delete the directory and run again")
    return known


def harvested(subject: Subject, config: HarvestConfig, out: Path) -> dict[str, Any]:
    """The manifest of this harvest as far as it has come in `out`; of one that has not begun if there is none.

    Writes nothing. Raises InputError where `harvest` would: settings that cannot work, another harvest in `out`.
    """
    wanted = new_manifest(subject, config)
    return continued(out, wanted) if (out / MANIFEST).exists() else wanted


# ---------------------------------------------------------------- finished shards
def shard_file(number: int) -> str:
    return f"shard_{number:05d}.h5"


def note(out: Path, number: int) -> Path:
    """The small file that says that a shard is finished, until the manifest lists it."""
    return out / f"shard_{number:05d}.json"


def is_noted(out: Path, number: int) -> bool:
    """Whether a shard that the manifest does not list yet is finished."""
    return note(out, number).is_file() and (out / shard_file(number)).is_file()


def write_note(out: Path, number: int, shard: dict[str, Any]) -> None:
    write_json(note(out, number), {"format": "shard", "format_version": VERSION, "file": shard_file(number), **shard})


def take_notes(out: Path, manifest: dict[str, Any], seconds: float) -> None:
    """List in the manifest the finished shards that follow on those it has, then drop their notes."""
    shards: list[dict[str, Any]] = []
    while is_noted(out, number := len(manifest["shards"]) + len(shards)):
        noted = read_json(note(out, number), kind="shard", version=VERSION)
        shards.append({key: noted[key] for key in ("file", "contexts", "usable")})
    if shards:
        list_shards(out, manifest, shards, seconds)
    for path in out.glob("shard_*.json"):  # also those of a run that was killed between the two
        if int(path.stem.removeprefix("shard_")) < len(manifest["shards"]):
            path.unlink()


def list_shards(out: Path, manifest: dict[str, Any], shards: list[dict[str, Any]], seconds: float) -> None:
    """Add durable shards to the manifest, and write it. seconds: what the whole harvest has taken so far."""
    manifest["shards"] += shards
    manifest["contexts"] = sum(shard["contexts"] for shard in manifest["shards"])
    manifest["seconds"] = seconds
    manifest["tokens_per_second"] = round(manifest["contexts"] * manifest["context"] / max(seconds, 1e-9), 1)
    write_json(out / MANIFEST, manifest)


def _short(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(str, value)) + "]"
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return str(value)
