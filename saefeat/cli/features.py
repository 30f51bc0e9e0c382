"""`saefeat features`: the features that tell an emotion, with evidence."""

from __future__ import annotations

import click

from saefeat.cli.common import Settings, emit, json_option
from saefeat.cli.querying import Count, evidence, none_if_all, open_atlas

KINDS = ("emotion", "family", "dimension", "lexical", "topic", "none")
EPILOG = """\b
Examples:
  saefeat features --emotion desperate
  saefeat features --emotion desperate --kind emotion
  saefeat features --emotion at-ease --readout felt --top 3 --json
"""


@click.command(epilog=EPILOG)
@click.option("--emotion", required=True, help="Such as desperate or at-ease.")
@click.option("--kind", type=click.Choice(KINDS), help="Only features of this kind.")
@click.option("--readout", help="Of which readout (default: the atlas's first).")
@click.option("--top", type=Count(), default=10, show_default=True, help="How many, or all that are labelled with it.")
@json_option
@click.pass_obj
def command(
    settings: Settings, emotion: str, kind: str | None, readout: str | None, top: int | str, as_json: bool
) -> None:
    """The features that tell an emotion's stories from the others best, with evidence.

    AUROC is within topics, over all of them, of the reading along the feature's direction; 'held out' is that on
    topics the feature was not chosen on; q is the false discovery rate over all features and emotions. The kind says
    what the feature is about: one emotion, a family, a dimension, the word itself, a topic, or none of these.
    """
    rows = open_atlas(settings).features(emotion, top=none_if_all(top), readout=readout, kind=kind)
    emit({"features": rows}, lambda: evidence(rows, ["feature", "emotion"]), as_json=as_json)
