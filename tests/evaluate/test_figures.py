"""Figures of the evaluation: everything measured is drawn, nothing lies outside or over another, no global state."""

import io
import subprocess
import sys
from itertools import combinations

import matplotlib.text
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from saefeat.evaluate.drawing import spaced
from saefeat.evaluate.figures import (
    bars_figure,
    length_figure,
    lines_by_k_figure,
    models_figure,
    reliability_figure,
    share_by_bin,
)

KS = (1, 2, 4, 8, None)
CURVES = {
    "SAE features": [0.72, 0.8, 0.9, 0.93, 0.94],
    "dense stream, same layer": [0.6, 0.7, 0.8, 0.9, 0.942],
    "MiniLM sentence embeddings": [0.58, 0.7, 0.8, 0.9, 0.941],
    "random directions with a name that is far too long for a single line": [0.5, 0.6, 0.62, 0.7, 0.8],
    "SAE features, shuffled labels": [0.5, np.nan, 0.5, 0.51, None],
    "never measured $x_1$": [None] * 5,
}
SETS = ["XED, English, of a very long name that takes two lines", "GoEmotions", "ISEAR"]
BARS = {"SAE features": [0.81, 0.9, 0.7], "embeddings": [0.85, None, 0.72], "shuffled $labels$": [0.5, 0.49, -0.1]}
MODELS = ["smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-1.5b-instruct"]
METRICS = {"top-1": [0.9, 0.91, 0.97], "AUROC": [0.9, None, 0.95], "stand out": [812, 1033, 2940], "flat": [1, 1, 1]}
NORMAL = np.random.default_rng(0).normal


def reliability() -> Figure:
    emotional = {"narratives": NORMAL(6, 1, 200), "dialogues of a rather long name": NORMAL(5, 1, 100)}
    return reliability_figure(emotional, {"narratives": NORMAL(3, 1, 90), "short texts": NORMAL(3, 1, 80)}, level=4.0)


def lines() -> Figure:
    values = CURVES["SAE features"]
    band = {"SAE features": ([v - 0.02 for v in values], [v + 0.02 for v in values])}
    return lines_by_k_figure(KS, CURVES, band, "AUROC", own=["SAE features"],
                             nulls=["SAE features, shuffled labels"], chance=0.5)  # fmt: skip


def bars() -> Figure:
    band = {"SAE features": ([0.79, 0.88, 0.66], [0.83, 0.92, 0.74])}
    return bars_figure(SETS, BARS, intervals=band, own=["SAE features"], nulls=["shuffled $labels$"], chance=0.5)


FIGURES = {
    "reliability": reliability,
    "lines": lines,
    "bars": bars,
    "length": lambda: length_figure(["1–4", "5–8", "9+"], {"a": [2.1, 1.2, 1], "b": [3, 2, 1]}, texts=[9, 20, 1400]),
    "models": lambda: models_figure(MODELS, METRICS, percent=["top-1"]),
}


def texts(figure: Figure) -> list[matplotlib.text.Text]:
    """Texts that are drawn: without the labels of ticks beyond the ends of their axis."""
    figure.canvas.draw()
    beyond = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, top = sorted(axis.get_view_interval())
        beyond |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= top}
    found = figure.findobj(matplotlib.text.Text)
    return [t for t in found if t.get_visible() and t.get_text().strip() and t not in beyond]


def words(figure: Figure) -> list[str]:
    return [" ".join(t.get_text().split()) for t in texts(figure)]


# ---------------------------------------------------------------- all of them
@pytest.mark.parametrize("name", FIGURES)
def test_no_text_lies_outside_the_canvas_or_over_another(name: str) -> None:
    figure = FIGURES[name]()
    boxes = [(t.get_text(), matplotlib.text.Text.get_window_extent(t)) for t in texts(figure)]
    assert len(boxes) > 5
    for text, box in boxes:
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert inside, f"{text!r} at {box} in {figure.bbox}"
    for (one, a), (two, b) in combinations(boxes, 2):
        over = min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
        assert not over, f"{one!r} and {two!r}"


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_900_pixels_wide_and_the_same_every_time(name: str) -> None:
    def png(figure: Figure) -> bytes:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    if name != "reliability":  # its sample is drawn anew
        assert png(FIGURES[name]()) == png(FIGURES[name]())
    assert 895 <= FIGURES[name]().bbox.width <= 905


def test_figures_leave_pyplot_alone() -> None:
    code = (
        "import sys; from saefeat.evaluate.figures import bars_figure\n"
        "assert 'matplotlib' not in sys.modules\n"
        "bars_figure(['a'], {'b': [1.0]})\nprint('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "empty",
    [
        lambda: reliability_figure({}, {}),
        lambda: reliability_figure({"a": np.array([])}, {"a": np.array([np.nan])}),
        lambda: lines_by_k_figure([], {}),
        lambda: lines_by_k_figure([1], {"a": [None]}),
        lambda: bars_figure([], {}),
        lambda: bars_figure(["a"], {"b": [None]}),
        lambda: length_figure([], {}),
        lambda: models_figure([], {}),
        lambda: models_figure(["m"], {"x": [None]}),
    ],
)
def test_nothing_measured_still_draws(empty: object) -> None:
    empty().canvas.draw()  # type: ignore[operator]


