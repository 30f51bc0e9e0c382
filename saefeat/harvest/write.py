"""Text to residual streams on disk: HDF5 shards, each complete or absent, and a manifest that lists them.

A shard holds `ids` (contexts, T), `starts` (document, context, position) and for each hook point a group `layer_20`
with `x` (contexts, T, D) in the model's dtype (bfloat16 as its bits in uint16, attribute `dtype`) and `usable`
(contexts, T): not the first token nor the prefix, not a sink. The manifest moves after the shard is durable, so that
a harvest killed at any moment continues with the first shard that is missing and ends as if undisturbed.
"""

from __future__ import annotations

import itertools
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from saefeat import __version__
from saefeat.config import HarvestConfig, to_dict
from saefeat.corpus import documents, source_fingerprints
from saefeat.errors import InputError
from saefeat.files import atomic_path, directory_lock, read_json, require_disk, write_json
from saefeat.harvest.pack import Context, ahead, pack
from saefeat.subject import Subject

log = logging.getLogger(__name__)
KIND, VERSION = "activations", 1
MANIFEST = "manifest.json"
SINK_CONTEXTS = 64
"""Contexts from which the layers' median norms are estimated."""
SAME = ("tokens", "context", "shard_contexts", "sink_multiple", "seed", "layers")
"""Settings that a store is made with; the others (batch size, where the text lies) may change between resumes."""


class Batch(NamedTuple):
    """What a forward pass leaves: {layer: x_BTD as stored}, {layer: norms_BT}, and the contexts read."""

    contexts: list[Context]
    x: dict[int, np.ndarray]
    norms: dict[int, np.ndarray]


def harvest(
    subject: Subject, config: HarvestConfig, out: Path, *, on_progress: Callable[[int, int], None] | None = None
) -> Path:
    """Keep the residual streams of `config.tokens` tokens of text in the directory `out`, and return it.

    Run again, it continues a harvest that was stopped, and does nothing if it is finished. Raises InputError if
    `out` holds a harvest of other settings, text or model, if there is too little disk or no text; Busy if another
    process writes there. on_progress: (tokens done, tokens in all).
    """
    out = Path(out)
    manifest = _manifest(subject, config)
    known = _continue(out, manifest) if (out / MANIFEST).exists() else manifest
    if known["finished"]:
        return out
    with directory_lock(out):
        manifest = _continue(out, manifest) if (out / MANIFEST).exists() else manifest
        if not manifest["finished"]:
            _run(subject, config, out, manifest, on_progress)
    return out


