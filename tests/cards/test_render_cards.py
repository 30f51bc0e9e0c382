"""Cards as HTML and Markdown: whole, escaped, self-contained, and true to the card."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saefeat.cards import CLAIM, nearest_directions, render_html, render_markdown
from saefeat.cards.html import OPAQUE, highlighted
from saefeat.cards.markdown import code
from saefeat.cards.plots import dose_curve, histogram, ticks_of
from saefeat.cards.style import auroc, evidence_sentence, file_names, number, percent, plain, visible, word

HOSTILE = "<script>alert('x')</script>\"&|`*[a](b)"


def card(**changes: Any) -> dict[str, Any]:
    label = {
        "emotion": "at ease", "readout": "story", "auroc": 0.91, "heldout_auroc": 0.874, "folds": 7,
        "mean_difference": 0.3, "q_value": 3e-6,
    }  # fmt: skip
    value = {
        "format": "card", "format_version": 1, "kind": "feature", "name": "L18.7", "sae": "L18", "feature": 7,
        "labels": [label], "density": 0.0123, "max_activation": 9.5, "decoder_norm": 1.0, "threshold": 0.43,
        "histogram": {"edges": [0.0, 1.0, 2.0, 3.0], "counts": [40, 10, 1]},
        "snippets": [
            {"tokens": ["The", " rent", "\n"], "values": [0.0, 9.5, 2.0], "emotion": "at ease", "topic": "t01"}
        ],
        "words_up": [{"token": " calm", "logit": 0.9}], "words_down": [{"token": "\n", "logit": -0.4}],
        "nearest": [{"feature": "L18.9", "cosine": 0.61, "emotion": None}],
        "provenance": {"atlas": "small", "model": "tiny", "hook_point": "model.layers.18", "sae": "L18"},
        "evidence": evidence_sentence([label], 171), "claim": CLAIM,
    }  # fmt: skip
    return value | changes


def causal(**changes: Any) -> dict[str, Any]:
    interval = {"value": 0.2, "low": -0.1, "high": 0.5}
    curve = [
        {"strength": s, "regime": "surgical" if s < 0.2 else "broken", "counts": s < 0.2, "value": 4 * s,
         "low": 4 * s - 1, "high": 4 * s + 1, "random": interval}
        for s in (-0.1, 0.0, 0.1, 0.2)
    ]  # fmt: skip
    response = {
        "reader": "judge", "independent": True, "unit": "log-odds", "slope": interval | {"value": 4.25}, "p": 0.0001,
        "random_slope": interval, "random_p": 0.4, "verdict": "rises", "curve": curve,
    }  # fmt: skip
    effect = {"strength": 0.1, "rise": 2.345, "rank": 1, "of": 171, "most": [{"emotion": "at ease", "rise": 2.345}],
              "ratio": 1.21, "distinct": 0.97, "regime": "surgical", "topic": 0.6}  # fmt: skip
    return {
        "emotion": "at ease", "texts": 12, "prompts": 12, "tokens": 40, "layer": 18, "effect": effect,
        "responses": [response], "words_up": [{"token": " calm", "logit": 0.9}], "words_down": [],
    } | changes  # fmt: skip


class Reader(HTMLParser):
    """Collects what a browser would: tags, attributes, text; notes tags left open."""

    VOID = ("meta",)

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_card_is_one_well_formed_file_that_loads_nothing() -> None:
    read = Reader(render_html(card(), {"L18.9": "L18.9.html"}))
    assert not read.open
    assert not {tag for tag, _ in read.tags} & {"script", "link", "img", "iframe", "object"}
    assert not any("src" in attributes for _, attributes in read.tags)
    assert [a["href"] for tag, a in read.tags if tag == "a"] == ["L18.9.html"]
    assert "url(" not in render_html(card())
    assert "@import" not in render_html(card())
    for said in ("L18.7", "at ease", "0.87", "0.91", "1.23 %", "␣calm", "⏎", CLAIM, "model.layers.18", "9.50"):
        assert said in read.text, said


def test_causal_evidence_is_told_and_drawn() -> None:
    page, text = render_html(card(causal=causal()), {"at ease": "at-ease.html"}), render_markdown(card(causal=causal()))
    read = Reader(page)
    assert not read.open
    for said in ("What turning it does", "rises by 2.35 sd", "rank 1 of 171", "4.25 (−0.10 to 0.50)", "judge"):
        assert said in read.text, said
        assert said in text, said
    assert len([tag for tag, _ in read.tags if tag == "circle"]) == 4
    assert "| 0.20 | broken | 0.80 (−0.20 to 1.80) | 0.20 (−0.10 to 0.50) |" in text
    none = causal(effect=None, responses=[])
    assert "nothing is said of its effect" in Reader(render_html(card(causal=none))).text
    assert "nothing is said of its effect" in render_markdown(card(causal=none))
    apart = causal(responses=[causal()["responses"][0] | {"independent": False}])
    assert "No independent judge covers it." in render_markdown(card(causal=apart))
    hostile = causal(emotion=HOSTILE, responses=[causal()["responses"][0] | {"reader": HOSTILE, "unit": HOSTILE}])
    assert "<script" not in render_html(card(causal=hostile))
    assert "What turning it does" not in render_html(card())


def test_a_curve_keeps_to_its_frame_and_marks_what_does_not_count() -> None:
    curve = causal()["responses"][0]["curve"]
    circles = [a for tag, a in Reader(dose_curve(curve, "sd")).tags if tag == "circle"]
    assert [float(str(a["cx"])) for a in circles] == pytest.approx([141, 230, 319, 408])
    heights = [float(str(a["cy"])) for a in circles]
    assert heights == sorted(heights, reverse=True)
    assert all(8 <= y <= 132 for y in heights)
    assert ["--paper" in str(a["style"]) for a in circles] == [False, False, False, True]
    assert dose_curve(curve[:1], "sd") == ""
    unknown = {"value": None, "low": None, "high": None}
    assert dose_curve([point | {"random": unknown} for point in curve], "sd").count("stroke-dasharray") == 0


def test_hostile_text_stays_text_wherever_it_comes_from() -> None:
    snippet = {"tokens": [HOSTILE, "\x00\u202e"], "values": [1.0, None], "emotion": HOSTILE, "topic": HOSTILE}
    label = {"emotion": HOSTILE, "readout": HOSTILE, "auroc": 0.9, "heldout_auroc": None, "mean_difference": None}
    hostile = card(
        name=HOSTILE, labels=[label], snippets=[snippet], words_up=[{"token": HOSTILE, "logit": 1.0}],
        evidence=HOSTILE, provenance={"atlas": HOSTILE, "model": HOSTILE, "hook_point": HOSTILE},
        nearest=[{"feature": HOSTILE, "cosine": 0.2, "emotion": HOSTILE}],
    )  # fmt: skip
    page = render_html(hostile, {HOSTILE: "x.html"})
    read = Reader(page)
    assert not read.open
    assert "script" not in {tag for tag, _ in read.tags}
    assert "<script" not in page
    assert "\x00" not in page
    text = render_markdown(hostile)
    assert not re.search(r"(?<![\\`])<script", re.sub(r"`+[^`].*?`+", "", text))


def test_highlight_is_as_opaque_as_the_value() -> None:
    spans = [a for tag, a in Reader(highlighted(["a", " b", "c", "d"], [4.0, 2.0, -1.0, 0.0])).tags if tag == "span"]
    shades = [float(re.search(r"/([\d.]+)\)", str(a["style"])).group(1)) for a in spans]  # type: ignore[union-attr]
    assert shades == pytest.approx([OPAQUE, OPAQUE / 2, OPAQUE / 4], abs=0.006)
    assert [a["title"] for a in spans] == ["4.00", "2.00", "−1.00"]
    assert "--up" in str(spans[0]["style"])
    assert "--down" in str(spans[2]["style"])


@given(st.lists(st.tuples(st.text(max_size=5), st.none() | st.floats(-1e9, 1e9)), max_size=12))
def test_highlighting_keeps_every_token(pairs: list[tuple[str, float | None]]) -> None:
    tokens, values = [t for t, _ in pairs], [v for _, v in pairs]
    assert Reader(highlighted(tokens, values)).text == "".join(map(visible, tokens))


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=30), st.floats(1e-3, 1e3))
def test_histogram_bars_keep_proportion_and_stay_inside(counts: list[int], width: float) -> None:
    edges = [i * width for i in range(len(counts) + 1)]
    bars = [a for tag, a in Reader(histogram({"edges": edges, "counts": counts})).tags if tag == "rect"]
    assert len(bars) == sum(1 for c in counts if c)
    for bar, count in zip(bars, [c for c in counts if c], strict=True):
        assert float(str(bar["height"])) == pytest.approx(124 * count / max(counts), abs=0.11)
        assert 52 <= float(str(bar["x"])) <= 408


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_rising_and_inside(low: float, span: float) -> None:
    ticks = ticks_of(low, low + span, 5)
    assert len(ticks) <= 7
    assert ticks == sorted(ticks)
    assert all(low - 1e-6 * span <= t <= low + span * (1 + 1e-6) for t in ticks)


def test_markdown_says_the_same() -> None:
    text = render_markdown(card(), {"L18.9": "L18.9.md"})
    for said in ("# L18.7: at ease", "| at ease | story | 0.87 | 0.91 | 3e-06 |", "The **rent**", "`␣calm` 0.90",
                 "[L18.9](L18.9.md)", "0.61", CLAIM):  # fmt: skip
        assert said in text, said


def test_a_feature_without_labels_snippets_or_histogram_still_has_a_card() -> None:
    empty = card(labels=[], snippets=[], histogram=None, density=None, nearest=[], evidence=evidence_sentence([], 171))
    assert not Reader(render_html(empty)).open
    assert "no label stands on evidence" in render_html(empty)
    assert "no label stands on evidence" in render_markdown(empty)


@given(st.text(max_size=20))
def test_inline_code_ends_where_it_should(value: str) -> None:
    made = code(value)
    fence = re.match("`+", made).group()  # type: ignore[union-attr]
    inside = made[len(fence) : -len(fence)]
    assert made.endswith(fence)
    assert len(fence) not in {len(run) for run in re.findall("`+", inside)}


def test_sentences_say_where_the_figure_comes_from() -> None:
    label = {"emotion": "sad", "auroc": 0.9, "heldout_auroc": 0.8, "folds": 5}
    assert "80 %" in evidence_sentence([label], 5)
    assert "on 5 topics, each left out" in evidence_sentence([label], 5)
    optimistic = evidence_sentence([label | {"heldout_auroc": float("nan")}], 5)
    assert "90 %" in optimistic
    assert "optimistic" in optimistic


def test_numbers_read_well() -> None:
    assert [number(v) for v in (None, float("nan"), 0, 0.0, 1234, 12.345, -0.5, 0.00001)] == [
        "–", "–", "0", "0", "1,234", "12.3", "−0.500", "1.00e-05",
    ]  # fmt: skip
    assert [percent(v) for v in (0.5, 0.00005, None)] == ["50.0 %", "1 in 20,000", "–"]
    assert [auroc(v) for v in (1.0, 0.9999, 0.5, None)] == ["1.00", "0.999", "0.50", "–"]
    assert word("  a") == "␣␣a"
    assert visible("a\tb") == "a⇥b"


@given(st.lists(st.text(max_size=300), max_size=30))
def test_file_names_are_safe_and_different(names: list[str]) -> None:
    files = file_names(names)
    assert set(files) == set(names)
    stems = [stem.casefold() for stem in files.values()]
    assert len(set(stems)) == len(stems)
    assert "index" not in stems
    for stem in files.values():
        assert stem
        assert len(stem.encode()) < 200
        assert not re.search(r'[\s/\\:*?"<>|\x00-\x1f]', stem)
        assert not stem.startswith((".", "-"))


@given(st.floats(-1e300, 1e300))
def test_a_number_keeps_three_digits(value: float) -> None:
    read = float(number(value).replace("−", "-").replace(",", ""))
    assert read == pytest.approx(value, rel=0.00501, abs=1e-300)


def test_file_names_people_expect() -> None:
    names = file_names(["at ease", "L18.7", "Müde", "悲しい", "At-Ease", "index", "../x"])
    assert [names[n] for n in ("at ease", "L18.7", "Müde", "悲しい", "../x")] == [
        "at-ease", "L18.7", "Müde", "悲しい", "x",
    ]  # fmt: skip
    assert names["At-Ease"].startswith("At-Ease-")
    assert names["index"].startswith("index-")


def test_plain_is_what_json_holds() -> None:
    value = plain({"a": torch.tensor([1.0, float("nan")]), "b": (1, float("inf")), 3: "x"})
    assert json.loads(json.dumps(value, allow_nan=False)) == {"a": [1.0, None], "b": [1, None], "3": "x"}


# ---------------------------------------------------------------- directions
def test_nearest_directions_equal_the_slow_twin() -> None:
    W_FD = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))
    W_FD[5] = 0  # a dead direction is near to nothing
    W_FD[6] = 3 * W_FD[4]
    for feature, near in zip((4, 11), nearest_directions(W_FD, [4, 11], top=3), strict=True):
        cosines = {g: float(torch.cosine_similarity(W_FD[feature], W_FD[g], dim=0)) for g in range(40) if g != feature}
        cosines.pop(5)
        slow = sorted(cosines.items(), key=lambda item: -item[1])[:3]
        assert [g for g, _ in near] == [g for g, _ in slow]
        assert [c for _, c in near] == pytest.approx([c for _, c in slow], abs=1e-6)
    assert nearest_directions(W_FD, [4], top=1)[0][0] == (6, pytest.approx(1.0))
