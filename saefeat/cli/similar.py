"""`saefeat similar`: the stories nearest to a text."""

from __future__ import annotations

from typing import Any

import click

from saefeat.cli.common import Settings, emit, json_option, read_argument, table
from saefeat.cli.querying import Count, none_if_all, open_atlas, shortened

EPILOG = """\b
Examples:
  saefeat similar "Nobody came to the party, and the candles burned down."
  saefeat similar "..." --top 3 --json
"""


@click.command(epilog=EPILOG)
@click.argument("text", required=False)
@click.option("--top", type=Count(), default=5, show_default=True, help="How many stories, or all.")
@click.option(
    "--readout", default="auto", show_default=True, help="story, felt, turn, or auto: by the length of the text."
)
@json_option
@click.pass_obj
def command(settings: Settings, text: str | None, top: int | str, readout: str, as_json: bool) -> None:
    """The stories whose emotion profile is nearest to that of a text, by cosine."""
    atlas = open_atlas(settings)
    query = read_argument(text)
    result = atlas.similar(query, top=none_if_all(top) or atlas.n_stories, readout=readout)

    def row(story: dict[str, Any]) -> list[str]:
        return [f"{story['similarity']:.3f}", story["emotion"], story["topic"], shortened(story["text"], 80)]

    head = ["similarity", "emotion", "topic", "story"]
    emit(result, lambda: table(head, [row(story) for story in result["stories"]]), as_json=as_json)
