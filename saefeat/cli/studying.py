"""What `study ladders` and `study scenarios` share: the sentence embeddings beside the atlas, and the report."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saefeat import __version__
from saefeat.cli.common import Settings
from saefeat.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from saefeat.atlas import Atlas
    from saefeat.causal import Scorer

logger = logging.getLogger(__name__)
IDS = ("even", "odd", "all")
stories_option = click.option("--stories", help="The stories the atlas was made with (default: those that ship).")


def embedding_scorer(atlas: Atlas, stories: str | None = None) -> Scorer | None:
    """Texts to scores of the atlas's emotions by sentence embeddings, fitted as the atlas's readout of turns is and on
    the same corpora; None, with a log line that says why, where there are none.

    stories: the directory of those that the atlas was made with (None: those of their name that ship).
    """
    from saefeat.corpus import load_corpus
    from saefeat.evaluate import has_sentence_embeddings, sentence_embeddings
    from saefeat.label import Corpus, corpora_of, dialogues_of, emotions_and_topics, fit_prototypes, scores, texts_of
    from saefeat.trace import turn_readout

    if not has_sentence_embeddings():
        logger.warning("sentence embeddings are left out: sentence-transformers is not installed")
        return None
    try:
        told = atlas.manifest["provenance"]["label"]
        corpus = load_corpus(stories or told["config"]["stories"])
        if corpus.fingerprint != told["corpus"]["fingerprint"]:
            raise InputError("these are not the stories the atlas was made with", do="pass theirs with --stories DIR")
        config = atlas.readout_config(turn_readout(atlas))
        corpora: list[Corpus] = [*corpora_of(config, corpus), *dialogues_of(config, corpus)]
    except (InputError, KeyError) as error:
        if stories is not None:
            raise
        logger.warning("sentence embeddings are left out: %s", error)
        return None
    emotion_N, topic_N = emotions_and_topics(corpora)
    texts = [text for own in corpora for text in texts_of(own)]
    device = str(atlas.subject().device)
    X_ND = sentence_embeddings(texts, device)
    prototypes = fit_prototypes(X_ND, emotion_N, topic_N, ridge=None, n_emotions=len(atlas.emotion_names))

    def scorer(texts: list[str]) -> np.ndarray:
        return scores(sentence_embeddings(texts, device), prototypes)

    return scorer  # type: ignore[return-value]


def report_of(
    title: str, atlas: Atlas, settings: Settings, sections: list[dict[str, Any]], began: float, command: str
) -> dict[str, Any]:
    """Results as `saefeat.evaluate` writes and shows them."""
    from saefeat.evaluate import machine

    subject = {key: atlas.manifest["subject"][key] for key in ("architecture", "tokenizer", "weights")}
    return {
        "format": "study",
        "format_version": 1,
        "title": title,
        "atlas": atlas.name,
        "subject": subject | {"name": Path(atlas.subject_name).name, "dtype": str(atlas.subject().dtype)},
        "saefeat": __version__,
        "seed": settings.seed or 0,
        "seconds": round(time.time() - began, 1),
        "machine": machine(str(atlas.subject().device)),
        "command": command,
        "sections": sections,
    }


def deliver(results: dict[str, Any], figures: Mapping[str, Figure], out: Path | None, *, as_json: bool) -> None:
    """Write the report if there is a folder for it, and print it."""
    from saefeat.cli.common import emit
    from saefeat.evaluate import as_text, write_report

    if out is not None:
        write_report(results, figures, out)
    emit(results, lambda: as_text(results), as_json=as_json)
