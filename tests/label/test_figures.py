"""Figures: everything asked for is drawn, names keep clear of each other, and there is no global state."""

import io
import sys

import numpy as np
import pytest

from saefeat.label.figures import circumplex_figure, family_order, place_labels, similarity_figure
from saefeat.label.geometry import cosines

NAMES = [f"emotion {e}" for e in range(9)]
FAMILIES = {name: NAMES[3 * (e % 3) if e < 8 else 8] for e, name in enumerate(NAMES)}


def drawn(figure: object) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)  # type: ignore[attr-defined]
    return buffer.getvalue()


def test_emotions_are_ordered_by_family_each_once() -> None:
    similarity_EE = cosines(np.random.default_rng(0).normal(size=(9, 4)))
    order, spans = family_order(similarity_EE, NAMES, FAMILIES)
    assert sorted(order.tolist()) == list(range(9))
    assert [start for _, start, _ in spans] == [0, *(stop for _, _, stop in spans[:-1])]
    for family, start, stop in spans:
        assert {FAMILIES[NAMES[e]] for e in order[start:stop]} == {family}
    assert sum(stop - start for _, start, stop in spans) == 9


def test_the_heat_map_names_every_family() -> None:
    figure = similarity_figure(cosines(np.random.default_rng(0).normal(size=(9, 4))), NAMES, FAMILIES, "Likeness")
    shown = {label.get_text() for label in figure.axes[0].get_yticklabels()}
    assert shown == set(FAMILIES.values())
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array().shape, (9, 9))
    assert drawn(figure).startswith(b"\x89PNG")


def test_the_circumplex_leaves_out_what_is_unknown_and_names_the_rest() -> None:
    rng = np.random.default_rng(0)
    valence_E, arousal_E = rng.random(9), rng.random(9)
    valence_E[4] = np.nan
    figure = circumplex_figure(valence_E, arousal_E, NAMES, valence_E)
    axes = figure.axes[0]
    assert len(axes.collections[0].get_offsets()) == 8
    named = {text.get_text() for text in axes.texts}
    assert named <= set(NAMES) - {NAMES[4]}
    assert len(named) >= 7
    assert drawn(figure).startswith(b"\x89PNG")
    assert drawn(circumplex_figure(valence_E * np.nan, arousal_E, NAMES, valence_E)).startswith(b"\x89PNG")


@pytest.mark.parametrize("seed", range(5))
def test_names_cover_neither_names_nor_dots(seed: int) -> None:
    points_N2 = np.random.default_rng(seed).random((60, 2)) * 200
    names = ["word" + "x" * (i % 9) for i in range(60)]
    placed = place_labels(points_N2, names, range(60), size=8)
    boxes = []
    for i, dx, dy, align in placed:
        wide = 0.56 * 8 * len(names[i])
        left = points_N2[i, 0] + dx - {"left": 0, "right": wide, "center": wide / 2}[align]
        boxes.append((i, left, points_N2[i, 1] + dy - 4.2, left + wide, points_N2[i, 1] + dy + 4.2))
    assert 20 < len(boxes) < 60
    for a, (i, left, low, right, high) in enumerate(boxes):
        for _, left_b, low_b, right_b, high_b in boxes[:a]:
            assert right <= left_b or right_b <= left or high <= low_b or high_b <= low
        others = np.delete(points_N2, i, axis=0)
        assert not ((others > [left, low]) & (others < [right, high])).all(1).any()


def test_drawing_needs_no_pyplot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would fail
    assert drawn(similarity_figure(np.eye(9), NAMES, FAMILIES)).startswith(b"\x89PNG")
