"""One prompt with and without interventions, and with a control: what `steer` shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from saefeat.atlas import STATEMENT, Atlas
from saefeat.causal.directions import matched_feature, random_direction
from saefeat.causal.fluency import Fluency, fluency, regime
from saefeat.causal.generate import Generated, Prompt, generate
from saefeat.causal.interventions import Intervention

DIGITS = 4


def control_for(atlas: Atlas, intervention: Intervention, seed: int) -> Intervention:
    """The same with a random direction of the same norm; for what needs an activation, a feature of like density."""
    direction = intervention.direction
    drawn = direction.sae is not None and intervention.action != "add"
    other = matched_feature(atlas, direction, seed) if drawn else random_direction(direction, seed)
    return replace(intervention, direction=other)


def compare(
    atlas: Atlas,
    prompt: Prompt,
    interventions: Sequence[Intervention],
    *,
    tokens: int = 60,
    samples: int = 1,
    temperature: float = 0.7,
    seed: int = 0,
    control: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Continuations of one prompt: unsteered, steered, and steered by a control of the same norm, drawn alike.

    `{"prompt", "model", "interventions": [{"action", "of", "layer", "strength", "positions"}], "tokens", "samples",
    "temperature", "seed", "unsteered": {"texts", "perplexity", "distinct", "tie"}, "steered": {…, "ratio", "regime"},
    "control": {…, "of"} or None, "statement"}`. Figures: see `Fluency`, under the unsteered model; ratio: perplexity
    over the unsteered one's; regime: see `regime`. None where nothing was generated.
    """
    subject = atlas.subject()
    controls = [control_for(atlas, one, seed + number) for number, one in enumerate(interventions)] if control else []
    runs = {"unsteered": [], "steered": list(interventions)} | ({"control": controls} if control else {})
    made: dict[str, tuple[Generated, Fluency]] = {}
    for number, (name, own) in enumerate(runs.items(), 1):
        made_now = generate(
            subject, prompt if isinstance(prompt, str) else [prompt], interventions=own, tokens=tokens,
            samples=samples, temperature=temperature, seed=seed,
        )  # fmt: skip
        made[name] = made_now, fluency(subject, made_now.prompts, made_now.ids)
        if on_progress:
            on_progress(number, len(runs))
    plain = made["unsteered"][1]
    shown: dict[str, Any] = {"unsteered": _side(*made["unsteered"])}
    for name in ("steered", "control"):
        shown[name] = _judged(*made[name], plain) if name in made else None
    if control:
        shown["control"]["of"] = [one.direction.name for one in controls]
    return {
        "prompt": prompt if isinstance(prompt, str) else [dict(message) for message in prompt],
        "model": subject.name,
        "interventions": [told(one) for one in interventions],
        "tokens": tokens, "samples": samples, "temperature": temperature, "seed": seed,
        **shown, "statement": STATEMENT,
    }  # fmt: skip


def told(intervention: Intervention) -> dict[str, Any]:
    """An intervention as plain values."""
    strength = None if intervention.action == "ablate" else intervention.strength
    return {
        "action": intervention.action, "of": intervention.direction.name, "layer": intervention.layer,
        "strength": strength, "positions": intervention.positions,
        "mean_norm": round(intervention.direction.norm, DIGITS),
    }  # fmt: skip


def _side(made: Generated, measured: Fluency) -> dict[str, Any]:
    figures = {"perplexity": measured.perplexity, "distinct": measured.distinct, "tie": measured.tie}
    return {"texts": list(made.texts)} | {name: _plain(value) for name, value in figures.items()}


def _judged(made: Generated, measured: Fluency, plain: Fluency) -> dict[str, Any]:
    ratio = measured.perplexity / plain.perplexity
    return _side(made, measured) | {"ratio": _plain(ratio), "regime": regime(measured, plain)}


def _plain(value: float) -> float | None:
    return round(value, DIGITS) if math.isfinite(value) else None
