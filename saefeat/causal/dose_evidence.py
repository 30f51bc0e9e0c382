"""What a dose–response study says of each emotion and feature, as one file that cards are made with.

causal.json: {"format": "causal", "format_version": 1, "atlas", "model": {…}, "layer", "texts", "tokens",
"emotions": {name: evidence}, "features": {name: evidence}}. Evidence: {"emotion", "effect": {"strength", "rise",
"rank", "of", "most": [{"emotion", "rise"}], "ratio", "distinct", "regime", "topic"} or None, "words_up", "words_down":
[{"token", "logit"}], "responses": [{"reader", "independent", "unit", "slope", "p", "random_slope", "verdict",
"curve": [{"strength", "regime", "value", "low", "high", "random"}]}]}.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from saefeat.atlas import Atlas
from saefeat.causal.dose import Arm, DoseDesign, direction_of
from saefeat.causal.dose_read import Reader
from saefeat.causal.dose_report import DoseReport
from saefeat.causal.dose_response import Effect, Response, Texts
from saefeat.causal.effects import promoted_words
from saefeat.causal.proportions import Interval

FORMAT, VERSION = "causal", 1
MOST = 5
WORDS = 10


def evidence(
    atlas: Atlas, design: DoseDesign, texts: Texts, readers: Sequence[Reader], report: DoseReport
) -> dict[str, Any]:
    """The file's content. readers: the atlas that steered first; all those whose responses the report holds."""
    found: dict[str, dict[str, Any]] = {"emotions": {}, "features": {}}
    layer = None
    for arm in texts.of("emotion", "feature"):
        direction = direction_of(atlas, arm)
        assert direction is not None
        layer = direction.layer
        words = promoted_words(atlas, direction, top=WORDS)
        own = [(reader, r) for reader in readers for r in report.responses.get(reader.name, ()) if r.arm == arm]
        effect = next((e for e in report.effects if e.arm == arm), None)
        found[f"{arm.kind}s"][arm.name] = {
            "emotion": arm.own,
            "effect": None if effect is None else _effect(effect, readers),
            **{f"words_{way}": [{"token": t, "logit": v} for t, v in words[way]] for way in ("up", "down")},
            "responses": [_response(texts, arm, reader, r) for reader, r in own],
        }
    model = {key: atlas.manifest["subject"][key] for key in ("architecture", "tokenizer", "weights")}
    count = len(design.prompts) * design.samples
    head = {"format": FORMAT, "format_version": VERSION, "atlas": atlas.name, "model": model, "layer": layer}
    return head | {"texts": count, "prompts": len(design.prompts), "tokens": design.tokens, **found}


def _effect(effect: Effect, readers: Sequence[Reader]) -> dict[str, Any]:
    reader = readers[0]
    order = np.argsort(-np.nan_to_num(effect.shift_E, nan=-np.inf), kind="stable")[:MOST]
    assert effect.arm.own is not None
    own = effect.shift_E[reader.emotions.index(effect.arm.own)]
    return {
        "strength": effect.strength, "rise": _number(own), "rank": effect.rank, "of": len(reader.emotions),
        "most": [{"emotion": reader.emotions[e], "rise": _number(effect.shift_E[e])} for e in order],
        "ratio": _number(effect.ratio), "distinct": _number(effect.distinct), "regime": effect.regime,
        "topic": _number(effect.topic),
    }  # fmt: skip


def _response(texts: Texts, arm: Arm, reader: Reader, r: Response) -> dict[str, Any]:
    curve = []
    for s, (own, random) in enumerate(zip(r.curve, r.random, strict=True)):
        strength = float(r.strengths[s])
        point = {"strength": strength, "regime": texts.regime(arm, strength), "counts": bool(r.within_S[s])}
        curve.append(point | _interval(own) | {"random": _interval(random)})
    return {
        "reader": reader.name, "independent": reader.independent, "unit": reader.unit, "slope": _interval(r.slope),
        "p": _number(r.p), "random_slope": _interval(r.random_slope), "random_p": _number(r.random_p),
        "verdict": r.verdict, "curve": curve,
    }  # fmt: skip


def _interval(value: Interval) -> dict[str, float | None]:
    return {"value": _number(value.value), "low": _number(value.low), "high": _number(value.high)}


def _number(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None
