"""Text to residual streams on disk: HDF5 shards, each complete or absent, and a manifest that lists them.

A shard holds `ids` (contexts, T), `starts` (document, context, position) and for each hook point a group `layer_20`
with `x` (contexts, T, D) in the model's dtype (bfloat16 as its bits in uint16, attribute `dtype`) and `usable`
(contexts, T): not the first token nor the prefix, not a sink. The manifest moves after the shard is durable, so that
a harvest killed at any moment continues with the first shard that is missing and ends as if undisturbed.

Several processes (`Ranks`) take the shards in turn: process r of R writes shards r, r + R, ... and a note beside each,
and the first process lists noted shards in the manifest. What is on disk in the end is what one process writes.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from saefeat.config import HarvestConfig
from saefeat.corpus import documents
from saefeat.errors import InputError
from saefeat.files import atomic_path, directory_lock, require_disk, write_json
from saefeat.harvest.disk import Tolerant
from saefeat.harvest.manifest import (
    KIND,
    MANIFEST,
    VERSION,
    continued,
    is_noted,
    list_shards,
    new_manifest,
    shard_file,
    take_notes,
    write_note,
)
from saefeat.harvest.pack import Context, ahead, pack
from saefeat.harvest.ranks import ALONE, Ranks
from saefeat.subject import Subject

log = logging.getLogger(__name__)
SINK_CONTEXTS = 64
"""Contexts from which the layers' median norms are estimated."""
Progress = Callable[[int, int], None]


class Batch(NamedTuple):
    """What a forward pass leaves: {layer: x_BTD as stored}, {layer: norms_BT}, and the contexts read."""

    contexts: list[Context]
    x: dict[int, np.ndarray]
    norms: dict[int, np.ndarray]


def harvest(
    subject: Subject, config: HarvestConfig, out: Path, *, on_progress: Progress | None = None, ranks: Ranks = ALONE
) -> Path:
    """Keep the residual streams of `config.tokens` tokens of text in the directory `out`, and return it.

    Run again, it continues a harvest that was stopped, and does nothing if it is finished; with any number of
    processes, which must see the same `out`. Raises InputError if `out` holds a harvest of other settings, text or
    model, if there is too little disk or no text; Busy if another run writes there. on_progress: (tokens done, in all).
    """
    out = Path(out)
    manifest = new_manifest(subject, config)
    if ranks.first and (out / MANIFEST).exists() and continued(out, manifest)["finished"]:
        ranks.told(True)
        return out
    if not ranks.first:
        if not ranks.told(False):
            _run(subject, config, out, manifest, ranks, None)
        return out
    with directory_lock(out):
        manifest = continued(out, manifest) if (out / MANIFEST).exists() else manifest
        if not ranks.told(manifest["finished"]):
            _run(subject, config, out, manifest, ranks, on_progress)
    return out


