"""`saefeat feature`: one feature."""

from __future__ import annotations

from typing import Any

import click

from saefeat.cli.common import Settings, emit, json_option
from saefeat.cli.querying import evidence, figure, open_atlas

EPILOG = """\b
Examples:
  saefeat feature L19.1234
  saefeat feature 1234 --json
"""


@click.command(epilog=EPILOG)
@click.argument("name")
@json_option
@click.pass_obj
def command(settings: Settings, name: str, as_json: bool) -> None:
    """One feature: the emotions it tells, the words its direction promotes, the snippets it fires on most.

    A bare number means the atlas's first SAE. In a snippet the strongest tokens stand in **stars**.
    """
    result = open_atlas(settings).feature(name)
    emit(result, lambda: shown(result), as_json=as_json)


def shown(result: dict[str, Any]) -> str:
    """A feature for a person."""
    lines = [f"{result['feature']}  layer {result['layer']}, active on {_share(result['density'])} of tokens", ""]
    lines += [str(label["says"]) for label in result["labels"][:1] if label.get("says")]
    lines += [evidence(result["labels"], ["emotion", "readout"]) if result["labels"] else "No emotion is linked to it."]
    for title, key in (("promotes", "up"), ("suppresses", "down")):
        words = "  ".join(repr(word["token"])[1:-1].strip() or repr(word["token"]) for word in result["words"][key])
        lines += ["", f"{title}: {words}"]
    for example in result["examples"]:
        peak = max(example["activations"])
        pairs = zip(example["tokens"], example["activations"], strict=True)
        marked = "".join(_starred(token) if value > peak / 2 else token for token, value in pairs)
        marked = marked.replace("****", "").replace("** **", " ")  # neighbours share their stars
        lines += ["", f"{figure(peak)}  {example['emotion']}, {example['topic']}: {' '.join(marked.split())}"]
    return "\n".join(lines)


def _starred(token: str) -> str:
    word = token.strip()
    return token.replace(word, f"**{word}**") if word else token


def _share(density: float | None) -> str:
    return "an unknown share" if density is None else f"{density:.2%}"
