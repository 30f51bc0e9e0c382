"""The evaluation battery: how good the labels are, beside nulls and baselines."""

from saefeat.evaluate.battery import Bench, open_bench
from saefeat.evaluate.controls import has_sentence_embeddings, sentence_embeddings
from saefeat.evaluate.detectors import DetectorResult, DetectorRow, ceiling, detectors
from saefeat.evaluate.labelled import Labelled, class_scorer, macro_f1, read_labelled
from saefeat.evaluate.report import as_html, as_markdown, as_text, write_report
from saefeat.evaluate.retrieval import shuffled_within_topics
from saefeat.evaluate.run import Given, evaluate, machine
from saefeat.evaluate.sparse import SparseDetectors, fit_detectors

__all__ = [
    "Bench",
    "DetectorResult",
    "DetectorRow",
    "Given",
    "Labelled",
    "SparseDetectors",
    "as_html",
    "as_markdown",
    "as_text",
    "ceiling",
    "class_scorer",
    "detectors",
    "evaluate",
    "fit_detectors",
    "has_sentence_embeddings",
    "machine",
    "macro_f1",
    "open_bench",
    "read_labelled",
    "sentence_embeddings",
    "shuffled_within_topics",
    "write_report",
]
