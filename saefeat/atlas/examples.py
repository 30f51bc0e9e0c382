"""examples.h5: what a feature fires on. Top snippets, a histogram of activations and the density, from the stories.

One forward pass over the stories; memory is bounded by a batch and by the snippets kept. Layout, per SAE a group
with `feature` (F,) sorted, `ids` (F,5,40) token ids, `activation` (F,5,40) float16, `length` (F,5), `peak` (F,5)
position of the highest activation, `story` (F,5) number of the story or -1, `score` (F,5) the peak, `density` (F,),
`histogram` (F,30) and `edges` (31,); and the stories: `stories/emotion`, `topic`, `text`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saefeat.corpus import Story
from saefeat.errors import FormatError
from saefeat.files import atomic_path
from saefeat.sae import SAE
from saefeat.subject import Subject

FORMAT, VERSION = "examples", 1
TOP, LENGTH, BEFORE, BINS = 5, 40, 27, 30
WINDOW, BATCH_TOKENS = 512, 2048


class Gathered:
    """The running best snippets, histogram and counts of some features of one SAE."""

    def __init__(self, features_F: np.ndarray) -> None:
        F = len(features_F)
        self.feature = features_F.astype(np.int32)
        self.ids = np.zeros((F, TOP, LENGTH), np.int32)
        self.activation = np.zeros((F, TOP, LENGTH), np.float16)
        self.length = np.zeros((F, TOP), np.uint8)
        self.peak = np.zeros((F, TOP), np.uint8)
        self.story = np.full((F, TOP), -1, np.int32)
        self.score = np.zeros((F, TOP), np.float32)
        self.fired = np.zeros(F, np.int64)
        self.tokens = 0
        self.histogram = np.zeros((F, BINS), np.int64)
        self.edges: np.ndarray | None = None

    def add(self, ids_T: np.ndarray, acts_TF: np.ndarray, usable_T: np.ndarray, story: int) -> None:
        """Take in one window of a story: activations of these features; unusable positions never count."""
        acts_TF = acts_TF * usable_T[:, None]
        self.tokens += int(usable_T.sum())
        self.fired += (acts_TF > 0).sum(0)
        self._count(acts_TF)
        at_F = acts_TF.argmax(0)
        peak_F = acts_TF[at_F, np.arange(len(at_F))]
        own_FS = self.story == story  # of a story in several windows only the best is kept
        slot_F = np.where(own_FS.any(1), own_FS.argmax(1), self.score.argmin(1))
        better = np.flatnonzero((peak_F > 0) & (peak_F > self.score[np.arange(len(slot_F)), slot_F]))
        if not len(better):
            return
        slot, at, T = slot_F[better], at_F[better], len(ids_T)
        start = np.clip(at - BEFORE, 0, max(0, T - LENGTH))
        place = start[:, None] + np.arange(LENGTH)
        inside = place < T
        place = np.minimum(place, T - 1)
        self.ids[better, slot] = np.where(inside, ids_T[place], 0)
        self.activation[better, slot] = np.where(inside, acts_TF[place, better[:, None]], 0)
        self.length[better, slot] = inside.sum(1)
        self.peak[better, slot] = at - start
        self.story[better, slot] = story
        self.score[better, slot] = peak_F[better]

    def _count(self, acts_TF: np.ndarray) -> None:
        row, column = np.nonzero(acts_TF > 0)
        values = acts_TF[row, column]
        if not len(values):
            return
        if (
            self.edges is None
        ):  # log-spaced bins that hold the first window seen, with room; the ends take what is beyond
            low, high = float(values.min()), float(values.max())
            self.edges = np.geomspace(low / 2, high * 2, BINS + 1).astype(np.float32)
        bins = np.clip(np.searchsorted(self.edges, values, side="right") - 1, 0, BINS - 1)
        np.add.at(self.histogram, (column, bins), 1)

    def arrays(self) -> dict[str, np.ndarray]:
        """What the file holds, snippets by falling peak."""
        order = np.argsort(-self.score, axis=1, kind="stable")
        taken: dict[str, np.ndarray] = {
            name: getattr(self, name) for name in ("ids", "activation", "length", "peak", "story", "score")
        }
        sorted_: dict[str, np.ndarray] = {
            name: np.take_along_axis(value, order if value.ndim == 2 else order[:, :, None], axis=1)
            for name, value in taken.items()
        }
        edges = np.geomspace(1, 2, BINS + 1).astype(np.float32) if self.edges is None else self.edges
        density = (self.fired / max(self.tokens, 1)).astype(np.float32)
        rest: dict[str, np.ndarray] = {
            "feature": self.feature,
            "density": density,
            "histogram": self.histogram,
            "edges": edges,
        }
        return sorted_ | rest


def gather(
    subject: Subject,
    stories: Sequence[Story],
    saes: Mapping[str, SAE],
    features: Mapping[str, np.ndarray],
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Gathered]:
    """SAE name → snippets and counts of `features[name]` (sorted numbers), from one pass over the stories."""
    gathered = {name: Gathered(features[name]) for name in saes}
    layers = sorted({sae.layer for sae in saes.values()})
    prefix = len(subject.prefix_ids)
    windows = list(_windows(subject, stories))
    done = 0
    for batch in _batches(windows):
        ids_BT = torch.zeros(len(batch), max(len(ids) for _, ids in batch), dtype=torch.long)
        for row, (_, ids) in enumerate(batch):
            ids_BT[row, : len(ids)] = torch.tensor(ids)
        x = subject.residuals(ids_BT, layers)
        for name, sae in saes.items():
            columns = torch.from_numpy(gathered[name].feature).long().to(subject.device)
            for row, (story, ids) in enumerate(batch):
                x_TD = x[sae.layer][row, : len(ids)].float()
                usable_T = torch.ones(len(ids), dtype=torch.bool)
                usable_T[: max(prefix, 1)] = False
                if sae.sink_norm is not None:
                    usable_T &= (x_TD.norm(dim=-1) <= sae.sink_norm).cpu()
                acts_TF = sae.encode(x_TD)[:, columns].float().cpu().numpy()
                gathered[name].add(np.array(ids[prefix:]), acts_TF[prefix:], usable_T.numpy()[prefix:], story)
        done += len(batch)
        if on_progress:
            on_progress(done, len(windows))
    return gathered


def _windows(subject: Subject, stories: Sequence[Story]) -> Iterator[tuple[int, list[int]]]:
    prefix = list(subject.prefix_ids)
    room = min(WINDOW, subject.context) - len(prefix)
    for number, story in enumerate(stories):
        ids = subject.tokenize(story.text)
        for start in range(0, len(ids), room):
            yield number, prefix + ids[start : start + room]


def _batches(windows: list[tuple[int, list[int]]]) -> Iterator[list[tuple[int, list[int]]]]:
    """Windows of like length together, the longest first."""
    order = sorted(windows, key=lambda item: -len(item[1]))
    start = 0
    while start < len(order):
        size = max(1, BATCH_TOKENS // len(order[start][1]))
        yield order[start : start + size]
        start += size


# ---------------------------------------------------------------- the file
def write_examples(path: Path, gathered: Mapping[str, Gathered], stories: Sequence[Story]) -> None:
    """Write examples.h5, compressed, with checksums."""
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"], file.attrs["format_version"] = FORMAT, VERSION
        for name, part in gathered.items():
            group = file.create_group(f"saes/{name}")
            for key, value in part.arrays().items():
                _dataset(group, key, value)
        group = file.create_group("stories")
        for key in ("emotion", "topic", "text"):
            texts = [getattr(story, key).encode("utf-8") for story in stories]
            _dataset(group, key, np.frombuffer(b"".join(texts), np.uint8))
            _dataset(group, f"{key}_end", np.cumsum([len(text) for text in texts]))


def _dataset(group: Any, name: str, value: np.ndarray) -> None:
    options = {"compression": "gzip", "compression_opts": 9, "shuffle": True, "fletcher32": True} if value.size else {}
    group.create_dataset(name, data=value, **options)


def read_stories(path: Path) -> list[Story]:
    """The stories of examples.h5, in the order of their numbers. Raises FormatError."""
    with _opened(path) as file:
        columns = []
        for key in ("emotion", "topic", "text"):
            whole, ends = file[f"stories/{key}"][:].tobytes(), file[f"stories/{key}_end"][:]
            columns.append([whole[a:b].decode() for a, b in zip([0, *ends[:-1]], ends, strict=True)])
        return [Story(*row) for row in zip(*columns, strict=True)]


def read_examples(path: Path, sae: str, feature: int) -> dict[str, Any] | None:
    """What the file knows of one feature: density, histogram, edges, snippets; None if it was not gathered."""
    with _opened(path) as file:
        group = file.get(f"saes/{sae}")
        if group is None:
            return None
        features_F = group["feature"][:]
        row = int(np.searchsorted(features_F, feature))
        if row == len(features_F) or features_F[row] != feature:
            return None
        one = {name: group[name][row] for name in ("ids", "activation", "length", "peak", "story")}
        snippets = [
            {
                "ids": one["ids"][k, :n].tolist(),
                "activations": [float(a) for a in one["activation"][k, :n]],
                "peak": int(one["peak"][k]),
                "story": int(one["story"][k]),
            }
            for k in range(TOP)
            if (n := int(one["length"][k]))
        ]
        return {
            "density": float(group["density"][row]),
            "histogram": {"edges": group["edges"][:].tolist(), "counts": group["histogram"][row].tolist()},
            "snippets": snippets,
        }


class _opened:
    """An examples.h5 open for reading; whatever h5py trips over becomes a FormatError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: Any = None

    def __enter__(self) -> Any:
        import h5py

        try:
            self.file = h5py.File(self.path, "r")
            version = self.file.attrs.get("format_version") if self.file.attrs.get("format") == FORMAT else None
        except OSError as error:
            raise FormatError(f"is missing or corrupt ({error})", where=self.path, do="make the index again") from error
        if version is None or version > VERSION:
            self.file.close()
            raise FormatError(f"is not an examples file that this saefeat reads ({version})", where=self.path)
        return self.file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self.file.close()
        if kind is not None and issubclass(kind, OSError | KeyError | ValueError):
            raise FormatError(f"is corrupt ({error})", where=self.path, do="make the index again") from error
