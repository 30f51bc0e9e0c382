"""`saefeat nearest`: which emotions a text calls up in the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from saefeat.cli.common import Settings, json_option, table
from saefeat.cli.querying import Count, bar, json_line, lines_to, none_if_all, open_atlas, shortened, texts

EPILOG = """\b
Examples:
  saefeat nearest "I counted the coins again and the rent is due on Friday."
  saefeat nearest "..." --top all --json
  echo "Nobody came to the party." | saefeat nearest --tokens
  saefeat nearest --input texts.jsonl --output emotions.jsonl --keep-going
"""


@click.command(epilog=EPILOG)
@click.argument("text", required=False)
@click.option("--input", "source", metavar="FILE", help="Texts: .txt (a line a text) or .jsonl; - is stdin.")
@click.option("--output", type=click.Path(path_type=Path), help="Write JSON lines to this file.")
@click.option("--keep-going", is_flag=True, help='A text that cannot be read gives {"id", "error"}.')
@click.option("--top", type=Count(), default=10, show_default=True, help="How many emotions, or all.")
@click.option(
    "--readout", default="auto", show_default=True, help="story, felt, turn, or auto: by the length of the text."
)
@click.option("--tokens", is_flag=True, help="What each token adds to the first emotion's score.")
@click.option(
    "--features", type=Count(0), default=10, show_default=True, help="How many contributing features, or all."
)
@json_option
@click.pass_obj
def command(
    settings: Settings,
    text: str | None,
    source: str | None,
    output: Path | None,
    keep_going: bool,
    top: int | str,
    readout: str,
    tokens: bool,
    features: int | str,
    as_json: bool,
) -> None:
    """The emotions nearest to a text, with the features that speak for the first of them.

    Scores are standardised: over stories of other emotions an emotion's score has mean 0 and standard deviation 1.
    A score is its bias plus the contributions of the text's features, and is computed from this one text alone.
    A score describes a pattern in the model's activations; no claim is made that a model feels anything.
    """
    atlas = open_atlas(settings)
    queries = texts(text, source, keep_going=keep_going)
    results = atlas.nearest(
        queries,
        top=none_if_all(top),
        readout=readout,
        tokens=tokens,
        features=none_if_all(features),
        keep_going=keep_going,
    )
    with lines_to(output) as file:
        for number, result in enumerate(results):
            if file is not None:
                file.write(json_line(result) + "\n")
            elif as_json:
                click.echo(json_line(result))
            else:
                click.echo(("\n" if number else "") + shown(result, named=source is not None))


def shown(result: dict[str, Any], *, named: bool) -> str:
    """A result for a person."""
    lines = [f"{result['id']}:"] if named else []
    if "error" in result:
        return "\n".join([*lines, f"error: {result['error']}"])
    emotions = result["emotions"]
    largest = max(emotions[0]["score"], 1.0)
    rows = [[f"{e['score']:.2f}", bar(e["score"], largest), e["emotion"], e["family"]] for e in emotions]
    windows = f", {result['windows']} windows" if result["windows"] > 1 else ""
    doubt = "" if result["stands_out"] is not False else ": no emotion stands out more than in texts without any"
    lines += [f"readout {result['readout']}{windows}{doubt}", table(["score", "", "emotion", "family"], rows)]
    if result["features"]:
        rows = [[f["feature"], f"{f['activation']:.3f}", f"{f['contribution']:+.3f}"] for f in result["features"]]
        rows += [["others", "", f"{result['rest']:+.3f}"], ["bias", "", f"{result['bias']:+.3f}"]]
        lines += ["", table([f"for {emotions[0]['emotion']!r}", "activation", "contribution"], rows)]
    if "tokens" in result:
        used = [t for t in result["tokens"] if t["used"]]
        strongest = max((abs(t["score"]) for t in used), default=0.0)
        rows = [[f"{t['score']:+.3f}", bar(t["score"], strongest), shortened(repr(t["token"])[1:-1])] for t in used]
        lines += ["", table([f"for {emotions[0]['emotion']!r}", "", "token"], rows)]
    if result.get("other_weights"):
        lines += ["", "The model's weights are not those the atlas was made with."]
    return "\n".join(lines)
