"""Pictures of the geometry: who is like whom, and where the words lie by valence and arousal.

Figures are matplotlib `Figure` objects on the Agg canvas, without pyplot and its global state: `figure.savefig(path)`.

Shapes: E emotions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saefeat.label.geometry import principal_components

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT = "#222222", "#9a9a9a"
POINTS = 72  # an inch


def similarity_figure(
    similarity_EE: np.ndarray, emotions: Sequence[str], families: Mapping[str, str], title: str = ""
) -> Figure:
    """A heat map of similarities, emotions side by side by family and like families near each other; families named,
    those of one emotion in grey."""
    order, spans = family_order(similarity_EE, emotions, families)
    figure = _figure(13.5, 12.5)
    axes = figure.add_axes((0.1, 0.02, 0.8, 0.88))
    off = similarity_EE[~np.eye(len(emotions), dtype=bool)]
    limit = float(np.quantile(np.abs(off), 0.99)) if len(off) else 1.0
    image = axes.imshow(
        similarity_EE[np.ix_(order, order)], cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest"
    )
    for _, start, stop in spans:
        box = [start - 0.5, stop - 0.5]
        axes.plot([box[0], box[1], box[1], box[0], box[0]], [box[0], box[0], box[1], box[1], box[0]], INK, lw=0.7)
    middles = [(start + stop - 1) / 2 for _, start, stop in spans]
    size = min(9.0, 0.88 * 12.5 * POINTS / max(len(emotions), 1) * 1.3)
    names = [name for name, _, _ in spans]
    axes.set_yticks(middles, names, fontsize=size)
    axes.set_xticks(middles, names, fontsize=size, rotation=90)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=2)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label, (_, start, stop) in zip(labels, spans, strict=True):
            label.set_color(INK if stop - start > 1 else FAINT)
    for side in axes.spines.values():
        side.set_visible(False)
    bar = figure.colorbar(image, cax=figure.add_axes((0.92, 0.3, 0.014, 0.3)))
    bar.set_label("cosine similarity", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.text(0.02, 0.985, title, fontsize=13, color=INK, va="top")
    return figure


def family_order(
    similarity_EE: np.ndarray, emotions: Sequence[str], families: Mapping[str, str]
) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """Emotions (E,) by family, families along the largest axis of their mean similarities; (family, start, stop)."""
    names = sorted(set(families.values()))
    code_E = np.array([names.index(families[emotion]) for emotion in emotions])
    one_EC = (code_E[:, None] == np.arange(len(names))) / np.bincount(code_E)
    place_C = principal_components(similarity_EE @ one_EC, 1)[0][:, 0] @ one_EC
    order, spans = np.lexsort((np.arange(len(emotions)), code_E, place_C[code_E])), []
    start = 0
    for c in code_E[order][np.flatnonzero(np.diff(code_E[order], prepend=-1))]:
        stop = start + int((code_E == c).sum())
        spans.append((names[c], start, stop))
        start = stop
    return order, spans


def circumplex_figure(
    valence_E: np.ndarray,
    arousal_E: np.ndarray,
    emotions: Sequence[str],
    colour_E: np.ndarray,
    *,
    colour_label: str = "rated valence",
    title: str = "",
    words: int = 200,
) -> Figure:
    """Words at (valence, arousal), predicted ones for instance; colour_E: any number a word, their rated valence for
    instance. Words further out are named first; one whose name would cover another's stays a dot. NaN: left out."""
    shown = np.flatnonzero(np.isfinite(valence_E) & np.isfinite(arousal_E))
    x, y = valence_E[shown], arousal_E[shown]
    figure = _figure(13, 9.5)
    axes = figure.add_axes((0.06, 0.07, 0.82, 0.86))
    axes.axhline(float(np.mean(y)) if len(y) else 0, color=FAINT, lw=0.6, zorder=0)
    axes.axvline(float(np.mean(x)) if len(x) else 0, color=FAINT, lw=0.6, zorder=0)
    dots = axes.scatter(x, y, c=colour_E[shown], s=14, cmap="coolwarm_r", edgecolors=INK, linewidths=0.25, zorder=3)
    axes.set_xlabel("valence: unpleasant → pleasant", fontsize=11)
    axes.set_ylabel("arousal: calm → stirred", fontsize=11)
    axes.tick_params(labelsize=8, colors=FAINT)
    axes.margins(0.06, 0.04)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    pixels = axes.transData.transform(np.column_stack([x, y])) * POINTS / figure.dpi if len(x) else np.zeros((0, 2))
    spread = (x.std() if len(x) else 1) or 1.0, (y.std() if len(y) else 1) or 1.0
    far = np.hypot((x - x.mean()) / spread[0], (y - y.mean()) / spread[1]) if len(x) else x
    for i, dx, dy, align in place_labels(pixels, [emotions[int(e)] for e in shown], np.argsort(-far)[:words]):
        axes.annotate(
            emotions[int(shown[i])], (x[i], y[i]), (dx, dy), textcoords="offset points", fontsize=7.5, color=INK,
            ha=align, va="center",
        )  # fmt: skip
    bar = figure.colorbar(dots, cax=figure.add_axes((0.91, 0.3, 0.014, 0.4)))
    bar.set_label(colour_label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.text(0.02, 0.985, title, fontsize=13, color=INK, va="top")
    return figure


def place_labels(
    points_N2: np.ndarray, names: Sequence[str], order: Sequence[int] | np.ndarray, size: float = 7.5
) -> list[tuple[int, float, float, str]]:
    """Where names fit beside their dots, taken in turn: (item, dx, dy, alignment), in points; none cover another name
    or another dot's middle. A name that fits nowhere is left out."""
    taken = [(px - 2, py - 2, px + 2, py + 2) for px, py in points_N2]
    placed = []
    for i in order:
        px, py = points_N2[i]
        wide, high = 0.56 * size * len(names[i]), 1.05 * size
        for dx, dy, align in ((4, 0, "left"), (-4, 0, "right"), (0, 7, "center"), (0, -7, "center"), (4, 6, "left"),
                              (4, -6, "left"), (-4, 6, "right"), (-4, -6, "right")):  # fmt: skip
            left = px + dx - {"left": 0.0, "right": wide, "center": wide / 2}[align]
            box = (left, py + dy - high / 2, left + wide, py + dy + high / 2)
            if all(not _overlap(box, other) for j, other in enumerate(taken) if j != i):
                taken.append(box)
                placed.append((int(i), float(dx), float(dy), align))
                break
    return placed


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _figure(wide: float, high: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(wide, high), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    return figure
