"""`saefeat emotions`: the map of emotions, or one of them."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import click

from saefeat.cli.common import Settings, emit, json_option
from saefeat.cli.querying import evidence, open_atlas

EPILOG = """\b
Examples:
  saefeat emotions
  saefeat emotions at-ease
  saefeat emotions desperate --json
"""


@click.command(epilog=EPILOG)
@click.argument("name", required=False)
@json_option
@click.pass_obj
def command(settings: Settings, name: str | None, as_json: bool) -> None:
    """The emotions of the atlas by family, or one of them: its family, its neighbours, the features that tell it."""
    atlas = open_atlas(settings)
    if name is None:
        rows: Any = atlas.emotions()
        emit({"emotions": rows}, lambda: by_family(rows), as_json=as_json)
        return
    one: Any = atlas.emotions(name)
    emit(one, lambda: shown(one), as_json=as_json)


def by_family(rows: list[dict[str, Any]]) -> str:
    """A family a line, its name first."""
    lines = []
    for family, members in groupby(rows, key=lambda row: row["family"]):
        others = [row["emotion"] for row in members if row["emotion"] != family]
        lines.append(f"{family}: {', '.join(others)}" if others else str(family))
    return "\n".join(lines)


def shown(one: dict[str, Any]) -> str:
    """An emotion for a person."""
    near = ", ".join(f"{row['emotion']} {row['similarity']:.2f}" for row in one["nearest"])
    lines = [one["emotion"], f"family {one['family']}: {', '.join(one['members'])}", f"nearest: {near}", ""]
    return "\n".join([*lines, evidence(one["features"], ["feature"])])
