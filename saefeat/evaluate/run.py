"""The whole battery on one atlas: sections, figures and report."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saefeat import __version__
from saefeat.corpus import read_texts
from saefeat.errors import InputError
from saefeat.evaluate.battery import Bench
from saefeat.evaluate.figures import bars_figure, length_figure, lines_by_k_figure, reliability_figure
from saefeat.evaluate.labelled import Labelled, labelled_sample, read_labelled
from saefeat.evaluate.outside import NOT_GIVEN, labelled_files, messages
from saefeat.evaluate.pooled import TITLES
from saefeat.evaluate.sections import (
    KS,
    OWN,
    geometry,
    labels,
    quality,
    retrieval,
    short_texts,
    single_features,
    sparse_detectors,
)
from saefeat.evaluate.seeds import check_second, seeds
from saefeat.evaluate.worth import LENGTHS, bin_name, lengths, separation
from saefeat.files import sha256_file
from saefeat.label import circumplex_figure, similarity_figure
from saefeat.sae import SAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT, VERSION = "evaluation", 2


@dataclass(frozen=True)
class Given:
    """A labelled file and its map, as the user gave them."""

    path: Path
    map_path: Path


def evaluate(
    bench: Bench,
    labelled: Sequence[Given] = (),
    *,
    calibrate: int | None = None,
    background: Path | None = None,
    second: SAE | None = None,
    command: str = "saefeat evaluate",
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """results (see `report.py`) and their figures by file name.

    labelled: files that others labelled, each with a map; calibrate: rows of each to calibrate classes on, a row of
    its own; background: the user's unlabelled texts as a baseline, a row of its own; second: an SAE of another seed.
    Raises InputError, FormatError; what is wrong with the arguments ends the run before anything is measured.
    """
    began = time.time()
    sets = read_sets(bench, labelled, calibrate)
    extra = _background(background) if background else []
    if (background or calibrate) and not sets:
        raise InputError("--calibrate and --background are for --labelled files", do="give --labelled and --map")
    if second is not None:
        check_second(bench, second)
    made = [quality(bench), retrieval(bench), short_texts(bench), labels(bench), single_features(bench)]
    detectors, hits = sparse_detectors(bench)
    ratings, drawn = geometry(bench)
    flat, groups = separation(bench)
    spreads, spread = lengths(bench)
    others, bars = labelled_files(bench, sets, calibrate=calibrate, background=extra)
    made += [detectors, ratings, flat, spreads, others, messages(bench), seeds(bench, second)]
    figures = {"similarity.png": _similarity_figure(bench, drawn)}
    for told, draw in (
        (detectors, lambda: _detector_figure(hits)),
        (ratings, lambda: _circumplex_figure(bench, drawn)),
        (flat, lambda: reliability_figure(*groups)),
        (spreads, lambda: _length_figure(spread)),
        (others, lambda: _bars_figure(bars)),
    ):
        if told["figure"]:
            figures[told["figure"]] = draw()
    results = {
        "format": FORMAT,
        "format_version": VERSION,
        "atlas": bench.atlas.name,
        "subject": {key: bench.atlas.manifest["subject"][key] for key in ("architecture", "tokenizer", "weights")}
        | {"name": Path(bench.atlas.subject_name).name, "dtype": str(bench.atlas.subject().dtype)},
        "saefeat": __version__,
        "seed": bench.seed,
        "seconds": round(time.time() - began, 1),
        "machine": machine(str(bench.atlas.subject().device)),
        "train_topics": list(bench.train),
        "test_topics": list(bench.test),
        "command": command,
        "data": [_data(one) for one in labelled] or [{"name": "labelled files", "given": False, "rows": NOT_GIVEN}],
        "sections": [one for one in made if one is not None],
    }
    return results, figures


# ---------------------------------------------------------------- what the user gave
def read_sets(bench: Bench, labelled: Sequence[Given], calibrate: int | None) -> list[Labelled]:
    """The labelled files, under names that tell them apart."""
    sets = [read_labelled(one.path, one.map_path, bench.emotions) for one in labelled]
    for one in sets if calibrate else ():
        try:
            labelled_sample(one.class_N, calibrate or 0, bench.seed)
        except InputError as error:
            raise InputError(error.what, where=one.name) from error
    for names in (
        [one.name for one in sets],
        [f"{one.path.name} by {one.map_path.name}" for one in labelled],
        [f"{one.path} by {one.map_path}" for one in labelled],
    ):
        if len(set(names)) == len(names):
            return [replace(one, name=name) for one, name in zip(sets, names, strict=True)]
    raise InputError("a labelled file is given twice with the same map")


def _background(path: Path) -> list[str]:
    texts = [item.text for item in read_texts(path) if item.text]
    if not texts:
        raise InputError("holds no texts", where=path, do="give lines of text")
    return texts


def _data(one: Given) -> dict[str, Any]:
    rows = sum(1 for line in one.path.read_text(encoding="utf-8").split("\n") if line.strip())
    return {
        "name": one.path.name,
        "given": True,
        "rows": rows,
        "sha256": sha256_file(one.path),
        "source": f"map {one.map_path.name}",
    }


def machine(device: str) -> str:
    """Processor, cores, device and torch, in words."""
    import torch

    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    if device.startswith("cuda"):
        device = torch.cuda.get_device_name()
    return f"{model}, {os.cpu_count()} cores, {device}, torch {torch.__version__}"


# ---------------------------------------------------------------- figures
def _detector_figure(hits: dict[str, list[Any]]) -> Figure:
    def part(key: str, cells: list[Any]) -> list[float | None]:
        return [None if cell is None else cell[key] for cell in cells]

    values = {name: part("value", cells) for name, cells in hits.items()}
    intervals = {name: (part("low", cells), part("high", cells)) for name, cells in hits.items()}
    nulls = [name for name in hits if name not in OWN]
    ylabel = "own detector among the five highest"
    return lines_by_k_figure(KS, values, intervals, ylabel, own=OWN, nulls=nulls, percent=True)


def _similarity_figure(bench: Bench, drawn: dict[str, Any]) -> Figure:
    title = f"Prototypes of {bench.atlas.name}, cosine"
    return similarity_figure(drawn["similarity"], bench.emotions, bench.atlas.families, title)


def _circumplex_figure(bench: Bench, drawn: dict[str, Any]) -> Figure:
    return circumplex_figure(drawn["valence"], drawn["arousal"], bench.emotions, drawn["true_valence"])


def _length_figure(spread: dict[str, list[float | None]]) -> Figure:
    figure = length_figure([bin_name(low, high) for low, high in LENGTHS], spread)
    figure.axes[0].set_xlabel("tokens of the text; dotted: as calibrated")
    return figure


def _bars_figure(bars: dict[str, dict[str, float]]) -> Figure:
    sets = list(next(iter(bars.values())))
    values = {title: list(own.values()) for title, own in bars.items()}
    return bars_figure(sets, values, xlabel="macro-F1, zero-shot", own=[TITLES["sae"]])
