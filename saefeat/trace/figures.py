"""A conversation as a picture: a panel a speaker, a line an emotion, over the turns.

Figures are matplotlib `Figure` objects on the Agg canvas, without pyplot and its global state. Colours are Okabe and
Ito's; every line has a marker of its own too, so that none is told by its colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from saefeat.trace.layout import ASSISTANT
from saefeat.trace.trace import Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#222222", "#767676", "#e3e3e3"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F")
MARKERS = "osD^vPX"
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))
WIDE, PANEL = 8.2, 2.3  # inches
SIZE, SMALL = 9.5, 8.0
LINES = len(COLOURS) * len(DASHES)
"""Emotions that can be told apart."""
SPARSE = 40
"""Up to so many turns each has a marker."""


def conversation_figure(trace: Trace, emotions: Sequence[str], *, title: str = "") -> Figure:
    """Scores of `emotions` (at most LINES, of those in the trace) over the turns, each speaker in a panel of its own.

    In the assistant's panel open marks on dotted lines stand where it was about to speak.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not 1 <= len(emotions) <= LINES:
        raise ValueError(f"{len(emotions)} emotions, 1 to {LINES} were expected")
    starts = any(turn.reply_start is not None for turn in trace.turns)
    roles = list(dict.fromkeys(turn.role for turn in trace.turns))
    if starts and ASSISTANT not in roles:
        roles.append(ASSISTANT)
    rows = 1 + (len(emotions) - 1) // 5
    high = 1.35 + 0.2 * rows + PANEL * len(roles)
    figure = Figure(figsize=(WIDE, high), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(roles), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    figure.subplots_adjust(left=0.08, right=0.985, bottom=0.6 / high, top=1 - (0.62 + 0.2 * rows) / high, hspace=0.22)
    marker = len(trace.turns) <= SPARSE
    handles: list[Any] = []
    for role, axes in zip(roles, panels, strict=True):
        places = [turn.index for turn in trace.turns if turn.role == role and turn.profile is not None]
        for i, emotion in enumerate(emotions):
            look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            score = trace.scores(emotion)
            (line,) = axes.plot(
                [p + 1 for p in places], [score[p] for p in places], lw=1.6, ls=DASHES[i // len(COLOURS)],
                ms=5 if marker else 2, label=emotion, **look,
            )  # fmt: skip
            if role == roles[0]:
                handles.append(line)
            if role == ASSISTANT and starts:
                score = trace.scores(emotion, reply_starts=True)
                known = [p for p, value in enumerate(score) if value is not None]
                axes.plot(
                    [p + 1.5 for p in known], [score[p] for p in known], lw=0.9, ls=":", ms=4.5 if marker else 2,
                    mfc="white", **look,
                )  # fmt: skip
        lower = " (one token: scores lie lower)" if trace.reply_readout == trace.readout else ""
        more = f"; open marks: about to speak{lower}" if role == ASSISTANT and starts else ""
        axes.set_title(f"{role}{more}", loc="left", fontsize=SIZE, color=INK)
        axes.axhline(0, color=FAINT, lw=0.8)
        axes.grid(color=GRID, lw=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelsize=SMALL)
        axes.set_ylabel("score (sd)", fontsize=SMALL, color=INK)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(FAINT)
    open_end = trace.turns[-1].reply_start is not None
    panels[-1].set_xlim(0.5, len(trace.turns) + (0.8 if open_end else 0.5))
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=20, min_n_ticks=1))
    panels[-1].set_xlabel(
        "turn of the conversation; 0: the mean over texts of other emotions, 1: their standard deviation",
        fontsize=SMALL, color=INK,
    )  # fmt: skip
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.07, 1 - 0.36 / high), ncols=5, frameon=False,
        fontsize=SMALL, borderaxespad=0, handlelength=2.6,
    )  # fmt: skip
    figure.text(0.08, 1 - 0.26 / high, title or "Emotions over a conversation", fontsize=SIZE + 1.5, color=INK,
                parse_math=False)  # fmt: skip
    return figure
