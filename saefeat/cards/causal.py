"""Causal evidence on cards: what a dose–response study found when an emotion or a feature was turned.

It comes from the study's causal.json, which names the atlas and the model it was made with; cards of another are not
given it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saefeat.atlas import Atlas
from saefeat.cards.style import plain
from saefeat.errors import FormatError, InputError
from saefeat.files import read_json

FORMAT, VERSION = "causal", 1
KEYS = ("emotion", "effect", "responses", "words_up", "words_down")
SHARED = ("texts", "prompts", "tokens", "layer")


def read_causal(path: Path | str, atlas: Atlas) -> dict[str, Any]:
    """A causal.json of this atlas. Raises FormatError: no such file, incomplete; InputError: of another atlas."""
    told = read_json(path, kind=FORMAT, version=VERSION)
    missing = [key for key in ("atlas", "model", "emotions", "features", *SHARED) if key not in told]
    if missing or not all(isinstance(told[key], dict) for key in ("model", "emotions", "features")):
        raise FormatError(f"is incomplete ({', '.join(missing) or 'model, emotions, features'})", where=path)
    for kind in ("emotions", "features"):
        for name, own in told[kind].items():
            if not isinstance(own, dict) or not {*KEYS} <= own.keys():
                raise FormatError(f"tells too little of {name!r} (of {', '.join(KEYS)})", where=path)
    same = all(told["model"].get(key) == atlas.manifest["subject"][key] for key in ("architecture", "weights"))
    if told["atlas"] != atlas.name or not same:
        what = f"is of the atlas {told['atlas']!r}" if told["atlas"] != atlas.name else "is of a model of other weights"
        raise InputError(what, where=path, do=f"run `saefeat study dose-response` with the atlas {atlas.name}")
    return told


def with_causal(card: Mapping[str, Any], evidence: Mapping[str, Any]) -> dict[str, Any]:
    """A card with what the study found of it under "causal"; as it is if the study did not turn it."""
    own = evidence[f"{card['kind']}s"].get(card["name"])
    if own is None:
        return dict(card)
    shown = {key: value for key, value in own.items() if card["kind"] == "emotion" or not key.startswith("words_")}
    return {**card, "causal": plain({**{key: evidence[key] for key in SHARED}, **shown})}
