"""The card of an emotion: the features that carry it, where they fire, what lies near.

{"format": "card", "format_version": 1, "kind": "emotion", "name": "at ease", "family", "family_members",
 "features": [{"feature", "readout", "auroc", "heldout_auroc", …}], "nearest": [{"emotion", "cosine", "family"}],
 "snippets": [{"feature", "tokens", "values", "emotion", "topic"}], "provenance", "evidence", "claim"}
"""

from __future__ import annotations

from typing import Any

from saefeat.atlas import Atlas
from saefeat.cards.feature import FORMAT, VERSION, as_snippet, provenance
from saefeat.cards.style import CLAIM, evidence_sentence, plain

SNIPPETS = 6
"""Features of which the strongest snippet is shown."""


def emotion_card(atlas: Atlas, name: str, *, top: int = 10) -> dict[str, Any]:
    """The card of one emotion, with the `top` features that tell it best. Raises UnknownName, MissingModel."""
    known = atlas.emotions(name)
    assert isinstance(known, dict)
    emotion = known["emotion"]
    features = atlas.features(emotion, top=top)
    snippets = []
    for row in features[:SNIPPETS]:
        examples = atlas.feature(row["feature"], words=1)["examples"]
        own = [example for example in examples if example["emotion"] == emotion]
        snippets += [{"feature": row["feature"], **as_snippet(example)} for example in (own or examples)[:1]]
    card = {
        "format": FORMAT,
        "format_version": VERSION,
        "kind": "emotion",
        "name": emotion,
        "family": known["family"],
        "family_members": [member for member in known["members"] if member != emotion],
        "features": features,
        "nearest": [
            {"emotion": near["emotion"], "cosine": near["similarity"], "family": atlas.families.get(near["emotion"])}
            for near in known["nearest"]
        ],
        "nearest_note": f"By the direction of their prototypes in the readout {next(iter(atlas.readouts))!r}.",
        "snippets": snippets,
        "provenance": provenance(atlas),
        "evidence": _evidence(features, len(atlas.emotion_names)),
        "claim": CLAIM,
    }
    return plain(card)


def _evidence(features: list[dict[str, Any]], n_emotions: int) -> str:
    if not features:
        return "No feature of this atlas is labelled with this emotion."
    sentence = evidence_sentence(features[:1], n_emotions)
    return f"{len(features)} features that tell it best are listed. The first is {features[0]['feature']}. {sentence}"