# ---------------------------------------------------------------- each of them
def test_curves_pass_through_their_values_and_are_named_at_their_ends() -> None:
    figure = lines()
    (axes,) = figure.axes
    drawn = {line.get_label(): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    assert list(drawn) == list(CURVES)
    for name, values in CURVES.items():
        known = [(i, v) for i, v in enumerate(values) if v is not None and np.isfinite(v)]
        assert np.column_stack(drawn[name].get_data()).tolist() == [list(map(float, pair)) for pair in known]
    shown = words(figure)
    assert "SAE features 0.940" in shown
    assert "dense stream, same layer 0.942" in shown
    assert "SAE features, shuffled labels 0.510" in shown  # its last known value
    assert not any("never measured" in word for word in shown)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "4", "8", "all"]


def test_a_curve_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 values for 3 places"):
        lines_by_k_figure([1, 2, 3], {"a": [0.1, 0.2]})


def test_bars_are_as_long_as_their_values() -> None:
    figure = bars()
    (axes,) = figure.axes
    lengths = {c.get_label(): [round(b.get_width(), 6) for b in c] for c in axes.containers}
    assert lengths == {"SAE features": [0.81, 0.9, 0.7], "embeddings": [0.85, 0.72],
                       "shuffled $labels$": [0.5, 0.49, -0.1]}  # fmt: skip
    for wanted in ("0.810", "0.720", "−0.100", "not measured", "shuffled $labels$"):
        assert words(figure).count(wanted) >= 1, wanted
    low, top = axes.get_ylim()
    assert all(top < bar.get_y() < low for c in axes.containers for bar in c)


def test_many_bars_keep_their_values_apart() -> None:
    values = {f"representation {i}": [0.5 + 0.01 * i] * 6 for i in range(9)}
    figure = bars_figure([f"set {g}" for g in range(6)], values, percent=True)
    assert sum(len(c) for c in figure.axes[0].containers) == 54
    boxes = [matplotlib.text.Text.get_window_extent(t) for t in texts(figure) if t.get_text().endswith(".0 %")]
    assert len(boxes) == 54
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_each_metric_has_a_panel_with_every_models_value() -> None:
    figure = FIGURES["models"]()
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(METRICS)
    shown = words(figure)
    for wanted in ("90.0 %", "97.0 %", "0.950", "not measured", "1,033", "2,940"):
        assert wanted in shown, wanted
    assert shown.count(MODELS[0]) == 2  # once in each row of panels
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_xdata(), [0.9, np.nan, 0.95])


def test_spread_is_drawn_with_counts() -> None:
    figure = FIGURES["length"]()
    assert "9+ (1,400)" in words(figure)
    assert figure.axes[0].lines[0].get_ydata().tolist() == [2.1, 1.2, 1.0]


def test_reliability_names_every_group_with_its_count() -> None:
    figure = reliability()
    shown = words(figure)
    for wanted in ("narratives, emotional (200)", "narratives, flat (90)", "short texts, flat (80)"):
        assert wanted in shown, wanted
    left, right = figure.axes
    assert len(left.lines[0].get_xdata()) == 10
    assert len([line for line in right.lines if line.get_marker() == "o"]) == 4


# ---------------------------------------------------------------- shares and places
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=60), st.integers(1, 6))
def test_shares_by_bin_as_the_slow_twin_counts_them(rows: list[tuple[int, bool]], bins: int) -> None:
    score_N = np.array([float(s) for s, _ in rows] + [np.nan])
    true_N = np.array([t for _, t in rows] + [True])
    middle_B, share_B, low_B, high_B, count_B = share_by_bin(score_N, true_N, bins)
    assert count_B.sum() == len(rows)
    assert np.all(np.diff(middle_B) > 0)
    assert np.all((low_B >= -1e-12) & (low_B <= share_B) & (share_B <= high_B) & (high_B <= 1 + 1e-12))
    rest = sorted(rows)
    for middle, share, count in zip(middle_B, share_B, count_B, strict=True):  # bins are runs of the sorted scores
        members, rest = rest[:count], rest[count:]
        assert middle == np.median([s for s, _ in members])
        assert share == pytest.approx(sum(t for _, t in members) / count)
        assert not rest or members[-1][0] < rest[0][0]  # equal scores stay together


def test_the_interval_is_wilsons_and_covers() -> None:
    _, share, low, high, _ = share_by_bin(np.zeros(10), np.arange(10) < 8, 4)
    assert share == pytest.approx([0.8])
    assert (low[0], high[0]) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)  # Wilson's for 8 of 10
    generator = np.random.default_rng(1)
    score_N, p = np.repeat([1.0, 2.0], 150), np.repeat([0.2, 0.7], 150)
    held = []
    for _ in range(300):
        _, _, low, high, _ = share_by_bin(score_N, generator.random(300) < p, 2)
        held += [low[0] <= 0.2 <= high[0], low[1] <= 0.7 <= high[1]]
    assert 0.92 < np.mean(held) < 0.98


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(1, 9)), min_size=1, max_size=10))
def test_places_keep_apart_in_order_and_inside(boxes: list[tuple[float, float]]) -> None:
    middle_n, high_n = np.array(boxes).T
    place_n = spaced(middle_n, high_n, 0.0, 100.0)
    order = np.argsort(middle_n, kind="stable")
    gaps = np.diff(place_n[order]) - (high_n[order][1:] + high_n[order][:-1]) / 2
    assert np.all(gaps > -1e-6)
    assert np.all(place_n - high_n / 2 > -1e-6)
    assert np.all(place_n + high_n / 2 < 100 + 1e-6)


def test_boxes_with_room_stay_where_they_were() -> None:
    assert spaced(np.array([50.0, 10, 30]), np.array([5.0, 5, 5]), 0, 100).tolist() == [50, 10, 30]
    assert spaced(np.array([50.0, 50]), np.array([4.0, 4]), 0, 100).tolist() == [48, 52]