def _run(
    subject: Subject,
    config: HarvestConfig,
    out: Path,
    manifest: dict[str, Any],
    on_progress: Callable[[int, int], None] | None,
) -> None:
    for orphan in out.glob(".*.tmp"):  # of a run that was killed; the lock says nobody writes here now
        orphan.unlink()
    T, done = config.context, sum(shard["contexts"] for shard in manifest["shards"])
    total = max(1, config.tokens // T)
    width = 2 if subject.dtype.itemsize == 2 else 4
    require_disk(out, int((total - done) * T * (len(config.layers) * (subject.d_model * width + 1) + 4) * 1.02))
    # the packed stream is the same each time: contexts of finished shards are packed again, but not read again
    stream = pack(subject, documents(config.text, seed=config.seed), T)
    contexts = ahead(itertools.islice(stream, done, total), 4 * config.batch_contexts)
    try:
        for number in itertools.count(len(manifest["shards"])):
            started = time.monotonic()
            size = min(config.shard_contexts, total - done)
            first = next(contexts, None) if size else None
            if first is None:
                break
            chosen = itertools.chain([first], itertools.islice(contexts, size - 1))
            batches = ahead(_forward(subject, config, chosen), 2)
            name = f"shard_{number:05d}.h5"
            shard = _write_shard(out / name, batches, size, subject, config, manifest, done, total, on_progress)
            done += shard["contexts"]
            manifest["shards"].append({"file": name, **shard})
            manifest["contexts"] = done
            manifest["seconds"] += time.monotonic() - started
            manifest["tokens_per_second"] = round(done * T / max(manifest["seconds"], 1e-9), 1)
            write_json(out / MANIFEST, manifest)
            if shard["contexts"] < size:
                break
    finally:
        contexts.close()  # type: ignore[attr-defined]
    if not done:
        raise InputError(f"the text is shorter than one context of {T} tokens", do="pass more text")
    if done < total:
        log.warning("the text ended after %d tokens, %d were asked for", done * T, config.tokens)
    manifest["finished"] = True
    write_json(out / MANIFEST, manifest)


def _forward(subject: Subject, config: HarvestConfig, contexts: Iterator[Context]) -> Iterator[Batch]:
    while rows := list(itertools.islice(contexts, config.batch_contexts)):
        x = subject.residuals(torch.tensor([row.ids for row in rows]), config.layers)
        norms = {layer: x_BTD.float().norm(dim=-1).cpu().numpy() for layer, x_BTD in x.items()}
        yield Batch(rows, {layer: _stored(x_BTD) for layer, x_BTD in x.items()}, norms)


def _stored(x_BTD: torch.Tensor) -> np.ndarray:
    x_BTD = x_BTD.cpu().contiguous()
    return x_BTD.view(torch.uint16).numpy() if x_BTD.dtype == torch.bfloat16 else x_BTD.numpy()


def _write_shard(
    path: Path,
    batches: Iterator[Batch],
    size: int,
    subject: Subject,
    config: HarvestConfig,
    manifest: dict[str, Any],
    before: int,
    total: int,
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """Write up to `size` contexts, batch by batch; the count of contexts and of usable tokens per layer."""
    import h5py

    T, D, dtype = config.context, subject.d_model, manifest["dtype"]
    at = 0
    starts: list[tuple[int, int, int]] = []
    norms: dict[int, list[np.ndarray]] = {layer: [] for layer in config.layers}
    try:
        with atomic_path(path) as temporary, Tolerant(temporary) as disk, h5py.File(disk, "w") as file:
            file.attrs.update(format=KIND, format_version=VERSION)
            ids = file.create_dataset("ids", (size, T), "i4", maxshape=(size, T), chunks=(1, T), fletcher32=True)
            for layer in config.layers:
                group = file.create_group(f"layer_{layer}")
                group.attrs["hook_point"] = subject.hook_point(layer)
                x = group.create_dataset(
                    "x", (size, T, D), "u2" if dtype == "bfloat16" else dtype, chunks=(1, T, D), fletcher32=True,
                    maxshape=(size, T, D),
                )  # fmt: skip
                x.attrs["dtype"] = dtype
            for batch in batches:
                disk.check()
                B = len(batch.contexts)
                ids[at : at + B] = [context.ids for context in batch.contexts]
                for layer in config.layers:
                    file[f"layer_{layer}/x"][at : at + B] = batch.x[layer]
                    norms[layer].append(batch.norms[layer])
                starts += [(n, at + i, p) for i, context in enumerate(batch.contexts) for n, p in context.starts]
                at += B
                if on_progress:
                    on_progress((before + at) * T, total * T)
            if at < size:
                ids.resize(at, axis=0)
                for layer in config.layers:
                    file[f"layer_{layer}/x"].resize(at, axis=0)
            file.create_dataset("starts", data=np.array(starts, dtype="i8").reshape(-1, 3), fletcher32=True)
            usable_count = {}
            for layer in config.layers:
                norms_NT = np.concatenate(norms[layer])
                usable_NT = _usable(norms_NT, layer, manifest, first=max(1, len(subject.prefix_ids)))
                file.create_dataset(f"layer_{layer}/usable", data=usable_NT, fletcher32=True)
                usable_count[str(layer)] = int(usable_NT.sum())
    finally:
        batches.close()  # type: ignore[attr-defined]
    return {"contexts": at, "usable": usable_count}


class Tolerant:
    """A binary file that HDF5 writes to, which remembers a failed write instead of failing: `check` raises it.

    The HDF5 library, when the disk is full, cannot close its file and later crashes the whole process. So it is told
    that all went well, its file is closed and thrown away, and the error is raised from here.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None

    def __enter__(self) -> Tolerant:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._file.close()
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise OSError if a write has failed."""
        if self._error:
            raise self._error

    def write(self, data: memoryview) -> int:
        size, done = len(data), 0
        try:
            while done < size and not self._error:
                done += self._file.write(data[done:])
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = error
            return size or 0

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size) or b""

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer) or 0

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        """Nothing is buffered here."""


def _usable(norms_NT: np.ndarray, layer: int, manifest: dict[str, Any], *, first: int) -> np.ndarray:
    """Which tokens count; the first shard also settles the layer's sink threshold."""
    key = str(layer)
    if key not in manifest["sink_norm"]:
        sample = norms_NT[:SINK_CONTEXTS, first:]
        sample = sample[np.isfinite(sample)]
        median = float(np.median(sample)) if sample.size else math.nan
        if not median > 0:
            raise InputError(f"the residual stream of layer {layer} is not finite", do="use --dtype float32")
        manifest["median_norm"][key] = median
        manifest["sink_norm"][key] = manifest["config"]["sink_multiple"] * median
    usable_NT = norms_NT <= manifest["sink_norm"][key]  # False for NaN
    usable_NT[:, :first] = False
    return usable_NT


# ---------------------------------------------------------------- the manifest
def _manifest(subject: Subject, config: HarvestConfig) -> dict[str, Any]:
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


def _continue(out: Path, wanted: dict[str, Any]) -> dict[str, Any]:
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


def _short(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(str, value)) + "]"
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return str(value)