def _run(
    subject: Subject, config: HarvestConfig, out: Path, manifest: dict[str, Any], ranks: Ranks,
    on_progress: Progress | None,
) -> None:  # fmt: skip
    T, size = config.context, config.shard_contexts
    total = max(1, config.tokens // T)
    if ranks.first:
        _prepare(subject, config, out, manifest, ranks, total)
    number, seen = ranks.told(len(manifest["shards"])), ranks.told(manifest["contexts"])  # the last shard may be short
    _share_norms(manifest, ranks)
    begun, before = time.monotonic(), manifest["seconds"]
    # the packed stream is the same each time: contexts of other shards are packed again, but not read again
    stream = pack(subject, documents(config.text, seed=config.seed), T)
    contexts = ahead(itertools.islice(stream, seen, total), 4 * config.batch_contexts)
    try:
        while seen < total:
            wanted = min(size, total - seen)
            if number % ranks.size != ranks.rank or is_noted(out, number):
                found = sum(1 for _ in itertools.islice(contexts, wanted))
            elif (first := next(contexts, None)) is None:
                break
            else:
                chosen = itertools.chain([first], itertools.islice(contexts, wanted - 1))
                batches = ahead(_forward(subject, config, chosen), 2)
                path = out / shard_file(number)
                shard = _write_shard(path, batches, wanted, subject, config, manifest, seen, total, on_progress)
                found = shard["contexts"]
                if number == len(manifest["shards"]) and ranks.first:
                    seconds = before + time.monotonic() - begun
                    list_shards(out, manifest, [{"file": path.name, **shard}], seconds)
                else:
                    write_note(out, number, shard)
            if ranks.first:
                take_notes(out, manifest, before + time.monotonic() - begun)
            seen, number = seen + found, number + 1
            if found < wanted:
                break
    finally:
        contexts.close()  # type: ignore[attr-defined]
    ranks.wait()
    if ranks.first:
        take_notes(out, manifest, before + time.monotonic() - begun)
        _end(config, out, manifest, seen, total)
    ranks.wait()


def _prepare(
    subject: Subject, config: HarvestConfig, out: Path, manifest: dict[str, Any], ranks: Ranks, total: int
) -> None:
    """What the first process does before the others may start."""
    for orphan in out.glob(".*.tmp"):  # of a run that was killed; the lock says nobody writes here now
        orphan.unlink()
    if not (out / MANIFEST).exists():
        for orphan in out.glob("shard_*.json"):
            orphan.unlink()
    take_notes(out, manifest, manifest["seconds"])
    T, width = config.context, 2 if subject.dtype.itemsize == 2 else 4
    left = total - manifest["contexts"]
    require_disk(out, int(left * T * (len(config.layers) * (subject.d_model * width + 1) + 4) * 1.02))
    if ranks.size > 1 and not manifest["sink_norm"]:  # one process finds them in its first shard
        stream = pack(subject, documents(config.text, seed=config.seed), T)
        contexts = itertools.islice(stream, min(total, SINK_CONTEXTS, config.shard_contexts))
        norms = [batch.norms for batch in _forward(subject, config, contexts)]
        if norms:
            for layer in config.layers:
                norms_NT = np.concatenate([norms_BT[layer] for norms_BT in norms])
                _settle(norms_NT, layer, manifest, first=first_usable(subject))
        write_json(out / MANIFEST, manifest)  # before any note


def _share_norms(manifest: dict[str, Any], ranks: Ranks) -> None:
    """Every process marks sinks by the first one's norms."""
    if ranks.size > 1:
        for name in ("median_norm", "sink_norm"):
            norms = [manifest[name].get(str(layer), math.nan) for layer in manifest["layers"]]
            told = torch.tensor(norms, dtype=torch.float64)
            ranks.copy([told])
            manifest[name] = {str(layer): norm for layer, norm in zip(manifest["layers"], told.tolist(), strict=True)}


def _end(config: HarvestConfig, out: Path, manifest: dict[str, Any], seen: int, total: int) -> None:
    T, done = config.context, manifest["contexts"]
    if not seen:
        (out / MANIFEST).unlink(missing_ok=True)
        raise InputError(f"the text is shorter than one context of {T} tokens", do="pass more text")
    if done < seen:
        do = "let all processes write to one shared directory"
        raise InputError(f"lacks {seen - done} contexts that another process read", where=out, do=do)
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
    path: Path, batches: Iterator[Batch], size: int, subject: Subject, config: HarvestConfig,
    manifest: dict[str, Any], before: int, total: int, on_progress: Progress | None,
) -> dict[str, Any]:  # fmt: skip
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
                if str(layer) not in manifest["sink_norm"]:
                    _settle(norms_NT, layer, manifest, first=first_usable(subject))
                usable_NT = usable(norms_NT, manifest["sink_norm"][str(layer)], first=first_usable(subject))
                file.create_dataset(f"layer_{layer}/usable", data=usable_NT, fletcher32=True)
                usable_count[str(layer)] = int(usable_NT.sum())
    finally:
        batches.close()  # type: ignore[attr-defined]
    return {"contexts": at, "usable": usable_count}


# ---------------------------------------------------------------- which tokens count
def first_usable(subject: Subject) -> int:
    """The position of the first token that can count: after the prefix, and never the first one."""
    return max(1, len(subject.prefix_ids))


def median_norm(norms_NT: np.ndarray, layer: int, *, first: int) -> float:
    """The median norm over the first contexts of a text. Raises InputError if the stream is not finite."""
    sample = norms_NT[:SINK_CONTEXTS, first:]
    sample = sample[np.isfinite(sample)]
    median = float(np.median(sample)) if sample.size else math.nan
    if not median > 0:
        raise InputError(f"the residual stream of layer {layer} is not finite", do="use --dtype float32")
    return median


def usable(norms_NT: np.ndarray, sink_norm: float, *, first: int) -> np.ndarray:
    """Which tokens are neither first, prefix nor sink."""
    usable_NT = norms_NT <= sink_norm  # False for NaN
    usable_NT[:, :first] = False
    return usable_NT


def _settle(norms_NT: np.ndarray, layer: int, manifest: Mapping[str, Any], *, first: int) -> None:
    """The first contexts settle the layer's sink threshold."""
    median = median_norm(norms_NT, layer, first=first)
    manifest["median_norm"][str(layer)] = median
    manifest["sink_norm"][str(layer)] = manifest["config"]["sink_multiple"] * median
