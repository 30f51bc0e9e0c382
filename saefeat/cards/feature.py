"""The card of a feature: what is known about it, as one JSON object that every format is rendered from.

{"format": "card", "format_version": 1, "kind": "feature", "name": "L18.7", "sae", "feature",
 "about": its kind,
 "labels": [{"emotion", "readout", "auroc", "heldout_auroc", "folds", "mean_difference", …}],
 "density", "max_activation", "threshold", "decoder_norm", "histogram": {"edges", "counts"} | None,
 "snippets": [{"tokens", "values", "emotion", "topic"}], "words_up", "words_down": [{"token", "logit"}],
 "nearest": [{"feature", "cosine", "emotion"}], "provenance": {…}, "evidence": sentence, "claim": sentence}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saefeat.atlas import Atlas
from saefeat.cards.style import CLAIM, evidence_sentence, plain

FORMAT, VERSION = "card", 1
WORDS, NEAREST = 10, 8
BLOCK = 256
"""Features compared with the whole dictionary at once."""


def feature_card(atlas: Atlas, name: str) -> dict[str, Any]:
    """The card of one feature ('L18.7', or '7' of the primary SAE). Raises UnknownName, InputError, MissingModel."""
    return next(feature_cards(atlas, [name]))


def feature_cards(atlas: Atlas, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The cards of features, in order; what the SAEs' directions are compared for is done once for all of them."""
    parsed = [atlas.parse_feature(name) for name in names]
    near: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for sae_name in dict.fromkeys(sae_name for sae_name, _ in parsed):
        own = [feature for other, feature in parsed if other == sae_name]
        found = nearest_directions(atlas.sae(sae_name).W_dec_FD, own, top=NEAREST)
        near |= {(sae_name, feature): rows for feature, rows in zip(own, found, strict=True)}
    best = best_emotions(atlas)
    for sae_name, feature in parsed:
        sae = atlas.sae(sae_name)
        known = atlas.feature(f"{sae_name}.{feature}", words=WORDS)
        labels = in_order(atlas, known["labels"])
        snippets = [as_snippet(example) for example in known["examples"]]
        card = {
            "format": FORMAT,
            "format_version": VERSION,
            "kind": "feature",
            "name": f"{sae_name}.{feature}",
            "sae": sae_name,
            "feature": feature,
            "about": labels[0].get("kind") if labels else None,
            "labels": labels,
            "density": known["density"],
            "max_activation": max((max(snippet["values"]) for snippet in snippets), default=None),
            "threshold": None if sae.threshold_F is None else sae.threshold_F[feature],
            "decoder_norm": sae.W_dec_FD[feature].float().norm(),
            "histogram": known["histogram"],
            "snippets": snippets,
            "words_up": known["words"]["up"],
            "words_down": known["words"]["down"],
            "nearest": [
                {"feature": f"{sae_name}.{other}", "cosine": round(cosine, 4), "emotion": best.get((sae_name, other))}
                for other, cosine in near[sae_name, feature]
            ],
            "provenance": provenance(atlas, sae_name),
            "evidence": evidence_sentence(labels, len(atlas.emotion_names)),
            "claim": CLAIM,
        }
        yield plain(card)


def nearest_directions(W_dec_FD: Tensor, features: Sequence[int], top: int = NEAREST) -> list[list[tuple[int, float]]]:
    """For every one of `features`, the `top` other rows of W_dec_FD with the largest cosine: [(feature, cosine)].

    A row of length zero is near to nothing.
    """
    W_FD = W_dec_FD.float()
    norm_F1 = W_FD.norm(dim=1, keepdim=True)
    unit_FD = W_FD / norm_F1.clamp_min(1e-12)
    found: list[list[tuple[int, float]]] = []
    for start in range(0, len(features), BLOCK):
        own_N = torch.as_tensor(features[start : start + BLOCK], dtype=torch.long, device=W_FD.device)
        cosine_NF = unit_FD[own_N] @ unit_FD.T
        cosine_NF[:, (norm_F1 == 0).squeeze(1)] = -torch.inf
        cosine_NF[torch.arange(len(own_N)), own_N] = -torch.inf
        best = torch.topk(cosine_NF, min(top, len(W_FD) - 1), dim=1)
        for others, cosines in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            found.append([(f, min(1.0, c)) for f, c in zip(others, cosines, strict=True) if c > -torch.inf])
    return found


# ---------------------------------------------------------------- pieces that emotion cards use too
def in_order(atlas: Atlas, labels: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A feature's labels: by readout in the atlas's order, then the emotion that it tells best first."""
    readouts = list(atlas.readouts)
    return sorted(labels, key=lambda row: (readouts.index(row["readout"]), row["rank_for_feature"]))


def best_emotions(atlas: Atlas) -> dict[tuple[str, int], str]:
    """(SAE, feature) → the emotion that the feature tells best, of labelled features."""
    columns = atlas.labels
    readouts = {name: place for place, name in enumerate(atlas.readouts)}
    place_N = np.array([readouts[name] for name in columns["readout"]], dtype=np.int64)
    order = np.lexsort((columns["rank_for_feature"], place_N))
    best: dict[tuple[str, int], str] = {}
    for row in order:
        best.setdefault((str(columns["sae"][row]), int(columns["feature"][row])), str(columns["emotion"][row]))
    return best


def as_snippet(example: dict[str, Any]) -> dict[str, Any]:
    """An example of the atlas as a card's snippet."""
    values = [float(value) for value in example["activations"]]
    return {"tokens": example["tokens"], "values": values, "emotion": example["emotion"], "topic": example["topic"]}


def provenance(atlas: Atlas, sae: str | None = None) -> dict[str, Any]:
    """Where a card's figures come from: model, hook point, SAE, atlas, fingerprints, version; no local paths."""
    entry = atlas.sae_entries[sae or atlas.primary]
    told = atlas.manifest
    subject = told["subject"]
    facts = {
        "model": Path(atlas.subject_name).name if Path(atlas.subject_name).is_absolute() else atlas.subject_name,
        "hook_point": entry["hook_point"],
        "sae": f"{entry['name']}, {entry['architecture']}, {entry['features']:,} features",
        "sae_weights": f"sha256 {entry['sha256'][:16]}",
        "atlas": atlas.name,
        "made": str(told.get("created", ""))[:10] or None,
        "stories": f"{atlas.n_stories:,} on {len(atlas.topics)} topics",
        "fingerprints": {key: subject[key] for key in ("architecture", "tokenizer", "weights")},
        "version": f"saefeat {told.get('saefeat')}",
    }
    return facts | (
        {"other_weights": "read with other weights than the atlas was made with"} if atlas.other_weights else {}
    )
