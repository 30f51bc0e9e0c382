"""Specificity: turn one emotion, read all, from the texts of a dose–response study.

Each emotion is taken at its strongest surgical strength, controls at the one that most emotions have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saefeat.causal.dose import Arm
from saefeat.causal.dose_figures import matrix_figure
from saefeat.causal.dose_read import Judged, Reader, Topic
from saefeat.causal.dose_response import Effect, Texts, effect, own_on_top, shuffled_on_top
from saefeat.causal.tables import cell, row, section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MATRIX = "effects.png"


def strongest_effects(texts: Texts, reader: Reader, topic: Topic) -> list[Effect]:
    """Arms at their strongest surgical strength; controls at the one that most emotions have."""
    turned = {arm: texts.strongest(arm) for arm in texts.of("emotion", "feature")}
    found = [s for s in turned.values() if s is not None]
    usual = max(sorted(set(found)), key=found.count) if found else None
    used = {**turned, **{arm: usual for arm in texts.of("random", "matched")}}
    return [effect(texts, reader, arm, s, topic) for arm, s in used.items() if s is not None]


def specificity(
    texts: Texts,
    reader: Reader,
    effects: Sequence[Effect],
    families: Mapping[str, str],
    judged: Judged | None,
    seed: int,
) -> tuple[list[dict[str, Any]], Figure]:
    """The section on whose reading rises most in each row, and the matrix."""
    own = [e for e in effects if e.arm.kind == "emotion"]
    controls = [e for e in effects if e.arm.kind in ("random", "matched")]
    asked = len(texts.of("emotion"))
    shift_AE = np.array([e.shift_E for e in own]).reshape(-1, len(reader.emotions))
    family_E = [families.get(name, name) for name in reader.emotions]
    own_AE = np.array([[family == families.get(e.arm.name, e.arm.name) for family in family_E] for e in own], bool)
    rows, hits = [], np.zeros(0, bool)
    if own:
        hits = own_on_top(shift_AE, own_AE)
        rows = [_top_row("atlas: own family on top", shift_AE, own_AE, asked, seed, own=True)]
        rows.append(_top_row("atlas, less the mean row", shift_AE - shift_AE.mean(0), own_AE, asked, seed))
    shown = [(e, e.arm.name) for e in own]
    columns_AA = [reader.emotions.index(name) for _, name in shown]
    panels = []
    for judge, read in zip(judged.judges, judged.classes, strict=True) if judged is not None else ():
        shift_AC = np.array([_class_shift(texts, read, e) for e in [*own, *controls]]).reshape(-1, len(judge.classes))
        covered = [a for a, e in enumerate(own) if judge.own(e.arm.name)]
        if covered:
            own_AC = np.array([[c in judge.own(own[a].arm.name) for c in range(len(judge.classes))] for a in covered])
            title = f"judge {judge.name}: own class on top"
            rows.append(_top_row(title, shift_AC[covered], own_AC, len(covered), seed))
        panels.append((judge.name.removesuffix(".jsonl"), judge.classes, shift_AC))
    about = (
        "Each emotion is turned up to its strongest surgical strength and all are read: is the emotion that rises most "
        f"(of {len(reader.emotions)}) of its own family, the judge's class its own? Chance: rows given each other's "
        "families. Less the mean row: what any emotion does is taken off first (a statistic of the other rows)."
    )
    columns = {"on top": "percent", "rows": "number", "chance": "percent", "p": "number"}
    notes = [f"{asked - len(own)} of {asked} emotions have no positive surgical strength and count as not on top."]
    told = section("specificity", "Specificity: turn one, read all", about, columns, rows, notes=notes, figure=MATRIX)
    values_AE = np.array([e.shift_E[columns_AA] for e in [*own, *controls]]).reshape(-1, len(columns_AA))
    names = [f"{e.arm.name} {signed(e.strength)}" for e in [*own, *controls]]
    return [told], matrix_figure(names, values_AE, panels, hits.tolist(), len(controls))


def _top_row(name: str, shift_AX: np.ndarray, own_AX: np.ndarray, asked: int, seed: int, own: bool = False) -> Any:
    """Rows that have no surgical strength are not among shift_AX but among those asked for."""
    hits, chance_R = int(own_on_top(shift_AX, own_AX).sum()), shuffled_on_top(shift_AX, own_AX, seed)
    p = (1 + int((chance_R >= hits / len(shift_AX) - 1e-9).sum())) / (1 + len(chance_R))
    return row(name, [hits / asked, f"{hits} of {asked}", float(chance_R.mean()), cell(p)], own=own)


def _class_shift(texts: Texts, read: Mapping[Any, np.ndarray], one: Effect) -> np.ndarray:
    difference_NC = read[texts.key(one.arm, one.strength)] - read[texts.key(one.arm, 0.0)]
    known_N = ~np.isnan(difference_NC).any(1)
    return difference_NC[known_N].mean(0) if known_N.any() else np.full(difference_NC.shape[1], np.nan)


def effect_rows(
    effects: Sequence[Effect], reader: Reader, families: Mapping[str, str], topic: Topic | None
) -> dict[str, Any]:
    rows = []
    for e in (e for e in effects if e.arm.own is not None):
        assert e.arm.own is not None
        top = reader.emotions[int(np.nan_to_num(e.shift_E, nan=-np.inf).argmax())]
        same = families.get(top, top) == families.get(e.arm.own, e.arm.own)
        own = float(e.shift_E[reader.emotions.index(e.arm.own)])
        rows.append(
            row(named(e.arm), [signed(e.strength), cell(own), e.rank, top, same, cell(e.ratio), cell(e.distinct),
                                cell(e.topic)], own=same)
        )  # fmt: skip
    about = (
        "At the strongest surgical strength: by how much the atlas's reading of the own emotion rises (sd of stories), "
        f"its rank among the {len(reader.emotions)} by how much they rise, the one that rises most and whether it is "
        "of the own family; beside it perplexity and distinct 3-grams over those of the unsteered texts, and the "
        "topic: mean cosine of sentence embeddings with the unsteered text of the same prompt and sample."
    )
    columns = dict.fromkeys(["strength", "own rises", "rank", "rises most", "own family", "perplexity ×", "3-grams ×",
                             "topic"], "number")  # fmt: skip
    notes = [] if topic is None else [f"Topic of unsteered texts of different prompts: {topic.elsewhere:.2f}."]
    return section("effects", "What each one does", about, columns, rows, notes=notes)


def control_rows(effects: Sequence[Effect], reader: Reader, topic: Topic | None) -> dict[str, Any]:
    """Controls, and the emotions' median beside them."""
    rows = []
    for e in (e for e in effects if e.arm.own is None):
        rows.append(row(named(e.arm), [signed(e.strength), *_moved(e), cell(e.ratio), cell(e.distinct),
                                        cell(e.topic), _most(e, reader)], null=True))  # fmt: skip
    own = [e for e in effects if e.arm.kind == "emotion"]
    if own:
        parts = np.array([[*_moved(e), e.ratio, e.distinct, e.topic] for e in own], float)
        rows.append(row("emotions, median", [None, *(cell(median(part)) for part in parts.T), None], own=True))
    about = (
        "Random directions of the same norm, and features of the SAE that fire about as often as emotions' best ones: "
        "how far they move the readings of all emotions (largest rise; mean absolute change), fluency and topic."
    )
    columns = dict.fromkeys(["strength", "largest rise", "mean change", "perplexity ×", "3-grams ×", "topic",
                             "rises most"], "number")  # fmt: skip
    return section("controls", "Controls", about, columns, rows)


def _moved(e: Effect) -> tuple[float, float]:
    known_E = e.shift_E[np.isfinite(e.shift_E)]
    return (float(known_E.max()), float(np.abs(known_E).mean())) if len(known_E) else (math.nan, math.nan)


def _most(e: Effect, reader: Reader) -> str | None:
    return reader.emotions[int(np.nanargmax(e.shift_E))] if np.isfinite(e.shift_E).any() else None


# ---------------------------------------------------------------- parts
def named(arm: Arm) -> str:
    if arm.kind == "feature":
        return f"{arm.name} ({arm.own})"
    return f"{arm.name} (density of {arm.like})" if arm.kind == "matched" else arm.name


def signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−") if value else "0"


def median(values: Sequence[float] | np.ndarray) -> float:
    known = [v for v in values if math.isfinite(v)]
    return float(np.median(known)) if known else math.nan
