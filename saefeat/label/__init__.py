"""Stories to labels: pooled features, prototypes of emotions, what each feature tells, families of emotions."""

from saefeat.label.aligned import aligned
from saefeat.label.auroc import label_features, within_topic_auroc
from saefeat.label.described import top_k
from saefeat.label.exact import p_values
from saefeat.label.families import families
from saefeat.label.figures import circumplex_figure, similarity_figure
from saefeat.label.geometry import (
    Prediction,
    cosines,
    pair_ranks,
    predict_rating,
    unit_rows,
)
from saefeat.label.kinds import KINDS, Kinds, kinds, sentence
from saefeat.label.label import is_labelled, label, label_inputs, read_manifest, read_prototypes
from saefeat.label.lexical import (
    CARRIERS,
    Lexical,
    family_tokens,
    lexical,
    promoted_tokens,
    vocabulary,
    word_activations,
)
from saefeat.label.nested import NestedBest, SplitBest, nested_best, split_best
from saefeat.label.pools import Encoder, Pools, Progress, pool_texts, pool_tokens
from saefeat.label.prototypes import (
    NEUTRAL,
    RIDGES,
    Prototypes,
    calibration,
    centre_by_topic,
    class_means,
    dual_prototypes,
    fit_prototypes,
    gram,
    heldout_scores,
    places,
    raw_scores,
    scores,
    separated,
    with_share,
)
from saefeat.label.ranks import Crossing, crossing, mean_auroc, rank_table
from saefeat.label.spoken import pool_dialogues, spoken_by
from saefeat.label.statistics import MaxT, max_t, q_values, topic_bootstrap
from saefeat.label.store import (
    Corpus,
    corpora_of,
    default_readouts,
    dialogues_of,
    emotions_and_topics,
    is_read,
    pooled,
    texts_of,
)
from saefeat.label.variance import VarianceSplit, variance_split

__all__ = [
    "CARRIERS",
    "KINDS",
    "NEUTRAL",
    "RIDGES",
    "Corpus",
    "Crossing",
    "Encoder",
    "Kinds",
    "Lexical",
    "MaxT",
    "NestedBest",
    "Pools",
    "Prediction",
    "Progress",
    "Prototypes",
    "SplitBest",
    "VarianceSplit",
    "aligned",
    "calibration",
    "centre_by_topic",
    "circumplex_figure",
    "class_means",
    "corpora_of",
    "cosines",
    "crossing",
    "default_readouts",
    "dialogues_of",
    "dual_prototypes",
    "emotions_and_topics",
    "families",
    "family_tokens",
    "fit_prototypes",
    "gram",
    "heldout_scores",
    "is_labelled",
    "is_read",
    "kinds",
    "label",
    "label_features",
    "label_inputs",
    "lexical",
    "max_t",
    "mean_auroc",
    "nested_best",
    "p_values",
    "pair_ranks",
    "places",
    "pool_dialogues",
    "pool_texts",
    "pool_tokens",
    "pooled",
    "predict_rating",
    "promoted_tokens",
    "q_values",
    "rank_table",
    "raw_scores",
    "read_manifest",
    "read_prototypes",
    "scores",
    "sentence",
    "separated",
    "similarity_figure",
    "split_best",
    "spoken_by",
    "texts_of",
    "top_k",
    "topic_bootstrap",
    "unit_rows",
    "variance_split",
    "vocabulary",
    "with_share",
    "within_topic_auroc",
    "word_activations",
]
