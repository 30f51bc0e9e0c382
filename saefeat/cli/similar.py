"""`saefeat similar`: the stories, or indexed texts, nearest to a text, a profile, or a set of features."""

from __future__ import annotations

from typing import Any

import click

from saefeat.cli.common import Settings, emit, json_option, read_argument, table
from saefeat.cli.querying import Count, none_if_all, open_atlas, shortened
from saefeat.errors import InputError

EPILOG = """\b
Examples:
  saefeat similar "Nobody came to the party, and the candles burned down."
  saefeat similar "..." --top 3 --where topic=t03 --json
  saefeat similar --features L19.12=0.5,L19.1034=0.2
  saefeat index add diary.jsonl --to diary/
  saefeat similar "..." --in diary/ --where year=2024 --emotion 'joyful>2'
  saefeat similar --profile profile.json --in diary/
"""


@click.command(epilog=EPILOG)
@click.argument("text", required=False)
@click.option("--profile", metavar="FILE", help='A profile instead of a text: {"joyful": 2.1, …}; the rest is 0.')
@click.option("--features", metavar="L19.12=0.5,…", help="Pooled features instead of a text.")
@click.option("--in", "within", metavar="DIR", help="Search the texts of `saefeat index add` instead of the stories.")
@click.option("--where", multiple=True, metavar="KEY=VALUE", help="Only rows with this field (all that are given).")
@click.option("--emotion", "emotions", multiple=True, metavar="'joyful>2'", help="Only texts with such a score.")
@click.option("--top", type=Count(), default=5, show_default=True, help="How many, or all.")
@click.option(
    "--readout", default="auto", show_default=True, help="story, felt, turn, or auto: by the length of the text."
)
@json_option
@click.pass_obj
def command(
    settings: Settings,
    text: str | None,
    profile: str | None,
    features: str | None,
    within: str | None,
    where: tuple[str, ...],
    emotions: tuple[str, ...],
    top: int | str,
    readout: str,
    as_json: bool,
) -> None:
    """The stories, or the texts of an index, whose emotion profile is nearest to that of a text, by cosine.

    A profile or a set of features can stand in for the text. --where: a field equals a value; of stories: emotion,
    family, topic. --emotion: a score above or below a level. With conditions, and up to 100,000 texts, every text is
    compared; beyond that nearly all of the nearest are found (`saefeat index info` says how many).
    """
    from saefeat.atlas import parse_features, read_profile

    if sum(given is not None for given in (text, profile, features)) > 1:
        raise InputError("more than one of a text, --profile and --features was given", do="pass one of them")
    asked: dict[str, Any] = {}
    if profile is not None:
        asked["profile"] = read_profile(profile)
    elif features is not None:
        asked["features"] = parse_features(features)
    else:
        asked["text"] = read_argument(text)
    atlas = open_atlas(settings)
    result = atlas.similar(
        **asked, within=within, where=where, emotions=emotions, top=none_if_all(top), readout=readout
    )
    emit(result, lambda: stories(result) if within is None else texts(result), as_json=as_json)


def stories(result: dict[str, Any]) -> str:
    """Stories for a person."""
    head = ["similarity", "emotion", "topic", "story"]
    rows = [
        [f"{story['similarity']:.3f}", story["emotion"], story["topic"], shortened(story["text"], 80)]
        for story in result["stories"]
    ]
    return table(head, rows)


def texts(result: dict[str, Any]) -> str:
    """Indexed texts for a person."""
    rows = [
        [
            f"{row['similarity']:.3f}",
            row["id"],
            ", ".join(f"{e['emotion']} {e['score']:.1f}" for e in row["emotions"][:2]),
            shortened(row["text"], 60),
        ]
        for row in result["texts"]
    ]
    return table(["similarity", "id", "emotions", "text"], rows)
