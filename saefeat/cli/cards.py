"""`saefeat cards`: feature and emotion cards as files."""

from __future__ import annotations

from pathlib import Path

import click

from saefeat.cli.common import Settings, emit, existing_file, json_option
from saefeat.cli.progress import stages

EPILOG = """\b
Examples:
  saefeat cards export --emotion desperate --out cards/
  saefeat cards export --emotion desperate --emotion at-ease --format md --out cards/
  saefeat cards export --features L18.120,L18.7 --format json --out cards/
  saefeat cards export --all --out cards/
  saefeat cards export --emotion desperate --causal results/dose-response/causal.json --out cards/
"""


@click.group(epilog=EPILOG)
def command() -> None:
    """Cards: what is known about a feature or an emotion, with the evidence, in one file each."""


@command.command(epilog=EPILOG)
@click.option("--emotion", "emotions", multiple=True, metavar="E", help="An emotion and its best features; repeatable.")
@click.option("--features", metavar="L18.1,…", help="Features by name, separated by commas.")
@click.option("--all", "everything", is_flag=True, help="Every emotion and every labelled feature.")
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Features of an emotion.")
@click.option("--format", type=click.Choice(["html", "md", "json"]), default="html", show_default=True)
@click.option("--causal", type=click.Path(path_type=Path), help="The causal.json of `study dose-response`.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write to.")
@json_option
@click.pass_obj
def export(
    settings: Settings, emotions: tuple[str, ...], features: str | None, everything: bool, top: int, format: str,
    causal: Path | None, out: Path, as_json: bool,
) -> None:  # fmt: skip
    """Write cards and an index.html that links them.

    HTML cards are single files without scripts that load nothing: they can be mailed or archived as they are.
    """
    from saefeat.cards import check_choice, export_cards

    names = [name.strip() for name in (features or "").split(",") if name.strip()]
    check_choice(emotions=emotions, features=names, everything=everything)  # before an atlas and a model are loaded
    from saefeat.atlas import Atlas

    if causal is not None:
        existing_file(causal)
    atlas = Atlas.open(
        settings.atlas, device=settings.device, dtype=settings.dtype, allow_other_weights=settings.allow_other_weights
    )
    with stages(settings) as report:
        files = export_cards(
            atlas, emotions=emotions, features=names, everything=everything, format=format, out=out, top=top,
            causal=causal, on_progress=report("cards"),
        )  # fmt: skip
    index = out / "index.html"
    value = {"out": str(out), "index": str(index), "cards": {name: str(path) for name, path in files.items()}}
    emit(value, lambda: f"{len(files)} cards in {out}, listed in {index}", as_json=as_json)
