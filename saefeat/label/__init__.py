"""Stories to labels: pooled features, prototypes of emotions, what each feature tells, families of emotions."""

from saefeat.label.auroc import label_features, within_topic_auroc
from saefeat.label.families import families
from saefeat.label.label import label, read_manifest, read_pools, read_prototypes, top_k
from saefeat.label.pools import Encoder, Pools, Progress, pool_texts, pool_tokens
from saefeat.label.prototypes import (
    RIDGES,
    Prototypes,
    calibration,
    centre_by_topic,
    choose_ridge,
    class_means,
    distinctness,
    dual_prototypes,
    fit_prototypes,
    gram,
    heldout_scores,
    places,
    raw_scores,
    scores,
)

__all__ = [
    "RIDGES",
    "Encoder",
    "Pools",
    "Progress",
    "Prototypes",
    "calibration",
    "centre_by_topic",
    "choose_ridge",
    "class_means",
    "distinctness",
    "dual_prototypes",
    "families",
    "fit_prototypes",
    "gram",
    "heldout_scores",
    "label",
    "label_features",
    "places",
    "pool_texts",
    "pool_tokens",
    "raw_scores",
    "read_manifest",
    "read_pools",
    "read_prototypes",
    "scores",
    "top_k",
    "within_topic_auroc",
]
